//! The folder of the manifests, opened, listed and watched.
//!
//! All of it may hang for as long as the file system under it does, so it is run on a thread of its own
//! and knows nothing of what was found before.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::source::files::{self, FileEntry, Names};
use crate::source::mounts::{MountIdentity, MountTable};
use crate::source::watch::{Arming, NewWatches};

/// Request for a listing.
#[derive(Debug)]
pub(super) struct ListRequest {
    pub(super) path: PathBuf,
    /// The path is known to be one manifest.
    pub(super) is_file: bool,
    /// Manifests were read below the path.
    pub(super) was_folder: bool,
    /// Names to find even where the folder has more than are listed.
    pub(super) known: Vec<OsString>,
    pub(super) arming: Arming,
    pub(super) mounts: Arc<MountTable>,
}

/// Result of a listing.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) watches: NewWatches,
    pub(super) contents: Result<Contents, Errno>,
}

/// A folder and what is in it.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) folder: Arc<OwnedFd>,
    /// The one name that counts, where the path is no folder.
    pub(super) only: Option<OsString>,
    /// Device and inode of the folder.
    pub(super) identity: (u64, u64),
    /// No link leads to it.
    is_at_its_path: bool,
    /// The mount that it lies on.
    pub(super) mount: MountIdentity,
    pub(super) names: Names,
}

impl ListRequest {
    /// Opens, watches and lists. The folder is watched before it is listed, so that no change between
    /// the two is missed.
    pub(super) fn run(self) -> Listing {
        let Self {
            path,
            is_file,
            was_folder,
            known,
            arming,
            mounts,
        } = self;
        let watches = arming.run();
        let opened = open(&path, is_file, was_folder);
        let contents =
            opened.and_then(|(folder, only)| Contents::read(folder, &path, only, &known, &mounts));
        Listing { watches, contents }
    }
}

/// Opens the folder to list. A path that manifests were read under is a folder; otherwise one that
/// is no folder is a manifest itself.
fn open(
    path: &Path,
    is_file: bool,
    was_folder: bool,
) -> Result<(OwnedFd, Option<OsString>), Errno> {
    let error = match files::open_folder(path) {
        Ok(folder) => return Ok((folder, None)),
        Err(error) => error,
    };
    let is_file = is_file || error == Errno::NOTDIR;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if is_file && !was_folder => {
            let folder = files::open_folder(parent)?;
            Ok((folder, Some(name.to_owned())))
        }
        _ => Err(error),
    }
}

impl Contents {
    fn read(
        folder: OwnedFd,
        path: &Path,
        only: Option<OsString>,
        known: &[OsString],
        mounts: &MountTable,
    ) -> Result<Self, Errno> {
        let fd = folder.as_fd();
        let identity = files::identity(fd)?;
        let mount = mounts.identity(fd)?;
        let place = only.as_ref().and_then(|_| path.parent()).unwrap_or(path);
        let is_at_its_path = files::path_of(fd).as_deref() == Some(place);
        let names = match &only {
            Some(name) => Names {
                entries: files::find(fd, name)?.into_iter().collect(),
                ..Names::default()
            },
            None => files::list(fd)?,
        };
        let mut contents = Self {
            folder: Arc::new(folder),
            only,
            identity,
            is_at_its_path,
            mount,
            names,
        };
        if contents.names.is_cut {
            contents.add_known(known)?;
        }
        Ok(contents)
    }

    /// True if no link leads to the folder or out of it.
    pub(super) fn is_without_links(&self) -> bool {
        let is_link = |entry: &FileEntry| entry.kind == FileType::Symlink;
        self.is_at_its_path && !self.names.entries.iter().any(is_link)
    }

    /// Finds the names that matter beyond those that were listed.
    fn add_known(&mut self, known: &[OsString]) -> Result<(), Errno> {
        let mut missing = vec![];
        for name in known.iter().filter(|name| self.entry(name).is_none()) {
            missing.extend(files::find(self.folder.as_fd(), name)?);
        }
        self.names.entries.extend(missing);
        self.names
            .entries
            .sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    /// Returns the entry of a name, if it was found.
    pub(super) fn entry(&self, name: &std::ffi::OsStr) -> Option<&FileEntry> {
        let entries = &self.names.entries;
        let at = entries.binary_search_by(|entry| entry.name.as_os_str().cmp(name));
        at.ok().map(|at| &entries[at])
    }
}
