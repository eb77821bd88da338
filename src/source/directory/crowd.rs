//! A folder with far more files than any node has Pods: what is read first, and what is not kept.
//!
//! Files that something runs from are read at every relist. The others share a bounded time in each relist,
//! and of those that are refused only so many are listed. The rest is kept as names and stamps
//! alone, so that it is not read again while it does not change.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::known::KnownManifest;
use crate::source::Desired;
use crate::source::files::FileStamp;

/// The refused manifests that are listed, besides those that keep a Pod.
pub(super) const MAX_LISTED: usize = 250;
/// The time in each relist for files that nothing runs from.
pub(super) const BUDGET: Duration = Duration::from_millis(250);
/// The same where finding out what to read takes long already.
pub(super) const MAX_BUDGET: Duration = Duration::from_secs(1);
/// The files in each relist that were never read.
pub(super) const MAX_NEW: usize = 10_000;
/// Files of the rest that are read again at each periodic relist.
pub(super) const RECHECKED: usize = 2000;

/// The refused files beyond those that are listed.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// By name, with the stamp of the content that was refused, if that need not be read again.
    files: HashMap<OsString, Option<FileStamp>>,
    /// Name where the next round of re-reading continues.
    cursor: OsString,
    /// Number of files at the time when all had been read.
    counted: usize,
}

impl Rest {
    pub(super) fn contains(&self, name: &OsStr) -> bool {
        self.files.contains_key(name)
    }

    pub(super) fn stamp(&self, name: &OsStr) -> Option<FileStamp> {
        *self.files.get(name)?
    }

    /// The file is read as any other again.
    pub(super) fn remove(&mut self, name: &OsStr) {
        self.files.remove(name);
    }

    /// All files are read as any other again, since what kept them from running may have gone.
    pub(super) fn clear(&mut self) {
        self.files.clear();
    }

    pub(super) fn retain(&mut self, present: impl Fn(&OsStr) -> bool) {
        self.files.retain(|name, _| present(name));
    }

    /// Returns the next names to read again, out of all names in their order.
    pub(super) fn next<'a>(
        &self,
        names: impl Iterator<Item = &'a OsStr> + Clone,
    ) -> Vec<&'a OsStr> {
        let cursor = self.cursor.as_os_str();
        let after = names.clone().filter(|name| *name > cursor);
        let before = names.filter(|name| *name <= cursor);
        let rest = after.chain(before).filter(|name| self.contains(name));
        rest.take(RECHECKED).collect()
    }

    pub(super) fn record_read(&mut self, name: OsString) {
        self.cursor = name;
    }

    /// Takes what is refused beyond the number that is listed out of the list, and forgets what is known
    /// of it. They are counted once all files have been read.
    pub(super) fn cut(
        &mut self,
        desired: &mut Desired,
        known: &mut BTreeMap<PathBuf, KnownManifest>,
        is_complete: bool,
    ) {
        let listed = desired.refused.iter().filter(|refused| {
            let known = refused.origin.file().and_then(|path| known.get(path));
            known.is_some_and(|known| known.is_listed)
        });
        let mut count = listed.count();
        desired.refused.retain(|refused| {
            let Some(path) = refused.origin.file() else {
                return true;
            };
            let Some(of_file) = known.get_mut(path) else {
                return true;
            };
            if of_file.is_listed || of_file.in_use {
                return true;
            }
            if count < MAX_LISTED {
                count = count.saturating_add(1);
                of_file.is_listed = true;
                return true;
            }
            if let Some(name) = path.file_name() {
                let stamp = of_file.trusted_stamp().copied();
                self.files.insert(name.to_owned(), stamp);
            }
            known.remove(path);
            false
        });
        if count < MAX_LISTED / 2 {
            let free = MAX_LISTED.saturating_sub(count);
            let names: Vec<_> = self.files.keys().take(free).cloned().collect();
            for name in names {
                self.files.remove(&name);
            }
        }
        if is_complete {
            self.counted = self.files.len();
        }
        desired.unlisted = self.counted.min(self.files.len());
    }
}
