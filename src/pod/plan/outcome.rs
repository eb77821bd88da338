//! Outcomes of steps, and what each changes in the Pod's state.
//!
//! The Pod's task applies an outcome once it stands in the runtime or on disk, and the planner's properties
//! apply the same ones to a runtime that is simulated. As pure as the planner: no I/O, and times are values.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Step;
use super::images::volume_holder;
use crate::manifest::Uid;
use crate::pod::admission::Rejection;
use crate::pod::state::history::{FailedInstance, Finished, History};
use crate::pod::state::observed::{ContainerId, Observed};
use crate::pod::state::record::Record;
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{Admission, FirstSeen, Image, PodState, Terminating, Termination, Version};

/// An outcome of a step: of the whole of it, or of a part that shows before its end.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It goes on beside the Pod's other steps, since this time.
    UnderWay(MonotonicTime),
    /// It is not under way any more, whether it succeeded, failed or was dropped.
    Ended,
    /// It has brought about what it is for.
    Done,
    /// Its success is final: the failures of its subject are over.
    Succeeded,
    /// It failed at this time, with Kubernetes' word for it and an error message.
    Failed {
        /// `CreateContainerError` and the like.
        reason: &'static str,
        /// Error message.
        message: String,
        /// The time.
        at: MonotonicTime,
    },
    /// `Admit`: the version may run on this node, or not for this reason.
    Admission(Result<(), Rejection>),
    /// `EnsureImage`: the state of the image; `None` where nothing is known of it any more.
    Image(Option<Image>),
    /// `RunSandbox`, `RunContainer`: what it needs on the node is about to be made. A container uses up its
    /// image, whether it starts or not: the next start checks for the image again.
    Begun,
    /// `RunSandbox`: the version's folder has this record.
    Recorded(Arc<Record>),
    /// `RunSandbox`, `RunContainer`: the runtime holds the attempt's name for something that it does not
    /// have.
    NameReserved,
    /// `RunContainer`: the runtime did not create the container. An image behind a volume may have gone.
    NotCreated,
    /// `RunContainer`, `StartContainer`: the container with this ID is about to start, and has a postStart
    /// hook.
    PostStart(ContainerId),
    /// `RunSandbox`, `RunContainer`, `StartContainer`: the runtime started it at this time.
    Started(MonotonicTime),
    /// `Terminate`: the start of the termination stands on disk, and nothing has been stopped for it.
    Terminating(Terminating),
    /// `StopContainers`: the container with this ID does not work, and has not been stopped for that.
    FailedInstance(ContainerId, FailedInstance),
    /// `Fail`: the version has ended so. `None` is the record of a version that nothing is known of.
    Finished(Finished, Option<Arc<Record>>),
    /// `StartAgain`: the version is as one that was first seen at this time.
    StartedAgain(FirstSeen),
}

impl PodState {
    /// Applies an outcome of a step. `observed` is what the runtime had before. Returns true if it is a
    /// failure other than the last one of the step's subject.
    pub fn apply(&mut self, step: &Step, outcome: Outcome, observed: &Observed) -> bool {
        let subject = step.subject();
        match outcome {
            Outcome::UnderWay(since) => {
                self.under_way.extend(subject.map(|s| (s, since)));
            }
            Outcome::Ended => self.under_way.retain(|s, _| Some(s) != subject.as_ref()),
            Outcome::Done => self.apply_done(step, observed),
            Outcome::Succeeded => self.failures.retain(|s, _| Some(s) != subject.as_ref()),
            Outcome::Failed {
                reason,
                message,
                at,
            } => {
                return subject.is_some_and(|s| self.record_failure(s, reason, message, at));
            }
            Outcome::Started(at) => self.last_starts.extend(subject.map(|s| (s, at))),
            Outcome::NameReserved => {
                let next = step.attempt().map(|attempt| attempt.saturating_add(1));
                self.free_attempts.extend(subject.zip(next));
            }
            Outcome::StartedAgain(seen) => {
                if let Some(uid) = step.uid() {
                    self.start_again(uid, seen, observed);
                }
            }
            outcome => {
                if let Some(uid) = step.uid() {
                    self.version_mut(uid).apply(step, outcome);
                    self.update_version(uid, |_| ());
                }
            }
        }
        false
    }

    fn apply_done(&mut self, step: &Step, observed: &Observed) {
        match step {
            // One that was forgotten meanwhile is checked again.
            Step::CheckVolumes { uid } if self.pod(uid).is_some() => {
                self.version_mut(uid).takeover.volumes_checked = true;
            }
            Step::TakeTurn { uid } => self.version_mut(uid).takeover.has_turn = true,
            Step::TakeOverKubeletPod { .. } => self.kubelet_pod = false,
            Step::RestartAll { uid } => {
                let history = self.version_mut(uid).history_mut();
                for container in observed.containers_of(uid) {
                    history.replace(container);
                }
                // Whatever was wrong with one of them, it ends with the others.
                history.failed_instances.clear();
            }
            Step::StopSandbox { id } => {
                self.stopped_sandboxes.insert(id.clone());
            }
            Step::RemoveContainer { id } => {
                self.update_versions(|_, version| {
                    // Else what is shared with the written one would be copied.
                    if version.history.mentions(id) {
                        version.history_mut().forget(id);
                    }
                });
            }
            Step::CleanUp { uid } => self.forget_version(uid),
            // The rest shows in the runtime alone, or has outcomes of its own.
            _ => {}
        }
    }

    /// Nothing of the old instances counts for the new ones but their names.
    fn start_again(&mut self, uid: &Uid, seen: FirstSeen, observed: &Observed) {
        let mut history = History::default();
        for container in observed.containers_of(uid) {
            history.replace(container);
        }
        let version = self.version_mut(uid);
        version.history = Arc::new(history);
        version.written_history = None;
        version.record = None;
        version.termination = None;
        version.admission.reopen();
        version.seen = Some(seen);
        let clean_up = Step::CleanUp { uid: uid.clone() };
        self.apply(&clean_up, Outcome::Succeeded, observed);
    }
}

impl Version {
    /// Applies an outcome that is about this version alone.
    fn apply(&mut self, step: &Step, outcome: Outcome) {
        match (step, outcome) {
            (Step::Admit { .. }, Outcome::Admission(Ok(()))) => {
                self.admission = Admission::Admitted;
            }
            (Step::Admit { .. }, Outcome::Admission(Err(rejection))) => {
                self.admission = Admission::Rejected(rejection);
            }
            (Step::EnsureImage { container, .. }, Outcome::Image(Some(image))) => {
                self.images.insert(container.clone(), image);
            }
            (Step::EnsureImage { container, .. }, Outcome::Image(None))
            | (Step::RunContainer { container, .. }, Outcome::Begun) => {
                self.images.remove(container);
                if self.images.is_empty() {
                    // Else it keeps its room.
                    self.images = BTreeMap::new();
                }
            }
            (Step::RunSandbox { .. }, Outcome::Begun) => self.on_disk = true,
            (Step::RunSandbox { .. }, Outcome::Recorded(record)) => self.record = Some(record),
            (Step::RunContainer { .. }, Outcome::NotCreated) => {
                let of_volume = |holder: &String| holder.starts_with(&volume_holder(""));
                self.images.retain(|holder, _| !of_volume(holder));
            }
            (Step::RunContainer { .. } | Step::StartContainer { .. }, Outcome::PostStart(id)) => {
                self.history_mut().post_starts.insert(id);
            }
            (Step::Terminate { .. }, Outcome::Terminating(terminating)) => {
                self.on_disk = true;
                self.termination = Some(Termination::Begun(terminating));
            }
            (Step::StopContainers { .. }, Outcome::FailedInstance(id, failed)) => {
                let history = self.history_mut();
                history.post_starts.remove(&id);
                history.failed_instances.insert(id, failed);
            }
            (Step::Fail { .. }, Outcome::Finished(finished, record)) => {
                self.history_mut().end(finished);
                if record.is_some() {
                    self.on_disk = true;
                    self.record = record;
                }
            }
            (step, outcome) => {
                debug_assert!(false, "{step:?} has no outcome {outcome:?}");
            }
        }
    }
}

impl Observed {
    /// Applies what a step that is done changed in the runtime, as far as the step itself shows.
    pub fn apply_done(&mut self, step: &Step) {
        match step {
            Step::StopSandbox { id } => {
                if let Some(known) = self.sandbox_mut(id) {
                    known.ready = false;
                }
            }
            Step::RemoveSandbox { id } => {
                self.forget(id);
                self.containers.retain(|c| c.sandbox != *id);
            }
            Step::RemoveContainer { id } => self.forget(id),
            _ => {}
        }
    }
}
