//! Executing the planner's steps. Each ends with the task's view of the runtime brought up to date: by
//! what the step itself changed, or, when it failed, by asking the runtime again.

use std::sync::Arc;

use tracing::{info, warn};

use super::PodTask;
use super::error::{StepError, node_failure};
use crate::host::blocking::blocking;
use crate::pod::events::EventKind;
use crate::pod::folder;
use crate::pod::plan::Step;
use crate::pod::state::history::{Finished, History};
use crate::pod::state::{Phase, Subject};

impl PodTask {
    /// Executes one step, and records its outcome.
    pub(super) async fn execute(&mut self, step: Step) {
        let done = step.clone();
        let result = match step {
            Step::Admit { uid } => return self.admit(&uid),
            Step::EnsureImage { uid, container } => return self.ensure_image(uid, container),
            Step::TakeTurn { uid } => return self.take_turn(uid),
            Step::CheckVolumes { .. }
            | Step::StopSandbox { .. }
            | Step::RemoveSandbox { .. }
            | Step::RemoveContainer { .. }
            | Step::CleanUp { .. } => return self.begin(step),
            Step::RunSandbox { uid, attempt } => self.run_sandbox(&uid, attempt).await,
            Step::RunContainer {
                uid,
                sandbox,
                container,
                attempt,
                backoff,
            } => {
                self.run_container(&uid, &sandbox, &container, attempt, backoff)
                    .await
            }
            Step::StartContainer { uid, container, id } => {
                self.start_container(&uid, &container, &id).await
            }
            Step::Terminate { uid } => self.terminate(&uid).await,
            Step::StopContainers { uid, ids, reason } => {
                self.stop_containers(&uid, &ids, reason).await
            }
            Step::RestartAll { uid } => return self.restart_all(&uid),
            Step::Fail {
                uid,
                reason,
                message,
            } => return self.fail(&uid, reason, message).await,
            Step::StartAgain { uid } => self.start_again(&uid).await,
        };
        let Some((subject, reason)) = done.subject().zip(done.reason()) else {
            return;
        };
        // A stop that was given up for something more urgent is to come again.
        let now = self.context.clock.now();
        if result.is_ok() && !self.stale && !self.effects.succeeded(done, now) {
            return;
        }
        self.record_outcome(subject, reason, result);
    }

    /// Notes a step that succeeded a short while ago and is the next one again as failed: it changed
    /// nothing. Tells whether it was one.
    pub(super) fn is_no_op(&mut self, step: &Step) -> bool {
        let now = self.context.clock.now();
        let Some((subject, reason, message)) = self.effects.take_repeated(step, now) else {
            return false;
        };
        self.record_outcome(subject, reason, Err(StepError::Node { reason, message }));
        true
    }

    pub(super) fn record_outcome(
        &mut self,
        subject: Subject,
        reason: &'static str,
        result: Result<(), StepError>,
    ) {
        let failure = match result {
            Ok(()) => {
                self.state.failures.remove(&subject);
                return;
            }
            Err(failure) => failure,
        };
        self.stale = true;
        // The runtime is away: nobody's fault, and looking waits until it is back.
        if failure.is_unreachable_or_dropped() {
            return;
        }
        self.record_failure_event(&subject, reason, &failure);
        let reason = failure.reason().unwrap_or(reason);
        let message = failure.message(&subject);
        let now = self.context.clock.now();
        let news = self
            .state
            .record_failure(subject, reason, message.clone(), now);
        if news {
            warn!(pod = %self.key, reason, error = message, "Step failed, it will be retried");
        }
    }

    /// From now on every container of a version is to be replaced.
    fn restart_all(&mut self, uid: &str) {
        let history = &mut self.state.version_mut(uid).history;
        for container in self.observed.containers_of(uid) {
            history.replace(container);
        }
        // Whatever was wrong with one of them, it ends with the others.
        history.failed_instances.clear();
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
    pub(super) async fn fail(&mut self, uid: &str, reason: &'static str, message: String) {
        warn!(pod = %self.key, reason, message, "Pod failed");
        self.event(uid, None, EventKind::Normal, reason, &message);
        let since = self.context.clock.wall_now();
        self.state.version_mut(uid).history.finished = Some(Finished {
            phase: Phase::Failed,
            reason: reason.to_owned(),
            message,
            since,
        });
        let Some(version) = self.version(uid) else {
            return;
        };
        let record = Arc::new(self.record(&version));
        let state = self.state.version_mut(uid);
        state.on_disk = true;
        state.record = Some(Arc::clone(&record));
        let paths = self.context.facts.paths.clone();
        let create = move || folder::create(&paths, &version.key, &version.uid, &record);
        if let Err(error) = self.own_files(blocking(create)).await {
            warn!(pod = %self.key, %error, "Failed to write the record of the failed Pod");
        }
    }

    /// Lets a version start that ended before its clean-up succeeded: nothing of the old instances counts
    /// for the new ones but their names.
    pub(super) async fn start_again(&mut self, uid: &str) -> Result<(), StepError> {
        let (paths, owner) = (self.context.facts.paths.clone(), uid.to_owned());
        let unmark = move || folder::unmark_terminating(&paths, &owner);
        let unmarked = self.own_files(blocking(unmark)).await;
        unmarked.map_err(node_failure("FailedCreatePodSandBox"))?;
        info!(pod = %self.key, uid, "Starting the Pod again before its clean-up has succeeded");
        let mut history = History::default();
        for container in self.observed.containers_of(uid) {
            history.replace(container);
        }
        let version = self.state.version_mut(uid);
        version.history = history;
        version.written_history = None;
        version.record = None;
        version.termination = None;
        version.admission.reopen();
        let clean_up = Subject::CleanUp(uid.to_owned());
        self.state.failures.remove(&clean_up);
        self.effects.forget(uid);
        // It may have given back what it took when it was over.
        if let Some(version) = self.version(uid) {
            self.context.allocations.reserve(&version);
        }
        self.seen_at(uid, self.context.clock.wall_now());
        Ok(())
    }
}
