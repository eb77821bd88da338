//! The order of first starts: which Pods this one waits for.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;
use crate::manifest::PodKey;

/// The state of a Pod that another one waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Readiness {
    /// There is no such Pod.
    #[default]
    Missing,
    /// It is paused, and is not started before it is resumed.
    Paused,
    /// It is over, and never becomes Ready.
    Over,
    /// It is being stopped.
    Terminating,
    /// It is not Ready yet.
    NotReady,
    /// It is Ready.
    Ready,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "not found",
            Self::Paused => "paused",
            Self::Over => "over, so never Ready",
            Self::Terminating => "being stopped",
            Self::NotReady => "not Ready",
            Self::Ready => "Ready",
        })
    }
}

/// The hold of a Pod's first start after a boot, as it also stands on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its beginning, while it lasts.
    pub since: Option<Timestamp>,
    /// True once it is over for this boot of the machine: the Pod was started, or is to be.
    pub is_over: bool,
    /// Its end, if the Pod was held.
    #[serde(default)]
    pub ended: Option<Timestamp>,
}

/// The order of a Pod's first start.
#[derive(Debug, Clone, Default)]
pub struct StartOrder {
    /// The hold of its first start.
    pub hold: Hold,
    /// The Pods that it is started after, as they were last looked at.
    pub readiness: BTreeMap<PodKey, Readiness>,
}
