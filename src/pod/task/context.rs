//! The parts of the agent that all Pods' tasks share. The agent makes one when it starts, and each task
//! holds a reference.

use std::time::Duration;

use crate::cri::Client;
use crate::image::Images;
use crate::pod::admission::Allocations;
use crate::pod::events::Events;
use crate::pod::limiter::Limiter;
use crate::pod::metrics::Metrics;
use crate::pod::reports::Reports;
use crate::pod::state::time::Clock;
use crate::translate::NodeFacts;

/// What all Pods' tasks share.
#[derive(Debug)]
pub struct Context {
    /// The runtime.
    pub client: Client,
    /// What the node is like.
    pub facts: NodeFacts,
    /// What our sandboxes and containers are known by.
    pub owner_label: String,
    /// The node's name.
    pub node_name: String,
    /// The host's resolv.conf, if it is to have one.
    pub resolv_conf: Option<std::path::PathBuf>,
    /// Pulls.
    pub images: Images,
    /// What Pods take of the node.
    pub allocations: Allocations,
    /// Expensive calls at a time.
    pub limiter: Limiter,
    /// The time.
    pub clock: Clock,
    /// Where each task tells what it knows.
    pub reports: Reports,
    /// What happened to Pods.
    pub events: Events,
    /// How long starts and restarts took.
    pub metrics: Metrics,
    /// The longest wait before a container that keeps stopping is started again.
    pub longest_backoff: Duration,
    /// How long an update has to become Ready before it is taken back, where its Pod does not say.
    pub rollback_after: Option<Duration>,
}
