//! The state of one Pod beyond what the runtime has: images, failures, what probes report, and
//! which versions are terminating. Losing it with the agent costs time, never correctness; what must not
//! be lost, that a version is terminating and its history, also stands on disk.
//!
//! Data alone: no rule stands here, and nothing here waits or does I/O.

mod failure;
pub mod history;
pub mod observed;
pub mod order;
mod phase;
pub mod progress;
pub mod record;
mod shutdown_stop;
pub mod time;
mod version;

pub(in crate::pod) use failure::same_but_for_ids;
pub use failure::{Failure, Subject};
pub use phase::Phase;
pub use shutdown_stop::ShutdownStop;
pub use version::{Admission, FirstSeen, Image, Takeover, Terminating, Termination, Version};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;

use self::history::{FailedInstance, Finished, History};
use self::observed::{Container, ContainerId, Observed, SandboxId};
use self::order::StartOrder;
use self::progress::Progress;
use self::record::Record;
use self::time::{MonotonicTime, Wall};
use crate::manifest::{PackedPod, StaticPod, Uid};
use crate::pod::admission::Rejection;
use crate::pod::backoff;
use crate::probe::Health;

/// All that the planner reads.
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

/// The state of a Pod's task beyond what the runtime has.
#[derive(Debug, Clone, Default)]
pub struct PodState {
    /// Versions of this Pod, by UID; each has a part that is not empty. Boxed, for a map has room for four.
    versions: LiteMap<Uid, Box<Version>>,
    /// Jobs under way beside the task's steps, and since when.
    pub under_way: BTreeMap<Subject, MonotonicTime>,
    /// Sandboxes whose network and processes the runtime was asked to give back.
    pub stopped_sandboxes: BTreeSet<SandboxId>,
    /// Failures since the last success in the same matter.
    pub failures: BTreeMap<Subject, Failure>,
    /// Last time that a sandbox or a container was started for each of these, by the agent's own clock.
    pub last_starts: LiteMap<Subject, MonotonicTime>,
    /// Lowest attempt whose name the runtime does not hold for something that it does not have.
    pub free_attempts: LiteMap<Subject, u32>,
    /// True if a kubelet left a Pod of this name, which is to end before one of ours starts.
    pub kubelet_pod: bool,
    /// The machine's time.
    pub wall: Wall,
    /// Health by probes, by container id.
    pub probes: LiteMap<ContainerId, Health>,
    /// Hooks after the start of containers that are not done or failed, by container id.
    pub post_starts: BTreeMap<ContainerId, PostStart>,
    /// The steps that are under way, for people.
    pub progress: Progress,
    /// The order of the Pod's first start.
    pub order: StartOrder,
    /// The Pod's stop, once it is its turn before the machine shuts down. It ends with the agent.
    pub shutdown: Option<ShutdownStop>,
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

impl PodState {
    /// Returns the health of a container by its probes; one without probes is healthy.
    #[must_use]
    pub fn health(&self, id: &ContainerId) -> Health {
        self.probes.get(id).cloned().unwrap_or(Health {
            started: true,
            ready: true,
            failed: None,
        })
    }

    /// Returns the end of a version for good, if it has ended.
    #[must_use]
    pub fn finished(&self, uid: &Uid) -> Option<&Finished> {
        self.history(uid)?.finished.as_ref()
    }

    /// The stop of a container that does not work, if it was begun.
    #[must_use]
    pub fn failed_instance(&self, container: &Container) -> Option<&FailedInstance> {
        let history = self.history(&container.uid)?;
        history.failed_instances.get(&container.id)
    }

    /// Returns true if the restart of an instance was requested, and is not done.
    #[must_use]
    pub fn is_restart_requested(&self, container: &Container) -> bool {
        let history = self.history(&container.uid);
        history.is_some_and(|history| history.restarts.contains(&container.id))
    }

    /// Returns true if an instance of a container is to be replaced, whatever it ended with, since all of the Pod
    /// restarts.
    #[must_use]
    pub fn is_replaced(&self, container: &Container) -> bool {
        let history = self.history(&container.uid);
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

    /// Records one more failure in this matter. Returns true if it is a new one: the first, or one with another
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
        let is_new = before.is_none_or(|f| !same_but_for_ids(&f.message, &message));
        let tries = before.map_or(0, |f| f.tries).saturating_add(1);
        let longest = match subject {
            Subject::KubeletPod | Subject::Sandbox(_) | Subject::Volumes(_) => {
                backoff::SANDBOX_MAXIMUM
            }
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
        is_new
    }

    /// Returns true if what a version left is being cleaned up right now.
    #[must_use]
    pub fn is_being_cleaned_up(&self, uid: &Uid) -> bool {
        let subject = Subject::CleanUp(uid.clone());
        self.under_way.contains_key(&subject)
    }

    /// Records the end of a container's postStart hook. `uid` is that of its version; `None` where the
    /// container is gone.
    pub fn post_start_ended(
        &mut self,
        uid: Option<&Uid>,
        id: &ContainerId,
        result: Result<(), String>,
    ) {
        match (uid, result) {
            (Some(_), Err(message)) => {
                self.post_starts
                    .insert(id.clone(), PostStart::Failed(message));
            }
            (Some(uid), Ok(())) => {
                self.post_starts.remove(id);
                self.update_version(uid, |version| version.history_mut().post_starts.remove(id));
            }
            (None, _) => {
                self.post_starts.remove(id);
            }
        }
    }

    /// Returns the state of a version, if anything is known of it.
    #[must_use]
    pub fn version(&self, uid: &Uid) -> Option<&Version> {
        self.versions.get(uid).map(|version| &**version)
    }

    /// Returns the state of a version to set a part of it, an empty one if nothing is known of it yet.
    pub fn version_mut(&mut self, uid: &Uid) -> &mut Version {
        self.versions.entry(uid.clone()).or_default()
    }

    /// Changes the state of a version, if anything is known of it. One of which nothing is left is forgotten.
    pub fn update_version<T>(
        &mut self,
        uid: &Uid,
        change: impl FnOnce(&mut Version) -> T,
    ) -> Option<T> {
        let changed = change(self.versions.get_mut(uid)?);
        self.versions.retain(|_, version| !version.is_empty());
        Some(changed)
    }

    /// Changes the states of all versions. Those of which nothing is left are forgotten.
    pub fn update_versions(&mut self, mut change: impl FnMut(&Uid, &mut Version)) {
        for (uid, version) in &mut self.versions {
            change(uid, version);
        }
        self.versions.retain(|_, version| !version.is_empty());
    }

    /// The versions of this Pod that can be carried on, by UID.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<StaticPod>> {
        self.versions
            .values()
            .filter_map(|version| version.pod.as_ref())
            .map(PackedPod::get)
    }

    /// Returns the Pod of a version, if that can be carried on.
    #[must_use]
    pub fn pod(&self, uid: &Uid) -> Option<&Arc<StaticPod>> {
        self.packed(uid).map(PackedPod::get)
    }

    /// Returns the same in little memory.
    #[must_use]
    pub fn packed(&self, uid: &Uid) -> Option<&PackedPod> {
        self.version(uid)?.pod.as_ref()
    }

    /// Keeps the versions in little memory until they are used again.
    pub fn rest(&mut self) {
        for (_, version) in &mut self.versions {
            version.pod.iter_mut().for_each(PackedPod::rest);
        }
    }

    /// The UIDs that have something on this node outside the runtime.
    pub fn uids_on_disk(&self) -> impl Iterator<Item = &Uid> {
        self.uids(|version| version.on_disk)
    }

    /// Returns true if a version has something on this node outside the runtime.
    #[must_use]
    pub fn is_on_disk(&self, uid: &Uid) -> bool {
        self.version(uid).is_some_and(|version| version.on_disk)
    }

    /// The UIDs that are terminating.
    pub fn uids_terminating(&self) -> impl Iterator<Item = &Uid> {
        self.uids(|version| version.termination.is_some())
    }

    /// Returns true if a version is terminating.
    #[must_use]
    pub fn is_terminating(&self, uid: &Uid) -> bool {
        let version = self.version(uid);
        version.is_some_and(|version| version.termination.is_some())
    }

    fn uids(&self, test: impl Fn(&Version) -> bool) -> impl Iterator<Item = &Uid> {
        let versions = self.versions.iter();
        let versions = versions.filter(move |(_, version)| test(version));
        versions.map(|(uid, _)| uid)
    }

    /// Returns true if a version is stopped since the machine shuts down. One that was over before is not.
    #[must_use]
    pub fn is_shut_down(&self, uid: &Uid) -> bool {
        let stop = self.shutdown.as_ref();
        stop.is_some_and(|stop| !stop.finished_before.contains(uid))
    }

    /// Returns the record of a version, if it has one.
    #[must_use]
    pub fn record(&self, uid: &Uid) -> Option<&Arc<Record>> {
        self.version(uid)?.record.as_ref()
    }

    /// Returns the first time that a version was seen, if that is known.
    #[must_use]
    pub fn first_seen(&self, uid: &Uid) -> Option<FirstSeen> {
        self.version(uid)?.seen
    }

    /// Returns true if any version may run on this node.
    #[must_use]
    pub fn has_admitted(&self) -> bool {
        let mut versions = self.versions.values();
        versions.any(|version| version.admission == Admission::Admitted)
    }

    /// Returns true if a version may run on this node.
    #[must_use]
    pub fn is_admitted(&self, uid: &Uid) -> bool {
        let version = self.version(uid);
        version.is_some_and(|version| version.admission == Admission::Admitted)
    }

    /// Returns the reason for which a version may not run on this node, as things stand.
    #[must_use]
    pub fn rejection(&self, uid: &Uid) -> Option<&Rejection> {
        match &self.version(uid)?.admission {
            Admission::Rejected(rejection) => Some(rejection),
            Admission::Undecided { .. } | Admission::Admitted => None,
        }
    }

    /// Returns true if any version may not run on this node.
    #[must_use]
    pub fn has_rejected(&self) -> bool {
        let mut versions = self.versions.values();
        versions.any(|version| matches!(version.admission, Admission::Rejected(_)))
    }

    /// Returns the state of an image of a version, if it was asked for.
    #[must_use]
    pub fn image(&self, uid: &Uid, holder: &str) -> Option<&Image> {
        self.version(uid)?.images.get(holder)
    }

    /// Returns the preparation of a version to take over from another one.
    #[must_use]
    pub fn takeover(&self, uid: &Uid) -> Takeover {
        let version = self.version(uid);
        version.map_or_else(Takeover::default, |version| version.takeover)
    }

    /// Returns the history of a version.
    #[must_use]
    pub fn history(&self, uid: &Uid) -> Option<&History> {
        self.version(uid).map(|version| &*version.history)
    }

    /// Forgets a version of which nothing is left anywhere.
    pub fn forget_version(&mut self, uid: &Uid) {
        self.versions.remove(uid);
        self.failures
            .retain(|subject, _| subject.uid() != Some(uid));
        self.last_starts
            .retain(|subject, _| subject.uid() != Some(uid));
        self.free_attempts
            .retain(|subject, _| subject.uid() != Some(uid));
    }
}
