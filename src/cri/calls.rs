//! Metrics of calls to the runtime: their durations, and failures.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{HistogramVec, IntCounterVec};

use super::error::Error;
use crate::measure::{counters, histograms};

/// Upper limits of the histogram in seconds, from calls that read memory to calls that wait for a grace period.
const LIMITS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// Metrics of all calls. Clones share them.
#[derive(Debug, Clone)]
pub struct Calls {
    durations: HistogramVec,
    errors: IntCounterVec,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            durations: histograms(
                "podkeeper_cri_call_duration_seconds",
                "Duration of calls of the container runtime, including failed ones, by CRI method.",
                "method",
                &LIMITS,
            ),
            errors: counters(
                "podkeeper_cri_call_errors_total",
                "Failed calls of the container runtime, by CRI method and kind of failure: unavailable, \
                 deadline, not_found, unimplemented or failed.",
                &["method", "kind"],
            ),
        }
    }
}

impl Calls {
    /// Records one call.
    pub(super) fn observe(&self, method: &str, took: Duration, error: Option<&Error>) {
        let duration = self.durations.with_label_values(&[method]);
        duration.observe(took.as_secs_f64());
        if let Some(error) = error {
            self.errors.with_label_values(&[method, error.kind()]).inc();
        }
    }

    /// Returns the collectors, for a registry.
    #[must_use]
    pub fn collectors(&self) -> [Box<dyn Collector>; 2] {
        [
            Box::new(self.durations.clone()),
            Box::new(self.errors.clone()),
        ]
    }
}
