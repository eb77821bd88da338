//! Measurement of usage: one call of the runtime for all Pods, cached for a short time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::disk::{DiskUsage, Disks};
use super::{ContainerUsage, PodUsage, Usage, node, number};
use crate::cri::{Error, v1};
use crate::host::blocking::blocking;
use crate::manifest::PodKey;
use crate::pod::report::PodSnapshot;
use crate::pod::task::Context;
use crate::translate::labels;

/// Time for which a measurement is served to all callers.
const FRESH: Duration = Duration::from_secs(1);
/// Key of the node among the rates.
const NODE: &str = "";

/// Measures usage, and keeps the last measurement.
#[derive(Debug, Default)]
pub(in crate::server) struct Stats {
    last: Mutex<Last>,
    disks: Disks,
}

#[derive(Debug, Default)]
struct Last {
    usage: Option<(Instant, Arc<Usage>)>,
    rates: Rates,
}

impl Stats {
    /// Returns the present usage.
    ///
    /// # Errors
    /// The runtime does not report it.
    pub(in crate::server) async fn measure(&self, context: &Context) -> Result<Arc<Usage>, Error> {
        let mut last = self.last.lock().await;
        if let Some((at, usage)) = &last.usage
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(usage));
        }
        let usage = measure(context, &mut last.rates).await?;
        let usage = Arc::new(usage);
        last.usage = Some((Instant::now(), Arc::clone(&usage)));
        Ok(usage)
    }

    /// Returns the present usage of disks, which takes longer to measure than the rest.
    pub(in crate::server::https) async fn measure_disks(
        &self,
        context: &Arc<Context>,
    ) -> DiskUsage {
        self.disks.measure(context).await
    }
}

async fn measure(context: &Context, rates: &mut Rates) -> Result<Usage, Error> {
    let ours = HashMap::from([(labels::ROOT_DIR.to_owned(), context.owner_label.clone())]);
    let filter = v1::ContainerStatsFilter {
        label_selector: ours.clone(),
        ..v1::ContainerStatsFilter::default()
    };
    let message = v1::ListContainerStatsRequest {
        filter: Some(filter),
    };
    let containers = context.client.list_container_stats(message).await?.stats;
    let containers = containers.into_iter().filter_map(|stats| {
        let id = stats.attributes.as_ref()?.id.clone();
        Some((id, stats))
    });
    let mut found = RuntimeStats {
        containers: containers.collect(),
        sandboxes: sandboxes(context, ours).await,
    };
    let time = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let root = context.facts.paths.root.clone();
    let mut node = blocking(move || node::measure(time, &root)).await;
    rates.begin();
    rates.fill(NODE, node.cpu.as_mut());
    let reported = context.reports.snapshots();
    let pods = reported
        .iter()
        .map(|(key, reported)| found.pod(key, reported, rates));
    let pods = pods.collect();
    Ok(Usage { node, pods })
}

/// The runtime's stats of each sandbox, by the Pod's UID. A runtime without them (containerd 1.6), or one
/// that fails on a Pod that ends at the same time, leaves the Pods to the sums of their containers.
async fn sandboxes(
    context: &Context,
    ours: HashMap<String, String>,
) -> HashMap<String, SandboxStats> {
    let filter = v1::PodSandboxStatsFilter {
        label_selector: ours,
        ..v1::PodSandboxStatsFilter::default()
    };
    let message = v1::ListPodSandboxStatsRequest {
        filter: Some(filter),
    };
    let stats = match context.client.list_pod_sandbox_stats(message).await {
        Ok(answer) => answer.stats,
        Err(error) => {
            debug!(%error, "Container runtime has no Pod stats");
            return HashMap::new();
        }
    };
    let all = stats.into_iter().filter_map(|stats| {
        let attributes = stats.attributes?;
        Some((attributes.metadata?.uid, (attributes.id, stats.linux?)))
    });
    all.collect()
}

/// The runtime's id of a sandbox, and its stats.
type SandboxStats = (String, v1::LinuxPodSandboxStats);

/// Stats of the runtime.
struct RuntimeStats {
    /// By container id.
    containers: HashMap<String, v1::ContainerStats>,
    /// By Pod UID.
    sandboxes: HashMap<String, SandboxStats>,
}

impl RuntimeStats {
    fn pod(&mut self, key: &PodKey, reported: &PodSnapshot, rates: &mut Rates) -> PodUsage {
        let shown = reported.status.decode();
        let inits = shown.init_container_statuses.iter().flatten();
        let all = inits.chain(shown.container_statuses.iter().flatten());
        let mut containers = vec![];
        for status in all {
            let running = status.state.as_ref().and_then(|s| s.running.as_ref());
            let id = status.container_id.as_deref();
            let id = id.and_then(|id| Some(id.split_once("://")?.1));
            let (Some(running), Some(id)) = (running, id) else {
                continue;
            };
            let Some(mut stats) = self.containers.remove(id) else {
                continue;
            };
            rates.fill(id, stats.cpu.as_mut());
            containers.push(ContainerUsage {
                name: status.name.clone(),
                id: id.to_owned(),
                image: status.image.clone(),
                started: running.started_at.clone(),
                cpu: stats.cpu,
                memory: stats.memory,
                io: stats.io,
                swap: stats.swap,
                writable_layer: stats.writable_layer,
            });
        }
        let uid = reported.report.uid.clone();
        let (sandbox, whole) = self.sandboxes.remove(&uid).unwrap_or_default();
        let mut cpu = whole.cpu.or_else(|| cpu_sum(&containers));
        rates.fill(&uid, cpu.as_mut());
        PodUsage {
            key: key.clone(),
            uid,
            sandbox,
            started: shown.start_time,
            cpu,
            memory: whole.memory.or_else(|| memory_sum(&containers)),
            io: whole.io,
            swap: swap_sum(&containers),
            network: whole.network,
            processes: number(whole.process.and_then(|p| p.process_count).as_ref()),
            containers,
        }
    }
}

/// Sum of the CPU time of all containers.
fn cpu_sum(containers: &[ContainerUsage]) -> Option<v1::CpuUsage> {
    let all: Vec<&v1::CpuUsage> = containers.iter().filter_map(|c| c.cpu.as_ref()).collect();
    let usage = sum(all.iter().map(|c| c.usage_core_nano_seconds.as_ref()));
    usage.map(|usage| v1::CpuUsage {
        timestamp: all.iter().map(|c| c.timestamp).max().unwrap_or_default(),
        usage_core_nano_seconds: Some(usage),
        ..v1::CpuUsage::default()
    })
}

/// Sum of the memory of all containers.
fn memory_sum(containers: &[ContainerUsage]) -> Option<v1::MemoryUsage> {
    let all: Vec<&v1::MemoryUsage> = containers
        .iter()
        .filter_map(|c| c.memory.as_ref())
        .collect();
    let usage = sum(all.iter().map(|m| m.working_set_bytes.as_ref()));
    usage.map(|usage| v1::MemoryUsage {
        timestamp: all.iter().map(|m| m.timestamp).max().unwrap_or_default(),
        working_set_bytes: Some(usage),
        ..v1::MemoryUsage::default()
    })
}

/// Sum of the swap that all containers use. What is available to them, they share.
fn swap_sum(containers: &[ContainerUsage]) -> Option<v1::SwapUsage> {
    let all: Vec<&v1::SwapUsage> = containers.iter().filter_map(|c| c.swap.as_ref()).collect();
    let usage = sum(all.iter().map(|s| s.swap_usage_bytes.as_ref()));
    usage.map(|usage| v1::SwapUsage {
        timestamp: all.iter().map(|s| s.timestamp).max().unwrap_or_default(),
        swap_usage_bytes: Some(usage),
        ..v1::SwapUsage::default()
    })
}

/// Sum of the reported values; `None` if there are none.
fn sum<'a>(values: impl Iterator<Item = Option<&'a v1::UInt64Value>>) -> Option<v1::UInt64Value> {
    let reported: Vec<u64> = values.filter_map(number).collect();
    let value = reported.iter().copied().fold(0, u64::saturating_add);
    (!reported.is_empty()).then_some(v1::UInt64Value { value })
}

/// CPU time of each measurement, from which the next one computes the rate.
#[derive(Debug, Default)]
struct Rates {
    before: HashMap<String, (i64, u64)>,
    now: HashMap<String, (i64, u64)>,
}

impl Rates {
    /// Starts the next measurement.
    fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// Sets the rate since the measurement before, if the runtime does not report one.
    fn fill(&mut self, whose: &str, cpu: Option<&mut v1::CpuUsage>) {
        let Some(cpu) = cpu else {
            return;
        };
        let Some(usage) = number(cpu.usage_core_nano_seconds.as_ref()) else {
            return;
        };
        let now = (cpu.timestamp, usage);
        let rate = self.before.get(whose).and_then(|before| rate(*before, now));
        if cpu.usage_nano_cores.is_none() {
            cpu.usage_nano_cores = rate.map(|value| v1::UInt64Value { value });
        }
        self.now.insert(whose.to_owned(), now);
    }
}

/// Returns nanoseconds of CPU time in a second, between two times in nanoseconds.
fn rate(before: (i64, u64), now: (i64, u64)) -> Option<u64> {
    let took = u128::try_from(now.0.checked_sub(before.0)?).ok()?;
    let used = u128::from(now.1.checked_sub(before.1)?);
    u64::try_from((used * 1_000_000_000).checked_div(took)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::encoded_status::EncodedStatus;
    use k8s_openapi::api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStatus, PodStatus,
    };

    #[allow(
        clippy::unnecessary_wraps,
        reason = "the runtime's messages may leave numbers out"
    )]
    fn some(value: u64) -> Option<v1::UInt64Value> {
        Some(v1::UInt64Value { value })
    }

    fn stats(usage: u64, bytes: u64) -> v1::ContainerStats {
        v1::ContainerStats {
            cpu: Some(v1::CpuUsage {
                timestamp: 5,
                usage_core_nano_seconds: some(usage),
                ..v1::CpuUsage::default()
            }),
            memory: Some(v1::MemoryUsage {
                timestamp: 5,
                working_set_bytes: some(bytes),
                ..v1::MemoryUsage::default()
            }),
            ..v1::ContainerStats::default()
        }
    }

    fn reported() -> PodSnapshot {
        let status = |name: &str, running: bool| ContainerStatus {
            name: name.into(),
            container_id: Some(format!("containerd://id-{name}")),
            state: Some(ContainerState {
                running: running.then(ContainerStateRunning::default),
                ..ContainerState::default()
            }),
            ..ContainerStatus::default()
        };
        let mut reported = PodSnapshot {
            status: EncodedStatus::from(&PodStatus {
                container_statuses: Some(vec![
                    status("a", true),
                    status("b", true),
                    status("ended", false),
                ]),
                ..PodStatus::default()
            }),
            ..PodSnapshot::default()
        };
        reported.report.uid = "u".into();
        reported
    }

    fn found(sandboxes: HashMap<String, SandboxStats>) -> RuntimeStats {
        let all = [("a", 10, 100), ("b", 20, 200), ("ended", 40, 400)];
        let containers = all.map(|(name, cpu, memory)| (format!("id-{name}"), stats(cpu, memory)));
        RuntimeStats {
            containers: containers.into(),
            sandboxes,
        }
    }

    #[test]
    fn a_pod_uses_what_its_sandbox_does_or_else_what_its_running_containers_do() {
        let key = PodKey::default();
        let pod = found(HashMap::new()).pod(&key, &reported(), &mut Rates::default());
        let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(pod.cpu.unwrap().usage_core_nano_seconds, some(30));
        assert_eq!(pod.memory.unwrap().working_set_bytes, some(300));

        let v1::ContainerStats { cpu, memory, .. } = stats(35, 350);
        let whole = v1::LinuxPodSandboxStats {
            cpu,
            memory,
            ..v1::LinuxPodSandboxStats::default()
        };
        let whole = HashMap::from([("u".to_owned(), ("s".to_owned(), whole))]);
        let pod = found(whole).pod(&key, &reported(), &mut Rates::default());
        assert_eq!(pod.cpu.unwrap().usage_core_nano_seconds, some(35));
        assert_eq!(pod.memory.unwrap().working_set_bytes, some(350));
    }

    #[test]
    fn a_rate_is_what_was_used_between_two_looks() {
        let mut rates = Rates::default();
        let mut measure = |timestamp, usage, reported: Option<u64>| {
            rates.begin();
            let mut cpu = v1::CpuUsage {
                timestamp,
                usage_core_nano_seconds: some(usage),
                usage_nano_cores: reported.map(|value| v1::UInt64Value { value }),
                psi: None,
            };
            rates.fill("id", Some(&mut cpu));
            number(cpu.usage_nano_cores.as_ref())
        };
        let second = 1_000_000_000;
        assert_eq!(measure(second, 500, None), None);
        assert_eq!(measure(3 * second, 1500, None), Some(500));
        assert_eq!(
            measure(4 * second, 1600, Some(7)),
            Some(7),
            "the runtime's own"
        );
        // The clock stood still, or the container is another.
        assert_eq!(measure(4 * second, 1700, None), None);
        assert_eq!(measure(5 * second, 100, None), None);
    }
}
