//! The order of first starts: until when the first start of a Pod is held for others.

use super::Planner;
use crate::manifest::{PodKey, StaticPod};
use crate::pod::state::View;
use crate::pod::state::order::Readiness;
use crate::pod::state::time::MonotonicTime;

/// The reason for which a Pod is not started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy<'a> {
    /// The Pods that are not Ready, and what they are.
    pub pods: Vec<(&'a PodKey, Readiness)>,
    /// Time of the start without them.
    pub until: Option<MonotonicTime>,
}

/// Returns what holds the first start of a version, if anything does: Pods that it is started after, which are not all
/// Ready, and its time for that is not over.
#[must_use]
pub fn held_by<'a>(view: View<'_>, version: &'a StaticPod) -> Option<HeldBy<'a>> {
    let order = version.start_after.as_ref()?;
    let state = &view.state.order;
    let uid = &version.uid;
    if state.hold.is_over || view.observed.ready_sandbox(uid).is_some() {
        return None;
    }
    let readiness = |key: &PodKey| state.readiness.get(key).copied().unwrap_or_default();
    let pods = order.pods.iter().map(|key| (key, readiness(key)));
    let pods: Vec<_> = pods
        .filter(|(_, found)| *found != Readiness::Ready)
        .collect();
    let since = state.hold.since.and_then(|since| since.known());
    let until = order.timeout.and_then(|limit| Some(since?.after(limit)));
    let is_late = until.is_some_and(|until| until <= view.now);
    (!pods.is_empty() && !is_late).then_some(HeldBy { pods, until })
}

impl Planner<'_> {
    /// Returns true if the start of a version is held for other Pods.
    pub(super) fn is_held(&mut self, version: &StaticPod) -> bool {
        let held = held_by(self.view, version);
        if let Some(until) = held.as_ref().and_then(|held| held.until) {
            self.must_wait_until(until);
        }
        held.is_some()
    }
}
