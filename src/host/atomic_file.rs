//! Files that are whole or not there, whenever the agent or the machine stops.
//!
//! A file is written under another name in the same folder, synced where it has to outlive a power failure,
//! and renamed. The folder is synced only by [`sync_folder`], once for all files that were renamed in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::file_error::at;

/// Lifetime of a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is synced, and outlives a power failure.
    Synced,
    /// It is written again after the machine has started again, so that it is not synced.
    UntilReboot,
}

/// Replaces a synced file that only its owner reads.
///
/// # Errors
/// Any I/O error; the file is then as it was.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with(path, content, Durability::Synced)
}

/// Replaces a file that only its owner reads.
///
/// # Errors
/// Any I/O error; the file is then as it was.
pub(crate) fn write_with(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let temporary = temporary(path)?;
    let write = || {
        // Left by an agent that was killed while it wrote.
        remove_if_there(&temporary)?;
        let mut new = OpenOptions::new();
        let file = new.write(true).create_new(true).mode(0o600);
        let file = file.open(&temporary)?;
        finish(
            file,
            content,
            durability,
            || fs::rename(&temporary, path),
            || fs::remove_file(&temporary),
        )
    };
    write().map_err(at(path))
}

/// Replaces a symlink, by way of another one at `temporary` in the same folder.
///
/// # Errors
/// Any I/O error; the symlink is then as it was.
pub(crate) fn replace_symlink(target: &Path, temporary: &Path, path: &Path) -> io::Result<()> {
    let replace = || {
        remove_if_there(temporary)?;
        symlink(target, temporary)?;
        fs::rename(temporary, path)
    };
    replace().map_err(at(path))
}

/// Fills and syncs a new file and gives it its name; on failure removes it.
pub(super) fn finish(
    mut file: File,
    content: &[u8],
    durability: Durability,
    rename: impl FnOnce() -> io::Result<()>,
    remove: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let written = file.write_all(content);
    let written = written.and_then(|()| match durability {
        Durability::Synced => file.sync_all(),
        Durability::UntilReboot => Ok(()),
    });
    let renamed = written.and_then(|()| rename());
    if renamed.is_err() {
        // The error that is reported is the first one.
        let _ = remove();
    }
    renamed
}

/// Makes renames in a folder outlive a power failure.
///
/// # Errors
/// Any I/O error.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(at(folder))
}

/// Returns the name under which a file is written first: hidden, so that no reader of the folder takes it
/// for a file.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        let message = format!("{}: expected the path of a file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    Ok(path.with_file_name(hidden))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let outside = folder.path().join("outside");
        fs::write(&outside, "outside").unwrap();
        // What an earlier agent left, or somebody put there, is neither kept nor written to.
        symlink(&outside, folder.path().join(".key.pem")).unwrap();
        for content in ["first", "second"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "outside");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        sync_folder(folder.path()).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_replaced_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        write_with(&path, b"content", Durability::UntilReboot).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write(Path::new("/"), b"content").unwrap_err();
    }

    #[test]
    fn a_symlink_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("left", at("new")).unwrap();
        for target in ["a", "b"] {
            replace_symlink(Path::new(target), &at("new"), &at("current")).unwrap();
            assert_eq!(fs::read_link(at("current")).unwrap(), Path::new(target));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
