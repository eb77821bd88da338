//! Figures that the kernel keeps of a cgroup and that the runtime does not report: throttling, caches, reads and
//! writes, limits (the kernel's `cgroup-v1` and `cgroup-v2`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::host::cgroup;

/// Devices of which reads and writes are shown, at most.
const MAX_DEVICES: usize = 16;
/// A limit of cgroup v1 from here on is none.
const NO_LIMIT: u64 = 1 << 62;

/// Figures of one cgroup. What the kernel does not have is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CgroupFigures {
    pub(super) cpu: CpuFigures,
    pub(super) memory: MemoryFigures,
    /// By the device's path.
    pub(super) io: BTreeMap<String, IoFigures>,
    pub(super) processes: Option<u64>,
    pub(super) threads: Option<u64>,
    /// 0 for no limit.
    pub(super) threads_max: Option<u64>,
}

/// Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CpuFigures {
    pub(super) user: Option<u64>,
    pub(super) system: Option<u64>,
    pub(super) periods: Option<u64>,
    pub(super) throttled_periods: Option<u64>,
    pub(super) throttled: Option<u64>,
    pub(super) burst_periods: Option<u64>,
    pub(super) burst: Option<u64>,
    /// Microseconds in each period; `None` for no limit.
    pub(super) quota: Option<u64>,
    /// Microseconds.
    pub(super) period: Option<u64>,
    pub(super) shares: Option<u64>,
}

/// Bytes, and counts of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MemoryFigures {
    pub(super) cache: Option<u64>,
    pub(super) mapped_file: Option<u64>,
    pub(super) active_file: Option<u64>,
    pub(super) inactive_file: Option<u64>,
    pub(super) kernel: Option<u64>,
    pub(super) swap: Option<u64>,
    pub(super) max_usage: Option<u64>,
    /// Times that the limit was reached.
    pub(super) limit_hits: Option<u64>,
    /// Processes that were killed at the limit.
    pub(super) oom_kills: Option<u64>,
    /// 0 for no limit.
    pub(super) limit: Option<u64>,
}

/// Bytes, and counts of operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IoFigures {
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
}

/// The mounted hierarchies.
#[derive(Debug)]
pub(super) struct CgroupReader {
    is_unified: bool,
    /// Folder of the hierarchy with each of these controllers.
    controllers: BTreeMap<&'static str, PathBuf>,
}

/// The controllers that are read.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "blkio", "pids"];

impl CgroupReader {
    /// `root` is the mount point of the cgroup file systems.
    pub(super) fn new(root: &Path) -> Self {
        let is_unified = cgroup::is_unified(root);
        let hierarchies = cgroup::hierarchies(root);
        let controllers = CONTROLLERS.iter().filter_map(|controller| {
            let has_controller = |folder: &&PathBuf| {
                is_unified || cgroup::controller_names(folder).any(|name| name == *controller)
            };
            let found = hierarchies.iter().find(has_controller)?;
            Some((*controller, found.clone()))
        });
        Self {
            is_unified,
            controllers: controllers.collect(),
        }
    }

    /// Returns the first of these cgroups that exists.
    pub(super) fn existing(&self, mut paths: impl Iterator<Item = String>) -> Option<String> {
        paths.find(|path| {
            let folder = self.folder("memory", path);
            folder.is_some_and(|folder| folder.is_dir())
        })
    }

    /// Returns the cgroup in this one that has an id in its name, as the runtime gives it a container's.
    pub(super) fn inner(&self, around: &str, id: &str) -> Option<String> {
        let folder = fs::read_dir(self.folder("memory", around)?).ok()?;
        let names = folder.flatten().map(|entry| entry.file_name());
        let mut names = names.filter_map(|name| name.into_string().ok());
        let name = names.find(|name| name.contains(id))?;
        Some(format!("{around}/{name}"))
    }

    /// Returns a process of a cgroup.
    pub(super) fn process(&self, path: &str) -> Option<String> {
        let processes = self.text("pids", path, "cgroup.procs")?;
        Some(processes.lines().next()?.to_owned())
    }

    /// Reads the figures of a cgroup.
    pub(super) fn read(&self, path: &str) -> CgroupFigures {
        let processes = self.text("pids", path, "cgroup.procs");
        let processes = processes.map(|all| all.lines().count());
        CgroupFigures {
            cpu: if self.is_unified {
                self.cpu_v2(path)
            } else {
                self.cpu_v1(path)
            },
            memory: if self.is_unified {
                self.memory_v2(path)
            } else {
                self.memory_v1(path)
            },
            io: self.io(path),
            processes: processes.and_then(|count| count.try_into().ok()),
            threads: self.number("pids", path, "pids.current"),
            threads_max: self.limit("pids", path, "pids.max"),
        }
    }

    fn cpu_v1(&self, path: &str) -> CpuFigures {
        let stat = self.table("cpu", path, "cpu.stat");
        let used = self.table("cpuacct", path, "cpuacct.stat");
        let ticks = rustix::param::clock_ticks_per_second();
        let tick = 1_000_000_000_u64.checked_div(ticks).unwrap_or_default();
        let time = |name: &str| Some(used.get(name)?.saturating_mul(tick));
        CpuFigures {
            user: time("user"),
            system: time("system"),
            periods: stat.get("nr_periods").copied(),
            throttled_periods: stat.get("nr_throttled").copied(),
            throttled: stat.get("throttled_time").copied(),
            burst_periods: stat.get("nr_bursts").copied(),
            burst: stat.get("burst_time").copied(),
            // -1 for none.
            quota: self.number("cpu", path, "cpu.cfs_quota_us"),
            period: self.number("cpu", path, "cpu.cfs_period_us"),
            shares: self.number("cpu", path, "cpu.shares"),
        }
    }

    fn cpu_v2(&self, path: &str) -> CpuFigures {
        let stat = self.table("cpu", path, "cpu.stat");
        let time = |name: &str| Some(stat.get(name)?.saturating_mul(1000));
        let max = self.text("cpu", path, "cpu.max").unwrap_or_default();
        let mut max = max.split_whitespace().map(|word| word.parse().ok());
        let weight = self.number("cpu", path, "cpu.weight");
        CpuFigures {
            user: time("user_usec"),
            system: time("system_usec"),
            periods: stat.get("nr_periods").copied(),
            throttled_periods: stat.get("nr_throttled").copied(),
            throttled: time("throttled_usec"),
            burst_periods: stat.get("nr_bursts").copied(),
            burst: time("burst_usec"),
            quota: max.next().flatten(),
            period: max.next().flatten(),
            shares: weight.map(shares),
        }
    }

    fn memory_v1(&self, path: &str) -> MemoryFigures {
        let stat = self.table("memory", path, "memory.stat");
        let of = |name: &str| stat.get(name).copied();
        let number = |file| self.number("memory", path, file);
        let oom = self.table("memory", path, "memory.oom_control");
        MemoryFigures {
            cache: of("total_cache"),
            mapped_file: of("total_mapped_file"),
            active_file: of("total_active_file"),
            inactive_file: of("total_inactive_file"),
            kernel: number("memory.kmem.usage_in_bytes"),
            swap: of("total_swap"),
            max_usage: number("memory.max_usage_in_bytes"),
            limit_hits: number("memory.failcnt"),
            oom_kills: oom.get("oom_kill").copied(),
            limit: self.limit("memory", path, "memory.limit_in_bytes"),
        }
    }

    fn memory_v2(&self, path: &str) -> MemoryFigures {
        let stat = self.table("memory", path, "memory.stat");
        let of = |name: &str| stat.get(name).copied();
        let events = self.table("memory", path, "memory.events");
        MemoryFigures {
            cache: of("file"),
            mapped_file: of("file_mapped"),
            active_file: of("active_file"),
            inactive_file: of("inactive_file"),
            kernel: of("kernel"),
            swap: self.number("memory", path, "memory.swap.current"),
            max_usage: self.number("memory", path, "memory.peak"),
            limit_hits: events.get("max").copied(),
            oom_kills: events.get("oom_kill").copied(),
            limit: self.limit("memory", path, "memory.max"),
        }
    }

    fn io(&self, path: &str) -> BTreeMap<String, IoFigures> {
        let text = |file| self.text("blkio", path, file).unwrap_or_default();
        let devices = if self.is_unified {
            io_v2(&text("io.stat"))
        } else {
            let bytes = text("blkio.throttle.io_service_bytes_recursive");
            io_v1(&bytes, &text("blkio.throttle.io_serviced_recursive"))
        };
        let devices = devices.into_iter().take(MAX_DEVICES);
        devices.map(|(id, io)| (device(&id), io)).collect()
    }

    fn folder(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let hierarchy = self.controllers.get(controller)?;
        Some(hierarchy.join(path.trim_start_matches('/')))
    }

    fn text(&self, controller: &str, path: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.folder(controller, path)?.join(file)).ok()
    }

    fn number(&self, controller: &str, path: &str, file: &str) -> Option<u64> {
        self.text(controller, path, file)?.trim().parse().ok()
    }

    /// Reads a limit; 0 if there is none.
    fn limit(&self, controller: &str, path: &str, file: &str) -> Option<u64> {
        let text = self.text(controller, path, file)?;
        let limit: u64 = text.trim().parse().unwrap_or(u64::MAX);
        Some(if limit < NO_LIMIT { limit } else { 0 })
    }

    /// Reads a file with a name and a number in each line.
    fn table(&self, controller: &str, path: &str, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(controller, path, file).unwrap_or_default();
        let row = |line: &str| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        };
        text.lines().filter_map(row).collect()
    }
}

/// Shares of cgroup v1 that a weight of cgroup v2 stands for (Kubernetes, KEP-2254).
fn shares(weight: u64) -> u64 {
    let above = weight.saturating_sub(1).saturating_mul(262_142);
    above
        .checked_div(9999)
        .unwrap_or_default()
        .saturating_add(2)
}

/// Reads lines such as `8:0 Read 4096`, of bytes and of operations.
fn io_v1(bytes: &str, operations: &str) -> BTreeMap<String, IoFigures> {
    let mut all: BTreeMap<String, IoFigures> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, kind, number] = words.as_slice() else {
                continue;
            };
            let Ok(number) = number.parse() else {
                continue;
            };
            let of = all.entry((*device).to_owned()).or_default();
            match (*kind, is_bytes) {
                ("Read", true) => of.read_bytes = number,
                ("Write", true) => of.written_bytes = number,
                ("Read", false) => of.reads = number,
                ("Write", false) => of.writes = number,
                _ => {}
            }
        }
    }
    all
}

/// Reads lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn io_v2(text: &str) -> BTreeMap<String, IoFigures> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let device = words.next()?.to_owned();
        let numbers: BTreeMap<&str, u64> = words
            .filter_map(|word| {
                let (name, number) = word.split_once('=')?;
                Some((name, number.parse().ok()?))
            })
            .collect();
        let of = |name| numbers.get(name).copied().unwrap_or_default();
        let io = IoFigures {
            read_bytes: of("rbytes"),
            written_bytes: of("wbytes"),
            reads: of("rios"),
            writes: of("wios"),
        };
        Some((device, io))
    };
    text.lines().filter_map(line).collect()
}

/// Returns the path of a block device by its numbers, as `8:0`, or the numbers.
pub(super) fn device(id: &str) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{id}"));
    let name = link.ok().and_then(|link| {
        let name = link.file_name()?.to_str()?;
        Some(format!("/dev/{name}"))
    });
    name.unwrap_or_else(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
    }

    #[test]
    fn figures_of_cgroup_v2_are_read() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[("cgroup.controllers", ""), ("cgroup.procs", "")],
        );
        let pod = root.path().join("kubepods.slice/pod1.slice");
        write(
            &pod.join("cri-containerd-abc.scope"),
            &[
                (
                    "cpu.stat",
                    "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 7\nnr_throttled 3\nthrottled_usec 2\n",
                ),
                ("cpu.max", "20000 100000\n"),
                ("cpu.weight", "4\n"),
                (
                    "memory.stat",
                    "anon 1\nfile 8192\nfile_mapped 4096\nkernel 7\n",
                ),
                ("memory.max", "max\n"),
                ("memory.events", "low 0\nmax 6\noom_kill 1\n"),
                (
                    "io.stat",
                    "0:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
                ),
                ("pids.current", "5\n"),
                ("pids.max", "100\n"),
                ("cgroup.procs", "11\n12\n"),
            ],
        );
        let reader = CgroupReader::new(root.path());
        let names = ["/kubepods.slice/pod0.slice", "/kubepods.slice/pod1.slice"];
        let found = reader
            .existing(names.map(str::to_owned).into_iter())
            .unwrap();
        assert_eq!(found, names[1]);
        let inner = reader.inner(&found, "abc").unwrap();
        assert_eq!(inner, format!("{found}/cri-containerd-abc.scope"));
        assert_eq!(reader.inner(&found, "other"), None);
        assert_eq!(reader.process(&inner).as_deref(), Some("11"));
        let figures = reader.read(&inner);
        let cpu = &figures.cpu;
        assert_eq!((cpu.user, cpu.throttled), (Some(5000), Some(2000)));
        assert_eq!((cpu.quota, cpu.period), (Some(20_000), Some(100_000)));
        assert_eq!(cpu.shares, Some(80));
        let memory = &figures.memory;
        assert_eq!((memory.cache, memory.limit), (Some(8192), Some(0)));
        assert_eq!((memory.limit_hits, memory.oom_kills), (Some(6), Some(1)));
        assert_eq!((figures.processes, figures.threads), (Some(2), Some(5)));
        let io = IoFigures {
            read_bytes: 10,
            written_bytes: 20,
            reads: 1,
            writes: 2,
        };
        assert_eq!(figures.io, [("0:0".to_owned(), io)].into());
    }

    #[test]
    fn figures_of_cgroup_v1_are_read_from_each_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        let files: [(&str, &[(&str, &str)]); 4] = [
            (
                "cpu,cpuacct",
                &[
                    ("cpu.shares", "102\n"),
                    ("cpu.cfs_quota_us", "-1\n"),
                    (
                        "cpu.stat",
                        "nr_periods 7\nnr_throttled 3\nthrottled_time 2\n",
                    ),
                ],
            ),
            (
                "memory",
                &[
                    ("memory.stat", "cache 1\ntotal_cache 4096\n"),
                    ("memory.limit_in_bytes", "9223372036854771712\n"),
                    ("memory.oom_control", "oom_kill_disable 0\noom_kill 2\n"),
                ],
            ),
            (
                "blkio",
                &[
                    (
                        "blkio.throttle.io_service_bytes_recursive",
                        "0:0 Read 10\n0:0 Write 20\nTotal 30\n",
                    ),
                    ("blkio.throttle.io_serviced_recursive", "0:0 Read 1\n"),
                ],
            ),
            ("pids", &[("pids.max", "max\n")]),
        ];
        for (hierarchy, files) in files {
            write(&root.path().join(hierarchy), files);
            write(&root.path().join(hierarchy).join("kubepods/pod1"), files);
        }
        let figures = CgroupReader::new(root.path()).read("/kubepods/pod1");
        assert_eq!(figures.cpu.throttled_periods, Some(3));
        assert_eq!((figures.cpu.quota, figures.cpu.shares), (None, Some(102)));
        let memory = figures.memory;
        assert_eq!((memory.cache, memory.limit), (Some(4096), Some(0)));
        assert_eq!(memory.oom_kills, Some(2));
        assert_eq!(figures.io["0:0"].written_bytes, 20);
        assert_eq!(figures.io["0:0"].reads, 1);
        assert_eq!(
            CgroupReader::new(root.path()).read("/none").cpu.shares,
            None
        );
    }
}
