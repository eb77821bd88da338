//! State of one version of a Pod: all that the Pod's task has of it beyond what the runtime reports.
//!
//! There is one [`Version`] per UID in [`PodState`](super::PodState), and what one of its parts says no
//! other part can contradict: a version is admitted or rejected, and one whose containers are being stopped
//! is terminating. The parts that stand in the Pod's folder too name the file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::history::History;
use super::record::Record;
use super::time::{Clock, MonotonicTime, Timestamp};
use crate::manifest::PackedPod;
use crate::pod::admission::Rejection;
use crate::translate::ImageUser;

/// The state of one version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Version {
    /// The Pod as its manifest describes it, set once it is wanted or its record is read. A version
    /// without one cannot be carried on, only stopped and cleaned up.
    pub pod: Option<PackedPod>,
    /// True if it has something on this node outside the runtime: a folder, logs, cgroups. Set before the
    /// first of these is made.
    pub on_disk: bool,
    /// Its record (`pod.json`), set once its folder has been prepared or read.
    pub record: Option<Arc<Record>>,
    /// First time that it was seen, set once it is wanted, its record is read, or it starts again.
    pub seen: Option<FirstSeen>,
    /// Decision of admission.
    pub admission: Admission,
    /// Its images, by holder: a container's name, or a volume's as
    /// [`volume_holder`](crate::pod::plan::volume_holder) writes it. A start of a container uses up its own.
    pub images: BTreeMap<String, Image>,
    /// Preparation to take over from another version.
    pub takeover: Takeover,
    /// Its history, as it is now.
    pub history: Arc<History>,
    /// Its history as it was last written (`history.json`), mostly the same; `None` before the first time.
    pub written_history: Option<Arc<History>>,
    /// Its termination; `None` while it is to run. It ends before anything else comes in its place.
    pub termination: Option<Termination>,
}

/// First time that a version was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstSeen {
    /// By the machine's clock, in nanoseconds since the epoch.
    pub nanos: i64,
    /// By the agent's clock.
    pub monotonic: MonotonicTime,
}

/// The decision of admission on a version. Only a version of which the runtime has nothing is asked about;
/// one that an earlier agent ran is admitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is to be decided, at first or because resources of the node were released since.
    Undecided {
        /// The last rejection, which has been reported already.
        rejected_before: Option<Rejection>,
    },
    /// It may run on this node.
    Admitted,
    /// It may not run on this node as things stand.
    Rejected(Rejection),
}

/// The preparation of a version to take over from another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Takeover {
    /// True if its host paths were found in order.
    pub volumes_checked: bool,
    /// True if it has its turn among the node's updates, set once the limiter gives it and taken back once
    /// the version is not wanted any more.
    pub has_turn: bool,
    /// True if another version was stopped for it, so that its start is a restart.
    pub is_successor: bool,
}

/// The termination of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Termination {
    /// An earlier agent began it. Its start and grace period (`terminating.json`) are read before any
    /// container is stopped.
    Adopted,
    /// This agent has begun it or goes on with it.
    Begun(Terminating),
}

/// Start and grace period of a termination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminating {
    /// Time of its start.
    pub since: Timestamp,
    /// Seconds.
    pub grace_period: i64,
}

/// The state of an image that a version needs.
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
        /// Its beginning.
        since: MonotonicTime,
    },
    /// Ready for the next start.
    Ready {
        /// The image's id, from which the container is created.
        reference: String,
        /// The user the image wants to run as.
        user: ImageUser,
        /// True if it was pulled for this start, and that was recorded as an event.
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

impl Version {
    /// Returns true if nothing is known of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns its history to change it.
    pub fn history_mut(&mut self) -> &mut History {
        Arc::make_mut(&mut self.history)
    }
}

impl FirstSeen {
    /// Returns this time of the machine's clock, in nanoseconds since the epoch.
    #[must_use]
    pub fn at(nanos: i64, clock: &Clock) -> Self {
        let monotonic = clock.monotonic_of(nanos);
        Self { nanos, monotonic }
    }

    /// Returns the time now.
    #[must_use]
    pub fn now(clock: &Clock) -> Self {
        Self::at(clock.wall_now(), clock)
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::Undecided {
            rejected_before: None,
        }
    }
}

impl Admission {
    /// Returns the last rejection that was reported, if there is one.
    #[must_use]
    pub fn last_rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Undecided { rejected_before } => rejected_before.as_ref(),
            Self::Rejected(rejection) => Some(rejection),
            Self::Admitted => None,
        }
    }

    /// Has a rejection decided once more.
    pub fn reopen(&mut self) {
        if let Self::Rejected(rejection) = self {
            *self = Self::Undecided {
                rejected_before: Some(rejection.clone()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::state::PodState;

    #[test]
    fn a_version_of_which_nothing_is_left_is_forgotten() {
        let mut state = PodState::default();
        let version = state.version_mut(&"u".into());
        version.images.insert("c".into(), Image::Checking(None));
        version.takeover.has_turn = true;
        state.update_version(&"u".into(), |version| version.images.clear());
        assert!(state.version(&"u".into()).is_some());
        state.update_versions(|_, version| version.takeover.has_turn = false);
        assert_eq!(state.version(&"u".into()), None);
        assert_eq!(
            state.update_version(&"u".into(), |_| ()),
            None,
            "none is added"
        );
    }

    #[test]
    fn a_rejection_is_remembered_while_it_is_decided_once_more() {
        let rejection = Rejection {
            reason: "NodePorts".into(),
            message: "taken".into(),
        };
        let mut admission = Admission::Rejected(rejection.clone());
        admission.reopen();
        assert_ne!(admission, Admission::Rejected(rejection.clone()));
        assert_eq!(admission.last_rejection(), Some(&rejection));
        let mut admission = Admission::Admitted;
        admission.reopen();
        assert_eq!(admission, Admission::Admitted);
    }
}
