//! Going through folders that containers filled, however deep and wide they made them: no more than two
//! folders are open at a time, no path is spelled out, no symlink is followed and no mount is entered.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::host::resolve::{FOLDER, open_on_same_mount};

/// Opens a folder that is no symlink.
pub(super) fn open(folder: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, folder, FOLDER, Mode::empty())?)
}

/// Opens a folder that is no symlink, and on which nothing is mounted.
///
/// # Errors
/// Any I/O error; something is mounted on it (`EXDEV`).
pub(super) fn open_unmounted(folder: &Path) -> io::Result<OwnedFd> {
    let (Some(around), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let flags = FOLDER.difference(OFlags::NOFOLLOW);
    let around = openat(CWD, around, flags, Mode::empty())?;
    Ok(open_on_same_mount(
        &around,
        &CString::new(name.as_bytes())?,
    )?)
}

/// Deletes all in a folder.
///
/// # Errors
/// Any I/O error; something is mounted in it.
pub(super) fn empty(folder: OwnedFd) -> io::Result<()> {
    visit(folder, |around, name, found| {
        let flags = if is_folder(found) {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(around, name, flags)
    })
}

/// Does something with everything in a folder, given the folder that it stands in and its name there:
/// with what is in a folder before the folder itself.
///
/// # Errors
/// Any I/O error; something is mounted in it; a folder was moved meanwhile.
pub(super) fn visit(
    folder: OwnedFd,
    mut act: impl FnMut(BorrowedFd<'_>, &CStr, &Stat) -> Result<(), Errno>,
) -> io::Result<()> {
    let mut here = folder;
    let mut levels = vec![Level::enter(&here, CString::default(), &mut act)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.folders.pop() {
            here = open_on_same_mount(&here, &name)?;
            levels.push(Level::enter(&here, name, &mut act)?);
            continue;
        }
        let done = levels.pop();
        if let (Some(done), Some(around)) = (done, levels.last()) {
            here = openat(&here, c"..", FOLDER, Mode::empty())?;
            if id(&fstat(&here)?) != around.id {
                return Err(io::Error::other("a folder was moved meanwhile"));
            }
            act(here.as_fd(), &done.name, &done.found)?;
        }
    }
    Ok(())
}

/// A folder on the way down.
struct Level {
    /// Its name in the folder around it.
    name: CString,
    found: Stat,
    id: (u64, u64),
    /// The folders in it that were not gone through yet.
    folders: Vec<CString>,
}

impl Level {
    /// Does it with all that is no folder, and notes the folders.
    fn enter(
        folder: &OwnedFd,
        name: CString,
        act: &mut impl FnMut(BorrowedFd<'_>, &CStr, &Stat) -> Result<(), Errno>,
    ) -> io::Result<Self> {
        let found = fstat(folder)?;
        let mut folders = vec![];
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if is_folder(&found) {
                folders.push(name.to_owned());
            } else {
                act(folder.as_fd(), name, &found)?;
            }
        }
        Ok(Self {
            name,
            id: id(&found),
            found,
            folders,
        })
    }
}

/// Device and inode of a file.
pub(super) fn id(found: &Stat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

/// True if it is a folder; a symlink to one does not count.
pub(super) fn is_folder(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{mounts, remove_tree};
    use super::*;
    use rustix::fs::mkdirat;
    use rustix::mount::{MountFlags, mount_bind};
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A folder in memory, where many folders are made fast.
    pub(in super::super) struct MemoryFilesystem(TempDir);

    impl MemoryFilesystem {
        pub(in super::super) fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            mounts::mount_memory(root.path(), 0, MountFlags::empty()).unwrap();
            Self(root)
        }

        pub(in super::super) fn path(&self) -> &Path {
            self.0.path()
        }
    }

    impl Drop for MemoryFilesystem {
        fn drop(&mut self) {
            let _ = mounts::unmount_below(self.path());
        }
    }

    /// Makes folders in each other, more than there can be open files or a path can name.
    pub(in super::super) fn dig(folder: &Path) -> OwnedFd {
        let mut here = open(folder).unwrap();
        for _ in 0..20_000 {
            mkdirat(&here, c"d", Mode::RWXU).unwrap();
            here = openat(&here, c"d", FOLDER, Mode::empty()).unwrap();
        }
        here
    }

    #[test]
    fn a_folder_is_emptied_however_deep_and_wide_it_is() {
        let root = MemoryFilesystem::new();
        let (folder, outside) = (root.path().join("folder"), root.path().join("outside"));
        fs::create_dir_all(folder.join("wide")).unwrap();
        fs::write(&outside, "").unwrap();
        let deepest = dig(&folder);
        openat(&deepest, c"file", OFlags::CREATE, Mode::RWXU).unwrap();
        // The kernel takes long to remove what is above an open folder.
        drop(deepest);
        for n in 0..2_000 {
            fs::create_dir(folder.join(format!("wide/{n}"))).unwrap();
            fs::write(folder.join(format!("wide/{n}/file")), "").unwrap();
        }
        symlink(root.path(), folder.join("link")).unwrap();
        empty(open(&folder).unwrap()).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert!(outside.exists());
    }

    #[test]
    fn what_is_mounted_in_a_folder_is_not_entered() {
        let root = tempfile::tempdir().unwrap();
        let (folder, outside) = (root.path().join("folder"), root.path().join("outside"));
        fs::create_dir_all(folder.join("inner/mounted")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        // It is on the same disk, so that its device does not show it.
        mount_bind(&outside, folder.join("inner/mounted")).unwrap();
        let error = empty(open(&folder).unwrap());
        mounts::unmount_below(&folder).unwrap();
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::CrossesDevices);
        assert!(outside.join("file").exists());
    }

    #[test]
    fn what_is_mounted_stays_and_is_named() {
        let root = tempfile::tempdir().unwrap();
        let (folder, outside) = (root.path().join("folder"), root.path().join("outside"));
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        for mounted in [folder.clone(), folder.join("inner")] {
            mount_bind(&outside, &mounted).unwrap();
            let error = remove_tree(&folder).map_err(|e| e.to_string());
            mounts::unmount_below(&folder).unwrap();
            let named = format!("{} is still mounted", mounted.display());
            assert_eq!(error, Err(named));
            assert!(outside.join("file").exists());
        }
        remove_tree(&folder).unwrap();
        assert!(!folder.exists());
        remove_tree(&folder).unwrap();
    }
}
