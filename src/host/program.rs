//! Programs that print something for the agent, such as credentials.
//!
//! A program has a limited time and may print a limited amount. One that exceeds either is killed with all that it
//! started, and nobody waits for it any more. Nothing that it prints gets into an error.

use std::fs;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::OwnedSemaphorePermit;

use crate::units::duration::format_duration;

/// Time after its end in which what it left running may still print.
const LEFT_TIME: Duration = Duration::from_secs(1);
/// Bytes that it may print.
pub(crate) const MAX_OUTPUT: usize = 1 << 20;
/// Bytes that are kept of its standard error.
const MAX_STDERR: usize = 1024;

/// A program did not come to its end.
#[derive(Debug, Error)]
pub(crate) enum ProgramError {
    #[error("cannot be started: {0}")]
    Start(io::Error),
    #[error("has not ended within {} and was killed", format_duration(*.0))]
    TimedOut(Duration),
    #[error("printed more than {MAX_OUTPUT} bytes and was killed")]
    TooLong,
    #[error("cannot be read from: {0}")]
    Read(#[from] io::Error),
}

/// Output of a program that ended.
pub(crate) struct ProgramOutput {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub(crate) stderr: Vec<u8>,
}

/// Runs a program with this input. One whose result is not awaited any more is killed. It holds its permit until it has
/// ended: the kernel may keep a process that waits for a file system, whatever it is sent.
///
/// # Errors
/// It cannot be started, takes too long, or prints too much.
pub(crate) async fn run(
    mut command: Command,
    input: Vec<u8>,
    time: Duration,
    permit: OwnedSemaphorePermit,
) -> Result<ProgramOutput, ProgramError> {
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // So that what it starts can be killed with it.
        .process_group(0);
    // The kernel looks the program up meanwhile, which may lie on a mount that does not answer.
    let start = move || -> Result<RunningProgram, ProgramError> {
        let child = command.spawn().map_err(ProgramError::Start)?;
        if let Some(id) = child.id() {
            // The agent's own protection is not for what it runs. It may have ended.
            let _ = fs::write(format!("/proc/{id}/oom_score_adj"), "0");
        }
        Ok(RunningProgram {
            child: Some(child),
            input,
            place: Some(permit),
        })
    };
    let ended = async {
        let started = tokio::task::spawn_blocking(start).await;
        let mut running =
            started.map_err(|error| ProgramError::Start(io::Error::other(error)))??;
        running.end().await
    };
    let ended = tokio::time::timeout(time, ended).await;
    ended.map_err(|_| ProgramError::TimedOut(time))?
}

/// A program that runs. It is killed where this is dropped before its end.
struct RunningProgram {
    child: Option<Child>,
    /// Text that it reads.
    input: Vec<u8>,
    /// Its permit among all that run.
    place: Option<OwnedSemaphorePermit>,
}

impl RunningProgram {
    /// Waits for its end.
    async fn end(&mut self) -> Result<ProgramOutput, ProgramError> {
        let (mut printed, mut errors) = (vec![], vec![]);
        let Some(child) = &mut self.child else {
            return Err(ProgramError::Read(io::ErrorKind::NotFound.into()));
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let writing = write_input(child.stdin.take(), &self.input);
        let status = {
            let reading = async {
                tokio::try_join!(
                    writing,
                    read_output(stdout, |piece| add_all(&mut printed, piece)),
                    read_output(stderr, |piece| {
                        add_begin(&mut errors, piece);
                        Ok(())
                    })
                )
            };
            let mut reading = std::pin::pin!(reading);
            let mut is_read = false;
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status?,
                    read = &mut reading, if !is_read => {
                        read?;
                        is_read = true;
                    }
                }
            };
            if !is_read {
                // What it left running may hold its output for ever.
                if let Ok(read) = tokio::time::timeout(LEFT_TIME, reading).await {
                    read?;
                }
            }
            status
        };
        self.child = None;
        Ok(ProgramOutput {
            status,
            stdout: printed,
            stderr: errors,
        })
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // Its number is its own until its end has been seen.
        let number = child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = number.and_then(Pid::from_raw) {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let place = self.place.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = child.wait().await;
                drop(place);
            });
        }
    }
}

/// Writes the program's input. One that does not read it is not to blame.
async fn write_input(to: Option<ChildStdin>, input: &[u8]) -> Result<(), ProgramError> {
    if let Some(mut to) = to {
        let _ = to.write_all(input).await;
    }
    Ok(())
}

/// Reads an output of the program to its end, piece by piece.
async fn read_output(
    from: Option<impl AsyncRead + Unpin>,
    mut add: impl FnMut(&[u8]) -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    let Some(mut from) = from else {
        return Ok(());
    };
    let mut chunk = [0; 4096];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        add(&chunk[..length])?;
    }
}

/// Adds a piece, but no more than may be.
fn add_all(output: &mut Vec<u8>, piece: &[u8]) -> Result<(), ProgramError> {
    if output.len().saturating_add(piece.len()) > MAX_OUTPUT {
        return Err(ProgramError::TooLong);
    }
    output.extend_from_slice(piece);
    Ok(())
}

/// Adds what still belongs to the beginning.
fn add_begin(output: &mut Vec<u8>, piece: &[u8]) {
    let left = MAX_STDERR.saturating_sub(output.len());
    output.extend_from_slice(&piece[..piece.len().min(left)]);
}
