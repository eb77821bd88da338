//! Pods that are paused while the agent does not run.

use std::collections::BTreeMap;

use tracing::{error, warn};

use super::Supervisor;
use crate::manifest::PodKey;
use crate::pod::task::TaskStart;
use crate::pod::{order, pause};
use crate::source::Desired;

impl Supervisor {
    /// Adds paused Pods that no manifest names any more: their tasks forget the pause. What is kept of held ones is
    /// removed. While not all manifests are known, they may be named by one of those. Manifests that are refused for
    /// their order name their Pods too.
    pub(super) fn add_paused(&self, starts: &mut BTreeMap<PodKey, TaskStart>, desired: &Desired) {
        if desired.web_unknown || !desired.unreadable.is_empty() || !desired.unanswered.is_empty() {
            return;
        }
        let paused = pause::list(&self.context.facts.paths).unwrap_or_else(|error| {
            error!(%error, "Failed to read which Pods are paused");
            vec![]
        });
        let is_circular = |key: &PodKey| desired.circular.contains(key);
        for key in paused.into_iter().filter(|key| !is_circular(key)) {
            starts.entry(key).or_default().forgets_pause = true;
        }
        let is_known = |key: &PodKey| {
            starts.contains_key(key) || desired.pods.contains_key(key) || is_circular(key)
        };
        if let Err(error) = order::retain(&self.context.facts.paths, is_known) {
            warn!(%error, "Failed to remove what is kept of held Pods that are gone");
        }
    }
}
