//! Termination message of a container: the file it may write, or the end of its log (Kubernetes,
//! Determine the Reason for Pod Failure).

use k8s_openapi::api::core::v1::Container as ContainerSpec;

use crate::host::untrusted::Location;
use crate::manifest::PodKey;
use crate::pod::state::observed::{Container, Exit};
use crate::translate::Paths;

/// As much of the file's end counts, in bytes, as with the kubelet.
const FILE_BYTES: u64 = 4096;
/// As much of the log's end counts.
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;
/// As much of the log is read for that: its lines carry a time and a stream each.
const LOG_READ: u64 = 16 * 1024;

/// The termination message of a container that ended so; empty where there is none.
pub(super) fn termination_message(
    paths: &Paths,
    key: &PodKey,
    spec: &ContainerSpec,
    container: &Container,
    exit: &Exit,
) -> String {
    let (uid, name, attempt) = (&container.uid, &container.name, container.attempt);
    let (message, _) = read_last(&paths.termination_location(uid, name, attempt), FILE_BYTES);
    let message = String::from_utf8_lossy(&message).into_owned();
    let policy = spec.termination_message_policy.as_deref();
    if !message.is_empty() || exit.code == 0 || policy != Some("FallbackToLogsOnError") {
        return message;
    }
    let folder = paths.log_location(key, uid).join(name);
    end_of_log(&read_end(&(folder, format!("{attempt}.log"))))
}

fn read_end(log: &(Location, String)) -> String {
    let (mut bytes, cut) = read_last(log, LOG_READ);
    if cut {
        // The first line is cut.
        let first = bytes.iter().position(|b| *b == b'\n');
        bytes.drain(..first.map_or(0, |at| at.saturating_add(1)));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last bytes of a file, and whether there are more before them; nothing of a file that cannot be read,
/// and of what is no file.
fn read_last((folder, name): &(Location, String), length: u64) -> (Vec<u8>, bool) {
    let read = folder
        .open()
        .and_then(|folder| folder.read_end(name, length));
    let (bytes, before) = read.unwrap_or_default();
    (bytes, before > 0)
}

/// The last lines of a log in the runtime's form (CRI, "logging": time, stream, tags, text).
fn end_of_log(log: &str) -> String {
    let mut text = String::new();
    for entry in log.lines() {
        let mut parts = entry.splitn(4, ' ').skip(2);
        let (tags, line) = (parts.next().unwrap_or_default(), parts.next());
        text.push_str(line.unwrap_or_default());
        if !tags.split(':').any(|tag| tag == "P") {
            text.push('\n');
        }
    }
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let last = lines[lines.len().saturating_sub(LOG_LINES)..].concat();
    let from = last.len().saturating_sub(LOG_BYTES);
    let from = (from..=last.len()).find(|at| last.is_char_boundary(*at));
    last[from.unwrap_or(0)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::os::unix::fs::symlink;

    #[test]
    fn the_end_of_a_log_is_its_text_without_times_and_streams() {
        let log = "2026-01-01T00:00:00Z stdout P half \n2026-01-01T00:00:01Z stdout F line\n\
                   2026-01-01T00:00:02Z stderr F second\n";
        assert_eq!(end_of_log(log), "half line\nsecond\n");
        assert_eq!(end_of_log(""), "");
        assert_eq!(end_of_log("broken\n"), "\n");
    }

    #[test]
    fn of_a_long_file_the_end_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("message");
        let at = |name: &str| (Location::new(folder.path(), ""), name.to_owned());
        for (written, read, cut) in [
            ("short".to_owned(), "short".to_owned(), false),
            ("x".repeat(4096), "x".repeat(4096), false),
            (
                format!("{}the reason", "x".repeat(5000)),
                format!("{}the reason", "x".repeat(4086)),
                true,
            ),
        ] {
            std::fs::write(&file, written).unwrap();
            assert_eq!(
                read_last(&at("message"), FILE_BYTES),
                (read.into_bytes(), cut)
            );
        }
        assert_eq!(read_last(&at("none"), 10), (vec![], false));
        symlink(&file, folder.path().join("link")).unwrap();
        mknodat(
            CWD,
            folder.path().join("pipe"),
            FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        for name in ["link", "pipe"] {
            assert_eq!(read_last(&at(name), 10), (vec![], false), "{name}");
        }
    }

    #[test]
    fn of_a_long_log_only_the_last_lines_and_bytes_count() {
        let line = |n: usize| format!("t stdout F {n}\n");
        let log: String = (0..200).map(line).collect();
        let end = end_of_log(&log);
        assert!(end.starts_with("120\n") && end.ends_with("199\n"), "{end}");
        let log = format!("t stdout F {}\n", "x".repeat(100)).repeat(50);
        assert_eq!(end_of_log(&log).len(), LOG_BYTES);
    }
}
