//! Reading the Pod's state from the runtime: all of it, or a single container or sandbox that changed.
//! Losing a change costs time alone, since everything is listed again after a step that failed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::background::{FILES, JobOutcome};
use super::termination_message::termination_message;
use super::{PodTask, effects};
use crate::cri::Error;
use crate::host::blocking::FileSubject;
use crate::host::blocking::pooled;
use crate::manifest::{StaticPod, Uid};
use crate::pod::observe;
use crate::pod::observe::{Inspected, Listed, Role};
use crate::pod::state::Subject;
use crate::pod::state::observed::{Container, ContainerId, Observed, Sandbox, SandboxId, State};
use crate::units::time::Later;

/// Wait before a runtime that does not answer is asked again, at first and at most.
const RUNTIME_RETRY: Duration = Duration::from_millis(100);

const RUNTIME_RETRY_MAX: Duration = Duration::from_secs(5);

/// Time after the end of a container when its reason is read once more. The kubelet looks once a second.
const SECOND_LOOK: Duration = Duration::from_secs(1);

impl PodTask {
    /// Reads the Pod for the first time, where the runtime has something of it, with a permit. A failure is mended by
    /// the next sync, which needs none.
    pub(super) async fn first_sync(&mut self) {
        if self.listed.as_ref().is_some_and(Listed::is_empty) {
            return;
        }
        let context = Arc::clone(&self.context);
        let permit = context.first_syncs.permit();
        let _permit = self.beside(permit, |_, _| false).await;
        if let Err(e) = Box::pin(self.try_sync()).await {
            self.log_failed_sync(&e);
        }
    }

    /// Reads what may have changed from the runtime, and waits for the runtime if it is unreachable. Returns
    /// true if the task goes on.
    pub(super) async fn sync(&mut self) -> bool {
        let mut delay = RUNTIME_RETRY;
        loop {
            match Box::pin(self.try_sync()).await {
                Ok(true) => return true,
                // Something else matters now.
                Ok(false) => continue,
                Err(e) => self.log_failed_sync(&e),
            }
            if !self.wait(Some(Instant::now().later(delay))).await {
                return false;
            }
            delay = delay.saturating_mul(2).min(RUNTIME_RETRY_MAX);
        }
    }

    fn log_failed_sync(&self, error: &Error) {
        debug!(pod = %self.key, %error, "Failed to relist the Pod");
    }

    /// Returns true if all that was to be read was read.
    async fn try_sync(&mut self) -> Result<bool, Error> {
        if self.stale {
            // What changes from now on is read again.
            self.stale = false;
            self.changed.clear();
            let has_synced = self.resync().await;
            self.stale |= !matches!(has_synced, Ok(true));
            return has_synced;
        }
        while let Some(id) = self.changed.pop_first() {
            let has_synced = self.inspect(&id).await;
            self.stale |= !matches!(has_synced, Ok(true));
            if self.stale {
                return has_synced;
            }
        }
        Ok(true)
    }

    /// Reads the Pod's whole state. Abandoned where the wanted version changes meanwhile, which changes what of
    /// the state matters.
    async fn resync(&mut self) -> Result<bool, Error> {
        let context = Arc::clone(&self.context);
        let wanted = self.wanted.as_ref().map(|w| w.pod.uid.clone());
        let is_other = |task: &Self, _| task.wanted.as_ref().map(|w| &w.pod.uid) != wanted.as_ref();
        let mut asked_at = self.listed_at;
        let listed = if let Some(listed) = self.listed.take() {
            listed
        } else {
            asked_at = context.clock.now();
            let key = self.key.clone();
            let fetch = Listed::fetch(&context.client, &context.owner_label, Some(&key));
            match self.beside(fetch, is_other).await {
                Some(listed) => listed?,
                None => return Ok(false),
            }
        };
        let before = self.observed.clone();
        let mut known = before.clone();
        self.assumed.iter().for_each(|id| known.forget(id));
        let terminating: BTreeSet<Uid> = self.state.uids_terminating().cloned().collect();
        let role = |uid: &Uid| match &wanted {
            None => Role::Leaving,
            Some(_) if terminating.contains(uid) => Role::Leaving,
            Some(wanted) if wanted == uid => Role::Wanted,
            Some(_) => Role::Replaced,
        };
        let inspect = listed.inspect(&context.client, &context.clock, &known, role);
        let Some(inspected) = self.beside(inspect, is_other).await else {
            self.listed = (!self.has_synced).then_some(listed);
            return Ok(false);
        };
        let Inspected { observed, assumed } = inspected?;
        (self.observed, self.assumed) = (observed, assumed);
        self.listed_at = asked_at;
        self.complete_observed(&before).await;
        self.log_ends(&before);
        self.prune();
        if !std::mem::replace(&mut self.has_synced, true) {
            self.log_adopted();
        }
        Ok(true)
    }

    /// Reads the state of one container or sandbox. Returns true if it could be read.
    async fn inspect(&mut self, id: &str) -> Result<bool, Error> {
        let context = Arc::clone(&self.context);
        let before = self.observed.clone();
        if let Some(known) = before.container(&id.into()) {
            if known.exit().is_some() {
                return Ok(true);
            }
            let inspect = observe::inspect_container(&context.client, &context.clock, &known.id);
            let Some(now) = self.inspect_within(&known.uid, inspect).await? else {
                return Ok(false);
            };
            match (now, self.observed.container_mut(&known.id)) {
                (Some(now), Some(known)) => known.state = now.state,
                (None, _) => self.observed.forget(id),
                (Some(_), None) => {}
            }
            self.complete_observed(&before).await;
            self.log_ends(&before);
        } else if let Some(known) = before.sandbox(&id.into()) {
            if self.is_known_to_end(known) {
                return Ok(true);
            }
            let inspect = observe::inspect_sandbox(&context.client, &context.clock, &known.id);
            let Some(now) = self.inspect_within(&known.uid, inspect).await? else {
                return Ok(false);
            };
            match (now, self.observed.sandbox_mut(&known.id)) {
                // Who it is does not change.
                (Some(now), Some(known)) => {
                    let (id, uid) = (known.id.clone(), known.uid.clone());
                    let attempt = known.attempt;
                    *known = Sandbox {
                        id,
                        uid,
                        attempt,
                        ..now
                    };
                }
                (None, _) => self.observed.forget(id),
                (Some(_), None) => {}
            }
            self.log_ends(&before);
        }
        Ok(true)
    }

    /// Returns true if a sandbox is stopped or removed by a job whose outcome says all that matters of it.
    fn is_known_to_end(&self, sandbox: &Sandbox) -> bool {
        let removal = Subject::RemoveSandbox(sandbox.id.clone());
        // What follows it starts as soon as it is not ready, even while its stop goes on.
        let is_awaited = sandbox.ready && self.wanted.is_some();
        self.state.under_way.contains_key(&removal) && !is_awaited
    }

    /// Waits for a status. Where it does not come and its version is not to run on, the list has to be enough,
    /// and nothing is given.
    async fn inspect_within<T>(
        &mut self,
        uid: &Uid,
        inspect: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        let done = self.beside(inspect, |task, _| !task.is_wanted(uid)).await;
        done.transpose()
    }

    /// Adds to what was observed what the runtime does not report: the termination messages of containers that
    /// ended since `before`, and containers that somebody removed.
    pub(super) async fn complete_observed(&mut self, before: &Observed) {
        let ended = self
            .observed
            .containers
            .iter()
            .filter(|c| c.exit().is_some());
        let ended = ended.filter(|c| {
            let known = before.container(&c.id);
            known.is_none_or(|known| known.exit().is_none())
        });
        for container in ended.cloned().collect::<Vec<_>>() {
            self.read_reason_again(&container);
            self.read_termination_message(container).await;
        }
        for StaticPod { uid, .. } in self.state.pods().map(AsRef::as_ref) {
            let history = self.state.history(uid);
            if let Some(history) = history.filter(|_| !self.state.is_terminating(uid)) {
                let gone = history.gone(&self.observed, uid, &self.context.clock);
                self.observed.containers.extend(gone);
            }
        }
    }

    /// Reads the reason of an end once more, a moment after it: the runtime hears of ends and of memory that ran out
    /// on two ways, and says `Error` until it has heard of the latter.
    fn read_reason_again(&self, container: &Container) {
        let context = Arc::clone(&self.context);
        let ended = container.exit().filter(|exit| exit.reason == "Error");
        let is_new = ended.is_some_and(|exit| context.clock.now().since(exit.ended) < SECOND_LOOK);
        if !is_new || !self.is_wanted(&container.uid) {
            return;
        }
        let id = container.id.clone();
        let look = async move {
            tokio::time::sleep(SECOND_LOOK).await;
            let now = observe::inspect_container(&context.client, &context.clock, &id).await;
            let now = now.ok().flatten();
            let reason = now.and_then(|now| Some(now.exit()?.reason.clone()));
            JobOutcome::Reason { id, reason }
        };
        self.jobs.push(look.boxed());
    }

    /// Takes over the reason of an end that was read once more.
    pub(super) fn reason_read(&mut self, id: &ContainerId, reason: Option<String>) {
        let Some(known) = self.observed.container_mut(id) else {
            return;
        };
        if let (State::Exited(exit), Some(reason)) = (&mut known.state, reason)
            && exit.reason != reason
        {
            info!(pod = %self.key, container = known.name, reason, "Container exited for another reason");
            exit.reason = reason;
        }
    }

    async fn read_termination_message(&mut self, container: Container) {
        let version = self.state.pod(&container.uid);
        let spec = version.and_then(|v| v.container(&container.name));
        let (Some(spec), State::Exited(exit)) = (spec.cloned(), container.state.clone()) else {
            return;
        };
        let (paths, key) = (self.context.facts.paths.clone(), self.key.clone());
        let id = container.id.clone();
        let read = move || termination_message(&paths, &key, &spec, &container, &exit);
        let subject = FileSubject::of(&self.key, &id, format!("termination message of {id}"));
        let read = pooled(subject, FILES, read);
        let termination_message = self.own_files(read).await.unwrap_or_else(|error| {
            warn!(pod = %self.key, %error, "Failed to read the termination message");
            String::new()
        });
        let known = self.observed.container_mut(&id);
        if let Some(State::Exited(exit)) = known
            .map(|c| &mut c.state)
            .filter(|_| !termination_message.is_empty())
        {
            if !exit.message.is_empty() {
                exit.message.push_str(": ");
            }
            exit.message.push_str(&termination_message);
        }
    }

    /// Logs what ended without our doing.
    pub(super) fn log_ends(&self, before: &Observed) {
        for old in before.containers.iter().filter(|c| c.exit().is_none()) {
            let now = self.observed.container(&old.id);
            let pod = &self.key;
            match now.map(|c| c.exit()) {
                Some(Some(_)) if now.is_some_and(|c| c.gone) => {
                    info!(%pod, container = old.name, "Container was removed by another client of the runtime");
                }
                Some(Some(exit)) => {
                    let reason = &exit.reason;
                    info!(%pod, container = old.name, exit_code = exit.code, reason, "Container exited");
                    self.record_back_off(old, exit);
                }
                None => {
                    info!(%pod, container = old.name, "Container was removed by another client of the runtime");
                }
                Some(None) => {}
            }
        }
        // The runtime reports the end before it answers, and one whose stop failed has ended all the same.
        let state = &self.state;
        let is_stopped = |s: &Sandbox| {
            let removal = Subject::RemoveSandbox(s.id.clone());
            state.under_way.contains_key(&removal)
                || state.failures.contains_key(&removal)
                || state.stopped_sandboxes.contains(&s.id)
        };
        for old in before
            .sandboxes
            .iter()
            .filter(|s| s.ready && !is_stopped(s))
        {
            let ready = |s: &Sandbox| s.id == old.id && s.ready;
            if !self.observed.sandboxes.iter().any(ready) {
                warn!(pod = %self.key, attempt = old.attempt, "Pod sandbox died");
            }
        }
    }

    /// Forgets what concerns sandboxes and containers that are gone.
    fn prune(&mut self) {
        let observed = &self.observed;
        let has_sandbox = |id: &SandboxId| observed.sandboxes.iter().any(|s| s.id == *id);
        let has_container = |id: &ContainerId| observed.containers.iter().any(|c| c.id == *id);
        self.state.stopped_sandboxes.retain(has_sandbox);
        self.state.post_starts.retain(|id, _| has_container(id));
        self.state.failures.retain(|subject, _| match subject {
            Subject::RemoveSandbox(id) => has_sandbox(id),
            Subject::RemoveContainer(id) => has_container(id),
            _ => true,
        });
    }

    pub(super) fn forget_outdated_failures(&mut self) {
        for subject in effects::outdated(self.view()) {
            self.state.failures.remove(&subject);
        }
    }
}
