//! Mounts: which one a folder lies on, and notice of their changes.
//!
//! A folder that is a mount point shows an empty folder of another file system once it is unmounted,
//! and only the mount distinguishes the two. The stored identity of a mount holds over a boot,
//! where device numbers may not.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Timespec, fstat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;

use crate::host::machine;
use crate::host::mountinfo::{MOUNTINFO, mount_point};

/// The file system that a folder lies on, and where that is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountIdentity {
    /// The boot in which the device had its number.
    boot: String,
    device: u64,
    /// `None` where the mount is not visible.
    mount: Option<Mount>,
}

/// One line of mountinfo, as far as it says which mount this is (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mount {
    point: String,
    root: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
}

impl MountIdentity {
    /// True when both are the same mount of the same file system. Devices are compared within one
    /// boot only.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_device = self.device == other.device || self.boot != other.boot;
        let same_mount = match (&self.mount, &other.mount) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        same_device && same_mount
    }

    /// The mount as an operator knows it.
    pub(super) fn describe(&self) -> String {
        match &self.mount {
            Some(Mount {
                point,
                kind,
                source,
                ..
            }) => format!("{source} ({kind}) mounted on {point}"),
            None => format!("device {}", self.device),
        }
    }
}

/// Mounts of this process that concern a path. The list of all mounts is read only when it changed: with hundreds of
/// containers the kernel takes milliseconds for it.
#[derive(Debug)]
pub(super) struct MountTable {
    path: PathBuf,
    cached: Mutex<Cached>,
}

/// Findings in the list, until that changes.
#[derive(Debug, Default)]
struct Cached {
    /// The list, opened to be told of changes.
    list: Option<File>,
    /// The numbers of the mounts on the way to the path and below it.
    ids: Option<Vec<u64>>,
    /// The number of a mount, and the mount.
    mount: Option<(String, Mount)>,
}

impl MountTable {
    /// Builds the table of a path; links in the path are not resolved.
    pub(super) fn new(path: PathBuf) -> Self {
        let cached = Mutex::new(Cached {
            list: File::open(MOUNTINFO).ok(),
            ..Cached::default()
        });
        Self { path, cached }
    }

    /// The numbers of the mounts on the way to the path and below it: other mounts have other numbers.
    pub(super) fn ids(&self) -> Vec<u64> {
        let mut cached = self.current();
        let path = &self.path;
        let concerning = |point: &Path| path.starts_with(point) || point.starts_with(path);
        let ids = cached
            .ids
            .get_or_insert_with(|| ids_of(&mountinfo(), concerning));
        ids.clone()
    }

    /// The mount of an open folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn identity(&self, folder: BorrowedFd) -> Result<MountIdentity, Errno> {
        let device = fstat(folder)?.st_dev;
        let boot = machine::boot_id();
        let boot = boot.trim().to_owned();
        let mount = self.mount_of(folder);
        Ok(MountIdentity {
            boot,
            device,
            mount,
        })
    }

    /// Returns the findings that still hold.
    fn current(&self) -> MutexGuard<'_, Cached> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.forget_outdated();
        cached
    }

    /// The mount of an open folder, by its number, which no other mount has while the folder is open.
    fn mount_of(&self, folder: BorrowedFd) -> Option<Mount> {
        let info = format!("/proc/self/fdinfo/{}", folder.as_raw_fd());
        let info = fs::read_to_string(info).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
        let id = id.trim();
        let mut cached = self.current();
        if let Some((_, mount)) = cached.mount.as_ref().filter(|(known, _)| known == id) {
            return Some(mount.clone());
        }
        let mounts = mountinfo();
        let line = mounts
            .lines()
            .find(|line| line.split(' ').next() == Some(id))?;
        let mount = parse(line)?;
        cached.mount = Some((id.to_owned(), mount.clone()));
        Some(mount)
    }
}

impl Cached {
    /// Forgets everything if the mounts changed since this was last asked, or where that cannot be told.
    fn forget_outdated(&mut self) {
        let is_same = |list| has_changed(list) == Ok(false);
        if !self.list.as_ref().is_some_and(is_same) {
            (self.ids, self.mount) = (None, None);
        }
    }
}

/// A line: `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS FIELDS… - TYPE SOURCE OPTIONS`.
fn parse(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, point) = (front.next()?, front.next()?);
    let mut back = back.split(' ');
    let (kind, source) = (back.next()?, back.next()?);
    Some(Mount {
        point: point.to_owned(),
        root: root.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
    })
}

/// All mounts of this process; empty where they cannot be read.
pub(crate) fn mountinfo() -> String {
    let bytes = fs::read(MOUNTINFO).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The numbers of the mounts on the way to a path, links not resolved: another mount there gives
/// other numbers.
pub(crate) fn on_path(mountinfo: &str, path: &Path) -> Vec<u64> {
    ids_of(mountinfo, |point| path.starts_with(point))
}

/// The numbers of the mounts of which the mount point is one of these.
fn ids_of(mountinfo: &str, is_wanted: impl Fn(&Path) -> bool) -> Vec<u64> {
    let is_wanted =
        |line: &&str| mount_point(line.as_bytes()).is_some_and(|point| is_wanted(&point));
    let lines = mountinfo.lines().filter(is_wanted);
    let ids = lines.filter_map(|line| line.split(' ').next()?.parse().ok());
    ids.collect()
}

/// Notice of changes of the mounts, of which a node with containers has many: only while somebody waits for one does a
/// change wake this process.
#[derive(Debug)]
pub(super) struct MountWatch(Option<Lists>);

/// The list of all mounts, opened twice: the kernel says once of each open list that it has changed.
#[derive(Debug)]
struct Lists {
    /// Asked whether the mounts have changed since that was last asked.
    asked: File,
    /// Watched while somebody waits.
    watched: File,
}

impl MountWatch {
    /// Opens the list. Where changes cannot be noticed, none is.
    pub(super) fn new() -> Self {
        let open = || File::open(MOUNTINFO);
        let lists = open().and_then(|asked| {
            let watched = open()?;
            Ok(Lists { asked, watched })
        });
        Self(lists.inspect_err(not_watched).ok())
    }

    /// Waits until this time, and then for a change unless there was one by then. May be cancelled.
    pub(super) async fn changed_after(&self, earliest: Instant) {
        tokio::time::sleep_until(earliest.into()).await;
        self.changed().await;
    }

    /// Waits for the next change, or for none if there was one since the last. May be cancelled. Must run inside the
    /// runtime.
    pub(super) async fn changed(&self) {
        if let Some(lists) = &self.0 {
            match lists.changed().await {
                Ok(()) => return,
                Err(error) => not_watched(&error),
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Lists {
    async fn changed(&self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of types that change their descriptor; \
                      a borrowed one keeps its"
        )]
        let watch = AsyncFd::with_interest(self.watched.as_fd(), Interest::PRIORITY)?;
        // It is asked after the watch has begun, so that none is missed between the two.
        while has_changed(&self.asked) != Ok(true) {
            watch.ready(Interest::PRIORITY).await?.clear_ready();
        }
        Ok(())
    }
}

fn not_watched(error: &io::Error) {
    debug!(%error, "Failed to watch mounts");
}

/// Returns `true` if the mounts have changed since this was last asked of the open list.
fn has_changed(list: &File) -> rustix::io::Result<bool> {
    let mut changes = [PollFd::new(list, PollFlags::PRI)];
    Ok(poll(&mut changes, Some(&Timespec::default()))? > 0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;

    const NFS: &str = "36 35 0:40 / /etc/kubernetes/manifests rw,noatime shared:1 master:2 - nfs4 \
                       filer:/export rw,hard";

    fn place(boot: &str, device: u64, line: &str) -> MountIdentity {
        MountIdentity {
            boot: boot.to_owned(),
            device,
            mount: parse(line),
        }
    }

    #[test]
    fn a_mount_is_told_from_what_lies_beneath_it_over_boots() {
        let root = "25 1 8:1 / / rw - ext4 /dev/sda1 rw";
        let bind = "37 25 8:1 /srv/manifests /etc/kubernetes/manifests rw - ext4 /dev/sda1 rw";
        for (one, other, same) in [
            (place("a", 40, NFS), place("a", 40, NFS), true),
            (place("a", 40, NFS), place("b", 41, NFS), true),
            // Another file system is mounted in its place.
            (place("a", 40, NFS), place("a", 41, NFS), false),
            (place("a", 40, NFS), place("a", 1, root), false),
            (place("a", 40, NFS), place("b", 40, root), false),
            // One device, seen through another mount.
            (place("a", 1, bind), place("a", 1, root), false),
            (place("a", 1, root), place("a", 1, ""), true),
        ] {
            assert_eq!(one.is_same(&other), same, "{one:?} {other:?}");
        }
        let described = place("a", 40, NFS).describe();
        assert_eq!(
            described,
            "filer:/export (nfs4) mounted on /etc/kubernetes/manifests"
        );
    }

    #[test]
    fn the_place_of_a_folder_is_found() {
        let table = MountTable::new(PathBuf::from("/proc/self"));
        let proc = File::open("/proc").unwrap();
        let place = table.identity(proc.as_fd()).unwrap();
        assert_eq!(place.mount.as_ref().unwrap().point, "/proc");
        assert!(place.is_same(&table.identity(proc.as_fd()).unwrap()));
        let root = File::open("/").unwrap();
        assert_eq!(
            table.identity(root.as_fd()).unwrap().mount.unwrap().point,
            "/"
        );
        let way = on_path(&mountinfo(), Path::new("/proc/self"));
        assert!(!way.is_empty());
        assert_ne!(way, on_path(&mountinfo(), Path::new("/etc")));
    }

    #[test]
    fn a_mount_on_the_way_to_a_path_or_below_it_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("my\\ manifests");
        let (inner, beside) = (path.join("inner"), root.path().join("beside"));
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir(&beside).unwrap();
        let table = MountTable::new(path.clone());
        let mut before = table.ids();
        assert!(!before.is_empty());
        for (point, concerns) in [
            (&inner, true),
            (&path, true),
            (&beside, false),
            (&root.path().to_owned(), true),
        ] {
            let empty = c"size=4k";
            mount("tmpfs", point, "tmpfs", MountFlags::empty(), empty).unwrap();
            let during = table.ids();
            let folder = File::open(point).unwrap();
            let found = table.identity(folder.as_fd()).unwrap();
            drop(folder);
            unmount(point, UnmountFlags::NOFOLLOW).unwrap();
            let listed = point.to_str().unwrap().replace('\\', "\\134");
            assert_eq!(found.mount.unwrap().point, listed.replace(' ', "\\040"));
            assert_eq!(during != before, concerns, "{}", point.display());
            before = table.ids();
        }
    }

    #[tokio::test]
    async fn a_change_is_noticed_while_somebody_waits_and_before() {
        let root = tempfile::tempdir().unwrap();
        let change = || {
            let empty = c"size=4k";
            mount("tmpfs", root.path(), "tmpfs", MountFlags::empty(), empty).unwrap();
            unmount(root.path(), UnmountFlags::NOFOLLOW).unwrap();
        };
        let watch = MountWatch::new();
        change();
        watch.changed().await;
        let ((), ()) = tokio::join!(watch.changed(), async { change() });
        // One who gives up takes no change along.
        tokio::select! {
            biased;
            () = watch.changed() => {}
            () = async { change() } => {}
        }
        watch.changed().await;
    }
}
