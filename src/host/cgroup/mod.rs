//! Cgroups of the node, in the hierarchies that are mounted below a root folder.
//!
//! Paths of cgroups are taken from the roots of the hierarchies. With cgroup v1 there is one hierarchy for
//! each controller, with cgroup v2 one for all. Nothing here knows of Pods: callers give paths and limits.

mod hierarchy;
mod remove;
mod shares;
mod systemd;
#[cfg(test)]
mod tests;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use self::hierarchy::{Controller, known};
use super::file_error::at;

pub(crate) use hierarchy::{controller_names, hierarchies};
pub use remove::{remove, remove_unused};
pub use shares::update_shares;

/// Microseconds in which a quota of CPU counts.
pub const CPU_PERIOD: i64 = 100_000;

/// Manager of the cgroup file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// Nobody: each program creates the cgroups that it needs.
    #[default]
    Cgroupfs,
    /// systemd, which is asked for slices.
    Systemd,
}

/// Limits of a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// CPU shares, from 2 to 262144.
    pub cpu_shares: i64,
    /// Microseconds of CPU in each [`CPU_PERIOD`]; 0 for no limit.
    pub cpu_quota: i64,
    /// Bytes; 0 for no limit.
    pub memory: i64,
    /// Processes and threads; `None` leaves them as they are.
    pub pids: Option<u64>,
    /// Bytes of huge pages, by the page size as cgroups write it.
    pub hugepages: Vec<(String, u64)>,
}

/// Returns `true` if the node has the unified hierarchy only (cgroup v2).
#[must_use]
pub fn is_unified(root: &Path) -> bool {
    root.join("cgroup.controllers").exists()
}

/// Returns `true` if the swap of a cgroup can be limited.
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

/// Creates a cgroup with its limits, or updates the limits of an existing one.
///
/// # Errors
/// Any I/O error, or systemd does not create the slice.
pub fn create(
    root: &Path,
    driver: CgroupDriver,
    path: &str,
    limits: &CgroupLimits,
) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    match (driver, is_unified(root)) {
        (CgroupDriver::Systemd, unified) => {
            systemd::create_slice(path, unified, limits)?;
            limit_hugepages(root, path, limits)
        }
        (CgroupDriver::Cgroupfs, true) => create_unified(root, path, limits),
        (CgroupDriver::Cgroupfs, false) => create_in_hierarchies(root, path, limits),
    }
}

/// Has the manager of a cgroup leave it and all below it alone when the machine shuts down, so that whoever stops the
/// processes in it can do so in order. Those that nobody stops are killed at the end.
///
/// # Errors
/// Any I/O error, or systemd refuses it.
pub fn keep_until_shutdown(driver: CgroupDriver, path: &str) -> io::Result<()> {
    match driver {
        CgroupDriver::Systemd => systemd::keep_until_shutdown(path),
        CgroupDriver::Cgroupfs => Ok(()),
    }
}

/// Creates a folder with its limits in the hierarchies of cgroup v1, but for those in which there is nothing to limit:
/// runtimes create it there, with that of the first container below it, since they need every one of them.
fn create_in_hierarchies(root: &Path, path: &str, limits: &CgroupLimits) -> io::Result<()> {
    for hierarchy in known(root).iter() {
        let folder = hierarchy.root.join(path);
        let is_new = !folder.is_dir();
        if is_new && !hierarchy.may_limit(limits) {
            continue;
        }
        let has = |controller| hierarchy.has(controller);
        if has(Controller::Cpuset) {
            create_cpuset(&hierarchy.root, &folder)?;
        }
        fs::create_dir_all(&folder)?;
        let unlimited = |value: i64| if value == 0 { -1 } else { value };
        if has(Controller::Cpu) {
            set(&folder, "cpu.shares", limits.cpu_shares)?;
            // A new one is unlimited.
            if !is_new || limits.cpu_quota != 0 {
                set(&folder, "cpu.cfs_period_us", CPU_PERIOD)?;
                set(&folder, "cpu.cfs_quota_us", unlimited(limits.cpu_quota))?;
            }
        }
        if has(Controller::Memory) && (!is_new || limits.memory != 0) {
            set(&folder, "memory.limit_in_bytes", unlimited(limits.memory))?;
        }
        // The root has no file that tells of this controller.
        limit_pids(&folder, limits)?;
        if has(Controller::HugePages) {
            set_hugepages(&folder, limits)?;
        }
    }
    Ok(())
}

/// Limits processes, where their controller is.
fn limit_pids(folder: &Path, limits: &CgroupLimits) -> io::Result<()> {
    match limits.pids {
        None => Ok(()),
        Some(most) => set(folder, "pids.max", most).map(drop),
    }
}

/// Limits huge pages of each size, where their controller is.
fn set_hugepages(folder: &Path, limits: &CgroupLimits) -> io::Result<()> {
    for (size, bytes) in &limits.hugepages {
        set(folder, &format!("hugetlb.{size}.limit_in_bytes"), bytes)?;
        set(folder, &format!("hugetlb.{size}.max"), bytes)?;
    }
    Ok(())
}

/// Limits huge pages of a slice, of which systemd knows nothing: it neither hands their controller down
/// nor, on cgroup v1, creates a folder in its hierarchy.
fn limit_hugepages(root: &Path, path: &str, limits: &CgroupLimits) -> io::Result<()> {
    if is_unified(root) {
        return set_hugepages(&hand_down(root, path)?, limits);
    }
    let all = known(root);
    for hierarchy in all.iter().filter(|h| h.has(Controller::HugePages)) {
        let folder = hierarchy.root.join(path);
        fs::create_dir_all(&folder)?;
        set_hugepages(&folder, limits)?;
    }
    Ok(())
}

/// Creates a folder of the cpuset controller, which is of no use before it has the CPUs and memory nodes of
/// the one above it. Those above it are looked at where they have none either.
fn create_cpuset(hierarchy: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let Some(around) = folder.parent().filter(|_| folder != hierarchy) else {
        return Ok(());
    };
    let read = |folder: &Path, file: &str| fs::read_to_string(folder.join(file));
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(folder, file)?.trim().is_empty() {
            let mut above = read(around, file)?;
            if above.trim().is_empty() {
                create_cpuset(hierarchy, around)?;
                above = read(around, file)?;
            }
            fs::write(folder.join(file), above)?;
        }
    }
    Ok(())
}

/// Creates a folder of cgroup v2, with the controllers handed down to it.
fn create_unified(root: &Path, path: &str, limits: &CgroupLimits) -> io::Result<()> {
    let folder = hand_down(root, path)?;
    set(&folder, "cpu.weight", cpu_weight(limits.cpu_shares))?;
    let or_max = |value: i64| match value {
        0 => "max".to_owned(),
        value => value.to_string(),
    };
    let quota = format!("{} {CPU_PERIOD}", or_max(limits.cpu_quota));
    set(&folder, "cpu.max", quota)?;
    set(&folder, "memory.max", or_max(limits.memory))?;
    limit_pids(&folder, limits)?;
    set_hugepages(&folder, limits)
}

/// Creates a folder of the unified hierarchy, if it is missing, with every controller that it can have.
fn hand_down(root: &Path, path: &str) -> io::Result<PathBuf> {
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
    Ok(folder)
}

/// Converts CPU shares from 2 to 262144 into a weight from 1 to 10000.
fn cpu_weight(shares: i64) -> i64 {
    let above = shares.clamp(2, 262_144).saturating_sub(2);
    above
        .saturating_mul(9999)
        .div_euclid(262_142)
        .saturating_add(1)
}

/// Writes a setting of a cgroup, if its controller is there; returns `true` if it is.
fn set(folder: &Path, file: &str, value: impl std::fmt::Display) -> io::Result<bool> {
    let path = folder.join(file);
    let mut existing = OpenOptions::new();
    let written = match existing.write(true).truncate(true).open(&path) {
        Ok(mut file) => file.write_all(value.to_string().as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => Err(error),
    };
    written.map(|()| true).map_err(at(&path))
}
