//! The command line's side of the socket.

use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::socket::socket;
use super::state::NodeStatus;
use crate::json;

/// An agent that does not answer in this time does not work.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than a node's whole state could need.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Asks the agent that runs with this run folder for its state.
///
/// # Errors
/// None runs there, or it does not answer as it should.
pub async fn fetch_status(run_dir: &Path) -> anyhow::Result<NodeStatus> {
    let mut lines = fetch(run_dir, "/v1/status").await?;
    lines.pop().context("the agent's answer is empty")
}

/// Asks the agent for everything that it has to say of a path, now.
///
/// # Errors
/// None runs there, or it does not answer as it should.
pub async fn fetch<T: DeserializeOwned>(run_dir: &Path, path: &str) -> anyhow::Result<Vec<T>> {
    let body = in_time(run_dir, async {
        let body = call(run_dir, path).await?.into_body();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        Ok(body.map_err(|e| anyhow::anyhow!("{e}"))?.to_bytes())
    });
    let body = body.await?;
    let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(json::from_slice);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Asks the agent for what it has to say of a path, now and from then on. The path's query must say
/// `follow=true`.
///
/// # Errors
/// None runs there, or it does not answer as it should.
pub async fn follow<T: DeserializeOwned>(run_dir: &Path, path: &str) -> anyhow::Result<Lines<T>> {
    let body = match in_time(run_dir, call(run_dir, path)).await {
        Ok(response) => Some(response.into_body()),
        // It ended while it was asked.
        Err(error) if error.is::<hyper::Error>() => None,
        Err(error) => return Err(error),
    };
    Ok(Lines {
        body,
        unread: vec![],
        of: PhantomData,
    })
}

/// What the agent says, as it says it.
#[derive(Debug)]
pub struct Lines<T> {
    /// Nothing once it has ended.
    body: Option<Incoming>,
    /// What came and was not given on.
    unread: Vec<u8>,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// Waits for the next thing; nothing comes any more when the agent has ended. May be cancelled.
    ///
    /// # Errors
    /// It is not what it should be.
    pub async fn next(&mut self) -> anyhow::Result<Option<T>> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(Some(json::from_slice(&line)?));
            }
            let Some(body) = &mut self.body else {
                return Ok(None);
            };
            // An agent that ends or is killed breaks off.
            let Some(Ok(frame)) = body.frame().await else {
                self.body = None;
                return Ok(None);
            };
            self.unread.extend(frame.data_ref().into_iter().flatten());
            if self.unread.len() > MAX_ANSWER {
                bail!("the agent says more than it could have to say");
            }
        }
    }
}

async fn in_time<T>(
    run_dir: &Path,
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    let path = socket(run_dir);
    answer.with_context(|| format!("the agent on {} does not answer", path.display()))?
}

async fn call(run_dir: &Path, path: &str) -> anyhow::Result<Response<Incoming>> {
    let stream = connect(&socket(run_dir)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "podkeeper");
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let status = response.status();
    if status != StatusCode::OK {
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|e| anyhow::anyhow!("{e}"))?;
        let said = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        bail!("the agent answered {status}: {}", said.trim());
    }
    Ok(response)
}

async fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(stream),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{}: permission denied: ask as root", path.display());
        }
        Err(e) => bail!(
            "no podkeeper runs here: nobody answers on {} ({e}); is its --run-dir another one?",
            path.display()
        ),
    }
}
