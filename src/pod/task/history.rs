//! The history of each version, brought up to date from what is observed and written to the Pod's
//! folder.

use std::sync::Arc;

use tracing::warn;

use super::PodTask;
use crate::host::blocking::blocking;
use crate::manifest::Uid;
use crate::pod::plan::rules::has_ended;
use crate::pod::state::history::{Condition, Finished, History};
use crate::pod::state::{Phase, Version};
use crate::pod::{folder, rollback, shutdown, status};

/// Subject of complaints about histories.
const HISTORY: &str = "history";

impl PodTask {
    /// Brings each version's history up to date, on disk too.
    pub(super) async fn record_histories(&mut self) {
        let uids: Vec<Uid> = self.state.pods().map(|pod| pod.uid.clone()).collect();
        for uid in uids {
            if self.state.is_terminating(&uid) {
                continue;
            }
            // One that was not begun has nothing to be kept for another agent.
            if !self.state.is_on_disk(&uid) {
                self.keep_conditions(&uid);
                continue;
            }
            let history = Arc::new(self.history_now(&uid));
            let version = self.state.version_mut(&uid);
            if version.written_history.as_ref() == Some(&history) {
                continue;
            }
            let before = version.written_history.clone().unwrap_or_default();
            version.history = Arc::clone(&history);
            let lasting = history.is_weightier_than(&before);
            // The runtime tells it again, and of each Pod that starts it would be written twice within a moment.
            if history.containers.is_empty() && !lasting && version.written_history.is_none() {
                continue;
            }
            let (paths, owner) = (self.context.facts.paths.clone(), uid.clone());
            let written = Arc::clone(&history);
            let write = move || folder::write_history(&paths, &owner, &written, lasting);
            let outcome = self.own_files(blocking(write)).await;
            if let Some(error) = self.complaints.record(HISTORY, &outcome) {
                warn!(pod = %self.key, %error, "Failed to write the Pod's history");
            }
            if outcome.is_ok() {
                let written = |version: &mut Version| version.written_history = Some(history);
                self.state.update_version(&uid, written);
            }
        }
    }

    /// Keeps since when the conditions of all versions hold, before they are told of while a step is under way.
    pub(super) fn keep_all_conditions(&mut self) {
        let uids: Vec<Uid> = self.state.pods().map(|pod| pod.uid.clone()).collect();
        for uid in uids {
            if !self.state.is_terminating(&uid) {
                self.keep_conditions(&uid);
            }
        }
    }

    fn keep_conditions(&mut self, uid: &Uid) {
        let Some(version) = self.version(uid) else {
            return;
        };
        let status = status::status(self.view(), &self.context.facts, &version);
        let conditions = status::kept_conditions(&status);
        let known = self.state.history(uid);
        if known.is_none_or(|known| known.conditions != conditions) {
            let now = self.context.clock.wall_now();
            let history = self.state.version_mut(uid).history_mut();
            set_conditions(history, conditions, now);
        }
    }

    /// A version's history as things stand.
    fn history_now(&mut self, uid: &Uid) -> History {
        let mut history = self.state.history(uid).cloned().unwrap_or_default();
        let Some(version) = self.version(uid) else {
            return history;
        };
        history.update(&self.observed, uid);
        let ended = history.finished.is_none()
            && !self.observed.has_none_of(uid)
            && has_ended(self.view(), &version);
        let status = status::status(self.view(), &self.context.facts, &version);
        if ended {
            // As with the kubelet, it stays so at the next boot, and says why.
            let shut_down = self.state.is_shut_down(uid);
            let word = |word: &str| if shut_down { word } else { "" }.to_owned();
            history.end(Finished {
                phase: if shut_down {
                    Phase::Failed
                } else {
                    status::end_phase(&version, &status)
                },
                reason: word(shutdown::TERMINATED),
                message: word(shutdown::TERMINATED_MESSAGE),
                since: self.context.clock.wall_now(),
            });
        }
        let sandbox = self.observed.ready_sandbox(uid);
        if let Some(sandbox) = sandbox.filter(|s| !s.ips.is_empty()) {
            history.ips.clone_from(&sandbox.ips);
        }
        let now = self.context.clock.wall_now();
        set_conditions(&mut history, status::kept_conditions(&status), now);
        (history.ready, history.started) = status::ready_and_started(&status);
        history
    }
}

/// Takes over the conditions as they are now (nanoseconds since the epoch). That the Pod was Ready for long enough, by
/// those until now, is kept.
fn set_conditions(history: &mut History, conditions: Vec<Condition>, now: i64) {
    history.was_good |= history.was_ready_for(rollback::SETTLED, now);
    history.conditions = conditions;
}
