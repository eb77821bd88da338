//! The terminal or the pipes of whoever runs a command in a container.
//!
//! With a terminal it is raw while the command runs, so that its keys go to the command, and as it was after that,
//! whichever way the command ends. Reading and writing have threads of their own: neither may keep the connection or a
//! signal waiting.

use std::cell::Cell;
use std::io::{self, IsTerminal, Read, Write};
use std::panic;
use std::process::ExitCode;
use std::thread;

use clap::Args;
use hyper::body::Bytes;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::complain;
use crate::cri::streaming::{self, CHUNK, LocalStreams, StreamingError, TerminalSize};

/// Number of pieces of a stream that wait for the other side.
pub(super) const PIECES: usize = 8;

/// Signals that end the command line while the terminal is raw.
const ENDS: [SignalKind; 4] = [
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::terminate(),
];
/// Added to a signal's number in the exit code of a process that it ended.
const SIGNALLED: u8 = 128;
const SIGPIPE: u8 = 13;

/// Streams that a command wants, with kubectl's flags.
#[derive(Debug, Args, Clone, Copy)]
pub(super) struct StdioArgs {
    /// Pass standard input to the container
    #[arg(long, short = 'i')]
    pub(super) stdin: bool,

    /// Standard input is a terminal, to be used as one
    #[arg(long, short = 't')]
    pub(super) tty: bool,
}

/// Standard input and output of this process, and its terminal.
#[derive(Debug)]
pub(super) struct Console {
    pub(super) has_stdin: bool,
    /// The command has a terminal.
    pub(super) has_tty: bool,
    terminal: Option<RawTerminal>,
}

impl Console {
    /// Returns the console for these flags, by kubectl's rules: without standard input there is no terminal, and where
    /// standard input is none a warning says so.
    pub(super) fn of(stdio: StdioArgs) -> Self {
        let wants_tty = stdio.stdin && stdio.tty;
        let terminal = wants_tty.then(RawTerminal::new).flatten();
        if wants_tty && terminal.is_none() {
            complain("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        Self {
            has_stdin: stdio.stdin,
            has_tty: terminal.is_some(),
            terminal,
        }
    }

    /// Returns whether keys go to the command as they are.
    pub(super) fn is_raw(&self) -> bool {
        self.terminal.is_some()
    }

    /// Carries the streams at this URL until they end, and returns the exit code.
    ///
    /// # Errors
    /// Signals cannot be handled, or the terminal cannot be set. Other failures are reported, and are in the exit code.
    pub(super) async fn run(self, url: &str) -> anyhow::Result<ExitCode> {
        let Some(terminal) = &self.terminal else {
            // Signals end this process, as they do without a handler.
            return Ok(finish(self.carry(url, None).await));
        };
        let (mut resized, mut ends) = (signal(SignalKind::window_change())?, vec![]);
        for kind in ENDS {
            ends.push((kind, signal(kind)?));
        }
        let (sizes, mut size) = watch::channel(terminal_size());
        size.mark_changed();
        terminal.begin()?;
        let follow = async {
            while resized.recv().await.is_some() {
                sizes.send_replace(terminal_size());
            }
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = self.carry(url, Some(size)) => Ok(ended),
            kind = first(&mut ends) => Err(kind),
            never = follow => never,
        };
        // What is printed from here on needs the terminal as it was.
        terminal.end();
        Ok(ended.map_or_else(signalled, finish))
    }

    async fn carry(
        &self,
        url: &str,
        size: Option<watch::Receiver<Option<TerminalSize>>>,
    ) -> Result<i32, ConsoleError> {
        // Without a terminal of ours nobody sends a size.
        let size = self.has_tty.then(|| {
            let none = || watch::channel(None).1;
            size.unwrap_or_else(none)
        });
        let (stdout, written) = writer(Box::new(io::stdout()));
        let (stderr, errors_written) = if self.has_tty {
            (None, None)
        } else {
            let (stderr, written) = writer(Box::new(io::stderr()));
            (Some(stderr), Some(written))
        };
        let (stdin, failed) = self.has_stdin.then(|| reader(io::stdin())).unzip();
        let streams = LocalStreams {
            stdin,
            stdout,
            stderr,
            size,
        };
        let ended = tokio::select! {
            ended = streaming::run(url, streams) => ended.map_err(ConsoleError::Streaming),
            broken = failure(failed) => Err(ConsoleError::Read(broken.error)),
        };
        // All that came is written, also before an error.
        let mut all_written = written.await.unwrap_or(Ok(()));
        if let Some(written) = errors_written {
            all_written = all_written.and(written.await.unwrap_or(Ok(())));
        }
        checked(ended, all_written)
    }
}

/// Failure of the streams, on either side.
#[derive(Debug, thiserror::Error)]
enum ConsoleError {
    #[error("failed to read standard input: {0}")]
    Read(io::Error),
    #[error("failed to write the output: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Streaming(#[from] StreamingError),
}

/// Returns the exit code of a command, unless its output could not be written: then that is the reason of whatever
/// else failed.
fn checked(ended: Result<i32, ConsoleError>, written: io::Result<()>) -> Result<i32, ConsoleError> {
    match written {
        Ok(()) => ended,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(StreamingError::OutputClosed.into())
        }
        Err(error) => Err(ConsoleError::Write(error)),
    }
}

/// Reports a failure; returns the exit code of this process.
fn finish(ended: Result<i32, ConsoleError>) -> ExitCode {
    match ended {
        Ok(0) => ExitCode::SUCCESS,
        Ok(code) => {
            complain(&format!("command terminated with exit code {code}"));
            let code = u8::try_from(code).unwrap_or(u8::MAX);
            ExitCode::from(code)
        }
        Err(ConsoleError::Streaming(StreamingError::OutputClosed)) => {
            ExitCode::from(SIGNALLED | SIGPIPE)
        }
        Err(error) => {
            complain(&format!("podkeeper: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn signalled(kind: SignalKind) -> ExitCode {
    let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
    ExitCode::from(SIGNALLED | number)
}

/// Waits for the first of several signals.
async fn first(signals: &mut [(SignalKind, Signal)]) -> SignalKind {
    let waits = signals.iter_mut().map(|(kind, signal)| {
        Box::pin(async move {
            signal.recv().await;
            *kind
        })
    });
    futures_util::future::select_all(waits).await.0
}

/// Failure to read the input, which must not look as if it were complete.
#[derive(Debug)]
struct BrokenInput {
    error: io::Error,
    /// Keeps the input from ending.
    #[expect(dead_code, reason = "it is only held")]
    open: mpsc::Sender<Bytes>,
}

/// Reads on a thread of its own, which ends with the process; the second receiver gets the failure, if there is one.
fn reader(
    mut from: impl Read + Send + 'static,
) -> (mpsc::Receiver<Bytes>, oneshot::Receiver<BrokenInput>) {
    let (to, pieces) = mpsc::channel(PIECES);
    let (failed, failure) = oneshot::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(length @ 1..) => {
                    let piece = Bytes::copy_from_slice(&buffer[..length]);
                    if to.blocking_send(piece).is_err() {
                        return;
                    }
                }
                Ok(_) => return,
                Err(error) => {
                    let open = to;
                    let _ = failed.send(BrokenInput { error, open });
                    return;
                }
            }
        }
    });
    (pieces, failure)
}

/// Waits for the failure of the input; for ever if there is none.
async fn failure(failed: Option<oneshot::Receiver<BrokenInput>>) -> BrokenInput {
    if let Some(failed) = failed
        && let Ok(broken) = failed.await
    {
        return broken;
    }
    std::future::pending().await
}

/// Writes on a thread of its own; the receiver knows when all is written, or the first failure.
fn writer(
    mut to: Box<dyn Write + Send>,
) -> (mpsc::Sender<Bytes>, oneshot::Receiver<io::Result<()>>) {
    let (pieces, mut from) = mpsc::channel::<Bytes>(PIECES);
    let (written, done) = oneshot::channel();
    thread::spawn(move || {
        let mut result = Ok(());
        while result.is_ok()
            && let Some(piece) = from.blocking_recv()
        {
            result = to.write_all(&piece).and_then(|()| to.flush());
        }
        drop(from);
        // Nobody may wait for it any more.
        let _ = written.send(result);
    });
    (pieces, done)
}

/// The terminal that is standard input.
#[derive(Debug)]
struct RawTerminal {
    before: Termios,
    is_raw: Cell<bool>,
}

impl RawTerminal {
    fn new() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok().filter(|_| stdin.is_terminal())?;
        Some(Self {
            before,
            is_raw: Cell::new(false),
        })
    }

    fn begin(&self) -> io::Result<()> {
        // A panic ends the process without dropping anything.
        let (before, report) = (self.before.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            restore(&before);
            report(info);
        }));
        let mut raw = self.before.clone();
        raw.make_raw();
        self.is_raw.set(true);
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &raw)?)
    }

    /// Restores the terminal, if that was not done yet.
    fn end(&self) {
        if self.is_raw.take() {
            restore(&self.before);
        }
    }
}

fn restore(before: &Termios) {
    // What the command left unread, such as answers of the terminal to its output, is not for the shell. The terminal may be
    // gone.
    let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the size of the terminal, by its input or output.
fn terminal_size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout()));
    let size = size.ok()?;
    Some(TerminalSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    async fn written(to: &str) -> io::Result<()> {
        let to = File::options().write(true).open(to).unwrap();
        let (pieces, written) = writer(Box::new(to));
        let _ = pieces.send(Bytes::from_static(b"text")).await;
        drop(pieces);
        written.await.unwrap()
    }

    #[tokio::test]
    async fn output_that_cannot_be_written_counts_before_the_exit_code() {
        assert_eq!(checked(Ok(7), written("/dev/null").await).unwrap(), 7);
        let closed = || ConsoleError::Streaming(StreamingError::OutputClosed);
        for ended in [Ok(0), Ok(7), Err(closed())] {
            let error = checked(ended, written("/dev/full").await).unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("failed to write the output: No space"),
                "{error}"
            );
        }
        let closed = checked(Ok(0), Err(io::ErrorKind::BrokenPipe.into()));
        assert!(matches!(
            closed,
            Err(ConsoleError::Streaming(StreamingError::OutputClosed))
        ));
    }

    #[tokio::test]
    async fn an_input_that_cannot_be_read_does_not_end_as_if_it_were_complete() {
        let (mut pieces, failed) = reader(File::open("/").unwrap());
        let broken = failure(Some(failed)).await;
        assert_eq!(broken.error.kind(), io::ErrorKind::IsADirectory);
        assert_eq!(pieces.try_recv(), Err(mpsc::error::TryRecvError::Empty));
        let (mut pieces, failed) = reader(&b"text"[..]);
        assert_eq!(pieces.recv().await, Some(Bytes::from_static(b"text")));
        assert_eq!(pieces.recv().await, None);
        failed.await.unwrap_err();
    }
}
