//! Housekeeping of container logs: rotates those that have grown too large, creates missing links, and removes
//! links without a log.
//!
//! Beside a Pod's own task, only the container log manager calls the runtime for the Pod: to reopen a log. A round reads
//! files only, and looks at no more than the logs' sizes while no Pod changes. The runtime is asked when the files show
//! something that may need work, and not again while they show the same and there was nothing to do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::known_logs::KnownLogs;
use super::log_rotation::{self, Rotation, is_part};
use crate::cri::{Error, v1};
use crate::host::blocking::blocking;
use crate::host::log_links::LogLink;
use crate::host::log_once::LogOnce;
use crate::host::untrusted::{Folder, Location};
use crate::manifest::PodKey;
use crate::pod::folder;
use crate::pod::observe::owner;
use crate::pod::task::Context;
use crate::translate::{Paths, labels};

/// Runs for as long as the agent does.
pub async fn run(context: Arc<Context>, rotation: Rotation) {
    let mut manager = ContainerLogManager {
        context,
        rotation,
        at_rest: BTreeSet::new(),
        known: None,
        problems: LogOnce::default(),
    };
    loop {
        manager.round().await;
        tokio::time::sleep(rotation.interval).await;
    }
}

/// State of the files of our Pods' logs that may need work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum LogIssue {
    /// A log has this size in bytes, which is too large.
    TooLarge(PathBuf, u64),
    /// Parts of a log are there, but not the log: its rotation was interrupted.
    MissingLog(PathBuf),
    /// No link leads to a log.
    MissingLink(PathBuf),
    /// A link leads to no log.
    DanglingLink(LogLink),
}

impl LogIssue {
    fn log(&self) -> &Path {
        match self {
            Self::TooLarge(log, _) | Self::MissingLog(log) | Self::MissingLink(log) => log,
            Self::DanglingLink(link) => &link.target,
        }
    }

    /// Returns the subject of a problem with it.
    fn subject(&self) -> String {
        let log = self.log().display();
        match self {
            Self::TooLarge(..) | Self::MissingLog(_) => log.to_string(),
            Self::MissingLink(_) | Self::DanglingLink(_) => format!("the link to {log}"),
        }
    }
}

/// Container whose log a file is.
#[derive(Debug)]
struct LogContainer {
    id: String,
    /// Its name in the Pod.
    name: String,
    running: bool,
    /// The Pod, if it is one of ours.
    ours: Option<PodKey>,
}

struct ContainerLogManager {
    context: Arc<Context>,
    rotation: Rotation,
    /// Issues of the round before, if there was nothing to do about any of them.
    at_rest: BTreeSet<LogIssue>,
    /// The logs of the round before, if there was nothing to do about any of them.
    known: Option<KnownLogs>,
    problems: LogOnce,
}

impl ContainerLogManager {
    /// Examines all logs once, and resolves their issues.
    async fn round(&mut self) {
        let revision = *self.context.reports.changes().borrow();
        if self.is_quiet(revision).await {
            return;
        }
        let (paths, max_size) = (self.context.facts.paths.clone(), self.rotation.max_size);
        let examined = blocking(move || examine(&paths, max_size, revision)).await;
        let (found, known) = match examined {
            Ok(examined) => examined,
            Err(error) => return self.report("the folders of logs", &Err(error.into())),
        };
        self.report("the folders of logs", &Ok(()));
        if found.is_subset(&self.at_rest) {
            self.at_rest = found;
            self.known = Some(known);
            return;
        }
        let containers = match self.containers().await {
            Ok(containers) => containers,
            // The supervisor reports that the runtime is unreachable.
            Err(error) => return debug!(%error, "Failed to list containers"),
        };
        let mut tried = false;
        for issue in &found {
            tried |= self.resolve(issue, containers.get(issue.log())).await;
        }
        let is_found = |subject: &str| found.iter().any(|f| f.subject() == subject);
        self.problems.retain(is_found);
        self.at_rest = if tried { BTreeSet::new() } else { found };
    }

    /// Returns true if no Pod has changed and no known log has grown too large or gone.
    async fn is_quiet(&mut self, revision: u64) -> bool {
        let Some(mut known) = self.known.take() else {
            return false;
        };
        if !known.begin_round(revision) {
            return false;
        }
        let (folder, max_size) = (
            self.context.facts.paths.logs.clone(),
            self.rotation.max_size,
        );
        let look = move || {
            let in_order = known.are_in_order(&folder, max_size).unwrap_or(false);
            in_order.then_some(known)
        };
        self.known = blocking(look).await;
        self.known.is_some()
    }

    /// Returns the runtime's containers by their log files, as far as their labels say.
    async fn containers(&self) -> Result<BTreeMap<PathBuf, LogContainer>, Error> {
        let Context {
            client,
            facts,
            owner_label,
            ..
        } = &*self.context;
        let request = v1::ListContainersRequest::default();
        let listed = client.list_containers(request).await?.containers;
        let container_of = |container| container_of(&facts.paths, owner_label, container);
        Ok(listed.into_iter().filter_map(container_of).collect())
    }

    /// Resolves an issue; returns `false` if there was nothing to do.
    async fn resolve(&mut self, issue: &LogIssue, container: Option<&LogContainer>) -> bool {
        let client = &self.context.client;
        let writer = container.filter(|h| h.running && h.ours.is_some());
        let done = match (issue, writer) {
            (LogIssue::TooLarge(log, _), Some(writer)) => self.rotate(log, &writer.id).await,
            (
                LogIssue::MissingLog(log) | LogIssue::DanglingLink(LogLink { target: log, .. }),
                Some(writer),
            ) => {
                let begun = log_rotation::reopen(client, &writer.id).await;
                if begun.is_ok() {
                    info!(log = %log.display(), "Container log was missing, reopened it");
                }
                begun
            }
            (LogIssue::DanglingLink(link), None) if !container.is_some_and(|h| h.running) => {
                let link = link.clone();
                let removed = blocking(move || link.remove()).await;
                removed.map_err(Into::into)
            }
            (LogIssue::MissingLink(log), _) => match self.link(log, container).await {
                Ok(false) => return false,
                linked => linked.map(drop).map_err(Into::into),
            },
            _ => return false,
        };
        self.report(&issue.subject(), &done);
        true
    }

    /// Rotates the log of a running container.
    async fn rotate(&self, log: &Path, id: &str) -> anyhow::Result<()> {
        let Some((folder, name)) = Location::around(&self.context.facts.paths.logs, log) else {
            return Ok(());
        };
        log_rotation::rotate(&self.context.client, id, folder, name, self.rotation).await
    }

    /// Creates the link to the log of one of our containers; returns `false` if there is none to create.
    async fn link(&self, log: &Path, container: Option<&LogContainer>) -> io::Result<bool> {
        let Some((container, key)) = container.and_then(|h| Some((h, h.ours.clone()?))) else {
            return Ok(false);
        };
        let (log, name, id) = (log.to_owned(), container.name.clone(), container.id.clone());
        let links = self.context.facts.paths.log_links();
        let create = move || links.create(&key.namespace, &key.name, &name, &id, &log);
        blocking(create).await
    }

    /// Logs a problem with a log once.
    fn report(&mut self, subject: &str, done: &anyhow::Result<()>) {
        if let Some(error) = self.problems.record(subject, done) {
            warn!(
                log = subject,
                error, "Failed to rotate or link container log"
            );
        }
    }
}

/// Returns the log file of a container with the container, as far as its labels say.
fn container_of(
    paths: &Paths,
    owner_label: &str,
    container: v1::Container,
) -> Option<(PathBuf, LogContainer)> {
    let label = |key: &str| container.labels.get(key).cloned();
    let key = PodKey {
        namespace: label(labels::POD_NAMESPACE)?,
        name: label(labels::POD_NAME)?,
    };
    let name = label(labels::CONTAINER_NAME)?;
    let attempt = container.metadata.as_ref()?.attempt;
    let log = paths.container_log(&key, &label(labels::POD_UID)?, &name, attempt);
    let log_container = LogContainer {
        running: container.state() == v1::ContainerState::ContainerRunning,
        ours: owner(owner_label, &container.labels),
        id: container.id,
        name,
    };
    Some((log, log_container))
}

/// Examines the logs of Pods that have a folder of ours, and the links. Returns the issues, and the logs that are there.
fn examine(
    paths: &Paths,
    max_size: Option<u64>,
    revision: u64,
) -> io::Result<(BTreeSet<LogIssue>, KnownLogs)> {
    let logs = logs_of_pods(paths)?;
    let log_links = paths.log_links();
    let links = log_links.list()?;
    let linked: HashSet<&Path> = links.iter().map(|link| link.target.as_path()).collect();
    let is_there =
        |log: &Path| logs.get(log).is_some_and(Option::is_some) || log_links.has_log(log);
    let dangling = links.iter().filter(|link| !is_there(&link.target));
    let mut found: BTreeSet<_> = dangling.cloned().map(LogIssue::DanglingLink).collect();
    for (log, size) in &logs {
        let is_linked = linked.contains(log.as_path());
        match size {
            // Its link is an issue already.
            None if is_linked => {}
            None => {
                found.insert(LogIssue::MissingLog(log.clone()));
            }
            Some(size) => {
                if !is_linked {
                    found.insert(LogIssue::MissingLink(log.clone()));
                }
                if max_size.is_some_and(|max| *size >= max) {
                    found.insert(LogIssue::TooLarge(log.clone(), *size));
                }
            }
        }
    }
    let there = logs.iter().filter(|(_, size)| size.is_some());
    let known = KnownLogs::new(&paths.logs, there.map(|(log, _)| log), revision);
    Ok((found, known))
}

/// Containers' logs with their sizes in bytes; `None` for one of which only parts are there.
type Logs = HashMap<PathBuf, Option<u64>>;

/// Lists the logs of Pods that have a folder of ours.
fn logs_of_pods(paths: &Paths) -> io::Result<Logs> {
    let uids: HashSet<String> = folder::list(paths)?.into_iter().collect();
    let mut logs = Logs::new();
    let Some(all) = if_there(Location::new(&paths.logs, "").open())? else {
        return Ok(logs);
    };
    let is_ours = |name: &str| {
        name.rsplit('_')
            .next()
            .is_some_and(|uid| uids.contains(uid))
    };
    for pod in all.names(is_ours)? {
        // A broken folder, which its containers may have written to, does not affect others.
        if let Err(error) = add_logs_of_pod(&all, &pod, &mut logs) {
            debug!(%error, "Pod log folder cannot be read");
        }
    }
    Ok(logs)
}

/// Adds the logs of one Pod, if it is still there.
fn add_logs_of_pod(all: &Folder, pod: &str, logs: &mut Logs) -> io::Result<()> {
    let Some(pod) = if_there(all.folder(pod))? else {
        return Ok(());
    };
    for container in pod.names(|_| true)? {
        if let Err(error) = add_logs(&pod, &container, logs) {
            debug!(%error, "Container log folder cannot be read");
        }
    }
    Ok(())
}

/// Adds the logs of one container, if it is still there.
fn add_logs(pod: &Folder, container: &str, logs: &mut Logs) -> io::Result<()> {
    let Some(folder) = if_there(pod.folder(container))? else {
        return Ok(());
    };
    let number = |name: &str| Some(name.split_once(".log")?.0.parse::<u32>().ok()?.to_string());
    for name in folder.names(|name| number(name).is_some())? {
        let log = format!("{}.log", number(&name).unwrap_or_default());
        let path = folder.path().join(&log);
        if name == log {
            let file = folder.find(name)?.filter(|found| found.is_plain);
            logs.insert(path, Some(file.map_or(0, |file| file.size)));
        } else if is_part(&name, &log) {
            logs.entry(path).or_insert(None);
        }
    }
    Ok(())
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const OWNER_LABEL: &str = "/root-dir";

    fn key() -> PodKey {
        PodKey {
            namespace: "default".into(),
            name: "web".into(),
        }
    }

    fn write(path: &Path, size: usize) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x".repeat(size)).unwrap();
    }

    #[test]
    fn what_may_need_doing_is_found_in_the_logs_of_our_pods_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: dir.path().join("root"),
            logs: dir.path().join("logs"),
            container_logs: dir.path().join("containers"),
            ..Paths::default()
        };
        let examine = |max_size| examine(&paths, max_size, 0).unwrap().0;
        assert_eq!(examine(Some(10)), BTreeSet::new());
        for folder in [paths.pod("u1"), paths.container_logs.clone()] {
            fs::create_dir_all(folder).unwrap();
        }
        let log = |uid, attempt| paths.container_log(&key(), uid, "c", attempt);
        let link = |name: &str, target: &Path| {
            let path = paths.container_logs.join(name);
            symlink(target, &path).unwrap();
            LogLink {
                path,
                target: target.to_owned(),
            }
        };
        // In order, large, without a link, cut off with a link and without one.
        for (attempt, size) in [(0, 9), (1, 10), (2, 1)] {
            write(&log("u1", attempt), size);
        }
        link("a", &log("u1", 0));
        link("b", &log("u1", 1));
        for attempt in [3, 4] {
            let part = format!("{attempt}.log.20260101-000000");
            write(&log("u1", attempt).with_file_name(part), 1);
        }
        let dangling = link("c", &log("u1", 3));
        write(&log("u1", 0).with_file_name("0.log.20260101-000000.gz"), 99);
        write(&log("u1", 0).with_file_name("notes"), 99);
        // A Pod of somebody else's.
        write(&log("u2", 0), 99);
        let expected = [
            LogIssue::TooLarge(log("u1", 1), 10),
            LogIssue::MissingLink(log("u1", 2)),
            LogIssue::DanglingLink(dangling),
            LogIssue::MissingLog(log("u1", 4)),
        ];
        assert_eq!(examine(Some(10)), expected.into());
        let large = |issue: &LogIssue| matches!(issue, LogIssue::TooLarge(..));
        assert!(!examine(None).iter().any(large));
    }

    #[test]
    fn a_container_is_known_by_the_file_that_is_its_log() {
        let labels = |owner_label: &str| {
            HashMap::from(
                [
                    (labels::POD_NAME, "web"),
                    (labels::POD_NAMESPACE, "default"),
                    (labels::POD_UID, "u1"),
                    (labels::CONTAINER_NAME, "c"),
                    (labels::ROOT_DIR, owner_label),
                ]
                .map(|(label, value)| (label.to_owned(), value.to_owned())),
            )
        };
        let container = |labels, state: v1::ContainerState| v1::Container {
            id: "id1".into(),
            metadata: Some(v1::ContainerMetadata {
                name: "c".into(),
                attempt: 7,
            }),
            state: state.into(),
            labels,
            ..v1::Container::default()
        };
        let paths = Paths::default();
        let (log, own) = container_of(
            &paths,
            OWNER_LABEL,
            container(labels(OWNER_LABEL), v1::ContainerState::ContainerRunning),
        )
        .unwrap();
        assert_eq!(log, Path::new("/var/log/pods/default_web_u1/c/7.log"));
        assert_eq!((own.running, own.ours), (true, Some(key())));
        let others = container(labels("/other"), v1::ContainerState::ContainerExited);
        let (_, others) = container_of(&paths, OWNER_LABEL, others).unwrap();
        assert_eq!((others.running, others.ours), (false, None));
        let bare = container(HashMap::new(), v1::ContainerState::ContainerRunning);
        assert!(container_of(&paths, OWNER_LABEL, bare).is_none());
    }
}
