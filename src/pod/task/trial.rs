//! The trial of an update: it has to become Ready in time, or the version before it runs again.

use tracing::warn;

use super::PodTask;
use crate::host::blocking::blocking;
use crate::manifest::{StaticPod, Uid};
use crate::pod::events::EventKind;
use crate::pod::plan::{kept_version, waiting};
use crate::pod::rollback;
use crate::pod::rollback::Rollback;
use crate::pod::state::record::Record;
use crate::pod::state::time::{MonotonicTime, Timestamp};
use crate::pod::status::status;

impl PodTask {
    /// Begins the trial of a version that is about to take over, whether or not anything of the old one
    /// still runs.
    pub(super) async fn begin_trials(&mut self) {
        let Some(new) = self.wanted.as_ref().map(|w| w.pod.unpack()) else {
            return;
        };
        if !self.observed.has_none_of(&new.uid) || kept_version(self.view()).is_some() {
            return;
        }
        let others = self.state.pods().map(|pod| &pod.uid);
        let others = others.filter(|uid| **uid != new.uid);
        let there = |uid: &&Uid| self.state.is_on_disk(uid) || !self.observed.has_none_of(uid);
        for old in others.filter(there).cloned().collect::<Vec<_>>() {
            self.begin_trial(&old, &new).await;
        }
    }

    /// Records what to go back to, where a version that was good gives way to one that is rolled back unless
    /// it becomes good in time.
    pub(super) async fn begin_trial(&mut self, old: &Uid, new: &StaticPod) {
        let was_good = self.state.history(old).is_some_and(|h| h.was_good);
        let status = self
            .version(old)
            .map(|v| status(self.view(), &self.context.facts, &v));
        let was_good = was_good || status.is_some_and(|status| rollback::is_good(&status));
        let asked = rollback::limit(new, self.context.rollback_after).is_some();
        let stands_in = |r: &Rollback| r.failed.is_some() && r.uid == *old;
        let begun = |r: &Rollback| r.is_trial(&new.uid);
        let settled = self.rollback.as_ref();
        let settled = settled.is_some_and(|r| stands_in(r) || begun(r));
        if !was_good || !asked || settled {
            return;
        }
        if let Some(good) = self.state.record(old) {
            let trial = Rollback {
                good: Record::clone(good),
                uid: new.uid.clone(),
                since: None,
                ready_since: None,
                failed: None,
            };
            self.save_rollback(Some(trial)).await;
        }
    }

    /// Judges the version that is on trial, if one is: one that is Ready in a list made after its time has
    /// passed, one that was not in time is rolled back. Returns the time of the next judgement.
    pub(super) async fn judge_trial(&mut self) -> Option<MonotonicTime> {
        let mut trial = self.rollback.clone()?;
        let version = self.wanted.as_ref()?.pod.unpack();
        let status = status(self.view(), &self.context.facts, &version);
        if !trial.is_trial(&version.uid) {
            // Neither the update nor what stands in for it: the manifest changed once more.
            let stands_in = trial.failed.is_some() && trial.good.version()? == version;
            if !stands_in && self.observed.has_none_of(&trial.uid) && rollback::is_good(&status) {
                self.save_rollback(None).await;
            }
            return None;
        }
        let limit = rollback::limit(&version, self.context.rollback_after)?;
        if trial.since.is_none() && self.observed.has_none_of(&version.uid) {
            return None;
        }
        let clock = self.context.clock;
        let now = Timestamp::now(&clock);
        let since = trial.since.unwrap_or(now).fixed(&clock);
        let good = rollback::is_good(&status);
        let ready = trial.ready_since.filter(|_| good).or(good.then_some(now));
        let ready = ready.map(|ready| ready.fixed(&clock));
        (trial.since, trial.ready_since) = (Some(since), ready);
        let (from, wait) = match ready {
            Some(ready) => (ready, rollback::settled(limit)),
            None => (since, limit),
        };
        let due = from.monotonic(&clock).after(wait);
        if due > clock.now() {
            self.save_rollback(Some(trial)).await;
            return Some(due);
        }
        if good {
            if self.listed_at < due {
                // Its end meanwhile may not be known yet.
                self.stale = true;
                return Some(clock.now());
            }
            self.save_rollback(None).await;
            return None;
        }
        let mut complaints = vec![rollback::complaint(&status)];
        complaints.extend(waiting::all_blocked(self.view(), &version));
        let complaints = complaints.join("; ");
        let (uid, seconds) = (version.uid.clone(), limit.as_secs());
        warn!(pod = %self.key, uid = uid.as_str(), said = complaints, "Update was not Ready within {seconds} s, rolling back");
        let message = format!("not Ready within {seconds} s: {complaints}");
        self.event(&uid, None, EventKind::Warning, "RolledBack", &message);
        trial.failed = Some(message);
        self.save_rollback(Some(trial)).await;
        self.set_wanted(self.asked.clone());
        None
    }

    /// Keeps what is known of an update, in memory and on disk.
    pub(super) async fn save_rollback(&mut self, rollback: Option<Rollback>) {
        if self.rollback == rollback {
            return;
        }
        self.rollback = rollback;
        let (paths, key) = (self.context.facts.paths.clone(), self.key.clone());
        let kept = self.rollback.clone();
        let write = move || rollback::write(&paths, &key, kept.as_ref());
        let written = self.own_files(blocking(write)).await;
        if let Some(error) = self.complaints.record("update", &written) {
            warn!(pod = %self.key, error, "Failed to write what is known of the update");
        }
    }
}
