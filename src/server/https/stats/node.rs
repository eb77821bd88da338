//! Usage of the machine, from the kernel.

use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{NodeUsage, disk, network};
use crate::cri::v1;
use crate::host::machine::{self, meminfo_bytes as bytes};

/// Measures the machine; `time` is the present in nanoseconds since the epoch, `root` the agent's root
/// directory.
pub(super) fn measure(time: i64, root: &Path) -> NodeUsage {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (stat, meminfo) = (read("/proc/stat"), read("/proc/meminfo"));
    let ticks = rustix::param::clock_ticks_per_second();
    let pressure = |what: &str| pressure(&read(&format!("/proc/pressure/{what}")));
    let (major, all) = page_faults(&read("/proc/vmstat"));
    let interfaces = network::interfaces("self");
    NodeUsage {
        started: boot_time(&stat),
        cpu: busy_nanoseconds(&stat, ticks).map(|busy| v1::CpuUsage {
            timestamp: time,
            usage_core_nano_seconds: some(busy),
            psi: pressure("cpu"),
            ..v1::CpuUsage::default()
        }),
        memory: memory(&meminfo, time).map(|memory| v1::MemoryUsage {
            page_faults: all,
            major_page_faults: major,
            psi: pressure("memory"),
            ..memory
        }),
        io: pressure("io").map(|psi| v1::IoUsage {
            timestamp: time,
            psi: Some(psi),
        }),
        swap: swap(&meminfo, time),
        network: network::usage(&interfaces, time),
        interfaces,
        disk: disk::at(root),
        process_ids: machine::process_ids(),
        time,
    }
}

/// Returns the major page faults and all, which `/proc/vmstat` has since the machine's start.
fn page_faults(vmstat: &str) -> (Option<v1::UInt64Value>, Option<v1::UInt64Value>) {
    let of = |name: &str| {
        let mut lines = vmstat.lines();
        let number = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        some(number.trim().parse().ok()?)
    };
    (of("pgmajfault"), of("pgfault"))
}

/// Reads a file of pressure stall information (the kernel's `accounting/psi`): a line for `some` tasks that
/// wait, and one for `full`. `None` where the kernel has none.
fn pressure(text: &str) -> Option<v1::PsiStats> {
    let line = |kind: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let of = |name: &str| {
            let mut fields = rest.split_whitespace();
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let share = |name| of(name)?.parse().ok();
        Some(v1::PsiData {
            total: of("total")?.parse().ok()?,
            avg10: share("avg10")?,
            avg60: share("avg60")?,
            avg300: share("avg300")?,
        })
    };
    let some = line("some ")?;
    Some(v1::PsiStats {
        full: line("full "),
        some: Some(some),
    })
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
        let faults = page_faults("pgfree 3\npgfault 20\npgmajfault 4\n");
        assert_eq!(faults, (some(4), some(20)));
        assert_eq!(super::memory("MemTotal: 1 kB\n", 1), None);
    }

    #[test]
    fn pressure_is_read_where_the_kernel_has_it() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.03 total=42\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let found = pressure(text).unwrap();
        let some = found.some.unwrap();
        assert_eq!((some.total, some.avg10, some.avg300), (42, 1.5, 0.03));
        assert_eq!(found.full.unwrap().total, 7);
        assert_eq!(pressure(""), None);
    }
}
