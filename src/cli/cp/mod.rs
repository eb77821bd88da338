//! `podkeeper cp`: files from and to containers, by the `tar` in the container, as with kubectl.

mod archive;
mod pack;
mod pieces;
mod unpack;
mod warnings;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use hyper::body::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::spawn_blocking;

use self::pack::pack;
use self::pieces::{PieceReader, PieceWriter};
use self::unpack::Destination;
use super::agent::Agent;
use super::console::PIECES;
use super::container::{RunningContainer, find};
use super::{block_on, complain};
use crate::cri::streaming::{self, CHUNK, LocalStreams, StreamingError};
use crate::cri::v1;
use crate::server::PodName;

/// Maximum size of what is kept of a command's messages, in bytes.
const MAX_MESSAGES: usize = 8 * 1024;

#[derive(Debug, Args)]
pub(super) struct CpArgs {
    #[command(flatten)]
    agent: Agent,

    /// What to copy: a local path, or POD:PATH in a container
    #[arg(value_name = "SOURCE")]
    source: CpPath,

    /// Where to copy it: POD:PATH, or a local path
    #[arg(value_name = "DESTINATION")]
    destination: CpPath,

    /// Name of the container, if there are several
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,

    /// Do not keep owner and permissions in the container
    #[arg(long)]
    no_preserve: bool,
}

/// Path on this machine or in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CpPath {
    Local(PathBuf),
    Remote(PodName, String),
}

impl FromStr for CpPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        // A local path with a colon is written with a slash or `./` in front.
        let parts = parts.filter(|(pod, _)| !pod.starts_with(['/', '.']));
        let path = parts.map_or(text, |(_, path)| path);
        if path.is_empty() {
            return Err("the path cannot be empty".to_owned());
        }
        match parts {
            None => Ok(Self::Local(path.into())),
            Some((pod, path)) => Ok(Self::Remote(pod.parse()?, path.to_owned())),
        }
    }
}

pub(super) fn cp(arguments: &CpArgs) -> anyhow::Result<ExitCode> {
    let pod = match (&arguments.source, &arguments.destination) {
        (CpPath::Remote(pod, _), CpPath::Local(_)) | (CpPath::Local(_), CpPath::Remote(pod, _)) => {
            pod
        }
        (CpPath::Local(_), CpPath::Local(_)) => {
            bail!("one of source and destination must be in a container: POD:PATH")
        }
        _ => bail!("one of source and destination must be a local path"),
    };
    block_on(Box::pin(async {
        let container = find(&arguments.agent, pod, arguments.container.as_deref()).await?;
        match (&arguments.source, &arguments.destination) {
            (CpPath::Remote(_, from), CpPath::Local(to)) => download(&container, from, to).await,
            (CpPath::Local(from), CpPath::Remote(_, to)) => {
                upload(&container, from, to, arguments.no_preserve).await
            }
            _ => Ok(ExitCode::FAILURE),
        }
    }))
}

/// Splits a path in a container into a folder and a name in it, which is `.` for a folder without a name of its own.
fn split(path: &str) -> (String, String) {
    let path = match path.strip_prefix('/') {
        Some(_) => path.to_owned(),
        // No name is an option.
        None => format!("./{path}"),
    };
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        None => ("/".to_owned(), ".".to_owned()),
        Some((_, "." | "..")) => (trimmed.to_owned(), ".".to_owned()),
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
    }
}

async fn download(container: &RunningContainer, from: &str, to: &Path) -> anyhow::Result<ExitCode> {
    let (folder, name) = split(from);
    if let Some(parent) = to.parent() {
        let created = fs::create_dir_all(parent);
        created.with_context(|| parent.display().to_string())?;
    }
    let (stdout, pieces) = mpsc::channel(PIECES);
    let destination = Destination::new(OsStr::new(&name), to);
    let unpacked = spawn_blocking(move || {
        let mut pieces = PieceReader::new(pieces);
        let count = destination.unpack(&mut pieces)?;
        // What follows the end are zero bytes.
        io::copy(&mut pieces, &mut io::sink())?;
        Ok::<_, io::Error>(count)
    });
    let name = format!("./{name}");
    let tar = ["tar", "-C", &folder, "-cf", "-", &name];
    let (ended, messages) = execute(container, &tar, None, Some(stdout)).await?;
    let unpacked = unpacked.await?;
    if let (Err(StreamingError::OutputClosed), Err(error)) = (&ended, &unpacked) {
        bail!("{error}");
    }
    check(ended, &messages)?;
    if unpacked? == 0 {
        bail!("{from}: nothing was copied");
    }
    Ok(ExitCode::SUCCESS)
}

async fn upload(
    container: &RunningContainer,
    from: &Path,
    to: &str,
    no_preserve: bool,
) -> anyhow::Result<ExitCode> {
    let whole = fs::canonicalize(from).with_context(|| from.display().to_string())?;
    let (mut folder, name) = split(to);
    let mut name = OsString::from(name);
    let test = ["test", "-d", &format!("{folder}/{}", name.display())];
    let (ended, _) = execute(container, &test, None, None).await?;
    if is_folder(ended)? {
        // Its last part may be a symlink, which tar would replace.
        folder = format!("{folder}/{}", name.display());
        let own = from.file_name().or_else(|| whole.file_name());
        name = own.unwrap_or(OsStr::new(".")).to_owned();
    }
    let (pieces, stdin) = mpsc::channel(PIECES);
    let from = from.to_owned();
    let packed = spawn_blocking(move || pack(&from, &name, &mut PieceWriter::new(pieces)));
    let mut tar = vec!["tar"];
    if no_preserve {
        tar.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    tar.extend(["-xmf", "-", "-C", &folder]);
    let (ended, messages) = execute(container, &tar, Some(stdin), None).await?;
    check(ended, &messages)?;
    if packed.await?? {
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

/// Runs a command in the container; returns its exit code and what it wrote to standard error. Without a receiver its
/// output is discarded.
async fn execute(
    container: &RunningContainer,
    command: &[&str],
    stdin: Option<Receiver<Bytes>>,
    stdout: Option<Sender<Bytes>>,
) -> anyhow::Result<(Result<i32, StreamingError>, String)> {
    let message = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        tty: false,
        stdin: stdin.is_some(),
        stdout: true,
        stderr: true,
    };
    let served = container.client.exec(message).await?;
    let (stderr, mut written) = mpsc::channel::<Bytes>(PIECES);
    let (unread, mut discarded) = mpsc::channel::<Bytes>(PIECES);
    let streams = LocalStreams {
        stdin,
        stdout: stdout.unwrap_or(unread),
        stderr: Some(stderr),
        size: None,
    };
    let messages = async {
        let mut messages = vec![];
        while let Some(piece) = written.recv().await {
            let room = MAX_MESSAGES.saturating_sub(messages.len());
            messages.extend(piece.iter().take(room));
        }
        String::from_utf8_lossy(&messages).into_owned()
    };
    let discard = async { while discarded.recv().await.is_some() {} };
    let run = streaming::run(&served.url, streams);
    let (ended, messages, ()) = tokio::join!(run, messages, discard);
    Ok((ended, messages))
}

/// Returns the result of `test -d`. Where there is no `test`, nothing is taken for a folder.
fn is_folder(ended: Result<i32, StreamingError>) -> Result<bool, StreamingError> {
    match ended {
        Ok(code) => Ok(code == 0),
        Err(StreamingError::Failed(reason)) if is_missing(&reason) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether the runtime's message says that there is no such program in the container.
fn is_missing(reason: &str) -> bool {
    reason.contains("executable file not found")
}

/// Checks that tar did what it was told.
fn check(ended: Result<i32, StreamingError>, messages: &str) -> anyhow::Result<()> {
    let messages = messages.trim();
    match ended {
        Ok(0) => {
            if !messages.is_empty() {
                complain(messages);
            }
            Ok(())
        }
        Ok(code) => bail!("tar in the container ended with exit code {code}: {messages}"),
        Err(StreamingError::Failed(reason)) if is_missing(&reason) => {
            bail!("there is no tar in the container, which cp needs")
        }
        Err(error) if messages.is_empty() => Err(error.into()),
        Err(error) => bail!("tar in the container: {messages}: {error}"),
    }
}

#[cfg(test)]
mod tests;
