//! Mounts of the tests' own, gone again when they are dropped. They need root.

#![allow(dead_code, reason = "no test program uses all of it")]

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

/// A file system mounted on a folder.
pub(crate) struct Mounted {
    path: PathBuf,
    /// The end of a file system in user space that nobody answers at.
    fuse: Option<File>,
}

impl Mounted {
    /// A file system on which every call waits until this is dropped or released.
    pub(crate) fn hanging(path: &Path) -> Self {
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let fuse = fuse.expect("/dev/fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            fuse.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).unwrap();
        mount("hangs", path, "fuse", MountFlags::empty(), &*options).unwrap();
        Self {
            path: path.to_owned(),
            fuse: Some(fuse),
        }
    }

    /// An empty file system.
    pub(crate) fn empty(path: &Path) -> Self {
        Self::small(path, c"size=1m")
    }

    /// An empty file system in memory with these options, such as its size.
    pub(crate) fn small(path: &Path, options: &CStr) -> Self {
        mount("tests", path, "tmpfs", MountFlags::empty(), options).unwrap();
        Self {
            path: path.to_owned(),
            fuse: None,
        }
    }

    /// Another folder, seen here.
    pub(crate) fn bind(source: &Path, path: &Path) -> Self {
        mount_bind(source, path).unwrap();
        Self {
            path: path.to_owned(),
            fuse: None,
        }
    }

    /// A folder as a file system that became read-only shows it, until this is dropped. What is open for writing
    /// already stays so.
    pub(crate) fn read_only(path: &Path) -> Self {
        let mounted = Self::bind(path, path);
        mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        mounted
    }

    /// Ends all calls that wait, with an error, and leaves the mount in place.
    pub(crate) fn release(&mut self) {
        self.fuse = None;
    }

    /// Takes the mount away from the path; calls that wait go on waiting.
    pub(crate) fn detach(&self) {
        unmount(&self.path, UnmountFlags::DETACH).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.release();
        // It may be detached already.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// A folder that exists.
pub(crate) fn folder(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    path
}
