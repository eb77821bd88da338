//! The parts of the agent that all Pods' tasks share. The agent makes one when it starts, and each task
//! holds a reference.

use std::time::Duration;

use super::{FirstSyncs, PodRequests};
use crate::cri::Client;
use crate::image::Images;
use crate::pod::admission::Allocations;
use crate::pod::events::Events;
use crate::pod::kubelet_pods::KubeletPods;
use crate::pod::limiter::Limiter;
use crate::pod::metrics::Metrics;
use crate::pod::reports::Reports;
use crate::pod::shutdown::NodeShutdown;
use crate::pod::state::time::Clock;
use crate::translate::NodeFacts;

/// The parts of the agent that all Pods' tasks share.
#[derive(Debug)]
pub struct Context {
    /// The runtime.
    pub client: Client,
    /// Facts of the node.
    pub facts: NodeFacts,
    /// Owner label of the agent's sandboxes and containers.
    pub owner_label: String,
    /// The node's name.
    pub node_name: String,
    /// The host's resolv.conf, if it is to have one.
    pub resolv_conf: Option<std::path::PathBuf>,
    /// Static Pods that a kubelet left.
    pub kubelet_pods: KubeletPods,
    /// Pulls.
    pub images: Images,
    /// Allocations of the node's resources to Pods.
    pub allocations: Allocations,
    /// Expensive calls at a time.
    pub limiter: Limiter,
    /// First syncs of tasks at a time.
    pub first_syncs: FirstSyncs,
    /// The time.
    pub clock: Clock,
    /// The node's shutdown.
    pub shutdown: NodeShutdown,
    /// Requests of people to Pods' tasks.
    pub requests: PodRequests,
    /// Snapshots of all Pods, written by their tasks.
    pub reports: Reports,
    /// Events of Pods.
    pub events: Events,
    /// Durations of starts and restarts.
    pub metrics: Metrics,
    /// The longest wait before a container that keeps stopping is started again.
    pub longest_backoff: Duration,
    /// Time limit for an update to become Ready before it is rolled back, where its Pod sets none.
    pub rollback_after: Option<Duration>,
}
