//! Tests of the Pods' folders.

use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::os::unix::fs::MetadataExt;

use crate::host::untrusted::Location;

#[test]
fn a_hosts_file_is_written_in_place_whatever_a_container_made_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Location::new(dir.path(), "").open().unwrap();
    let path = dir.path().join("etc-hosts");
    write_shared(&folder, "etc-hosts", b"first").unwrap();
    let file = fs::metadata(&path).unwrap().ino();
    for (size, text) in [
        (None, "second, longer"),
        (Some(1 << 40), "third"),
        (Some(0), "4"),
    ] {
        if let Some(size) = size {
            let spoilt = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            spoilt.set_len(size).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for _ in 0..2 {
            write_shared(&folder, "etc-hosts", text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.ino(), found.mode() & 0o777), (file, 0o644));
        }
    }
}

#[test]
fn a_full_disk_leaves_a_hosts_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let limit = c"size=64k";
    mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), limit).unwrap();
    let folder = Location::new(dir.path(), "").open().unwrap();
    write_shared(&folder, "etc-hosts", b"first").unwrap();
    let full = fs::write(dir.path().join("full"), vec![b'x'; 1 << 20]);
    let longer = write_shared(&folder, "etc-hosts", &[b'y'; 10_000]);
    let after = folder.read("etc-hosts", 100);
    let shorter = write_shared(&folder, "etc-hosts", b"next");
    let last = folder.read("etc-hosts", 100);
    drop(folder);
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    assert!(full.is_err() && longer.is_err());
    assert_eq!(after.unwrap(), b"first");
    assert!(shorter.is_ok());
    assert_eq!(last.unwrap(), b"next");
}

#[test]
fn a_root_directory_is_locked_while_an_agent_holds_its_lock_file() {
    let root = tempfile::tempdir().unwrap();
    assert!(!is_locked(root.path()));
    let lock = fs::File::create(root.path().join("lock")).unwrap();
    assert!(!is_locked(root.path()));
    lock.lock().unwrap();
    assert!(is_locked(root.path()));
    drop(lock);
    assert!(!is_locked(root.path()));
}
