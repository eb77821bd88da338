//! Position in a container's log, which moves on over rotated files and to later instances.

use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;

use super::files::{FilePosition, LogFiles, attempts, files, open};
use super::lines::{Joiner, LineReader, LogOptions, RawLine, count};
use crate::host::untrusted::{Folder, Location};

/// Function that returns `true` while the reader is still there.
pub(crate) type Needed = Box<dyn Fn() -> bool + Send>;

/// Position in a container's log.
pub(crate) struct Cursor {
    folder: Location,
    attempt: u32,
    joiner: Joiner,
    at: Option<At>,
    /// Position of the file to open next, where it is known.
    next: FilePosition,
    /// Folder in which the log goes on, once this one is at its end.
    then: Option<Location>,
    /// Something comes after the open file, which is read once more before it is closed.
    leaving: bool,
    /// Instances after this one are read too.
    goes_on: bool,
    needed: Needed,
}

/// Open file of a log.
struct At {
    position: FilePosition,
    reader: LineReader<Box<dyn Read + Send>>,
    /// Device and inode.
    identity: (u64, u64),
    /// Newest rotated file when this one was opened.
    newest_rotated: Option<FilePosition>,
}

impl Cursor {
    /// Returns the beginning of an instance's log, or of its last `tail` lines.
    pub(crate) fn new(
        folder: Location,
        attempt: u32,
        options: LogOptions,
        tail: Option<usize>,
        needed: Needed,
    ) -> io::Result<Self> {
        let mut options = options;
        let mut next = FilePosition::Live;
        if let Some((folder, files)) = files(&folder, attempt) {
            next = files.keys().next().cloned().unwrap_or(FilePosition::Live);
            let tail = tail.filter(|_| !files.is_empty());
            if let Some(tail) = tail {
                let mut lines = 0_usize;
                for (number, (position, name)) in files.iter().rev().enumerate() {
                    let counted = count(open(&folder, name)?.0, || still_needed(&needed));
                    let (whole, open) = readable(position, counted)?;
                    // What is begun in an older file goes on in the next one.
                    let open = if number == 0 { open } else { 0 };
                    lines = lines.saturating_add(whole).saturating_add(open);
                    next = position.clone();
                    // One line more is there: the first one that is wanted is whole.
                    if lines > tail {
                        break;
                    }
                }
                options.skip = lines.saturating_sub(tail);
            }
        }
        Ok(Self {
            folder,
            attempt,
            joiner: Joiner::new(options),
            at: None,
            next,
            then: None,
            leaving: false,
            goes_on: true,
            needed,
        })
    }

    /// Limits reading to this instance.
    pub(crate) fn of_one_instance(mut self) -> Self {
        self.goes_on = false;
        self
    }

    /// Writes the whole log of this instance.
    pub(crate) fn read_all(&mut self, out: &mut impl Write) -> io::Result<()> {
        let Some((folder, files)) = files(&self.folder, self.attempt) else {
            return Ok(());
        };
        for (position, name) in files.range(self.next.clone()..) {
            let mut reader = LineReader::new(open(&folder, name)?.0);
            let (joiner, needed) = (&mut self.joiner, &self.needed);
            let mut take = |line: RawLine<'_>| {
                still_needed(needed)?;
                joiner.take(line, out)
            };
            readable(position, reader.read(&mut take))?;
            reader.finish(&mut take)?;
        }
        self.flush(out)
    }

    /// Writes an incomplete line, such as the last one of an instance that ended.
    pub(crate) fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if let Some(at) = &mut self.at {
            at.reader.finish(|line| self.joiner.take(line, out))?;
        }
        self.joiner.flush(out)
    }

    /// Sets the folder in which the container's log goes on when this one is at its end.
    pub(crate) fn go_on_in(&mut self, folder: Location) {
        self.then = Some(folder).filter(|folder| *folder != self.folder);
    }

    /// Writes new lines, of this instance and those after it; returns `true` if there was anything, or is more.
    pub(crate) fn read_on(&mut self, out: &mut impl Write) -> io::Result<bool> {
        let mut any = false;
        loop {
            if self.at.is_none() && !self.open()? && !self.moves_on(out)? {
                return Ok(any);
            }
            if let Some(at) = &mut self.at {
                let (joiner, needed) = (&mut self.joiner, &self.needed);
                let read = at.reader.read(|line| {
                    still_needed(needed)?;
                    joiner.take(line, out)
                });
                any |= readable(&at.position, read)?;
                if !self.leave(out)? {
                    return Ok(any || self.leaving);
                }
            }
        }
    }

    /// Opens the next file; returns `true` if it exists.
    fn open(&mut self) -> io::Result<bool> {
        let Some((folder, files)) = files(&self.folder, self.attempt) else {
            return Ok(false);
        };
        // What was to come next may have been removed as too old.
        let mut from = files.range(self.next.clone()..);
        let Some((position, name)) = from.next() else {
            return Ok(false);
        };
        let (reader, metadata) = match open(&folder, name) {
            Ok(opened) => opened,
            // It was rotated or removed just now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut rotated = files
            .keys()
            .rev()
            .filter(|position| **position != FilePosition::Live);
        self.at = Some(At {
            position: position.clone(),
            reader: LineReader::new(reader),
            identity: identity(&metadata),
            newest_rotated: rotated.next().cloned(),
        });
        Ok(true)
    }

    /// Closes a file that is at its end, if something comes after it; returns `true` if it does.
    fn leave(&mut self, out: &mut impl Write) -> io::Result<bool> {
        let Some(at) = &self.at else {
            return Ok(false);
        };
        let next = match &at.position {
            // Nobody writes to it any more.
            FilePosition::Rotated(time) => Some(FilePosition::Rotated(format!("{time}\0"))),
            FilePosition::Live => files(&self.folder, self.attempt)
                .and_then(|(folder, files)| after_live(&folder, &files, at)),
        };
        let is_live = at.position == FilePosition::Live;
        let goes_on = next.is_some() || self.following().is_some();
        // The last lines may have been written while the next file was opened: once more.
        if !goes_on || is_live && !std::mem::replace(&mut self.leaving, true) {
            return Ok(false);
        }
        self.leaving = false;
        if let Some(mut at) = self.at.take() {
            at.reader.finish(|line| self.joiner.take(line, out))?;
        }
        match next {
            Some(next) => self.next = next,
            None => return self.moves_on(out),
        }
        Ok(true)
    }

    /// Moves on to the instance after this one; returns `true` if there is one.
    fn moves_on(&mut self, out: &mut impl Write) -> io::Result<bool> {
        let Some((folder, attempt)) = self.following() else {
            return Ok(false);
        };
        self.joiner.end(out)?;
        if folder != self.folder {
            self.then = None;
        }
        let first = files(&folder, attempt).and_then(|(_, files)| files.into_keys().next());
        self.next = first.unwrap_or(FilePosition::Live);
        (self.folder, self.attempt) = (folder, attempt);
        Ok(true)
    }

    /// Returns the instance after this one.
    fn following(&self) -> Option<(Location, u32)> {
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

/// Returns the position after a live file that was renamed since it was opened; `None` if it was not.
fn after_live(folder: &Folder, files: &LogFiles, at: &At) -> Option<FilePosition> {
    let live = folder.find(files.get(&FilePosition::Live)?).ok()??;
    if live.identity == at.identity {
        return None;
    }
    let newest = &at.newest_rotated;
    let mut new = files
        .keys()
        .filter(|position| Some(*position) > newest.as_ref());
    // The first of those that came is this file itself, under its new name.
    Some(new.nth(1).cloned().unwrap_or(FilePosition::Live))
}

/// Returns the number of bytes read of a file; of a broken rotated one, the part that could be read counts.
fn readable<T: Default>(position: &FilePosition, read: io::Result<T>) -> io::Result<T> {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match read {
        Err(e)
            if *position != FilePosition::Live
                && matches!(e.kind(), InvalidData | InvalidInput | UnexpectedEof) =>
        {
            Ok(T::default())
        }
        read => read,
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Returns the error that ends the reading once the reader is gone.
fn still_needed(needed: &Needed) -> io::Result<()> {
    if needed() {
        return Ok(());
    }
    Err(io::ErrorKind::BrokenPipe.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::fs::File;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// Container's folder, with writes and reads in it.
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

        fn location(&self) -> Location {
            Location::new(self.dir.path(), "")
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
            let folder = self.location();
            Cursor::new(folder, 0, LogOptions::default(), tail, Box::new(|| true)).unwrap()
        }

        /// Text of two reads.
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
        // The runtime writes on where it was until it is notified.
        log.say("0.log.1", &["c"]);
        assert_eq!(log.read_on(&mut cursor), "b c ");
        log.say("0.log", &["d"]);
        assert_eq!(log.read_on(&mut cursor), "d ");
        // Twice between two reads, and the files are packed away at once.
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
        cursor.go_on_in(new.location());
        old.say("0.log", &["last words"]);
        assert_eq!(old.read_on(&mut cursor), "last words ");
        new.say("0.log", &["b"]);
        fs::remove_dir_all(old.dir.path()).unwrap();
        assert_eq!(old.read_on(&mut cursor), "b ");
        assert!(!cursor.read_on(&mut old.out).unwrap());
    }
}
