//! The group of a Pod's volumes (Kubernetes, Configure a Security Context, "fsGroup").

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// What the group may do with files, and besides with folders, whose content gets the group too.
const READ: u32 = 0o440;
const READ_WRITE: u32 = 0o660;
const FOLDER: u32 = 0o2110;

/// Gives a folder and all in it to a group. Symlinks are given, not followed.
pub(super) fn give(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if found.is_symlink() {
        return Ok(());
    }
    let mode = found.mode() & 0o7777 | wanted(&found, read_only);
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Whether a folder itself has the group and the permissions already.
pub(super) fn root_matches(path: &Path, group: u32, read_only: bool) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| {
        let wanted = wanted(&found, read_only);
        found.gid() == group && found.mode() & wanted == wanted
    })
}

fn wanted(found: &Metadata, read_only: bool) -> u32 {
    let mode = if read_only { READ } else { READ_WRITE };
    if found.is_dir() { mode | FOLDER } else { mode }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_in_a_folder_is_given_to_the_group_and_nothing_outside() {
        let root = tempfile::tempdir().unwrap();
        let (folder, outside) = (root.path().join("v"), root.path().join("outside"));
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("inner/file"), "").unwrap();
        fs::write(&outside, "").unwrap();
        fs::set_permissions(folder.join("inner/file"), Permissions::from_mode(0o600)).unwrap();
        symlink(&outside, folder.join("link")).unwrap();
        assert!(!root_matches(&folder, 2000, false));
        give(&folder, 2000, false).unwrap();
        assert!(root_matches(&folder, 2000, false));
        let found = |path: &str| {
            let found = fs::metadata(folder.join(path)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(found("inner").0, 2000);
        assert_eq!(found("inner").1 & 0o2770, 0o2770);
        assert_eq!(found("inner/file"), (2000, 0o660));
        assert_eq!(fs::metadata(&outside).unwrap().gid(), 0);
    }
}
