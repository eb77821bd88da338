//! Files of a Pod on the node, outside the runtime: its own folder below the root directory, and its
//! logs.
//!
//! The folder holds the record of the Pod (`pod.json`: the manifest as written), by which a version
//! can be carried on or ended properly after the agent died, and `terminating.json` once it is on its
//! way out. Both are written to a temporary file, synced and renamed. A removal moves the folder
//! aside at once and deletes it then; it never follows a symlink and never crosses into a mount.

mod room;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Container;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::identity::{ValidUid, check_container, check_key};
use super::state::Terminating;
use super::state::history::History;
use super::state::record::Record;
use crate::host::atomic_file::{self, Durability};
use crate::host::file_error::at;
use crate::host::untrusted::{self, Folder};
use crate::json;
use crate::manifest::{PodKey, StaticPod};
use crate::translate::{NodeFacts, Paths, UserNamespaceRange, hosts_file};
use crate::volume;

const RECORD: &str = "pod.json";
const TERMINATING: &str = "terminating.json";
const USER_NAMESPACE: &str = "userns.json";
const HISTORY: &str = "history.json";
/// The most bytes of a file of a Pod's own folder that are read: a manifest of 10 MiB as JSON has no more.
const MAX_OWN: u64 = 64 << 20;
const HOSTS: &str = "/etc/hosts";
/// The most bytes of the host's `/etc/hosts` that are read.
const MAX_HOSTS: u64 = 16 << 20;
/// As many ids as a Pod with a user namespace has: the images' users are all below.
const IDS_PER_POD: u32 = 65_536;

/// UIDs that have a folder, readable or not.
///
/// # Errors
/// The folder of Pods cannot be read; that it is not there is no error.
pub fn list(paths: &Paths) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(paths.pods()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let mut uids = vec![];
    for entry in entries {
        uids.extend(entry?.file_name().into_string());
    }
    Ok(uids)
}

/// Returns the version of a Pod that was started last and is not on its way out, as its record has it.
///
/// # Errors
/// The folders of Pods cannot be listed.
pub fn last_run(paths: &Paths, key: &PodKey) -> io::Result<Option<Arc<StaticPod>>> {
    let uids = list(paths)?.into_iter();
    let runs = uids.filter(|uid| read_terminating(paths, uid).is_none());
    let records = runs.filter_map(|uid| read_record(paths, &uid));
    let own = records.filter(|record| record.key() == *key);
    let last = own.max_by(|a, b| a.seen.cmp(&b.seen));
    Ok(last.and_then(|record| record.version()))
}

/// Returns true if a root directory has folders of Pods, and none that this agent wrote.
///
/// # Errors
/// The folder of Pods cannot be read; that it is not there is no error.
pub fn belongs_to_another(root: &Path) -> io::Result<bool> {
    let paths = Paths {
        root: root.to_owned(),
        ..Paths::default()
    };
    let uids = list(&paths)?;
    let ours = |uid: &String| paths.pod(uid).join(RECORD).exists();
    Ok(!uids.is_empty() && !uids.iter().any(ours))
}

/// Returns if an agent runs with this root directory: if anybody has locked its lock file. It is not
/// locked here to find out, which would keep an agent that starts just now from starting.
#[must_use]
pub fn is_locked(root: &Path) -> bool {
    let Ok(lock) = fs::symlink_metadata(root.join("lock")) else {
        return false;
    };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 123 00:1d:4711 0 EOF`; file systems with several devices show another
    // device there than for the file.
    let file = format!(":{}", lock.ino());
    let mut locks = locks.lines().map(|line| line.split_whitespace());
    locks.any(|mut words| words.nth(1) == Some("FLOCK") && words.any(|word| word.ends_with(&file)))
}

/// The record of a UID, if there is a readable one of a Pod that can be.
#[must_use]
pub fn read_record(paths: &Paths, uid: &str) -> Option<Record> {
    let record: Record = read_own(paths, uid, RECORD)?;
    check_key(&record.key()).ok().map(|()| record)
}

/// Makes the Pod's folder and record, and then its log folder: what carries the Pod's name outside its
/// own folder is only there while the record names it.
///
/// # Errors
/// Any I/O error.
pub fn create(paths: &Paths, key: &PodKey, uid: &str, record: &Record) -> io::Result<()> {
    private_folder(&paths.pod(uid))?;
    if read_record(paths, uid).is_none_or(|r| r != *record) {
        write_json(&paths.pod(uid).join(RECORD), record)?;
    }
    // Log shippers run as other users.
    paths.log_location(key, uid).create(0o755).map(drop)
}

/// Checks that [`create`] would have room, for a Pod that is to take the place of one that runs. Nothing is left of
/// the check. Of logs' room nothing is expected: the end of the one that runs makes some.
///
/// # Errors
/// Any I/O error: the disk is full or read-only.
pub fn check_room(paths: &Paths, record: &Record) -> io::Result<()> {
    room::check(&paths.root, &serde_json::to_vec(record)?)
}

/// Records that the Pod's termination has begun; returns the time of its first start.
///
/// # Errors
/// Any I/O error.
pub fn mark_terminating(
    paths: &Paths,
    uid: &str,
    termination: Terminating,
) -> io::Result<Terminating> {
    if let Some(earlier) = read_terminating(paths, uid) {
        return Ok(earlier);
    }
    private_folder(&paths.pod(uid))?;
    write_json(&paths.pod(uid).join(TERMINATING), &termination)?;
    Ok(termination)
}

/// Takes back that the Pod's end has begun.
///
/// # Errors
/// Any I/O error; that it was not marked is none.
pub fn unmark_terminating(paths: &Paths, uid: &str) -> io::Result<()> {
    match paths.pod_location(uid).open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        folder => folder?.remove(TERMINATING),
    }
}

/// Returns the start of the Pod's end, if that has begun.
#[must_use]
pub fn read_terminating(paths: &Paths, uid: &str) -> Option<Terminating> {
    read_own(paths, uid, TERMINATING)
}

/// Reads the history of a version, if there is a readable file of it.
#[must_use]
pub fn read_history(paths: &Paths, uid: &str) -> Option<History> {
    read_own(paths, uid, HISTORY)
}

/// Keeps the history of a version; `lasting` where it must outlive a power failure. Nothing is kept of
/// a Pod without a folder.
///
/// # Errors
/// Any I/O error.
pub fn write_history(paths: &Paths, uid: &str, history: &History, lasting: bool) -> io::Result<()> {
    let folder = paths.pod(uid);
    if !folder.exists() {
        return Ok(());
    }
    let durability = if lasting {
        Durability::Synced
    } else {
        Durability::UntilReboot
    };
    let content = serde_json::to_vec(history)?;
    atomic_file::write_with(&folder.join(HISTORY), &content, durability)
}

/// Writes the Pod's `/etc/hosts`, as the kubelet does at each start of a container: the host's own may
/// have changed, and what containers wrote into it does not stay. Only where it differs, since running
/// containers may be reading it.
///
/// # Errors
/// Any I/O error; the file is then as long as it was.
pub fn write_hosts_file(facts: &NodeFacts, pod: &StaticPod, ips: &[String]) -> io::Result<()> {
    let on_host = pod.is_on_host_network();
    let host = if on_host { host_hosts() } else { String::new() };
    let text = hosts_file(facts, pod, ips, &host);
    let folder = facts.paths.pod_location(&pod.uid).open()?;
    let hosts = facts.paths.hosts_file(&pod.uid);
    let name = hosts.file_name().and_then(|name| name.to_str());
    write_shared(&folder, name.unwrap_or_default(), text.as_bytes()).map_err(|error| {
        let is_named = error.raw_os_error().is_none();
        if is_named { error } else { at(&hosts)(error) }
    })
}

/// The host's own `/etc/hosts`, or as much of it as is read.
fn host_hosts() -> String {
    match untrusted::read_path(Path::new(HOSTS), MAX_HOSTS) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(%error, "Pods of the host's network get no entries of its hosts file");
            }
            String::new()
        }
    }
}

/// Writes a file that running containers have mounted, so that it stays the same one. It is never empty
/// meanwhile, and a full disk leaves it as it was: room is taken first, and it is cut last.
fn write_shared(folder: &Folder, name: &str, text: &[u8]) -> io::Result<()> {
    let length = text.len() as u64;
    let Some(found) = folder.find(name)?.filter(|found| found.is_plain) else {
        // Nobody has it yet, or something else is in its place.
        return folder.replace(name, text, 0o644, Durability::UntilReboot);
    };
    let same = |content: Vec<u8>| content == text;
    if found.size == length && folder.read(name, length).is_ok_and(same) {
        return folder.set_mode(name, 0o644);
    }
    let mut file = folder.open_to_write(name)?;
    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, length) {
        // Not every file system can take room before.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    file.write_all(text)?;
    file.set_len(length)?;
    file.set_permissions(Permissions::from_mode(0o644))
}

/// Makes what one instance of a container needs: its log folder, in which nothing has the log's name but a
/// log.
///
/// # Errors
/// Any I/O error.
pub fn prepare_container(
    paths: &Paths,
    pod: &StaticPod,
    spec: &Container,
    attempt: u32,
) -> io::Result<()> {
    let logs = paths.log_location(&pod.key, &pod.uid).join(&spec.name);
    let logs = logs.create(0o755)?;
    let log = format!("{attempt}.log");
    if logs.find(&log)?.is_some_and(|found| !found.is_plain) {
        // The runtime would write through a link, or wait for who reads a pipe.
        clear_name(&logs, &log)?;
    }
    Ok(())
}

/// Makes the file for the termination message of one instance of a container.
///
/// # Errors
/// Any I/O error.
pub fn create_termination_log(
    paths: &Paths,
    pod: &StaticPod,
    spec: &Container,
    attempt: u32,
) -> io::Result<()> {
    let (folder, file) = paths.termination_location(&pod.uid, &spec.name, attempt);
    let folder = folder.create(0o750)?;
    clear_name(&folder, &file)?;
    let file = folder.create_new(&file, 0o600)?;
    // The container may run as anybody.
    file.set_permissions(Permissions::from_mode(0o666))
}

/// Removes whatever has a name in a folder, a folder with all in it.
fn clear_name(folder: &Folder, name: &str) -> io::Result<()> {
    match folder.find(name)? {
        Some(found) if found.is_folder => volume::remove_tree(&folder.path().join(name)),
        _ => folder.remove(name),
    }
}

/// Removes what one instance of a container left: its log, rotated parts and the link to it included,
/// and its termination message.
///
/// # Errors
/// Any I/O error; that a file is not there is none.
pub fn remove_container(
    paths: &Paths,
    key: &PodKey,
    uid: &ValidUid,
    container: &str,
    attempt: u32,
) -> io::Result<()> {
    check_key(key)?;
    check_container(container)?;
    let uid = uid.as_str();
    let (own, file) = paths.termination_location(uid, container, attempt);
    if let Ok(own) = own.open() {
        clear_name(&own, &file)?;
    }
    let log = paths.container_log(key, uid, container, attempt);
    paths.log_links().remove(&key.namespace, &key.name, &log)?;
    let Ok(logs) = paths.log_location(key, uid).join(container).open() else {
        return Ok(());
    };
    let prefix = format!("{attempt}.log");
    let own = logs.names(|name| name.starts_with(&prefix))?;
    own.iter().try_for_each(|name| clear_name(&logs, name))
}

/// Removes the Pod's logs with the links to them, and its folder.
///
/// # Errors
/// Any I/O error; that something is not there is none.
pub fn remove(paths: &Paths, key: &PodKey, uid: &ValidUid) -> io::Result<()> {
    check_key(key)?;
    let logs = paths.pod_logs(key, uid.as_str());
    volume::remove_tree(&logs).map_err(at(&logs))?;
    paths.log_links().remove(&key.namespace, &key.name, &logs)?;
    remove_folder(paths, uid)
}

/// Removes the folder and the logs of a Pod whose name is not known any more. That there is a folder
/// of this UID proves that logs with the UID in their name are ours.
///
/// # Errors
/// Any I/O error; that something is not there is none.
pub fn remove_nameless(paths: &Paths, uid: &ValidUid) -> io::Result<()> {
    let suffix = format!("_{uid}");
    for entry in fs::read_dir(&paths.logs).into_iter().flatten() {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(&suffix) {
            volume::remove_tree(&entry.path())?;
        }
    }
    remove_folder(paths, uid)
}

/// Removes the Pod's folder. The record goes last, so that a removal that was cut off is taken up
/// again.
fn remove_folder(paths: &Paths, uid: &ValidUid) -> io::Result<()> {
    let uid = uid.as_str();
    let folder = paths.pod(uid);
    volume::remove(paths, uid).map_err(at(&folder.join("volumes")))?;
    for inner in ["containers", "etc-hosts"] {
        let inner = folder.join(inner);
        volume::remove_tree(&inner).map_err(at(&inner))?;
    }
    volume::remove_tree(&folder).map_err(at(&folder))
}

/// The Pod's own range of ids on the host: the one that it has, or the first that no other Pod has.
///
/// # Errors
/// Any I/O error, or no range is left.
pub fn user_namespace(paths: &Paths, uid: &str) -> io::Result<UserNamespaceRange> {
    // Two Pods at a time must not find the same range free.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(own) = read_user_namespace(paths, uid) {
        return Ok(own);
    }
    let uids = list(paths)?;
    let taken: BTreeSet<u32> = uids
        .iter()
        .filter_map(|uid| Some(read_user_namespace(paths, uid)?.host_id))
        .collect();
    let free = (1..=u16::MAX).map(|n| u32::from(n) * IDS_PER_POD);
    let host_id = free.into_iter().find(|id| !taken.contains(id));
    let host_id = host_id.ok_or_else(|| io::Error::other("no range of user ids is left"))?;
    let range = UserNamespaceRange {
        host_id,
        length: IDS_PER_POD,
    };
    private_folder(&paths.pod(uid))?;
    write_json(&paths.pod(uid).join(USER_NAMESPACE), &range)?;
    Ok(range)
}

fn read_user_namespace(paths: &Paths, uid: &str) -> Option<UserNamespaceRange> {
    read_own(paths, uid, USER_NAMESPACE)
}

/// Reads a file of the Pod's own folder, if it is there and readable.
fn read_own<T: DeserializeOwned>(paths: &Paths, uid: &str, name: &str) -> Option<T> {
    let folder = paths.pod_location(uid).open().ok()?;
    json::from_slice(&folder.read(name, MAX_OWN).ok()?).ok()
}

fn private_folder(path: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(at(path))
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    atomic_file::write(path, &serde_json::to_vec(value)?)
}

#[cfg(test)]
mod tests;
