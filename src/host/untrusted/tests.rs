use super::*;
use rustix::fs::mknodat;
use std::fs;
use std::os::unix::fs::symlink;

/// A folder with one beside it that must not be reached.
fn place() -> (tempfile::TempDir, Location) {
    let root = tempfile::tempdir().unwrap();
    for folder in ["logs/pod", "outside"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    fs::write(root.path().join("outside/secret"), "secret").unwrap();
    let location = Location::new(root.path().join("logs"), "pod");
    (root, location)
}

#[test]
fn only_regular_files_of_one_name_are_opened() {
    let (root, location) = place();
    let at = |name: &str| location.path().join(name);
    fs::write(at("file"), "content").unwrap();
    let outside = root.path().join("outside/secret");
    symlink(&outside, at("link")).unwrap();
    symlink("file", at("inner-link")).unwrap();
    fs::hard_link(&outside, at("hard")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, 0o600.into(), 0).unwrap();
    let folder = location.open().unwrap();
    assert_eq!(folder.read("file", 7).unwrap(), b"content");
    assert_eq!(folder.read_end("file", 3).unwrap(), (b"ent".to_vec(), 4));
    assert!(folder.read("file", 6).is_err());
    for (name, found) in [
        ("link", "a symlink"),
        ("inner-link", "a symlink"),
        ("hard", "several names"),
        ("folder", "a folder"),
        ("pipe", "a named pipe"),
    ] {
        let error = folder.open(name).unwrap_err().to_string();
        let path = at(name).display().to_string();
        assert!(error.starts_with(&path) && error.contains(found), "{error}");
        assert!(folder.open_to_write(name).is_err(), "{name}");
        assert!(!folder.find(name).unwrap().unwrap().is_plain, "{name}");
    }
    let missing = folder.open("none").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    assert_eq!(folder.find("none").unwrap(), None);
}

#[test]
fn no_link_on_the_way_down_is_followed() {
    let (root, location) = place();
    symlink("../outside", root.path().join("logs/link")).unwrap();
    let outside = Location::new(root.path().join("logs"), "link");
    let error = outside.open().unwrap_err().to_string();
    assert!(error.contains("found no folder"), "{error}");
    for inside in ["../outside", "/etc", "pod/../../outside"] {
        let outside = Location::new(root.path().join("logs"), inside);
        assert!(outside.open().is_err(), "{inside}");
    }
    // The known folder itself may be one.
    symlink("logs", root.path().join("known")).unwrap();
    let known = Location::new(root.path().join("known"), "pod");
    known.open().unwrap().create_new("file", 0o600).unwrap();
    assert!(location.path().join("file").is_file());
}

#[test]
fn a_folder_is_created_in_place_of_a_link_to_another() {
    let (root, location) = place();
    symlink("../../outside", location.path().join("c")).unwrap();
    let folder = location.join("c").create(0o755).unwrap();
    folder.create_new("file", 0o600).unwrap();
    assert!(location.path().join("c/file").is_file());
    assert!(!root.path().join("outside/file").exists());
    let again = location.join("c").create(0o755).unwrap();
    assert_eq!(again.names(|_| true).unwrap(), ["file"]);
}

#[test]
fn new_files_never_go_through_a_planted_link() {
    let (root, location) = place();
    let folder = location.open().unwrap();
    let outside = root.path().join("outside/secret");
    symlink(&outside, location.path().join("file")).unwrap();
    let error = folder.create_new("file", 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    folder
        .replace("file", b"new", 0o600, Durability::Synced)
        .unwrap();
    assert_eq!(folder.read("file", 10).unwrap(), b"new");
    assert_eq!(fs::read_to_string(outside).unwrap(), "secret");
    assert_eq!(folder.names(|_| true).unwrap(), ["file"]);
}

#[test]
fn a_file_of_the_host_is_read_within_its_bound() {
    let (root, _) = place();
    let link = root.path().join("link");
    symlink("outside/secret", &link).unwrap();
    assert_eq!(read_path(&link, 6).unwrap(), b"secret");
    for (path, limit) in [
        (link.as_path(), 5),
        (Path::new("/dev/zero"), 5),
        (root.path(), 5),
    ] {
        let error = read_path(path, limit).unwrap_err().to_string();
        assert!(error.contains("found "), "{error}");
    }
}
