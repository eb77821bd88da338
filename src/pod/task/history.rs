//! The history of each version, brought up to date from what is observed and written to the Pod's
//! folder.

use tracing::warn;

use super::PodTask;
use crate::host::blocking::blocking;
use crate::pod::plan::rules::has_ended;
use crate::pod::state::history::{Finished, History};
use crate::pod::{folder, rollback, status};

/// Subject of complaints about histories.
const HISTORY: &str = "history";

impl PodTask {
    /// Brings each version's history up to date, on disk too.
    pub(super) async fn record_histories(&mut self) {
        let uids: Vec<String> = self.state.versions.keys().cloned().collect();
        for uid in uids {
            if self.state.terminating.contains(&uid) || !self.state.on_disk.contains(&uid) {
                continue;
            }
            let history = self.history_now(&uid);
            if self.written_histories.get(&uid) == Some(&history) {
                continue;
            }
            let before = self
                .written_histories
                .get(&uid)
                .cloned()
                .unwrap_or_default();
            self.state.histories.insert(uid.clone(), history.clone());
            let lasting = history.is_weightier_than(&before);
            let (paths, owner) = (self.context.facts.paths.clone(), uid.clone());
            let written = history.clone();
            let write = move || folder::write_history(&paths, &owner, &written, lasting);
            match self.own_files(blocking(write)).await {
                Ok(()) => {
                    self.complaints.should_log(HISTORY, None);
                    self.written_histories.insert(uid, history);
                }
                Err(error) => {
                    if self
                        .complaints
                        .should_log(HISTORY, Some(&error.to_string()))
                    {
                        warn!(pod = %self.key, %error, "Failed to write the Pod's history");
                    }
                }
            }
        }
    }

    /// A version's history as things stand.
    fn history_now(&mut self, uid: &str) -> History {
        let mut history = self.state.histories.get(uid).cloned().unwrap_or_default();
        let Some(version) = self.state.versions.get(uid).cloned() else {
            return history;
        };
        history.update(&self.observed, uid);
        let ended = history.finished.is_none()
            && !self.observed.has_none_of(uid)
            && has_ended(self.view(), &version);
        let status = status::status(self.view(), &self.context.facts, &version);
        if ended {
            history.finished = Some(Finished {
                phase: status::end_phase(&version, &status).to_owned(),
                since: self.context.clock.wall_now(),
                ..Finished::default()
            });
        }
        let sandbox = self.observed.ready_sandbox(uid);
        if let Some(sandbox) = sandbox.filter(|s| !s.ips.is_empty()) {
            history.ips.clone_from(&sandbox.ips);
        }
        let now = self.context.clock.wall_now();
        history.was_good |= history.was_ready_for(rollback::SETTLED, now);
        history.conditions = status::kept_conditions(&status);
        let (ready, started) = status::ready_and_started(&status);
        history.ready = ready.into_iter().collect();
        history.started = started.into_iter().collect();
        history
    }
}
