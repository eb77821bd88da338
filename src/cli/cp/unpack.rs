//! Unpacking of the archive that `tar` in a container writes, which is not trusted.
//!
//! Nothing is written outside of the destination: names with `..` or a root are refused, no symlink is followed below
//! it, and no link, device or pipe is created. Files and folders get the mode of their originals without set-ID and sticky
//! bits, as far as the umask allows, and belong to whoever runs the command.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fstat, ftruncate, linkat, mkdirat, openat, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::archive::{ArchiveReader, Member, MemberKind, invalid};
use super::warnings::Warnings;
use crate::host::resolve::FOLDER;
use crate::text::in_a_line;

/// Maximum length of a member's path and of a link's target, in bytes, as with Linux (`PATH_MAX`).
const MAX_PATH: usize = 4096;
const PERMISSIONS: u32 = 0o777;
/// Permissions that the owner needs to go on in a folder.
const OWNER: u32 = 0o700;

/// Destination of an archive whose members all lie below one name.
#[derive(Debug)]
pub(super) struct Destination {
    /// The name, or `.` for a whole folder.
    name: OsString,
    path: PathBuf,
    /// The destination is a folder, in which the archive's name counts too.
    keeps_name: bool,
    /// The destination as a folder, once it is one.
    folder: Option<OwnedFd>,
    warnings: Warnings,
    count: u64,
}

fn refused(path: &Path, reason: &str) -> io::Error {
    at(path, &io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Returns an error with its path, on one line.
fn at(path: &Path, error: &io::Error) -> io::Error {
    let path = in_a_line(&path.to_string_lossy());
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

impl Destination {
    /// Returns the destination `path` of an archive whose members are `name` and below it. A folder that is there gets
    /// them under their name.
    pub(super) fn new(name: &OsStr, path: &Path) -> Self {
        Self {
            keeps_name: name != "." && path.is_dir(),
            name: name.to_owned(),
            path: path.to_owned(),
            folder: None,
            warnings: Warnings::default(),
            count: 0,
        }
    }

    /// Unpacks the archive; returns the number of files and folders.
    ///
    /// # Errors
    /// The archive is invalid, or has a path that leads out of the destination; any I/O error.
    pub(super) fn unpack(mut self, from: impl Read) -> io::Result<u64> {
        let mut archive = ArchiveReader::new(from);
        while let Some(member) = archive.next()? {
            if member
                .path
                .as_os_str()
                .len()
                .max(member.link.as_os_str().len())
                > MAX_PATH
            {
                return Err(invalid("a path is too long"));
            }
            let inside = self.inside(&member.path)?;
            let path = self.path.join(&inside);
            match member.kind {
                MemberKind::File if inside.as_os_str().is_empty() => {
                    self.only(&member, &mut archive)
                }
                MemberKind::File => self.file(&inside, &member, &mut archive),
                MemberKind::Folder => self.open(&inside, member.mode).map(drop),
                MemberKind::HardLink => self.hard_link(&inside, &member),
                MemberKind::Symlink => {
                    let (link, target) = (member.path.display(), member.link.display());
                    self.warnings
                        .add(&format!("skipping symlink {link} -> {target}"));
                    continue;
                }
                MemberKind::Other => {
                    let what = member.path.display();
                    self.warnings
                        .add(&format!("skipping {what}: neither a file nor a directory"));
                    continue;
                }
            }
            .map_err(|e| at(&path, &e))?;
            self.count = self.count.saturating_add(1);
        }
        self.warnings.finish();
        Ok(self.count)
    }

    /// Returns the way from the destination to a member.
    fn inside(&self, path: &Path) -> io::Result<PathBuf> {
        let mut parts = path.components().peekable();
        if parts.peek() == Some(&Component::CurDir) {
            parts.next();
        }
        if self.name != "." && parts.next() != Some(Component::Normal(&self.name)) {
            return Err(refused(path, "the archive contains an unexpected path"));
        }
        let mut inside = PathBuf::new();
        if self.keeps_name {
            inside.push(&self.name);
        }
        for part in parts {
            match part {
                Component::Normal(part) => inside.push(part),
                _ => {
                    return Err(refused(
                        path,
                        "the archive contains a path that leads out of it",
                    ));
                }
            }
        }
        Ok(inside)
    }

    /// Writes the one file of an archive to the destination itself, which the caller chose.
    fn only(&mut self, member: &Member, content: &mut impl Read) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(member.mode & PERMISSIONS);
        let mut file = File::from(openat(CWD, &self.path, flags, mode)?);
        io::copy(content, &mut file).map(drop)
    }

    /// Writes a file below the destination. One that is there keeps its mode and its owner.
    fn file(&mut self, inside: &Path, member: &Member, content: &mut impl Read) -> io::Result<()> {
        let (folder, name) = self.around(inside)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Of a pipe that stands in the way nobody may read.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mode = Mode::from_raw_mode(member.mode & PERMISSIONS);
        let file = openat(&folder, name, flags, mode)?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("found no regular file"));
        }
        ftruncate(&file, 0)?;
        io::copy(content, &mut File::from(file)).map(drop)
    }

    /// Links a file to another one below the destination.
    fn hard_link(&mut self, inside: &Path, member: &Member) -> io::Result<()> {
        let target = self.inside(&member.link)?;
        if target == inside {
            return Ok(());
        }
        let (from, target) = self.around(&target)?;
        let (folder, name) = self.around(inside)?;
        let found = statat(&from, target, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("a hard link's target is no regular file"));
        }
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(linkat(&from, target, &folder, name, AtFlags::empty())?)
    }

    /// Opens the folder that holds a member; returns the member's name there too.
    fn around<'a>(&mut self, inside: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = inside.file_name();
        let name = name.ok_or_else(|| io::Error::other("expected a name in a directory"))?;
        let parent = inside.parent().unwrap_or(Path::new(""));
        Ok((self.open(parent, PERMISSIONS)?, name))
    }

    /// Opens a folder below the destination. Missing ones on the way are created, the last one with this mode.
    fn open(&mut self, inside: &Path, mode: u32) -> io::Result<OwnedFd> {
        let mut folder = self.root()?;
        for part in inside.components() {
            let mode = Mode::from_raw_mode(mode & PERMISSIONS | OWNER);
            match mkdirat(&folder, part.as_os_str(), mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            folder = openat(&folder, part.as_os_str(), FOLDER, Mode::empty())?;
        }
        Ok(folder)
    }

    /// Opens the destination as a folder. The caller chose it: it may be a symlink.
    fn root(&mut self) -> io::Result<OwnedFd> {
        if self.folder.is_none() {
            fs::create_dir_all(&self.path)?;
            let flags = FOLDER.difference(OFlags::NOFOLLOW);
            self.folder = Some(openat(CWD, &self.path, flags, Mode::empty())?);
        }
        let folder = self.folder.as_ref().ok_or(Errno::NOENT)?;
        folder.as_fd().try_clone_to_owned()
    }
}
