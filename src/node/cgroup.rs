//! The node's cgroup hierarchies, mounted below a root folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tracing::debug;

use crate::translate::{
    CPU_PERIOD, CgroupDriver, CgroupLimits, QosClass, class_cgroup_path, cpu_shares,
};

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
    match (driver, is_unified(root)) {
        (CgroupDriver::Systemd, unified) => {
            create_slice(path, unified, limits)?;
            limit_hugepages(root, path, limits)
        }
        (CgroupDriver::Cgroupfs, true) => create_unified(root, path, limits),
        (CgroupDriver::Cgroupfs, false) => create_in_hierarchies(root, path, limits),
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
        set_hugepages(&folder, limits)?;
    }
    Ok(())
}

/// Limits huge pages of each size, where their controller is; of a size that the Pod says nothing of it has
/// none.
fn set_hugepages(folder: &Path, limits: &CgroupLimits) -> io::Result<()> {
    for (size, bytes) in &limits.hugepages {
        set(folder, &format!("hugetlb.{size}.limit_in_bytes"), bytes)?;
        set(folder, &format!("hugetlb.{size}.max"), bytes)?;
    }
    Ok(())
}

/// Limits huge pages of a slice, of which systemd knows nothing: it neither hands their controller down
/// nor, on cgroup v1, makes a folder in its hierarchy.
fn limit_hugepages(root: &Path, path: &str, limits: &CgroupLimits) -> io::Result<()> {
    if is_unified(root) {
        return set_hugepages(&hand_down(root, path)?, limits);
    }
    let has_controller = |hierarchy: &PathBuf| {
        let mut sizes = limits.hugepages.iter();
        sizes.any(|(size, _)| {
            let file = format!("hugetlb.{size}.limit_in_bytes");
            hierarchy.join(file).exists()
        })
    };
    for hierarchy in hierarchies(root).into_iter().filter(has_controller) {
        let folder = hierarchy.join(path);
        fs::create_dir_all(&folder)?;
        set_hugepages(&folder, limits)?;
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
    let folder = hand_down(root, path)?;
    set(&folder, "cpu.weight", cpu_weight(limits.cpu_shares))?;
    let or_max = |value: i64| match value {
        0 => "max".to_owned(),
        value => value.to_string(),
    };
    let quota = format!("{} {CPU_PERIOD}", or_max(limits.cpu_quota));
    set(&folder, "cpu.max", quota)?;
    set(&folder, "memory.max", or_max(limits.memory))?;
    set_hugepages(&folder, limits)
}

/// Makes a folder of the unified hierarchy, if it is not there, with every controller that it can have.
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

/// CPU shares from 2 to 262144 as a weight from 1 to 10000.
fn cpu_weight(shares: i64) -> i64 {
    let above = shares.clamp(2, 262_144).saturating_sub(2);
    above
        .saturating_mul(9999)
        .div_euclid(262_142)
        .saturating_add(1)
}

/// Held while the classes are given their parts: of two Pods that start at once, the one that knows of both
/// has the last word.
static CLASSES: Mutex<()> = Mutex::new(());

/// Gives the classes of service that have a cgroup as much of the CPU as their Pods together ask for
/// (the kubelet's `setCPUCgroupConfig`): `burstable` tells that of the burstable ones in thousandths of a
/// CPU, those of the best-effort class ask for none.
///
/// # Errors
/// Any I/O error, or systemd does not do it.
pub fn share_out(
    root: &Path,
    driver: CgroupDriver,
    burstable: impl FnOnce() -> i64,
) -> io::Result<()> {
    let _sole = CLASSES.lock().unwrap_or_else(PoisonError::into_inner);
    let classes = [
        (QosClass::Burstable, cpu_shares(burstable())),
        (QosClass::BestEffort, cpu_shares(0)),
    ];
    for (class, shares) in classes {
        let path = class_cgroup_path(driver, class);
        let path = path.trim_start_matches('/');
        let folders = hierarchies(root).into_iter().map(|h| h.join(path));
        let there: Vec<PathBuf> = folders.filter(|folder| folder.is_dir()).collect();
        let has = there.iter().any(|folder| {
            reads(folder, "cpu.shares", shares) || reads(folder, "cpu.weight", cpu_weight(shares))
        });
        if has || there.is_empty() {
            continue;
        }
        if driver == CgroupDriver::Systemd {
            let cpu = cpu_property(is_unified(root), shares);
            systemctl(&["set-property", "--runtime", "--", slice_name(path), &cpu])?;
            continue;
        }
        for folder in there {
            set(&folder, "cpu.shares", shares)?;
            set(&folder, "cpu.weight", cpu_weight(shares))?;
        }
    }
    Ok(())
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

/// Whether a setting of a cgroup has this value.
fn reads(folder: &Path, file: &str, value: i64) -> bool {
    let found = fs::read_to_string(folder.join(file));
    found.is_ok_and(|found| found.trim().parse() == Ok(value))
}

/// Has systemd make a slice with these limits and hold it.
fn create_slice(path: &str, unified: bool, limits: &CgroupLimits) -> io::Result<()> {
    let slice = slice_name(path);
    let or_infinity = |value: i64| match value {
        0 => "infinity".to_owned(),
        value => value.to_string(),
    };
    let quota = match limits.cpu_quota {
        0 => String::new(),
        quota => percent(quota),
    };
    let properties = [
        cpu_property(unified, limits.cpu_shares),
        format!("CPUQuota={quota}"),
        format!("MemoryMax={}", or_infinity(limits.memory)),
    ];
    let mut arguments = vec!["set-property", "--runtime", "--", slice];
    arguments.extend(properties.iter().map(String::as_str));
    systemctl(&arguments)?;
    systemctl(&["start", "--", slice])
}

/// A slice is known to systemd by the last part of its path.
fn slice_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// CPU shares as systemd takes them on the node's hierarchy. It would make other shares of a weight.
fn cpu_property(unified: bool, shares: i64) -> String {
    if unified {
        format!("CPUWeight={}", cpu_weight(shares))
    } else {
        format!("CPUShares={shares}")
    }
}

/// A quota of each period in percent, with as many digits as systemd takes.
fn percent(quota: i64) -> String {
    let hundredths = quota.saturating_mul(10_000).div_euclid(CPU_PERIOD).max(1);
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

/// Where a cgroup is a slice of systemd, asks systemd to let go of it: systemd makes the folder of a slice
/// that it holds anew whenever it looks at it. What it does not do is done by hand afterwards.
fn stop_slice(path: &str) {
    let slice = slice_name(path);
    // Nothing but what Pods have is ever stopped.
    let is_slice = Path::new(slice).extension().is_some_and(|e| e == "slice");
    if !is_slice || !slice.starts_with("kubepods-") {
        return;
    }
    if let Err(error) = systemctl(&["stop", "--quiet", "--", slice]) {
        debug!(slice, %error, "systemd does not stop a slice");
    }
}

/// Lets the processes of a cgroup and those below it run: a frozen one does not hear its kill.
fn thaw(folder: &Path) {
    for (file, thawed) in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
        let file = folder.join(file);
        if file.exists() {
            // Where it cannot be done the kill has no effect, and the removal tells.
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
        Err(e) => Err(io::Error::new(
            e.kind(),
            format!("{}: {e}", folder.display()),
        )),
        Ok(()) => Ok(()),
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
    fn a_class_has_the_shares_of_what_its_pods_request_together() {
        let root = tempfile::tempdir().unwrap();
        // A hierarchy of each kind: shares in the one, weights in the other.
        for hierarchy in ["cpu", "unified"] {
            for class in ["burstable", "besteffort"] {
                let class = root.path().join(hierarchy).join("kubepods").join(class);
                fs::create_dir_all(&class).unwrap();
                let file = match hierarchy {
                    "cpu" => "cpu.shares",
                    _ => "cpu.weight",
                };
                fs::write(class.join(file), "").unwrap();
            }
        }
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        for (milli, shares, weight) in [(0, "2", "1"), (1500, "1536", "59")] {
            share_out(root.path(), CgroupDriver::Cgroupfs, || milli).unwrap();
            assert_eq!(read("cpu/kubepods/burstable/cpu.shares"), shares);
            assert_eq!(read("unified/kubepods/burstable/cpu.weight"), weight);
            assert_eq!(read("cpu/kubepods/besteffort/cpu.shares"), "2");
            assert_eq!(read("unified/kubepods/besteffort/cpu.weight"), "1");
        }
    }

    #[test]
    fn of_two_that_share_out_at_once_the_one_that_knows_of_both_has_the_last_word() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("cpu/kubepods/burstable");
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("cpu.shares"), "").unwrap();
        let (asked, begin) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let (root, class) = (root.path(), &class);
            scope.spawn(move || {
                share_out(root, CgroupDriver::Cgroupfs, || {
                    asked.send(()).unwrap();
                    // Time for the other one to overtake, if it could.
                    std::thread::sleep(REMOVAL_PAUSE);
                    1000
                })
            });
            begin.recv().unwrap();
            share_out(root, CgroupDriver::Cgroupfs, || 2000).unwrap();
            let shares = fs::read_to_string(class.join("cpu.shares")).unwrap();
            assert_eq!(shares, "2048");
        });
        let shares = fs::read_to_string(class.join("cpu.shares")).unwrap();
        assert_eq!(shares, "2048");
    }

    #[test]
    fn huge_pages_of_a_slice_are_limited_in_every_hierarchy_that_has_them() {
        let limits = CgroupLimits {
            hugepages: vec![("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)],
            ..CgroupLimits::default()
        };
        let path = "kubepods.slice/kubepods-pod1.slice";
        let root = tempfile::tempdir().unwrap();
        let at = |file: &str| root.path().join(file);
        for hierarchy in ["hugetlb", "cpu"] {
            fs::create_dir(at(hierarchy)).unwrap();
        }
        fs::write(at("hugetlb/hugetlb.2MB.limit_in_bytes"), "").unwrap();
        let folder = format!("hugetlb/{path}");
        fs::create_dir_all(at(&folder)).unwrap();
        for size in ["2MB", "1GB"] {
            let file = format!("{folder}/hugetlb.{size}.limit_in_bytes");
            fs::write(at(&file), "8192").unwrap();
        }
        limit_hugepages(root.path(), path, &limits).unwrap();
        for (size, expected) in [("2MB", "4194304"), ("1GB", "0")] {
            let file = format!("{folder}/hugetlb.{size}.limit_in_bytes");
            assert_eq!(fs::read_to_string(at(&file)).unwrap(), expected);
        }
        assert!(!at("cpu/kubepods.slice").exists());

        let root = tempfile::tempdir().unwrap();
        let at = |file: &str| root.path().join(file);
        fs::create_dir_all(at(path)).unwrap();
        for folder in ["", "kubepods.slice"] {
            fs::write(at(folder).join("cgroup.controllers"), "hugetlb").unwrap();
        }
        let file = format!("{path}/hugetlb.2MB.max");
        fs::write(at(&file), "max").unwrap();
        limit_hugepages(root.path(), path, &limits).unwrap();
        assert_eq!(fs::read_to_string(at(&file)).unwrap(), "4194304");
        let handed = fs::read_to_string(at("kubepods.slice/cgroup.subtree_control"));
        assert_eq!(handed.unwrap(), "+hugetlb");
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
