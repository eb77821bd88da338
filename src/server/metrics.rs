//! The agent's metrics in one place, and those that are read off its state when somebody asks.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{Counter, Gauge, GaugeVec, IntCounter, Registry, TextEncoder};
use rustix::time::{ClockId, clock_gettime};

use super::state::State;
use crate::cri::Calls;
use crate::measure::{counter, gauge, gauges};
use crate::mirror::metrics::MirrorMetrics;
use crate::pod::metrics::Metrics as PodMetrics;
use crate::source::Freshness;

/// Every phase that a Pod can be told to be in.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Terminating"];

/// All metrics of one agent.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// How the runtime's calls went.
    pub calls: Calls,
    /// How Pods' starts and restarts went.
    pub pods: PodMetrics,
    /// When the manifests were last read well.
    pub freshness: Freshness,
    /// What the API server has of the node.
    pub mirror: MirrorMetrics,
    registry: Registry,
    gauges: Gauges,
}

/// What is read off the state.
#[derive(Debug, Clone)]
struct Gauges {
    pods: GaugeVec,
    pods_ready: Gauge,
    refused: Gauge,
    unreadable: Gauge,
    source_age: GaugeVec,
    content_age: GaugeVec,
    pulse_age: GaugeVec,
    events_dropped: IntCounter,
    build: GaugeVec,
    resident: Gauge,
    cpu: Counter,
    open_files: Gauge,
    started: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            calls: Calls::default(),
            pods: PodMetrics::default(),
            freshness: Freshness::default(),
            mirror: MirrorMetrics::default(),
            registry: Registry::new(),
            gauges: Gauges::new(),
        };
        let of_calls = metrics.calls.collectors().into_iter();
        let of_pods = metrics.pods.collectors();
        let of_mirror = metrics.mirror.collectors();
        let own = metrics.gauges.collectors();
        for collector in of_calls.chain(of_pods).chain(of_mirror).chain(own) {
            // Every name is registered here, each once.
            metrics.registry.register(collector).expect("names differ");
        }
        metrics
    }
}

impl Metrics {
    /// All metrics in Prometheus' text form, with what is read off the state as it is now.
    pub(super) fn text(&self, state: &State) -> prometheus::Result<String> {
        self.gauges.read_state(state, &self.freshness);
        self.gauges.read_process();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Gauges {
    fn new() -> Self {
        let all = Self {
            pods: gauges("podkeeper_pods", "Pods, by phase.", &["phase"]),
            pods_ready: gauge("podkeeper_pods_ready", "Pods whose condition Ready holds."),
            refused: gauge(
                "podkeeper_manifests_refused",
                "Manifests that are not carried out as they stand.",
            ),
            unreadable: gauge(
                "podkeeper_sources_unreadable",
                "Sources of manifests that cannot be read just now.",
            ),
            source_age: gauges(
                "podkeeper_source_age_seconds",
                "Time since the manifests were last read well, by source.",
                &["source"],
            ),
            content_age: gauges(
                "podkeeper_source_content_age_seconds",
                "Time since the document in force was signed, or last changed, by source.",
                &["source"],
            ),
            pulse_age: gauges(
                "podkeeper_supervisor_age_seconds",
                "Time since the supervisor last went round.",
                &[],
            ),
            events_dropped: counter(
                "podkeeper_events_dropped_total",
                "Old events of Pods that went to make room for new ones.",
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

    fn collectors(&self) -> [Box<dyn Collector>; 13] {
        [
            Box::new(self.pods.clone()),
            Box::new(self.pods_ready.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.unreadable.clone()),
            Box::new(self.source_age.clone()),
            Box::new(self.content_age.clone()),
            Box::new(self.pulse_age.clone()),
            Box::new(self.events_dropped.clone()),
            Box::new(self.build.clone()),
            Box::new(self.resident.clone()),
            Box::new(self.cpu.clone()),
            Box::new(self.open_files.clone()),
            Box::new(self.started.clone()),
        ]
    }

    fn read_state(&self, state: &State, freshness: &Freshness) {
        let told = match &*state.context.borrow() {
            Some(context) => {
                self.events_dropped.reset();
                self.events_dropped.inc_by(context.events.dropped());
                context.reports.told()
            }
            None => vec![],
        };
        for phase in PHASES {
            let of_phase = told.iter().filter(|(_, told)| told.report.phase == phase);
            let gauge = self.pods.with_label_values(&[phase]);
            gauge.set(count(of_phase.count()));
        }
        let ready = told.iter().filter(|(_, told)| told.is_ready());
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
        if let Some(last) = *state.pulse.borrow() {
            let gauge = self.pulse_age.with_label_values::<&str>(&[]);
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
