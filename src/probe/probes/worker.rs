//! The task of one probe.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Age, ProbeEvent, ProbeReport, ProbeSubject, Reporter, Run};
use crate::probe::schedule::ProbeSchedule;
use crate::probe::state::{ProbeKind, ProbeResult, ProbeState};
use crate::probe::{ProbeCounter, ProbeOutcome};

/// Context of one probe's task.
pub(super) struct Worker {
    pub(super) kind: ProbeKind,
    pub(super) counter: Arc<ProbeCounter>,
    pub(super) subject: Arc<ProbeSubject>,
    pub(super) state: ProbeState,
    pub(super) schedule: ProbeSchedule,
    pub(super) age: Age,
    pub(super) run: Run,
    pub(super) reports: Reporter,
}

impl Worker {
    /// Probes until there is nothing more to find out.
    pub(super) async fn work(mut self, came_up: bool) {
        let mut round = self.schedule.first(self.age.now(), came_up);
        while !self.state.is_over() {
            tokio::time::sleep(round.saturating_sub(self.age.now())).await;
            let began = Instant::now();
            let outcome = (self.run)(Arc::clone(&self.subject)).await;
            self.counter.record(&outcome, began.elapsed());
            self.take(round, outcome).await;
            // A round whose time went by meanwhile is made up for, once.
            round = self.schedule.after(round).max(self.age.now());
        }
    }

    async fn take(&mut self, round: Duration, outcome: ProbeOutcome) {
        let is_success = matches!(outcome, ProbeOutcome::Success | ProbeOutcome::Warning(_));
        if !is_success && !self.schedule.counts(round, ProbeResult::Failure) {
            return;
        }
        let result = self.state.take(&outcome);
        let is_reported = result.is_some();
        if !is_reported && event(self.kind, &outcome).is_none() {
            return;
        }
        let report = Box::new(ProbeReport {
            container_id: self.subject.target.container_id.clone(),
            kind: self.kind,
            result,
            outcome,
        });
        if is_reported {
            // The owner is there as long as this task is.
            let _ = self.reports.send(report).await;
        } else {
            // An owner that is behind can do without one more event of the same kind.
            let _ = self.reports.try_send(report);
        }
    }
}

/// Message of an outcome.
pub(super) fn words(outcome: &ProbeOutcome) -> &str {
    match outcome {
        ProbeOutcome::Success => "",
        ProbeOutcome::Warning(text) | ProbeOutcome::Failure(text) | ProbeOutcome::Error(text) => {
            text
        }
    }
}

/// Event for an outcome, in the reference agent's words.
pub(super) fn event(kind: ProbeKind, outcome: &ProbeOutcome) -> Option<ProbeEvent> {
    let (reason, message) = match outcome {
        ProbeOutcome::Success => return None,
        ProbeOutcome::Warning(output) => {
            ("ProbeWarning", format!("{kind} probe warning: {output}"))
        }
        ProbeOutcome::Failure(output) => ("Unhealthy", format!("{kind} probe failed: {output}")),
        ProbeOutcome::Error(error) => (
            "Unhealthy",
            format!("{kind} probe errored and resulted in unknown state: {error}"),
        ),
    };
    Some(ProbeEvent { reason, message })
}
