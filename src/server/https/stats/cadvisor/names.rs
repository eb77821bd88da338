//! The metrics under cAdvisor's names, and where each value comes from.

use super::CadvisorEntry;
use crate::cri::v1;
use crate::server::https::stats::cgroup::IoFigures;
use crate::server::https::stats::network::InterfaceCounters;
use crate::server::https::stats::{FsStats, number};

/// Unit of a value before it is written: times are written in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    Number,
    Nanoseconds,
    Microseconds,
}

/// A metric with one value for each entry that has it.
pub(super) struct CadvisorMetric {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Unit,
    /// A label of this metric alone.
    pub(super) label: Option<(&'static str, &'static str)>,
    /// The value changes, so that it stands with its time.
    pub(super) has_time: bool,
    pub(super) value: fn(&CadvisorEntry<'_>) -> Option<u64>,
}

const fn counter(
    name: &'static str,
    help: &'static str,
    unit: Unit,
    value: fn(&CadvisorEntry<'_>) -> Option<u64>,
) -> CadvisorMetric {
    CadvisorMetric {
        name,
        kind: "counter",
        help,
        unit,
        label: None,
        has_time: true,
        value,
    }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&CadvisorEntry<'_>) -> Option<u64>,
) -> CadvisorMetric {
    CadvisorMetric {
        kind: "gauge",
        ..counter(name, help, Unit::Number, value)
    }
}

/// A setting, which has no time.
const fn setting(
    name: &'static str,
    help: &'static str,
    value: fn(&CadvisorEntry<'_>) -> Option<u64>,
) -> CadvisorMetric {
    CadvisorMetric {
        has_time: false,
        ..gauge(name, help, value)
    }
}

/// Total of a pressure, in microseconds; `is_full` if all tasks waited.
fn stalled(psi: Option<&v1::PsiStats>, is_full: bool) -> Option<u64> {
    let psi = psi?;
    let data = if is_full { &psi.full } else { &psi.some };
    Some(data.as_ref()?.total)
}

/// Times of throttling make sense with a limit only.
fn limited(entry: &CadvisorEntry<'_>, value: fn(&CadvisorEntry<'_>) -> Option<u64>) -> Option<u64> {
    entry.figures()?.cpu.quota?;
    value(entry)
}

// One table, a row for each metric.
pub(super) const METRICS: [CadvisorMetric; 35] = [
    CadvisorMetric {
        label: Some(("cpu", "total")),
        ..counter(
            "container_cpu_usage_seconds_total",
            "CPU time consumed, in seconds.",
            Unit::Nanoseconds,
            |e| number(e.cpu?.usage_core_nano_seconds.as_ref()),
        )
    },
    counter(
        "container_cpu_user_seconds_total",
        "CPU time consumed in user mode, in seconds.",
        Unit::Nanoseconds,
        |e| e.figures()?.cpu.user,
    ),
    counter(
        "container_cpu_system_seconds_total",
        "CPU time consumed in the kernel, in seconds.",
        Unit::Nanoseconds,
        |e| e.figures()?.cpu.system,
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods of the CPU limit that have passed.",
        Unit::Number,
        |e| limited(e, |e| e.figures()?.cpu.periods),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods of the CPU limit in which it was reached.",
        Unit::Number,
        |e| limited(e, |e| e.figures()?.cpu.throttled_periods),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time for which the CPU limit held processes up, in seconds.",
        Unit::Nanoseconds,
        |e| limited(e, |e| e.figures()?.cpu.throttled),
    ),
    counter(
        "container_cpu_cfs_burst_periods_total",
        "Periods in which more than the CPU limit was used.",
        Unit::Number,
        |e| limited(e, |e| e.figures()?.cpu.burst_periods),
    ),
    counter(
        "container_cpu_cfs_burst_seconds_total",
        "CPU time used above the CPU limit, in seconds.",
        Unit::Nanoseconds,
        |e| limited(e, |e| e.figures()?.cpu.burst),
    ),
    gauge(
        "container_last_seen",
        "Time of the measurement, in seconds since the epoch.",
        |e| {
            e.cpu?;
            (e.time / 1_000_000_000).try_into().ok()
        },
    ),
    gauge("container_memory_cache", "Page cache, in bytes.", |e| {
        e.figures()?.memory.cache
    }),
    counter(
        "container_memory_failcnt",
        "Times that the memory limit was reached.",
        Unit::Number,
        |e| e.figures()?.memory.limit_hits,
    ),
    gauge(
        "container_memory_kernel_usage",
        "Memory of the kernel, in bytes.",
        |e| e.figures()?.memory.kernel,
    ),
    gauge(
        "container_memory_mapped_file",
        "Files that are mapped into memory, in bytes.",
        |e| e.figures()?.memory.mapped_file,
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "Maximum memory usage, in bytes.",
        |e| e.figures()?.memory.max_usage,
    ),
    gauge("container_memory_rss", "Anonymous memory, in bytes.", |e| {
        number(e.memory?.rss_bytes.as_ref())
    }),
    gauge("container_memory_swap", "Swap usage, in bytes.", |e| {
        let reported = e
            .swap
            .and_then(|swap| number(swap.swap_usage_bytes.as_ref()));
        reported.or_else(|| e.figures()?.memory.swap)
    }),
    gauge(
        "container_memory_total_active_file_bytes",
        "Page cache that is in use, in bytes.",
        |e| e.figures()?.memory.active_file,
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Page cache that is not in use, in bytes.",
        |e| e.figures()?.memory.inactive_file,
    ),
    gauge(
        "container_memory_usage_bytes",
        "Memory usage with the page cache, in bytes.",
        |e| number(e.memory?.usage_bytes.as_ref()),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory usage without the page cache that is not in use, in bytes.",
        |e| number(e.memory?.working_set_bytes.as_ref()),
    ),
    counter(
        "container_oom_events_total",
        "Processes that were killed for lack of memory.",
        Unit::Number,
        |e| e.figures()?.memory.oom_kills,
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all processes waited for a CPU, in seconds.",
        Unit::Microseconds,
        |e| stalled(e.cpu?.psi.as_ref(), true),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which a process waited for a CPU, in seconds.",
        Unit::Microseconds,
        |e| stalled(e.cpu?.psi.as_ref(), false),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which all processes waited for reads and writes, in seconds.",
        Unit::Microseconds,
        |e| stalled(e.io?.psi.as_ref(), true),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which a process waited for reads and writes, in seconds.",
        Unit::Microseconds,
        |e| stalled(e.io?.psi.as_ref(), false),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all processes waited for memory, in seconds.",
        Unit::Microseconds,
        |e| stalled(e.memory?.psi.as_ref(), true),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which a process waited for memory, in seconds.",
        Unit::Microseconds,
        |e| stalled(e.memory?.psi.as_ref(), false),
    ),
    gauge("container_processes", "Processes.", |e| {
        e.figures()?.processes
    }),
    setting(
        "container_spec_cpu_period",
        "Period of the CPU limit, in microseconds.",
        |e| e.figures()?.cpu.period,
    ),
    setting(
        "container_spec_cpu_quota",
        "CPU limit: time in each period, in microseconds.",
        |e| e.figures()?.cpu.quota,
    ),
    setting("container_spec_cpu_shares", "CPU shares.", |e| {
        e.figures()?.cpu.shares
    }),
    setting(
        "container_spec_memory_limit_bytes",
        "Memory limit, in bytes; 0 for none.",
        |e| e.figures()?.memory.limit,
    ),
    setting(
        "container_start_time_seconds",
        "Start, in seconds since the epoch.",
        |e| e.started?.try_into().ok(),
    ),
    gauge("container_threads", "Threads.", |e| e.figures()?.threads),
    gauge(
        "container_threads_max",
        "Maximum number of threads; 0 for no limit.",
        |e| e.figures()?.threads_max,
    ),
];

/// Page faults.
pub(super) const FAULTS: (&str, &str) = (
    "container_memory_failures_total",
    "Page faults: those that the kernel served from memory, and those that it read for.",
);

/// Sizes of the machine.
pub(super) const MACHINE: [(&str, &str); 3] = [
    ("machine_cpu_cores", "CPUs of the machine."),
    ("machine_memory_bytes", "Memory of the machine, in bytes."),
    ("machine_swap_bytes", "Swap of the machine, in bytes."),
];

/// A metric of the items of an entry.
type ItemMetric<T, V> = (&'static str, &'static str, fn(&T) -> V);

/// Counters of each interface.
pub(super) const INTERFACES: [ItemMetric<InterfaceCounters, u64>; 8] = [
    (
        "container_network_receive_bytes_total",
        "Bytes received.",
        |i| i.received.bytes,
    ),
    (
        "container_network_receive_errors_total",
        "Errors while receiving.",
        |i| i.received.errors,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Packets dropped while receiving.",
        |i| i.received.dropped,
    ),
    (
        "container_network_receive_packets_total",
        "Packets received.",
        |i| i.received.packets,
    ),
    (
        "container_network_transmit_bytes_total",
        "Bytes transmitted.",
        |i| i.transmitted.bytes,
    ),
    (
        "container_network_transmit_errors_total",
        "Errors while transmitting.",
        |i| i.transmitted.errors,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Packets dropped while transmitting.",
        |i| i.transmitted.dropped,
    ),
    (
        "container_network_transmit_packets_total",
        "Packets transmitted.",
        |i| i.transmitted.packets,
    ),
];

/// Counters of each block device.
pub(super) const DEVICES: [ItemMetric<IoFigures, u64>; 4] = [
    ("container_fs_reads_bytes_total", "Bytes read.", |io| {
        io.read_bytes
    }),
    ("container_fs_reads_total", "Reads.", |io| io.reads),
    ("container_fs_writes_bytes_total", "Bytes written.", |io| {
        io.written_bytes
    }),
    ("container_fs_writes_total", "Writes.", |io| io.writes),
];

/// Sizes of the file system of the root directory.
pub(super) const DISKS: [ItemMetric<FsStats, Option<u64>>; 4] = [
    (
        "container_fs_inodes_free",
        "Files that can still be created.",
        |disk| Some(disk.inodes.available),
    ),
    (
        "container_fs_inodes_total",
        "Files that the file system can have.",
        |disk| Some(disk.inodes.all),
    ),
    (
        "container_fs_limit_bytes",
        "Size of the file system, in bytes.",
        |disk| Some(disk.bytes.all),
    ),
    (
        "container_fs_usage_bytes",
        "Bytes used on the file system.",
        |disk| disk.bytes.used,
    ),
];
