//! Usage of the node and its Pods: measured by the runtime and the kernel, in the schemas that a metrics
//! server reads.

mod cadvisor;
mod cgroup;
mod disk;
mod measure;
mod metrics;
mod network;
mod node;
mod summary;
mod top;

pub(super) use cadvisor::cadvisor_metrics;
pub(in crate::server) use measure::Stats;
pub(super) use metrics::metrics;
pub(super) use summary::summary;
pub(in crate::server) use top::top;
pub use top::{AmountsInUse, ContainerInUse, PodInUse, TopReport};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cri::v1;
use crate::host::machine::ProcessIds;
use crate::manifest::PodKey;
use network::InterfaceCounters;

/// Usage at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::server) struct Usage {
    node: NodeUsage,
    /// The Pods, by namespace and name.
    pods: Vec<PodUsage>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct NodeUsage {
    /// Time of the measurement, in nanoseconds since the epoch.
    time: i64,
    started: Option<Time>,
    cpu: Option<v1::CpuUsage>,
    memory: Option<v1::MemoryUsage>,
    io: Option<v1::IoUsage>,
    swap: Option<v1::SwapUsage>,
    network: Option<v1::NetworkUsage>,
    interfaces: Vec<InterfaceCounters>,
    /// File system of the root directory.
    disk: Option<FsStats>,
    process_ids: Option<ProcessIds>,
}

/// A file system, or a folder on one with what it uses: bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct FsStats {
    /// Time of the measurement, in nanoseconds since the epoch.
    time: i64,
    bytes: FsAmounts,
    inodes: FsAmounts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct FsAmounts {
    all: u64,
    available: u64,
    used: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct PodUsage {
    key: PodKey,
    uid: String,
    /// The runtime's id of its sandbox, if it reports the usage of that.
    sandbox: String,
    started: Option<Time>,
    cpu: Option<v1::CpuUsage>,
    memory: Option<v1::MemoryUsage>,
    io: Option<v1::IoUsage>,
    swap: Option<v1::SwapUsage>,
    network: Option<v1::NetworkUsage>,
    processes: Option<u64>,
    /// The running containers.
    containers: Vec<ContainerUsage>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ContainerUsage {
    name: String,
    /// The runtime's id.
    id: String,
    image: String,
    started: Option<Time>,
    cpu: Option<v1::CpuUsage>,
    memory: Option<v1::MemoryUsage>,
    io: Option<v1::IoUsage>,
    swap: Option<v1::SwapUsage>,
    writable_layer: Option<v1::FilesystemUsage>,
}

/// A number that the runtime may leave out.
fn number(value: Option<&v1::UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

#[cfg(test)]
impl Usage {
    /// A node with one Pod of one container.
    fn example() -> Self {
        let some = |value| Some(v1::UInt64Value { value });
        let started: Option<Time> = serde_json::from_str("\"2026-01-01T00:00:00Z\"").ok();
        let time = 1_767_225_600_250_000_000;
        let cpu = |usage, rate| {
            Some(v1::CpuUsage {
                timestamp: time,
                usage_core_nano_seconds: some(usage),
                usage_nano_cores: some(rate),
                psi: None,
            })
        };
        let memory = |bytes| {
            Some(v1::MemoryUsage {
                timestamp: time,
                working_set_bytes: some(bytes),
                ..v1::MemoryUsage::default()
            })
        };
        let container = ContainerUsage {
            name: "c".into(),
            started: started.clone(),
            cpu: cpu(1_500_000_000, 20_000_000),
            memory: memory(4096),
            ..ContainerUsage::default()
        };
        let pod = PodUsage {
            key: PodKey {
                namespace: "ns".into(),
                name: "web-n1".into(),
            },
            uid: "u".into(),
            started: started.clone(),
            cpu: cpu(1_600_000_000, 21_000_000),
            memory: memory(8192),
            containers: vec![container],
            ..PodUsage::default()
        };
        Self {
            node: NodeUsage {
                started,
                cpu: cpu(9_000_000_001, 100_000_000),
                memory: memory(1 << 30),
                ..NodeUsage::default()
            },
            pods: vec![pod],
        }
    }
}
