//! Lines of a log in the runtime's form: `TIME STREAM TAGS TEXT`, where a long line of the container's
//! comes in parts, each but the last tagged `P` (CRI, "logging").

use std::io::{self, Read, Write};

/// A part that grew longer than this is written before its line is whole.
const MAX_LINE: usize = 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// Which of the container's lines to write.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// Not the older ones.
    pub(crate) since: Option<jiff::Timestamp>,
    /// Not so many of the first ones.
    pub(crate) skip: usize,
    /// Whether to write when each was said, before it.
    pub(crate) timestamps: bool,
}

/// Puts parts together and writes the lines that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    wanted: Wanted,
    /// What is not whole yet, of standard output and standard error.
    open: [Option<Open>; 2],
}

#[derive(Debug)]
struct Open {
    text: Vec<u8>,
    is_wanted: bool,
}

impl Joiner {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            open: [None, None],
        }
    }

    /// Takes one line of the log.
    pub(crate) fn take(&mut self, line: &[u8], out: &mut impl Write) -> io::Result<()> {
        let Some(part) = Part::parse(line) else {
            // Not in the runtime's form: told as it is.
            out.write_all(line)?;
            return out.write_all(b"\n");
        };
        let open = &mut self.open[usize::from(part.is_error)];
        let wanted = &mut self.wanted;
        let open = open.get_or_insert_with(|| {
            let young = wanted.since.is_none_or(|since| part.is_since(since));
            let skipped = wanted.skip > 0;
            wanted.skip = wanted.skip.saturating_sub(1);
            let text = if wanted.timestamps {
                timestamp(part.time)
            } else {
                vec![]
            };
            Open {
                text,
                is_wanted: young && !skipped,
            }
        });
        if open.is_wanted {
            open.text.extend(part.text);
        }
        if part.is_last {
            open.text.push(b'\n');
        }
        if open.is_wanted && (part.is_last || open.text.len() > MAX_LINE) {
            out.write_all(&open.text)?;
            open.text.clear();
        }
        if part.is_last {
            self.open[usize::from(part.is_error)] = None;
        }
        Ok(())
    }
}

/// A line of the log: a part of one of the container's lines.
#[derive(Debug)]
struct Part<'a> {
    time: &'a [u8],
    is_error: bool,
    is_last: bool,
    text: &'a [u8],
}

impl<'a> Part<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
        let is_error = match stream {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        Some(Self {
            time,
            is_error,
            is_last: !tags.split(|b| *b == b':').any(|tag| tag == b"P"),
            text: fields.next().unwrap_or_default(),
        })
    }

    /// Whether it was said then or later. A time that cannot be read is no reason to leave a line out.
    fn is_since(&self, since: jiff::Timestamp) -> bool {
        let time = std::str::from_utf8(self.time).ok();
        let time = time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        time.is_none_or(|time| time >= since)
    }
}

/// A time with all its nine digits and a space behind it, so that what follows begins in one column.
fn timestamp(time: &[u8]) -> Vec<u8> {
    let parsed = std::str::from_utf8(time).ok();
    let parsed = parsed.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    match parsed {
        Some(time) => format!("{time:.9} ").into_bytes(),
        None => [time, b" "].concat(),
    }
}

/// How many whole lines of the container's there are.
pub(crate) fn count(source: impl Read) -> io::Result<usize> {
    let mut lines = 0_usize;
    LineReader::new(source).read(|line| {
        let whole = Part::parse(line).is_none_or(|part| part.is_last);
        lines = lines.saturating_add(usize::from(whole));
        Ok(())
    })?;
    Ok(lines)
}

/// Reads what is there line by line, again and again: a line whose end is not there yet is kept until
/// it is.
pub(crate) struct LineReader<R> {
    source: R,
    begun: Vec<u8>,
}

impl<R: Read> LineReader<R> {
    pub(crate) fn new(source: R) -> Self {
        let begun = vec![];
        Self { source, begun }
    }

    /// Gives the lines that are there to `take`; tells whether there was anything.
    pub(crate) fn read(
        &mut self,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        let mut any = false;
        loop {
            let length = self.source.read(&mut chunk)?;
            if length == 0 {
                return Ok(any);
            }
            any = true;
            let mut rest = &chunk[..length];
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                if self.begun.is_empty() {
                    take(&rest[..end])?;
                } else {
                    self.begun.extend(&rest[..end]);
                    take(&self.begun)?;
                    self.begun.clear();
                }
                rest = &rest[end.saturating_add(1)..];
            }
            self.begun.extend(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout P half a \n\
                       2026-01-01T00:00:00.2Z stderr F an error\n\
                       2026-01-01T00:00:01Z stdout P line,\n\
                       2026-01-01T00:00:02Z stdout F  and the end\n\
                       2026-01-01T00:00:03Z stdout F \n\
                       2026-01-01T00:00:04.5+01:00 stdout F:x tagged\n\
                       not in form\n";

    fn joined(wanted: Wanted) -> String {
        let (mut joiner, mut out) = (Joiner::new(wanted), vec![]);
        let mut reader = LineReader::new(LOG.as_bytes());
        let take = |line: &[u8]| joiner.take(line, &mut out);
        assert!(reader.read(take).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_become_the_lines_that_the_container_wrote() {
        assert_eq!(
            joined(Wanted::default()),
            "an error\nhalf a line, and the end\n\ntagged\nnot in form\n"
        );
        assert_eq!(count(LOG.as_bytes()).unwrap(), 5);
    }

    #[test]
    fn a_line_is_as_old_as_its_first_part() {
        let since = |time: &str| {
            joined(Wanted {
                since: Some(time.parse().unwrap()),
                ..Wanted::default()
            })
        };
        assert_eq!(since("2026-01-01T00:00:02Z"), "\nnot in form\n");
        assert_eq!(
            since("2026-01-01T00:00:00.15Z"),
            "an error\n\nnot in form\n"
        );
    }

    #[test]
    fn the_first_lines_can_be_left_out() {
        let skip = |skip| {
            joined(Wanted {
                skip,
                ..Wanted::default()
            })
        };
        assert_eq!(skip(2), "\ntagged\nnot in form\n");
        assert_eq!(skip(4), "not in form\n");
    }

    #[test]
    fn each_line_can_be_told_with_its_time() {
        let wanted = Wanted {
            skip: 1,
            timestamps: true,
            ..Wanted::default()
        };
        assert_eq!(
            joined(wanted),
            "2026-01-01T00:00:00.200000000Z an error\n2026-01-01T00:00:03.000000000Z \n\
             2025-12-31T23:00:04.500000000Z tagged\nnot in form\n"
        );
    }

    #[test]
    fn a_line_that_is_being_written_is_told_once_it_is_whole() {
        let mut reader = LineReader::new(std::io::Cursor::new(b"one\ntw".to_vec()));
        let mut lines = vec![];
        let mut read = |reader: &mut LineReader<std::io::Cursor<Vec<u8>>>| {
            let take = |line: &[u8]| {
                lines.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            };
            reader.read(take).unwrap()
        };
        assert!(read(&mut reader));
        assert!(!read(&mut reader));
        reader.source.get_mut().extend(b"o\nthree\n");
        assert!(read(&mut reader));
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn a_line_without_end_takes_no_endless_memory() {
        let (mut joiner, mut out) = (Joiner::new(Wanted::default()), vec![]);
        let part = format!("t stdout P {}", "x".repeat(100_000));
        for _ in 0..30 {
            joiner.take(part.as_bytes(), &mut out).unwrap();
        }
        let held = joiner.open[0].as_ref().unwrap().text.len();
        assert!(held <= MAX_LINE + 100_000, "{held}");
        assert_eq!(out.len() + held, 3_000_000);
    }
}
