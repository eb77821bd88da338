//! Sources of manifests, merged into one desired set. A source publishes its whole desired set each time
//! something changed; it never knows whether a Pod runs.

mod candidates;
pub mod directory;
mod files;
mod freshness;
mod limits;
mod log;
mod merge;
pub(crate) mod mounts;
mod order;
mod preview;
mod store;
pub mod url;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use candidates::duplicate_pods;
pub use freshness::{Freshness, LastRead};
pub use merge::{LastRun, Sources};
pub use order::circular_pods;
pub use preview::{FieldChange, ManifestFile, PlannedPod, PodChange, Preview, preview};

use crate::manifest::{PackedPod, PodKey, Problem};

/// All that is wanted on this node, and what was refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// The Pods to run. Shared, since many look at them.
    pub pods: Arc<BTreeMap<PodKey, DesiredPod>>,
    /// Manifests that are refused as they are now, in the order of their origins.
    pub refused: Vec<Refused>,
    /// Reason why a source as a whole cannot be read, for each that cannot; its Pods stay wanted.
    pub unreadable: Vec<String>,
    /// Pods that manifests name and that are not wanted, since they would wait for each other.
    pub circular: BTreeSet<PodKey>,
    /// Number of refused manifests that are not listed.
    pub unlisted: usize,
    /// Paths that are not responding; manifests accepted from there stay wanted.
    pub unanswered: Vec<Unanswered>,
    /// True if the Pods of the URL are not known yet: a running Pod that came from there must not be stopped
    /// for not being among the wanted ones.
    pub web_unknown: bool,
}

/// A manifest, or the directory of them, that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The file or directory.
    pub path: PathBuf,
    /// Time at which reading it began.
    pub since: Instant,
}

/// Origin of a manifest.
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
    pub pod: PackedPod,
    /// The manifest it was read from.
    pub origin: Origin,
    /// Warnings about the manifest, which do not keep the Pod from running.
    pub warnings: Vec<Problem>,
}

/// A manifest that is not carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The manifest.
    pub origin: Origin,
    /// Reasons: at least one entry.
    pub problems: Vec<Problem>,
    /// The Pod whose last accepted version runs on from there, if there is one.
    pub keeps: Option<PodKey>,
}
