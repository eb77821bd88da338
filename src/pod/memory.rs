//! What the Pod's task knows that the runtime does not say: images at hand, failures, what probes say,
//! and which versions are on their way out. Losing it with the agent costs time, never correctness; what
//! must not be lost, that a version is on its way out and its history, also stands on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::admission::Rejection;
use super::backoff;
use super::folder::Terminating;
use super::history::{Finished, GivenUp, History};
use super::moment::{Moment, Wall};
use super::observed::Container;
use super::progress::Progress;
use crate::cri::capabilities::name_holder;
use crate::manifest::StaticPod;
use crate::probe::Health;
use crate::translate::ImageUser;

/// The task's memory.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Versions of this Pod that can be carried on, by UID.
    pub versions: BTreeMap<String, Arc<StaticPod>>,
    /// UIDs that have something on this node outside the runtime: folders, logs, cgroups.
    pub traces: BTreeSet<String>,
    /// UIDs on their way out; they end before anything else comes in their place.
    pub terminating: BTreeSet<String>,
    /// When and with what grace period the end of those began that the agent has begun to stop.
    pub ends: BTreeMap<String, Terminating>,
    /// UIDs whose host paths were found in order before they take over.
    pub checked: BTreeSet<String>,
    /// UIDs that have their turn among the node's updates: they may take over.
    pub turns: BTreeSet<String>,
    /// UIDs that take the place of a version that was stopped for them: their start is a restart.
    pub successors: BTreeSet<String>,
    /// What is under way beside the task's steps, and since when.
    pub under_way: BTreeMap<Subject, Moment>,
    /// Sandboxes whose network and processes the runtime was told to give back.
    pub stopped_sandboxes: BTreeSet<String>,
    /// Images, by UID and container name.
    pub images: BTreeMap<(String, String), Image>,
    /// UIDs that may run here.
    pub admitted: BTreeSet<String>,
    /// Why the others may not, as things stand.
    pub rejections: BTreeMap<String, Rejection>,
    /// The last such reasons that were told.
    pub rejected_before: BTreeMap<String, Rejection>,
    /// What failed and has not succeeded since.
    pub failures: BTreeMap<Subject, Failure>,
    /// Last time that a sandbox or a container was started for each of these, by the agent's own clock.
    pub made: BTreeMap<Subject, Moment>,
    /// Lowest attempt whose name the runtime does not hold for something that it does not have.
    pub free_attempts: BTreeMap<Subject, u32>,
    /// What is kept of each version beyond what the runtime has, by UID.
    pub histories: BTreeMap<String, History>,
    /// When each version was first seen, in nanoseconds since the epoch, and as a moment.
    pub seen: BTreeMap<String, (i64, Moment)>,
    /// The machine's time.
    pub wall: Wall,
    /// What the probes say, by container id.
    pub probes: BTreeMap<String, Health>,
    /// Hooks after the start of containers that are not done or failed, by container id.
    pub post_starts: BTreeMap<String, PostStart>,
    /// The steps that are under way, for people.
    pub progress: Progress,
}

/// A hook after the start of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostStart {
    /// It runs; what comes after the container waits.
    Running,
    /// It ran when an earlier agent ended, and is to run again.
    Interrupted,
    /// It failed, with its message; the container is to be stopped.
    Failed(String),
}

/// Whether a container's image is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The runtime is being asked for it, after this failure if there was one.
    Checking(Option<Box<Image>>),
    /// Being pulled.
    Pulling {
        /// The wait that came before; zero the first time.
        after: Duration,
        /// Why the last pull failed; empty the first time.
        error: String,
    },
    /// At hand for the next start.
    Ready {
        /// What to make the container from: the image's id.
        reference: String,
        /// The user the image wants to run as.
        user: ImageUser,
        /// Whether it was pulled for this start, and that was told.
        pulled: bool,
    },
    /// It could not be had.
    Failed {
        /// Kubernetes' word for it: `ErrImagePull`, `InvalidImageName`, …
        reason: &'static str,
        /// Why.
        message: String,
        /// When it is tried again.
        retry: Moment,
        /// The wait until then, in full.
        delay: Duration,
    },
}

/// What a failure is about. A success in the same matter ends it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Making a sandbox for this UID.
    Sandbox(String),
    /// The host paths of this UID.
    Volumes(String),
    /// Making or starting a container: UID and name.
    Container(String, String),
    /// Stopping or removing a container or sandbox, by id.
    Removal(String),
    /// Stopping the containers of this UID.
    Stop(String),
    /// Clearing away what this UID left on the node.
    Traces(String),
    /// The turn of this UID among the node's updates.
    Turn(String),
}

/// A failure, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kubernetes' word for it, `CreateContainerError` and the like.
    pub reason: &'static str,
    /// What went wrong.
    pub message: String,
    /// Failures in a row.
    pub tries: u32,
    /// Time of the first of these failures.
    pub since: Moment,
    /// When to try again.
    pub retry: Moment,
}

impl Memory {
    /// What the probes say of a container; one that nothing is said of is as good as it can be.
    #[must_use]
    pub fn health(&self, id: &str) -> Health {
        self.probes.get(id).cloned().unwrap_or(Health {
            started: true,
            ready: true,
            failed: None,
        })
    }

    /// How a version ended for good, if it did.
    #[must_use]
    pub fn finished(&self, uid: &str) -> Option<&Finished> {
        self.histories.get(uid)?.finished.as_ref()
    }

    /// The stop of a container that does not work, if it was begun.
    #[must_use]
    pub fn given_up(&self, container: &Container) -> Option<&GivenUp> {
        let history = self.histories.get(&container.uid)?;
        history.given_up.get(&container.id)
    }

    /// Whether an instance of a container is to be replaced, whatever it ended with, since all of the Pod
    /// starts anew.
    #[must_use]
    pub fn is_replaced(&self, container: &Container) -> bool {
        let history = self.histories.get(&container.uid);
        history.is_some_and(|history| history.is_replaced(container))
    }

    /// Returns the last start in this matter, or `reported` by the runtime if that is later.
    #[must_use]
    pub fn last_made(&self, subject: &Subject, reported: Moment) -> Moment {
        self.made
            .get(subject)
            .map_or(reported, |made| reported.max(*made))
    }

    /// Returns the attempt that the next sandbox or container in this matter has, `next` or a later one.
    #[must_use]
    pub fn free_attempt(&self, subject: &Subject, next: u32) -> u32 {
        self.free_attempts
            .get(subject)
            .map_or(next, |free| next.max(*free))
    }

    /// One more failure in this matter. Tells whether it is news: the first, or one with another
    /// message.
    pub fn failed(
        &mut self,
        subject: Subject,
        reason: &'static str,
        message: String,
        now: Moment,
    ) -> bool {
        let before = self.failures.get(&subject);
        // A name is in use because of what failed before: that is the cause to show.
        let cause = before.filter(|_| name_holder(&message).is_some());
        let (reason, message) = cause.map_or((reason, message), |f| (f.reason, f.message.clone()));
        let news = before.is_none_or(|f| f.message != message);
        let tries = before.map_or(0, |f| f.tries).saturating_add(1);
        let longest = match subject {
            Subject::Sandbox(_) | Subject::Volumes(_) => backoff::SANDBOX_MAXIMUM,
            _ => backoff::STEP_MAXIMUM,
        };
        let retry = now.after(backoff::step_delay(tries, longest));
        let since = before.map_or(now, |f| f.since);
        let failure = Failure {
            reason,
            message,
            tries,
            since,
            retry,
        };
        self.failures.insert(subject, failure);
        news
    }

    /// Whether what a version left is being cleared away right now.
    #[must_use]
    pub fn is_being_cleared(&self, uid: &str) -> bool {
        let subject = Subject::Traces(uid.to_owned());
        self.under_way.contains_key(&subject)
    }

    /// Nothing of this UID is left anywhere.
    pub fn forget_version(&mut self, uid: &str) {
        self.versions.remove(uid);
        self.traces.remove(uid);
        self.terminating.remove(uid);
        self.ends.remove(uid);
        self.checked.remove(uid);
        self.turns.remove(uid);
        self.successors.remove(uid);
        self.admitted.remove(uid);
        self.rejections.remove(uid);
        self.rejected_before.remove(uid);
        self.histories.remove(uid);
        self.seen.remove(uid);
        self.images.retain(|(owner, _), _| owner != uid);
        self.failures
            .retain(|subject, _| subject.uid() != Some(uid));
        self.made.retain(|subject, _| subject.uid() != Some(uid));
        self.free_attempts
            .retain(|subject, _| subject.uid() != Some(uid));
    }
}

impl Subject {
    /// The version that it is about, if it is about one as a whole or a container of it.
    pub(super) fn uid(&self) -> Option<&str> {
        match self {
            Self::Sandbox(uid)
            | Self::Volumes(uid)
            | Self::Container(uid, _)
            | Self::Stop(uid)
            | Self::Traces(uid)
            | Self::Turn(uid) => Some(uid),
            Self::Removal(_) => None,
        }
    }
}
