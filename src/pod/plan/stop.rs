//! Stopping: versions that leave or are over, containers that failed, and those that are in the way.

use std::time::Duration;

use super::{Planner, Step};
use crate::manifest::{StaticPod, Uid};
use crate::pod::state::history::StopReason;
use crate::pod::state::observed::{Container, ContainerId, Sandbox, SandboxId, State};
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{PostStart, Subject};
use crate::probe::ProbeKind;

/// Time limit for the stop of a dead sandbox before the next one is made.
pub(super) const SANDBOX_STOP: Duration = Duration::from_secs(10);

impl Planner<'_> {
    pub(super) fn holds_processes(&self, uid: &Uid) -> bool {
        let observed = self.view.observed;
        observed.containers_of(uid).any(Container::is_live)
            || observed.sandboxes_of(uid).any(|s| self.blocks(s))
    }

    /// Returns true if nothing may start in place of this sandbox yet. One that is not ready has no process left,
    /// and addresses and ports are free: what the network plugin does not give back blocks nothing.
    fn blocks(&self, sandbox: &Sandbox) -> bool {
        let removal = Subject::RemoveSandbox(sandbox.id.clone());
        let state = self.view.state;
        let hangs = |begun: &MonotonicTime| begun.after(SANDBOX_STOP) <= self.view.now;
        let fails = state.failures.contains_key(&removal)
            || state.under_way.get(&removal).is_some_and(hangs);
        sandbox.ready || self.needs_stop(sandbox) && !fails
    }

    pub(super) fn needs_stop(&self, sandbox: &Sandbox) -> bool {
        sandbox.ready || !self.view.state.stopped_sandboxes.contains(&sandbox.id)
    }

    /// Returns true if the stop of a sandbox is under way.
    pub(super) fn is_being_stopped(&self, sandbox: &Sandbox) -> bool {
        let subject = Subject::RemoveSandbox(sandbox.id.clone());
        self.view.state.under_way.contains_key(&subject)
    }

    /// Ends a version's processes: containers with grace, then sandboxes.
    pub(super) fn stop(&mut self, uid: &Uid) -> Option<Step> {
        let observed = self.view.observed;
        if observed.containers_of(uid).any(Container::is_live) {
            let step = Step::Terminate { uid: uid.clone() };
            return self.unless_failing(step);
        }
        let unstopped = observed.sandboxes_of(uid).filter(|s| self.needs_stop(s));
        self.first_of(unstopped.map(|s| s.id.clone()).collect(), |id| {
            Step::StopSandbox { id }
        })
    }

    /// Ends all containers before the machine shuts down, and does nothing else. Sandboxes go with the machine:
    /// no network plugin that hangs delays it, and the next agent stops those that it finds dead.
    pub(super) fn shut_down(&mut self) -> Option<Step> {
        let mut uids: Vec<&Uid> = self.view.observed.uids().collect();
        uids.sort_unstable();
        uids.dedup();
        uids.into_iter().find_map(|uid| {
            if !self.view.state.is_terminating(uid) {
                return self.stop_live(uid, StopReason::Shutdown);
            }
            let mut containers = self.view.observed.containers_of(uid);
            let uid = uid.clone();
            let is_live = containers.any(Container::is_live);
            let step = is_live.then_some(Step::Terminate { uid })?;
            self.unless_failing(step)
        })
    }

    /// Ends what is left running of a version that is over.
    pub(super) fn wind_up(&mut self, version: &StaticPod) -> Option<Step> {
        let (uid, observed) = (&version.uid, self.view.observed);
        if let Some(step) = self.stop_live(uid, StopReason::Over) {
            return Some(step);
        }
        let ready = observed.sandboxes_of(uid).filter(|s| s.ready);
        let ids = ready.map(|s| s.id.clone()).collect();
        self.first_of(ids, |id| Step::StopSandbox { id })
            .or_else(|| self.collect_garbage(version))
    }

    /// Stops a container that failed by its probes or its postStart hook. A stop that was begun goes on,
    /// whatever they report since.
    pub(super) fn stop_failed(&mut self, uid: &Uid) -> Option<Step> {
        let state = self.view.state;
        let stop_reason = |c: &Container| {
            if let Some(failed_instance) = state.failed_instance(c) {
                return Some(failed_instance.reason);
            }
            if let Some(PostStart::Failed(_)) = state.post_starts.get(&c.id) {
                return Some(StopReason::PostStart);
            }
            match state.health(&c.id).failed?.kind {
                ProbeKind::Liveness => Some(StopReason::Liveness),
                ProbeKind::Startup => Some(StopReason::Startup),
                ProbeKind::Readiness => None,
            }
        };
        let running = self.view.observed.containers_of(uid);
        let running = running.filter(|c| matches!(c.state, State::Running { .. }));
        let failed_instance = running.filter_map(|c| Some((c.id.clone(), stop_reason(c)?)));
        let failed_instance: Vec<(ContainerId, StopReason)> = failed_instance.collect();
        failed_instance.into_iter().find_map(|(id, reason)| {
            let (uid, ids) = (uid.clone(), vec![id.clone()]);
            let step = Step::StopContainers { uid, ids, reason };
            self.unless_failing(step)
        })
    }

    /// Stops the containers whose restart was requested, all at once. One that is being stopped since it failed is
    /// not stopped once more.
    pub(super) fn stop_requested(&mut self, uid: &Uid) -> Option<Step> {
        let state = self.view.state;
        let reason = StopReason::Requested;
        let requested = self.view.observed.containers_of(uid).filter(|c| {
            let other = state.failed_instance(c).is_some_and(|f| f.reason != reason);
            let runs = matches!(c.state, State::Running { .. });
            runs && state.is_restart_requested(c) && !other
        });
        let ids: Vec<ContainerId> = requested.map(|c| c.id.clone()).collect();
        if ids.is_empty() {
            return None;
        }
        let uid = uid.clone();
        self.unless_failing(Step::StopContainers { uid, ids, reason })
    }

    /// Ends every container of a version that still runs.
    fn stop_live(&mut self, uid: &Uid, reason: StopReason) -> Option<Step> {
        let live = self.view.observed.containers_of(uid);
        let live = live.filter(|c| c.is_live()).map(|c| c.id.clone());
        let ids: Vec<ContainerId> = live.collect();
        if ids.is_empty() {
            return None;
        }
        let uid = uid.clone();
        self.unless_failing(Step::StopContainers { uid, ids, reason })
    }

    /// The ids of live containers that are not in the current sandbox, or that a newer one of their
    /// name replaced.
    pub(super) fn stray(&self, uid: &Uid, current: Option<&Sandbox>) -> Vec<ContainerId> {
        let observed = self.view.observed;
        let stray = observed.containers_of(uid).filter(|c| {
            let outside = current.is_none_or(|s| s.id != c.sandbox);
            let newer = |o: &Container| o.name == c.name && o.attempt > c.attempt;
            let replaced = || observed.containers_of(uid).any(newer);
            let replaced = replaced() || self.view.state.is_replaced(c);
            c.is_live() && (outside || c.state == State::Unknown || replaced)
        });
        stray.map(|c| c.id.clone()).collect()
    }

    /// Ends what would otherwise run beside the current sandbox's containers.
    pub(super) fn clear_the_way(
        &mut self,
        uid: &Uid,
        current: Option<&Sandbox>,
        stray: Vec<ContainerId>,
    ) -> Option<Step> {
        if !stray.is_empty() {
            let replaced = |c: &Container| stray.contains(&c.id) && self.view.state.is_replaced(c);
            let all = self.view.observed.containers_of(uid).any(replaced);
            let reason = if all {
                StopReason::RestartAll
            } else {
                StopReason::Stray
            };
            let (uid, ids) = (uid.clone(), stray);
            return self.unless_failing(Step::StopContainers { uid, ids, reason });
        }
        let ids = self.dead_sandboxes(uid, current);
        self.first_of(ids, |id| Step::StopSandbox { id })
    }

    /// The other sandboxes of a version that still have to be stopped.
    fn dead_sandboxes(&self, uid: &Uid, current: Option<&Sandbox>) -> Vec<SandboxId> {
        let others = self.view.observed.sandboxes_of(uid);
        let others = others.filter(|s| current.is_none_or(|c| c.id != s.id) && self.needs_stop(s));
        others.map(|s| s.id.clone()).collect()
    }

    /// Returns true if a sandbox is being stopped whose network and ports the next one may need; a stop that hangs
    /// is not waited for.
    pub(super) fn waits_for_stops(&mut self, uid: &Uid, current: Option<&Sandbox>) -> bool {
        let ids = self.dead_sandboxes(uid, current);
        let begun = ids.into_iter().filter_map(|id| {
            let subject = Subject::RemoveSandbox(id);
            self.view.state.under_way.get(&subject).copied()
        });
        let begun = begun.max();
        begun.is_some_and(|begun| self.must_wait_until(begun.after(SANDBOX_STOP)))
    }
}
