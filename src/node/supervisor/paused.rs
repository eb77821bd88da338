//! Pods that are paused while the agent does not run.

use std::collections::BTreeMap;

use tracing::error;

use super::Supervisor;
use crate::manifest::PodKey;
use crate::pod::pause;
use crate::pod::task::TaskStart;
use crate::source::Desired;

impl Supervisor {
    /// Adds paused Pods that no manifest names any more: their tasks forget the pause. While not all manifests are
    /// known, they may be named by one of those.
    pub(super) fn add_paused(&self, starts: &mut BTreeMap<PodKey, TaskStart>, desired: &Desired) {
        if desired.web_unknown || !desired.unreadable.is_empty() || !desired.unanswered.is_empty() {
            return;
        }
        let paused = pause::list(&self.context.facts.paths).unwrap_or_else(|error| {
            error!(%error, "Failed to read which Pods are paused");
            vec![]
        });
        for key in paused {
            starts.entry(key).or_default().forgets_pause = true;
        }
    }
}
