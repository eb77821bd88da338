//! Stopping containers: preStop hook, signal, and the kill at the end of the grace period.
//!
//! The start of a stop stands on disk, so that an agent that dies meanwhile is followed by one that goes on
//! with the same grace period.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::error::StepError;
use super::stop_container::{Stop, Stopped, Stopping, Turns, stop_one};
use super::{PodTask, events};
use crate::host::blocking::blocking;
use crate::manifest::Uid;
use crate::manifest::is_sidecar;
use crate::pod::events::EventKind;
use crate::pod::plan::rules::{restarts_on_failure, stop_order};
use crate::pod::plan::{Outcome, Step, is_urgent};
use crate::pod::state::history::{FailedInstance, StopReason};
use crate::pod::state::observed::{Container, ContainerId, State};
use crate::pod::state::time::Timestamp;
use crate::pod::state::{PostStart, Terminating, Termination, View};
use crate::pod::{folder, observe};
use crate::probe::hook::PRE_STOP_FAILED;

/// Time limit for the status of a container that was stopped.
const INSPECTION: Duration = Duration::from_secs(5);

/// Subject of complaints about the record of a stop.
const TERMINATION: &str = "termination";

impl PodTask {
    /// Ends all containers of a version, which then is on its way out for good.
    pub(super) async fn terminate(&mut self, step: &Step, uid: &Uid) -> Result<(), StepError> {
        let live = self.observed.containers_of(uid).filter(|c| c.is_live());
        let ids: Vec<ContainerId> = live.map(|c| c.id.clone()).collect();
        let termination = self.begin_end(step, uid).await;
        self.publish();
        let kind = Stop {
            grace_period: termination.grace_period,
            spent: self.time_since(termination.since),
            until: self.shutdown_limit(),
            with_hook: true,
            reason: None,
        };
        self.stop_all(uid, &ids, kind).await
    }

    /// Marks a version as on its way out, on disk too; gives when that began. Where it cannot be written, the stop
    /// goes on: the version's own files may be what fills the disk. The next agent would begin it again.
    async fn begin_end(&mut self, step: &Step, uid: &Uid) -> Terminating {
        let known = self.state.version(uid);
        if let Some(Termination::Begun(known)) = known.and_then(|version| version.termination) {
            return known;
        }
        let termination = Terminating {
            since: Timestamp::now(&self.context.clock),
            grace_period: self.grace_period(uid),
        };
        let (paths, owned_uid) = (self.context.facts.paths.clone(), uid.clone());
        let marked = move || folder::mark_terminating(&paths, &owned_uid, termination);
        let marked = self.own_files(blocking(marked)).await;
        if let Some(error) = self.complaints.record(TERMINATION, &marked) {
            warn!(pod = %self.key, uid = uid.as_str(), error, "Failed to write that the Pod is being stopped, it is stopped all the same");
        }
        let termination = marked.unwrap_or(termination);
        let since = termination.since.fixed(&self.context.clock);
        let termination = Terminating {
            since,
            ..termination
        };
        let is_new = !self.state.is_terminating(uid);
        self.outcome(step, Outcome::Terminating(termination));
        if is_new {
            info!(pod = %self.key, uid = uid.as_str(), grace_period = termination.grace_period, "Stopping Pod");
        }
        termination
    }

    /// Time at which no container is to run any more, once the machine shuts down.
    fn shutdown_limit(&self) -> Option<Instant> {
        let stop = self.state.shutdown.as_ref()?;
        Some(self.context.clock.instant_of(stop.until))
    }

    fn time_since(&self, since: Timestamp) -> Duration {
        let clock = &self.context.clock;
        clock.now().since(since.monotonic(clock))
    }

    pub(super) async fn stop_containers(
        &mut self,
        step: &Step,
        uid: &Uid,
        ids: &[ContainerId],
        reason: StopReason,
    ) -> Result<(), StepError> {
        let failed_instance = match (reason, ids) {
            (StopReason::Liveness | StopReason::Startup | StopReason::PostStart, [id]) => {
                Some(self.begin_failed_stop(step, uid, id, reason).await)
            }
            (StopReason::Requested, ids) => {
                // They end together, and none is to have less time than it was promised.
                let mut latest: Option<FailedInstance> = None;
                for id in ids {
                    let begun = self.begin_failed_stop(step, uid, id, reason).await;
                    let is_later = latest.as_ref().is_none_or(|latest| {
                        self.time_since(begun.since) < self.time_since(latest.since)
                    });
                    if is_later {
                        latest = Some(begun);
                    }
                }
                latest
            }
            _ => None,
        };
        let finished = self.state.finished(uid).filter(|f| f.since > 0);
        let over_since = finished.filter(|_| reason == StopReason::Over);
        let over_since = over_since.map(|f| Timestamp::from(f.since));
        let since = failed_instance.as_ref().map(|g| g.since).or(over_since);
        let kind = Stop {
            grace_period: match (reason, &failed_instance) {
                (StopReason::RestartAll, _) => 0,
                (_, Some(failed_instance)) => failed_instance.grace_period,
                _ => self.grace_period(uid),
            },
            spent: since.map_or(Duration::ZERO, |since| self.time_since(since)),
            until: self.shutdown_limit(),
            with_hook: reason != StopReason::RestartAll,
            reason: Some(reason),
        };
        self.stop_all(uid, ids, kind).await?;
        for id in ids.iter().filter(|_| failed_instance.is_some()) {
            let known = self.observed.container(id);
            if let Some((container, exit)) = known.and_then(|c| Some((c, c.exit()?))) {
                self.record_back_off(container, exit);
            }
        }
        Ok(())
    }

    /// Begins the stop of a container that does not work, or finds it begun. It stands on disk before
    /// anything is stopped: an agent that dies meanwhile is followed by one that goes on with it.
    async fn begin_failed_stop(
        &mut self,
        step: &Step,
        uid: &Uid,
        id: &ContainerId,
        reason: StopReason,
    ) -> FailedInstance {
        let history = self.state.history(uid);
        let begun = history.and_then(|history| history.failed_instances.get(id).cloned());
        if let Some(mut begun) = begun {
            begun.since = begun.since.fixed(&self.context.clock);
            let outcome = Outcome::FailedInstance(id.clone(), begun.clone());
            self.outcome(step, outcome);
            return begun;
        }
        let grace_period = self.probe_grace_period(uid, id, reason);
        let message = match self.state.post_starts.get(id) {
            Some(PostStart::Failed(message)) => message.clone(),
            _ => String::new(),
        };
        let failed_instance = FailedInstance {
            reason,
            message,
            since: Timestamp::now(&self.context.clock),
            grace_period: grace_period.unwrap_or_else(|| self.grace_period(uid)),
        };
        let outcome = Outcome::FailedInstance(id.clone(), failed_instance.clone());
        self.outcome(step, outcome);
        self.record_histories().await;
        self.log_failed_instance(uid, id, reason);
        failed_instance
    }

    fn log_failed_instance(&self, uid: &Uid, id: &ContainerId, reason: StopReason) {
        let known = self.observed.container(id);
        let Some((version, container)) = self.version(uid).zip(known) else {
            return;
        };
        let name = &container.name;
        let what = match reason {
            // The request has been logged.
            StopReason::Requested => return,
            StopReason::Liveness => "failed its liveness probe",
            StopReason::Startup => "failed its startup probe",
            _ => "failed its postStart hook",
        };
        let again = restarts_on_failure(&version, name);
        let then = if again { ", it will be restarted" } else { "" };
        warn!(pod = %self.key, container = name, "Container {what}{then}");
    }

    /// The grace period that a probe sets for a container that failed it, in seconds.
    fn probe_grace_period(&self, uid: &Uid, id: &ContainerId, reason: StopReason) -> Option<i64> {
        let version = self.version(uid)?;
        let container = self.observed.container(id)?;
        let spec = version.container(&container.name)?;
        let probe = match reason {
            StopReason::Liveness => spec.liveness_probe.as_ref(),
            StopReason::Startup => spec.startup_probe.as_ref(),
            _ => None,
        };
        probe?.termination_grace_period_seconds
    }

    /// The grace period of a version, from its manifest or else from what its containers were made
    /// with, in seconds.
    fn grace_period(&self, uid: &Uid) -> i64 {
        let version = self.version(uid);
        let own = version.and_then(|v| v.spec.termination_grace_period_seconds);
        let given = || {
            self.observed
                .containers_of(uid)
                .find_map(|c| c.grace_period)
        };
        own.or_else(given).unwrap_or(30).max(0)
    }

    /// Stops containers, sidecars after those that they accompany: preStop hook, signal, and a kill once
    /// the grace period is over, which is one for all of them. Abandoned where something more urgent comes
    /// up; the stops go on in the runtime then.
    async fn stop_all(
        &mut self,
        uid: &Uid,
        ids: &[ContainerId],
        stop: Stop,
    ) -> Result<(), StepError> {
        let mut stops = self.begin_stops(uid, ids, stop);
        let ends = self.context.clock.now().after(stop.left(Duration::ZERO));
        let _step = self.under_way(uid, None, "StopContainers");
        // What has ended for good has its grace period already, and it is the Pod's.
        let patient = matches!(
            stop.reason,
            None | Some(StopReason::Over | StopReason::Shutdown)
        );
        // The shutdown of the machine limits it, and stops the Pod's other containers too.
        let is_cut_short = |view: View<'_>| {
            let shutdown = view.state.shutdown.as_ref();
            let late = shutdown.is_some_and(|shutdown| !patient || ends > shutdown.until);
            late && stop.until.is_none()
        };
        let urgent = |view: View<'_>| !patient && is_urgent(view, uid) || is_cut_short(view);
        let mut failed = vec![];
        while !stops.is_empty() {
            let Some(stopped) = self.meanwhile(stops.next(), urgent).await else {
                debug!(pod = %self.key, uid = uid.as_str(), "Stopped waiting for a container's end, something else is urgent");
                self.stale = true;
                return Ok(());
            };
            let Some(stopped) = stopped else {
                break;
            };
            if stopped.hook_failed {
                let (name, kind) = (Some(stopped.name.as_str()), EventKind::Warning);
                self.event(uid, name, kind, "FailedPreStopHook", PRE_STOP_FAILED);
            }
            match stopped.result {
                Some(Ok(())) => {
                    self.has_ended(&stopped.id).await;
                    self.publish();
                }
                Some(Err(error)) => failed.push((stopped.name, error)),
                None => {}
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(StepError::Stops(failed))
    }

    /// Begins to stop containers side by side, each with its event.
    fn begin_stops(
        &self,
        uid: &Uid,
        ids: &[ContainerId],
        stop: Stop,
    ) -> FuturesUnordered<impl Future<Output = Stopped> + use<>> {
        let version = self.version(uid);
        let groups = match &version {
            Some(version) => stop_order(version, &self.observed, ids),
            None => vec![ids.to_vec()],
        };
        let ip = self.pod_ip(uid);
        let turns = Turns {
            left: groups.iter().map(Vec::len).collect(),
            failed: false,
        };
        let turns = Arc::new(watch::Sender::new(turns));
        let stops = FuturesUnordered::new();
        for (group, id) in (groups.into_iter().enumerate())
            .flat_map(|(group, ids)| ids.into_iter().map(move |id| (group, id)))
        {
            let known = self.observed.container(&id);
            let name = known.map(|c| c.name.clone()).unwrap_or_default();
            let spec = version.as_ref().and_then(|v| {
                let spec = v.container(&name);
                spec.cloned()
            });
            let sidecar = spec.as_ref().is_some_and(is_sidecar);
            let again = version.as_ref();
            let again = again.is_some_and(|v| restarts_on_failure(v, &name));
            let message = events::killing(&name, stop.reason, sidecar, again);
            self.event(uid, Some(&name), EventKind::Normal, "Killing", &message);
            let container = Stopping {
                id,
                name,
                spec,
                group,
                turns: Arc::clone(&turns),
            };
            let context = Arc::clone(&self.context);
            let (pod, ip) = (self.key.clone(), ip.clone());
            stops.push(stop_one(context, pod, ip, container, stop));
        }
        stops
    }

    /// Returns the assumed end of a container that was stopped, is not to run again, and whose status the runtime
    /// does not give.
    fn assumed_end(&self, id: &ContainerId) -> Option<Container> {
        let known = self.observed.container(id)?.clone();
        let state = State::Exited(observe::unseen_end(&self.context.clock));
        Some(Container { state, ..known })
    }

    /// Learns how a container ended that was stopped.
    async fn has_ended(&mut self, id: &ContainerId) {
        let before = self.observed.clone();
        let context = Arc::clone(&self.context);
        let now = observe::inspect_container(&context.client, &context.clock, id);
        let known = self.observed.container(id);
        let uid = known.map(|c| c.uid.clone()).unwrap_or_default();
        let ends = |task: &Self| !task.is_version_kept(&uid);
        let now = self.beside(now, |task, took| took >= INSPECTION && ends(task));
        let now = now.await.unwrap_or_else(|| Ok(self.assumed_end(id)));
        let Some(known) = self.observed.container_mut(id) else {
            return;
        };
        match now {
            Ok(Some(now)) => {
                // Where the runtime still reports it as running the stop was a no-op, and one that ended
                // before is not stopped once more.
                let was_live = known.is_live();
                known.state = now.state;
                if was_live && known.exit().is_some() {
                    info!(pod = %self.key, container = known.name, "Stopped container");
                }
            }
            Ok(None) => self.observed.forget(id),
            Err(error) => {
                debug!(pod = %self.key, container = known.name, %error, "Failed to get the status of the stopped container");
                self.stale = true;
            }
        }
        self.complete_observed(&before).await;
    }
}
