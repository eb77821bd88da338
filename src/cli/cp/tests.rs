//! Tests of paths, and of what archives may do.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::archive::{Member, MemberKind, write_end, write_member, write_padding};
use super::*;

#[test]
fn a_path_before_a_colon_is_a_pod() {
    let remote = |pod: &str, path: &str| CpPath::Remote(pod.parse().unwrap(), path.to_owned());
    for (text, expected) in [
        ("web:/etc", remote("web", "/etc")),
        ("default/web:a:b", remote("default/web", "a:b")),
        ("./a:b", CpPath::Local("./a:b".into())),
        ("/a:b", CpPath::Local("/a:b".into())),
        ("a", CpPath::Local("a".into())),
    ] {
        assert_eq!(text.parse(), Ok(expected));
    }
    for text in ["", "web:", ":/etc"] {
        text.parse::<CpPath>().unwrap_err();
    }
}

#[test]
fn a_path_in_a_container_is_a_name_in_a_folder() {
    for (path, folder, name) in [
        ("/a/b/c/", "/a/b", "c"),
        ("/a", "/", "a"),
        ("/", "/", "."),
        ("a", ".", "a"),
        ("-a/-b", "./-a", "-b"),
        (".", "./.", "."),
        ("/a/..", "/a/..", "."),
    ] {
        assert_eq!(split(path), (folder.to_owned(), name.to_owned()), "{path}");
    }
}

#[test]
fn only_an_exit_code_or_a_missing_tool_says_that_something_is_no_folder() {
    let failed = |reason: &str| Err(StreamingError::Failed(reason.to_owned()));
    let missing = "exec: \"test\": executable file not found in $PATH: unknown";
    for (ended, expected) in [
        (Ok(0), Ok(true)),
        (Ok(1), Ok(false)),
        (failed(missing), Ok(false)),
        (
            failed("no such task"),
            Err(StreamingError::Failed("no such task".to_owned())),
        ),
        (Err(StreamingError::Broken), Err(StreamingError::Broken)),
    ] {
        assert_eq!(is_folder(ended), expected);
    }
}

fn member(kind: MemberKind, path: &str, link: &str, size: usize) -> Member {
    Member {
        kind,
        path: path.into(),
        link: link.into(),
        mode: 0o6755,
        uid: 0,
        gid: 0,
        modified: 0,
        size: size.try_into().unwrap(),
    }
}

/// An archive of members with a content.
fn archive(members: &[(MemberKind, &str, &str)]) -> Vec<u8> {
    let mut archive = vec![];
    for (kind, path, text) in members {
        let (link, content) = match kind {
            MemberKind::File => ("", *text),
            _ => (*text, ""),
        };
        let member = member(*kind, path, link, content.len());
        write_member(&mut archive, &member).unwrap();
        archive.extend(content.as_bytes());
        write_padding(&mut archive, member.size).unwrap();
    }
    write_end(&mut archive).unwrap();
    archive
}

/// A folder with a destination `to` and a file `outside` beside it.
fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let to = dir.path().join("to");
    (dir, to)
}

fn unpack(to: &Path, members: &[(MemberKind, &str, &str)]) -> io::Result<u64> {
    Destination::new(OsStr::new("x"), to).unpack(&archive(members)[..])
}

use MemberKind::{File as F, Folder as D, HardLink as H, Symlink as S};

#[test]
fn files_folders_and_hard_links_are_unpacked() {
    let (_dir, to) = place();
    let members = [
        (D, "./x", ""),
        (F, "./x/a/b", "one"),
        (H, "./x/c", "./x/a/b"),
    ];
    assert_eq!(unpack(&to, &members).unwrap(), 3);
    let (b, c) = (to.join("a/b"), to.join("c"));
    assert_eq!(fs::read(&c).unwrap(), b"one");
    let [b, c] = [b, c].map(|path| fs::metadata(path).unwrap());
    assert_eq!(b.ino(), c.ino());
    assert_eq!(b.permissions().mode() & 0o7000, 0, "no set-ID bits");
    assert_ne!(b.permissions().mode() & 0o100, 0, "it stays executable");
    // A folder that is there gets them under their name, again and again.
    for text in ["1", "22"] {
        let members = [(D, "x", ""), (F, "x/a/b", text), (H, "x/c", "x/a/b")];
        assert_eq!(unpack(&to, &members).unwrap(), 3);
        assert_eq!(fs::read(to.join("x/c")).unwrap(), text.as_bytes());
    }
    // A single file is the destination itself.
    let (_dir, to) = place();
    assert_eq!(unpack(&to, &[(F, "./x", "one")]).unwrap(), 1);
    assert_eq!(fs::read(&to).unwrap(), b"one");
}

#[test]
fn no_member_leads_out_of_the_destination() {
    for path in [
        "x/../../outside",
        "../outside",
        "/outside",
        "outside",
        "x/a/../../../outside",
        "..",
        "./../outside",
        "",
    ] {
        let (dir, to) = place();
        for members in [
            &[(D, "x", ""), (F, path, "bad")][..],
            &[(D, "x", ""), (D, path, "")],
            &[(D, "x", ""), (F, "x/f", ""), (H, path, "x/f")],
            &[(D, "x", ""), (H, "x/f", path)],
        ] {
            unpack(&to, members).unwrap_err();
        }
        let outside = fs::read(dir.path().join("outside")).unwrap();
        assert_eq!(outside, b"untouched", "{path}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{path}");
    }
}

#[test]
fn errors_have_one_line_and_paths_have_a_limit() {
    let (_dir, to) = place();
    for path in ["x/../a\nfake: line", "x/file/a\nfake: line"] {
        let members = [(D, "x", ""), (F, "x/file", ""), (F, path, "bad")];
        let error = unpack(&to, &members).unwrap_err().to_string();
        assert!(error.contains("a fake: line: "), "{error}");
    }
    let long = |length: usize| "x/".repeat(length / 2);
    for (kind, link) in [(D, String::new()), (S, long(4098)), (H, long(4098))] {
        let path = if kind == D {
            long(4098)
        } else {
            "x/l".to_owned()
        };
        let error = unpack(&to, &[(D, "x", ""), (kind, &path, &link)]).unwrap_err();
        let error = error.to_string();
        assert!(error.ends_with("invalid: a path is too long"), "{error}");
    }
}

#[test]
fn symlinks_and_devices_are_not_created() {
    let (dir, to) = place();
    let other = MemberKind::Other;
    let members = [
        (D, "x", ""),
        (S, "x/link", ".."),
        (F, "x/link/outside", "inside"),
    ];
    assert_eq!(unpack(&to, &members).unwrap(), 2);
    assert_eq!(fs::read(to.join("link/outside")).unwrap(), b"inside");
    let mut bytes = archive(&[(D, "x", ""), (other, "x/device", "")]);
    // A block device, whose sum differs by that of its kind.
    bytes[512 + 156] = b'4';
    let sum: u32 = bytes[512..1024].iter().map(|b| u32::from(*b)).sum();
    let sum = sum - bytes[660..668].iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
    bytes[660..668].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Destination::new(OsStr::new("x"), &to)
        .unpack(&bytes[..])
        .unwrap();
    assert!(!to.join("device").exists());
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"untouched");
}

#[test]
fn symlinks_that_are_there_are_not_followed() {
    let (dir, to) = place();
    fs::create_dir_all(to.join("x")).unwrap();
    symlink("../..", to.join("x/up")).unwrap();
    symlink("../../outside", to.join("x/file")).unwrap();
    for members in [
        [(D, "x", ""), (F, "x/up/outside", "bad")],
        [(D, "x", ""), (F, "x/up/new", "bad")],
        [(D, "x", ""), (F, "x/file", "bad")],
        [(D, "x", ""), (H, "x/f", "x/file")],
        [(D, "x", ""), (D, "x/up", "")],
    ] {
        unpack(&to, &members).unwrap_err();
    }
    // Nor are those under the archive's own name.
    fs::rename(to.join("x"), to.join("y")).unwrap();
    for target in ["../outside", ".."] {
        symlink(target, to.join("x")).unwrap();
        unpack(&to, &[(F, "x", "bad")]).unwrap_err();
        unpack(&to, &[(D, "x", ""), (F, "x/new", "bad")]).unwrap_err();
        fs::remove_file(to.join("x")).unwrap();
    }
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"untouched");
    assert!(!dir.path().join("new").exists());
    // The destination itself was chosen by whoever copies.
    let link = dir.path().join("link");
    symlink("to", &link).unwrap();
    unpack(&link, &[(D, "x", ""), (F, "x/good", "")]).unwrap();
    assert!(to.join("x/good").exists());
}

#[test]
fn a_pipe_in_the_way_blocks_nothing() {
    let (_dir, to) = place();
    fs::create_dir(&to).unwrap();
    let pipe = to.join("x");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    unpack(&to, &[(F, "x", "text")]).unwrap_err();
}

#[test]
fn what_is_packed_can_be_unpacked() {
    let (dir, to) = place();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("folder/empty")).unwrap();
    fs::write(from.join("folder/file"), vec![7; 100_000]).unwrap();
    fs::write(from.join("a"), "text").unwrap();
    let mut archive = vec![];
    assert!(pack(&from, OsStr::new("x"), &mut archive).unwrap());
    let name = OsStr::new("x");
    let count = Destination::new(name, &to).unpack(&archive[..]).unwrap();
    assert_eq!(count, 5);
    assert_eq!(fs::read(to.join("a")).unwrap(), b"text");
    assert_eq!(fs::read(to.join("folder/file")).unwrap(), vec![7; 100_000]);
    assert!(to.join("folder/empty").is_dir());
    // What cannot be packed is left out, with a warning.
    symlink("nowhere", from.join("link")).unwrap();
    let mut archive = vec![];
    assert!(
        pack(&from, name, &mut archive).unwrap(),
        "a link is packed as it is"
    );
    let missing = pack(&from.join("link"), name, &mut vec![]).unwrap();
    assert!(!missing);
}

/// An archive during whose writing a container swaps a folder of the source for a symlink, before the member of a name is
/// written.
struct Swapped<'a> {
    archive: Vec<u8>,
    before: &'a str,
    folder: PathBuf,
}

impl io::Write for Swapped<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.starts_with(self.before.as_bytes()) && !self.folder.is_symlink() {
            fs::rename(&self.folder, self.folder.with_extension("old")).unwrap();
            symlink("../outside", &self.folder).unwrap();
        }
        self.archive.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_symlink_meanwhile_is_not_followed() {
    for before in ["x\0", "x/a\0", "x/folder\0", "x/folder/a\0"] {
        let dir = tempfile::tempdir().unwrap();
        let (from, outside) = (dir.path().join("from"), dir.path().join("outside"));
        fs::create_dir_all(from.join("folder")).unwrap();
        fs::create_dir(&outside).unwrap();
        for name in ["a", "b"] {
            fs::write(from.join(name), "own").unwrap();
            fs::write(from.join("folder").join(name), "own").unwrap();
            fs::write(outside.join(name), "secret").unwrap();
        }
        let mut to = Swapped {
            archive: vec![],
            before,
            folder: from.join("folder"),
        };
        pack(&from, OsStr::new("x"), &mut to).unwrap();
        assert!(to.folder.is_symlink(), "{before:?} was written");
        let archive = String::from_utf8_lossy(&to.archive);
        assert!(archive.contains("own") && !archive.contains("secret"));
    }
}
