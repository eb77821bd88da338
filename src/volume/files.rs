//! Files that appear whole or not at all, all of a volume at once: they stand in a folder of their own,
//! `..data` points to it, and the names that containers see point through `..data`. A change is another
//! folder and one rename of `..data`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::ownership;
use super::payload::Payload;
use crate::host::atomic_file;
use crate::host::untrusted::Location;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Brings the volume's files to what the payload says.
///
/// # Errors
/// Any I/O error; a path leads out of the volume.
pub(super) fn write(volume: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let before = fs::read_link(volume.join(DATA)).ok();
    let current = before.as_ref().map(|folder| volume.join(folder));
    if !current.is_some_and(|folder| holds(&folder, payload)) {
        let name = fresh_name();
        fill(&volume.join(&name), payload, group)?;
        let (new, data) = (volume.join(DATA_NEW), volume.join(DATA));
        atomic_file::replace_symlink(Path::new(&name), &new, &data)?;
    }
    let names = top_names(payload);
    for name in &names {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    clear(volume, &names)
}

/// A file's path is relative and goes down only, and its first part is none of the volume's own names.
fn check_path(path: &str) -> io::Result<()> {
    let down = |part: Component<'_>| matches!(part, Component::Normal(_));
    let good =
        !path.is_empty() && !path.starts_with("..") && Path::new(path).components().all(down);
    if good {
        return Ok(());
    }
    let message = format!("{path:?} is no path of a file in a volume");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn fresh_name() -> String {
    let now = jiff::Timestamp::now();
    let time = now.strftime("%Y_%m_%d_%H_%M_%S");
    format!("..{time}.{:010}", fastrand::u32(..))
}

/// The first part of each file's path.
fn top_names(payload: &Payload) -> BTreeSet<OsString> {
    let first = |path: &String| Path::new(path).iter().next().map(OsString::from);
    payload.keys().filter_map(first).collect()
}

fn fill(folder: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    make_open_folder(folder)?;
    for (path, file) in payload {
        let mut around = folder.to_owned();
        for part in Path::new(path).parent().into_iter().flatten() {
            around.push(part);
            make_open_folder(&around)?;
        }
        let path = folder.join(path);
        let mut options = OpenOptions::new();
        let mut written = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        written.write_all(&file.content)?;
        fs::set_permissions(&path, Permissions::from_mode(file.mode))?;
    }
    match group {
        Some(group) => ownership::give(folder, group, true),
        None => Ok(()),
    }
}

/// Creates a folder, if it is missing, that everybody may list, whatever the mask of the process is.
fn make_open_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}

/// True if a folder holds exactly these files.
fn holds(folder: &Path, payload: &Payload) -> bool {
    let same = |(path, file): (&String, &super::payload::File)| {
        let path = folder.join(path);
        let mode = fs::symlink_metadata(&path).map(|m| m.mode() & 0o777);
        let size = file.content.len() as u64;
        let found = Location::around(folder, &path)
            .and_then(|(around, name)| around.open().ok()?.read(name, size).ok());
        found.is_some_and(|content| content == file.content)
            && mode.is_ok_and(|mode| mode & file.mode == file.mode)
    };
    let mut found = BTreeSet::new();
    list(folder, Path::new(""), &mut found).is_ok()
        && found.len() == payload.len()
        && payload.iter().all(same)
}

fn list(folder: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(folder, &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

/// Removes names and folders that are not of use any more.
fn clear(volume: &Path, names: &BTreeSet<OsString>) -> io::Result<()> {
    let current = fs::read_link(volume.join(DATA))?;
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == DATA || current.as_os_str() == name || names.contains(&name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |(path, content): &(&str, &str)| {
            let content = content.as_bytes().to_vec();
            (
                (*path).to_owned(),
                File {
                    content,
                    mode: 0o640,
                },
            )
        };
        files.iter().map(file).collect()
    }

    fn names(volume: &Path) -> Vec<String> {
        let entries = fs::read_dir(volume).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|n| !n.starts_with("..")).collect();
        names.sort();
        names
    }

    #[test]
    fn files_follow_the_payload_with_their_modes_and_group() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path();
        let first = payload(&[("a", "1"), ("deep/er/b", "2")]);
        write(volume, &first, Some(2000)).unwrap();
        assert_eq!(names(volume), ["a", "deep"]);
        assert_eq!(fs::read_to_string(volume.join("deep/er/b")).unwrap(), "2");
        let found = fs::metadata(volume.join("a")).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o640, 2000));
        let data = fs::read_link(volume.join(DATA)).unwrap();
        write(volume, &first, Some(2000)).unwrap();
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), data, "no change");
        write(volume, &payload(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!(names(volume), ["a", "c"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert_eq!(
            fs::read_dir(volume).unwrap().count(),
            4,
            "nothing old is left"
        );
    }

    #[test]
    fn a_reader_never_sees_a_half_written_state() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().to_owned();
        let state = |n: usize| {
            let text = n.to_string().repeat(2000);
            payload(&[("a", &text), ("b", &text)])
        };
        write(&volume, &state(0), None).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicUsize::new(0));
        let reader = {
            let (volume, done, seen) = (volume.clone(), Arc::clone(&done), Arc::clone(&seen));
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // Both through one reading of where the data is, as a careful reader does.
                    let folder = volume.join(fs::read_link(volume.join(DATA)).unwrap());
                    let both = ["a", "b"].map(|name| fs::read(folder.join(name)));
                    if let [Ok(a), Ok(b)] = both {
                        assert_eq!(a, b);
                        assert!(!a.is_empty());
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(!fs::read(volume.join("a")).unwrap_or(vec![1]).is_empty());
                }
            })
        };
        let mut n = 0;
        // Beside other work the reader may come late.
        while n < 300 || seen.load(Ordering::Relaxed) < 100 && !reader.is_finished() {
            write(&volume, &state(n % 10), None).unwrap();
            n += 1;
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for path in ["", "/etc/passwd", "../x", "a/../../x", "..data", "a/./../b"] {
            let result = write(root.path(), &payload(&[(path, "x")]), None);
            assert!(result.is_err(), "{path:?}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
