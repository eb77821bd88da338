//! Jobs that go on beside a Pod's steps: what prepares the next version, and what cleans up. Supervision
//! never waits for them. Their outcome comes to the task, which alone changes its state.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::PodTask;
use super::clean_up::{clean_up, remove_container, remove_sandbox, stop_sandbox};
use super::error::StepError;
use super::prepare::check_volumes;
use super::requests::PauseReply;
use super::take_over::take_over;
use crate::host::blocking;
use crate::image::{ImageError, LocalImage};
use crate::manifest::{StaticPod, Uid};
use crate::pod::events::EventKind;
use crate::pod::limiter::Permit;
use crate::pod::pause::Pause;
use crate::pod::plan::{Outcome, Step};
use crate::pod::state::observed::{ContainerId, SandboxId};
use crate::pod::state::progress::UnderWay;

/// Time limit of file work on the paths that a manifest names.
pub(super) const FILES: Duration = Duration::from_secs(10);

/// Work beside the task's steps.
pub(super) type Job = BoxFuture<'static, JobOutcome>;

/// The outcome of such work.
pub(super) enum JobOutcome {
    /// A step of the planner's.
    Step {
        step: Step,
        result: Result<(), StepError>,
    },
    /// The runtime was asked for an image.
    Image {
        uid: Uid,
        holder: String,
        result: Result<Option<LocalImage>, ImageError>,
    },
    /// It is this version's turn among the node's updates.
    Turn { uid: Uid, permit: Permit },
    /// It was written that the Pod is paused, or that it is not any more.
    Pause {
        pause: Option<Pause>,
        written: io::Result<()>,
        reply: PauseReply,
    },
    /// The runtime's word for the end of a container, a moment after it.
    Reason {
        id: ContainerId,
        reason: Option<String>,
    },
}

type Work = BoxFuture<'static, Result<(), StepError>>;

impl PodTask {
    /// Begins a step that goes on beside the others.
    pub(super) fn begin(&mut self, step: Step) {
        let context = Arc::clone(&self.context);
        let work: Work = match &step {
            Step::CheckVolumes { uid } => {
                let version = self.known_version(uid);
                let checked = version.and_then(|v| self.check_objects(&v).map(|()| v));
                match checked {
                    Ok(version) => {
                        let record = self.record(&version);
                        check_volumes(context, version, record).boxed()
                    }
                    Err(failure) => std::future::ready(Err(failure)).boxed(),
                }
            }
            Step::TakeOverKubeletPod { uid } => {
                if self.context.kubelet_pods.take_over {
                    let message = "Stopping the Pod that a kubelet left, before this one starts";
                    self.event(uid, None, EventKind::Normal, "TakingOver", message);
                }
                take_over(context, self.key.clone()).boxed()
            }
            Step::StopSandbox { id } => stop_sandbox(context, id.clone()).boxed(),
            Step::RemoveSandbox { id } => remove_sandbox(context, id.clone()).boxed(),
            Step::RemoveContainer { id } => {
                let known = self.observed.container(id);
                remove_container(context, self.key.clone(), id.clone(), known.cloned()).boxed()
            }
            Step::CleanUp { uid } => clean_up(context, self.key.clone(), uid.clone()).boxed(),
            _ => return,
        };
        let now = self.context.clock.now();
        self.outcome(&step, Outcome::UnderWay(now));
        let shown = self.show(&step);
        let job = async move {
            let _shown = shown;
            let result = work.await;
            JobOutcome::Step { step, result }
        };
        self.jobs.push(job.boxed());
    }

    /// Shows a step that is under way, for people.
    fn show(&self, step: &Step) -> UnderWay {
        let observed = &self.observed;
        let none = Uid::default();
        let uid_of = |id: &SandboxId| {
            let sandbox = observed.sandbox(id);
            sandbox.map_or(&none, |s| &s.uid)
        };
        match step {
            Step::StopSandbox { id } => self.under_way(uid_of(id), None, "StopPodSandbox"),
            Step::RemoveSandbox { id } => self.under_way(uid_of(id), None, "RemovePodSandbox"),
            Step::RemoveContainer { id } => {
                let known = observed.container(id);
                let (uid, name) = known.map_or((&none, ""), |c| (&c.uid, c.name.as_str()));
                self.under_way(uid, Some(name), "RemoveContainer")
            }
            Step::CheckVolumes { uid } => self.under_way(uid, None, "CheckVolumes"),
            Step::TakeOverKubeletPod { uid } => self.under_way(uid, None, "TakeOverKubeletPod"),
            Step::CleanUp { uid } => self.under_way(uid, None, "CleanUp"),
            _ => self.under_way(&none, None, "Step"),
        }
    }

    /// Takes in the outcome of a job.
    pub(super) fn job_done(&mut self, done: JobOutcome) {
        match done {
            JobOutcome::Step { step, result } => {
                self.outcome(&step, Outcome::Ended);
                self.apply(&step, &result);
                let now = self.context.clock.now();
                if result.is_ok() && !self.effects.succeeded(&step, now) {
                    return;
                }
                self.record_outcome(&step, result);
            }
            JobOutcome::Image {
                uid,
                holder,
                result,
            } => self.image_checked(uid, holder, result),
            JobOutcome::Pause {
                pause,
                written,
                reply,
            } => self.pause_written(pause, written, reply),
            JobOutcome::Reason { id, reason } => self.reason_read(&id, reason),
            JobOutcome::Turn { uid, permit } => {
                let step = Step::TakeTurn { uid: uid.clone() };
                self.outcome(&step, Outcome::Ended);
                if self.is_wanted(&uid) {
                    self.outcome(&step, Outcome::Done);
                    self.turn = Some((uid, permit.lease()));
                }
            }
        }
    }

    /// Takes over what a step beside the others brought about.
    pub(super) fn apply(&mut self, step: &Step, result: &Result<(), StepError>) {
        // Where only its files are left, the runtime does not have it any more.
        let only_files = matches!(step, Step::RemoveContainer { .. })
            && matches!(result, Err(StepError::Node { .. }));
        if result.is_err() && !only_files {
            return;
        }
        self.outcome(step, Outcome::Done);
        self.observed.apply_done(step);
        if let Step::CleanUp { uid } = step {
            self.cleaned_up(uid);
        }
    }

    /// Applies an outcome of a step to the Pod's state. Returns true if it is a failure other than the last
    /// one of the step's subject.
    pub(super) fn outcome(&mut self, step: &Step, outcome: Outcome) -> bool {
        self.state.apply(step, outcome, &self.observed)
    }
}

/// Subject of file work for a version, named with its host paths. Work for another version does not wait
/// for it, however many of a Pod's versions hang.
pub(super) fn file_subject(what: &str, version: &StaticPod) -> blocking::FileSubject {
    let volumes = version.volumes().iter();
    let paths = volumes.filter_map(|v| v.host_path.as_ref().map(|p| p.path.as_str()));
    let paths: Vec<&str> = paths.collect();
    let name = match paths.as_slice() {
        [] => format!("{what} of {}", version.key),
        paths => format!("{what} of {} ({})", version.key, paths.join(", ")),
    };
    blocking::FileSubject::of(&version.key, &version.uid, name)
}
