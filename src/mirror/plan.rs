//! Next requests for the mirror Pods: a pure function of the static Pods' reports and the API server's Pods.
//!
//! A mirror Pod is ours if it carries the annotation, is bound to this node and is controlled by this
//! Node. Of all others only Pods that do not run are answered (`others`). There is one for each static Pod, from its start to its real
//! end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::Value;
use tokio::time::Instant;

use super::object::{NodeIdentity, SeenPod};
use super::others;
use super::patch::status_patch;
use crate::manifest::{PackedPod, PodKey, RestartPolicy};
use crate::pod::encoded_status::EncodedStatus;
use crate::pod::report::PodSnapshot;
use crate::units::time::Later;

/// Minimum interval between patches of a Pod whose status keeps changing.
pub(super) const PATCH_GAP: Duration = Duration::from_secs(1);
/// Minimum interval between creations of a mirror Pod that somebody keeps deleting.
pub(super) const CREATE_GAP: Duration = Duration::from_millis(500);

/// The planner's input.
pub(super) struct MirrorView<'a> {
    /// Reports of the static Pods that are wanted or not yet terminated.
    pub(super) snapshots: &'a BTreeMap<PodKey, Arc<PodSnapshot>>,
    /// The Pods that the manifests want, whether reported or not.
    pub(super) wanted: &'a BTreeSet<PodKey>,
    /// Every Pod that an earlier agent left has been observed: one without a report is gone.
    pub(super) complete: bool,
    /// All Pods of this node that the API server has.
    pub(super) seen: &'a BTreeMap<PodKey, SeenPod>,
    /// This node.
    pub(super) node: &'a NodeIdentity,
    /// Requests that were made or are in flight.
    pub(super) state: &'a RequestState,
    /// No status is changing right now: changes may be sent.
    pub(super) settled: bool,
    pub(super) now: Instant,
}

/// Request state of each Pod.
#[derive(Debug, Default)]
pub(super) struct RequestState {
    /// A step is under way.
    pub(super) busy: BTreeSet<PodKey>,
    /// After a failure nothing is done before this.
    pub(super) not_before: BTreeMap<PodKey, Instant>,
    pub(super) created: BTreeMap<PodKey, Instant>,
    pub(super) patched: BTreeMap<PodKey, Instant>,
    /// Patches that the API server took without changing anything.
    pub(super) no_op: BTreeMap<PodKey, Value>,
    /// Snapshots whose status the mirror Pod has. Comparing the two is most of what a plan costs, so that it is not
    /// done for all Pods at each change of one. Forgotten when the mirror Pod changes.
    pub(super) current: BTreeMap<PodKey, Arc<PodSnapshot>>,
}

impl RequestState {
    fn is_current(&self, key: &PodKey, snapshot: &Arc<PodSnapshot>) -> bool {
        let known = self.current.get(key);
        known.is_some_and(|known| Arc::ptr_eq(known, snapshot))
    }
}

/// One thing to do about a Pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MirrorStep {
    /// Make the mirror.
    Create,
    /// Change the mirror's status.
    Patch(Value),
    /// Answer a Pod that another bound to this node, by its status.
    Answer(Value),
    /// Remove the Pod with this UID of the API server's.
    Delete(String),
}

/// Requests to make now, and the time of the next plan if nothing happens before.
#[derive(Debug, Default, PartialEq)]
pub(super) struct MirrorPlan {
    pub(super) steps: Vec<(PodKey, MirrorStep)>,
    pub(super) wake: Option<Instant>,
    /// Pods whose status was found to be what the mirror Pod has.
    pub(super) current: Vec<PodKey>,
}

/// Plans the next requests. Each Pod gets at most one, and none while one is in flight.
pub(super) fn plan(view: &MirrorView<'_>) -> MirrorPlan {
    let mut plan = MirrorPlan::default();
    let keys: BTreeSet<&PodKey> = view.snapshots.keys().chain(view.seen.keys()).collect();
    for key in keys {
        if view.state.busy.contains(key) {
            continue;
        }
        let Some(step) = step(view, key, &mut plan.current) else {
            continue;
        };
        let at = earliest(view.state, key, &step);
        if at.is_some_and(|at| at > view.now) {
            plan.wake = plan.wake.into_iter().chain(at).min();
        } else {
            plan.steps.push((key.clone(), step));
        }
    }
    plan
}

/// Before when a step is not to be taken.
fn earliest(state: &RequestState, key: &PodKey, step: &MirrorStep) -> Option<Instant> {
    let gap = match step {
        MirrorStep::Create => state.created.get(key).map(|at| at.later(CREATE_GAP)),
        MirrorStep::Patch(_) => state.patched.get(key).map(|at| at.later(PATCH_GAP)),
        MirrorStep::Answer(_) | MirrorStep::Delete(_) => None,
    };
    state.not_before.get(key).copied().max(gap)
}

fn step(view: &MirrorView<'_>, key: &PodKey, current: &mut Vec<PodKey>) -> Option<MirrorStep> {
    let snapshot = view.snapshots.get(key);
    let seen = view.seen.get(key);
    // One that is not ours has the name: making ours is refused until it is gone.
    let owner = seen.and_then(|pod| owner(pod, view.node));
    match (snapshot, seen.zip(owner)) {
        (None, None) => other(seen?, view.node),
        (None, Some((mirror, _))) => {
            let over = view.complete && !view.wanted.contains(key);
            over.then(|| MirrorStep::Delete(mirror.uid().to_owned()))
        }
        (Some(snapshot), None) => {
            (snapshot.version.is_some() && !snapshot.terminating).then_some(MirrorStep::Create)
        }
        (Some(snapshot), Some((mirror, owner))) => {
            if is_other(view, snapshot, mirror, owner)? {
                return Some(MirrorStep::Delete(mirror.uid().to_owned()));
            }
            if !view.settled || view.state.is_current(key, snapshot) {
                return None;
            }
            let patch = status_patch(mirror.uid(), &snapshot.status.decode(), &mirror.status);
            if patch.is_none() {
                current.push(key.clone());
            }
            let is_no_op = view.state.no_op.get(key) == patch.as_ref();
            patch.filter(|_| !is_no_op).map(MirrorStep::Patch)
        }
    }
}

/// The step for a Pod that is not ours.
fn other(pod: &SeenPod, node: &NodeIdentity) -> Option<MirrorStep> {
    if others::is_to_finish(pod) {
        return Some(MirrorStep::Delete(pod.uid().to_owned()));
    }
    others::answer(pod, &node.name).map(MirrorStep::Answer)
}

/// The UID of the Node that the Pod is ours by, if it is ours.
fn owner<'a>(pod: &'a SeenPod, node: &NodeIdentity) -> Option<&'a str> {
    pod.mirrors()?;
    pod.controlled_by(&node.name)
}

/// True if a mirror Pod is not the one that the snapshot wants, or not for long: it has to go. Nothing while no
/// version of the Pod is known.
fn is_other(
    view: &MirrorView<'_>,
    snapshot: &PodSnapshot,
    mirror: &SeenPod,
    owner: &str,
) -> Option<bool> {
    let version = snapshot.version.as_ref()?;
    let is_other = mirror.mirrors() != Some(version.uid.as_str()) || owner != view.node.uid;
    let revives = revives(version, &mirror.status, &snapshot.status);
    Some(mirror.is_leaving() || is_other || revives)
}

/// True if a container has come back that was over for good by its restart policy, as where its restart was requested
/// or its Pod was paused: the API server takes no such status (`ValidateContainerStateTransition`), but it does of a new
/// mirror Pod. It has rules of its own for containers with restart rules.
fn revives(version: &PackedPod, before: &PodStatus, now: &EncodedStatus) -> bool {
    let end = |status: &ContainerStatus| {
        status
            .state
            .as_ref()?
            .terminated
            .as_ref()
            .map(|t| t.exit_code)
    };
    let mut all = before.container_statuses.iter().flatten();
    if all.all(|status| end(status).is_none()) {
        return false;
    }
    let version = version.unpack();
    let mut specs = version.containers().iter();
    if specs.any(|spec| spec.restart_policy.is_some() || spec.restart_policy_rules.is_some()) {
        return false;
    }
    let was_over =
        |status: &ContainerStatus| match (end(status), version.restart_policy(&status.name)) {
            (None, _) | (_, RestartPolicy::Always) => false,
            (Some(_), RestartPolicy::Never) => true,
            (Some(code), RestartPolicy::OnFailure) => code == 0,
        };
    let over = before
        .container_statuses
        .iter()
        .flatten()
        .filter(|s| was_over(s));
    let over: Vec<&str> = over.map(|status| status.name.as_str()).collect();
    if over.is_empty() {
        return false;
    }
    let now = now.decode();
    let mut statuses = now.container_statuses.iter().flatten();
    statuses.any(|status| end(status).is_none() && over.contains(&status.name.as_str()))
}

#[cfg(test)]
mod tests;
