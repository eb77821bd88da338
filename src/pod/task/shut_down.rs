//! Stopping a Pod before the machine shuts down.

use std::convert::Infallible;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use super::PodTask;
use crate::pod::plan::rules::is_finished;
use crate::pod::state::ShutdownStop;
use crate::pod::state::observed::Container;

/// The order to stop a Pod before the machine shuts down.
#[derive(Debug, Clone)]
pub struct ShutdownOrder {
    /// Time at which no container of the Pod is to run any more.
    pub until: Instant,
    /// Dropped once none does. Nothing is ever sent.
    pub running: mpsc::Sender<Infallible>,
}

impl ShutdownOrder {
    /// Returns the same order for a Pod that comes later, which nobody waits for.
    #[must_use]
    pub fn of_newcomers(&self) -> Self {
        let (running, _) = mpsc::channel(1);
        Self { running, ..*self }
    }
}

impl PodTask {
    /// From now on the Pod's containers are stopped, and nothing else is done for it.
    pub(super) fn begin_shutdown(&mut self, order: ShutdownOrder) {
        let view = self.view();
        let finished = view
            .state
            .pods()
            .filter(|version| is_finished(view, version));
        let finished_before = finished.map(|version| version.uid.clone()).collect();
        let left = order.until.saturating_duration_since(Instant::now());
        let until = view.now.after(left);
        if self.observed.containers.iter().any(Container::is_live) {
            let seconds = left.as_secs();
            info!(pod = %self.key, "Stopping Pod within {seconds} s, the machine shuts down");
        }
        self.state.shutdown = Some(ShutdownStop {
            until,
            finished_before,
        });
        self.shutdown_order = Some(order);
    }

    /// Lets go of the order once no container of the Pod runs, as far as is known after all was observed.
    pub(super) fn confirm_shutdown(&mut self) {
        let is_observed = !self.stale && self.changed.is_empty();
        if is_observed && !self.observed.containers.iter().any(Container::is_live) {
            self.shutdown_order = None;
        }
    }
}
