//! What every Pod's task last told of itself: for the people who ask, and for the supervisor, which
//! compares it with what the runtime says.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::observe::Belief;
use super::report::PodReport;
use crate::manifest::PodKey;

/// All Pods' reports. Written by the tasks, each its own; read by the supervisor and the local API.
#[derive(Debug, Default)]
pub struct Reports(Mutex<BTreeMap<PodKey, (PodReport, Belief)>>);

impl Reports {
    /// The Pod's new report.
    pub fn set(&self, key: &PodKey, report: PodReport, belief: Belief) {
        self.lock().insert(key.clone(), (report, belief));
    }

    /// The Pod is gone.
    pub fn remove(&self, key: &PodKey) {
        self.lock().remove(key);
    }

    /// All reports, by namespace and name.
    #[must_use]
    pub fn all(&self) -> Vec<PodReport> {
        self.lock()
            .values()
            .map(|(report, _)| report.clone())
            .collect()
    }

    /// Whether the Pod's task believes this. A Pod without a task believes nothing.
    #[must_use]
    pub fn agrees(&self, key: &PodKey, belief: &Belief) -> bool {
        match self.lock().get(key) {
            Some((_, believed)) => believed == belief,
            None => belief.is_empty(),
        }
    }

    /// The Pods that have a report.
    #[must_use]
    pub fn keys(&self) -> Vec<PodKey> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodKey, (PodReport, Belief)>> {
        // Each change is one insert or removal, so a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
