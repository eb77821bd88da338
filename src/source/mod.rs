//! Where manifests come from, merged into one desired set.
//!
//! A source tells what is wanted, whole, each time something changed; it never knows whether a Pod
//! runs.

mod claims;
pub mod directory;
mod files;
mod store;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::manifest::{PodKey, Problem, StaticPod};

/// All that is wanted on this node, and what was refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// The Pods to run.
    pub pods: BTreeMap<PodKey, DesiredPod>,
    /// Manifests that are not carried out as they stand, in the order of their paths.
    pub refused: Vec<Refused>,
    /// Why the source as a whole cannot be read just now; what was wanted stays wanted.
    pub unreadable: Option<String>,
}

/// One wanted Pod and the file that wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredPod {
    /// The Pod.
    pub pod: Arc<StaticPod>,
    /// The manifest it was read from.
    pub path: PathBuf,
    /// What is dubious about the manifest but does not keep the Pod from running.
    pub warnings: Vec<Problem>,
}

/// A manifest that is not carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The file.
    pub path: PathBuf,
    /// Why: at least one entry.
    pub problems: Vec<Problem>,
    /// The Pod whose last accepted version runs on from this file, if there is one.
    pub keeps: Option<PodKey>,
}
