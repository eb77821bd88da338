//! The node's cgroup hierarchies, mounted below a root folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tracing::debug;

use crate::translate::{CPU_PERIOD, CgroupDriver, CgroupLimits};

/// How often, and after which pause, a cgroup is tried again whose processes are just ending.
const REMOVAL_TRIES: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Whether the node has the unified hierarchy only.
#[must_use]
pub fn is_unified(root: &Path) -> bool {
    root.join("cgroup.controllers").exists()
}

/// Whether the swap of a cgroup can be limited.
#[must_use]
pub fn has_swap_controller(root: &Path) -> bool {
    if !is_unified(root) {
        return root.join("memory/memory.memsw.limit_in_bytes").exists();
    }
    let Ok(entries) = fs::read_dir(root) else {
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

/// Makes a Pod's cgroup with its limits, or brings the limits of one that is there up to date. `path` is
/// taken from the hierarchies' roots.
///
/// # Errors
/// Any I/O error, or systemd does not make the slice.
pub fn create(
    root: &Path,
    driver: CgroupDriver,
    path: &str,
    limits: &CgroupLimits,
) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    if driver == CgroupDriver::Systemd {
        return create_slice(path, limits);
    }
    if is_unified(root) {
        create_unified(root, path, limits)
    } else {
        create_in_hierarchies(root, path, limits)
    }
}

/// cgroup v1: a folder in every hierarchy, and the limits where their controller is.
fn create_in_hierarchies(root: &Path, path: &str, limits: &CgroupLimits) -> io::Result<()> {
    for hierarchy in hierarchies(root) {
        let folder = hierarchy.join(path);
        if hierarchy.join("cpuset.cpus").exists() {
            create_cpuset(&hierarchy, path)?;
        }
        fs::create_dir_all(&folder)?;
        set(&folder, "cpu.shares", limits.cpu_shares)?;
        set(&folder, "cpu.cfs_period_us", CPU_PERIOD)?;
        let unlimited = |value: i64| if value == 0 { -1 } else { value };
        set(&folder, "cpu.cfs_quota_us", unlimited(limits.cpu_quota))?;
        set(&folder, "memory.limit_in_bytes", unlimited(limits.memory))?;
        for (size, bytes) in &limits.hugepages {
            set(&folder, &format!("hugetlb.{size}.limit_in_bytes"), bytes)?;
        }
        share_out(&folder, "cpu.shares")?;
    }
    Ok(())
}

/// A folder of the cpuset controller is of no use before it has CPUs and memory of those around it.
fn create_cpuset(hierarchy: &Path, path: &str) -> io::Result<()> {
    let mut folder = hierarchy.to_owned();
    for part in Path::new(path) {
        let around = folder.clone();
        folder.push(part);
        fs::create_dir_all(&folder)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(folder.join(file))?.trim().is_empty() {
                fs::write(folder.join(file), fs::read_to_string(around.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// cgroup v2: one folder, with the controllers handed down to it.
fn create_unified(root: &Path, path: &str, limits: &CgroupLimits) -> io::Result<()> {
    let mut folder = root.to_owned();
    for part in Path::new(path) {
        let controllers = fs::read_to_string(folder.join("cgroup.controllers"))?;
        for controller in controllers.split_whitespace() {
            // One that cannot be handed down, such as cpu beside real-time processes, is done without.
            let _ = fs::write(
                folder.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        folder.push(part);
        fs::create_dir_all(&folder)?;
    }
    set(&folder, "cpu.weight", cpu_weight(limits.cpu_shares))?;
    let or_max = |value: i64| match value {
        0 => "max".to_owned(),
        value => value.to_string(),
    };
    let quota = format!("{} {CPU_PERIOD}", or_max(limits.cpu_quota));
    set(&folder, "cpu.max", quota)?;
    set(&folder, "memory.max", or_max(limits.memory))?;
    for (size, bytes) in &limits.hugepages {
        set(&folder, &format!("hugetlb.{size}.max"), bytes)?;
    }
    share_out(&folder, "cpu.weight")
}

/// CPU shares from 2 to 262144 as a weight from 1 to 10000.
fn cpu_weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Gives the class that the Pod's cgroup stands in as much of the CPU as its Pods together ask for;
/// those of the best-effort class ask for none.
fn share_out(folder: &Path, file: &str) -> io::Result<()> {
    let Some(class) = folder.parent().filter(|p| is_class(p) && p.exists()) else {
        return Ok(());
    };
    let read = |folder: &Path| -> Option<i64> {
        fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let (least, most) = match file {
        "cpu.weight" => (1, 10_000),
        _ => (2, 262_144),
    };
    if class.ends_with("besteffort") {
        return set(class, file, least);
    }
    let pods = fs::read_dir(class)?
        .flatten()
        .filter_map(|pod| read(&pod.path()));
    let sum: i64 = pods.sum();
    set(class, file, sum.clamp(least, most))
}

fn is_class(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default();
    name == "burstable" || name == "besteffort"
}

/// Writes a setting of a cgroup, where its controller is there.
fn set(folder: &Path, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let path = folder.join(file);
    if !path.exists() {
        return Ok(());
    }
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    fs::write(&path, value.to_string()).map_err(named)
}

/// Has systemd make a slice with these limits and hold it.
fn create_slice(path: &str, limits: &CgroupLimits) -> io::Result<()> {
    let slice = path.rsplit('/').next().unwrap_or_default();
    let or_infinity = |value: i64| match value {
        0 => "infinity".to_owned(),
        value => value.to_string(),
    };
    let quota = match limits.cpu_quota {
        0 => String::new(),
        quota => percent(quota),
    };
    let properties = [
        format!("CPUWeight={}", cpu_weight(limits.cpu_shares)),
        format!("CPUQuota={quota}"),
        format!("MemoryMax={}", or_infinity(limits.memory)),
    ];
    let mut arguments = vec!["set-property", "--runtime", "--", slice];
    arguments.extend(properties.iter().map(String::as_str));
    systemctl(&arguments)?;
    systemctl(&["start", "--", slice])
}

/// A quota of each period in percent, with as many digits as systemd takes.
fn percent(quota: i64) -> String {
    let hundredths = (quota * 10_000).div_euclid(CPU_PERIOD).max(1);
    match hundredths % 100 {
        0 => format!("{}%", hundredths / 100),
        rest => format!("{}.{rest:02}%", hundredths / 100),
    }
}

fn systemctl(arguments: &[&str]) -> io::Result<()> {
    let mut systemctl = Command::new("systemctl");
    let output = systemctl.args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "systemctl {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}

/// Removes a cgroup and those below it, in every hierarchy. `path` is taken from the hierarchies' roots.
/// Processes that are left in it are killed, as the kubelet does: a runtime that died while it made a
/// sandbox does not know of them any more.
///
/// # Errors
/// Any I/O error; that it is not there is none.
pub fn remove(root: &Path, path: &str) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    stop_slice(path);
    for root in hierarchies(root) {
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
        for file in ["cpu.shares", "cpu.weight"] {
            share_out(&folder, file)?;
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
    if let Err(error) = systemctl(&["stop", "--quiet", "--", slice]) {
        debug!(slice, %error, "systemd does not stop a slice");
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
    fn shares_become_weights_as_the_runtime_has_them() {
        let weights = [2, 102, 1024, 262_144].map(cpu_weight);
        assert_eq!(weights, [1, 4, 39, 10_000]);
    }

    #[test]
    fn a_quota_becomes_percent_as_systemd_takes_it() {
        let found = [15_500, 100_000, 250_000, 1].map(percent);
        assert_eq!(found, ["15.50%", "100%", "250%", "0.01%"]);
    }

    #[test]
    fn a_class_has_the_shares_of_its_pods_together() {
        let root = tempfile::tempdir().unwrap();
        for (name, expected) in [("burstable", "300"), ("besteffort", "2")] {
            let class = root.path().join("kubepods").join(name);
            for (pod, shares) in [("pod1", "100\n"), ("pod2", "200\n")] {
                fs::create_dir_all(class.join(pod)).unwrap();
                fs::write(class.join(pod).join("cpu.shares"), shares).unwrap();
            }
            fs::write(class.join("cpu.shares"), "1024").unwrap();
            share_out(&class.join("pod1"), "cpu.shares").unwrap();
            let shares = fs::read_to_string(class.join("cpu.shares")).unwrap();
            assert_eq!(shares, expected, "{name}");
        }
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
