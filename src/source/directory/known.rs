//! State of each manifest: its content, the version that runs from it, and its presence.

use std::path::PathBuf;
use std::time::Instant;

use tracing::warn;

use crate::manifest::objects::Object;
use crate::manifest::{self, Accepted, Manifest, Problem, SourceKind};
use crate::source::candidates::{Candidate, ManifestState};
use crate::source::files::FileStamp;
use crate::source::store::StoredManifest;

/// State of one manifest path.
#[derive(Debug)]
pub(super) struct KnownManifest {
    pub(super) candidate: Candidate,
    /// The `ConfigMap`s and `Secret`s that the file last had while it was good.
    pub(super) objects: Vec<Object>,
    /// The content that the candidate's state comes from.
    pub(super) seen: Option<SeenContent>,
    /// The inode of the name itself; 0 while not known.
    pub(super) inode: u64,
    /// Time when it was first found missing.
    pub(super) gone_since: Option<Instant>,
    /// It is missing, but was renamed to a name that is no manifest's.
    pub(super) set_aside: bool,
    /// Reason why the stored version cannot run any more.
    pub(super) lapsed: Option<Problem>,
    /// It is among the refused manifests that are listed.
    pub(super) is_listed: bool,
    /// A Pod or an object of it counts.
    pub(super) in_use: bool,
    /// Bytes of the content that was accepted last.
    pub(super) size: u64,
}

/// A file's content as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeenContent {
    pub(super) stamp: FileStamp,
    /// The stamp may not show a change since.
    pub(super) racy: bool,
    pub(super) digest: [u8; 32],
}

impl SeenContent {
    /// Has the content read and parsed again, though it is the same.
    pub(super) fn forget_content(&mut self) {
        self.racy = true;
        self.digest = [0; 32];
    }
}

impl KnownManifest {
    pub(super) fn new(path: PathBuf) -> Self {
        let candidate = Candidate {
            path,
            state: ManifestState::Unread,
            in_force: None,
            gone: false,
        };
        Self {
            candidate,
            objects: vec![],
            seen: None,
            inode: 0,
            gone_since: None,
            set_aside: false,
            lapsed: None,
            is_listed: false,
            in_use: false,
            size: 0,
        }
    }

    /// Returns the state of a path from the store, with the document validated by today's rules.
    pub(super) fn from_store(stored: StoredManifest, node_name: &str) -> Self {
        let mut known = Self::new(stored.path);
        match parse(stored.document.as_str().as_bytes(), node_name) {
            Ok(accepted) => {
                known.candidate.in_force = Some(accepted.pod.into());
                known.in_use = true;
            }
            Err(problems) => {
                let why: Vec<_> = problems
                    .iter()
                    .map(|problem| format!("{} {}", problem.field, problem.message))
                    .collect();
                let message = format!(
                    "the last accepted version, of Pod {}, is not accepted by this version of the \
                     agent and cannot be kept running: {}",
                    stored.key,
                    why.join("; ").trim(),
                );
                let problem = Problem::of_file(message);
                known.lapsed = Some(problem.clone());
                known.candidate.state = ManifestState::Refused(vec![problem]);
            }
        }
        known
    }

    pub(super) fn refuse(&mut self, mut problems: Vec<Problem>) {
        problems.extend(self.lapsed.clone());
        self.candidate.state = ManifestState::Refused(problems);
    }

    pub(super) fn accept(&mut self, manifest: Manifest) {
        self.lapsed = None;
        self.is_listed = false;
        for object in &manifest.objects {
            for warning in &object.warnings {
                let file = self.candidate.path.display();
                warn!(%file, object = %object.key, %warning, "Manifest accepted with a warning");
            }
        }
        self.objects = manifest.objects;
        let state = manifest.pod.as_ref().map(ManifestState::from);
        self.candidate.state = state.unwrap_or(ManifestState::NoPod);
    }

    /// Returns `true` if something of it runs or may run.
    pub(super) fn is_good(&self) -> bool {
        let refused = matches!(self.candidate.state, ManifestState::Refused(_));
        self.candidate.in_force.is_some() || !self.objects.is_empty() || !refused
    }

    /// Returns the stamp by which the file need not be read again.
    pub(super) fn trusted_stamp(&self) -> Option<&FileStamp> {
        self.seen
            .as_ref()
            .filter(|seen| !seen.racy)
            .map(|seen| &seen.stamp)
    }

    /// Returns the stamp of what was last read.
    pub(super) fn stamp(&self) -> Option<&FileStamp> {
        self.seen.as_ref().map(|seen| &seen.stamp)
    }
}

fn parse(bytes: &[u8], node_name: &str) -> Result<Accepted, Vec<Problem>> {
    manifest::parse(bytes, node_name, SourceKind::File)
}
