//! Stopping one container, in its turn among those that are stopped together.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container as ContainerSpec;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::Context;
use crate::cri::{Client, Error, if_found};
use crate::manifest::PodKey;
use crate::pod::state::history::StopReason;
use crate::pod::state::observed::ContainerId;
use crate::probe::hook;
use crate::units::time::{LONGEST, half, seconds, whole_seconds};

/// The least time a container gets between its stop signal and the kill, once its preStop hook used
/// up the grace period; the kubelet's.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// The time that a preStop hook has beyond the grace period: until the kill, and a second for that.
const HOOK_OVERTIME: Duration = Duration::from_secs(3);

/// A grace period that is shorter than whole seconds by less than this is as good as whole.
const NEARLY_WHOLE: Duration = Duration::from_millis(100);

/// The way in which containers are stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    /// Seconds between the hook before the stop signal, or else the signal, and the kill.
    pub(super) grace_period: i64,
    /// Part of that which has passed.
    pub(super) spent: Duration,
    /// Time of the kill at the latest, where the machine shuts down.
    pub(super) until: Option<Instant>,
    /// True if their hook is run.
    pub(super) with_hook: bool,
    /// Reason, where it is not the end of all of them.
    pub(super) reason: Option<StopReason>,
}

impl Stop {
    /// Returns the rest of the grace period, now that this long has passed since the stop began.
    pub(super) fn left(&self, elapsed: Duration) -> Duration {
        let spent = self.spent.saturating_add(elapsed);
        let left = seconds(self.grace_period).saturating_sub(spent);
        left.min(self.before_limit())
    }

    /// Returns the time until the stop signal is sent at the latest, now that this long has passed since the stop
    /// began. Of what the shutdown of the machine leaves, the container has a part for its signal.
    fn before_signal(&self, elapsed: Duration) -> Duration {
        let left = self.before_limit();
        let kept = MINIMUM_GRACE.min(half(left));
        self.left(elapsed).min(left.saturating_sub(kept))
    }

    fn before_limit(&self) -> Duration {
        let left = self
            .until
            .map(|until| until.saturating_duration_since(Instant::now()));
        left.unwrap_or(LONGEST)
    }
}

/// Containers that are stopped together, in groups: those of one get their stop signal once all of the
/// groups before have ended.
pub(super) struct Turns {
    /// Number of containers of each group that have not ended yet.
    pub(super) left: Vec<usize>,
    /// True if one could not be stopped; those after it wait for another try.
    pub(super) failed: bool,
}

impl Turns {
    /// Returns true if it is this group's turn, or will not be.
    fn is_decided(&self, group: usize) -> bool {
        self.failed || self.left[..group].iter().all(|left| *left == 0)
    }
}

/// A container that is stopped.
pub(super) struct Stopping {
    pub(super) id: ContainerId,
    pub(super) name: String,
    pub(super) spec: Option<ContainerSpec>,
    /// The place of its group among all.
    pub(super) group: usize,
    pub(super) turns: Arc<watch::Sender<Turns>>,
}

/// The outcome of stopping a container.
pub(super) struct Stopped {
    pub(super) id: ContainerId,
    pub(super) name: String,
    /// True if the hook before failed.
    pub(super) hook_failed: bool,
    /// The runtime's answer; nothing where its turn did not come.
    pub(super) result: Option<Result<(), Error>>,
}

/// Stops a container that no other waits for: its preStop hook, its signal, and the kill.
pub(super) async fn stop_alone(
    context: Arc<Context>,
    pod: PodKey,
    ip: String,
    id: ContainerId,
    spec: ContainerSpec,
    grace_period: i64,
) -> Result<(), Error> {
    let turns = Turns {
        left: vec![1],
        failed: false,
    };
    let container = Stopping {
        id,
        name: spec.name.clone(),
        spec: Some(spec),
        group: 0,
        turns: Arc::new(watch::Sender::new(turns)),
    };
    let stop = Stop {
        grace_period,
        spent: Duration::ZERO,
        until: None,
        with_hook: true,
        reason: None,
    };
    let stopped = stop_one(context, pod, ip, container, stop).await;
    stopped.result.unwrap_or(Ok(()))
}

/// Stops one container: its preStop hook, its signal when it is its turn, and the kill. Hooks do not wait
/// for turns, and nobody's turn is waited for once the grace period is over; as with the kubelet.
pub(super) async fn stop_one(
    context: Arc<Context>,
    pod: PodKey,
    ip: String,
    container: Stopping,
    stop: Stop,
) -> Stopped {
    let Stopping {
        id,
        name,
        spec,
        group,
        turns,
    } = container;
    let began = Instant::now();
    let left = stop.before_signal(Duration::ZERO);
    let spec = spec.filter(|_| stop.with_hook && !left.is_zero());
    // It is waited for during the grace period, and may run on until its container is killed.
    let hook = async {
        match &spec {
            Some(spec) => {
                let limit = left.saturating_add(HOOK_OVERTIME);
                hook::pre_stop(&context.client, spec, &id, &ip, limit).await
            }
            None => Ok(()),
        }
    };
    tokio::pin!(hook);
    let done = tokio::time::timeout(left, &mut hook).await;
    let overtime = done.is_err();
    let failure = match done {
        Ok(result) => result.err(),
        Err(_) => Some(format!("it was not done within {} s", left.as_secs())),
    };
    let hook_failed = failure.is_some();
    if let Some(error) = failure {
        warn!(%pod, container = name, error, "PreStop hook failed");
    }
    let ends = stop_in_turn(&context.client, &id, group, &turns, stop, began);
    tokio::pin!(ends);
    let result = tokio::select! {
        result = &mut ends => result,
        // What becomes of it now has been reported.
        _ = &mut hook, if overtime => ends.await,
    };
    Stopped {
        id: id.clone(),
        name,
        hook_failed,
        result,
    }
}

/// Sends a container its stop signal when it is its turn; nothing where its turn does not come.
async fn stop_in_turn(
    client: &Client,
    id: &ContainerId,
    group: usize,
    turns: &watch::Sender<Turns>,
    stop: Stop,
    began: Instant,
) -> Option<Result<(), Error>> {
    let mut seen = turns.subscribe();
    let turn = seen.wait_for(|turns| turns.is_decided(group));
    // That the time is over is no error, and the sender is here.
    let _ = tokio::time::timeout(stop.before_signal(began.elapsed()), turn).await;
    if turns.borrow().failed && group > 0 {
        return None;
    }
    let left = match stop.grace_period {
        0 => Duration::ZERO,
        _ => stop.left(began.elapsed()).max(MINIMUM_GRACE),
    };
    let left = left.min(stop.before_limit());
    let result = if_found(signal_and_kill(client, id, left).await);
    turns.send_modify(|turns| match result {
        Ok(_) => turns.left[group] = turns.left[group].saturating_sub(1),
        Err(_) => turns.failed = true,
    });
    Some(result.map(drop))
}

/// Sends a container its stop signal, and kills it `left` later. The runtime counts in whole seconds only:
/// where that would be too late, it is asked to kill when the time has come.
async fn signal_and_kill(client: &Client, id: &ContainerId, left: Duration) -> Result<(), Error> {
    let whole = whole_seconds(left);
    let stop = client.stop_container(id, whole);
    if seconds(whole).saturating_sub(left) < NEARLY_WHOLE {
        return stop.await;
    }
    match tokio::time::timeout(left, stop).await {
        Ok(stopped) => stopped,
        Err(_) => client.stop_container(id, 0).await,
    }
}
