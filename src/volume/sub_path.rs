//! Parts of volumes that containers mount (`subPath`).
//!
//! Containers can write to a volume, so what stands in it is not to be trusted: a symlink may lead out
//! of it, and may be swapped in meanwhile. The path is resolved without ever leaving the volume's
//! root, and what is mounted is what was found, not its name.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::mount_bind;

use super::{make_folder, mounts};
use crate::host::resolve::{Scope, open_inside};

/// Mounts the part `path` of the volume at `root` on `target`, which is made. Folders that are not
/// there are made in the volume with its root's own mode.
///
/// # Errors
/// Any I/O error; the path leads out of the volume.
pub(super) fn prepare(root: &Path, path: &str, target: &Path) -> io::Result<()> {
    let whole = open_root(root)?;
    let mut inside = Path::new(path).to_owned();
    let mut part = resolve(&whole, &inside, OFlags::PATH);
    // A symlink may name a place in the volume by its path on the node. What it names now is only a
    // suggestion: it is resolved like any other path.
    if let Err(Errno::XDEV) = part
        && let Some(named) = named_inside(root, &inside)
    {
        inside = named;
        part = resolve(&whole, &inside, OFlags::PATH);
    }
    if let Err(Errno::NOENT) = part {
        make_folders(&whole, &inside)?;
        part = resolve(&whole, &inside, OFlags::PATH);
    }
    let part = part.map_err(|e| leads_out(e, path))?;
    if fs::symlink_metadata(target).is_ok() {
        mounts::unmount_below(target)?;
    }
    make_target(target, &part)?;
    let found = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    Ok(mount_bind(found, target)?)
}

fn leads_out(error: Errno, path: &str) -> io::Error {
    match error {
        Errno::XDEV | Errno::LOOP => {
            let message = format!("the sub path {path:?} leads out of the volume");
            io::Error::new(io::ErrorKind::PermissionDenied, message)
        }
        other => other.into(),
    }
}

/// A path of the volume without the symlinks in it, as far as it is there, if it ends in the volume.
fn named_inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let root = fs::canonicalize(root).ok()?;
    let mut there = root.join(path);
    let mut missing = vec![];
    let found = loop {
        match fs::canonicalize(&there) {
            Ok(found) => break found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(there.file_name()?.to_owned());
                there.pop();
            }
            Err(_) => return None,
        }
    };
    let mut inside = Path::new(".").join(found.strip_prefix(&root).ok()?);
    inside.extend(missing.into_iter().rev());
    Some(inside)
}

/// The volume's root: a folder, or a single file.
fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat(CWD, root, flags, Mode::empty())?)
}

fn resolve(whole: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_inside(whole, path, flags, Scope::Beneath)
}

/// Makes the folders of a path one by one, each in what its parent was found to be.
fn make_folders(whole: &OwnedFd, path: &Path) -> io::Result<()> {
    let mode = Mode::from_raw_mode(fstat(whole)?.st_mode & 0o7777);
    let folder = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut above = PathBuf::from(".");
    for part in path {
        let here = above.join(part);
        let written = || here.display().to_string();
        let parent = resolve(whole, &above, folder).map_err(|e| leads_out(e, &written()))?;
        match mkdirat(&parent, part, mode) {
            Ok(()) => {
                let flags = folder | OFlags::NOFOLLOW;
                let new = resolve(&parent, Path::new(part), flags);
                // Whatever the mask of the process is.
                fchmod(new.map_err(|e| leads_out(e, &written()))?, mode)?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        above = here;
    }
    Ok(())
}

/// Makes what a part of a volume is mounted on: a folder for a folder, a file for anything else.
fn make_target(target: &Path, part: &OwnedFd) -> io::Result<()> {
    let is_folder = FileType::from_raw_mode(fstat(part)?.st_mode) == FileType::Directory;
    if let Ok(found) = fs::symlink_metadata(target) {
        if found.is_dir() == is_folder {
            return Ok(());
        }
        if found.is_dir() {
            fs::remove_dir(target)?;
        } else {
            fs::remove_file(target)?;
        }
    }
    if is_folder {
        return make_folder(target);
    }
    if let Some(around) = target.parent() {
        make_folder(around)?;
    }
    fs::File::create_new(target).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A folder for a volume, one for what must not be reached, and one for targets; what is mounted
    /// goes with it.
    struct TestVolume(tempfile::TempDir);

    impl TestVolume {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for folder in ["volume", "outside"] {
                fs::create_dir(root.path().join(folder)).unwrap();
            }
            fs::write(root.path().join("outside/secret"), "secret").unwrap();
            Self(root)
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn prepare(&self, path: &str) -> io::Result<()> {
            prepare(&self.path("volume"), path, &self.path("target/0"))
        }
    }

    impl Drop for TestVolume {
        fn drop(&mut self) {
            let _ = mounts::unmount_below(self.0.path());
        }
    }

    #[test]
    fn folders_are_made_with_the_mode_of_the_volume_and_mounted() {
        let place = TestVolume::new();
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(place.path("volume"), mode).unwrap();
        place.prepare("a/b").unwrap();
        fs::write(place.path("target/0/file"), "x").unwrap();
        assert_eq!(
            fs::read_to_string(place.path("volume/a/b/file")).unwrap(),
            "x"
        );
        let found = fs::metadata(place.path("volume/a")).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o777);
        place.prepare("a/b/file").unwrap();
        assert_eq!(
            fs::read_to_string(place.path("target/0")).unwrap(),
            "x",
            "a file now"
        );
        assert_eq!(mounts::below(&place.path("target")).unwrap().len(), 1);
    }

    #[test]
    fn a_symlink_inside_the_volume_is_followed() {
        let place = TestVolume::new();
        fs::create_dir(place.path("volume/real")).unwrap();
        symlink("real", place.path("volume/link")).unwrap();
        place.prepare("link/new").unwrap();
        assert!(place.path("volume/real/new").is_dir());
    }

    #[test]
    fn a_symlink_that_names_a_place_in_the_volume_by_its_whole_path_is_followed() {
        let place = TestVolume::new();
        fs::create_dir(place.path("volume/real")).unwrap();
        fs::write(place.path("volume/real/file"), "x").unwrap();
        symlink(place.path("volume/real"), place.path("volume/link")).unwrap();
        symlink(place.path("volume"), place.path("volume/all")).unwrap();
        // The volume itself may be named by a symlink too.
        symlink("volume", place.path("alias")).unwrap();
        for (root, path, file) in [
            ("volume", "link", "file"),
            ("volume", "all", "real/file"),
            ("alias", "all/link", "file"),
        ] {
            prepare(&place.path(root), path, &place.path("target/0")).unwrap();
            let file = place.path("target/0").join(file);
            assert_eq!(fs::read_to_string(file).unwrap(), "x", "{root} {path}");
        }
        place.prepare("link/new/deep").unwrap();
        assert!(place.path("volume/real/new/deep").is_dir());
        symlink(place.path("volume/none"), place.path("volume/dangling")).unwrap();
        for path in ["dangling", "dangling/new"] {
            assert!(place.prepare(path).is_err(), "{path}");
        }
        assert!(!place.path("volume/none").exists());
    }

    #[test]
    fn a_symlink_out_of_the_volume_is_refused_and_nothing_is_made_there() {
        for target in [
            "../outside",
            "/etc",
            "../../../../../../etc",
            "/proc/self/root",
        ] {
            let place = TestVolume::new();
            symlink(target, place.path("volume/link")).unwrap();
            for path in ["link", "link/new", "link/../../outside", "link/secret"] {
                let error = place.prepare(path).unwrap_err();
                assert!(
                    error.to_string().contains("leads out"),
                    "{target} {path}: {error}"
                );
            }
            assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 1);
            assert!(
                mounts::below(&place.path("target"))
                    .unwrap_or_default()
                    .is_empty()
            );
        }
    }

    #[test]
    fn a_symlink_swapped_in_meanwhile_leads_nowhere_either() {
        let place = TestVolume::new();
        fs::create_dir(place.path("volume/a")).unwrap();
        symlink("../outside", place.path("volume/evil")).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let swapper = {
            let (volume, done) = (place.path("volume"), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for (from, to) in [("a", "held"), ("evil", "a"), ("a", "evil"), ("held", "a")] {
                        let _ = fs::rename(volume.join(from), volume.join(to));
                    }
                }
            })
        };
        let mut prepared = 0;
        // Beside other work the swapper may keep the folder away for long.
        for round in 0..100_000 {
            if round >= 400 && prepared > 0 {
                break;
            }
            if place.prepare("a/sub").is_ok() {
                prepared += 1;
                assert!(!place.path("target/0/secret").exists());
            }
            assert!(!place.path("outside/sub").exists());
        }
        done.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        assert!(prepared > 0);
    }
}
