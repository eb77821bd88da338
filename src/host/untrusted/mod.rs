//! Files below folders that containers can write to, such as the logs of all Pods where one has `/var/log`
//! mounted: the one place that opens, creates, renames and removes them.
//!
//! A [`Location`] is a folder that the agent knows, and a way down from it. What a container put in the way
//! does no harm: below the known folder no symlink is followed; only regular files with a single name are
//! opened, so that neither a named pipe blocks nor a hard link shows another file; new files are created
//! under names that nothing has; and what is read is bounded by the caller. A [`Folder`] stays what it was
//! when it was opened, whatever is renamed meanwhile.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat, fstat, mkdirat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::atomic_file::{self, Durability};
use super::file_error::at;
use super::resolve::{FOLDER, Scope, open_inside};

/// The most names that are read from one folder.
const MAX_NAMES: usize = 100_000;
/// Number of names that are tried for a new file.
const TRIES: usize = 16;

/// Folder below one that the agent knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    known: PathBuf,
    inside: PathBuf,
}

impl Location {
    /// Returns the folder `inside` of a folder that the agent knows, which may itself be a symlink.
    pub(crate) fn new(known: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        let (known, inside) = (known.into(), inside.into());
        Self { known, inside }
    }

    /// Returns the folder that holds `path`, below the folder `known`, with its name there.
    pub(crate) fn around(known: &Path, path: &Path) -> Option<(Self, String)> {
        let name = path.file_name()?.to_str()?.to_owned();
        let inside = path.parent()?.strip_prefix(known).ok()?;
        Some((Self::new(known, inside), name))
    }

    /// Returns a folder in this one.
    pub(crate) fn join(&self, inside: impl AsRef<Path>) -> Self {
        Self::new(&self.known, self.inside.join(inside))
    }

    /// Returns its path, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.known.join(&self.inside)
    }

    /// Opens the folder.
    ///
    /// # Errors
    /// Any I/O error; something on the way down is no folder.
    pub(crate) fn open(&self) -> io::Result<Folder> {
        self.walk(|fd, part| openat(fd, part, FOLDER, Mode::empty()))
    }

    /// Opens the folder; it and missing folders on the way to it are created with this mode. Anything else that has the
    /// name of a folder on the way down is removed.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn create(&self, mode: u32) -> io::Result<Folder> {
        let mut known = DirBuilder::new();
        let created = known.recursive(true).mode(mode).create(&self.known);
        created.map_err(|e| named(e, &self.known))?;
        self.walk(|fd, part| {
            let mut opened = openat(fd, part, FOLDER, Mode::empty());
            if let Err(Errno::NOTDIR | Errno::LOOP) = opened {
                unlinkat(fd, part, AtFlags::empty())?;
                opened = Err(Errno::NOENT);
            }
            if let Err(Errno::NOENT) = opened {
                match mkdirat(fd, part, Mode::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                opened = openat(fd, part, FOLDER, Mode::empty());
            }
            opened
        })
    }

    fn walk(&self, step: impl Fn(&OwnedFd, &Path) -> Result<OwnedFd, Errno>) -> io::Result<Folder> {
        let known = FOLDER.difference(OFlags::NOFOLLOW);
        let mut path = self.known.clone();
        let opened = openat(CWD, &self.known, known, Mode::empty());
        let mut fd = opened.map_err(|e| named(e.into(), &path))?;
        for part in self.inside.components() {
            let Component::Normal(part) = part else {
                return Err(refused(&self.path(), "a path that leads out of its folder"));
            };
            path.push(part);
            fd = step(&fd, part.as_ref()).map_err(|e| folder_error(e, &path))?;
        }
        Ok(Folder { fd, path })
    }
}

fn folder_error(error: Errno, path: &Path) -> io::Error {
    match error {
        Errno::NOTDIR | Errno::LOOP => expected(path, "no folder", "a folder"),
        error => named(error.into(), path),
    }
}

/// Open folder.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// Properties of a file that was found, not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileInfo {
    /// It is a regular file with a single name.
    pub(crate) is_plain: bool,
    /// It is a folder.
    pub(crate) is_folder: bool,
    /// In bytes.
    pub(crate) size: u64,
    /// Device and inode.
    pub(crate) identity: (u64, u64),
}

impl From<&Stat> for FileInfo {
    fn from(stat: &Stat) -> Self {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Self {
            is_plain: kind == FileType::RegularFile && stat.st_nlink <= 1,
            is_folder: kind == FileType::Directory,
            size: stat.st_size.try_into().unwrap_or(0),
            identity: (stat.st_dev, stat.st_ino),
        }
    }
}

impl Folder {
    /// Returns its path when it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open folder itself.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Opens a folder in this one.
    ///
    /// # Errors
    /// Any I/O error; the name is no folder's.
    pub(crate) fn folder(&self, name: &str) -> io::Result<Self> {
        let path = self.path.join(name);
        match openat(&self.fd, name, FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(error) => Err(folder_error(error, &path)),
        }
    }

    /// Lists the wanted names in the folder, in no order, up to a number that only a flooded folder has.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn names(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if names.len() < MAX_NAMES && name != "." && name != ".." && wanted(name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Finds a file by its name, the symlink itself if it is one; `None` if nothing has the name.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn find(&self, name: impl AsRef<Path>) -> io::Result<Option<FileInfo>> {
        match statat(&self.fd, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileInfo::from(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(named(error.into(), &self.path.join(name))),
        }
    }

    /// Finds a file by its path below the folder, the symlink itself if it is one. No part of the path leads out of the
    /// folder.
    ///
    /// # Errors
    /// Any I/O error; nothing has the path.
    pub(crate) fn find_inside(&self, path: &Path) -> io::Result<FileInfo> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = open_inside(&self.fd, path, flags, Scope::Beneath);
        let stat = found.and_then(|found| fstat(&found));
        let stat = stat.map_err(|e| named(e.into(), &self.path.join(path)))?;
        Ok(FileInfo::from(&stat))
    }

    /// Opens a regular file that has no other name, for reading. Never blocks, and nothing else is opened:
    /// the file is examined first, and then that very file is opened.
    ///
    /// # Errors
    /// Any I/O error; the name is another kind of file's.
    pub(crate) fn open(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.open_plain(name.as_ref(), OFlags::RDONLY)
    }

    /// Opens the same for writing from its beginning.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_to_write(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.open_plain(name.as_ref(), OFlags::WRONLY)
    }

    fn open_plain(&self, name: &Path, access: OFlags) -> io::Result<File> {
        let path = self.path.join(name);
        let open = || {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = openat(&self.fd, name, flags, Mode::empty())?;
            let stat = fstat(&found)?;
            if !FileInfo::from(&stat).is_plain {
                return Err(expected(&path, kind(&stat), "a regular file of one name"));
            }
            open_found(&found, access)
        };
        open().map_err(|e| named(e, &path))
    }

    /// Reads a file that [`open`](Self::open) opens.
    ///
    /// # Errors
    /// As [`open`](Self::open), or the file has more bytes than `limit`.
    pub(crate) fn read(&self, name: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open(name.as_ref())?;
        bounded(file, limit).map_err(|e| named(e, &self.path.join(name)))
    }

    /// Reads the last bytes of a file that [`open`](Self::open) opens, as many as `length`; returns them with the number
    /// of bytes before them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn read_end(
        &self,
        name: impl AsRef<Path>,
        length: u64,
    ) -> io::Result<(Vec<u8>, u64)> {
        let mut file = self.open(name)?;
        let from = file.metadata()?.len().saturating_sub(length);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = vec![];
        file.take(length).read_to_end(&mut bytes)?;
        Ok((bytes, from))
    }

    /// Creates a file for writing, under an unused name that begins and ends so; returns the name too.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn create_temporary(
        &self,
        begin: &str,
        end: &str,
        mode: u32,
    ) -> io::Result<(File, String)> {
        for _ in 0..TRIES {
            let name = format!("{begin}{:08x}{end}", fastrand::u32(..));
            match self.create_new(&name, mode) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                created => return Ok((created?, name)),
            }
        }
        Err(refused(&self.path, "no name is free for a new file"))
    }

    /// Creates a file for writing, under an unused name.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn create_new(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let created = openat(&self.fd, name.as_ref(), flags, mode);
        let created = created.map_err(|e| named(e.into(), &self.path.join(name)))?;
        Ok(created.into())
    }

    /// Replaces whatever has the name with a file of this content, whole or not at all.
    ///
    /// # Errors
    /// Any I/O error; whatever has the name is then as it was.
    pub(crate) fn replace(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        durability: Durability,
    ) -> io::Result<()> {
        // A container could take a name that it can guess.
        let (file, temporary) = self.create_temporary(&format!(".{name}."), ".tmp", mode)?;
        atomic_file::finish(
            file,
            content,
            durability,
            || self.rename(&temporary, name),
            || self.remove(&temporary),
        )
    }

    /// Sets the mode of a file that [`open`](Self::open) opens, if it has another.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn set_mode(&self, name: &str, mode: u32) -> io::Result<()> {
        let file = self.open(name)?;
        if file.metadata()?.permissions().mode() & 0o7777 == mode {
            return Ok(());
        }
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Renames a file, and replaces another one of the new name.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let renamed = renameat(&self.fd, from, &self.fd, to);
        renamed.map_err(|e| named(e.into(), &self.path.join(from)))
    }

    /// Renames a file, unless another one has the new name.
    ///
    /// # Errors
    /// Any I/O error.
    pub(crate) fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let renamed = renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE);
        renamed.map_err(|e| named(e.into(), &self.path.join(from)))
    }

    /// Removes a name that is no folder's.
    ///
    /// # Errors
    /// Any I/O error; that nothing has the name is none.
    pub(crate) fn remove(&self, name: impl AsRef<Path>) -> io::Result<()> {
        match unlinkat(&self.fd, name.as_ref(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // A read-only file system says so before it looks.
            Err(Errno::ROFS) if self.find(&name)?.is_none() => Ok(()),
            Err(error) => Err(named(error.into(), &self.path.join(name))),
        }
    }
}

/// Opens a file that was found.
fn open_found(found: &OwnedFd, access: OFlags) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
}

/// Reads a file of the host by its path, symlinks followed, if it is a regular file.
///
/// # Errors
/// Any I/O error; it is something else; it has more bytes than `limit`.
pub(crate) fn read_path(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let read = || {
        let found = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(expected(path, kind(&stat), "a regular file"));
        }
        bounded(open_found(&found, OFlags::RDONLY)?, limit)
    };
    read().map_err(|e| named(e, path))
}

fn bounded(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = vec![];
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let message = format!("found more than {limit} bytes, the most that is read");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

fn kind(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "a file with several names (hard links)",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symlink",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something unknown",
    }
}

fn expected(path: &Path, found: &str, expected: &str) -> io::Error {
    refused(path, &format!("found {found}, expected {expected}"))
}

fn refused(path: &Path, message: &str) -> io::Error {
    let message = format!("{}: {message}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Adds the path to an error, unless it names one.
fn named(error: io::Error, path: &Path) -> io::Error {
    if error.raw_os_error().is_none() && error.kind() == io::ErrorKind::InvalidData {
        return error;
    }
    at(path)(error)
}

#[cfg(test)]
mod tests;
