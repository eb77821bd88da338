//! The group of a Pod's volumes (Kubernetes, Configure a Security Context, "fsGroup").

use std::io;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, RawMode, Stat, chmodat, chownat, fchmod, fchown, fstat,
};

use super::tree;

/// Permissions of the group on files, and on folders, whose content gets the group too.
const READ: RawMode = 0o440;
const READ_WRITE: RawMode = 0o660;
const FOLDER: RawMode = 0o2110;

/// Gives a folder and all in it to a group. Symlinks are given, not followed. No container may have the
/// folder meanwhile.
pub(super) fn give(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let group = Some(Gid::from_raw(group));
    let folder = tree::open(path)?;
    let found = fstat(&folder)?;
    fchown(&folder, None, group)?;
    fchmod(&folder, mode(&found, read_only))?;
    tree::visit(folder, |around, name, found| {
        chownat(around, name, None, group, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => Ok(()),
            _ => chmodat(around, name, mode(found, read_only), AtFlags::empty()),
        }
    })
}

/// As it is, with what the group may do besides.
fn mode(found: &Stat, read_only: bool) -> Mode {
    let group = if read_only { READ } else { READ_WRITE };
    let folder = if tree::is_folder(found) { FOLDER } else { 0 };
    Mode::from_raw_mode(found.st_mode & 0o7777 | group | folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn all_in_a_folder_is_given_to_the_group_and_nothing_outside() {
        let root = tempfile::tempdir().unwrap();
        let (folder, outside) = (root.path().join("v"), root.path().join("outside"));
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("inner/file"), "").unwrap();
        fs::write(&outside, "").unwrap();
        fs::set_permissions(folder.join("inner/file"), Permissions::from_mode(0o600)).unwrap();
        symlink(&outside, folder.join("link")).unwrap();
        give(&folder, 2000, false).unwrap();
        let found = |path: &str| {
            let found = fs::metadata(folder.join(path)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        for path in ["", "inner"] {
            assert_eq!(found(path).0, 2000, "{path:?}");
            assert_eq!(found(path).1 & 0o2770, 0o2770, "{path:?}");
        }
        assert_eq!(found("inner/file"), (2000, 0o660));
        assert_eq!(fs::metadata(&outside).unwrap().gid(), 0);
    }

    #[test]
    fn the_deepest_folder_is_given_too() {
        let root = tree::tests::MemoryFilesystem::new();
        let deepest = tree::tests::dig(root.path());
        give(root.path(), 2000, false).unwrap();
        assert_eq!(fstat(&deepest).unwrap().st_gid, 2000);
    }
}
