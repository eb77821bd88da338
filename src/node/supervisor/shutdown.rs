//! The stop of all Pods before the machine shuts down, one group of them after the other.
//!
//! Nothing here waits longer than a group's period: who is not done by then is left to its fate.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Supervisor;
use crate::manifest::PodKey;
use crate::manifest::priority::priority;
use crate::pod::report::PodSnapshot;
use crate::pod::shutdown::{ShutdownGroup, ShutdownPeriods};
use crate::pod::task::{Context, Message, ShutdownOrder};
use crate::source::Desired;
use crate::units::time::Later;

/// Part of a period, and no more of it than a tenth, that is kept for the kills at its end.
const FOR_KILLS: Duration = Duration::from_millis(500);
/// Least time of a group: one without a period is killed, and that is waited for.
const SHORTEST: Duration = Duration::from_secs(1);

/// Progress of the stop.
#[derive(Debug)]
pub(super) struct NodeStop {
    groups: VecDeque<ShutdownGroup<PodKey>>,
    current: Option<CurrentGroup>,
    /// Time that the group before leaves to the next one.
    rest: Duration,
}

/// The group that is being stopped.
#[derive(Debug)]
struct CurrentGroup {
    pods: Vec<PodKey>,
    ends_at: Instant,
    leaves_rest: bool,
    /// Closed once all tasks have let go of their orders.
    running: mpsc::Receiver<Infallible>,
}

impl Supervisor {
    /// Begins to stop all Pods. Returns `false` if there is none.
    pub(super) fn begin_shutdown(&mut self, periods: &ShutdownPeriods) -> bool {
        let keys = self.pods.keys().cloned();
        let stop = NodeStop::new(&self.context, &self.desired, periods, keys);
        self.stop = Some(stop);
        self.stop_next_group()
    }

    /// Has the Pods of the next group stop. Returns `false` if all groups are over.
    pub(super) fn stop_next_group(&mut self) -> bool {
        let Some((pods, order)) = self.stop.as_mut().and_then(NodeStop::next_group) else {
            return false;
        };
        for key in pods {
            self.notify(&key, Message::ShutDown(order.clone()));
        }
        self.order = Some(order.of_newcomers());
        true
    }
}

impl NodeStop {
    /// Sorts these Pods into groups. Those that have no container yet get none from now on: they are in the first
    /// one.
    fn new(
        context: &Context,
        desired: &Desired,
        periods: &ShutdownPeriods,
        pods: impl Iterator<Item = PodKey>,
    ) -> Self {
        let (idle, others) = pods.partition::<Vec<_>, _>(|key| has_nothing_to_stop(context, key));
        let others = others.into_iter().map(|key| {
            let snapshot = context.reports.get(&key);
            let shown = snapshot.and_then(|snapshot| snapshot.version.clone());
            let wanted = || desired.pods.get(&key).map(|wanted| wanted.pod.clone());
            let version = shown.or_else(wanted);
            let priority = version.map_or(0, |version| priority(&version.unpack()));
            (key, priority)
        });
        let mut groups = periods.groups(others);
        match groups.first_mut() {
            Some(first) => first.pods.extend(idle),
            None if idle.is_empty() => {}
            None => groups.push(ShutdownGroup {
                pods: idle,
                period: periods.total(),
                leaves_rest: false,
            }),
        }
        Self {
            groups: groups.into(),
            current: None,
            rest: Duration::ZERO,
        }
    }

    /// Begins with the next group: its Pods, and what their tasks are told; `None` if there is none left.
    fn next_group(&mut self) -> Option<(Vec<PodKey>, ShutdownOrder)> {
        self.current = None;
        let group = self.groups.pop_front()?;
        let rest = std::mem::take(&mut self.rest);
        let period = group.period.saturating_add(rest);
        let (sender, running) = mpsc::channel(1);
        let for_kills = FOR_KILLS.min(period.checked_div(10).unwrap_or_default());
        let now = Instant::now();
        let pods = group.pods.len();
        info!(
            pods,
            "Stopping Pods within {period:?}, the machine shuts down"
        );
        self.current = Some(CurrentGroup {
            pods: group.pods.clone(),
            ends_at: now.later(period.max(SHORTEST)),
            leaves_rest: group.leaves_rest,
            running,
        });
        let order = ShutdownOrder {
            until: now.later(period.saturating_sub(for_kills)),
            running: sender,
        };
        Some((group.pods, order))
    }

    /// Waits until no container of the current group runs, or its period is over; `None` where there is none.
    /// Nothing is lost where the wait is dropped.
    pub(super) async fn group_over(stop: &mut Option<Self>, context: &Context) -> Option<()> {
        let Self { current, rest, .. } = stop.as_mut()?;
        let current = current.as_mut()?;
        let stopped = tokio::time::timeout_at(current.ends_at, current.running.recv()).await;
        if stopped.is_err() {
            let is_running = |key: &&PodKey| {
                let snapshot = context.reports.get(key);
                snapshot.is_some_and(|snapshot| runs(&snapshot))
            };
            let running = current.pods.iter().filter(is_running);
            let running: Vec<String> = running.map(ToString::to_string).collect();
            let pods = running.join(", ");
            warn!(pods, "Pods did not stop in time, the shutdown goes on");
        }
        if current.leaves_rest {
            *rest = current.ends_at.saturating_duration_since(Instant::now());
        }
        Some(())
    }
}

/// Returns true if a container of the Pod runs, as far as it is reported.
fn runs(snapshot: &PodSnapshot) -> bool {
    let mut all = snapshot.status.container_statuses();
    all.any(|status| status.state.as_ref().is_some_and(|s| s.running.is_some()))
}

/// Returns true if no container of the Pod was ever created, so that it has nothing to stop. A Pod without a report
/// may have some.
fn has_nothing_to_stop(context: &Context, key: &PodKey) -> bool {
    let snapshot = context.reports.get(key);
    snapshot.is_some_and(|snapshot| {
        let mut all = snapshot.status.container_statuses();
        let has_none = all.all(|status| status.container_id.is_none());
        has_none && !snapshot.terminating
    })
}
