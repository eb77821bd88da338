//! Counts and durations of the probes of all Pods.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::{ProbeKind, ProbeOutcome};
use crate::manifest::PodKey;

/// Upper limits of the histogram in seconds, as the kubelet has them (`prober_probe_duration_seconds`).
pub(crate) const DURATION_LIMITS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Results by which probes are counted, in the kubelet's words.
pub(crate) const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

/// The probes of all Pods. Cloning it is cheap and shares them. A probe is forgotten with its Pod.
#[derive(Debug, Clone, Default)]
pub struct ProbeMetrics(Arc<Mutex<Vec<Weak<ProbeCounter>>>>);

impl ProbeMetrics {
    /// Adds a probe.
    pub(crate) fn add(
        &self,
        pod: &PodKey,
        uid: &str,
        container: &str,
        kind: ProbeKind,
    ) -> Arc<ProbeCounter> {
        let counter = Arc::new(ProbeCounter {
            pod: pod.clone(),
            uid: uid.to_owned(),
            container: container.to_owned(),
            kind,
            counts: Mutex::default(),
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|counter| counter.strong_count() > 0);
        all.push(Arc::downgrade(&counter));
        counter
    }

    /// Returns the probes that exist, by Pod and container.
    pub(crate) fn all(&self) -> Vec<Arc<ProbeCounter>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
        all.sort_by(|a, b| a.order().cmp(&b.order()));
        all
    }
}

/// One probe of a container of a Pod, whatever the instance of the container.
#[derive(Debug)]
pub(crate) struct ProbeCounter {
    pub(crate) pod: PodKey,
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) kind: ProbeKind,
    counts: Mutex<ProbeCounts>,
}

/// Counts of one probe.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProbeCounts {
    /// By [`RESULTS`].
    pub(crate) results: [u64; 3],
    /// By [`DURATION_LIMITS`], each without the ones before; longer ones are counted by their results alone.
    pub(crate) durations: [u64; 11],
    /// Sum of the durations.
    pub(crate) took: Duration,
}

impl ProbeCounter {
    fn order(&self) -> (&PodKey, &str, ProbeKind) {
        (&self.pod, &self.container, self.kind)
    }

    /// Counts one probe.
    pub(crate) fn record(&self, outcome: &ProbeOutcome, took: Duration) {
        let result = match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => 0,
            ProbeOutcome::Failure(_) => 1,
            ProbeOutcome::Error(_) => 2,
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.results[result] = counts.results[result].saturating_add(1);
        let seconds = took.as_secs_f64();
        if let Some(bucket) = DURATION_LIMITS.iter().position(|limit| seconds <= *limit) {
            counts.durations[bucket] = counts.durations[bucket].saturating_add(1);
        }
        counts.took = counts.took.saturating_add(took);
    }

    pub(crate) fn counts(&self) -> ProbeCounts {
        let counts = self.counts.lock();
        counts.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_counted_by_result_and_duration_and_forgotten_with_their_pod() {
        let (metrics, key) = (ProbeMetrics::default(), PodKey::default());
        let counter = metrics.add(&key, "u", "c", ProbeKind::Readiness);
        let gone = metrics.add(&key, "u", "a", ProbeKind::Readiness);
        assert_eq!(metrics.all()[0].container, "a");
        drop(gone);
        counter.record(&ProbeOutcome::Success, Duration::from_millis(7));
        counter.record(&ProbeOutcome::Error("e".into()), Duration::from_secs(60));
        let counts = metrics.all()[0].counts();
        assert_eq!(counts.results, [1, 0, 1]);
        assert_eq!(counts.durations[1], 1);
        assert_eq!(counts.durations.iter().sum::<u64>(), 1);
        assert_eq!(counts.took, Duration::from_millis(60_007));
        assert_eq!(metrics.all().len(), 1);
    }
}
