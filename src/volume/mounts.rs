//! Mounts of Pods' volumes.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tracing::warn;

use crate::host::mountinfo::{MOUNTINFO, mount_point};

/// Mounts can stand on top of each other.
const MAX_LAYERS: usize = 64;

/// Returns the mount points in a folder and on it, the deepest first.
pub(super) fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    // As the kernel writes it.
    let folder = match fs::canonicalize(folder) {
        Ok(folder) => folder,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let table = fs::read(MOUNTINFO)?;
    let points = table.split(|b| *b == b'\n').filter_map(mount_point);
    let mut points: Vec<PathBuf> = points.filter(|p| p.starts_with(&folder)).collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    Ok(points)
}

/// True if this very folder is a mount point.
pub(super) fn is_mount_point(folder: &Path) -> io::Result<bool> {
    let own = fs::canonicalize(folder)?;
    Ok(below(folder)?.contains(&own))
}

/// Unmounts everything in a folder and on it. A mount in use goes once it is no longer in use.
pub(super) fn unmount_below(folder: &Path) -> io::Result<()> {
    for _ in 0..MAX_LAYERS {
        let points = below(folder)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points {
            let plain = unmount(&point, UnmountFlags::NOFOLLOW);
            if plain.is_err() {
                unmount(&point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            }
        }
    }
    let message = format!("{} stays mounted", folder.display());
    Err(io::Error::other(message))
}

/// Mounts memory on a folder, of so many bytes at most; 0 for the kernel's own limit. It is kept out of
/// swap where the kernel can do that, as the kubelet does.
pub(super) fn mount_memory(folder: &Path, size: i64, flags: MountFlags) -> io::Result<()> {
    let size = (size != 0).then(|| format!("size={size}"));
    let mount = |noswap: Option<&str>| {
        let options: Vec<&str> = size.as_deref().into_iter().chain(noswap).collect();
        let options = CString::new(options.join(","))?;
        Ok(mount("tmpfs", folder, "tmpfs", flags, options.as_c_str())?)
    };
    match mount(Some("noswap")) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            warn_of_swap();
            mount(None)
        }
        done => done,
    }
}

/// Says once that what is mounted as memory may get to a disk.
fn warn_of_swap() {
    static SAID: Once = Once::new();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    // The first line says what stands in the others.
    if swaps.lines().count() > 1 {
        SAID.call_once(|| {
            warn!(
                "Secrets and memory-backed volumes may be swapped out: the kernel supports noswap from 6.4 on"
            );
        });
    }
}

/// Mounts huge pages of a size in bytes on a folder.
pub(super) fn mount_huge_pages(folder: &Path, size: i64) -> io::Result<()> {
    let options = CString::new(format!("pagesize={size}"))?;
    let (flags, kind) = (MountFlags::NODEV, "hugetlbfs");
    Ok(mount("nodev", folder, kind, flags, options.as_c_str())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_mounted_with_its_size_and_taken_away_with_what_is_on_it() {
        let root = tempfile::tempdir().unwrap();
        let outer = root.path().join("with blank");
        fs::create_dir(&outer).unwrap();
        assert!(!is_mount_point(&outer).unwrap());
        mount_memory(&outer, 1 << 20, MountFlags::empty()).unwrap();
        mount_memory(&outer, 0, MountFlags::NOSUID).unwrap();
        let inner = outer.join("inner");
        fs::create_dir(&inner).unwrap();
        mount_memory(&inner, 1 << 16, MountFlags::empty()).unwrap();
        assert!(is_mount_point(&outer).unwrap());
        let found = rustix::fs::statvfs(&inner).unwrap();
        assert_eq!(found.f_blocks * found.f_frsize, 1 << 16);
        unmount_below(root.path()).unwrap();
        assert_eq!(below(root.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn memory_stays_out_of_swap_where_the_kernel_can_do_that() {
        let root = tempfile::tempdir().unwrap();
        mount_memory(root.path(), 1 << 16, MountFlags::empty()).unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        unmount_below(root.path()).unwrap();
        let point = root.path().to_str().unwrap();
        let line = table.lines().find(|line| line.contains(point)).unwrap();
        let release = rustix::system::uname()
            .release()
            .to_str()
            .unwrap()
            .to_owned();
        let mut numbers = release.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let release = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(line.contains(",noswap"), release >= (6, 4), "{line}");
        assert!(line.contains("size=64k"), "{line}");
    }
}
