//! Lists and reads the files of a manifest folder, once.
//!
//! Nothing here keeps state or decides about Pods. Files are opened relative to the open
//! folder, so that one relist sees one folder even while it is being replaced; and nothing but a
//! regular file is ever opened, and that without waiting.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;

/// The largest manifest that is read.
pub(super) const MAX_BYTES: u64 = 10 * 1024 * 1024;

/// The most names of a folder that are listed.
const MAX_NAMES: usize = 200_000;

/// A file changed this short before it was read may have changed again within one tick of the file
/// system's clock, so that its times do not show it.
const RACY: Duration = Duration::from_secs(2);

/// True if a name is not that of a manifest: hidden files, and files that editors leave beside the one that
/// they edit.
pub(super) fn is_ignored(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".")
        || [&b"~"[..], b".swp", b".swx", b".swo"]
            .iter()
            .any(|ending| name.ends_with(ending))
        || (name.len() > 1 && name.starts_with(b"#") && name.ends_with(b"#"))
        || name == b"4913"
}

/// One name in the folder.
#[derive(Debug)]
pub(super) struct FileEntry {
    pub(super) name: OsString,
    /// The inode of the name itself, not of what it links to.
    pub(super) inode: u64,
    pub(super) kind: FileType,
}

/// Opens a folder for listing.
pub(super) fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The path of an open folder with all links resolved, as the kernel knows it.
pub(super) fn path_of(folder: BorrowedFd) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).ok()
}

/// The device and inode of an open folder.
pub(super) fn identity(folder: BorrowedFd) -> Result<(u64, u64), Errno> {
    fstat(folder).map(|stat| (stat.st_dev, stat.st_ino))
}

/// The names in a folder that may be manifests.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Sorted, without folders and without names that belong to something else.
    pub(super) entries: Vec<FileEntry>,
    /// The inodes of names that belong to something else.
    pub(super) ignored: HashSet<u64>,
    /// There are more names than are listed.
    pub(super) is_cut: bool,
}

/// Lists a folder.
pub(super) fn list(folder: BorrowedFd) -> Result<Names, Errno> {
    let mut names = Names::default();
    for (count, entry) in Dir::read_from(folder)?.enumerate() {
        if count >= MAX_NAMES {
            names.is_cut = true;
            break;
        }
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let Some(entry) = make_entry(folder, name, entry.ino(), entry.file_type())? else {
            continue;
        };
        if entry.kind == FileType::Directory {
            continue;
        }
        if is_ignored(&entry.name) {
            names.ignored.insert(entry.inode);
        } else {
            names.entries.push(entry);
        }
    }
    names.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(names)
}

/// One name of a folder, if it exists.
pub(super) fn find(folder: BorrowedFd, name: &OsStr) -> Result<Option<FileEntry>, Errno> {
    make_entry(folder, name, 0, FileType::Unknown)
}

/// Completes a listing, since not every file system reports the kind of a file.
fn make_entry(
    folder: BorrowedFd,
    name: &OsStr,
    inode: u64,
    kind: FileType,
) -> Result<Option<FileEntry>, Errno> {
    let name = name.to_owned();
    if kind != FileType::Unknown {
        return Ok(Some(FileEntry { name, inode, kind }));
    }
    match statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let kind = FileType::from_raw_mode(stat.st_mode);
            Ok(Some(FileEntry {
                name,
                inode: stat.st_ino,
                kind,
            }))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Identity of a file's content, to detect changes without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    size: i64,
    /// Nanoseconds since 1970.
    modified: i128,
    /// Nanoseconds since 1970, of the last change of the file or of its inode.
    changed: i128,
}

impl FileStamp {
    fn new(stat: &Stat) -> Self {
        let nanos = |s: i128, n: i128| s.saturating_mul(1_000_000_000).saturating_add(n);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: nanos(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            changed: nanos(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
        }
    }

    /// True if both are of one file with the same content, under whatever name.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        Self {
            changed: 0,
            ..*self
        } == Self {
            changed: 0,
            ..*other
        }
    }

    /// True if the content changed less than `age` before `now`, or after it.
    pub(super) fn modified_within(&self, age: Duration, now: SystemTime) -> bool {
        younger(self.modified, age, now)
    }

    /// True if the file may have changed since it was read at `now` without the stamp showing it.
    pub(super) fn racy(&self, now: SystemTime) -> bool {
        younger(self.modified.max(self.changed), RACY, now)
    }
}

fn younger(nanos: i128, age: Duration, now: SystemTime) -> bool {
    let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let limit = since_1970(now).saturating_sub(age).as_nanos();
    i128::try_from(limit).is_ok_and(|limit| nanos > limit)
}

/// Result of reading a file.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    /// No such name any more.
    Nothing,
    /// A folder, or a link to one.
    Folder,
    /// As the stamp says that it was.
    Unchanged,
    /// Something that cannot be read as a manifest, and why.
    Unusable(String),
    /// Reading it has not ended yet.
    Unanswered,
    /// The content.
    Content {
        stamp: FileStamp,
        bytes: Vec<u8>,
        /// Nothing was written between the start and the end of reading.
        steady: bool,
    },
}

/// Reads the file `name` of the folder, unless it is as `known` says.
pub(super) fn read(folder: BorrowedFd, name: &OsStr, known: Option<&FileStamp>) -> ReadOutcome {
    let stat = match statat(folder, name, AtFlags::empty()) {
        Ok(stat) => stat,
        Err(error) => return unreachable_file(folder, name, error),
    };
    if let Some(found) = unreadable_kind(&stat) {
        return found;
    }
    if known == Some(&FileStamp::new(&stat)) {
        return ReadOutcome::Unchanged;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => read_open(file),
        Err(error) => unreachable_file(folder, name, error),
    }
}

/// Returns the reason why a listed name leads to no file.
fn unreachable_file(folder: BorrowedFd, name: &OsStr, error: Errno) -> ReadOutcome {
    if error != Errno::NOENT {
        return ReadOutcome::Unusable(format!("cannot be read: {error}"));
    }
    match readlinkat(folder, name, Vec::new()) {
        Ok(target) => {
            let target = OsStr::from_bytes(target.as_bytes()).display();
            ReadOutcome::Unusable(format!(
                "is a symbolic link to {target}, which does not exist"
            ))
        }
        Err(_) => ReadOutcome::Nothing,
    }
}

/// Returns the problem with a file that is not opened at all.
fn unreadable_kind(stat: &Stat) -> Option<ReadOutcome> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if u64::try_from(stat.st_size).is_ok_and(|size| size > MAX_BYTES) => {
            return Some(too_large());
        }
        FileType::RegularFile => return None,
        FileType::Directory => return Some(ReadOutcome::Folder),
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "of an unknown kind",
    };
    Some(ReadOutcome::Unusable(format!(
        "is {what}; a manifest must be a regular file"
    )))
}

fn too_large() -> ReadOutcome {
    ReadOutcome::Unusable(format!(
        "is larger than {} MiB, the most that is read",
        MAX_BYTES >> 20
    ))
}

/// Reads an open file, which may have been replaced since it was listed.
fn read_open(file: OwnedFd) -> ReadOutcome {
    let failed =
        |error: &dyn std::fmt::Display| ReadOutcome::Unusable(format!("cannot be read: {error}"));
    let before = match fstat(&file) {
        Ok(stat) => stat,
        Err(error) => return failed(&error),
    };
    if let Some(found) = unreadable_kind(&before) {
        return found;
    }
    let mut file = File::from(file);
    let mut bytes = Vec::new();
    if let Err(error) = Read::by_ref(&mut file)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
    {
        return failed(&error);
    }
    if bytes.len() as u64 > MAX_BYTES {
        return too_large();
    }
    match fstat(&file) {
        Ok(after) => {
            let (stamp, after) = (FileStamp::new(&before), FileStamp::new(&after));
            let steady = stamp == after && after.size.cast_unsigned() == bytes.len() as u64;
            ReadOutcome::Content {
                stamp,
                bytes,
                steady,
            }
        }
        Err(error) => failed(&error),
    }
}
