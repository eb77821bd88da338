//! Manifests that are missing: since when, whether they were only renamed, and when they are gone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::known::KnownManifest;
use super::relist::Directory;
use crate::source::candidates::ManifestState;
use crate::units::time::Later;

/// A file is gone when it is missing at two relists this far apart: tools delete a file and write it
/// again, and a listing can miss a file that is renamed meanwhile.
const CONFIRM: Duration = Duration::from_millis(10);

/// The same for a file that was only renamed, as editors do before they write it again, and for
/// all files when the folder itself was replaced and may still be filling.
const CONFIRM_RENAMED: Duration = Duration::from_millis(500);

impl Directory {
    /// Records which manifests are missing and since when. A broken one that was only renamed takes
    /// the version in force along. `present` gives the inode of a name that is there, and `set_aside`
    /// are those of names that are no manifests.
    pub(super) fn record_absences(
        &mut self,
        present: impl Fn(&Path) -> Option<u64>,
        set_aside: &HashSet<u64>,
        now: Instant,
    ) {
        for (path, known) in &mut self.known {
            if let Some(inode) = present(path) {
                known.inode = inode;
                known.gone_since = None;
            } else {
                known.gone_since.get_or_insert(now);
            }
            known.candidate.gone = known.gone_since.is_some();
        }
        for path in self.missing() {
            self.pass_on_version(&path);
        }
        for known in self.known.values_mut() {
            known.set_aside = known.candidate.gone && set_aside.contains(&known.inode);
        }
    }

    fn missing(&self) -> Vec<PathBuf> {
        let missing = self.known.iter().filter(|(_, known)| known.candidate.gone);
        missing.map(|(path, _)| path.clone()).collect()
    }

    /// Moves the last accepted version of a missing file to the broken file that it was renamed to.
    fn pass_on_version(&mut self, missing: &Path) {
        let Some((seen, in_force)) = self
            .known
            .get(missing)
            .and_then(|old| Some((old.seen?, old.candidate.in_force.clone()?)))
        else {
            return;
        };
        let heir = self.known.values_mut().find(|known| {
            !known.candidate.gone
                && known.candidate.in_force.is_none()
                && matches!(known.candidate.state, ManifestState::Refused(_))
                && known
                    .seen
                    .is_some_and(|new| new.stamp.same_content(&seen.stamp))
        });
        if let Some(heir) = heir {
            heir.candidate.in_force = Some(in_force);
            self.known.remove(missing);
        }
    }

    /// While the folder cannot be read, nothing is known to be missing.
    pub(super) fn forget_absences(&mut self) {
        self.watch.pending.retain(|_| false);
        for known in self.known.values_mut() {
            known.gone_since = None;
            known.candidate.gone = false;
        }
    }

    /// Time from which a missing file counts as gone.
    pub(super) fn confirm_at(&self, known: &KnownManifest) -> Option<Instant> {
        let since = known.gone_since?;
        let replaced = self
            .replaced
            .map(|replaced| replaced.later(CONFIRM_RENAMED));
        let wait = if known.set_aside {
            CONFIRM_RENAMED
        } else {
            CONFIRM
        };
        Some(since.later(wait).max(replaced.unwrap_or(since)))
    }

    /// Lets go of the files that were missing for long enough. While others were not read yet
    /// (`is_partial`), one that was never seen since the agent's start may have been renamed to one of
    /// them.
    pub(super) fn confirm_absences(&mut self, now: Instant, is_partial: bool) {
        let gone: Vec<PathBuf> = self
            .known
            .iter()
            .filter(|(_, known)| !is_partial || known.inode != 0)
            .filter(|(_, known)| self.confirm_at(known).is_some_and(|at| at <= now))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.known.remove(&path);
        }
    }
}
