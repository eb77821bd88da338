//! Metrics of the starts and restarts of all Pods.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::plan::rules::restart_backoff;
use super::state::View;
use super::state::observed::{Container, ContainerId, State};
use crate::manifest::{ContainerRole, StaticPod};
use crate::measure::{counter, counters, histogram};
use crate::probe::ProbeMetrics;

const START_LIMITS: [f64; 12] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
const RESTART_LIMITS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const RELIST_LIMITS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const INTERVAL_LIMITS: [f64; 6] = [1.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Measures of all Pods. Cloning it is cheap and shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    starts: Histogram,
    restarts: IntCounter,
    started: IntCounterVec,
    restart_durations: Histogram,
    relist_durations: Histogram,
    relist_intervals: Histogram,
    /// Probes.
    pub probes: ProbeMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            starts: histogram(
                "podkeeper_pod_start_duration_seconds",
                "From a manifest's first sight to the start of the last of its Pod's containers.",
                &START_LIMITS,
            ),
            restarts: counter(
                "podkeeper_container_restarts_total",
                "Containers that this agent started again.",
            ),
            started: counters(
                "kubelet_started_containers_total",
                "Containers that this agent started, by type: container or init_container.",
                &["container_type"],
            ),
            restart_durations: histogram(
                "podkeeper_container_restart_duration_seconds",
                "From a container's end to its next start, without the wait of its back-off.",
                &RESTART_LIMITS,
            ),
            relist_durations: histogram(
                "kubelet_pleg_relist_duration_seconds",
                "Duration of a list of all Pods of the container runtime, by which missed events are found.",
                &RELIST_LIMITS,
            ),
            relist_intervals: histogram(
                "kubelet_pleg_relist_interval_seconds",
                "From the beginning of such a list to that of the next.",
                &INTERVAL_LIMITS,
            ),
            probes: ProbeMetrics::default(),
        }
    }
}

impl Metrics {
    /// Takes into account that the container with this id was started just now.
    pub(super) fn container_started(&self, view: View<'_>, version: &StaticPod, id: &ContainerId) {
        let Some(started) = view.observed.container(id) else {
            return;
        };
        let kind = match version.role(&started.name) {
            ContainerRole::Main => "container",
            ContainerRole::Init | ContainerRole::Sidecar => "init_container",
        };
        self.started.with_label_values(&[kind]).inc();
        if started.attempt == 0 {
            if let Some(took) = start_duration(view, version) {
                self.starts.observe(took.as_secs_f64());
            }
            return;
        }
        self.restarts.inc();
        if let Some(took) = restart_duration(view, version, started) {
            self.restart_durations.observe(took.as_secs_f64());
        }
    }

    /// Takes into account that a list of all Pods began, so long after the one before.
    pub(crate) fn relist_began(&self, after: Option<Duration>) {
        if let Some(after) = after {
            self.relist_intervals.observe(after.as_secs_f64());
        }
    }

    /// Takes into account that a list of all Pods took so long.
    pub(crate) fn relisted(&self, took: Duration) {
        self.relist_durations.observe(took.as_secs_f64());
    }

    /// Returns the durations of starts.
    pub(crate) fn starts(&self) -> Histogram {
        self.starts.clone()
    }

    /// Returns the metrics for a registry.
    #[must_use]
    pub fn collectors(&self) -> [Box<dyn Collector>; 6] {
        [
            Box::new(self.starts.clone()),
            Box::new(self.restarts.clone()),
            Box::new(self.started.clone()),
            Box::new(self.restart_durations.clone()),
            Box::new(self.relist_durations.clone()),
            Box::new(self.relist_intervals.clone()),
        ]
    }
}

/// The time since the version was first seen, if each of its containers was started and none before the
/// last one's start was missing.
fn start_duration(view: View<'_>, version: &StaticPod) -> Option<Duration> {
    let uid = &version.uid;
    let started = |name: &str| {
        let history = view.observed.history_of(uid, name);
        history.first().is_some_and(|c| c.state != State::Created)
    };
    let seen = view.state.first_seen(uid)?;
    let all = version.containers().iter().all(|c| started(&c.name));
    all.then(|| view.now.since(seen.monotonic))
}

/// The time since the end of the instance before, without the back-off.
fn restart_duration(view: View<'_>, version: &StaticPod, started: &Container) -> Option<Duration> {
    let history = view.observed.history_of(&started.uid, &started.name);
    let mut before = history.iter().filter(|c| c.attempt < started.attempt);
    let (before, exit) = before.find_map(|c| Some((*c, c.exit()?)))?;
    let pause = restart_backoff(view, version, before, exit).wait;
    Some(view.now.since(exit.ended).saturating_sub(pause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse};
    use crate::pod::state::observed::{Exit, Observed};
    use crate::pod::state::time::MonotonicTime;
    use crate::pod::state::{FirstSeen, PodState};

    fn container(id: &str, name: &str, attempt: u32, state: State) -> Container {
        Container {
            id: id.into(),
            name: name.into(),
            uid: "u".into(),
            attempt,
            state,
            ..Container::default()
        }
    }

    fn running() -> State {
        State::Running { started_at: 1 }
    }

    /// The counts and sums of starts and restarts after the start of `id`.
    fn after_start(containers: Vec<Container>, id: &str) -> [(u64, f64); 2] {
        let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: \
                        [{name: a, image: i}, {name: b, image: i}]}}";
        let pod = parse(manifest.as_bytes(), "n1", SourceKind::File);
        let mut version = StaticPod::clone(&pod.unwrap().pod);
        version.uid = "u".into();
        let observed = Observed {
            containers,
            ..Observed::default()
        };
        let mut state = PodState::default();
        state.version_mut(&"u".into()).seen = Some(FirstSeen {
            nanos: 0,
            monotonic: MonotonicTime(1000),
        });
        let metrics = Metrics::default();
        let view = View {
            wanted: None,
            observed: &observed,
            state: &state,
            now: MonotonicTime(16_000),
            longest_backoff: Duration::from_secs(300),
        };
        metrics.container_started(view, &version, &id.into());
        let of = |h: &Histogram| (h.get_sample_count(), h.get_sample_sum());
        [of(&metrics.starts), of(&metrics.restart_durations)]
    }

    #[test]
    fn a_pod_has_started_with_the_first_start_of_the_last_of_its_containers() {
        let a = container("a0", "a", 0, running());
        let made = container("b0", "b", 0, State::Created);
        let b = container("b0", "b", 0, running());
        let nothing = [(0, 0.0), (0, 0.0)];
        assert_eq!(after_start(vec![a.clone()], "a0"), nothing);
        assert_eq!(after_start(vec![a.clone(), made], "a0"), nothing);
        assert_eq!(after_start(vec![a, b], "b0"), [(1, 15.0), (0, 0.0)]);
    }

    #[test]
    fn a_restart_takes_from_the_end_to_the_start_without_the_back_off() {
        let exit = Exit {
            ended: MonotonicTime(5500),
            ..Exit::default()
        };
        let old = Container {
            backoff: Some(Duration::ZERO),
            ..container("a0", "a", 0, State::Exited(exit))
        };
        let new = container("a1", "a", 1, running());
        let found = after_start(vec![old, new.clone()], "a1");
        assert_eq!(found, [(0, 0.0), (1, 0.5)]);
        // One that was removed by hand left nobody to tell when it ended.
        assert_eq!(after_start(vec![new], "a1"), [(0, 0.0), (0, 0.0)]);
    }
}
