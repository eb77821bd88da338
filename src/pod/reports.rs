//! Last snapshot of every Pod's task: for the people who ask, and for the supervisor, which
//! compares it with what the runtime says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};

use super::observe::StateDigest;
use super::report::{PodReport, PodSnapshot};
use super::state::order::Readiness;
use crate::manifest::PodKey;

/// Followed Pods, beyond twice as many as there are, before those that nobody follows any more are left out.
const SPARE: usize = 100;

/// Followers of Pods, notified when one becomes Ready, or is so no longer.
type Followers = HashMap<PodKey, Vec<Weak<Notify>>>;

type All = BTreeMap<PodKey, (Arc<PodSnapshot>, StateDigest)>;

/// The Pods by the runtime's IDs of their sandboxes and containers.
pub type PodsById = HashMap<Arc<str>, Arc<PodKey>>;

/// The Pods whose reports changed since they were taken.
#[derive(Debug, Default)]
pub struct ChangedPods {
    keys: Mutex<BTreeSet<PodKey>>,
    notify: Notify,
}

impl ChangedPods {
    /// Takes the Pods whose reports changed.
    pub fn take(&self) -> BTreeSet<PodKey> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until there are some. Nothing is lost where the wait is dropped.
    pub async fn changed(&self) {
        while self.lock().is_empty() {
            self.notify.notified().await;
        }
    }

    fn add(&self, key: &PodKey) {
        self.lock().insert(key.clone());
        self.notify.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<PodKey>> {
        // Each change leaves the set whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All Pods' reports. Written by the tasks, each its own; read by the supervisor, the local API and
/// what shows Pods to an API server.
#[derive(Debug)]
pub struct Reports {
    all: Mutex<All>,
    changes: watch::Sender<u64>,
    followers: Mutex<Followers>,
    changed: Mutex<Vec<Weak<ChangedPods>>>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            changes: watch::channel(0).0,
            followers: Mutex::default(),
            changed: Mutex::default(),
        }
    }
}

impl Reports {
    /// The Pod's new report.
    pub fn set(&self, key: &PodKey, snapshot: PodSnapshot, digest: StateDigest) {
        let mut all = self.lock();
        let known = all.get(key);
        let before = known.filter(|(before, _)| **before == snapshot);
        let (snapshot, changed) = match before {
            Some((before, _)) => (Arc::clone(before), false),
            None => (Arc::new(snapshot), true),
        };
        let readiness = |snapshot: &PodSnapshot| snapshot.readiness();
        let was_ready = known.map(|(before, _)| readiness(before));
        let is_other = changed && was_ready != Some(readiness(&snapshot));
        all.insert(key.clone(), (snapshot, digest));
        drop(all);
        if is_other {
            self.notify_followers(key);
        }
        if changed {
            self.count_change(key);
        }
    }

    /// The Pod is gone.
    pub fn remove(&self, key: &PodKey) {
        self.lock().remove(key);
        self.notify_followers(key);
        self.count_change(key);
    }

    /// Names the Pod to those who follow all, and counts the change after that.
    fn count_change(&self, key: &PodKey) {
        self.changed().retain(|changed| {
            let changed = changed.upgrade();
            changed.inspect(|changed| changed.add(key)).is_some()
        });
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Returns the Pods whose reports change from now on, each once until it is taken.
    #[must_use]
    pub fn changed_pods(&self) -> Arc<ChangedPods> {
        let changed = Arc::default();
        self.changed().push(Arc::downgrade(&changed));
        changed
    }

    fn changed(&self) -> MutexGuard<'_, Vec<Weak<ChangedPods>>> {
        // Each change leaves the list whole.
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `follower` notified when one of these Pods becomes Ready, or is so no longer, for as long as it is held.
    pub fn notify(&self, keys: &BTreeSet<PodKey>, follower: &Arc<Notify>) {
        let pods = self.lock().len();
        let mut followers = self.followers();
        // Those that followed Pods that never were are not told that they are gone.
        if followers.len() > pods.saturating_mul(2).saturating_add(SPARE) {
            followers.retain(|_, of| {
                of.retain(|known| known.strong_count() > 0);
                !of.is_empty()
            });
        }
        for key in keys {
            let of = followers.entry(key.clone()).or_default();
            of.retain(|known| known.strong_count() > 0);
            of.push(Arc::downgrade(follower));
        }
    }

    /// Returns the state of a Pod for those that are started after it.
    #[must_use]
    pub fn readiness(&self, key: &PodKey) -> Readiness {
        let all = self.lock();
        all.get(key)
            .map_or(Readiness::Missing, |(snapshot, _)| snapshot.readiness())
    }

    fn notify_followers(&self, key: &PodKey) {
        let mut followers = self.followers();
        let Some(of) = followers.get_mut(key) else {
            return;
        };
        of.retain(|follower| {
            let follower = follower.upgrade();
            follower.inspect(|follower| follower.notify_one()).is_some()
        });
        if of.is_empty() {
            followers.remove(key);
        }
    }

    fn followers(&self) -> MutexGuard<'_, Followers> {
        // Each change leaves the map whole.
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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

    /// Returns true if the tasks of all Pods together last observed just these states.
    #[must_use]
    pub fn are_current<'a>(&self, states: impl Iterator<Item = (&'a str, i32)>) -> bool {
        let all = self.lock();
        let observed = all.values().flat_map(|(_, digest)| digest);
        let mut observed: HashSet<(&str, i32)> =
            observed.map(|(id, state)| (&**id, *state)).collect();
        for state in states {
            if !observed.remove(&state) {
                return false;
            }
        }
        observed.is_empty()
    }

    /// Returns the Pods by the IDs of all that their tasks last observed.
    #[must_use]
    pub fn owners(&self) -> PodsById {
        let mut owners = PodsById::new();
        for (key, (_, digest)) in &*self.lock() {
            let key = Arc::new(key.clone());
            owners.extend(
                digest
                    .iter()
                    .map(|(id, _)| (Arc::clone(id), Arc::clone(&key))),
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_current_if_they_are_all_that_was_observed_and_no_more() {
        let reports = Reports::default();
        assert!(reports.are_current([].into_iter()));
        for (name, digest) in [
            ("a", vec![("c1", 1), ("s1", 0)]),
            ("b", vec![("s2", 0)]),
            ("c", vec![]),
        ] {
            let digest = digest.into_iter().map(|(id, state)| (id.into(), state));
            reports.set(&key(name), PodSnapshot::default(), digest.collect());
        }
        let is_current = |states: &[(&str, i32)]| reports.are_current(states.iter().copied());
        assert!(is_current(&[("s2", 0), ("c1", 1), ("s1", 0)]));
        assert!(
            !is_current(&[("s2", 0), ("c1", 2), ("s1", 0)]),
            "a state changed"
        );
        assert!(!is_current(&[("s2", 0), ("s1", 0)]), "one is gone");
        assert!(
            !is_current(&[("s2", 0), ("c1", 1), ("s1", 0), ("c2", 0)]),
            "one is new"
        );
        assert!(
            !is_current(&[("s2", 0), ("s2", 0), ("c1", 1), ("s1", 0)]),
            "one is there twice"
        );
    }

    fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    /// A report with this message.
    fn snapshot(message: &str) -> PodSnapshot {
        let mut snapshot = PodSnapshot::default();
        snapshot.report.message = message.to_owned();
        snapshot
    }

    #[tokio::test]
    async fn each_pod_whose_report_changed_is_named_once() {
        let reports = Reports::default();
        let set = |name: &str, message: &str| {
            reports.set(&key(name), snapshot(message), StateDigest::default());
        };
        set("before", "");
        let (changed, dropped) = (reports.changed_pods(), reports.changed_pods());
        drop(dropped);
        for (name, message) in [("b", "1"), ("b", "2"), ("a", "1")] {
            set(name, message);
        }
        changed.changed().await;
        assert_eq!(changed.take(), [key("a"), key("b")].into());
        assert_eq!(changed.take(), BTreeSet::new());
        set("b", "2");
        assert_eq!(changed.take(), BTreeSet::new(), "it says the same");
        reports.remove(&key("b"));
        changed.changed().await;
        assert_eq!(changed.take(), [key("b")].into());
    }
}
