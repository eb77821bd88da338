//! All metrics of the agent in one registry, and the gauges that are read from its state at each scrape.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{Counter, Gauge, GaugeVec, IntCounter, Registry, TextEncoder};
use rustix::time::{ClockId, clock_gettime};

use super::state::ServerState;
use crate::cri::Calls;
use crate::measure::{counter, gauge, gauges};
use crate::mirror::metrics::MirrorMetrics;
use crate::pod::metrics::Metrics as PodMetrics;
use crate::source::Freshness;

/// Every phase of a Pod's status.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Terminating"];

/// All metrics of one agent.
#[derive(Debug, Clone)]
pub struct AgentMetrics {
    /// Calls of the container runtime.
    pub calls: Calls,
    /// Starts and restarts of Pods.
    pub pods: PodMetrics,
    /// Times of the sources' last successful reads.
    pub freshness: Freshness,
    /// The API server and its mirror Pods.
    pub mirror: MirrorMetrics,
    registry: Registry,
    gauges: Gauges,
}

/// Metrics that are read from the state at each scrape.
#[derive(Debug, Clone)]
struct Gauges {
    pods: GaugeVec,
    pods_ready: Gauge,
    refused: Gauge,
    unreadable: Gauge,
    source_age: GaugeVec,
    content_age: GaugeVec,
    heartbeat_age: GaugeVec,
    events_dropped: IntCounter,
    build: GaugeVec,
    resident: Gauge,
    cpu: Counter,
    open_files: Gauge,
    started: Gauge,
}

impl Default for AgentMetrics {
    fn default() -> Self {
        let metrics = Self {
            calls: Calls::default(),
            pods: PodMetrics::default(),
            freshness: Freshness::default(),
            mirror: MirrorMetrics::default(),
            registry: Registry::new(),
            gauges: Gauges::new(),
        };
        for collector in metrics.collectors() {
            // Every name is registered here, each once.
            metrics.registry.register(collector).expect("names differ");
        }
        metrics
    }
}

impl AgentMetrics {
    /// All metrics, in the order of docs/metrics.md.
    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut all: Vec<Box<dyn Collector>> = vec![];
        all.extend(self.gauges.of_pods());
        all.extend(self.pods.collectors());
        all.extend(self.calls.collectors());
        all.extend(self.gauges.of_agent());
        all.extend(self.mirror.collectors());
        all.extend(self.gauges.of_process());
        all
    }

    /// Returns all metrics in Prometheus' text format, with the gauges of `state` as it is now.
    pub(super) fn text(&self, state: &ServerState) -> prometheus::Result<String> {
        self.gauges.read_state(state, &self.freshness);
        self.gauges.read_process();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Gauges {
    fn new() -> Self {
        let all = Self {
            pods: gauges(
                "podkeeper_pods",
                "Pods, by phase: Pending, Running, Succeeded, Failed or Terminating.",
                &["phase"],
            ),
            pods_ready: gauge(
                "podkeeper_pods_ready",
                "Pods whose condition Ready is true.",
            ),
            refused: gauge(
                "podkeeper_manifests_refused",
                "Manifests that are refused as they are.",
            ),
            unreadable: gauge(
                "podkeeper_sources_unreadable",
                "Sources of manifests that cannot be read at present.",
            ),
            source_age: gauges(
                "podkeeper_source_age_seconds",
                "Time since the manifests were last read without an error, by source: directory or url.",
                &["source"],
            ),
            content_age: gauges(
                "podkeeper_source_content_age_seconds",
                "Time since the document in force was signed, or last changed where it is not signed, by source: url.",
                &["source"],
            ),
            heartbeat_age: gauges(
                "podkeeper_supervisor_age_seconds",
                "Time since the supervisor's last heartbeat.",
                &[],
            ),
            events_dropped: counter(
                "podkeeper_events_dropped_total",
                "Events of Pods that were dropped to make room for newer ones.",
            ),
            build: gauges(
                "podkeeper_build_info",
                "Always 1, with the agent's version.",
                &["version"],
            ),
            resident: gauge(
                "process_resident_memory_bytes",
                "Resident memory of the agent in bytes.",
            ),
            cpu: cpu_counter(),
            open_files: gauge("process_open_fds", "Open file descriptors of the agent."),
            started: gauge(
                "process_start_time_seconds",
                "Start of the agent in seconds since the epoch.",
            ),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        all.started.set(now.unwrap_or_default().as_secs_f64());
        let build = all.build.with_label_values(&[env!("CARGO_PKG_VERSION")]);
        build.set(1.0);
        all
    }

    fn of_pods(&self) -> [Box<dyn Collector>; 2] {
        [
            Box::new(self.pods.clone()),
            Box::new(self.pods_ready.clone()),
        ]
    }

    fn of_agent(&self) -> [Box<dyn Collector>; 6] {
        [
            Box::new(self.refused.clone()),
            Box::new(self.unreadable.clone()),
            Box::new(self.source_age.clone()),
            Box::new(self.content_age.clone()),
            Box::new(self.heartbeat_age.clone()),
            Box::new(self.events_dropped.clone()),
        ]
    }

    fn of_process(&self) -> [Box<dyn Collector>; 5] {
        [
            Box::new(self.build.clone()),
            Box::new(self.cpu.clone()),
            Box::new(self.resident.clone()),
            Box::new(self.open_files.clone()),
            Box::new(self.started.clone()),
        ]
    }

    fn read_state(&self, state: &ServerState, freshness: &Freshness) {
        let pods = match &*state.context.borrow() {
            Some(context) => {
                self.events_dropped.reset();
                self.events_dropped.inc_by(context.events.dropped());
                context.reports.snapshots()
            }
            None => vec![],
        };
        for phase in PHASES {
            let of_phase = pods.iter().filter(|(_, pod)| pod.report.phase == phase);
            let gauge = self.pods.with_label_values(&[phase]);
            gauge.set(count(of_phase.count()));
        }
        let ready = pods.iter().filter(|(_, pod)| pod.status.is_ready());
        self.pods_ready.set(count(ready.count()));
        if let Some(desired) = &*state.desired.borrow() {
            self.refused.set(count(
                desired.refused.len().saturating_add(desired.unlisted),
            ));
            self.unreadable.set(count(desired.unreadable.len()));
        }
        self.source_age.reset();
        self.content_age.reset();
        for (source, read) in [("directory", &freshness.directory), ("url", &freshness.url)] {
            if let Some(age) = read.age() {
                let gauge = self.source_age.with_label_values(&[source]);
                gauge.set(age.as_secs_f64());
            }
            if let Some(age) = read.content_age() {
                let gauge = self.content_age.with_label_values(&[source]);
                gauge.set(age.as_secs_f64());
            }
        }
        if let Some(last) = *state.heartbeat.borrow() {
            let gauge = self.heartbeat_age.with_label_values::<&str>(&[]);
            gauge.set(last.elapsed().as_secs_f64());
        }
    }

    fn read_process(&self) {
        self.resident.set(resident_memory().unwrap_or(f64::NAN));
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let spent = std::time::Duration::try_from(spent).unwrap_or_default();
        self.cpu.reset();
        self.cpu.inc_by(spent.as_secs_f64());
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.open_files.set(count(open));
    }
}

fn cpu_counter() -> Counter {
    let help = "CPU time that the agent spent, in seconds.";
    // The name is written here.
    Counter::new("process_cpu_seconds_total", help).expect("a good name")
}

/// The agent's resident memory in bytes.
fn resident_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// Counts are far smaller than what a float holds exactly.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {

    use super::*;

    const BEGIN: &str = "<!-- written from the registered metrics: begin -->\n";
    const END: &str = "<!-- end -->\n";

    /// The row of one metric in docs/metrics.md.
    fn row(collector: &dyn Collector) -> String {
        let family = &collector.collect()[0];
        let labels = collector.desc()[0].variable_labels.join(",");
        let labels = match labels.as_str() {
            "" => labels,
            labels => format!("{{{labels}}}"),
        };
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        format!(
            "| `{}{labels}` | {kind} | {} |",
            family.name(),
            family.help()
        )
    }

    #[test]
    fn the_document_has_the_table_of_metrics() {
        let collectors = AgentMetrics::default().collectors();
        let rows = collectors.iter().map(|c| row(c.as_ref()));
        crate::tests::check_table(
            "docs/metrics.md",
            [BEGIN, END],
            "| metric | type | |",
            rows,
            "the_document_has_the_table_of_metrics",
        );
    }
}
