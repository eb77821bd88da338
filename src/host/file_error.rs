//! I/O errors that name the file they are about.
//!
//! "No space left on device" is also what a file system without free inodes says, on which `df` shows room: that is
//! added to the message.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Names the path in an I/O error; its kind stays.
pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        let is_full = error.kind() == io::ErrorKind::StorageFull;
        let hint = if is_full && free_inodes(path) == Some(0) {
            ", it has no free inodes"
        } else {
            ""
        };
        io::Error::new(error.kind(), format!("{}: {error}{hint}", path.display()))
    }
}

/// Number of free inodes of the file system that a path is on, or is to be on; `None` where it has no fixed number.
pub(crate) fn free_inodes(path: &Path) -> Option<u64> {
    let found = path.ancestors().find_map(|path| statvfs(path).ok())?;
    (found.f_files > 0).then_some(found.f_favail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_path_and_stays_of_its_kind() {
        let path = Path::new("/nowhere/at/all");
        let error = at(path)(io::ErrorKind::ReadOnlyFilesystem.into());
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(
            error.to_string().starts_with("/nowhere/at/all: "),
            "{error}"
        );
        // Of the file system that it would be on.
        assert_eq!(free_inodes(path), free_inodes(Path::new("/")));
    }
}
