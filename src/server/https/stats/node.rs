//! Usage of the machine, from the kernel.

use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{FsAmounts, FsStats, NodeUsage};
use crate::cri::v1;

/// Measures the machine; `time` is the present in nanoseconds since the epoch, `root` the agent's root
/// directory.
pub(super) fn measure(time: i64, root: &Path) -> NodeUsage {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (stat, meminfo) = (read("/proc/stat"), read("/proc/meminfo"));
    let ticks = rustix::param::clock_ticks_per_second();
    NodeUsage {
        started: boot_time(&stat),
        cpu: busy_nanoseconds(&stat, ticks).map(|busy| v1::CpuUsage {
            timestamp: time,
            usage_core_nano_seconds: some(busy),
            ..v1::CpuUsage::default()
        }),
        memory: memory(&meminfo, time),
        swap: swap(&meminfo, time),
        disk: disk(root, time),
    }
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the runtime's messages may leave numbers out"
)]
fn some(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// Returns the busy time of all CPUs: the line `cpu` of `proc_stat(5)` without `idle` and `iowait`, and
/// without the time of guests, which is counted already.
fn busy_nanoseconds(stat: &str, ticks_per_second: u64) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields = line.split_whitespace().map(|field| field.parse().ok());
    let fields: Vec<u64> = fields.collect::<Option<_>>()?;
    let busy = fields.iter().take(8).enumerate();
    let busy = busy
        .filter(|(i, _)| !matches!(i, 3 | 4))
        .map(|(_, n)| *n)
        .fold(0, u64::saturating_add);
    let tick = 1_000_000_000_u64.checked_div(ticks_per_second);
    Some(busy.saturating_mul(tick.unwrap_or(0)))
}

fn boot_time(stat: &str) -> Option<Time> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    let time = jiff::Timestamp::from_second(seconds.trim().parse().ok()?).ok()?;
    Some(Time(time))
}

/// Returns memory; the working set is the usage without the inactive file cache, as for a cgroup.
fn memory(meminfo: &str, time: i64) -> Option<v1::MemoryUsage> {
    let all = bytes(meminfo, "MemTotal")?;
    let usage = all.checked_sub(bytes(meminfo, "MemFree")?)?;
    let working_set = usage.saturating_sub(bytes(meminfo, "Inactive(file)")?);
    Some(v1::MemoryUsage {
        timestamp: time,
        working_set_bytes: some(working_set),
        available_bytes: some(all.saturating_sub(working_set)),
        usage_bytes: some(usage),
        rss_bytes: bytes(meminfo, "AnonPages").and_then(some),
        ..v1::MemoryUsage::default()
    })
}

fn swap(meminfo: &str, time: i64) -> Option<v1::SwapUsage> {
    let free = bytes(meminfo, "SwapFree")?;
    let used = bytes(meminfo, "SwapTotal")?.checked_sub(free)?;
    Some(v1::SwapUsage {
        timestamp: time,
        swap_available_bytes: some(free),
        swap_usage_bytes: some(used),
    })
}

fn bytes(meminfo: &str, name: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

fn disk(root: &Path, time: i64) -> Option<FsStats> {
    let disk = rustix::fs::statvfs(root).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Some(FsStats {
        time,
        bytes: FsAmounts {
            all: bytes(disk.f_blocks),
            available: bytes(disk.f_bavail),
            used: bytes(disk.f_blocks.saturating_sub(disk.f_bfree)),
        },
        inodes: FsAmounts {
            all: disk.f_files,
            available: disk.f_favail,
            used: disk.f_files.saturating_sub(disk.f_ffree),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers_are_parsed() {
        let stat =
            "cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\nbtime 1767225600\n";
        assert_eq!(busy_nanoseconds(stat, 100), Some(171 * 10_000_000));
        let started = serde_json::to_value(boot_time(stat)).unwrap();
        assert_eq!(started, "2026-01-01T00:00:00Z");
        let meminfo = "MemTotal: 1000 kB\nMemFree: 300 kB\nInactive(file): 200 kB\nAnonPages: 50 kB\n\
                       SwapTotal: 9 kB\nSwapFree: 4 kB\n";
        let memory = memory(meminfo, 1).unwrap();
        assert_eq!(memory.working_set_bytes, some(500 << 10));
        assert_eq!(memory.available_bytes, some(500 << 10));
        assert_eq!(memory.usage_bytes, some(700 << 10));
        assert_eq!(swap(meminfo, 1).unwrap().swap_usage_bytes, some(5 << 10));
        assert_eq!(busy_nanoseconds("", 100), None);
        assert_eq!(super::memory("MemTotal: 1 kB\n", 1), None);
    }
}
