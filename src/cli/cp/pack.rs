//! Packing of local files and folders for `tar` in a container.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::archive::{Member, MemberKind, write_end, write_member, write_padding};
use super::warnings::Warnings;

/// Mode of the file, without its type.
const MODE: u32 = 0o7777;

/// Packs a file, or a folder with all in it, under this name. Symlinks below it are packed as such. Returns whether
/// everything was packed; what was not has been warned about.
///
/// # Errors
/// The archive cannot be written.
pub(super) fn pack(path: &Path, name: &OsStr, to: &mut impl Write) -> io::Result<bool> {
    let mut warnings = Warnings::default();
    let mut waiting = vec![(path.to_owned(), PathBuf::from(name))];
    let mut is_first = true;
    while let Some((path, name)) = waiting.pop() {
        let metadata = if is_first {
            fs::metadata(&path)
        } else {
            fs::symlink_metadata(&path)
        };
        let packed = match metadata {
            Ok(metadata) if metadata.is_dir() => {
                write_member(to, &member(&metadata, MemberKind::Folder, &name))?;
                entries(&path).map(|names| {
                    let entries = names.into_iter().rev();
                    waiting.extend(entries.map(|entry| (path.join(&entry), name.join(&entry))));
                })
            }
            Ok(metadata) if metadata.is_symlink() => match fs::read_link(&path) {
                Ok(target) => {
                    let mut link = member(&metadata, MemberKind::Symlink, &name);
                    link.link = target;
                    write_member(to, &link)?;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Ok(metadata) if is_special(&metadata) => {
                Err(io::Error::other("neither a file nor a directory"))
            }
            Ok(_) => match open(&path, is_first) {
                Ok((file, metadata)) => content(file, &metadata, &name, to)?,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = packed {
            warnings.add(&format!("skipping {}: {error}", path.display()));
        }
        is_first = false;
    }
    write_end(to)?;
    to.flush()?;
    warnings.finish();
    Ok(warnings.is_empty())
}

fn is_special(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
}

/// Returns the names in a folder, in order.
fn entries(path: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
    let mut names: Vec<_> = entries.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Opens a regular file; the first one may be a symlink.
fn open(path: &Path, is_first: bool) -> io::Result<(File, Metadata)> {
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !is_first);
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("found no regular file"));
    }
    Ok((file, metadata))
}

/// Packs a file with as many bytes as it had when it was opened. The inner error is that of the file.
fn content(
    file: File,
    metadata: &Metadata,
    name: &Path,
    to: &mut impl Write,
) -> io::Result<io::Result<()>> {
    let member = member(metadata, MemberKind::File, name);
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

fn member(metadata: &Metadata, kind: MemberKind, name: &Path) -> Member {
    Member {
        kind,
        path: name.to_owned(),
        link: PathBuf::new(),
        mode: metadata.mode() & MODE,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: u64::try_from(metadata.mtime()).unwrap_or_default(),
        size: match kind {
            MemberKind::File => metadata.len(),
            _ => 0,
        },
    }
}
