//! Rotation of one container's log: `N.log` becomes `N.log.YYYYMMDD-HHMMSS`, the runtime creates a new
//! `N.log`, and the parts before are compressed and, beyond the number of files to keep, removed.
//!
//! No line is lost: until the runtime has created the new file it writes to the old one under its new
//! name, which stays as it is until the next rotation, so that log shippers can finish it too. A
//! rotation that was interrupted at any instant is finished by the next.
//!
//! The order of the names is that of the parts, also where the machine's clock was set back: a part's time
//! is later than that of any part before it. Containers that ship logs can write to the folder, so that all
//! is done through [`untrusted`](crate::host::untrusted).

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use tracing::{debug, warn};

use crate::cri::Client;
use crate::cri::v1::ReopenContainerLogRequest;
use crate::host::blocking::blocking;
use crate::host::untrusted::{Folder, Location};

const COMPRESSED: &str = ".gz";
const UNFINISHED: &str = ".tmp";
/// Format of the times in names of rotated parts: in UTC, so that their order is that of the names.
const TIME: &str = "%Y%m%d-%H%M%S";
/// Size from which a part is not compressed, if it is also more than twice the size from which logs are rotated:
/// the logs of all other containers would wait for long.
const LARGEST_COMPRESSED: u64 = 1 << 30;

/// Settings of log rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Size in bytes from which a log is rotated; `None` for never.
    pub max_size: Option<u64>,
    /// Number of files of one container to keep, the one that is written to among them; at least 2.
    pub max_files: usize,
    /// Time between two rounds.
    pub interval: Duration,
}

impl Rotation {
    fn largest_compressed(&self) -> u64 {
        let twice = self.max_size.unwrap_or(0).saturating_mul(2);
        twice.max(LARGEST_COMPRESSED)
    }
}

/// Rotates the log `log` of a running container, in the folder of its logs.
///
/// # Errors
/// The log could not be rotated and is as it was, or its earlier parts could not be tidied up.
pub(super) async fn rotate(
    client: &Client,
    container_id: &str,
    folder: Location,
    log: String,
    rotation: Rotation,
) -> anyhow::Result<()> {
    let rotated = blocking(move || {
        let folder = folder.open()?;
        // A full disk keeps parts from being compressed, which must not let the log grow on.
        let tidied = tidy(&folder, &log, rotation);
        let name = next_part(&parts(&folder, &log)?, &log, Timestamp::now());
        if let Some(name) = &name {
            folder.rename_new(&log, name)?;
        }
        anyhow::Ok((folder, log, name, tidied))
    });
    let (folder, log, name, tidied) = rotated.await?;
    let Some(name) = name else {
        return tidied;
    };
    if let Err(error) = reopen(client, container_id).await {
        let put_back = blocking(move || put_back(&folder, &name, &log)).await;
        put_back.with_context(|| error.to_string())?;
        return Err(error);
    }
    debug!(id = container_id, log, "Rotated container log");
    tidied
}

/// Has the runtime open the container's log at its path again.
pub(super) async fn reopen(client: &Client, container_id: &str) -> anyhow::Result<()> {
    let request = ReopenContainerLogRequest {
        container_id: container_id.to_owned(),
    };
    client.reopen_container_log(request).await?;
    Ok(())
}

/// Reverts a rename, unless the runtime has created a new file all the same.
fn put_back(folder: &Folder, rotated: &str, log: &str) -> anyhow::Result<()> {
    match folder.rename_new(rotated, log) {
        // The Pod may have been removed meanwhile.
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
            ) =>
        {
            Err(e).context("cannot rename the log back")
        }
        _ => Ok(()),
    }
}

/// Returns the name of the next part: there is one for each second, later than any existing part. `None` if this
/// second has its part.
fn next_part(parts: &[String], log: &str, now: Timestamp) -> Option<String> {
    let now = now.to_zoned(TimeZone::UTC).datetime();
    let now = now.with().subsec_nanosecond(0).build().ok()?;
    let newest = parts.iter().filter_map(|part| time_of(part, log)).max();
    let time = match newest {
        Some(newest) if newest == now => return None,
        // The clock was set back.
        Some(newest) if newest > now => newest.checked_add(Span::new().seconds(1)).ok()?,
        _ => now,
    };
    Some(format!("{log}.{}", time.strftime(TIME)))
}

/// Returns the time in the name of a part of the log `log` that a rotation created or left unfinished; `None` for
/// another file.
fn time_of(name: &str, log: &str) -> Option<DateTime> {
    let rest = name.strip_prefix(log)?.strip_prefix('.')?;
    let time = match rest.strip_suffix(UNFINISHED) {
        Some(unfinished) => unfinished.split('.').next()?,
        None => rest.strip_suffix(COMPRESSED).unwrap_or(rest),
    };
    let is_digit = |(at, byte): (usize, u8)| (at == 8) || byte.is_ascii_digit();
    let is_time = time.len() == "YYYYMMDD-HHMMSS".len() && time.bytes().enumerate().all(is_digit);
    let time = DateTime::strptime(TIME, time).ok().filter(|_| is_time)?;
    // Nothing could come after it.
    (time.year() < 9999).then_some(time)
}

/// Returns `true` if the name is that of a part of the log `log` that a rotation created or left unfinished.
pub(super) fn is_part(name: &str, log: &str) -> bool {
    time_of(name, log).is_some()
}

/// Removes parts that are too many or left over, and compresses the others. A failure does not stop the rest.
fn tidy(folder: &Folder, log: &str, rotation: Rotation) -> anyhow::Result<()> {
    let parts = parts(folder, log).with_context(|| format!("cannot list the parts of {log}"))?;
    let upkeep = upkeep(parts, rotation.max_files);
    let mut tidied = Ok(());
    for part in &upkeep.remove {
        let removed = folder.remove(part).context("cannot remove a part");
        tidied = tidied.and(removed);
    }
    for part in &upkeep.compress {
        let compressed = compress(folder, part, rotation.largest_compressed());
        let compressed = compressed.with_context(|| format!("cannot compress {part}"));
        tidied = tidied.and(compressed);
    }
    tidied
}

/// Lists the parts of a log; a folder is none, whatever its name.
fn parts(folder: &Folder, log: &str) -> io::Result<Vec<String>> {
    let parts = folder.names(|name| is_part(name, log))?.into_iter();
    let is_file = |name: &String| {
        let found = folder.find(name);
        found.is_ok_and(|found| found.is_some_and(|found| !found.is_folder))
    };
    Ok(parts.filter(is_file).collect())
}

/// Work on the parts of a log before it is rotated once more.
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

/// Replaces a part by a compressed file, whole or not at all. A part that is no regular file of one name, or is too
/// large, stays as it is until it is removed as the oldest.
fn compress(folder: &Folder, part: &str, largest: u64) -> io::Result<()> {
    let found = folder.find(part)?;
    let Some(found) = found.filter(|found| found.is_plain && found.size <= largest) else {
        warn!(
            part,
            "Rotated log is not compressed: it is too large, or not a regular file"
        );
        return Ok(());
    };
    let source = folder.open(part)?.take(found.size);
    let (file, unfinished) = folder.create_temporary(&format!("{part}."), UNFINISHED, 0o600)?;
    let written = write_compressed(source, file);
    let written = written.and_then(|()| folder.rename(&unfinished, &format!("{part}{COMPRESSED}")));
    if let Err(error) = written {
        // The next rotation removes it, if this cannot.
        let _ = folder.remove(&unfinished);
        return Err(error);
    }
    folder.remove(part)
}

/// Compresses the source to a file with the source's permissions.
fn write_compressed(mut source: io::Take<File>, to: File) -> io::Result<()> {
    let mode = source.get_ref().metadata()?.permissions().mode() & 0o777;
    to.set_permissions(Permissions::from_mode(mode))?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const ROTATION: Rotation = Rotation {
        max_size: Some(1 << 20),
        max_files: 5,
        interval: Duration::from_secs(10),
    };

    fn open(dir: &tempfile::TempDir) -> Folder {
        Location::new(dir.path(), "").open().unwrap()
    }

    fn left(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = names.collect();
        left.sort();
        left
    }

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
        let unfinished = format!("0.log.{T1}.0a0b0c0d{UNFINISHED}");
        for unfinished in [format!("0.log.{T1}{UNFINISHED}"), unfinished] {
            fs::write(dir.path().join(unfinished), "half").unwrap();
        }
        fs::write(dir.path().join("0.log.bak"), "theirs").unwrap();
        tidy(&open(&dir), "0.log", ROTATION).unwrap();
        let compressed = format!("0.log.{T1}.gz");
        assert_eq!(
            left(dir.path()),
            ["0.log", compressed.as_str(), "0.log.bak"]
        );
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
        put_back(&open(&dir), "rotated", "0.log").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "old");
        fs::write(&rotated, "older").unwrap();
        put_back(&open(&dir), "rotated", "0.log").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "old");
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "older");
        fs::remove_file(&rotated).unwrap();
        put_back(&open(&dir), "rotated", "0.log").unwrap();
    }

    #[test]
    fn the_names_of_parts_are_in_order_however_the_clock_was_set() {
        let now = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut parts = vec![];
        let mut rotate = |time: &str| {
            let part = next_part(&parts, "0.log", now(time));
            parts.extend(part.clone());
            part.map(|part| part["0.log.".len()..].to_owned())
        };
        for (time, name) in [
            ("2026-12-31T23:59:59.9Z", Some("20261231-235959")),
            ("2026-12-31T23:59:59.9Z", None),
            ("2027-12-31T23:59:59Z", Some("20271231-235959")),
            // It was a year ahead, and is set right.
            ("2027-01-01T00:00:00Z", Some("20280101-000000")),
            ("2027-01-01T00:00:10Z", Some("20280101-000001")),
            ("2028-01-01T00:00:02Z", Some("20280101-000002")),
        ] {
            assert_eq!(rotate(time).as_deref(), name, "{time}");
        }
        assert!(parts.is_sorted());
        // What a container gave a time after which nothing can come is no part.
        let last = ["0.log.99991231-235959".to_owned()];
        let next = next_part(&last, "0.log", now("2026-01-01T00:00:00Z"));
        assert_eq!(next.as_deref(), Some("0.log.20260101-000000"));
    }

    #[test]
    fn a_part_of_a_time_to_come_goes_as_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0.log.20991231-235959"), "").unwrap();
        let rotation = Rotation {
            max_files: 3,
            ..ROTATION
        };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        for number in 0..3 {
            let folder = open(&dir);
            tidy(&folder, "0.log", rotation).unwrap();
            fs::write(dir.path().join("0.log"), number.to_string()).unwrap();
            let name = next_part(&parts(&folder, "0.log").unwrap(), "0.log", now);
            folder.rename("0.log", &name.unwrap()).unwrap();
        }
        let expected = ["0.log.21000101-000001.gz", "0.log.21000101-000002"];
        assert_eq!(left(dir.path()), expected);
    }

    #[test]
    fn what_a_container_put_in_the_way_is_neither_opened_nor_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("logs").join(name);
        fs::create_dir(at("")).unwrap();
        let (secret, linked) = (dir.path().join("secret"), dir.path().join("linked"));
        fs::write(&secret, "secret").unwrap();
        fs::write(&linked, "secret").unwrap();
        let part = |n: u32| format!("0.log.20260101-00000{n}");
        symlink(&secret, at(&part(1))).unwrap();
        fs::hard_link(&linked, at(&part(2))).unwrap();
        mknodat(CWD, at(&part(3)), FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::create_dir(at(&part(4))).unwrap();
        fs::write(at(&part(5)), "a line\n").unwrap();
        for end in [".tmp", ".gz.tmp", ".gz"] {
            symlink(&secret, at(&format!("{}{end}", part(6)))).unwrap();
        }
        symlink(&secret, at(&format!("{}.tmp", part(5)))).unwrap();
        let folder = Location::new(dir.path(), "logs").open().unwrap();
        let rotation = Rotation {
            max_files: 10,
            ..ROTATION
        };
        tidy(&folder, "0.log", rotation).unwrap();
        assert!(at(&format!("{}.gz", part(5))).is_file());
        for n in 1..4 {
            assert!(!at(&format!("{}.gz", part(n))).exists(), "{n}");
            fs::symlink_metadata(at(&part(n))).unwrap();
        }
        let rotation = Rotation {
            max_files: 2,
            ..ROTATION
        };
        tidy(&folder, "0.log", rotation).unwrap();
        assert_eq!(left(&at("")), [part(4)]);
        for file in [secret, linked] {
            assert_eq!(fs::read_to_string(file).unwrap(), "secret");
        }
    }

    #[test]
    fn a_part_of_any_size_keeps_no_other_log_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let part = format!("0.log.{T1}");
        let file = File::create(dir.path().join(&part)).unwrap();
        file.set_len(1 << 40).unwrap();
        tidy(&open(&dir), "0.log", ROTATION).unwrap();
        assert_eq!(left(dir.path()), [part]);
    }
}
