//! Orderly shutdown of the machine: who is stopped when, and what is said of it (Kubernetes, Node Shutdowns,
//! "Graceful node shutdown").
//!
//! Data and pure rules. The agent requests a shutdown here, the supervisor carries it out, and whatever reports
//! the node's state sees that it was requested. It is never taken back.

use std::time::Duration;

use tokio::sync::watch;

use crate::manifest::priority;
use crate::units::time::half;

/// Reason and message of a Pod that was stopped for the shutdown, and the reason of its condition
/// `DisruptionTarget` (the kubelet's node shutdown manager).
pub const TERMINATED: &str = "Terminated";
pub(crate) const TERMINATED_MESSAGE: &str =
    "Pod was terminated in response to imminent node shutdown.";
pub(crate) const TERMINATED_BY: &str = "TerminationByKubelet";
/// Reason and message of a Pod that is not started any more.
pub const NOT_ADMITTED: &str = "NodeShutdown";
pub(crate) const NOT_ADMITTED_MESSAGE: &str = "Pod was rejected as the node is shutting down.";
/// Message of the Node that is not Ready.
pub(crate) const NODE_MESSAGE: &str = "node is shutting down";

/// Periods in which the Pods of a node are stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownPeriods {
    /// Ordinary Pods first, then critical ones: those of `system-cluster-critical` before those of
    /// `system-node-critical`, which the others may depend on.
    Parts {
        /// For ordinary Pods.
        ordinary: Duration,
        /// For critical Pods, all together.
        critical: Duration,
    },
    /// From the lowest priority to the highest.
    ByPriority(Vec<PriorityPeriod>),
}

/// The period of the Pods from a priority up to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriorityPeriod {
    /// The lowest priority of these Pods.
    pub priority: i32,
    /// Time that they have to stop.
    pub period: Duration,
}

/// Pods that are stopped at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownGroup<Pod> {
    /// The Pods, at least one.
    pub pods: Vec<Pod>,
    /// Time that they have.
    pub period: Duration,
    /// True if the next group has what is left of the time as well.
    pub leaves_rest: bool,
}

impl ShutdownPeriods {
    /// Longest time that a shutdown takes.
    #[must_use]
    pub fn total(&self) -> Duration {
        match self {
            Self::Parts { ordinary, critical } => ordinary.saturating_add(*critical),
            Self::ByPriority(periods) => {
                let periods = periods.iter().map(|period| period.period);
                periods.fold(Duration::ZERO, Duration::saturating_add)
            }
        }
    }

    /// Sorts Pods, each with its priority, into groups in the order in which they are stopped. A Pod below the
    /// lowest priority is in the first group. There is no group without Pods.
    pub fn groups<Pod>(
        &self,
        pods: impl IntoIterator<Item = (Pod, i32)>,
    ) -> Vec<ShutdownGroup<Pod>> {
        let periods = match self {
            Self::Parts { ordinary, critical } => vec![
                (i32::MIN, *ordinary),
                (priority::CLUSTER_CRITICAL, *critical),
                (priority::NODE_CRITICAL, *critical),
            ],
            Self::ByPriority(periods) => periods.iter().map(|p| (p.priority, p.period)).collect(),
        };
        let mut groups: Vec<ShutdownGroup<Pod>> = vec![];
        groups.extend(periods.iter().map(|(_, period)| ShutdownGroup {
            pods: vec![],
            period: *period,
            leaves_rest: false,
        }));
        for (pod, priority) in pods {
            let group = periods.iter().rposition(|(lowest, _)| *lowest <= priority);
            if let Some(group) = groups.get_mut(group.unwrap_or(0)) {
                group.pods.push(pod);
            }
        }
        if let (Self::Parts { critical, .. }, [_, cluster, node]) = (self, groups.as_mut_slice())
            && !cluster.pods.is_empty()
            && !node.pods.is_empty()
        {
            (cluster.period, cluster.leaves_rest) = (half(*critical), true);
            node.period = critical.saturating_sub(cluster.period);
        }
        groups.retain(|group| !group.pods.is_empty());
        groups
    }
}

/// The node's shutdown, if it was requested. Clones share it.
#[derive(Debug, Clone)]
pub struct NodeShutdown(watch::Sender<Option<ShutdownPeriods>>);

impl Default for NodeShutdown {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl NodeShutdown {
    /// Requests that all Pods are stopped within these periods.
    pub fn request(&self, periods: ShutdownPeriods) {
        self.0.send_replace(Some(periods));
    }

    /// Returns true if it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it is requested.
    pub async fn requested(&self) -> ShutdownPeriods {
        let mut requests = self.0.subscribe();
        loop {
            if let Some(periods) = requests.borrow_and_update().clone() {
                return periods;
            }
            // The sender is here, so that it does not fail.
            let _ = requests.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDINARY: Duration = Duration::from_secs(20);
    const CRITICAL: Duration = Duration::from_secs(10);
    const PARTS: ShutdownPeriods = ShutdownPeriods::Parts {
        ordinary: ORDINARY,
        critical: CRITICAL,
    };

    fn group(pods: &[i32], period: Duration, leaves_rest: bool) -> ShutdownGroup<i32> {
        ShutdownGroup {
            pods: pods.to_vec(),
            period,
            leaves_rest,
        }
    }

    fn groups(periods: &ShutdownPeriods, priorities: &[i32]) -> Vec<ShutdownGroup<i32>> {
        periods.groups(priorities.iter().map(|priority| (*priority, *priority)))
    }

    #[test]
    fn critical_pods_stop_after_the_others_and_those_of_the_node_last() {
        let half = CRITICAL / 2;
        assert_eq!(
            groups(
                &PARTS,
                &[
                    2_000_001_000,
                    0,
                    2_000_000_000,
                    -5,
                    1_999_999_999,
                    i32::MAX,
                    i32::MIN
                ]
            ),
            [
                group(&[0, -5, 1_999_999_999, i32::MIN], ORDINARY, false),
                group(&[2_000_000_000], half, true),
                group(&[2_000_001_000, i32::MAX], half, false),
            ]
        );
        assert_eq!(PARTS.total(), Duration::from_secs(30));
    }

    #[test]
    fn a_group_without_pods_takes_no_time_from_others() {
        assert_eq!(groups(&PARTS, &[]), []);
        for priority in [2_000_000_000, 2_000_001_000] {
            let expected = [group(&[priority], CRITICAL, false)];
            assert_eq!(groups(&PARTS, &[priority]), expected);
        }
    }

    #[test]
    fn a_pod_between_two_priorities_has_the_period_of_the_lower_one() {
        let period = |priority, seconds| PriorityPeriod {
            priority,
            period: Duration::from_secs(seconds),
        };
        let periods =
            ShutdownPeriods::ByPriority(vec![period(0, 60), period(1000, 10), period(100_000, 5)]);
        assert_eq!(
            groups(&periods, &[-1, 0, 999, 1000, 5000, 100_000, i32::MAX]),
            [
                group(&[-1, 0, 999], Duration::from_secs(60), false),
                group(&[1000, 5000], Duration::from_secs(10), false),
                group(&[100_000, i32::MAX], Duration::from_secs(5), false),
            ]
        );
        assert_eq!(periods.total(), Duration::from_secs(75));
        let endless = ShutdownPeriods::ByPriority(vec![period(0, u64::MAX), period(1, u64::MAX)]);
        assert_eq!(endless.total(), Duration::MAX);
    }

    #[tokio::test]
    async fn a_request_is_seen_by_who_waits_before_and_after_it() {
        let shutdown = NodeShutdown::default();
        let other = shutdown.clone();
        assert!(!other.is_requested());
        let waits = tokio::spawn(async move { other.requested().await });
        tokio::task::yield_now().await;
        shutdown.request(PARTS);
        assert_eq!(waits.await.unwrap(), PARTS);
        assert_eq!(shutdown.requested().await, PARTS);
        assert!(shutdown.is_requested());
    }
}
