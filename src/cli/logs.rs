//! `podkeeper logs`: the logs of a container, from the files that the runtime writes.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::agent::{self, Agent, choose, containers, full_name, status};
use super::single_threaded;
use crate::host::untrusted::Location;
use crate::logs::{Cursor, LogOptions, instance};
use crate::manifest::PodKey;
use crate::server::{Lines, PodDetail, PodDetails, PodName};
use crate::units::duration::parse_duration;
use crate::units::time::earlier;

/// Interval at which a followed log is checked for more.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// Name of the container, if there are several
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,

    /// Follow the log, also of the container's next instances
    #[arg(long, short)]
    follow: bool,

    /// Print the log of the previous instance of the container
    #[arg(long, short, conflicts_with = "follow")]
    previous: bool,

    /// Only print lines newer than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Number of last lines to print; -1 for all, as for kubectl
    #[arg(long, value_name = "LINES", value_parser = tail, allow_negative_numbers = true)]
    tail: Option<Tail>,
}

/// Number of last lines; `None` for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    if text == "-1" {
        return Ok(Tail(None));
    }
    let lines = text
        .parse()
        .map_err(|_| "expected a number of lines, or -1 for all")?;
    Ok(Tail(Some(lines)))
}

pub(super) fn logs(arguments: &LogsArgs) -> anyhow::Result<ExitCode> {
    match single_threaded()?.block_on(show(arguments)) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

/// Returns whether the reader has closed the pipe (`podkeeper logs web | head`), which is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

async fn show(arguments: &LogsArgs) -> anyhow::Result<()> {
    let (pod, _) = arguments.agent.pod(&arguments.pod).await?;
    let container = choose(&pod, arguments.container.as_deref())?;
    let folder = folder(&pod, &container);
    let now = jiff::Timestamp::now();
    let since = arguments.since.map(|age| earlier(now, age));
    let options = LogOptions {
        since,
        ..LogOptions::default()
    };
    let tail = arguments.tail.and_then(|tail| tail.0);
    let attempt = attempt(&pod, &container, arguments.previous)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let needed = Box::new(|| true);
    if !arguments.follow {
        let attempt = attempt.with_context(|| not_started(&pod, &container))?;
        let mut cursor = Cursor::new(folder, attempt, options, tail, needed)?;
        cursor.read_all(&mut out)?;
        return Ok(out.flush()?);
    }
    let attempt = attempt.unwrap_or_default();
    let cursor = Cursor::new(folder, attempt, options, tail, needed)?;
    let key = PodKey {
        namespace: pod.report.namespace.clone(),
        name: pod.report.name.clone(),
    };
    let mut changes = LogFollower {
        agent: &arguments.agent,
        name: PodName::of(&key),
        cursor,
        container,
        pod: Some(pod),
        changes: None,
    };
    changes.run(&mut out).await
}

/// Returns the directory of a container's logs, below that of all Pods.
fn folder(pod: &PodDetail, container: &str) -> Location {
    let all = pod.logs.parent().unwrap_or(Path::new("/"));
    let own = pod.logs.file_name().unwrap_or_default();
    Location::new(all, own).join(container)
}

/// Returns the instance of the container to read, if there is one.
fn attempt(pod: &PodDetail, container: &str, previous: bool) -> anyhow::Result<Option<u32>> {
    let found = instance(&folder(pod, container), status(pod, container), previous);
    if previous && found.is_none() {
        bail!(
            "container {container} of Pod {} has no previous instance, or its log was removed",
            full_name(pod)
        );
    }
    Ok(found)
}

fn not_started(pod: &PodDetail, container: &str) -> String {
    let message = format!(
        "container {container} of Pod {} has no log, it was not started",
        full_name(pod)
    );
    let state = status(pod, container).and_then(|s| s.state.as_ref());
    match state.and_then(|s| s.waiting.as_ref()) {
        Some(waiting) => format!(
            "{message}: {} {}",
            waiting.reason.as_deref().unwrap_or_default(),
            waiting.message.as_deref().unwrap_or_default()
        ),
        None => message,
    }
}

/// Follower of a container's log, over restarts and over updates of its Pod.
struct LogFollower<'a> {
    agent: &'a Agent,
    name: PodName,
    cursor: Cursor,
    container: String,
    /// The Pod as last reported; `None` once it is gone.
    pod: Option<PodDetail>,
    /// Changes of the Pod; `None` while no agent runs, which ends no container.
    changes: Option<Lines<PodDetails>>,
}

impl LogFollower<'_> {
    async fn run(&mut self, out: &mut BufWriter<StdoutLock<'_>>) -> anyhow::Result<()> {
        loop {
            let more = self.cursor.read_on(out)?;
            if !more && !self.is_running() {
                self.cursor.flush(out)?;
            }
            out.flush()?;
            if !more && self.is_over() {
                return Ok(());
            }
            if self.changes.is_none() {
                self.changes = self.agent.follow_pod(&self.name).await.ok();
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                change = next(&mut self.changes) => self.update(change?),
            }
        }
    }

    fn update(&mut self, change: Option<PodDetails>) {
        let Some(mut details) = change else {
            self.changes = None;
            return;
        };
        if details.waiting_for.is_some() {
            return;
        }
        self.pod = details.pods.pop();
        if let Some(pod) = &self.pod {
            self.cursor.go_on_in(folder(pod, &self.container));
        }
    }

    /// Returns whether an instance of the container is running, as last reported.
    fn is_running(&self) -> bool {
        let status = self
            .pod
            .as_ref()
            .and_then(|pod| status(pod, &self.container));
        let state = status.and_then(|status| status.state.as_ref());
        state.is_some_and(|state| state.running.is_some())
    }

    /// Returns whether the container has ended for good.
    fn is_over(&self) -> bool {
        let Some(pod) = &self.pod else {
            return true;
        };
        let Some(spec) = containers(pod).find(|c| c.name == self.container) else {
            return true;
        };
        let ended = ["Succeeded", "Failed"].contains(&pod.report.phase.as_str());
        let mains = agent::spec(pod).map_or(&[][..], |s| &s.containers);
        let is_main = mains.iter().any(|c| c.name == self.container);
        let is_init = !is_main && spec.restart_policy.as_deref() != Some("Always");
        let done = status(pod, &self.container).is_some_and(|s| s.ready);
        ended || is_init && done
    }
}

/// Waits for the next change; for ever while no agent runs.
async fn next(changes: &mut Option<Lines<PodDetails>>) -> anyhow::Result<Option<PodDetails>> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_so_many_or_all() {
        assert_eq!(tail("0"), Ok(Tail(Some(0))));
        assert_eq!(tail("20"), Ok(Tail(Some(20))));
        assert_eq!(tail("-1"), Ok(Tail(None)));
        assert!(tail("-2").is_err() && tail("all").is_err());
    }
}
