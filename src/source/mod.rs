//! Where manifests come from, merged into one desired set.
//!
//! A source tells what is wanted, whole, each time something changed; it never knows whether a Pod
//! runs.

mod claims;
pub mod directory;
mod files;
mod freshness;
mod limits;
mod log;
mod merge;
pub(crate) mod mounts;
mod store;
pub mod url;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use claims::duplicate_pods;
pub use freshness::{Freshness, LastRead};
pub use merge::Sources;

use crate::manifest::{PodKey, Problem, StaticPod};

/// All that is wanted on this node, and what was refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// The Pods to run.
    pub pods: BTreeMap<PodKey, DesiredPod>,
    /// Manifests that are not carried out as they stand, in the order of their origins.
    pub refused: Vec<Refused>,
    /// Why a source as a whole cannot be read just now, for each that cannot; what was wanted stays
    /// wanted.
    pub unreadable: Vec<String>,
    /// How many more manifests are refused than are listed.
    pub unlisted: usize,
    /// What does not answer; what was accepted from there stays wanted.
    pub unanswered: Vec<Unanswered>,
    /// What the URL wants is not known yet: a Pod that came from there and runs is not to be stopped
    /// for not being among those wanted.
    pub web_unknown: bool,
}

/// A manifest, or the directory of them, that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The file or directory.
    pub path: PathBuf,
    /// When reading it began.
    pub since: Instant,
}

/// Where a manifest stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In this file.
    File(PathBuf),
    /// In the document at this URL, written without what may be a secret.
    Url(String),
}

impl Origin {
    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Url(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// One wanted Pod and the manifest that wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredPod {
    /// The Pod.
    pub pod: Arc<StaticPod>,
    /// The manifest it was read from.
    pub origin: Origin,
    /// What is dubious about the manifest but does not keep the Pod from running.
    pub warnings: Vec<Problem>,
}

/// A manifest that is not carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The manifest.
    pub origin: Origin,
    /// Why: at least one entry.
    pub problems: Vec<Problem>,
    /// The Pod whose last accepted version runs on from there, if there is one.
    pub keeps: Option<PodKey>,
}
