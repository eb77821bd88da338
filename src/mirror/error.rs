//! Errors of API requests, by the way to handle them.

use std::time::Duration;

use kube::core::Status;
use thiserror::Error;

use super::bounded::TooLong;

/// HTTP's code for what is larger than anybody wants to read.
const CONTENT_TOO_LARGE: u16 = 413;
/// Longer waits than this are not taken from a server.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A request that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub(super) struct ApiError {
    pub(super) kind: ErrorKind,
    /// Message of the server, or of the failure on the way to it.
    pub(super) message: String,
}

/// Class of an error, by the way to handle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorKind {
    /// The server is not to be reached, or does not know who we are: whatever else is asked now fails
    /// alike.
    Unreachable,
    /// The server wants to be left alone for this long.
    Busy(Duration),
    /// The server has a fault of its own; the same may succeed later.
    Fault,
    /// Other than thought, the object is not what the request was made for.
    Conflict,
    /// There is an object of this name already.
    AlreadyExists,
    /// There is no such object, or no such namespace.
    NotFound,
    /// A watch has to start again from a list.
    Expired,
    /// The server does not want this, with its code: it will not want it later, unless somebody
    /// changes something.
    Refused(u16),
}

impl ApiError {
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unreachable,
            message: message.into(),
        }
    }

    /// Classifies a status that the server returned.
    pub(super) fn of_status(status: Status) -> Self {
        let Status {
            code,
            message,
            reason,
            details,
            ..
        } = status;
        let after = details.map_or(0, |d| d.retry_after_seconds);
        let after = Duration::from_secs(after.into());
        let after = after.clamp(Duration::from_secs(1), LONGEST_WAIT);
        let kind = match code {
            401 => ErrorKind::Unreachable,
            404 => ErrorKind::NotFound,
            409 if reason == "AlreadyExists" => ErrorKind::AlreadyExists,
            409 => ErrorKind::Conflict,
            410 => ErrorKind::Expired,
            429 | 503 => ErrorKind::Busy(after),
            // So the API server writes it when an admission webhook does not answer.
            500 if message.contains("failed calling webhook") => ErrorKind::Refused(code),
            500.. => ErrorKind::Fault,
            _ => ErrorKind::Refused(code),
        };
        let message = match (message.trim(), reason.trim()) {
            ("", "") => format!("answered {code}"),
            ("", reason) => reason.to_owned(),
            (message, _) => message.to_owned(),
        };
        Self { kind, message }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        if let Some(too_long) = too_long(&error) {
            // Asked again it would be as long.
            let message = too_long.to_string();
            let kind = ErrorKind::Refused(CONTENT_TOO_LARGE);
            return Self { kind, message };
        }
        match error {
            kube::Error::Api(status) => Self::of_status(*status),
            kube::Error::Service(error) => Self::unreachable(chain(&*error)),
            other => Self::unreachable(chain(&other)),
        }
    }
}

fn too_long(error: &(dyn std::error::Error + 'static)) -> Option<TooLong> {
    if let Some(found) = error.downcast_ref::<TooLong>() {
        return Some(*found);
    }
    // An error of the system's does not show the one that it holds, only of that one's cause.
    let source = error.downcast_ref::<std::io::Error>();
    let source = source.and_then(std::io::Error::get_ref);
    match source {
        Some(source) => too_long(source),
        None => error.source().and_then(too_long),
    }
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::StatusDetails;

    #[test]
    fn answers_are_told_apart_by_what_to_do_about_them() {
        let status = |code, reason: &str, message: &str| {
            ApiError::of_status(Status::failure(message, reason).with_code(code)).kind
        };
        let second = Duration::from_secs(1);
        for (code, reason, message, expected) in [
            (401, "Unauthorized", "Unauthorized", ErrorKind::Unreachable),
            (403, "Forbidden", "exceeded quota", ErrorKind::Refused(403)),
            (
                404,
                "NotFound",
                "namespaces \"x\" not found",
                ErrorKind::NotFound,
            ),
            (409, "AlreadyExists", "", ErrorKind::AlreadyExists),
            (409, "Conflict", "", ErrorKind::Conflict),
            (410, "Expired", "", ErrorKind::Expired),
            (422, "Invalid", "", ErrorKind::Refused(422)),
            (429, "TooManyRequests", "", ErrorKind::Busy(second)),
            (503, "ServiceUnavailable", "", ErrorKind::Busy(second)),
            (
                500,
                "InternalError",
                "failed calling webhook \"w\"",
                ErrorKind::Refused(500),
            ),
            (
                500,
                "InternalError",
                "etcdserver: no leader",
                ErrorKind::Fault,
            ),
            (504, "Timeout", "", ErrorKind::Fault),
        ] {
            assert_eq!(status(code, reason, message), expected, "{code} {reason}");
        }
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it_within_reason() {
        for (asked, given) in [(0, 1), (7, 7), (9999, 60)] {
            let details = serde_json::json!({"retryAfterSeconds": asked});
            let details: StatusDetails = serde_json::from_value(details).unwrap();
            let status = Status::failure("", "TooManyRequests").with_code(429);
            let error = ApiError::of_status(status.with_details(details));
            assert_eq!(error.kind, ErrorKind::Busy(Duration::from_secs(given)));
        }
    }
}
