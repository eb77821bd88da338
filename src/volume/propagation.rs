//! Mounts that come and go in containers and on the node alike (`mountPropagation`): the runtime passes on
//! only what lies on a shared mount. Where systemd runs, all of the machine is one. Elsewhere the folder of a
//! Pod's volumes is mounted on itself, where the kubelet mounts its root directory at its start: it goes with
//! the Pod, and no other Pod has to do with it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount,
};
use tracing::warn;

use crate::host::mountinfo::{MOUNTINFO, mount_point};

/// Sees to it that a directory is on a shared mount, with all that is mounted in it. Nothing that volumes
/// have mounted in it is lost by that.
///
/// # Errors
/// Any I/O error; the agent has no right to mount.
pub(super) fn share(directory: &Path) -> io::Result<()> {
    // As the kernel writes it.
    let directory = fs::canonicalize(directory)?;
    let table = fs::read(MOUNTINFO)?;
    if is_shared(&table, &directory) {
        return Ok(());
    }
    let points = table.split(|b| *b == b'\n').filter_map(mount_point);
    let points: Vec<PathBuf> = points.filter(|p| p.starts_with(&directory)).collect();
    if !points.contains(&directory) {
        mount_on_itself(&directory, &points)?;
    }
    mount_change(
        &directory,
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Mounts a directory on itself with what is mounted in it. That is there twice then: in the directory as it
/// was, where nobody sees it any more, it is unmounted.
fn mount_on_itself(directory: &Path, points: &[PathBuf]) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = openat(CWD, directory, flags, Mode::empty())?;
    let before = PathBuf::from(format!("/proc/self/fd/{}", before.as_raw_fd()));
    mount_bind_recursive(directory, directory)?;
    // The newest is on top of the others.
    for point in points.iter().rev() {
        let Ok(inside) = point.strip_prefix(directory) else {
            continue;
        };
        let hidden = before.join(inside);
        if let Err(error) = unmount(&hidden, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            warn!(%error, mount = %point.display(), "Failed to unmount a volume that is mounted twice");
        }
    }
    Ok(())
}

/// True if the mount that a path is on is shared: the newest one whose mount point is the path or an ancestor
/// of it (`proc_pid_mountinfo`(5)).
fn is_shared(table: &[u8], path: &Path) -> bool {
    let mut lines = table.split(|b| *b == b'\n').rev();
    let around = |line: &&[u8]| mount_point(line).is_some_and(|point| path.starts_with(point));
    let mount = lines.find(around).unwrap_or_default();
    let fields = mount.split(|b| *b == b' ').skip(6);
    let mut optional = fields.take_while(|field| *field != b"-");
    optional.any(|field| field.starts_with(b"shared:"))
}

#[cfg(test)]
mod tests {
    use super::super::mounts::{below, mount_memory, unmount_below};
    use super::*;
    use rustix::mount::{MountFlags, mount_bind};

    #[test]
    fn the_newest_mount_around_a_path_tells() {
        let table = b"1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
                      2 1 8:2 / /a rw master:1 - ext4 /dev/b rw\n\
                      3 2 8:2 / /a/b rw,x shared:7 master:1 - ext4 shared:/dev/b rw\n\
                      4 2 8:2 / /a/c rw - nfs shared:/c rw\n";
        for (path, shared) in [
            ("/", true),
            ("/ab", true),
            ("/a", false),
            ("/a/b/c", true),
            ("/a/c", false),
        ] {
            assert_eq!(is_shared(table, Path::new(path)), shared, "{path}");
        }
    }

    #[test]
    fn a_directory_becomes_shared_once_and_keeps_what_is_mounted_in_it() {
        let around = tempfile::tempdir().unwrap();
        // Whatever the machine's own mounts are like.
        mount_bind(around.path(), around.path()).unwrap();
        mount_change(around.path(), MountPropagationFlags::PRIVATE).unwrap();
        let root = fs::canonicalize(around.path()).unwrap().join("root");
        let volume = root.join("pods/u/volume");
        fs::create_dir_all(&volume).unwrap();
        mount_memory(&volume, 1 << 16, MountFlags::empty()).unwrap();
        fs::write(volume.join("file"), "kept").unwrap();
        let mut found = vec![];
        for _ in 0..2 {
            share(&root).unwrap();
            let text = fs::read_to_string(volume.join("file")).unwrap_or_default();
            let table = fs::read(MOUNTINFO).unwrap();
            found.push((text, below(&root).unwrap(), is_shared(&table, &root)));
        }
        let unmounted = unmount_below(&volume);
        let left = below(&root).unwrap();
        unmount_below(around.path()).unwrap();
        for (text, points, shared) in found {
            assert_eq!(text, "kept");
            assert_eq!(points, [volume.clone(), root.clone()], "each is there once");
            assert!(shared);
        }
        unmounted.unwrap();
        assert_eq!(left, [root]);
    }
}
