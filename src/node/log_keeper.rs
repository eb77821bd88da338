//! Housekeeping of container logs: rotates those that have grown too large, creates missing links, and removes
//! links without a log.
//!
//! Beside a Pod's own task, only the log keeper calls the runtime for the Pod: to reopen a log. A round reads
//! files only. The runtime is asked when the files show something that may need work, and not again while they
//! show the same and there was nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::log_rotation::{self, Rotation, is_part};
use crate::cri::{Error, v1};
use crate::host::blocking::blocking;
use crate::host::log_links::LogLink;
use crate::host::log_once::LogOnce;
use crate::host::untrusted::Location;
use crate::manifest::PodKey;
use crate::pod::folder;
use crate::pod::observe::owner;
use crate::pod::task::Context;
use crate::translate::{Paths, labels};

/// Runs for as long as the agent does.
pub async fn keep(context: Arc<Context>, rotation: Rotation) {
    let mut keeper = LogKeeper {
        context,
        rotation,
        at_rest: BTreeSet::new(),
        problems: LogOnce::default(),
    };
    loop {
        keeper.round().await;
        tokio::time::sleep(rotation.interval).await;
    }
}

/// Finding in the files of our Pods' logs that may need work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    /// A log has this size in bytes, which is too large.
    Large(PathBuf, u64),
    /// Parts of a log are there, but not the log: its rotation was interrupted.
    Headless(PathBuf),
    /// No link leads to a log.
    Unlinked(PathBuf),
    /// A link leads to no log.
    Dangling(LogLink),
}

impl Finding {
    fn log(&self) -> &Path {
        match self {
            Self::Large(log, _) | Self::Headless(log) | Self::Unlinked(log) => log,
            Self::Dangling(link) => &link.target,
        }
    }

    /// Returns the subject of a problem with it.
    fn subject(&self) -> String {
        let log = self.log().display();
        match self {
            Self::Large(..) | Self::Headless(_) => log.to_string(),
            Self::Unlinked(_) | Self::Dangling(_) => format!("the link to {log}"),
        }
    }
}

/// Container whose log a file is.
#[derive(Debug)]
struct Holder {
    id: String,
    /// Its name in the Pod.
    name: String,
    running: bool,
    /// The Pod, if it is one of ours.
    ours: Option<PodKey>,
}

struct LogKeeper {
    context: Arc<Context>,
    rotation: Rotation,
    /// Findings of the round before, if there was nothing to do about any of them.
    at_rest: BTreeSet<Finding>,
    problems: LogOnce,
}

impl LogKeeper {
    /// Examines all logs once, and settles what it finds.
    async fn round(&mut self) {
        let (paths, max_size) = (self.context.facts.paths.clone(), self.rotation.max_size);
        let found = match blocking(move || examine(&paths, max_size)).await {
            Ok(found) => found,
            Err(error) => return self.report("the folders of logs", Err(error.into())),
        };
        self.report("the folders of logs", Ok(()));
        if found.is_subset(&self.at_rest) {
            self.at_rest = found;
            return;
        }
        let holders = match self.holders().await {
            Ok(holders) => holders,
            // The supervisor reports that the runtime is unreachable.
            Err(error) => return debug!(%error, "Failed to list containers"),
        };
        let mut tried = false;
        for finding in &found {
            tried |= self.settle(finding, holders.get(finding.log())).await;
        }
        let is_found = |subject: &str| found.iter().any(|f| f.subject() == subject);
        self.problems.retain(is_found);
        self.at_rest = if tried { BTreeSet::new() } else { found };
    }

    /// Returns the runtime's containers by their log files, as far as their labels tell.
    async fn holders(&self) -> Result<BTreeMap<PathBuf, Holder>, Error> {
        let Context {
            client,
            facts,
            owner_label: mark,
            ..
        } = &*self.context;
        let request = v1::ListContainersRequest::default();
        let all = client.list_containers(request).await?.containers;
        let holder = |container| holder(&facts.paths, mark, container);
        Ok(all.into_iter().filter_map(holder).collect())
    }

    /// Settles a finding; returns `false` if there was nothing to do.
    async fn settle(&mut self, finding: &Finding, holder: Option<&Holder>) -> bool {
        let client = &self.context.client;
        let writer = holder.filter(|h| h.running && h.ours.is_some());
        let done = match (finding, writer) {
            (Finding::Large(log, _), Some(writer)) => self.rotate(log, &writer.id).await,
            (
                Finding::Headless(log) | Finding::Dangling(LogLink { target: log, .. }),
                Some(writer),
            ) => {
                let begun = log_rotation::reopen(client, &writer.id).await;
                if begun.is_ok() {
                    info!(log = %log.display(), "Container log was missing, reopened it");
                }
                begun
            }
            (Finding::Dangling(link), None) if !holder.is_some_and(|h| h.running) => {
                let link = link.clone();
                let removed = blocking(move || link.remove()).await;
                removed.map_err(Into::into)
            }
            (Finding::Unlinked(log), _) => match self.link(log, holder).await {
                Ok(false) => return false,
                linked => linked.map(drop).map_err(Into::into),
            },
            _ => return false,
        };
        self.report(&finding.subject(), done);
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
    async fn link(&self, log: &Path, holder: Option<&Holder>) -> io::Result<bool> {
        let Some((holder, key)) = holder.and_then(|h| Some((h, h.ours.clone()?))) else {
            return Ok(false);
        };
        let (log, name, id) = (log.to_owned(), holder.name.clone(), holder.id.clone());
        let links = self.context.facts.paths.log_links();
        let create = move || links.create(&key.namespace, &key.name, &name, &id, &log);
        blocking(create).await
    }

    /// Logs a problem with a log once.
    fn report(&mut self, subject: &str, done: anyhow::Result<()>) {
        let trouble = done.err().map(|error| format!("{error:#}"));
        if self.problems.should_log(subject, trouble.as_deref()) {
            let error = trouble.unwrap_or_default();
            warn!(
                log = subject,
                error, "Failed to rotate or link container log"
            );
        }
    }
}

/// Returns the log file of a container with its holder, as far as its labels tell.
fn holder(paths: &Paths, mark: &str, container: v1::Container) -> Option<(PathBuf, Holder)> {
    let label = |key: &str| container.labels.get(key).cloned();
    let key = PodKey {
        namespace: label(labels::POD_NAMESPACE)?,
        name: label(labels::POD_NAME)?,
    };
    let name = label(labels::CONTAINER_NAME)?;
    let attempt = container.metadata.as_ref()?.attempt;
    let log = paths.container_log(&key, &label(labels::POD_UID)?, &name, attempt);
    let holder = Holder {
        running: container.state() == v1::ContainerState::ContainerRunning,
        ours: owner(mark, &container.labels),
        id: container.id,
        name,
    };
    Some((log, holder))
}

/// Examines the logs of Pods that have a folder of ours, and the links.
fn examine(paths: &Paths, max_size: Option<u64>) -> io::Result<BTreeSet<Finding>> {
    let logs = logs_of_pods(paths)?;
    let log_links = paths.log_links();
    let links = log_links.list()?;
    let linked: BTreeSet<&Path> = links.iter().map(|link| link.target.as_path()).collect();
    let is_there =
        |log: &Path| logs.get(log).is_some_and(Option::is_some) || log_links.has_log(log);
    let dangling = links.iter().filter(|link| !is_there(&link.target));
    let mut found: BTreeSet<_> = dangling.cloned().map(Finding::Dangling).collect();
    for (log, size) in &logs {
        let is_linked = linked.contains(log.as_path());
        match size {
            // Its link is a finding already.
            None if is_linked => {}
            None => {
                found.insert(Finding::Headless(log.clone()));
            }
            Some(size) => {
                if !is_linked {
                    found.insert(Finding::Unlinked(log.clone()));
                }
                if max_size.is_some_and(|max| *size >= max) {
                    found.insert(Finding::Large(log.clone(), *size));
                }
            }
        }
    }
    Ok(found)
}

/// Containers' logs with their sizes in bytes; `None` for one of which only parts are there.
type Logs = BTreeMap<PathBuf, Option<u64>>;

/// Lists the logs of Pods that have a folder of ours.
fn logs_of_pods(paths: &Paths) -> io::Result<Logs> {
    let uids: BTreeSet<String> = folder::list(paths)?.into_iter().collect();
    let all = Location::new(&paths.logs, "");
    let mut logs = Logs::new();
    let is_ours = |name: &str| {
        name.rsplit('_')
            .next()
            .is_some_and(|uid| uids.contains(uid))
    };
    for pod in names(&all, is_ours)? {
        let pod = all.join(pod);
        // A broken folder, which its containers may have written to, does not affect others.
        for container in names(&pod, |_| true).unwrap_or_default() {
            let folder = pod.join(container);
            if let Err(error) = add_logs(&folder, &mut logs) {
                debug!(%error, "Container log folder cannot be read");
            }
        }
    }
    Ok(logs)
}

/// Adds the logs of one container.
fn add_logs(location: &Location, logs: &mut Logs) -> io::Result<()> {
    let Some(folder) = if_there(location.open())? else {
        return Ok(());
    };
    let number = |name: &str| Some(name.split_once(".log")?.0.parse::<u32>().ok()?.to_string());
    for name in folder.names(|name| number(name).is_some())? {
        let log = format!("{}.log", number(&name).unwrap_or_default());
        let path = location.path().join(&log);
        if name == log {
            let file = folder.find(name)?.filter(|found| found.is_plain);
            logs.insert(path, Some(file.map_or(0, |file| file.size)));
        } else if is_part(&name, &log) {
            logs.entry(path).or_insert(None);
        }
    }
    Ok(())
}

/// Lists the wanted names in a folder; none if there is no folder, since Pods come and go.
fn names(folder: &Location, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    match if_there(folder.open())? {
        Some(folder) => folder.names(wanted),
        None => Ok(vec![]),
    }
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
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::symlink;

    const MARK: &str = "/root-dir";

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
        assert_eq!(examine(&paths, Some(10)).unwrap(), BTreeSet::new());
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
            Finding::Large(log("u1", 1), 10),
            Finding::Unlinked(log("u1", 2)),
            Finding::Dangling(dangling),
            Finding::Headless(log("u1", 4)),
        ];
        assert_eq!(examine(&paths, Some(10)).unwrap(), expected.into());
        let large = |finding: &Finding| matches!(finding, Finding::Large(..));
        assert!(!examine(&paths, None).unwrap().iter().any(large));
    }

    #[test]
    fn a_container_is_known_by_the_file_that_is_its_log() {
        let labels = |mark: &str| {
            HashMap::from(
                [
                    (labels::POD_NAME, "web"),
                    (labels::POD_NAMESPACE, "default"),
                    (labels::POD_UID, "u1"),
                    (labels::CONTAINER_NAME, "c"),
                    (labels::ROOT_DIR, mark),
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
        let (log, own) = holder(
            &paths,
            MARK,
            container(labels(MARK), v1::ContainerState::ContainerRunning),
        )
        .unwrap();
        assert_eq!(log, Path::new("/var/log/pods/default_web_u1/c/7.log"));
        assert_eq!((own.running, own.ours), (true, Some(key())));
        let others = container(labels("/other"), v1::ContainerState::ContainerExited);
        let (_, others) = holder(&paths, MARK, others).unwrap();
        assert_eq!((others.running, others.ours), (false, None));
        let bare = container(HashMap::new(), v1::ContainerState::ContainerRunning);
        assert!(holder(&paths, MARK, bare).is_none());
    }
}
