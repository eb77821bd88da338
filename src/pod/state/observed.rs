//! Observed state of one Pod in the runtime: every sandbox and container, of all its versions.

use std::time::Duration;

use k8s_openapi::api::core::v1::LinuxContainerUser;

use crate::manifest::Uid;
use crate::pod::state::time::MonotonicTime;
use crate::units::text_id;

text_id! {
    /// The runtime's ID of a sandbox.
    pub struct SandboxId
}

text_id! {
    /// The runtime's ID of a container.
    pub struct ContainerId
}

/// All sandboxes and containers of one Pod name, whatever their UID.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// In no particular order.
    pub sandboxes: Vec<Sandbox>,
    /// In no particular order.
    pub containers: Vec<Container>,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: SandboxId,
    /// The Pod's UID.
    pub uid: Uid,
    /// Counts the sandboxes of one UID, from 0.
    pub attempt: u32,
    /// True if its processes and network are up.
    pub ready: bool,
    /// Time of its creation.
    pub created: MonotonicTime,
    /// The Pod's addresses, the first one first; empty on the host's network and while not known.
    pub ips: Vec<String>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Container {
    /// The runtime's id.
    pub id: ContainerId,
    /// The sandbox it lives in.
    pub sandbox: SandboxId,
    /// The Pod's UID.
    pub uid: Uid,
    /// The name that the Pod gives it.
    pub name: String,
    /// Counts the containers of one name and UID, from 0.
    pub attempt: u32,
    /// Its state.
    pub state: State,
    /// The image's name, as the runtime reports it.
    pub image: String,
    /// Digest or id that the image's name stands for.
    pub image_ref: String,
    /// User that it runs as, where the runtime reports one.
    pub user: Option<LinuxContainerUser>,
    /// The wait that came before its start, where it is not the first; from its annotation.
    pub backoff: Option<Duration>,
    /// The grace period it was made with, in seconds; from its annotation.
    pub grace_period: Option<i64>,
    /// The runtime does not have it any more: somebody else removed it. What is known of it still
    /// counts, so that a removal is no reason to run anything again.
    pub gone: bool,
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum State {
    /// Made, not started.
    #[default]
    Created,
    /// Running.
    Running {
        /// Start, in nanoseconds since the epoch; 0 while not known.
        started_at: i64,
    },
    /// Over.
    Exited(Exit),
    /// The runtime lost track of it.
    Unknown,
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exit {
    /// The exit code.
    pub code: i32,
    /// The runtime's word for it: `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// The runtime's explanation, mostly empty.
    pub message: String,
    /// Nanoseconds since the epoch; 0 if it never ran.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// Time of its end, by the agent's clock.
    pub ended: MonotonicTime,
}

impl Exit {
    /// Returns true if the runtime did not see the end: the container was gone when the runtime started, mostly since
    /// the machine had stopped (containerd, `internal/cri/server/restart.go`: `unknownExitCode`, `unknownExitReason`).
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        self.code == 255 && self.reason == "Unknown"
    }

    /// Returns the time that it ran.
    #[must_use]
    pub fn ran(&self) -> Duration {
        if self.started_at <= 0 {
            return Duration::ZERO;
        }
        let nanos = self.finished_at.saturating_sub(self.started_at);
        Duration::from_nanos(nanos.try_into().unwrap_or(0))
    }
}

impl Container {
    /// Returns true if processes of it may be there.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Unknown)
    }

    /// Returns its end, if it has ended.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

impl Observed {
    /// Returns true if the runtime has nothing of this UID.
    #[must_use]
    pub fn has_none_of(&self, uid: &Uid) -> bool {
        !self.uids().any(|other| other == uid)
    }

    /// The UID of every sandbox and container, with repeats.
    pub fn uids(&self) -> impl Iterator<Item = &Uid> {
        let sandboxes = self.sandboxes.iter().map(|s| &s.uid);
        sandboxes.chain(self.containers.iter().map(|c| &c.uid))
    }

    /// Returns the sandbox with this ID.
    #[must_use]
    pub fn sandbox(&self, id: &SandboxId) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|s| s.id == *id)
    }

    /// Returns the sandbox with this ID, to change it.
    pub fn sandbox_mut(&mut self, id: &SandboxId) -> Option<&mut Sandbox> {
        self.sandboxes.iter_mut().find(|s| s.id == *id)
    }

    /// Returns the container with this ID.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.iter().find(|c| c.id == *id)
    }

    /// Returns the container with this ID, to change it.
    pub fn container_mut(&mut self, id: &ContainerId) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.id == *id)
    }

    /// The sandboxes of one UID.
    pub fn sandboxes_of(&self, uid: &Uid) -> impl Iterator<Item = &Sandbox> {
        self.sandboxes.iter().filter(move |s| s.uid == *uid)
    }

    /// The ready sandbox of one UID, the newest if there are several.
    #[must_use]
    pub fn ready_sandbox(&self, uid: &Uid) -> Option<&Sandbox> {
        let ready = self.sandboxes_of(uid).filter(|s| s.ready);
        ready.max_by_key(|s| s.attempt)
    }

    /// The newest sandbox of one UID, ready or not.
    #[must_use]
    pub fn newest_sandbox(&self, uid: &Uid) -> Option<&Sandbox> {
        self.sandboxes_of(uid).max_by_key(|s| s.attempt)
    }

    /// The containers of one UID.
    pub fn containers_of(&self, uid: &Uid) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(move |c| c.uid == *uid)
    }

    /// The containers of one UID and name, newest first.
    #[must_use]
    pub fn history_of(&self, uid: &Uid, name: &str) -> Vec<&Container> {
        let mut history: Vec<_> = self.containers_of(uid).filter(|c| c.name == name).collect();
        history.sort_by_key(|c| std::cmp::Reverse(c.attempt));
        history
    }

    /// The container or sandbox with this id is gone.
    pub fn forget(&mut self, id: &str) {
        self.containers.retain(|c| c.id != *id);
        self.sandboxes.retain(|s| s.id != *id);
    }
}
