//! The phase of a Pod (Kubernetes, Pod Lifecycle, "Pod phase").

use serde::{Deserialize, Serialize};

/// The phase of a Pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String")]
pub enum Phase {
    /// One of its containers has not run yet.
    Pending,
    /// Its containers run, or run again.
    Running,
    /// All of its containers are over and succeeded.
    Succeeded,
    /// Its containers are over and one failed, or the Pod cannot run.
    #[default]
    Failed,
}

impl Phase {
    /// Returns the phase as Kubernetes' API has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

impl From<String> for Phase {
    /// A phase that is none of Kubernetes' is a failure: what is over is not taken for a success.
    fn from(text: String) -> Self {
        match text.as_str() {
            "Pending" => Self::Pending,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            _ => Self::Failed,
        }
    }
}
