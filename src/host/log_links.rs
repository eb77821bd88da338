//! Links to containers' logs, named `POD_NAMESPACE_CONTAINER-ID.log` in one folder, as log shippers
//! read them (the kubelet's `/var/log/containers`).
//!
//! Only links that lead below the Pods' log directory are ever removed; whatever else lies in the
//! folder is not ours.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::untrusted::Location;

const SUFFIX: &str = ".log";
/// Longest name of a file on common file systems, in bytes.
const MAX_NAME: usize = 255;

/// The folder of links and the Pods' log directory, below which they lead.
#[derive(Debug, Clone)]
pub struct LogLinks {
    /// Folder of the links, which log shippers read: `/var/log/containers`.
    pub folder: PathBuf,
    /// Folder of the Pods' logs, which the runtime writes: `/var/log/pods`.
    pub logs: PathBuf,
}

/// A link in the folder that leads below the Pods' log directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogLink {
    /// Path of the link itself.
    pub path: PathBuf,
    /// Path that it leads to, whether or not anything is there.
    pub target: PathBuf,
}

/// Returns a link's name. One that is too long for a file is cut, as the kubelet cuts it.
fn name(namespace: &str, pod: &str, container: &str, id: &str) -> String {
    let whole = format!("{pod}_{namespace}_{container}-{id}");
    cut(&whole) + SUFFIX
}

/// Cuts a name to the length that fits with the suffix. Names are ASCII, so that characters are bytes.
fn cut(name: &str) -> String {
    name.chars()
        .take(MAX_NAME.saturating_sub(SUFFIX.len()))
        .collect()
}

impl LogLinks {
    /// Creates the link to a container's log, unless the log is missing; returns `true` if it is new. An
    /// existing link of that name stays: only cut names are not a container's alone.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn create(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        id: &str,
        log: &Path,
    ) -> io::Result<bool> {
        if !self.has_log(log) {
            return Ok(false);
        }
        let path = self.folder.join(name(namespace, pod, container, id));
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o755);
        folder.create(&self.folder)?;
        match symlink(log, path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Returns `true` if anything has the path of a log.
    pub(crate) fn has_log(&self, log: &Path) -> bool {
        let found = Location::around(&self.logs, log)
            .and_then(|(folder, name)| folder.open().ok()?.find(name).ok());
        found.flatten().is_some()
    }

    /// Lists the links that lead below the Pods' log directory.
    ///
    /// # Errors
    /// The folder cannot be read; a missing folder is no error.
    pub fn list(&self) -> io::Result<Vec<LogLink>> {
        let mut links = vec![];
        for entry in self.entries()?.into_iter().flatten() {
            links.extend(self.read(entry?.path()));
        }
        Ok(links)
    }

    /// Returns the entries of the folder, if there is one.
    fn entries(&self) -> io::Result<Option<fs::ReadDir>> {
        match fs::read_dir(&self.folder) {
            Ok(entries) => Ok(Some(entries)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads a link, if it is one that leads below the Pods' log directory.
    fn read(&self, path: PathBuf) -> Option<LogLink> {
        let target = fs::read_link(&path).ok()?;
        let straight = !target.components().any(|part| part == Component::ParentDir);
        (straight && target.starts_with(&self.logs)).then_some(LogLink { path, target })
    }

    /// Removes a Pod's links that lead to this log, or below this folder of logs.
    ///
    /// # Errors
    /// Any I/O error; that something is missing is none.
    pub fn remove(&self, namespace: &str, pod: &str, logs: &Path) -> io::Result<()> {
        let begin = cut(&format!("{pod}_{namespace}_"));
        for entry in self.entries()?.into_iter().flatten() {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(&begin) {
                continue;
            }
            if let Some(link) = self.read(entry.path())
                && link.target.starts_with(logs)
            {
                link.remove()?;
            }
        }
        Ok(())
    }
}

impl LogLink {
    /// Removes the link.
    ///
    /// # Errors
    /// Any I/O error; that it is missing is none.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links and logs below a folder of the test's own, and the log of a container in it.
    fn node() -> (tempfile::TempDir, LogLinks, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let links = LogLinks {
            folder: dir.path().join("containers"),
            logs: dir.path().join("logs"),
        };
        let log = links.logs.join("default_web_u1/c/0.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        (dir, links, log)
    }

    #[test]
    fn a_name_is_the_kubelets_and_fits_a_file() {
        let id = "0".repeat(64);
        assert_eq!(
            name("default", "web-node1", "c", &id),
            format!("web-node1_default_c-{id}.log")
        );
        let long = name("default", &"p".repeat(200), "container", &id);
        let whole = format!("{}_default_container-{id}", "p".repeat(200));
        assert_eq!(long, format!("{}.log", &whole[..251]));
    }

    #[test]
    fn a_link_is_created_once_and_only_to_an_existing_log() {
        let (_dir, links, log) = node();
        let create = |log: &Path| links.create("default", "web", "c", "id1", log).unwrap();
        assert!(!create(&log.with_file_name("1.log")));
        assert!(create(&log));
        assert!(!create(&log));
        let link = links.folder.join("web_default_c-id1.log");
        assert_eq!(fs::read_link(&link).unwrap(), log);
        let target = log.clone();
        assert_eq!(links.list().unwrap(), [LogLink { path: link, target }]);
    }

    #[test]
    fn only_links_below_the_pods_logs_are_ours() {
        let (dir, links, log) = node();
        links.create("default", "web", "c", "id1", &log).unwrap();
        let at = |name: &str| links.folder.join(name);
        symlink(dir.path().join("elsewhere"), at("web_default_c-id2.log")).unwrap();
        symlink(links.logs.join("../elsewhere"), at("web_default_c-id3.log")).unwrap();
        fs::write(at("web_default_c-id4.log"), "a file").unwrap();
        assert_eq!(links.list().unwrap().len(), 1);
        links.remove("default", "web", &links.logs).unwrap();
        let mut left: Vec<_> = fs::read_dir(&links.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let others = ["id2", "id3", "id4"].map(|id| format!("web_default_c-{id}.log"));
        assert_eq!(left, others);
    }

    #[test]
    fn the_links_to_one_log_go_and_those_to_others_stay() {
        let (_dir, links, log) = node();
        let next = log.with_file_name("1.log");
        fs::write(&next, "").unwrap();
        links.create("default", "web", "c", "id1", &log).unwrap();
        links.create("default", "web", "c", "id2", &next).unwrap();
        links.create("default", "other", "c", "id3", &next).unwrap();
        links.remove("default", "web", &log).unwrap();
        let ids = || {
            let links = links.list().unwrap().into_iter();
            let names = links.map(|l| l.path.file_name().unwrap().to_owned());
            let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(ids(), ["other_default_c-id3.log", "web_default_c-id2.log"]);
        let of_pod = links.logs.join("default_web_u1");
        links.remove("default", "web", &of_pod).unwrap();
        assert_eq!(ids(), ["other_default_c-id3.log"]);
    }
}
