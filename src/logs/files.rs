//! The files of a container's log: `N.log` for its instance N, and what was rotated away from it,
//! `N.log.TIME`, or `N.log.TIME.gz` once compressed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

/// Where a file stands among those of one instance: rotated ones in the order of their times, then the
/// one that is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Behind `N.log.`, without `.gz`.
    Rotated(String),
    Live,
}

/// The instances that have a log in a folder.
pub(crate) fn attempts(folder: &Path) -> BTreeSet<u32> {
    let names = names(folder).into_iter();
    let attempt = |name: String| name.split_once(".log")?.0.parse().ok();
    names.filter_map(attempt).collect()
}

/// The files of one instance, oldest first. One that is being compressed is there once.
pub(crate) fn files(folder: &Path, attempt: u32) -> BTreeMap<Place, PathBuf> {
    let live = format!("{attempt}.log");
    let mut files = BTreeMap::new();
    let mut names = names(folder);
    // Of a file and its compressed form the file comes first, and stays.
    names.sort();
    for name in names {
        let Some(rest) = name.strip_prefix(&live) else {
            continue;
        };
        let place = match rest.strip_prefix('.') {
            None if rest.is_empty() => Place::Live,
            // What is being compressed is not whole yet.
            Some(time) if time.strip_suffix(".tmp").is_none() => {
                let time = time.strip_suffix(".gz").unwrap_or(time);
                Place::Rotated(time.to_owned())
            }
            _ => continue,
        };
        files.entry(place).or_insert_with(|| folder.join(name));
    }
    files
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.collect()
}

/// Opens a log for reading, unpacked.
pub(crate) fn open(path: &Path) -> io::Result<(Box<dyn Read + Send>, fs::Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let packed = path.extension().is_some_and(|extension| extension == "gz");
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
        assert_eq!(attempts(folder.path()), [0, 1, 10].into());
        let of = |attempt| -> Vec<String> {
            let files = files(folder.path(), attempt);
            let names = files.values().map(|path| path.file_name().unwrap());
            names.map(|n| n.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(of(1), ["1.log.20260101-000000.gz", "1.log.20260102-000000"]);
        assert_eq!(of(0), ["0.log"]);
        assert_eq!(of(10), ["10.log"]);
        assert_eq!(of(2), [""; 0]);
    }
}
