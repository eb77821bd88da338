//! Requests of people, from the local API to the Pods' tasks. The supervisor passes them on.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::Message;
use crate::manifest::PodKey;

/// Maximum number of requests that wait for the supervisor.
const MAX_WAITING: usize = 64;

/// Request to the task of one Pod.
#[derive(Debug)]
pub struct PodRequest {
    /// The Pod.
    pub key: PodKey,
    /// The message to its task, with the way back for the response.
    pub message: Message,
}

/// Reason for which a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRefused(pub String);

impl fmt::Display for RequestRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Request to restart containers.
#[derive(Debug)]
pub struct RestartRequest {
    /// The container; `None` for all.
    pub container: Option<String>,
    /// Gets the names of the containers that are restarted.
    pub reply: oneshot::Sender<Result<Vec<String>, RequestRefused>>,
}

/// Way back of the response to a [`PauseRequest`]: false where the Pod was so already.
pub(super) type PauseReply = oneshot::Sender<Result<bool, RequestRefused>>;

/// Request to pause or resume the Pod.
#[derive(Debug)]
pub struct PauseRequest {
    /// True to pause it.
    pub pause: bool,
    /// Gets false where the Pod was so already.
    pub reply: PauseReply,
}

/// Way of requests to the supervisor.
#[derive(Debug)]
pub struct PodRequests {
    sender: mpsc::Sender<PodRequest>,
    /// `None` once the supervisor has it.
    receiver: Mutex<Option<mpsc::Receiver<PodRequest>>>,
}

impl Default for PodRequests {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let receiver = Mutex::new(Some(receiver));
        Self { sender, receiver }
    }
}

impl PodRequests {
    /// Sends a request. Returns false if too many wait.
    #[must_use]
    pub fn send(&self, request: PodRequest) -> bool {
        self.sender.try_send(request).is_ok()
    }

    /// Takes the receiver, which only the supervisor does. A second one would never get anything.
    #[must_use]
    pub fn receiver(&self) -> mpsc::Receiver<PodRequest> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
