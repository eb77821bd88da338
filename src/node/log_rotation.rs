//! Rotating one container's log: `N.log` becomes `N.log.YYYYMMDD-HHMMSS`, the runtime begins a new
//! `N.log`, and the parts before are compressed and, beyond the number of files to keep, removed.
//!
//! No line is lost: until the runtime has begun the new file it writes to the old one under its new
//! name, which stays as it is until the next rotation, so that log shippers can finish it too. A
//! rotation that was cut off at any instant is finished by the next.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::debug;

use crate::blocking::blocking;
use crate::cri::Client;
use crate::cri::v1::ReopenContainerLogRequest;

const COMPRESSED: &str = ".gz";
const UNFINISHED: &str = ".tmp";
/// The times in names of rotated parts: in UTC, so that their order is that of the names.
const TIME: &str = "%Y%m%d-%H%M%S";

/// How containers' logs are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// The size in bytes from which a log is rotated; `None` for never.
    pub max_size: Option<u64>,
    /// The files of one container to keep, the one that is written to among them; at least 2.
    pub max_files: usize,
    /// How often logs are looked at.
    pub interval: Duration,
}

/// Rotates the log of a running container.
///
/// # Errors
/// The log could not be rotated and is as it was, or its earlier parts could not be tidied up.
pub(super) async fn rotate(
    client: &Client,
    container_id: &str,
    log: &Path,
    max_files: usize,
) -> anyhow::Result<()> {
    let path = log.to_owned();
    // A full disk keeps parts from being compressed, which must not let the log grow on.
    let tidied = blocking(move || tidy(&path, max_files)).await;
    let rotated = with_suffix(log, &format!(".{}", Timestamp::now().strftime(TIME)));
    if rotated.exists() || with_suffix(&rotated, COMPRESSED).exists() {
        // A name for each second.
        return tidied;
    }
    fs::rename(log, &rotated).with_context(|| format!("cannot rename {}", log.display()))?;
    if let Err(error) = reopen(client, container_id).await {
        put_back(&rotated, log).with_context(|| error.to_string())?;
        return Err(error);
    }
    debug!(log = %log.display(), "rotated the log");
    tidied
}

/// Has the runtime write the container's log to its path.
pub(super) async fn reopen(client: &Client, container_id: &str) -> anyhow::Result<()> {
    let request = ReopenContainerLogRequest {
        container_id: container_id.to_owned(),
    };
    client.reopen_container_log(request).await?;
    Ok(())
}

/// Takes a renaming back, unless the runtime has begun a new file all the same.
fn put_back(rotated: &Path, log: &Path) -> anyhow::Result<()> {
    match renameat_with(CWD, rotated, CWD, log, RenameFlags::NOREPLACE) {
        // The Pod may have been removed meanwhile.
        Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot rename {}", rotated.display())),
    }
}

/// Whether the name is that of a part of the log `log` that a rotation made or left unfinished.
pub(super) fn is_part(name: &str, log: &str) -> bool {
    let rest = name.strip_prefix(log).and_then(|r| r.strip_prefix('.'));
    let Some(rest) = rest else {
        return false;
    };
    let time = rest
        .strip_suffix(COMPRESSED)
        .or_else(|| rest.strip_suffix(UNFINISHED))
        .unwrap_or(rest);
    time.len() == "YYYYMMDD-HHMMSS".len()
        && time.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Removes parts that are too many or left over, and compresses the others.
fn tidy(log: &Path, max_files: usize) -> anyhow::Result<()> {
    let parts =
        parts(log).with_context(|| format!("cannot list the parts of {}", log.display()))?;
    let upkeep = upkeep(parts, max_files);
    let at = |name: &String| log.with_file_name(name);
    for part in upkeep.remove.iter().map(at) {
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    for part in upkeep.compress.iter().map(at) {
        compress(&part).with_context(|| format!("cannot compress {}", part.display()))?;
    }
    Ok(())
}

fn parts(log: &Path) -> io::Result<Vec<String>> {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let mut parts = vec![];
    for entry in fs::read_dir(log.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?.file_name().to_string_lossy().into_owned();
        if is_part(&entry, &name) {
            parts.push(entry);
        }
    }
    Ok(parts)
}

/// What is to be done about the parts of a log before it is rotated once more.
#[derive(Debug, PartialEq, Eq)]
struct Upkeep {
    remove: Vec<String>,
    compress: Vec<String>,
}

fn upkeep(mut parts: Vec<String>, max_files: usize) -> Upkeep {
    parts.sort();
    let is_compressed = |part: &String| parts.contains(&format!("{part}{COMPRESSED}"));
    let is_left_over = |part: &&String| part.ends_with(UNFINISHED) || is_compressed(part);
    let (mut remove, good): (Vec<_>, Vec<_>) =
        parts.iter().cloned().partition(|p| is_left_over(&p));
    // The log itself, and the part that it is about to become.
    let too_many = good.len().saturating_add(2).saturating_sub(max_files);
    let (oldest, keep) = good.split_at(too_many.min(good.len()));
    remove.extend_from_slice(oldest);
    let plain = keep.iter().filter(|part| !part.ends_with(COMPRESSED));
    Upkeep {
        remove,
        compress: plain.cloned().collect(),
    }
}

/// Puts a compressed file in the place of a part, whole or not at all.
fn compress(part: &Path) -> io::Result<()> {
    let unfinished = with_suffix(part, UNFINISHED);
    let written = write_compressed(part, &unfinished);
    if let Err(error) = written {
        // The next rotation removes it, if this cannot.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    fs::rename(&unfinished, with_suffix(part, COMPRESSED))?;
    fs::remove_file(part)
}

fn write_compressed(part: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(part)?;
    let mode = source.metadata()?.permissions().mode() & 0o777;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(to)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("0.log.{name}")).collect()
    }

    const T1: &str = "20260101-000001";
    const T2: &str = "20260101-000002";
    const T3: &str = "20260102-000000";

    #[test]
    fn the_oldest_parts_go_and_the_others_are_compressed() {
        let gz = |time: &str| format!("{time}.gz");
        let tmp = |time: &str| format!("{time}.tmp");
        for (parts, max_files, remove, compress) in [
            (vec![], 5, vec![], vec![]),
            (vec![T1.into()], 5, vec![], vec![T1.into()]),
            (vec![gz(T1), T2.into()], 4, vec![], vec![T2.into()]),
            (vec![gz(T1), T2.into()], 3, vec![gz(T1)], vec![T2.into()]),
            (
                vec![T3.into(), gz(T1), gz(T2)],
                2,
                vec![gz(T1), gz(T2), T3.into()],
                vec![],
            ),
            // A rotation was cut off while it compressed, and after.
            (
                vec![gz(T1), T2.into(), tmp(T2)],
                5,
                vec![tmp(T2)],
                vec![T2.into()],
            ),
            (
                vec![T1.into(), gz(T1), T2.into()],
                5,
                vec![T1.into()],
                vec![T2.into()],
            ),
            // What is left over does not count.
            (
                vec![T1.into(), gz(T1), tmp(T2)],
                3,
                vec![T1.into(), tmp(T2)],
                vec![],
            ),
        ] {
            let full =
                |times: &[String]| names(&times.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = Upkeep {
                remove: full(&remove),
                compress: full(&compress),
            };
            assert_eq!(upkeep(full(&parts), max_files), expected, "{parts:?}");
        }
    }

    #[test]
    fn only_what_a_rotation_made_is_a_part() {
        for name in [
            "0.log.20260101-000001",
            "0.log.20260101-000001.gz",
            "0.log.20260101-000001.tmp",
        ] {
            assert!(is_part(name, "0.log"), "{name}");
        }
        for name in [
            "0.log",
            "0.log.bak",
            "0.log.20260101-000001.bak",
            "0.log.20260101-00000",
            "0.log.20260101x000001",
            "10.log.20260101-000001",
            "0.log20260101-000001",
        ] {
            assert!(!is_part(name, "0.log"), "{name}");
        }
    }

    #[test]
    fn a_compressed_part_has_all_that_was_in_it_and_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        fs::write(&log, "now").unwrap();
        let part = dir.path().join(names(&[T1]).remove(0));
        let lines = "a line\n".repeat(10_000);
        fs::write(&part, &lines).unwrap();
        fs::set_permissions(&part, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(with_suffix(&part, UNFINISHED), "half").unwrap();
        fs::write(dir.path().join("0.log.bak"), "theirs").unwrap();
        tidy(&log, 5).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let compressed = format!("0.log.{T1}.gz");
        assert_eq!(left, ["0.log", compressed.as_str(), "0.log.bak"]);
        let file = File::open(dir.path().join(compressed)).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let mut text = String::new();
        let mut decoder = flate2::read::GzDecoder::new(file);
        decoder.read_to_string(&mut text).unwrap();
        assert_eq!(text, lines);
    }

    #[test]
    fn a_renaming_is_taken_back_unless_a_new_log_was_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (log, rotated) = (dir.path().join("0.log"), dir.path().join("rotated"));
        fs::write(&rotated, "old").unwrap();
        put_back(&rotated, &log).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "old");
        fs::write(&rotated, "older").unwrap();
        put_back(&rotated, &log).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "old");
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "older");
        fs::remove_file(&rotated).unwrap();
        put_back(&rotated, &log).unwrap();
    }
}
