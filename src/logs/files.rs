//! Files of a container's log: `N.log` for its instance N, and what was rotated away from it,
//! `N.log.TIME`, or `N.log.TIME.gz` once compressed. Their order is that of the names: a rotation gives each
//! part a later time than any before it, whatever the machine's clock says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::host::untrusted::{Folder, Location};

/// Position of a file among those of one instance: rotated ones in the order of their times, then the one that is
/// written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FilePosition {
    /// Time of a rotation, behind `N.log.` and without `.gz`.
    Rotated(String),
    Live,
}

/// Names of the files of one instance, by their positions.
pub(crate) type LogFiles = BTreeMap<FilePosition, String>;

/// Lists the instances that have a log in a folder.
pub(crate) fn attempts(folder: &Location) -> BTreeSet<u32> {
    let attempt = |name: &str| name.split_once(".log")?.0.parse().ok();
    let names = folder.open();
    let names = names.and_then(|folder| folder.names(|name| attempt(name).is_some()));
    let names = names.unwrap_or_default();
    names.iter().filter_map(|name| attempt(name)).collect()
}

/// Opens the folder and lists the files of one instance in it, oldest first; nothing where there is no folder. A file
/// that is being compressed is listed once. Only regular files are part of a log.
pub(crate) fn files(folder: &Location, attempt: u32) -> Option<(Folder, LogFiles)> {
    let folder = folder.open().ok()?;
    let live = format!("{attempt}.log");
    let mut files = LogFiles::new();
    let names = folder.names(|name| name.starts_with(&live));
    let mut names = names.unwrap_or_default();
    // Of a file and its compressed form the file comes first, and stays.
    names.sort();
    for name in names {
        let Some(rest) = name.strip_prefix(&live) else {
            continue;
        };
        let position = match rest.strip_prefix('.') {
            None if rest.is_empty() => FilePosition::Live,
            // What is being compressed is not whole yet.
            Some(time) if time.strip_suffix(".tmp").is_none() => {
                let time = time.strip_suffix(".gz").unwrap_or(time);
                FilePosition::Rotated(time.to_owned())
            }
            _ => continue,
        };
        let is_plain = || {
            folder
                .find(&name)
                .is_ok_and(|f| f.is_some_and(|f| f.is_plain))
        };
        if position == FilePosition::Live || is_plain() {
            files.entry(position).or_insert(name);
        }
    }
    Some((folder, files))
}

/// Opens a log for reading, unpacked.
pub(crate) fn open(folder: &Folder, name: &str) -> io::Result<(Box<dyn Read + Send>, Metadata)> {
    let file = folder.open(name)?;
    let metadata = file.metadata()?;
    let packed = Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read + Send> = if packed {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    Ok((reader, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_known_by_instance_and_time_however_they_are_packed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "0.log",
            "10.log",
            "1.log.20260102-000000",
            "1.log.20260102-000000.gz",
            "1.log.20260101-000000.gz",
            "1.log.20260103-000000.gz.tmp",
            "other",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let location = Location::new(folder.path(), "");
        assert_eq!(attempts(&location), [0, 1, 10].into());
        let of = |attempt| -> Vec<String> {
            let (_, files) = files(&location, attempt).unwrap();
            files.into_values().collect()
        };
        assert_eq!(of(1), ["1.log.20260101-000000.gz", "1.log.20260102-000000"]);
        assert_eq!(of(0), ["0.log"]);
        assert_eq!(of(10), ["10.log"]);
        assert_eq!(of(2), [""; 0]);
    }
}
