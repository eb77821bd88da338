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

/// Returns true if two messages differ at most in IDs of sandboxes and containers, which each try has of its own.
pub(in crate::pod) fn same_but_for_ids(one: &str, other: &str) -> bool {
    words(one).eq(words(other))
}

/// The words of a message, IDs (32 hex digits and more) as empty ones.
fn words(message: &str) -> impl Iterator<Item = &str> {
    let is_id = |word: &str| word.len() >= 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = message.split(|c: char| !c.is_ascii_alphanumeric());
    words.map(move |word| if is_id(word) { "" } else { word })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_with_another_id_is_the_same() {
        let of = |id: &str, why: &str| format!("sandbox \"{id}\": {why}");
        let (one, other) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));
        assert!(same_but_for_ids(&of(&one, "full"), &of(&other, "full")));
        assert!(!same_but_for_ids(&of(&one, "full"), &of(&one, "gone")));
        assert!(!same_but_for_ids(&of("web", "full"), &of("db", "full")));
    }
}
