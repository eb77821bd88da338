//! Output of several logs on one stream: whole lines, each behind its prefix.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::rc::Rc;

/// The stream that all logs are printed to.
pub(super) struct LogOutput<W: Write> {
    out: BufWriter<W>,
    /// Number of the log that was printed last, if it stopped in the middle of a line.
    in_line_of: Option<usize>,
    /// Number of logs.
    logs: usize,
}

impl<W: Write> LogOutput<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out: BufWriter::new(out),
            in_line_of: None,
            logs: 0,
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes a piece of a log. A line of another one that has no end gets one.
    fn write(&mut self, log: usize, prefix: Option<&str>, text: &[u8]) -> io::Result<()> {
        if self.in_line_of.is_some_and(|other| other != log) {
            self.out.write_all(b"\n")?;
            self.in_line_of = None;
        }
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if let (Some(prefix), None) = (prefix, self.in_line_of) {
                self.out.write_all(prefix.as_bytes())?;
            }
            self.out.write_all(line)?;
            self.in_line_of = (!line.ends_with(b"\n")).then_some(log);
        }
        Ok(())
    }
}

/// Writer of the log of one container.
pub(super) struct ContainerOutput<W: Write = StdoutLock<'static>> {
    output: Rc<RefCell<LogOutput<W>>>,
    log: usize,
    prefix: Option<String>,
    /// Number of bytes that may still be printed, if that is limited; prefixes do not count.
    left: Option<u64>,
}

impl<W: Write> ContainerOutput<W> {
    pub(super) fn new(
        output: Rc<RefCell<LogOutput<W>>>,
        prefix: Option<String>,
        limit: Option<u64>,
    ) -> Self {
        let log = {
            let mut output = output.borrow_mut();
            output.logs = output.logs.saturating_add(1);
            output.logs
        };
        Self {
            output,
            log,
            prefix,
            left: limit,
        }
    }

    /// Has something printed; `None` where as much was printed as may be.
    pub(super) fn until_limit<T>(
        &mut self,
        print: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        match print(self) {
            Ok(printed) => Ok(Some(printed)),
            Err(error) if is_limit(&error) => {
                self.flush()?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl<W: Write> Write for ContainerOutput<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let left = self.left.unwrap_or(u64::MAX);
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(text.len());
        if room == 0 && !text.is_empty() {
            return Err(io::Error::other(LimitReached));
        }
        let mut output = self.output.borrow_mut();
        output.write(self.log, self.prefix.as_deref(), &text[..room])?;
        let written = u64::try_from(room).unwrap_or(u64::MAX);
        self.left = self.left.map(|left| left.saturating_sub(written));
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.borrow_mut().flush()
    }
}

fn is_limit(error: &io::Error) -> bool {
    let source = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<LimitReached>());
    source.is_some()
}

/// As much was printed as may be.
#[derive(Debug)]
struct LimitReached;

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the limit of bytes is reached")
    }
}

impl std::error::Error for LimitReached {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_logs_stay_whole_and_have_their_prefixes() {
        let mut bytes = vec![];
        {
            let output = Rc::new(RefCell::new(LogOutput::new(&mut bytes)));
            let new = |prefix: &str, limit| {
                let prefix = Some(prefix.to_owned());
                ContainerOutput::new(Rc::clone(&output), prefix, limit)
            };
            let (mut a, mut b) = (new("[a] ", None), new("[b] ", Some(7)));
            a.write_all(b"one\ntw").unwrap();
            a.write_all(b"o\nthree").unwrap();
            b.write_all(b"four\n").unwrap();
            a.write_all(b"five\n").unwrap();
            let printed = b.until_limit(|b| b.write_all(b"six\n")).unwrap();
            assert_eq!(printed, None);
            a.write_all(b"seven\n").unwrap();
        }
        let expected = "[a] one\n[a] two\n[a] three\n[b] four\n[a] five\n[b] si\n[a] seven\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn one_log_is_printed_as_it_is() {
        let mut bytes = vec![];
        {
            let output = Rc::new(RefCell::new(LogOutput::new(&mut bytes)));
            let mut log = ContainerOutput::new(output, None, Some(5));
            assert_eq!(
                log.until_limit(|log| log.write_all(b"a\nb")).unwrap(),
                Some(())
            );
            assert_eq!(
                log.until_limit(|log| log.write_all(b"cd")).unwrap(),
                Some(())
            );
            assert_eq!(log.until_limit(|log| log.write_all(b"e")).unwrap(), None);
        }
        assert_eq!(bytes, b"a\nbcd");
    }
}
