//! Pausing and resuming the Pod on request.

use futures_util::FutureExt;
use tracing::{info, warn};

use super::background::JobOutcome;
use super::requests::PauseReply;
use super::{PauseRequest, PodTask, RequestRefused};
use crate::host::blocking::blocking;
use crate::pod::events::EventKind;
use crate::pod::pause::{self, Pause};
use crate::pod::report::PodSnapshot;
use crate::pod::state::observed::Observed;

impl PodTask {
    /// Begins to pause or resume the Pod. It stands on disk before anything is done.
    pub(super) fn begin_pause(&mut self, request: PauseRequest) {
        let PauseRequest { pause, reply } = request;
        if let Err(refused) = self.check_pause(pause) {
            // Who asked may have gone.
            let _ = reply.send(Err(refused));
            return;
        }
        if pause == self.pause.is_some() {
            let _ = reply.send(Ok(false));
            return;
        }
        let pause = pause.then(|| Pause {
            pod: self.key.clone(),
            since: self.context.clock.wall_now(),
        });
        self.is_pausing = true;
        let (paths, key, kept) = (
            self.context.facts.paths.clone(),
            self.key.clone(),
            pause.clone(),
        );
        let write = blocking(move || pause::write(&paths, &key, kept.as_ref()));
        let job = write.map(move |written| JobOutcome::Pause {
            pause,
            written,
            reply,
        });
        self.jobs.push(job.boxed());
    }

    fn check_pause(&self, pause: bool) -> Result<(), RequestRefused> {
        let why = match &self.asked {
            None => "it is being stopped",
            Some(_) if self.state.shutdown.is_some() => "the machine shuts down",
            Some(_) if self.is_pausing => "another pause or resume is in progress",
            Some(_) => return Ok(()),
        };
        let what = if pause { "paused" } else { "resumed" };
        let message = format!("Pod {} cannot be {what}: {why}", self.key);
        Err(RequestRefused(message))
    }

    /// Carries out what stands on disk: a paused Pod is not wanted any more, a resumed one is again.
    pub(super) fn pause_written(
        &mut self,
        pause: Option<Pause>,
        written: std::io::Result<()>,
        reply: PauseReply,
    ) {
        self.is_pausing = false;
        if let Err(error) = written {
            warn!(pod = %self.key, %error, "Failed to write that the Pod is paused or resumed");
            let message = format!(
                "Failed to write the record of the pause of Pod {}: {error}",
                self.key
            );
            let _ = reply.send(Err(RequestRefused(message)));
            return;
        }
        self.pause = pause;
        let (reason, message) = match &self.pause {
            Some(_) => (
                "Paused",
                "Pod is stopped, and not started before it is resumed",
            ),
            None => ("Resumed", "Pod is started again, it was paused"),
        };
        info!(pod = %self.key, "{reason} Pod on request");
        if let Some(asked) = &self.asked {
            self.event(&asked.pod.uid, None, EventKind::Normal, reason, message);
        }
        self.begin_trial_again();
        self.set_wanted(self.asked.clone());
        self.publish();
        let _ = reply.send(Ok(true));
    }

    /// Has an update's trial begin again: while a Pod is stopped on request it cannot become ready.
    pub(super) fn begin_trial_again(&mut self) {
        if let Some(trial) = self.rollback.as_mut().filter(|r| r.failed.is_none()) {
            (trial.since, trial.ready_since) = (None, None);
        }
    }

    /// Returns the snapshot of a paused Pod once nothing is left of it.
    pub(super) fn paused_snapshot(&self) -> Option<PodSnapshot> {
        let (pause, asked) = self.pause.as_ref().zip(self.asked.as_ref())?;
        let is_gone =
            self.observed == Observed::default() && self.state.uids_on_disk().next().is_none();
        is_gone.then(|| pause::snapshot(&self.context.facts, pause, asked))
    }

    /// Forgets the pause of a Pod that is over.
    pub(super) async fn end_pause(&mut self) {
        if self.pause.take().is_none() || !self.forgets_pause {
            return;
        }
        let (paths, key) = (self.context.facts.paths.clone(), self.key.clone());
        let removed = self.own_files(blocking(move || pause::write(&paths, &key, None)));
        if let Err(error) = removed.await {
            warn!(pod = %self.key, %error, "Failed to remove the record of the Pod's pause");
        }
    }
}
