//! Lines of a log in the runtime's form: `TIME STREAM TAGS TEXT`, where a long line of the container's
//! comes in parts, each but the last tagged `P` (CRI, "logging").

use std::io::{self, Read, Write};

/// Length from which a part is written before its line is whole.
const MAX_LINE: usize = 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// Selection of the container's lines.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogOptions {
    /// Time from which lines are written.
    pub(crate) since: Option<jiff::Timestamp>,
    /// Number of first lines to skip.
    pub(crate) skip: usize,
    /// Each line is written behind its time.
    pub(crate) timestamps: bool,
}

/// Writer that joins parts and writes the selected lines.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    options: LogOptions,
    /// Incomplete lines, of standard output and standard error.
    open: [Option<Open>; 2],
    /// Stream of the log's current line, and `true` if that line ends the container's; `None` where it is not in the
    /// runtime's form.
    taking: Option<(usize, bool)>,
}

#[derive(Debug)]
struct Open {
    text: Vec<u8>,
    is_wanted: bool,
}

impl Joiner {
    pub(crate) fn new(options: LogOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Adds one line of the log, or a piece of one.
    pub(crate) fn take(&mut self, line: RawLine<'_>, out: &mut impl Write) -> io::Result<()> {
        let mut text = line.text;
        if line.begins {
            let part = LogLine::parse(text);
            self.taking = part.as_ref().map(|part| self.begin(part));
            text = part.map_or(text, |part| part.text);
        }
        let Some((stream, is_last)) = self.taking else {
            // Not in the runtime's form: written as it is.
            out.write_all(text)?;
            return out.write_all(if line.ends { b"\n" } else { b"" });
        };
        let is_whole = line.ends && is_last;
        if let Some(open) = self.open[stream].as_mut().filter(|open| open.is_wanted) {
            open.text.extend(text);
            if is_whole {
                open.text.push(b'\n');
            }
            if is_whole || open.text.len() > MAX_LINE {
                out.write_all(&open.text)?;
                open.text.clear();
            }
        }
        if is_whole {
            self.open[stream] = None;
        }
        Ok(())
    }

    /// Begins a line of the container's, unless the part goes on with one.
    fn begin(&mut self, part: &LogLine<'_>) -> (usize, bool) {
        let stream = usize::from(part.is_error);
        let options = &mut self.options;
        self.open[stream].get_or_insert_with(|| {
            let young = options.since.is_none_or(|since| part.is_since(since));
            let skipped = options.skip > 0;
            options.skip = options.skip.saturating_sub(1);
            let text = if options.timestamps {
                timestamp(part.time)
            } else {
                vec![]
            };
            Open {
                text,
                is_wanted: young && !skipped,
            }
        });
        (stream, part.is_last)
    }

    /// Writes incomplete lines, such as the last one of a container that ended without a newline: without one, as
    /// `kubectl logs` does.
    pub(crate) fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        let open = self.open.iter_mut().flatten();
        let mut texts = open.map(|open| &mut open.text).filter(|t| !t.is_empty());
        let mut next = texts.next();
        while let Some(text) = next {
            next = texts.next();
            if next.is_some() {
                text.push(b'\n');
            }
            out.write_all(text)?;
            text.clear();
        }
        Ok(())
    }

    /// Ends the incomplete lines: the next part begins a new one.
    pub(crate) fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        for open in &mut self.open {
            if let Some(open) = open.take().filter(|open| open.is_wanted) {
                out.write_all(&open.text)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

/// Line of the log without its newline, or a piece of a long one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawLine<'a> {
    pub(crate) text: &'a [u8],
    /// The line begins with this piece.
    pub(crate) begins: bool,
    /// The line ends with this piece.
    pub(crate) ends: bool,
}

/// Parsed line of the log: a part of one of the container's lines.
#[derive(Debug)]
struct LogLine<'a> {
    time: &'a [u8],
    is_error: bool,
    is_last: bool,
    text: &'a [u8],
}

impl<'a> LogLine<'a> {
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

    /// Returns `true` if it was written at this time or later. A line whose time cannot be read is not left out.
    fn is_since(&self, since: jiff::Timestamp) -> bool {
        let time = std::str::from_utf8(self.time).ok();
        let time = time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        time.is_none_or(|time| time >= since)
    }
}

/// Writes a time with all its nine digits and a space behind it, so that the text after it begins in one column.
fn timestamp(time: &[u8]) -> Vec<u8> {
    let parsed = std::str::from_utf8(time).ok();
    let parsed = parsed.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    match parsed {
        Some(time) => format!("{time:.9} ").into_bytes(),
        None => [time, b" "].concat(),
    }
}

/// Counter of the container's whole lines, and of incomplete ones at the end.
pub(crate) fn count(
    source: impl Read,
    mut go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<(usize, usize)> {
    let (mut whole, mut open) = (0_usize, [false; 2]);
    let mut reader = LineReader::new(source);
    let mut take = |line: RawLine<'_>| {
        go_on()?;
        match LogLine::parse(line.text).filter(|_| line.begins) {
            Some(part) => {
                whole = whole.saturating_add(part.is_last.into());
                open[usize::from(part.is_error)] = !part.is_last;
            }
            None => whole = whole.saturating_add(line.begins.into()),
        }
        Ok(())
    };
    reader.read(&mut take)?;
    reader.finish(&mut take)?;
    Ok((whole, open.into_iter().filter(|open| *open).count()))
}

/// Reader of a growing file by lines: a line is kept until its end is written, or passed on in pieces if it is long.
pub(crate) struct LineReader<R> {
    source: R,
    /// Beginning of a line that was not passed on yet.
    begun: Vec<u8>,
    /// Pieces of the line were passed on.
    is_given: bool,
}

impl<R: Read> LineReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            begun: vec![],
            is_given: false,
        }
    }

    /// Passes the existing lines to `take`; returns `true` if there were any.
    pub(crate) fn read(
        &mut self,
        mut take: impl FnMut(RawLine<'_>) -> io::Result<()>,
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
                self.give(&rest[..end], true, &mut take)?;
                rest = &rest[end.saturating_add(1)..];
            }
            if self.begun.len().saturating_add(rest.len()) > MAX_LINE {
                self.give(rest, false, &mut take)?;
            } else {
                self.begun.extend(rest);
            }
        }
    }

    /// Passes on the beginning of a line that will not go on.
    pub(crate) fn finish(
        &mut self,
        mut take: impl FnMut(RawLine<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.is_given || !self.begun.is_empty() {
            self.give(b"", true, &mut take)?;
        }
        Ok(())
    }

    /// Passes on the kept beginning of a line with its continuation.
    fn give(
        &mut self,
        text: &[u8],
        ends: bool,
        take: &mut impl FnMut(RawLine<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let begins = !self.is_given;
        self.is_given = !ends;
        if self.begun.is_empty() {
            return take(RawLine { text, begins, ends });
        }
        self.begun.extend(text);
        let text = &self.begun;
        let given = take(RawLine { text, begins, ends });
        self.begun.clear();
        given
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout P half a \n\
                       2026-01-01T00:00:00.2Z stderr F an error\n\
                       2026-01-01T00:00:01Z stdout P line,\n\
                       2026-01-01T00:00:02Z stdout F  and the end\n\
                       2026-01-01T00:00:03Z stdout F \n\
                       2026-01-01T00:00:04.5+01:00 stdout F:x tagged\n\
                       not in form\n";

    fn joined(options: LogOptions) -> String {
        let (mut joiner, mut out) = (Joiner::new(options), vec![]);
        let mut reader = LineReader::new(LOG.as_bytes());
        let take = |line: RawLine<'_>| joiner.take(line, &mut out);
        assert!(reader.read(take).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_become_the_lines_that_the_container_wrote() {
        assert_eq!(
            joined(LogOptions::default()),
            "an error\nhalf a line, and the end\n\ntagged\nnot in form\n"
        );
        assert_eq!(count(LOG.as_bytes(), || Ok(())).unwrap(), (5, 0));
    }

    #[test]
    fn a_line_is_as_old_as_its_first_part() {
        let since = |time: &str| {
            joined(LogOptions {
                since: Some(time.parse().unwrap()),
                ..LogOptions::default()
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
            joined(LogOptions {
                skip,
                ..LogOptions::default()
            })
        };
        assert_eq!(skip(2), "\ntagged\nnot in form\n");
        assert_eq!(skip(4), "not in form\n");
    }

    #[test]
    fn each_line_can_be_told_with_its_time() {
        let options = LogOptions {
            skip: 1,
            timestamps: true,
            ..LogOptions::default()
        };
        assert_eq!(
            joined(options),
            "2026-01-01T00:00:00.200000000Z an error\n2026-01-01T00:00:03.000000000Z \n\
             2025-12-31T23:00:04.500000000Z tagged\nnot in form\n"
        );
    }

    #[test]
    fn a_line_that_is_being_written_is_told_once_it_is_whole() {
        let mut reader = LineReader::new(std::io::Cursor::new(b"one\ntw".to_vec()));
        let mut lines = vec![];
        let mut read = |reader: &mut LineReader<std::io::Cursor<Vec<u8>>>| {
            let take = |line: RawLine<'_>| {
                lines.push(String::from_utf8_lossy(line.text).into_owned());
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
        let (mut joiner, mut out) = (Joiner::new(LogOptions::default()), vec![]);
        let part = format!("t stdout P {}", "x".repeat(100_000));
        for _ in 0..30 {
            let line = RawLine {
                text: part.as_bytes(),
                begins: true,
                ends: true,
            };
            joiner.take(line, &mut out).unwrap();
        }
        let held = joiner.open[0].as_ref().unwrap().text.len();
        assert!(held <= MAX_LINE + 100_000, "{held}");
        assert_eq!(out.len() + held, 3_000_000);
    }

    #[test]
    fn the_last_line_is_written_without_a_newline_as_the_container_wrote_it() {
        for (log, tail, text) in [
            ("t stdout F first\nt stdout P last\n", (1, 1), "first\nlast"),
            ("t stdout P a\nt stdout P b\n", (0, 1), "ab"),
            ("t stdout P a\nt stderr P b\n", (0, 2), "a\nb"),
            ("t stdout P a\nt stdout F b\n", (1, 0), "ab\n"),
            // The log itself was cut off.
            ("t stdout F a\nt stdout F b", (2, 0), "a\nb\n"),
        ] {
            assert_eq!(count(log.as_bytes(), || Ok(())).unwrap(), tail, "{log}");
            let (mut joiner, mut out) = (Joiner::default(), vec![]);
            let mut reader = LineReader::new(log.as_bytes());
            let mut take = |line: RawLine<'_>| joiner.take(line, &mut out);
            reader.read(&mut take).unwrap();
            reader.finish(&mut take).unwrap();
            joiner.flush(&mut out).unwrap();
            joiner.flush(&mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text, "{log}");
        }
    }

    #[test]
    fn a_line_of_the_log_without_end_takes_no_endless_memory() {
        for (head, counted) in [("t stdout F ", 1), ("", 1)] {
            let log = format!("{head}{}\nt stdout F next\n", "x".repeat(5 * MAX_LINE));
            let (mut joiner, mut out) = (Joiner::default(), vec![]);
            let mut reader = LineReader::new(log.as_bytes());
            let mut longest = 0;
            reader
                .read(|line| {
                    longest = longest.max(line.text.len());
                    joiner.take(line, &mut out)
                })
                .unwrap();
            assert!(longest <= MAX_LINE + CHUNK, "{longest}");
            let expected = format!("{}\nnext\n", "x".repeat(5 * MAX_LINE));
            assert!(out == expected.as_bytes(), "{} bytes", out.len());
            assert_eq!(count(log.as_bytes(), || Ok(())).unwrap(), (counted + 1, 0));
        }
    }

    /// Pieces of a log, most of them in the runtime's form and some of them not.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let whole = prop_oneof![
            Just("2026-01-01T00:00:00.1Z stdout F "),
            Just("2026-01-01T00:00:00.2Z stderr P "),
            Just("9999-12-31T23:59:59Z stdout P:x "),
            Just("-99999-01-01T00:00:00Z stderr F"),
            Just("99999999999999999999 stdout F "),
            Just("2026-01-01T00:00:00Z stdin F "),
            Just("\n"),
            Just(" "),
        ];
        let whole = whole.prop_map(|text: &str| text.as_bytes().to_vec());
        prop_oneof![4 => whole, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
    }

    /// Gives a log in pieces of this size.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    fn read_all(log: &[u8], size: usize, options: LogOptions) -> Vec<u8> {
        let (mut joiner, mut out) = (Joiner::new(options), vec![]);
        let mut reader = LineReader::new(Slowly(log, size));
        reader.read(|line| joiner.take(line, &mut out)).unwrap();
        reader.finish(|line| joiner.take(line, &mut out)).unwrap();
        joiner.end(&mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read_in_pieces_of_any_size(
            pieces in proptest::collection::vec(piece(), 0..60),
            size in 1..200_usize,
            skip in 0..10_usize,
            timestamps: bool,
            since: Option<i32>,
        ) {
            let log = pieces.concat();
            let since = since.map(|s| jiff::Timestamp::from_second(s.into()).unwrap());
            let options = LogOptions { since, skip, timestamps };
            let at_once = read_all(&log, usize::MAX, options);
            prop_assert_eq!(&read_all(&log, size, options), &at_once);
            let (whole, open) = count(Slowly(&log, size), || Ok(())).unwrap();
            prop_assert_eq!(count(&*log, || Ok(())).unwrap(), (whole, open));
            prop_assert!(at_once.len() <= log.len() + (whole + open) * 40);
        }
    }
}
