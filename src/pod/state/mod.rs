//! The state of one Pod beyond what the runtime has: images at hand, failures, what probes report, and
//! which versions are terminating. Losing it with the agent costs time, never correctness; what must not
//! be lost, that a version is terminating and its history, also stands on disk.
//!
//! Data alone: no rule stands here, and nothing here waits or does I/O.

mod failure;
pub mod history;
pub mod observed;
pub mod progress;
pub mod time;

pub use failure::{Failure, Subject};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::history::{FailedInstance, Finished, History};
use self::observed::{Container, Observed};
use self::progress::Progress;
use self::time::{MonotonicTime, Timestamp, Wall};
use crate::manifest::StaticPod;
use crate::pod::admission::Rejection;
use crate::pod::backoff;
use crate::probe::Health;
use crate::translate::ImageUser;
use serde::{Deserialize, Serialize};

/// All that the planner looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The version that the manifests want, if any.
    pub wanted: Option<&'a Arc<StaticPod>>,
    /// Sandboxes and containers of the runtime.
    pub observed: &'a Observed,
    /// State of the task beyond that.
    pub state: &'a PodState,
    /// The time.
    pub now: MonotonicTime,
    /// The longest wait before a container that keeps stopping is started again.
    pub longest_backoff: Duration,
}

/// The task's memory.
#[derive(Debug, Clone, Default)]
pub struct PodState {
    /// Versions of this Pod that can be carried on, by UID.
    pub versions: BTreeMap<String, Arc<StaticPod>>,
    /// UIDs that have something on this node outside the runtime: folders, logs, cgroups.
    pub on_disk: BTreeSet<String>,
    /// UIDs on their way out; they end before anything else comes in their place.
    pub terminating: BTreeSet<String>,
    /// Start and grace period of the ends that the agent has begun.
    pub ends: BTreeMap<String, Terminating>,
    /// UIDs whose host paths were found in order before they take over.
    pub checked: BTreeSet<String>,
    /// UIDs that have their turn among the node's updates: they may take over.
    pub turns: BTreeSet<String>,
    /// UIDs that take the place of a version that was stopped for them: their start is a restart.
    pub successors: BTreeSet<String>,
    /// Jobs under way beside the task's steps, and since when.
    pub under_way: BTreeMap<Subject, MonotonicTime>,
    /// Sandboxes whose network and processes the runtime was told to give back.
    pub stopped_sandboxes: BTreeSet<String>,
    /// Images, by UID and container name.
    pub images: BTreeMap<(String, String), Image>,
    /// UIDs that may run here.
    pub admitted: BTreeSet<String>,
    /// Rejections of the others, as things stand.
    pub rejections: BTreeMap<String, Rejection>,
    /// The last such reasons that were told.
    pub rejected_before: BTreeMap<String, Rejection>,
    /// Failures since the last success in the same matter.
    pub failures: BTreeMap<Subject, Failure>,
    /// Last time that a sandbox or a container was started for each of these, by the agent's own clock.
    pub last_starts: BTreeMap<Subject, MonotonicTime>,
    /// Lowest attempt whose name the runtime does not hold for something that it does not have.
    pub free_attempts: BTreeMap<Subject, u32>,
    /// History of each version, by UID.
    pub histories: BTreeMap<String, History>,
    /// First time that each version was seen, in nanoseconds since the epoch and as monotonic time.
    pub seen: BTreeMap<String, (i64, MonotonicTime)>,
    /// The machine's time.
    pub wall: Wall,
    /// Health by probes, by container id.
    pub probes: BTreeMap<String, Health>,
    /// Hooks after the start of containers that are not done or failed, by container id.
    pub post_starts: BTreeMap<String, PostStart>,
    /// The steps that are under way, for people.
    pub progress: Progress,
}

/// Start and grace period of a Pod's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminating {
    /// Time of its start.
    pub since: Timestamp,
    /// Seconds.
    pub grace_period: i64,
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

/// True if a container's image is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The runtime is being asked for it, after this failure if there was one.
    Checking(Option<Box<Image>>),
    /// Being pulled.
    Pulling {
        /// The wait that came before; zero the first time.
        after: Duration,
        /// Error of the last pull; empty the first time.
        error: String,
    },
    /// At hand for the next start.
    Ready {
        /// The image's id, from which the container is created.
        reference: String,
        /// The user the image wants to run as.
        user: ImageUser,
        /// True if it was pulled for this start, and that was told.
        pulled: bool,
    },
    /// It could not be had.
    Failed {
        /// Kubernetes' word for it: `ErrImagePull`, `InvalidImageName`, …
        reason: &'static str,
        /// Error message.
        message: String,
        /// Time of the next try.
        retry: MonotonicTime,
        /// The wait until then, in full.
        delay: Duration,
    },
}

impl PodState {
    /// Returns the health of a container by its probes; one without probes is healthy.
    #[must_use]
    pub fn health(&self, id: &str) -> Health {
        self.probes.get(id).cloned().unwrap_or(Health {
            started: true,
            ready: true,
            failed: None,
        })
    }

    /// Returns the end of a version for good, if it has ended.
    #[must_use]
    pub fn finished(&self, uid: &str) -> Option<&Finished> {
        self.histories.get(uid)?.finished.as_ref()
    }

    /// The stop of a container that does not work, if it was begun.
    #[must_use]
    pub fn failed_instance(&self, container: &Container) -> Option<&FailedInstance> {
        let history = self.histories.get(&container.uid)?;
        history.failed_instances.get(&container.id)
    }

    /// Returns true if an instance of a container is to be replaced, whatever it ended with, since all of the Pod
    /// starts anew.
    #[must_use]
    pub fn is_replaced(&self, container: &Container) -> bool {
        let history = self.histories.get(&container.uid);
        history.is_some_and(|history| history.is_replaced(container))
    }

    /// Returns the last start in this matter, or `reported` by the runtime if that is later.
    #[must_use]
    pub fn last_start(&self, subject: &Subject, reported: MonotonicTime) -> MonotonicTime {
        self.last_starts
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
    pub fn record_failure(
        &mut self,
        subject: Subject,
        reason: &'static str,
        message: String,
        now: MonotonicTime,
    ) -> bool {
        let before = self.failures.get(&subject);
        // A name is in use because of what failed before: that is the cause to show.
        let cause = before.filter(|_| crate::cri::capabilities::name_holder(&message).is_some());
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

    /// Returns true if what a version left is being cleared away right now.
    #[must_use]
    pub fn is_being_cleaned_up(&self, uid: &str) -> bool {
        let subject = Subject::CleanUp(uid.to_owned());
        self.under_way.contains_key(&subject)
    }

    /// Nothing of this UID is left anywhere.
    pub fn forget_version(&mut self, uid: &str) {
        self.versions.remove(uid);
        self.on_disk.remove(uid);
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
        self.last_starts
            .retain(|subject, _| subject.uid() != Some(uid));
        self.free_attempts
            .retain(|subject, _| subject.uid() != Some(uid));
    }
}
