//! Packing of local files and folders for `tar` in a container.
//!
//! The source may be a volume that a container writes to, also while it is packed: no path is resolved twice, no symlink
//! below the source is followed, and nothing outside of it is read.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat,
};

use super::archive::{Member, MemberKind, write_end, write_member, write_padding};
use super::warnings::Warnings;
use crate::host::resolve::{FOLDER, Scope, open_inside};

/// Mode of the file, without its type.
const MODE: u32 = 0o7777;

/// Packs a file, or a folder with all in it, under this name. Symlinks below it are packed as such. Returns whether
/// everything was packed; what was not has been warned about.
///
/// # Errors
/// The archive cannot be written.
pub(super) fn pack(path: &Path, name: &OsStr, to: &mut impl Write) -> io::Result<bool> {
    let mut packer = Packer {
        path,
        name: Path::new(name),
        to,
        warnings: Warnings::default(),
    };
    match source(path) {
        Ok((folder, stat)) if kind(&stat) == FileType::Directory => packer.folders(&folder)?,
        Ok((file, stat)) => {
            let result = content(file.into(), &stat, packer.name, packer.to)?;
            packer.skip(Path::new(""), result);
        }
        Err(error) => packer.skip(Path::new(""), Err(error)),
    }
    write_end(packer.to)?;
    packer.to.flush()?;
    packer.warnings.finish();
    Ok(packer.warnings.is_empty())
}

/// Opens the source, which may be a symlink: the caller chose it.
fn source(path: &Path) -> io::Result<(OwnedFd, Stat)> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(special());
    }
    open(CWD, path, OFlags::empty())
}

/// Opens a regular file or a folder.
fn open(folder: impl AsFd, name: &Path, flags: OFlags) -> io::Result<(OwnedFd, Stat)> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    match kind(&stat) {
        FileType::RegularFile | FileType::Directory => Ok((file, stat)),
        _ => Err(special()),
    }
}

fn special() -> io::Error {
    io::Error::other("neither a file nor a directory")
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Entry of a folder, as it was found.
enum PackedEntry {
    Folder,
    File(File, Stat),
    Symlink(PathBuf, Stat),
}

/// Looks at an entry of a folder, and opens it if it is a file.
fn entry(folder: &OwnedFd, name: &Path) -> io::Result<PackedEntry> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match kind(&stat) {
        FileType::Directory => Ok(PackedEntry::Folder),
        FileType::Symlink => {
            let target = readlinkat(folder, name, vec![])?.into_bytes();
            Ok(PackedEntry::Symlink(
                OsString::from_vec(target).into(),
                stat,
            ))
        }
        FileType::RegularFile => {
            let (file, stat) = open(folder, name, OFlags::NOFOLLOW)?;
            if kind(&stat) != FileType::RegularFile {
                return Err(io::Error::other("found no regular file"));
            }
            Ok(PackedEntry::File(file.into(), stat))
        }
        _ => Err(special()),
    }
}

/// Returns the names in a folder, in order.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = vec![];
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// An archive that is being written.
struct Packer<'a, W> {
    /// The source.
    path: &'a Path,
    /// Its name in the archive.
    name: &'a Path,
    to: &'a mut W,
    warnings: Warnings,
}

impl<W: Write> Packer<'_, W> {
    /// Packs a folder, and all folders below it.
    fn folders(&mut self, root: &OwnedFd) -> io::Result<()> {
        let mut waiting = vec![PathBuf::new()];
        while let Some(inside) = waiting.pop() {
            let way = join(Path::new("."), &inside);
            match open_inside(root, &way, FOLDER, Scope::Beneath) {
                Ok(folder) => {
                    let mut below = self.folder(&folder, &inside)?;
                    below.reverse();
                    waiting.append(&mut below);
                }
                Err(error) => self.skip(&inside, Err(error.into())),
            }
        }
        Ok(())
    }

    /// Packs a folder and the files and symlinks in it; returns the folders in it.
    fn folder(&mut self, folder: &OwnedFd, inside: &Path) -> io::Result<Vec<PathBuf>> {
        let found = fstat(folder).map_err(io::Error::from);
        let found = found.and_then(|stat| Ok((stat, names(folder)?)));
        let (stat, names) = match found {
            Ok(found) => found,
            Err(error) => {
                self.skip(inside, Err(error));
                return Ok(vec![]);
            }
        };
        let name = join(self.name, inside);
        write_member(self.to, &member(&stat, MemberKind::Folder, &name))?;
        let mut folders = vec![];
        for name in names {
            let inside = inside.join(&name);
            match entry(folder, Path::new(&name)) {
                Ok(PackedEntry::Folder) => folders.push(inside),
                Ok(PackedEntry::Symlink(target, stat)) => {
                    let mut link = member(&stat, MemberKind::Symlink, &join(self.name, &inside));
                    link.link = target;
                    write_member(self.to, &link)?;
                }
                Ok(PackedEntry::File(file, stat)) => {
                    let name = join(self.name, &inside);
                    let packed = content(file, &stat, &name, self.to)?;
                    self.skip(&inside, packed);
                }
                Err(error) => self.skip(&inside, Err(error)),
            }
        }
        Ok(folders)
    }

    /// Warns about an entry if it failed.
    fn skip(&mut self, inside: &Path, packed: io::Result<()>) {
        if let Err(error) = packed {
            let path = join(self.path, inside);
            self.warnings
                .add(&format!("skipping {}: {error}", path.display()));
        }
    }
}

/// Joins paths; the second one may be empty.
fn join(folder: &Path, inside: &Path) -> PathBuf {
    folder.components().chain(inside.components()).collect()
}

/// Packs a file with as many bytes as it had when it was opened. The inner error is that of the file.
fn content(
    file: File,
    stat: &Stat,
    name: &Path,
    to: &mut impl Write,
) -> io::Result<io::Result<()>> {
    let member = member(stat, MemberKind::File, name);
    write_member(to, &member)?;
    let mut file = file.take(member.size);
    let mut buffer = vec![0; super::CHUNK];
    let mut left = member.size;
    let mut failed = Ok(());
    while left > 0 {
        let read = match file.read(&mut buffer) {
            Ok(0) => Err(io::Error::other("the file became shorter")),
            read => read,
        };
        match read {
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
            }
            Err(error) => {
                io::copy(&mut io::repeat(0).take(left), to)?;
                failed = Err(error);
                break;
            }
        }
    }
    write_padding(to, member.size)?;
    Ok(failed)
}

fn member(stat: &Stat, kind: MemberKind, name: &Path) -> Member {
    Member {
        kind,
        path: name.to_owned(),
        link: PathBuf::new(),
        mode: stat.st_mode & MODE,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: u64::try_from(stat.st_mtime).unwrap_or_default(),
        size: match kind {
            MemberKind::File => u64::try_from(stat.st_size).unwrap_or_default(),
            _ => 0,
        },
    }
}
