//! The node's cgroup hierarchies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tracing::debug;

/// Where cgroup file systems are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// How often, and after which pause, a cgroup is tried again whose processes are just ending.
const REMOVAL_TRIES: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Whether the node has the unified hierarchy only.
#[must_use]
pub fn is_unified() -> bool {
    Path::new(CGROUP_ROOT).join("cgroup.controllers").exists()
}

/// Whether the swap of a cgroup can be limited on a unified hierarchy.
#[must_use]
pub fn has_swap_controller() -> bool {
    let Ok(entries) = fs::read_dir(CGROUP_ROOT) else {
        return false;
    };
    let mut slices = entries.flatten();
    slices.any(|slice| slice.path().join("memory.swap.max").exists())
}

/// Sizes of the huge pages that the kernel has, as cgroups write them: `2MB`, `1GB`.
#[must_use]
pub fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return vec![];
    };
    let kilobytes = |name: String| -> Option<u64> {
        let size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        size.parse().ok()
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut sizes: Vec<u64> = names.filter_map(kilobytes).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

fn page_size(kilobytes: u64) -> String {
    match kilobytes {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    }
}

/// Removes a cgroup and those below it, in every hierarchy. `path` is taken from the hierarchies' roots.
/// Processes that are left in it are killed, as the kubelet does: a runtime that died while it made a
/// sandbox does not know of them any more.
///
/// # Errors
/// Any I/O error; that it is not there is none.
pub fn remove(path: &str) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    stop_slice(path);
    for root in hierarchies(Path::new(CGROUP_ROOT)) {
        let folder = root.join(path);
        let mut tries = 0;
        while let Err(error) = remove_tree(&folder) {
            tries += 1;
            if error.kind() != io::ErrorKind::ResourceBusy || tries == REMOVAL_TRIES {
                return Err(error);
            }
            kill_processes(&folder);
            std::thread::sleep(REMOVAL_PAUSE);
        }
    }
    Ok(())
}

/// Where a cgroup is a slice of systemd, asks systemd to let go of it: systemd makes the folder of a slice
/// that it holds anew whenever it looks at it. What it does not do is done by hand afterwards.
fn stop_slice(path: &str) {
    let slice = path.rsplit('/').next().unwrap_or_default();
    if Path::new(slice)
        .extension()
        .is_none_or(|kind| kind != "slice")
    {
        return;
    }
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["stop", "--quiet", "--", slice]);
    match systemctl.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            debug!(slice, said = said.trim(), "systemd does not stop a slice");
        }
        Err(error) => debug!(slice, %error, "systemd cannot be asked to stop a slice"),
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

/// The roots of all hierarchies: the one, or on a node with cgroup v1 each of the mounted ones.
fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.procs").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.map(|e| e.path());
    // Symlinks such as `cpu` beside `cpu,cpuacct` lead to a hierarchy that is listed itself.
    folders.filter(|p| p.is_dir() && !p.is_symlink()).collect()
}

fn remove_tree(folder: &Path) -> io::Result<()> {
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
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_written_as_cgroups_write_them() {
        let sizes = [64, 2048, 1 << 20, 16 << 20].map(page_size);
        assert_eq!(sizes, ["64KB", "2MB", "1GB", "16GB"]);
    }

    #[test]
    fn a_cgroup_goes_with_the_empty_ones_below_it_from_every_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        for hierarchy in ["cpu", "memory"] {
            fs::create_dir_all(root.path().join(hierarchy).join("kubepods/pod1/c1")).unwrap();
            fs::create_dir_all(root.path().join(hierarchy).join("kubepods/pod2")).unwrap();
        }
        for hierarchy in hierarchies(root.path()) {
            remove_tree(&hierarchy.join("kubepods/pod1")).unwrap();
            remove_tree(&hierarchy.join("kubepods/pod1")).unwrap();
            assert!(!hierarchy.join("kubepods/pod1").exists());
            assert!(hierarchy.join("kubepods/pod2").exists());
        }
        assert_eq!(hierarchies(root.path()).len(), 2);
    }
}
