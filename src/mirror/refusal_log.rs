//! Log lines about requests that the API server refuses, and about those that it no longer refuses.

use tracing::{info, warn};

use super::error::ApiError;
use crate::host::log_once::LogOnce;

/// Log of the refusals of one request.
#[derive(Debug)]
pub(super) struct RefusalLog {
    /// `to renew the lease`, …
    request: String,
    problems: LogOnce,
}

impl RefusalLog {
    pub(super) fn new(request: impl Into<String>) -> Self {
        Self {
            request: request.into(),
            problems: LogOnce::default(),
        }
    }

    /// Records that the request was refused. Two refusals of one kind are the same problem, whatever their messages.
    pub(super) fn refused(&mut self, error: &ApiError) {
        let kind = format!("{:?}", error.kind);
        if self.problems.should_log(&self.request, Some(&kind)) {
            warn!(%error, "API server refuses {}", self.request);
        }
    }

    /// Records that the request was not refused.
    pub(super) fn accepted(&mut self) {
        if self.problems.resolve(&self.request) {
            info!("API server no longer refuses {}", self.request);
        }
    }
}
