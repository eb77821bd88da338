//! Preparing a version: admission, its objects and volumes, and its turn among the node's updates.

use std::sync::Arc;

use futures_util::FutureExt;
use tracing::warn;

use super::background::{FILES, JobOutcome, file_subject};
use super::error::{StepError, node_failure, timed_out};
use super::{Context, PodTask, events};
use crate::host::blocking::pooled;
use crate::manifest::objects::User;
use crate::manifest::{StaticPod, Uid, objects};
use crate::pod::admission::Rejection;
use crate::pod::events::EventKind;
use crate::pod::folder;
use crate::pod::limiter::{Class, Order};
use crate::pod::plan::rules::is_finished;
use crate::pod::plan::waiting::MISSING_OBJECT;
use crate::pod::plan::{Outcome, Step};
use crate::pod::state::observed::Container;
use crate::pod::state::record::Record;
use crate::volume;

impl PodTask {
    pub(super) fn admit(&mut self, step: &Step, uid: &Uid) {
        let Some(version) = self.version(uid) else {
            return;
        };
        let Context {
            allocations, facts, ..
        } = &*self.context;
        match allocations.admit(facts, &version) {
            Ok(()) => {
                self.outcome(step, Outcome::Admission(Ok(())));
            }
            Err(rejection) => {
                let Rejection { reason, message } = &rejection;
                let known = self.state.version(uid);
                let before = known.and_then(|version| version.admission.last_rejection());
                if before != Some(&rejection) {
                    warn!(pod = %self.key, reason = reason.as_ref(), message, "Pod was rejected by this node");
                    self.event(uid, None, EventKind::Warning, reason, message);
                }
                self.outcome(step, Outcome::Admission(Err(rejection)));
            }
        }
    }

    /// Fails where a `ConfigMap` or `Secret` is missing, with an event for each volume or container that
    /// needs it.
    pub(super) fn check_objects(&self, version: &StaticPod) -> Result<(), StepError> {
        let mut failure = None;
        for missing in objects::missing(version) {
            let message = missing.event_message(&version.key.namespace);
            let (container, reason, message) = match &missing.user {
                User::Volume(volume) => {
                    let message = events::failed_mount(volume, &message);
                    (None, "FailedMount", message)
                }
                User::Container(name) => {
                    let message = format!("Error: {message}");
                    (Some(name.as_str()), "Failed", message)
                }
                User::Pulls => (None, "FailedToRetrieveImagePullSecret", message),
            };
            self.event(
                &version.uid,
                container,
                EventKind::Warning,
                reason,
                &message,
            );
            failure.get_or_insert(missing);
        }
        // The event has been recorded.
        failure.map_or(Ok(()), |missing| {
            Err(StepError::Node {
                reason: MISSING_OBJECT,
                message: missing.to_string(),
            })
        })
    }

    /// Waits for this version's turn among the node's updates, so that its old version is not stopped before
    /// the new one can start.
    pub(super) fn take_turn(&mut self, step: &Step, uid: &Uid) {
        let now = self.context.clock.now();
        self.outcome(step, Outcome::UnderWay(now));
        let limiter = self.context.limiter.clone();
        let shown = self.under_way(uid, None, "WaitForTurn");
        let uid = uid.clone();
        let job = async move {
            let _shown = shown;
            let permit = limiter.acquire(Class::Update, Order::New).await;
            JobOutcome::Turn { uid, permit }
        };
        self.jobs.push(job.boxed());
    }

    /// Records which version follows one that is being stopped, and gives the turn among the node's updates back
    /// once that version is up or not wanted any more.
    pub(super) fn follow_takeover(&mut self) {
        let wanted = self.wanted.as_ref().map(|w| w.pod.unpack());
        let uid = wanted.as_ref().map(|w| &w.uid);
        let is_other = |other: &Uid| uid.is_some_and(|uid| other != uid);
        let follows = self.state.uids_terminating().any(is_other);
        if let Some(uid) = uid.filter(|_| follows) {
            self.state.version_mut(uid).takeover.is_successor = true;
        }
        self.state.update_versions(|other, version| {
            version.takeover.has_turn &= Some(other) == uid;
        });
        let Some((turn, _)) = &self.turn else {
            return;
        };
        let there = |name: &str| !self.observed.history_of(turn, name).is_empty();
        let is_coming = wanted.is_some_and(|version| {
            let mut own = version.containers().iter();
            version.uid == *turn
                && !is_finished(self.view(), &version)
                && !own.all(|c| there(&c.name))
        });
        if !is_coming {
            self.turn = None;
        }
    }

    /// Gives back what a Pod that is over took of the node, once nothing of it runs any more: until then a
    /// sidecar may hold its port, and what it uses is not free.
    pub(super) fn give_back(&self) {
        let Some(wanted) = &self.wanted else {
            return;
        };
        let uid = &wanted.pod.uid;
        let runs = self.observed.containers_of(uid).any(Container::is_live)
            || self.observed.ready_sandbox(uid).is_some();
        if is_finished(self.view(), wanted.pod.get()) && !runs {
            self.context.allocations.release(&self.key, uid);
        }
    }
}

/// Checks that a version's volumes, and the room for its record, are there before the old version is stopped.
pub(super) async fn check_volumes(
    context: Arc<Context>,
    version: Arc<StaticPod>,
    record: Record,
) -> Result<(), StepError> {
    let subject = file_subject("volume check", &version);
    let check = move || {
        volume::check(&context.facts, &version)?;
        let room = folder::check_room(&context.facts.paths, &record);
        room.map_err(node_failure("FailedMount"))
    };
    let checked = pooled(subject, FILES, check).await;
    checked.map_err(timed_out("FailedMount"))??;
    Ok(())
}
