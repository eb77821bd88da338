//! The failures of a step, with their texts for logs, statuses and events.

use std::time::Duration;

use super::events;
use crate::cri::Error;
use crate::host::blocking::TimedOut;
use crate::manifest::Uid;
use crate::pod::state::Subject;
use crate::translate::TranslateError;
use crate::volume::VolumeError;

/// The failure of a step: the runtime's error, or one of the node.
pub(super) enum StepError {
    Runtime(Error),
    /// The runtime's error with a reason of its own, and what is known of its cause.
    Call {
        reason: &'static str,
        error: Error,
        hint: Option<String>,
    },
    /// Containers that were not stopped, each with the runtime's error.
    Stops(Vec<(String, Error)>),
    Node {
        reason: &'static str,
        message: String,
    },
    /// It was dropped, since something else of the Pod had to be done.
    Hangs {
        after: Duration,
    },
    /// It was dropped, since it is no longer wanted.
    Dropped,
}

impl StepError {
    /// Returns true if nothing failed on the Pod's or the node's side: the runtime is unreachable, or the step is no
    /// longer wanted.
    pub(super) fn is_unreachable_or_dropped(&self) -> bool {
        let is_unreachable = |error: &Error| matches!(error, Error::Unavailable { .. });
        match self {
            Self::Runtime(error) | Self::Call { error, .. } => is_unreachable(error),
            Self::Stops(stops) => stops.iter().any(|(_, error)| is_unreachable(error)),
            Self::Dropped => true,
            Self::Node { .. } | Self::Hangs { .. } => false,
        }
    }

    /// Returns the failure's own reason, where it has one.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Call { reason, .. } | Self::Node { reason, .. } => Some(reason),
            Self::Runtime(_) | Self::Stops(_) | Self::Hangs { .. } | Self::Dropped => None,
        }
    }

    /// Returns the message for statuses and logs.
    pub(super) fn message(&self, subject: &Subject) -> String {
        let of_runtime = |error: &Error| match subject {
            // The kubelet shows the runtime's bare message there.
            Subject::Container(..) => error.message(),
            _ => error.to_string(),
        };
        match self {
            Self::Runtime(error) => of_runtime(error),
            Self::Call { error, hint, .. } => with_hint(of_runtime(error), hint.as_deref()),
            Self::Stops(stops) => {
                let messages = stops.iter().map(|(_, error)| of_runtime(error));
                messages.collect::<Vec<_>>().join(", ")
            }
            Self::Node { message, .. } => message.clone(),
            Self::Hangs { after } => hangs(*after),
            Self::Dropped => String::new(),
        }
    }

    /// Returns the message for events, worded as the kubelet's where a call to the runtime failed. `uid` is the
    /// version's.
    pub(super) fn event_message(&self, subject: &Subject, reason: &str, uid: &Uid) -> String {
        let of_runtime = |error: &Error| match (subject, reason) {
            (Subject::Container(..), _) => error.rpc_message(),
            (_, "FailedCreatePodSandBox") => error.rpc_error(),
            (_, "FailedKillPod") => events::failed_kill("PodSandbox", uid, error),
            _ => error.to_string(),
        };
        match self {
            Self::Runtime(error) => of_runtime(error),
            Self::Call { error, hint, .. } => with_hint(of_runtime(error), hint.as_deref()),
            Self::Stops(stops) => {
                let failed =
                    |(name, error): &(String, Error)| events::failed_kill("Container", name, error);
                match stops.as_slice() {
                    [stop] => failed(stop),
                    stops => {
                        let all: Vec<String> = stops.iter().map(failed).collect();
                        format!("[{}]", all.join(", "))
                    }
                }
            }
            Self::Node { .. } | Self::Hangs { .. } | Self::Dropped => self.message(subject),
        }
    }
}

fn with_hint(message: String, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{message}; {hint}"),
        None => message,
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::Runtime(error)
    }
}

impl From<TranslateError> for StepError {
    fn from(error: TranslateError) -> Self {
        Self::Node {
            reason: error.reason(),
            message: error.to_string(),
        }
    }
}

impl From<VolumeError> for StepError {
    fn from(error: VolumeError) -> Self {
        Self::Node {
            reason: error.reason(),
            message: error.to_string(),
        }
    }
}

pub(super) fn node_failure(reason: &'static str) -> impl Fn(std::io::Error) -> StepError {
    move |e| StepError::Node {
        reason,
        message: e.to_string(),
    }
}

/// Returns the message about a call that was cancelled so that the task could do something else.
pub(super) fn hangs(after: Duration) -> String {
    format!(
        "no answer within {}s, cancelled since another container or an update of the Pod needed attention",
        after.as_secs()
    )
}

pub(super) fn sandbox_failure(message: String) -> StepError {
    StepError::Node {
        reason: "FailedCreatePodSandBox",
        message,
    }
}

/// A failure of file work that hangs.
pub(super) fn timed_out(reason: &'static str) -> impl Fn(TimedOut) -> StepError {
    move |e| StepError::Node {
        reason,
        message: e.to_string(),
    }
}
