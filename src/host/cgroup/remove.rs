//! Removal of cgroups: with the processes that are left in them, or those that are not in use.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tracing::debug;

use super::{hierarchies, systemd};
use crate::host::file_error::at;

/// Tries to remove a cgroup whose processes are just ending, and the pause between them.
const REMOVAL_TRIES: u32 = 20;
pub(super) const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Removes a cgroup and those below it, in every hierarchy.
///
/// Processes that are left in it are killed, as the kubelet does: a runtime that died while it created a
/// sandbox does not know of them any more.
///
/// # Errors
/// Any I/O error, or systemd holds it still; that it is not there is none.
pub fn remove(root: &Path, path: &str) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    systemd::stop_slice(path)?;
    let roots = hierarchies(root);
    for root in &roots {
        let folder = root.join(path);
        let mut tries = 0_u32;
        while let Err(error) = remove_tree(&folder) {
            tries = tries.saturating_add(1);
            if error.kind() != io::ErrorKind::ResourceBusy || tries == REMOVAL_TRIES {
                return Err(error);
            }
            // With cgroup v1 what freezes a process is in a hierarchy of its own.
            for root in &roots {
                thaw(&root.join(path));
            }
            kill_processes(&folder);
            std::thread::sleep(REMOVAL_PAUSE);
        }
    }
    Ok(())
}

/// Removes a cgroup that has neither processes nor cgroups below it, in every hierarchy. One that is in use stays.
///
/// # Errors
/// Any I/O error; that it is not there is none.
pub fn remove_unused(root: &Path, path: &str) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    if !remove_folders(root, path)? {
        return Ok(());
    }
    if let Err(error) = systemd::stop_slice(path) {
        debug!(path, %error, "Failed to stop slice");
    }
    // systemd may have created them again before it was asked.
    remove_folders(root, path).map(drop)
}

/// Removes the folders of a cgroup in every hierarchy. Returns `false` at the first one that is in use: only the kernel
/// can tell without a race.
fn remove_folders(root: &Path, path: &str) -> io::Result<bool> {
    for root in hierarchies(root) {
        let folder = root.join(path);
        match fs::remove_dir(&folder) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                return Ok(false);
            }
            Err(e) => return Err(at(&folder)(e)),
        }
    }
    Ok(true)
}

/// Thaws the processes of a cgroup and those below it: a frozen process does not receive its signal.
fn thaw(folder: &Path) {
    for (file, thawed) in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
        let file = folder.join(file);
        if file.exists() {
            // Where that fails, the kill has no effect, and the removal reports it.
            let _ = fs::write(file, thawed);
        }
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            thaw(&entry.path());
        }
    }
}

/// Kills every process in a cgroup and those below it.
fn kill_processes(folder: &Path) {
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let ids = processes.lines().filter_map(|line| line.parse().ok());
    for id in ids.filter_map(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(id, Signal::KILL);
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_processes(&entry.path());
        }
    }
}

/// Removes the folder of a cgroup and those below it.
pub(super) fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        // Files of a cgroup are the kernel's, and go with their folder.
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io::Error::new(
            e.kind(),
            format!("{}: {e}", folder.display()),
        )),
        Ok(()) => Ok(()),
    }
}
