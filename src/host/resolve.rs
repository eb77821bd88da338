//! Paths below a folder that containers can write to, of which no part leads out of it. The kernel resolves
//! them where it can (`openat2`(2), Linux 5.6); on older ones, and where a filter of system calls keeps it
//! away, this does by the same rules, one part of the path at a time.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

/// The most symlinks that are followed for one path, as in the kernel (`path_resolution`(7)).
const MAX_LINKS: usize = 40;
/// The most folders that a path goes down, each of which is open meanwhile.
const MAX_DEPTH: usize = 256;
/// Number of attempts while something renames parts of the path.
const TRIES: usize = 32;

/// Flags to open a folder that is no symlink.
pub(crate) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Treatment of a symlink to an absolute path, and of `..` in the folder itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// They lead out: `EXDEV`.
    Beneath,
    /// The folder is taken for the root, as in a container (`chroot`(2)).
    InRoot,
}

/// Opens what `path` names in a folder; the flags say how.
///
/// # Errors
/// The path leads out of the folder (`EXDEV`), or goes through a link of `/proc` to an open file or, on old kernels,
/// through more than 256 folders; any I/O error.
pub(crate) fn open_inside(
    folder: impl AsFd,
    path: &Path,
    flags: OFlags,
    scope: Scope,
) -> Result<OwnedFd, Errno> {
    let limits = match scope {
        Scope::Beneath => ResolveFlags::BENEATH,
        Scope::InRoot => ResolveFlags::IN_ROOT,
    };
    let limits = limits | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        match openat2(folder.as_fd(), path, flags, Mode::empty(), limits) {
            Err(Errno::AGAIN) => {}
            Err(error) if is_missing(error) => {
                return walk(folder.as_fd(), path, flags, scope);
            }
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a folder in another one by its name, if nothing is mounted on it; a symlink is not followed.
///
/// # Errors
/// It is a mount point (`EXDEV`); any I/O error.
pub(crate) fn open_on_same_mount(around: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let limits = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    match openat2(around.as_fd(), name, FOLDER, Mode::empty(), limits) {
        Err(error) if is_missing(error) => open_and_compare(around.as_fd(), name),
        result => result,
    }
}

/// True if there is no `openat2`; filters of container runtimes that do not know it say that it is not permitted.
fn is_missing(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM)
}

fn open_and_compare(around: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let found = openat(around, name, FOLDER, Mode::empty())?;
    if mount_id(around)? == mount_id(found.as_fd())? {
        Ok(found)
    } else {
        Err(Errno::XDEV)
    }
}

/// The id of the mount that an open file lies on (`proc_pid_fdinfo`(5)).
fn mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text =
        fs::read_to_string(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok()).ok_or(Errno::IO)
}

/// Resolves a path without the kernel's help. No symlink is ever followed by the kernel, and no `..` taken: the
/// folders above are those that it came through.
fn walk(
    folder: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    scope: Scope,
) -> Result<OwnedFd, Errno> {
    let mut above: Vec<OwnedFd> = vec![];
    let mut rest = VecDeque::new();
    let mut links: usize = 0;
    prepend(&mut rest, path, &mut above, scope)?;
    while let Some(part) = rest.pop_front() {
        let here = above.last().map_or(folder, AsFd::as_fd);
        if part == OsStr::new("..") {
            match above.pop() {
                Some(left) if !is_folder(&left)? => return Err(Errno::NOTDIR),
                None if scope == Scope::Beneath => return Err(Errno::XDEV),
                _ => continue,
            }
        }
        let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(here, &part, look, Mode::empty())?;
        if file_type(&found)? == FileType::Symlink
            && !(rest.is_empty() && flags.contains(OFlags::NOFOLLOW))
        {
            links = links.saturating_add(1);
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = readlinkat(&found, c"", vec![])?;
            let target = Path::new(OsStr::from_bytes(target.to_bytes()));
            prepend(&mut rest, target, &mut above, scope)?;
            continue;
        }
        if above.len() >= MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        above.push(found);
    }
    let found = above.pop();
    let found_at = found.as_ref().map_or(folder, AsFd::as_fd);
    if !flags.contains(OFlags::PATH) {
        return reopen(found_at, flags);
    }
    found.map_or_else(|| fcntl_dupfd_cloexec(folder, 0), Ok)
}

fn file_type(file: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

fn is_folder(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(file_type(file)? == FileType::Directory)
}

/// Puts the parts of a path before those that are left.
fn prepend(
    rest: &mut VecDeque<OsString>,
    path: &Path,
    above: &mut Vec<OwnedFd>,
    scope: Scope,
) -> Result<(), Errno> {
    if path.as_os_str().is_empty() {
        return Err(Errno::NOENT);
    }
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => rest.push_front(name.to_owned()),
            Component::ParentDir => rest.push_front(OsString::from("..")),
            Component::RootDir if scope == Scope::Beneath => return Err(Errno::XDEV),
            Component::RootDir => above.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(())
}

/// Opens a folder again, to be read. Nothing else is opened so: a named pipe or a device would be, too.
fn reopen(found: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::DIRECTORY;
    openat(
        found,
        c".",
        flags.difference(OFlags::NOFOLLOW),
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;

    use rustix::fs::CWD;
    use rustix::mount::{UnmountFlags, mount_bind, unmount};
    use tempfile::TempDir;

    use super::*;

    /// A folder with links of all kinds, and a file outside of it.
    struct LinkedFolder(TempDir);

    impl LinkedFolder {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("folder");
            fs::create_dir_all(folder.join("a/b")).unwrap();
            fs::create_dir_all(folder.join("outside")).unwrap();
            fs::create_dir(root.path().join("outside")).unwrap();
            fs::write(folder.join("a/file"), "").unwrap();
            for (link, target) in [
                ("to-a", "a"),
                ("a/up", ".."),
                ("a/b/far-up", "../../.."),
                ("out", "../outside"),
                ("absolute", "/outside"),
                ("root", "/"),
                ("loop", "loop"),
                ("long", "a/./b/../../to-a/b"),
                ("through-file", "a/file/../b"),
                ("dangling", "none"),
                ("a/b/back", "/to-a/up/long"),
            ] {
                symlink(target, folder.join(link)).unwrap();
            }
            for n in 0..=MAX_LINKS {
                let target = if n == 0 {
                    "a".to_owned()
                } else {
                    format!("chain-{}", n - 1)
                };
                symlink(target, folder.join(format!("chain-{n}"))).unwrap();
            }
            Self(root)
        }

        fn open(&self) -> OwnedFd {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            openat(CWD, self.0.path().join("folder"), flags, Mode::empty()).unwrap()
        }
    }

    fn inode(file: Result<OwnedFd, Errno>) -> Result<(u64, u64), Errno> {
        let file = fs::File::from(file?);
        let found = file.metadata().unwrap();
        Ok((found.dev(), found.ino()))
    }

    #[test]
    fn a_path_leads_to_the_same_without_the_kernels_help() {
        let place = LinkedFolder::new();
        let folder = place.open();
        let chain = |n: usize| format!("chain-{n}/b");
        let (short, long) = (chain(MAX_LINKS - 1), chain(MAX_LINKS));
        let paths = [
            ".",
            "a",
            "a/b",
            "a/file",
            "to-a",
            "to-a/b",
            "a/up",
            "a/up/a/up/a",
            "a/b/far-up",
            "a/b/far-up/outside",
            "a/b/far-up/folder",
            "out",
            "out/x",
            "absolute",
            "root/a",
            "loop",
            "loop/x",
            "long",
            "long/..",
            "through-file",
            "dangling",
            "dangling/x",
            "a/b/back",
            "none",
            "a/file/x",
            "a/file/..",
            "..",
            "../outside",
            "a/../..",
            "/",
            "/a",
            "/..",
            "",
            short.as_str(),
            long.as_str(),
        ];
        let kinds = [
            OFlags::PATH,
            OFlags::PATH | OFlags::NOFOLLOW,
            OFlags::RDONLY | OFlags::DIRECTORY,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        ];
        let mut opened: usize = 0;
        for path in paths.map(Path::new) {
            for (flags, scope) in kinds
                .into_iter()
                .flat_map(|f| [(f, Scope::Beneath), (f, Scope::InRoot)])
            {
                let by_kernel = inode(open_inside(&folder, path, flags, scope));
                let flags = flags | OFlags::CLOEXEC;
                let by_steps = inode(walk(folder.as_fd(), path, flags, scope));
                // What is no folder is refused by another name where the last part is a symlink.
                let alike = |e: Errno| if e == Errno::LOOP { Errno::NOTDIR } else { e };
                let (by_kernel, by_steps) = (by_kernel.map_err(alike), by_steps.map_err(alike));
                assert_eq!(by_steps, by_kernel, "{path:?} {flags:?} {scope:?}");
                opened += usize::from(by_steps.is_ok());
            }
        }
        assert!(opened > 100, "{opened}");
    }

    #[test]
    fn links_of_open_files_are_not_followed() {
        let place = LinkedFolder::new();
        let secret = place.0.path().join("outside");
        let secret = fs::File::open(secret).unwrap();
        let path = PathBuf::from(format!("self/fd/{}", secret.as_raw_fd()));
        let proc = openat(CWD, "/proc", OFlags::PATH, Mode::empty()).unwrap();
        for scope in [Scope::Beneath, Scope::InRoot] {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            assert!(open_inside(&proc, &path, flags, scope).is_err());
            assert!(walk(proc.as_fd(), &path, flags, scope).is_err());
        }
    }

    #[test]
    fn a_path_opens_few_files() {
        let root = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(MAX_DEPTH + 1);
        fs::create_dir_all(root.path().join(&deep)).unwrap();
        let folder = openat(CWD, root.path(), OFlags::PATH, Mode::empty()).unwrap();
        let result = walk(
            folder.as_fd(),
            Path::new(&deep),
            OFlags::PATH,
            Scope::Beneath,
        );
        assert_eq!(result.unwrap_err(), Errno::NAMETOOLONG);
        let within = "d/".repeat(MAX_DEPTH);
        walk(
            folder.as_fd(),
            Path::new(&within),
            OFlags::PATH,
            Scope::Beneath,
        )
        .unwrap();
    }

    #[test]
    fn a_mount_of_the_same_disk_is_seen_without_the_kernels_help() {
        let root = tempfile::tempdir().unwrap();
        let (plain, mounted) = (root.path().join("plain"), root.path().join("mounted"));
        fs::create_dir(&plain).unwrap();
        fs::create_dir(&mounted).unwrap();
        mount_bind(&plain, &mounted).unwrap();
        let folder = openat(CWD, root.path(), OFlags::PATH, Mode::empty()).unwrap();
        let open = |name: &CStr| {
            let by_kernel = open_on_same_mount(&folder, name).map(drop);
            let compared = open_and_compare(folder.as_fd(), name).map(drop);
            assert_eq!(compared, by_kernel, "{name:?}");
            compared
        };
        let results = (open(c"plain"), open(c"mounted"));
        unmount(&mounted, UnmountFlags::DETACH).unwrap();
        assert_eq!(results, (Ok(()), Err(Errno::XDEV)));
    }
}
