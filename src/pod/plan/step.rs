//! The steps that the planner can ask for.

use std::time::Duration;

use crate::manifest::Uid;
use crate::pod::state::Subject;
use crate::pod::state::history::StopReason;
use crate::pod::state::observed::{ContainerId, SandboxId};

/// A step towards the wanted state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// See whether a version can run on this node at all, and take what it needs of the node.
    Admit {
        /// The version.
        uid: Uid,
    },
    /// Find out whether the image of a container is there, and have it pulled if it is not.
    EnsureImage {
        /// The version.
        uid: Uid,
        /// The container.
        container: String,
    },
    /// See whether the host paths that this version needs are there, before the old version stops.
    CheckVolumes {
        /// The version.
        uid: Uid,
    },
    /// Wait for this version's turn among the node's updates, before the old version stops.
    TakeTurn {
        /// The version.
        uid: Uid,
    },
    /// Stop the Pod of this name that a kubelet left, before this version starts.
    TakeOverKubeletPod {
        /// The version.
        uid: Uid,
    },
    /// Make the Pod's folders and a sandbox.
    RunSandbox {
        /// The version.
        uid: Uid,
        /// The new sandbox's attempt.
        attempt: u32,
    },
    /// Make a container and start it.
    RunContainer {
        /// The version.
        uid: Uid,
        /// The sandbox it goes into.
        sandbox: SandboxId,
        /// The container's name.
        container: String,
        /// The new container's attempt.
        attempt: u32,
        /// The back-off period that the restart used up, where it is one.
        backoff: Option<Duration>,
    },
    /// Start a container that was made but not started.
    StartContainer {
        /// The version.
        uid: Uid,
        /// The container's name.
        container: String,
        /// Its id.
        id: ContainerId,
    },
    /// Record that a version is terminating and stop all its containers: preStop, signal, grace period.
    Terminate {
        /// The version.
        uid: Uid,
    },
    /// Stop single containers.
    StopContainers {
        /// The version.
        uid: Uid,
        /// Their ids.
        ids: Vec<ContainerId>,
        /// Reason of the stop.
        reason: StopReason,
    },
    /// From now on every container of a version is to be replaced, init containers first.
    RestartAll {
        /// The version.
        uid: Uid,
    },
    /// A version has failed for good.
    Fail {
        /// The version.
        uid: Uid,
        /// Kubernetes' word for it.
        reason: &'static str,
        /// Details for people.
        message: String,
    },
    /// Have the runtime end a sandbox's processes and give back its network.
    StopSandbox {
        /// Its id.
        id: SandboxId,
    },
    /// Remove a stopped sandbox.
    RemoveSandbox {
        /// Its id.
        id: SandboxId,
    },
    /// Remove a dead container and its log.
    RemoveContainer {
        /// Its id.
        id: ContainerId,
    },
    /// Clean up what a version left on the node outside the runtime.
    CleanUp {
        /// The version.
        uid: Uid,
    },
    /// Start a version again that has ended, before its clean-up has succeeded.
    StartAgain {
        /// The version.
        uid: Uid,
    },
}

impl Step {
    /// Returns the version that it is about; `None` for a step about a sandbox or container by its ID.
    #[must_use]
    pub fn uid(&self) -> Option<&Uid> {
        match self {
            Self::Admit { uid }
            | Self::EnsureImage { uid, .. }
            | Self::CheckVolumes { uid }
            | Self::TakeTurn { uid }
            | Self::TakeOverKubeletPod { uid }
            | Self::RunSandbox { uid, .. }
            | Self::RunContainer { uid, .. }
            | Self::StartContainer { uid, .. }
            | Self::Terminate { uid }
            | Self::StopContainers { uid, .. }
            | Self::RestartAll { uid }
            | Self::Fail { uid, .. }
            | Self::CleanUp { uid }
            | Self::StartAgain { uid } => Some(uid),
            Self::StopSandbox { .. }
            | Self::RemoveSandbox { .. }
            | Self::RemoveContainer { .. } => None,
        }
    }

    /// Returns the attempt of the sandbox or container that it makes.
    #[must_use]
    pub fn attempt(&self) -> Option<u32> {
        match self {
            Self::RunSandbox { attempt, .. } | Self::RunContainer { attempt, .. } => Some(*attempt),
            _ => None,
        }
    }

    /// Returns what a failure of this step is about: a success in the same matter ends it. `None` for a
    /// step that cannot fail, or whose failure has a state of its own.
    #[must_use]
    pub fn subject(&self) -> Option<Subject> {
        Some(match self {
            Self::RunSandbox { uid, .. } | Self::StartAgain { uid } => {
                Subject::Sandbox(uid.clone())
            }
            Self::RunContainer { uid, container, .. }
            | Self::StartContainer { uid, container, .. } => {
                Subject::Container(uid.clone(), container.clone())
            }
            Self::StopContainers { uid, ids, reason } => match (reason, ids.as_slice()) {
                // A container that failed has its own back-off.
                (StopReason::Liveness | StopReason::Startup | StopReason::PostStart, [id]) => {
                    Subject::RemoveContainer(id.clone())
                }
                _ => Subject::Stop(uid.clone()),
            },
            Self::Terminate { uid } => Subject::Stop(uid.clone()),
            Self::StopSandbox { id } | Self::RemoveSandbox { id } => {
                Subject::RemoveSandbox(id.clone())
            }
            Self::RemoveContainer { id } => Subject::RemoveContainer(id.clone()),
            Self::CheckVolumes { uid } => Subject::Volumes(uid.clone()),
            Self::CleanUp { uid } => Subject::CleanUp(uid.clone()),
            Self::TakeTurn { uid } => Subject::Turn(uid.clone()),
            Self::TakeOverKubeletPod { .. } => Subject::KubeletPod,
            Self::Admit { .. }
            | Self::EnsureImage { .. }
            | Self::RestartAll { .. }
            | Self::Fail { .. } => return None,
        })
    }

    /// Returns the reason of the event about a failure of this step, as the kubelet has it. `None` for a
    /// step that has no such event.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::RunSandbox { .. } | Self::StartAgain { .. } => "FailedCreatePodSandBox",
            Self::RunContainer { .. } => "CreateContainerError",
            Self::StartContainer { .. } => "RunContainerError",
            Self::Terminate { .. }
            | Self::StopContainers { .. }
            | Self::StopSandbox { .. }
            | Self::TakeOverKubeletPod { .. } => "FailedKillPod",
            Self::RemoveSandbox { .. } | Self::RemoveContainer { .. } | Self::CleanUp { .. } => {
                "FailedRemoval"
            }
            Self::CheckVolumes { .. } => "FailedMount",
            Self::Admit { .. }
            | Self::EnsureImage { .. }
            | Self::TakeTurn { .. }
            | Self::RestartAll { .. }
            | Self::Fail { .. } => return None,
        })
    }
}
