//! Errors of calls to the runtime, by the caller's next action.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status, TimeoutExpired};

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The runtime is unreachable, or became so during the call. It is unknown if the call took effect: observe again
    /// once the runtime is reachable.
    #[error("{method}: the container runtime cannot be reached: {message}")]
    Unavailable {
        /// The CRI method.
        method: &'static str,
        /// The transport's error.
        message: String,
    },
    /// The runtime did not answer within the call's deadline. It is unknown if the call took effect.
    #[error("{method}: {}", no_answer(*.after, .message))]
    Deadline {
        /// The CRI method.
        method: &'static str,
        /// The deadline.
        after: Duration,
        /// The runtime's message, where it reached the deadline first; empty otherwise.
        message: String,
    },
    /// The sandbox, container or image named in the call does not exist.
    #[error("{method}: not found: {message}")]
    NotFound {
        /// The CRI method.
        method: &'static str,
        /// The runtime's message.
        message: String,
    },
    /// The runtime does not have this method.
    #[error("{method}: the container runtime does not have this method")]
    Unimplemented {
        /// The CRI method.
        method: &'static str,
    },
    /// The runtime tried, and failed or refused.
    #[error("{method}: {message}")]
    Failed {
        /// The CRI method.
        method: &'static str,
        /// The gRPC code that it came with.
        code: Code,
        /// The runtime's message.
        message: String,
    },
}

impl Error {
    /// Classifies a failed call. A status of our own transport (it carries a source) is no answer of the runtime.
    #[must_use]
    pub fn from_status(method: &'static str, deadline: Duration, status: &Status) -> Self {
        if let Some(cause) = status.source().map(root_cause)
            && cause.is::<TimeoutExpired>()
        {
            // Our transport's clock was the first to run out.
            return Self::Deadline {
                method,
                after: deadline,
                message: String::new(),
            };
        }
        let message = match status.source() {
            Some(source) => root_cause(source).to_string(),
            None => status.message().to_owned(),
        };
        match status.code() {
            Code::DeadlineExceeded if status.source().is_none() => Self::Deadline {
                method,
                after: deadline,
                message,
            },
            Code::Unavailable => Self::Unavailable { method, message },
            _ if status.source().is_some() => Self::Unavailable { method, message },
            Code::NotFound => Self::NotFound { method, message },
            Code::Unimplemented => Self::Unimplemented { method },
            code => Self::Failed {
                method,
                code,
                message,
            },
        }
    }

    /// Returns `true` if the same call may succeed later with nothing changed by the caller: the runtime was
    /// unreachable or slow.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Deadline { .. })
    }

    /// Returns the kind of failure, in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Deadline { .. } => "deadline",
            Self::NotFound { .. } => "not_found",
            Self::Unimplemented { .. } => "unimplemented",
            Self::Failed { .. } => "failed",
        }
    }

    /// Returns the message of the runtime or the transport, without the method.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Unavailable { message, .. }
            | Self::NotFound { message, .. }
            | Self::Failed { message, .. } => message.clone(),
            Self::Deadline { .. } | Self::Unimplemented { .. } => self.to_string(),
        }
    }

    /// Returns the message that the kubelet's gRPC client has for the failure.
    #[must_use]
    pub fn rpc_message(&self) -> String {
        match self {
            Self::Deadline { message, .. } if message.is_empty() => {
                "context deadline exceeded".to_owned()
            }
            Self::Unimplemented { method } => format!("unknown method {method}"),
            Self::Unavailable { message, .. }
            | Self::Deadline { message, .. }
            | Self::NotFound { message, .. }
            | Self::Failed { message, .. } => message.clone(),
        }
    }

    /// Returns the failure as the kubelet's gRPC client writes it: `rpc error: code = Unknown desc = …`.
    #[must_use]
    pub fn rpc_error(&self) -> String {
        let code = match self {
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::NotFound { .. } => Code::NotFound,
            Self::Unimplemented { .. } => Code::Unimplemented,
            Self::Failed { code, .. } => *code,
        };
        rpc_error(code, &self.rpc_message())
    }
}

/// Returns a gRPC status as Go's clients write it.
pub(crate) fn rpc_error(code: Code, message: &str) -> String {
    let code = match code {
        // Go spells only these otherwise.
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {message}")
}

/// Returns the answer, or `None` where the subject of the call does not exist: that ends an observation or a removal,
/// and is no failure.
///
/// # Errors
/// Every other failure of the call.
pub fn if_found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn no_answer(after: Duration, message: &str) -> String {
    if message.is_empty() {
        format!("no answer within {} s", after.as_secs())
    } else {
        message.to_owned()
    }
}

fn root_cause<'a>(
    mut error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(code: Code) -> Error {
        Error::from_status("M", Duration::from_secs(3), &Status::new(code, "words"))
    }

    #[test]
    fn a_runtime_that_is_away_or_slow_is_worth_another_try() {
        assert!(from(Code::Unavailable).is_retryable());
        assert!(from(Code::DeadlineExceeded).is_retryable());
    }

    #[test]
    fn a_refusal_is_not_worth_the_same_call_again() {
        for code in [
            Code::Unknown,
            Code::InvalidArgument,
            Code::NotFound,
            Code::Unimplemented,
        ] {
            assert!(!from(code).is_retryable(), "{code:?}");
        }
    }

    #[test]
    fn a_status_made_by_our_own_transport_means_that_the_runtime_is_away() {
        let broken = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "broken pipe");
        let status = Status::from_error(Box::new(broken));
        let error = Error::from_status("M", Duration::ZERO, &status);
        assert!(
            matches!(&error, Error::Unavailable { message, .. } if message == "broken pipe"),
            "{error:?}"
        );
    }

    #[test]
    fn a_deadline_that_our_own_transport_found_past_is_one() {
        let status = Status::from_error(Box::new(TimeoutExpired(())));
        let error = Error::from_status("M", Duration::from_secs(3), &status);
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    }

    #[test]
    fn a_deadline_of_the_runtimes_keeps_its_words() {
        let own = Status::from_error(Box::new(TimeoutExpired(())));
        let own = Error::from_status("M", Duration::from_secs(3), &own);
        assert_eq!(own.to_string(), "M: no answer within 3 s");
        assert_eq!(from(Code::DeadlineExceeded).to_string(), "M: words");
    }

    #[test]
    fn failures_are_written_as_the_kubelets_client_writes_them() {
        for (code, name) in [
            (Code::Unknown, "Unknown"),
            (Code::NotFound, "NotFound"),
            (Code::Cancelled, "Canceled"),
            (Code::FailedPrecondition, "FailedPrecondition"),
            (Code::Unavailable, "Unavailable"),
            (Code::DeadlineExceeded, "DeadlineExceeded"),
        ] {
            let expected = format!("rpc error: code = {name} desc = words");
            assert_eq!(from(code).rpc_error(), expected);
        }
        let own = Status::from_error(Box::new(TimeoutExpired(())));
        let own = Error::from_status("M", Duration::from_secs(3), &own);
        let expected = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
        assert_eq!(own.rpc_error(), expected);
    }

    #[test]
    fn not_found_is_told_apart() {
        assert_eq!(if_found::<()>(Err(from(Code::NotFound))), Ok(None));
        assert_eq!(
            if_found::<()>(Err(from(Code::Unknown))),
            Err(from(Code::Unknown))
        );
        assert_eq!(if_found(Ok(1)), Ok(Some(1)));
    }
}
