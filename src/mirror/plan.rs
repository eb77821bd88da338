//! The next request for a mirror Pod: a pure function of the static Pod's report and the API server's Pod.
//!
//! A mirror Pod is ours if it carries the annotation, is bound to this node and is controlled by this
//! Node. Of all others only Pods that do not run are answered (`others`). There is one for each static Pod, from its start to its real
//! end.

use std::collections::{BTreeMap, BTreeSet};
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

/// The planner's input: one Pod.
pub(super) struct PodView<'a> {
    /// Report of the static Pod, if it is wanted or not yet terminated.
    pub(super) snapshot: Option<&'a PodSnapshot>,
    /// The Pod that the API server has.
    pub(super) seen: Option<&'a SeenPod>,
    /// The manifests may want it, whether reported or not, or not every Pod that an earlier agent left has been
    /// observed: without a report it is not gone.
    pub(super) may_start: bool,
    /// This node.
    pub(super) node: &'a NodeIdentity,
    /// The patch that the API server took without changing anything.
    pub(super) no_op: Option<&'a Value>,
    /// No status is changing right now: changes may be sent.
    pub(super) settled: bool,
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

/// The next thing to do for a Pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// Nothing until its report or the API server's Pod changes.
    Nothing,
    /// To be seen once its status has settled.
    Settle,
    /// To be seen when the manifests change: its mirror Pod stays until it is known that the Pod is gone.
    Stay,
    Step(MirrorStep),
}

impl RequestState {
    /// Before when a step is not to be taken.
    pub(super) fn earliest(&self, key: &PodKey, step: &MirrorStep) -> Option<Instant> {
        let gap = match step {
            MirrorStep::Create => self.created.get(key).map(|at| at.later(CREATE_GAP)),
            MirrorStep::Patch(_) => self.patched.get(key).map(|at| at.later(PATCH_GAP)),
            MirrorStep::Answer(_) | MirrorStep::Delete(_) => None,
        };
        self.not_before.get(key).copied().max(gap)
    }

    pub(super) fn forget(&mut self, key: &PodKey) {
        self.not_before.remove(key);
        self.created.remove(key);
        self.patched.remove(key);
        self.no_op.remove(key);
    }
}

/// Plans the next request for a Pod.
pub(super) fn plan(view: &PodView<'_>) -> Next {
    // One that is not ours has the name: making ours is refused until it is gone.
    let owner = view.seen.and_then(|pod| pod.mirror_owner(&view.node.name));
    match (view.snapshot, view.seen.zip(owner)) {
        (None, None) => {
            let step = view.seen.and_then(|pod| other(pod, view.node));
            step.map_or(Next::Nothing, Next::Step)
        }
        (None, Some(_)) if view.may_start => Next::Stay,
        (None, Some((mirror, _))) => delete(mirror),
        (Some(snapshot), None) if snapshot.version.is_some() && !snapshot.terminating => {
            Next::Step(MirrorStep::Create)
        }
        (Some(_), None) => Next::Nothing,
        (Some(snapshot), Some((mirror, owner))) => {
            let Some(version) = &snapshot.version else {
                return Next::Nothing;
            };
            let is_other =
                mirror.mirrors.as_deref() != Some(&version.uid) || owner != view.node.uid;
            if mirror.is_leaving || is_other {
                return delete(mirror);
            }
            let theirs = mirror.status.decode();
            if revives(version, &theirs, &snapshot.status) {
                return delete(mirror);
            }
            if !view.settled {
                return Next::Settle;
            }
            let patch = status_patch(&mirror.uid, &snapshot.status.decode(), &theirs);
            let is_no_op = view.no_op == patch.as_ref();
            let patch = patch.filter(|_| !is_no_op).map(MirrorStep::Patch);
            patch.map_or(Next::Nothing, Next::Step)
        }
    }
}

fn delete(pod: &SeenPod) -> Next {
    Next::Step(MirrorStep::Delete(pod.uid.clone()))
}

/// The step for a Pod that is not ours.
fn other(pod: &SeenPod, node: &NodeIdentity) -> Option<MirrorStep> {
    if others::is_to_finish(pod) {
        return Some(MirrorStep::Delete(pod.uid.clone()));
    }
    others::answer(pod, &node.name).map(MirrorStep::Answer)
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
