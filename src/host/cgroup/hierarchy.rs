//! Hierarchies of cgroups: one for each controller with cgroup v1, one for all with cgroup v2.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::CgroupLimits;

/// Time for which hierarchies count as they were found: they are mounted when a machine boots, and of many Pods that
/// start at once each would look at a dozen folders for the few files that concern it.
const FRESH: Duration = Duration::from_secs(1);

/// Controllers by which no Pod is limited as a whole.
const WITHOUT_LIMITS: [&str; 10] = [
    "blkio",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
];

/// Hierarchies that were found last.
static LAST: Mutex<Option<Found>> = Mutex::new(None);

struct Found {
    at: Instant,
    root: PathBuf,
    hierarchies: Arc<[Hierarchy]>,
}

/// A mounted hierarchy, and which controllers with limits it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) root: PathBuf,
    pub(super) controllers: Controllers,
}

/// Controllers with limits that are known here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Controllers(Vec<Controller>);

/// A controller with limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Cpuset,
    Memory,
    HugePages,
}

impl Hierarchy {
    fn at(root: PathBuf) -> Self {
        let controllers = Controllers::of(&root);
        Self { root, controllers }
    }

    pub(super) fn has(&self, controller: Controller) -> bool {
        self.controllers.0.contains(&controller)
    }

    /// Returns `true` unless each of its controllers is one by which these limits limit nothing.
    pub(super) fn may_limit(&self, limits: &CgroupLimits) -> bool {
        controller_names(&self.root).any(|name| match name {
            "pids" => limits.pids.is_some(),
            other => !WITHOUT_LIMITS.contains(&other),
        })
    }
}

/// Returns the names of the controllers that a hierarchy of cgroup v1 has, by which it is mounted.
pub(crate) fn controller_names(root: &Path) -> impl Iterator<Item = &str> {
    let name = root.file_name().and_then(OsStr::to_str);
    name.unwrap_or_default().split(',')
}

impl Controllers {
    /// Reads them off the files that the root of a hierarchy has, or with cgroup v2 in its `cgroup.controllers`.
    fn of(root: &Path) -> Self {
        let unified = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let handed = unified.split_whitespace().filter_map(|name| match name {
            "cpu" => Some(Controller::Cpu),
            "cpuset" => Some(Controller::Cpuset),
            "memory" => Some(Controller::Memory),
            "hugetlb" => Some(Controller::HugePages),
            _ => None,
        });
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let of_files = names.filter_map(|name| match name.as_str() {
            "cpu.shares" => Some(Controller::Cpu),
            "cpuset.cpus" => Some(Controller::Cpuset),
            "memory.limit_in_bytes" => Some(Controller::Memory),
            // One for each page size.
            name if name.starts_with("hugetlb.") => Some(Controller::HugePages),
            _ => None,
        });
        Self(handed.chain(of_files).collect())
    }
}

/// The hierarchies below a root as they are, or were a moment ago.
pub(super) fn known(root: &Path) -> Arc<[Hierarchy]> {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = &*last
        && found.root == root
        && found.at.elapsed() < FRESH
    {
        return Arc::clone(&found.hierarchies);
    }
    let hierarchies: Arc<[_]> = hierarchies(root).into_iter().map(Hierarchy::at).collect();
    *last = Some(Found {
        at: Instant::now(),
        root: root.to_owned(),
        hierarchies: Arc::clone(&hierarchies),
    });
    hierarchies
}

/// Returns the roots of all hierarchies: the one, or on a node with cgroup v1 each of the mounted ones.
pub(crate) fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.procs").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    // Symlinks such as `cpu` beside `cpu,cpuacct` lead to a hierarchy that is listed itself.
    let folders = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|e| e.path()).collect()
}
