//! Links to containers' logs, named `POD_NAMESPACE_CONTAINER-ID.log` in one folder, as log shippers
//! look for them (the kubelet's `/var/log/containers`).
//!
//! Only links that lead below the Pods' log directory are ever removed; whatever else lies in the
//! folder is not ours.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::host::untrusted::Location;
use crate::manifest::PodKey;
use crate::translate::Paths;

const SUFFIX: &str = ".log";
/// As long as a file's name may be on common file systems.
const MAX_NAME: usize = 255;

/// A link in the folder that leads below the Pods' log directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The link itself.
    pub path: PathBuf,
    /// Where it leads, whether or not anything is there.
    pub target: PathBuf,
}

/// The link's name. One that is too long for a file is cut, as the kubelet cuts it.
#[must_use]
pub fn name(key: &PodKey, container: &str, id: &str) -> String {
    let whole = format!("{}_{}_{container}-{id}", key.name, key.namespace);
    cut(&whole) + SUFFIX
}

/// Names are ASCII, so that characters are bytes.
fn cut(name: &str) -> String {
    name.chars()
        .take(MAX_NAME.saturating_sub(SUFFIX.len()))
        .collect()
}

/// Makes the link to a container's log, unless the log is not there; `true` if it is new. A link of that
/// name that is there already stays: only cut names are not a container's alone.
///
/// # Errors
/// Any I/O error.
pub fn make(
    paths: &Paths,
    key: &PodKey,
    container: &str,
    id: &str,
    log: &Path,
) -> io::Result<bool> {
    if !is_there(paths, log) {
        return Ok(false);
    }
    let path = paths.container_logs.join(name(key, container, id));
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(0o755);
    folder.create(&paths.container_logs)?;
    match symlink(log, path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether something has the path of a log; what it is does not matter.
pub(super) fn is_there(paths: &Paths, log: &Path) -> bool {
    let found = Location::around(&paths.logs, log)
        .and_then(|(folder, name)| folder.open().ok()?.find(name).ok());
    found.flatten().is_some()
}

/// The links that lead below the Pods' log directory.
///
/// # Errors
/// The folder cannot be read; that it is not there is no error.
pub fn list(paths: &Paths) -> io::Result<Vec<Link>> {
    let entries = match fs::read_dir(&paths.container_logs) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let mut links = vec![];
    for entry in entries {
        links.extend(read(paths, entry?.path()));
    }
    Ok(links)
}

/// The link, if it is one that leads below the Pods' log directory.
fn read(paths: &Paths, path: PathBuf) -> Option<Link> {
    let target = fs::read_link(&path).ok()?;
    let straight = !target.components().any(|part| part == Component::ParentDir);
    (straight && target.starts_with(&paths.logs)).then_some(Link { path, target })
}

/// Removes a Pod's links that lead to this log, or below this folder of logs.
///
/// # Errors
/// Any I/O error; that something is not there is none.
pub fn remove(paths: &Paths, key: &PodKey, logs: &Path) -> io::Result<()> {
    let begin = cut(&format!("{}_{}_", key.name, key.namespace));
    let entries = match fs::read_dir(&paths.container_logs) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(&begin) {
            continue;
        }
        if let Some(link) = read(paths, entry.path())
            && link.target.starts_with(logs)
        {
            remove_link(&link)?;
        }
    }
    Ok(())
}

/// Removes one link.
///
/// # Errors
/// Any I/O error; that it is not there is none.
pub fn remove_link(link: &Link) -> io::Result<()> {
    match fs::remove_file(&link.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    /// Paths below a folder of the test's own, and the log of a container in it.
    fn node() -> (tempfile::TempDir, Paths, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: dir.path().join("root"),
            logs: dir.path().join("logs"),
            container_logs: dir.path().join("containers"),
            ..Paths::default()
        };
        let log = paths.container_log(&key("web"), "u1", "c", 0);
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        (dir, paths, log)
    }

    #[test]
    fn a_name_is_the_kubelets_and_fits_a_file() {
        let id = "0".repeat(64);
        assert_eq!(
            name(&key("web-node1"), "c", &id),
            format!("web-node1_default_c-{id}.log")
        );
        let long = name(&key(&"p".repeat(200)), "container", &id);
        let whole = format!("{}_default_container-{id}", "p".repeat(200));
        assert_eq!(long, format!("{}.log", &whole[..251]));
    }

    #[test]
    fn a_link_is_made_once_and_only_to_what_is_there() {
        let (_dir, paths, log) = node();
        let make = |log: &Path| make(&paths, &key("web"), "c", "id1", log).unwrap();
        assert!(!make(&log.with_file_name("1.log")));
        assert!(make(&log));
        assert!(!make(&log));
        let link = paths.container_logs.join("web_default_c-id1.log");
        assert_eq!(fs::read_link(&link).unwrap(), log);
        let target = log.clone();
        assert_eq!(list(&paths).unwrap(), [Link { path: link, target }]);
    }

    #[test]
    fn only_links_below_the_pods_logs_are_ours() {
        let (dir, paths, log) = node();
        make(&paths, &key("web"), "c", "id1", &log).unwrap();
        let at = |name: &str| paths.container_logs.join(name);
        symlink(dir.path().join("elsewhere"), at("web_default_c-id2.log")).unwrap();
        symlink(paths.logs.join("../elsewhere"), at("web_default_c-id3.log")).unwrap();
        fs::write(at("web_default_c-id4.log"), "a file").unwrap();
        assert_eq!(list(&paths).unwrap().len(), 1);
        remove(&paths, &key("web"), &paths.logs).unwrap();
        let mut left: Vec<_> = fs::read_dir(&paths.container_logs)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let others = ["id2", "id3", "id4"].map(|id| format!("web_default_c-{id}.log"));
        assert_eq!(left, others);
    }

    #[test]
    fn the_links_to_one_log_go_and_those_to_others_stay() {
        let (_dir, paths, log) = node();
        let next = log.with_file_name("1.log");
        fs::write(&next, "").unwrap();
        make(&paths, &key("web"), "c", "id1", &log).unwrap();
        make(&paths, &key("web"), "c", "id2", &next).unwrap();
        make(&paths, &key("other"), "c", "id3", &next).unwrap();
        remove(&paths, &key("web"), &log).unwrap();
        let ids = || {
            let links = list(&paths).unwrap().into_iter();
            let names = links.map(|l| l.path.file_name().unwrap().to_owned());
            let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(ids(), ["other_default_c-id3.log", "web_default_c-id2.log"]);
        remove(&paths, &key("web"), &paths.pod_logs(&key("web"), "u1")).unwrap();
        assert_eq!(ids(), ["other_default_c-id3.log"]);
    }
}
