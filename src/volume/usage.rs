//! Disk usage of folders that containers fill while they are counted: no symlink is followed, no mount is
//! entered, and no more than a number of files is counted.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, Mode, Stat, fstat, openat, statat};

use super::tree::{id, is_folder};
use crate::host::resolve::{FOLDER, open_on_same_mount};

/// Bytes of a block in [`Stat`], whatever the file system's own are (stat(3type)).
const BLOCK: u64 = 512;

/// Disk usage of a folder with all in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FolderUsage {
    /// Bytes of the blocks that are allocated.
    pub(crate) bytes: u64,
    /// Files and folders.
    pub(crate) inodes: u64,
}

/// Counts folders until a number of files was counted.
#[derive(Debug)]
pub(crate) struct DiskUsageCounter {
    /// Files that may still be counted.
    left: usize,
}

impl DiskUsageCounter {
    /// Counts so many files at most.
    pub(crate) fn new(max_files: usize) -> Self {
        Self { left: max_files }
    }

    /// Returns the usage of a folder. A file with several names counts once. What vanishes meanwhile counts or does
    /// not.
    ///
    /// # Errors
    /// Any I/O error; a folder was moved meanwhile; there are too many files.
    pub(crate) fn count(&mut self, folder: OwnedFd) -> io::Result<FolderUsage> {
        let mut count = Count::default();
        count.add(&fstat(&folder)?);
        let mut here = folder;
        let mut levels = vec![self.enter(&here, &mut count)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.folders.pop() {
                // It is gone, or something is mounted there.
                let Ok(inner) = open_on_same_mount(&here, &name) else {
                    continue;
                };
                here = inner;
                levels.push(self.enter(&here, &mut count)?);
                continue;
            }
            levels.pop();
            if let Some(around) = levels.last() {
                here = openat(&here, c"..", FOLDER, Mode::empty())?;
                if id(&fstat(&here)?) != around.id {
                    return Err(io::Error::other("a folder was moved meanwhile"));
                }
            }
        }
        Ok(count.usage)
    }

    fn enter(&mut self, folder: &OwnedFd, count: &mut Count) -> io::Result<CountedFolder> {
        let mut folders = vec![];
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let left = self.left.checked_sub(1);
            self.left = left.ok_or_else(|| io::Error::other("there are too many files"))?;
            let Ok(found) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            count.add(&found);
            if is_folder(&found) {
                folders.push(name.to_owned());
            }
        }
        Ok(CountedFolder {
            id: id(&fstat(folder)?),
            folders,
        })
    }
}

/// A folder on the way down.
struct CountedFolder {
    id: (u64, u64),
    /// The folders in it that were not counted yet.
    folders: Vec<CString>,
}

#[derive(Default)]
struct Count {
    usage: FolderUsage,
    /// Files with several names.
    linked: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, found: &Stat) {
        if !is_folder(found) && found.st_nlink > 1 && !self.linked.insert(id(found)) {
            return;
        }
        let blocks = u64::try_from(found.st_blocks).unwrap_or_default();
        let bytes = blocks.saturating_mul(BLOCK);
        self.usage.bytes = self.usage.bytes.saturating_add(bytes);
        self.usage.inodes = self.usage.inodes.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::volume::tree;

    #[test]
    fn all_in_a_folder_is_counted_once_and_nothing_outside() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x"), vec![1; 100_000]).unwrap();
        fs::hard_link(deep.join("x"), folder.path().join("same")).unwrap();
        symlink("/usr", folder.path().join("a/outside")).unwrap();
        let count = |most| DiskUsageCounter::new(most).count(tree::open(folder.path()).unwrap());
        let usage = count(100).unwrap();
        // The folder, three in it, the file and the symlink.
        assert_eq!(usage.inodes, 6);
        assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
        assert_eq!(count(6).unwrap(), usage);
        let error = count(5).unwrap_err();
        assert_eq!(error.to_string(), "there are too many files");
    }
}
