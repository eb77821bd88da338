//! Room for a Pod's files, looked for before anything is stopped for that Pod.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, openat};
use rustix::io::Errno;

use crate::host::file_error::{at, free_inodes};

/// Bytes that a Pod's folders and small files take at most, beside its record.
const SMALL_FILES: u64 = 64 << 10;
/// Inodes that a Pod's folders and small files take.
const INODES: u64 = 16;

/// Checks that a folder takes a file of this content and a few small ones, by a file without a name.
///
/// # Errors
/// Any I/O error: the disk is full or read-only.
pub(super) fn check(folder: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(free) = free_inodes(folder).filter(|free| *free < INODES) {
        let message = format!("found {free} free inodes, expected {INODES}");
        return Err(at(folder)(io::Error::new(
            io::ErrorKind::StorageFull,
            message,
        )));
    }
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file: File = match openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file.into(),
        // Not every file system has files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => return Ok(()),
        Err(error) => return Err(at(folder)(error.into())),
    };
    file.write_all(content).map_err(at(folder))?;
    match fallocate(
        &file,
        FallocateFlags::KEEP_SIZE,
        content.len() as u64,
        SMALL_FILES,
    ) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(at(folder)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), b"record").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_takes_no_file_is_named() {
        let error = check(Path::new("/proc/self"), b"record").unwrap_err();
        assert!(error.to_string().starts_with("/proc/self: "), "{error}");
    }
}
