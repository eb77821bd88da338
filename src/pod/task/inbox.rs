//! Waiting for messages, pulls, hooks and probes, and for a step's work meanwhile.
//!
//! The calls and file work of a step are awaited here and nowhere else, and the task keeps
//! reading its inbox meanwhile. A step that is no longer wanted is dropped and its call cancelled, and so
//! is one that hangs while another container of the Pod or an update needs the task. The state is read
//! again from the runtime before the next step.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::error::StepError;
use super::{Message, PodTask};
use crate::manifest::Uid;
use crate::pod::plan::{Step, kept_version, plan};
use crate::pod::state::observed::{Container, Observed};
use crate::pod::state::{Subject, View};
use crate::source::DesiredPod;

/// Grace of a call that is no longer wanted: most end by then, and a call that is
/// cancelled leaves work to the runtime.
const UNWANTED: Duration = Duration::from_secs(2);

/// Time limit of a call while something else of the Pod has to be done.
const HANGS: Duration = Duration::from_secs(10);

/// Interval of these checks.
const TICK: Duration = Duration::from_secs(1);

impl PodTask {
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Desired(wanted) => self.set_wanted(wanted.map(|wanted| *wanted)),
            Message::Resync => self.stale = true,
            Message::Changed(id) => {
                self.changed.insert(id);
            }
            Message::ShutDown(order) => self.begin_shutdown(order),
            Message::Restart(request) => self.restart(request),
            Message::Pause(request) => self.begin_pause(request),
        }
    }

    /// Takes over what the manifests want. A version that was taken back stays so, and a paused Pod runs none.
    pub(super) fn set_wanted(&mut self, asked: Option<DesiredPod>) {
        let taken_back = asked.as_ref().zip(self.rollback.as_ref());
        let taken_back = taken_back.filter(|(asked, rollback)| rollback.has_failed(&asked.pod.uid));
        let before = taken_back.and_then(|(asked, rollback)| {
            Some(DesiredPod {
                pod: rollback.good.version()?.into(),
                origin: asked.origin.clone(),
                warnings: vec![],
            })
        });
        let wanted = before.or_else(|| asked.clone());
        let wanted = wanted.filter(|_| self.pause.is_none());
        self.forgets_pause |= asked.is_some();
        let before = std::mem::replace(&mut self.asked, asked);
        let changed = before.zip(self.asked.clone());
        let changed = changed
            .filter(|(old, new)| old.pod.objects.pull_secrets != new.pod.objects.pull_secrets);
        self.carry_out(wanted);
        if changed.is_some() {
            let versions: Vec<_> = self.state.pods().map(Arc::clone).collect();
            for version in versions {
                self.pull_secrets_changed(&version);
            }
        }
    }

    fn carry_out(&mut self, wanted: Option<DesiredPod>) {
        let uid = |w: &Option<DesiredPod>| w.as_ref().map(|w| w.pod.uid.clone());
        if let Some(new) = &wanted {
            self.state.version_mut(&new.pod.uid).pod = Some(new.pod.clone());
            if self.state.first_seen(&new.pod.uid).is_none() {
                self.seen_at(&new.pod.uid, self.context.clock.wall_now());
            }
        }
        if let Some(old) = uid(&self.wanted).filter(|old| Some(old) != uid(&wanted).as_ref()) {
            let started = self.state.is_on_disk(&old) || !self.observed.has_none_of(&old);
            if !started {
                self.state.forget_version(&old);
                self.context.allocations.release(&self.key, &old);
            }
        }
        self.wanted = wanted;
    }

    /// Waits until something happens, or for an alarm. Returns true if the task goes on. The Pod is packed meanwhile.
    pub(super) async fn wait(&mut self, alarm: Option<Instant>) -> bool {
        self.rest();
        let sleep = async {
            match alarm {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            goes_on = self.next() => goes_on,
            () = sleep => true,
        }
    }

    /// Keeps the Pod's versions packed until they are used again.
    fn rest(&mut self) {
        let known = [&mut self.asked, &mut self.wanted];
        known
            .into_iter()
            .flatten()
            .for_each(|known| known.pod.rest());
        self.state.rest();
    }

    /// Waits for work that takes its time, such as a container's end within its grace period. What happens
    /// meanwhile is taken in and reported: readiness above all. Returns `None` where the work is abandoned
    /// because of that.
    pub(super) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        is_abandoned: impl Fn(View<'_>) -> bool,
    ) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                goes_on = self.next() => {
                    if !goes_on {
                        return Some(work.await);
                    }
                }
            }
            self.publish_meanwhile();
            if is_abandoned(self.view()) {
                return None;
            }
        }
    }

    /// Reports the Pod while a step is under way.
    fn publish_meanwhile(&mut self) {
        self.sync_probes();
        self.keep_all_conditions();
        self.publish();
    }

    /// Waits until something happens, and takes it in. Nothing is lost where the wait is dropped. Returns
    /// true if the task goes on.
    pub(super) async fn next(&mut self) -> bool {
        let (given_back, followed) = (&mut self.given_back, &self.followed);
        tokio::select! {
            message = self.inbox.recv() => match message {
                Some(message) => self.take(message),
                None => return false,
            },
            Some(pulled) = self.pulls.next() => self.pulled(pulled),
            Some((id, result)) = self.post_starts.next() => self.post_started(&id, result),
            Some(done) = self.jobs.next() => self.job_done(done),
            update = self.probes.next() => self.record_probe_change(&update),
            () = followed.changed() => {}
            Ok(()) = given_back.changed(), if self.state.has_rejected() => {
                self.state.update_versions(|_, version| version.admission.reopen());
            }
        }
        self.has_pending_events = true;
        true
    }

    /// Awaits work while the task keeps reading its inbox. Gives nothing where the work was dropped since it
    /// gives way: `gives_way` is asked every second, with how long the work has taken.
    pub(super) fn beside<T>(
        &mut self,
        work: impl Future<Output = T>,
        gives_way: impl Fn(&Self, Duration) -> bool,
    ) -> impl Future<Output = Option<T>> {
        // Boxed here and not inside, for every Pod's task would hold room for the largest otherwise.
        let mut work = Box::pin(work);
        let began = Instant::now();
        self.rest();
        async move {
            let mut may_differ = true;
            loop {
                let tick = tokio::time::sleep(TICK);
                tokio::select! {
                    biased;
                    done = &mut work => return Some(done),
                    goes_on = self.next() => {
                        if !goes_on {
                            return Some(work.await);
                        }
                        may_differ = true;
                        if began.elapsed() < TICK {
                            continue;
                        }
                    }
                    () = tick => {}
                }
                // Time alone changes nothing that is told of a Pod of which nothing is there yet, and thousands may wait.
                if std::mem::take(&mut may_differ) || self.observed != Observed::default() {
                    self.publish_meanwhile();
                }
                if gives_way(self, began.elapsed()) {
                    return None;
                }
                self.rest();
            }
        }
    }

    /// Awaits short work on the agent's own files, which is never dropped.
    pub(super) fn own_files<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> impl Future<Output = T> {
        let done = self.beside(work, |_, _| false);
        async move {
            // Work that never gives way comes to its end.
            done.await.expect("work that does not give way")
        }
    }

    /// Awaits a part of a step in this matter.
    ///
    /// # Errors
    /// The step was dropped.
    pub(super) fn part<T>(
        &mut self,
        subject: &Subject,
        part: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, StepError>> {
        let part = Box::pin(part);
        async move {
            let done = self.beside(part, |task, took| task.gives_way(subject, took));
            if let Some(done) = done.await {
                return Ok(done);
            }
            Err(if self.is_kept(subject) {
                StepError::Hangs { after: HANGS }
            } else {
                StepError::Dropped
            })
        }
    }

    fn gives_way(&self, subject: &Subject, took: Duration) -> bool {
        if took >= UNWANTED && (!self.is_kept(subject) || self.update_needs_task(subject)) {
            return true;
        }
        took >= HANGS && self.container_needs_task(subject)
    }

    /// Returns true if the version that a step is about is still to run.
    fn is_kept(&self, subject: &Subject) -> bool {
        subject.uid().is_some_and(|uid| self.is_version_kept(uid))
    }

    /// Returns true if this is the version that is wanted.
    pub(super) fn is_wanted(&self, uid: &Uid) -> bool {
        self.wanted.as_ref().is_some_and(|w| w.pod.uid == *uid)
    }

    /// Returns true if a version is to run: it is wanted, or runs on until the wanted one can take over, and the
    /// machine does not shut down.
    pub(super) fn is_version_kept(&self, uid: &Uid) -> bool {
        let is_kept = || kept_version(self.view()).is_some_and(|v| v.uid == *uid);
        (self.is_wanted(uid) || is_kept())
            && !self.state.is_terminating(uid)
            && self.state.shutdown.is_none()
    }

    /// The next step if this one had just failed.
    fn step_without(&self, subject: &Subject) -> Option<Step> {
        let mut state = self.state.clone();
        let view = self.view();
        state.record_failure(subject.clone(), "", String::new(), view.now);
        let state = &state;
        plan(View { state, ..view }).step
    }

    /// Returns true if the version that is to take over has to be prepared.
    fn update_needs_task(&self, subject: &Subject) -> bool {
        let wanted = self.wanted.as_ref().map(|w| &w.pod.uid);
        if wanted == subject.uid() {
            return false;
        }
        let other = |uid: &Uid| Some(uid) != subject.uid();
        match self.step_without(subject) {
            Some(
                Step::Admit { uid }
                | Step::EnsureImage { uid, .. }
                | Step::CheckVolumes { uid }
                | Step::TakeTurn { uid },
            ) => other(&uid),
            _ => false,
        }
    }

    /// Returns true if a container that ran has to be inspected, stopped or started again.
    fn container_needs_task(&self, subject: &Subject) -> bool {
        let Subject::Container(uid, name) = subject else {
            return false;
        };
        let others = || self.observed.containers_of(uid).filter(|c| c.name != *name);
        let is_changed =
            |c: &Container| c.is_live() && (self.stale || self.changed.contains(c.id.as_str()));
        if others().any(is_changed) {
            return true;
        }
        match self.step_without(subject) {
            Some(Step::EnsureImage { container, .. }) => others().any(|c| c.name == container),
            Some(Step::RunContainer { attempt, .. }) => attempt > 0,
            Some(Step::StopContainers { .. } | Step::RestartAll { .. } | Step::Fail { .. }) => true,
            _ => false,
        }
    }
}
