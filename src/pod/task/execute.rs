//! Executing the planner's steps. Each ends with the task's view of the runtime brought up to date: by
//! what the step itself changed, or, when it failed, by asking the runtime again.

use std::sync::Arc;

use tracing::{info, warn};

use super::PodTask;
use super::error::{StepError, node_failure};
use crate::host::blocking::blocking;
use crate::manifest::Uid;
use crate::pod::events::EventKind;
use crate::pod::folder;
use crate::pod::plan::{Outcome, Step};
use crate::pod::state::history::Finished;
use crate::pod::state::{FirstSeen, Phase};

impl PodTask {
    /// Executes one step, and records its outcome.
    pub(super) async fn execute(&mut self, step: Step) {
        let result = match &step {
            Step::Admit { uid } => return self.admit(&step, uid),
            Step::EnsureImage { uid, container } => return self.ensure_image(uid, container),
            Step::TakeTurn { uid } => return self.take_turn(&step, uid),
            Step::CheckVolumes { .. }
            | Step::TakeOverKubeletPod { .. }
            | Step::StopSandbox { .. }
            | Step::RemoveSandbox { .. }
            | Step::RemoveContainer { .. }
            | Step::CleanUp { .. } => return self.begin(step),
            Step::RunSandbox { uid, attempt } => self.run_sandbox(&step, uid, *attempt).await,
            Step::RunContainer {
                uid,
                sandbox,
                container,
                attempt,
                backoff,
            } => {
                self.run_container(&step, uid, sandbox, container, *attempt, *backoff)
                    .await
            }
            Step::StartContainer { uid, container, id } => {
                self.start_container(&step, uid, container, id).await
            }
            Step::Terminate { uid } => self.terminate(&step, uid).await,
            Step::StopContainers { uid, ids, reason } => {
                self.stop_containers(&step, uid, ids, *reason).await
            }
            Step::RestartAll { uid } => return self.restart_all(&step, uid),
            Step::Fail {
                uid,
                reason,
                message,
            } => return self.fail(&step, uid, reason, message).await,
            Step::StartAgain { uid } => self.start_again(&step, uid).await,
        };
        // A stop that was abandoned for something more urgent is to come again.
        let now = self.context.clock.now();
        if result.is_ok() && !self.stale && !self.effects.succeeded(&step, now) {
            return;
        }
        self.record_outcome(&step, result);
    }

    /// Records a step that succeeded a short while ago and is the next one again as failed: it changed
    /// nothing. Returns true if it was one.
    pub(super) fn is_no_op(&mut self, step: &Step) -> bool {
        let now = self.context.clock.now();
        let Some((reason, message)) = self.effects.take_repeated(step, now) else {
            return false;
        };
        self.record_outcome(step, Err(StepError::Node { reason, message }));
        true
    }

    pub(super) fn record_outcome(&mut self, step: &Step, result: Result<(), StepError>) {
        let Some((subject, reason)) = step.subject().zip(step.reason()) else {
            return;
        };
        let failure = match result {
            Ok(()) => {
                self.outcome(step, Outcome::Succeeded);
                return;
            }
            Err(failure) => failure,
        };
        (self.stale, self.is_uncertain) = (true, true);
        // The runtime is unreachable: the relist waits until it is reachable again.
        if failure.is_unreachable_or_dropped() {
            return;
        }
        self.record_failure_event(&subject, reason, &failure);
        let reason = failure.reason().unwrap_or(reason);
        let message = failure.message(&subject);
        let failed = Outcome::Failed {
            reason,
            message: message.clone(),
            at: self.context.clock.now(),
        };
        if self.outcome(step, failed) {
            warn!(pod = %self.key, reason, error = message, "Step failed, it will be retried");
        }
    }

    /// From now on every container of a version is to be replaced.
    fn restart_all(&mut self, step: &Step, uid: &Uid) {
        self.outcome(step, Outcome::Done);
        info!(pod = %self.key, "Restarting all containers, as a container's restart rule says");
        let message = "All containers are restarted, as a container's restart rule says";
        self.event(
            uid,
            None,
            EventKind::Normal,
            "RestartAllContainers",
            message,
        );
    }

    /// A version has failed for good. It stays so over restarts of the agent, even where nothing was made of
    /// it but its folder.
    async fn fail(&mut self, step: &Step, uid: &Uid, reason: &'static str, message: &str) {
        warn!(pod = %self.key, reason, message, "Pod failed");
        self.event(uid, None, EventKind::Normal, reason, message);
        let finished = Finished {
            phase: Phase::Failed,
            reason: reason.to_owned(),
            message: message.to_owned(),
            since: self.context.clock.wall_now(),
        };
        let version = self.version(uid);
        let record = version.as_ref().map(|v| Arc::new(self.record(v)));
        self.outcome(step, Outcome::Finished(finished, record.clone()));
        let Some((version, record)) = version.zip(record) else {
            return;
        };
        let paths = self.context.facts.paths.clone();
        let create = move || folder::create(&paths, &version.key, &version.uid, &record);
        if let Err(error) = self.own_files(blocking(create)).await {
            warn!(pod = %self.key, %error, "Failed to write the record of the failed Pod");
        }
    }

    /// Lets a version start that ended before its clean-up succeeded: nothing of the old instances counts
    /// for the new ones but their names.
    async fn start_again(&mut self, step: &Step, uid: &Uid) -> Result<(), StepError> {
        let (paths, owner) = (self.context.facts.paths.clone(), uid.clone());
        let unmark = move || folder::unmark_terminating(&paths, &owner);
        let unmarked = self.own_files(blocking(unmark)).await;
        unmarked.map_err(node_failure("FailedCreatePodSandBox"))?;
        info!(pod = %self.key, uid = uid.as_str(), "Starting the Pod again before its clean-up has succeeded");
        let seen = FirstSeen::now(&self.context.clock);
        self.outcome(step, Outcome::StartedAgain(seen));
        self.effects.forget(uid);
        // It may have given back what it took when it was over.
        if let Some(version) = self.version(uid) {
            self.context.allocations.reserve(&version);
        }
        Ok(())
    }
}
