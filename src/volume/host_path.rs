//! Host paths and their types (Kubernetes, Volumes, "hostPath volume types").

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::HostPathError;

/// Makes what is not there, where the type says so, and checks what is.
pub(super) fn prepare(path: &Path, kind: &str) -> Result<(), HostPathError> {
    let made = match kind {
        "DirectoryOrCreate" if !path.exists() => {
            DirBuilder::new().recursive(true).mode(0o755).create(path)
        }
        "FileOrCreate" if !path.exists() => {
            let file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o644)
                .open(path);
            file.map(drop)
        }
        _ => Ok(()),
    };
    made.map_err(HostPathError::Create)?;
    check(path, kind)
}

/// Checks that a host path is of its type, or can be created so.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), HostPathError> {
    if kind.is_empty() {
        return Ok(());
    }
    let found = match fs::metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound && kind.ends_with("OrCreate") => {
            return Ok(());
        }
        Err(error) => {
            let kind = kind.to_owned();
            return Err(HostPathError::Read { kind, error });
        }
    };
    let (fits, expected) = match kind {
        "Directory" | "DirectoryOrCreate" => (found.is_dir(), "directory"),
        "File" | "FileOrCreate" => (found.is_file(), "file"),
        "Socket" => (found.is_socket(), "socket file"),
        "CharDevice" => (found.is_char_device(), "character device"),
        "BlockDevice" => (found.is_block_device(), "block device"),
        _ => (false, kind),
    };
    if fits {
        return Ok(());
    }
    Err(HostPathError::WrongType {
        path: path.to_owned(),
        expected: expected.to_owned(),
        found: name_of(found),
        kind: kind.to_owned(),
    })
}

fn name_of(kind: fs::FileType) -> &'static str {
    let names = [
        (kind.is_dir(), "a directory"),
        (kind.is_file(), "a file"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device(), "a character device"),
        (kind.is_block_device(), "a block device"),
    ];
    let name = names.into_iter().find(|(is, _)| *is);
    name.map_or("something else", |(_, name)| name)
}
