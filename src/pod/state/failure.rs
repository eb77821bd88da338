//! Failed steps, by what they are about, and when each is tried again.

use super::time::MonotonicTime;

/// The subject of a failure. A success in the same matter ends it.
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
    CleanUp(String),
    /// The turn of this UID among the node's updates.
    Turn(String),
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
    pub(in crate::pod) fn uid(&self) -> Option<&str> {
        match self {
            Self::Sandbox(uid)
            | Self::Volumes(uid)
            | Self::Container(uid, _)
            | Self::Stop(uid)
            | Self::CleanUp(uid)
            | Self::Turn(uid) => Some(uid),
            Self::Removal(_) => None,
        }
    }
}
