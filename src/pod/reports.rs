//! Last snapshot of every Pod's task: for the people who ask, and for the supervisor, which
//! compares it with what the runtime says.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::observe::StateDigest;
use super::report::{PodReport, PodSnapshot};
use crate::manifest::PodKey;

type All = BTreeMap<PodKey, (Arc<PodSnapshot>, StateDigest)>;

/// The Pods by the runtime's IDs of their sandboxes and containers.
pub type PodsById = HashMap<String, Arc<PodKey>>;

/// All Pods' reports. Written by the tasks, each its own; read by the supervisor, the local API and
/// what shows Pods to an API server.
#[derive(Debug)]
pub struct Reports {
    all: Mutex<All>,
    changes: watch::Sender<u64>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            changes: watch::channel(0).0,
        }
    }
}

impl Reports {
    /// The Pod's new report.
    pub fn set(&self, key: &PodKey, snapshot: PodSnapshot, digest: StateDigest) {
        let mut all = self.lock();
        let before = all.get(key).filter(|(before, _)| **before == snapshot);
        let (snapshot, changed) = match before {
            Some((before, _)) => (Arc::clone(before), false),
            None => (Arc::new(snapshot), true),
        };
        all.insert(key.clone(), (snapshot, digest));
        drop(all);
        if changed {
            self.changes
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The Pod is gone.
    pub fn remove(&self, key: &PodKey) {
        self.lock().remove(key);
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// All reports, by namespace and name.
    #[must_use]
    pub fn all(&self) -> Vec<PodReport> {
        let all = self.lock();
        all.values()
            .map(|(snapshot, _)| snapshot.current_report())
            .collect()
    }

    /// The snapshots of all Pods, by namespace and name.
    #[must_use]
    pub fn snapshots(&self) -> Vec<(PodKey, Arc<PodSnapshot>)> {
        let all = self.lock();
        let snapshot = all
            .iter()
            .map(|(key, (snapshot, _))| (key.clone(), Arc::clone(snapshot)));
        snapshot.collect()
    }

    /// The last snapshot of one Pod.
    #[must_use]
    pub fn get(&self, key: &PodKey) -> Option<Arc<PodSnapshot>> {
        self.lock()
            .get(key)
            .map(|(snapshot, _)| Arc::clone(snapshot))
    }

    /// Returns a receiver that is notified when anything changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns true if the Pod's task last observed this state. A Pod without a task has observed nothing.
    #[must_use]
    pub fn is_current(&self, key: &PodKey, digest: &StateDigest) -> bool {
        match self.lock().get(key) {
            Some((_, current)) => current == digest,
            None => digest.is_empty(),
        }
    }

    /// Returns the Pods by the IDs of all that their tasks last observed.
    #[must_use]
    pub fn owners(&self) -> PodsById {
        let mut owners = PodsById::new();
        for (key, (_, digest)) in &*self.lock() {
            let key = Arc::new(key.clone());
            owners.extend(digest.iter().map(|(id, _)| (id.clone(), Arc::clone(&key))));
        }
        owners
    }

    /// Returns true if the Pod has a report.
    #[must_use]
    pub fn contains(&self, key: &PodKey) -> bool {
        self.lock().contains_key(key)
    }

    /// The Pods that have a report.
    #[must_use]
    pub fn keys(&self) -> Vec<PodKey> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // Each change is one insert or removal, so a panic elsewhere leaves the map whole.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
