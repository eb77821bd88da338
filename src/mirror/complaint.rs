//! Says that the API server refuses something: once, and once more when it does not any longer.

use tracing::{info, warn};

use super::error::{ApiError, ErrorKind};

/// State of one request that the server may refuse, so that a refusal is logged once.
#[derive(Debug)]
pub(super) struct Complaint {
    /// `to renew the lease`, …
    what: String,
    said: Option<ErrorKind>,
}

impl Complaint {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            said: None,
        }
    }

    /// It is refused.
    pub(super) fn say(&mut self, error: &ApiError) {
        if self.said.replace(error.kind) != Some(error.kind) {
            warn!(%error, "API server refuses {}", self.what);
        }
    }

    /// It is not refused.
    pub(super) fn clear(&mut self) {
        if self.said.take().is_some() {
            info!("API server no longer refuses {}", self.what);
        }
    }
}
