//! `podkeeper logs`: what a container said, from the files that the runtime writes.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::agent::{self, Agent, choose, containers, full_name, status};
use super::single_threaded;
use crate::host::untrusted::Location;
use crate::logs::{Cursor, Wanted, instance};
use crate::manifest::PodKey;
use crate::server::{Lines, PodDetail, PodDetails, PodName};
use crate::units::duration::parse_duration;
use crate::units::time::earlier;

/// How often to see whether there is more.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: Agent,

    /// The Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// The container, if there are several
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,

    /// Go on with what the container and the ones after it say
    #[arg(long, short)]
    follow: bool,

    /// What the container said that ran before
    #[arg(long, short, conflicts_with = "follow")]
    previous: bool,

    /// Only what is not older than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Only the last lines; -1 for all, as for kubectl
    #[arg(long, value_name = "LINES", value_parser = tail, allow_negative_numbers = true)]
    tail: Option<Tail>,
}

/// As many of the last lines, or all.
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

pub(super) fn logs(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match single_threaded()?.block_on(show(arguments)) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

/// Nobody reads on (`podkeeper logs web | head`), which is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

async fn show(arguments: &Arguments) -> anyhow::Result<()> {
    let (pod, _) = arguments.agent.pod(&arguments.pod).await?;
    let container = choose(&pod, arguments.container.as_deref())?;
    let folder = folder(&pod, &container);
    let now = jiff::Timestamp::now();
    let since = arguments.since.map(|age| earlier(now, age));
    let wanted = Wanted {
        since,
        ..Wanted::default()
    };
    let tail = arguments.tail.and_then(|tail| tail.0);
    let attempt = attempt(&pod, &container, arguments.previous)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let needed = Box::new(|| true);
    if !arguments.follow {
        let attempt = attempt.with_context(|| not_started(&pod, &container))?;
        let mut cursor = Cursor::new(folder, attempt, wanted, tail, needed)?;
        cursor.read_all(&mut out)?;
        return Ok(out.flush()?);
    }
    let attempt = attempt.unwrap_or_default();
    let cursor = Cursor::new(folder, attempt, wanted, tail, needed)?;
    let key = PodKey {
        namespace: pod.report.namespace.clone(),
        name: pod.report.name.clone(),
    };
    let mut follower = Follower {
        agent: &arguments.agent,
        name: PodName::of(&key),
        cursor,
        container,
        pod: Some(pod),
        changes: None,
    };
    follower.run(&mut out).await
}

/// The folder of a container's logs, below that of all Pods.
fn folder(pod: &PodDetail, container: &str) -> Location {
    let all = pod.logs.parent().unwrap_or(Path::new("/"));
    let own = pod.logs.file_name().unwrap_or_default();
    Location::new(all, own).join(container)
}

/// The instance of a container whose log is meant, if there is one.
fn attempt(pod: &PodDetail, container: &str, previous: bool) -> anyhow::Result<Option<u32>> {
    let found = instance(&folder(pod, container), status(pod, container), previous);
    if previous && found.is_none() {
        bail!(
            "container {container} of Pod {} did not run before, or its log is gone",
            full_name(pod)
        );
    }
    Ok(found)
}

fn not_started(pod: &PodDetail, container: &str) -> String {
    let said = format!(
        "container {container} of Pod {} has not said anything, it was not started",
        full_name(pod)
    );
    let state = status(pod, container).and_then(|s| s.state.as_ref());
    match state.and_then(|s| s.waiting.as_ref()) {
        Some(waiting) => format!(
            "{said}: {} {}",
            waiting.reason.as_deref().unwrap_or_default(),
            waiting.message.as_deref().unwrap_or_default()
        ),
        None => said,
    }
}

/// Follows a container over its restarts and over updates of its Pod.
struct Follower<'a> {
    agent: &'a Agent,
    name: PodName,
    cursor: Cursor,
    container: String,
    /// As it was last told; nothing once it is gone.
    pod: Option<PodDetail>,
    /// Nothing while no agent answers, which ends no container.
    changes: Option<Lines<PodDetails>>,
}

impl Follower<'_> {
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
                () = tokio::time::sleep(LOOK) => {}
                told = next(&mut self.changes) => self.take(told?),
            }
        }
    }

    fn take(&mut self, told: Option<PodDetails>) {
        let Some(mut details) = told else {
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

    /// Whether an instance of the container runs, as far as is known.
    fn is_running(&self) -> bool {
        let status = self
            .pod
            .as_ref()
            .and_then(|pod| status(pod, &self.container));
        let state = status.and_then(|status| status.state.as_ref());
        state.is_some_and(|state| state.running.is_some())
    }

    /// Whether the container will not say any more.
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

/// What is told next; waits for ever where nobody tells.
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
