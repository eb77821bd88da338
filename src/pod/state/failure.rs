//! Failed steps, by what they are about, and when each is tried again.

use super::observed::{ContainerId, SandboxId};
use super::time::MonotonicTime;
use crate::manifest::Uid;

/// The subject of a failure. A success in the same matter ends it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Stopping the Pod of this name that a kubelet left.
    KubeletPod,
    /// Making a sandbox for this UID.
    Sandbox(Uid),
    /// The host paths of this UID.
    Volumes(Uid),
    /// Making or starting a container: UID and name.
    Container(Uid, String),
    /// Stopping a container that does not work, or removing one.
    RemoveContainer(ContainerId),
    /// Stopping or removing a sandbox.
    RemoveSandbox(SandboxId),
    /// Stopping the containers of this UID.
    Stop(Uid),
    /// Cleaning up what this UID left on the node.
    CleanUp(Uid),
    /// The turn of this UID among the node's updates.
    Turn(Uid),
}

/// A failure, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kubernetes' word for it, `CreateContainerError` and the like.
    pub reason: &'static str,
    /// Error message.
    pub message: String,
    /// Failures in a row.
    pub tries: u32,
    /// Time of the first of these failures.
    pub since: MonotonicTime,
    /// Time of the next try.
    pub retry: MonotonicTime,
}

impl Subject {
    /// The version that it is about, if it is about one as a whole or a container of it.
    pub(in crate::pod) fn uid(&self) -> Option<&Uid> {
        match self {
            Self::Sandbox(uid)
            | Self::Volumes(uid)
            | Self::Container(uid, _)
            | Self::Stop(uid)
            | Self::CleanUp(uid)
            | Self::Turn(uid) => Some(uid),
            Self::KubeletPod | Self::RemoveContainer(_) | Self::RemoveSandbox(_) => None,
        }
    }
}
