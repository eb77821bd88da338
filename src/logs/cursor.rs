//! A place in a container's log, which moves on over rotated files and to the instances that come after.

use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::files::{Place, attempts, files, open};
use super::lines::{Joiner, LineReader, Wanted, count};

/// Where in a container's log we are.
pub(crate) struct Cursor {
    folder: PathBuf,
    attempt: u32,
    joiner: Joiner,
    at: Option<At>,
    /// The place to open next, where it is known.
    next: Place,
    /// Where the log goes on, once this one is at its end.
    then: Option<PathBuf>,
    /// Something comes after the open file, which is looked at once more before it is left.
    leaving: bool,
    /// Whether what comes after this instance is read too.
    goes_on: bool,
}

/// An open file.
struct At {
    place: Place,
    reader: LineReader<Box<dyn Read + Send>>,
    /// Device and inode.
    identity: (u64, u64),
    /// The newest rotated file when this one was opened.
    newest_rotated: Option<Place>,
}

impl Cursor {
    /// The beginning of what is there of an instance's log, or of its last `tail` lines.
    pub(crate) fn new(
        folder: PathBuf,
        attempt: u32,
        wanted: Wanted,
        tail: Option<usize>,
    ) -> io::Result<Self> {
        let files = files(&folder, attempt);
        let mut wanted = wanted;
        let mut next = files.keys().next().cloned().unwrap_or(Place::Live);
        if let Some(tail) = tail {
            let mut lines = 0_usize;
            for (place, path) in files.iter().rev() {
                lines = lines.saturating_add(count(open(path)?.0)?);
                next = place.clone();
                // One line more is there: the first one that is wanted is whole.
                if lines > tail {
                    break;
                }
            }
            wanted.skip = lines.saturating_sub(tail);
        }
        Ok(Self {
            folder,
            attempt,
            joiner: Joiner::new(wanted),
            at: None,
            next,
            then: None,
            leaving: false,
            goes_on: true,
        })
    }

    /// The same, but no instance that comes after this one is read.
    pub(crate) fn of_one_instance(mut self) -> Self {
        self.goes_on = false;
        self
    }

    /// Writes all that is there of this instance.
    pub(crate) fn read_all(&mut self, out: &mut impl Write) -> io::Result<()> {
        for (place, path) in files(&self.folder, self.attempt) {
            if place >= self.next {
                let mut reader = LineReader::new(open(&path)?.0);
                reader.read(|line| self.joiner.take(line, out))?;
            }
        }
        Ok(())
    }

    /// When this log is at its end, the container's log goes on in this folder.
    pub(crate) fn go_on_in(&mut self, folder: PathBuf) {
        self.then = Some(folder).filter(|folder| *folder != self.folder);
    }

    /// Writes what came since, of this instance and those after it; tells whether there was anything, or
    /// is more.
    pub(crate) fn read_on(&mut self, out: &mut impl Write) -> io::Result<bool> {
        let mut any = false;
        loop {
            if self.at.is_none() && !self.open()? && !self.moves_on() {
                return Ok(any);
            }
            if let Some(at) = &mut self.at {
                any |= at.reader.read(|line| self.joiner.take(line, out))?;
                if !self.leave() {
                    return Ok(any || self.leaving);
                }
            }
        }
    }

    /// Opens the next file; tells whether it is there.
    fn open(&mut self) -> io::Result<bool> {
        let files = files(&self.folder, self.attempt);
        // What was to come next may have been removed as too old.
        let mut from = files.range(self.next.clone()..);
        let Some((place, path)) = from.next() else {
            return Ok(false);
        };
        let (reader, metadata) = match open(path) {
            Ok(opened) => opened,
            // It was rotated or removed at this very moment.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut rotated = files.keys().rev().filter(|place| **place != Place::Live);
        self.at = Some(At {
            place: place.clone(),
            reader: LineReader::new(reader),
            identity: identity(&metadata),
            newest_rotated: rotated.next().cloned(),
        });
        Ok(true)
    }

    /// Closes a file that is at its end, if something comes after it; tells whether it does.
    fn leave(&mut self) -> bool {
        let Some(at) = &self.at else {
            return false;
        };
        let files = files(&self.folder, self.attempt);
        let next = match &at.place {
            // Nobody writes to it any more.
            Place::Rotated(time) => Some(Place::Rotated(format!("{time}\0"))),
            Place::Live => match files.get(&Place::Live) {
                Some(path) if !is(path, at.identity) => {
                    let newest = &at.newest_rotated;
                    let mut new = files.keys().filter(|place| Some(*place) > newest.as_ref());
                    // The first of those that came is this file itself, under its new name.
                    Some(new.nth(1).cloned().unwrap_or(Place::Live))
                }
                _ => None,
            },
        };
        let is_live = at.place == Place::Live;
        let goes_on = next.is_some() || self.following().is_some();
        // The last words may have been written while we looked for what comes after: once more.
        if !goes_on || is_live && !std::mem::replace(&mut self.leaving, true) {
            return false;
        }
        self.leaving = false;
        self.at = None;
        match next {
            Some(next) => self.next = next,
            None => return self.moves_on(),
        }
        true
    }

    /// Goes on to the instance after this one; tells whether there is one.
    fn moves_on(&mut self) -> bool {
        let Some((folder, attempt)) = self.following() else {
            return false;
        };
        if folder != self.folder {
            self.then = None;
        }
        let first = files(&folder, attempt).into_keys().next();
        self.next = first.unwrap_or(Place::Live);
        (self.folder, self.attempt) = (folder, attempt);
        true
    }

    /// The instance after this one.
    fn following(&self) -> Option<(PathBuf, u32)> {
        if !self.goes_on {
            return None;
        }
        let later = attempts(&self.folder).into_iter();
        let mut later = later.filter(|attempt| *attempt > self.attempt);
        if let Some(attempt) = later.next() {
            return Some((self.folder.clone(), attempt));
        }
        let folder = self.then.clone()?;
        let first = attempts(&folder).into_iter().next()?;
        Some((folder, first))
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn is(path: &PathBuf, known: (u64, u64)) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| identity(&metadata) == known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::fs::File;
    use tempfile::TempDir;

    /// A container's folder, and what is written and read there.
    struct Log {
        dir: TempDir,
        out: Vec<u8>,
    }

    impl Log {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                out: vec![],
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn say(&self, file: &str, lines: &[&str]) {
            let options = File::options().create(true).append(true).clone();
            let mut file = options.open(self.path(file)).unwrap();
            for line in lines {
                writeln!(file, "2026-01-01T00:00:00Z stdout F {line}").unwrap();
            }
        }

        fn rotate(&self, time: &str) {
            let to = self.path(&format!("0.log.{time}"));
            fs::rename(self.path("0.log"), to).unwrap();
        }

        fn compress(&self, file: &str) {
            let target = File::create(self.path(&format!("{file}.gz"))).unwrap();
            let mut packer = flate2::write::GzEncoder::new(target, flate2::Compression::fast());
            let text = fs::read(self.path(file)).unwrap();
            packer.write_all(&text).unwrap();
            packer.finish().unwrap();
            fs::remove_file(self.path(file)).unwrap();
        }

        fn cursor(&self, tail: Option<usize>) -> Cursor {
            let folder = self.dir.path().to_owned();
            Cursor::new(folder, 0, Wanted::default(), tail).unwrap()
        }

        /// What two looks give.
        fn read_on(&mut self, cursor: &mut Cursor) -> String {
            cursor.read_on(&mut self.out).unwrap();
            cursor.read_on(&mut self.out).unwrap();
            self.said()
        }

        fn said(&mut self) -> String {
            let said = std::mem::take(&mut self.out);
            String::from_utf8(said).unwrap().replace('\n', " ")
        }
    }

    #[test]
    fn all_of_a_log_is_read_in_order_however_its_files_are_packed() {
        let mut log = Log::new();
        for (time, lines) in [("1", ["a", "b"]), ("2", ["c", "d"])] {
            log.say("0.log", &lines);
            log.rotate(time);
        }
        log.compress("0.log.1");
        log.say("0.log", &["e"]);
        log.say("1.log", &["another instance"]);
        for (tail, expected) in [
            (None, "a b c d e "),
            (Some(9), "a b c d e "),
            (Some(5), "a b c d e "),
            (Some(4), "b c d e "),
            (Some(3), "c d e "),
            (Some(1), "e "),
            (Some(0), ""),
        ] {
            log.cursor(tail).read_all(&mut log.out).unwrap();
            assert_eq!(log.said(), expected, "{tail:?}");
        }
    }

    #[test]
    fn a_log_is_followed_over_rotations_and_restarts() {
        let mut log = Log::new();
        let mut cursor = log.cursor(None);
        assert_eq!(log.read_on(&mut cursor), "");
        log.say("0.log", &["a"]);
        assert_eq!(log.read_on(&mut cursor), "a ");
        log.say("0.log", &["b"]);
        log.rotate("1");
        // The runtime writes on where it was until it is told.
        log.say("0.log.1", &["c"]);
        assert_eq!(log.read_on(&mut cursor), "b c ");
        log.say("0.log", &["d"]);
        assert_eq!(log.read_on(&mut cursor), "d ");
        // Twice between two looks, and the files are packed away at once.
        log.say("0.log", &["e"]);
        log.rotate("2");
        log.say("0.log", &["f"]);
        log.rotate("3");
        log.compress("0.log.2");
        log.compress("0.log.3");
        log.say("0.log", &["g"]);
        assert_eq!(log.read_on(&mut cursor), "e f g ");
        log.say("0.log", &["h"]);
        log.say("1.log", &["i"]);
        assert_eq!(log.read_on(&mut cursor), "h i ");
        // An instance whose log is gone already, and one after it.
        log.say("3.log", &["j"]);
        fs::remove_file(log.path("1.log")).unwrap();
        assert_eq!(log.read_on(&mut cursor), "j ");
    }

    #[test]
    fn one_instance_alone_can_be_followed() {
        let mut log = Log::new();
        log.say("0.log", &["a"]);
        let mut cursor = log.cursor(None).of_one_instance();
        assert_eq!(log.read_on(&mut cursor), "a ");
        log.rotate("1");
        log.say("0.log", &["b"]);
        log.say("1.log", &["another instance"]);
        assert_eq!(log.read_on(&mut cursor), "b ");
        assert_eq!(log.read_on(&mut cursor), "");
    }

    #[test]
    fn what_is_written_while_one_looks_for_what_comes_next_is_not_lost() {
        let mut log = Log::new();
        log.say("0.log", &["a"]);
        let mut cursor = log.cursor(None);
        assert!(cursor.read_on(&mut log.out).unwrap());
        assert!(!cursor.read_on(&mut log.out).unwrap());
        log.say("1.log", &["c"]);
        assert!(cursor.read_on(&mut log.out).unwrap(), "there is more");
        log.say("0.log", &["b"]);
        assert_eq!(log.read_on(&mut cursor), "a b c ");
    }

    #[test]
    fn the_log_of_an_updated_pod_goes_on_in_its_new_folder() {
        let (mut old, new) = (Log::new(), Log::new());
        old.say("0.log", &["a"]);
        let mut cursor = old.cursor(None);
        assert_eq!(old.read_on(&mut cursor), "a ");
        cursor.go_on_in(new.dir.path().to_owned());
        old.say("0.log", &["last words"]);
        assert_eq!(old.read_on(&mut cursor), "last words ");
        new.say("0.log", &["b"]);
        fs::remove_dir_all(old.dir.path()).unwrap();
        assert_eq!(old.read_on(&mut cursor), "b ");
        assert!(!cursor.read_on(&mut old.out).unwrap());
    }
}
