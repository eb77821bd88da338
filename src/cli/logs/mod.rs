//! `podkeeper logs`: the logs of containers, from the files that the runtime writes.

mod follower;
mod output;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use futures_util::future::try_join_all;
use jiff::Timestamp;

use super::agent::{Agent, choose, containers, full_name, status, the_one};
use super::{complain, printable, single_threaded};
use crate::host::untrusted::Location;
use crate::logs::{Cursor, LogOptions, instance};
use crate::server::{LabelSelector, PodDetail, PodFilter, PodName};
use crate::units::duration::parse_duration;
use crate::units::time::earlier;
use follower::LogFollower;
use output::{ContainerOutput, LogOutput};

/// Number of last lines of each log where Pods are selected by their labels, as for kubectl.
const SELECTED_TAIL: usize = 10;

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct LogsArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD", required_unless_present = "selector")]
    pod: Option<PodName>,

    /// Print the logs of all Pods with matching labels
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "pod")]
    selector: Option<LabelSelector>,

    /// Only Pods of this namespace [default: of all]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

    /// Name of the container, if there are several
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,

    /// Print the logs of all containers, init containers first
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,

    /// Print each line behind the names of its Pod and container
    #[arg(long)]
    prefix: bool,

    /// Print each line behind its time
    #[arg(long)]
    timestamps: bool,

    /// Follow the log, also of the container's next instances
    #[arg(long, short)]
    follow: bool,

    /// Print the log of the previous instance of the container
    #[arg(long, short, conflicts_with = "follow")]
    previous: bool,

    /// Only print lines newer than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Only print lines after this time, in RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    since_time: Option<Timestamp>,

    /// Number of last lines to print; -1 for all, as for kubectl [default: all; 10 with --selector]
    #[arg(long, value_name = "LINES", value_parser = tail, allow_negative_numbers = true)]
    tail: Option<Tail>,

    /// Maximum number of bytes to print of each log
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,

    /// Maximum number of logs to follow at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    max_log_requests: usize,
}

impl LogsArgs {
    fn filter(&self) -> PodFilter {
        PodFilter {
            name: self.pod.clone(),
            namespace: self.namespace.clone(),
            selector: self.selector.clone(),
        }
    }

    fn options(&self) -> LogOptions {
        let since = self.since.map(|age| earlier(Timestamp::now(), age));
        LogOptions {
            since: since.or(self.since_time),
            timestamps: self.timestamps,
            ..LogOptions::default()
        }
    }

    fn tail(&self) -> Option<usize> {
        match (self.tail, &self.selector) {
            (Some(Tail(tail)), _) => tail,
            (None, Some(_)) => Some(SELECTED_TAIL),
            (None, None) => None,
        }
    }
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
        result => result,
    }
}

/// Returns whether the reader has closed the pipe (`podkeeper logs web | head`), which is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints the logs. Those that there are not of several are a failure, and keep none of the others.
async fn show(arguments: &LogsArgs) -> anyhow::Result<ExitCode> {
    let sources = sources(arguments).await?;
    let output = Rc::new(RefCell::new(LogOutput::new(io::stdout().lock())));
    let many = sources.len() > 1;
    let mut outcome = ExitCode::SUCCESS;
    let mut followers = vec![];
    for LogSource { pod, container } in sources {
        let attempt = attempt(&pod, &container, arguments.previous);
        let attempt = match attempt {
            Ok(None) if !arguments.follow => Err(anyhow!(not_started(&pod, &container))),
            attempt => attempt,
        };
        let attempt = match attempt {
            Ok(attempt) => attempt.unwrap_or_default(),
            Err(error) if many => {
                complain(&format!("podkeeper: {error}"));
                outcome = ExitCode::FAILURE;
                continue;
            }
            Err(error) => return Err(error),
        };
        let needed = Box::new(|| true);
        let (options, tail) = (arguments.options(), arguments.tail());
        let mut cursor = Cursor::new(folder(&pod, &container), attempt, options, tail, needed)?;
        let prefix = arguments.prefix.then(|| prefix(&pod, &container));
        let mut out = ContainerOutput::new(Rc::clone(&output), prefix, arguments.limit_bytes);
        if !arguments.follow {
            out.until_limit(|out| cursor.read_all(out))?;
            continue;
        }
        let agent = &arguments.agent;
        followers.push(LogFollower::new(agent, pod, container, cursor, out));
    }
    let followed = followers.iter_mut().map(LogFollower::run);
    try_join_all(followed).await?;
    output.borrow_mut().flush()?;
    Ok(outcome)
}

/// A container whose log is printed.
struct LogSource {
    pod: PodDetail,
    container: String,
}

/// Returns the containers whose logs are asked for.
async fn sources(arguments: &LogsArgs) -> anyhow::Result<Vec<LogSource>> {
    let details = arguments.agent.pods(&arguments.filter()).await?;
    let pods = match &arguments.pod {
        Some(name) => vec![the_one(name, &details)?.clone()],
        None => details.pods,
    };
    if pods.is_empty() {
        bail!("no Pod has matching labels");
    }
    let mut sources = vec![];
    for pod in pods {
        let names = if arguments.all_containers {
            containers(&pod).map(|c| c.name.clone()).collect()
        } else {
            vec![choose(&pod, arguments.container.as_deref())?]
        };
        let of_pod = names.into_iter().map(|container| LogSource {
            pod: pod.clone(),
            container,
        });
        sources.extend(of_pod);
    }
    let (found, most) = (sources.len(), arguments.max_log_requests);
    if arguments.follow && found > most {
        bail!(
            "{found} logs would be followed, and at most {most} may be; use --max-log-requests to raise that"
        );
    }
    Ok(sources)
}

/// Prefix of a container's lines, as kubectl writes it.
fn prefix(pod: &PodDetail, container: &str) -> String {
    printable(&format!("[pod/{}/{container}] ", pod.report.name))
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
