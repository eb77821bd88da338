//! Client of the local API, for the command line.

use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::socket::socket;
use super::state::NodeStatus;
use crate::json;

/// Timeout of a response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response, more than a node's whole state takes.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// Gets the status of the agent with this run directory.
///
/// # Errors
/// No agent runs there, or its response is invalid or late.
pub async fn fetch_status(run_dir: &Path) -> anyhow::Result<NodeStatus> {
    let mut lines = fetch(run_dir, "/v1/status").await?;
    lines.pop().context("the agent's response is empty")
}

/// Gets all items of a path.
///
/// # Errors
/// No agent runs there, or its response is invalid or late.
pub async fn fetch<T: DeserializeOwned>(run_dir: &Path, path: &str) -> anyhow::Result<Vec<T>> {
    let body = in_time(run_dir, async {
        let body = call(run_dir, path).await?.into_body();
        let body = Limited::new(body, MAX_RESPONSE).collect().await;
        Ok(body.map_err(|e| anyhow::anyhow!("{e}"))?.to_bytes())
    });
    let body = body.await?;
    let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(json::from_slice);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Has the agent carry out a request, and returns its response.
///
/// # Errors
/// No agent runs there, it refuses the request, or its response is invalid or late.
pub async fn send<T: DeserializeOwned>(run_dir: &Path, path: &str) -> anyhow::Result<T> {
    send_with(run_dir, path, Bytes::new()).await
}

/// The same for a request with a body.
///
/// # Errors
/// The same.
pub async fn send_with<T: DeserializeOwned>(
    run_dir: &Path,
    path: &str,
    body: Bytes,
) -> anyhow::Result<T> {
    let body = in_time(run_dir, async {
        let response = request(run_dir, Method::POST, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE);
        let body = body.collect().await.map_err(|e| anyhow::anyhow!("{e}"))?;
        let body = body.to_bytes();
        if status != StatusCode::OK {
            bail!("{}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    });
    Ok(json::from_slice(&body.await?)?)
}

/// Gets all items of a path, and follows it for further ones. The path's query must have `follow=true`.
///
/// # Errors
/// No agent runs there, or its response is invalid or late.
pub async fn follow<T: DeserializeOwned>(run_dir: &Path, path: &str) -> anyhow::Result<Lines<T>> {
    let body = match in_time(run_dir, call(run_dir, path)).await {
        Ok(response) => Some(response.into_body()),
        // The agent ended during the request.
        Err(error) if error.is::<hyper::Error>() => None,
        Err(error) => return Err(error),
    };
    Ok(Lines {
        body,
        unread: vec![],
        of: PhantomData,
    })
}

/// Stream of items that the agent sends.
#[derive(Debug)]
pub struct Lines<T> {
    /// `None` once the agent has ended.
    body: Option<Incoming>,
    /// Received bytes that are not a whole line yet.
    unread: Vec<u8>,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// Waits for the next item; `None` once the agent has ended. Cancel safe.
    ///
    /// # Errors
    /// The item is invalid.
    pub async fn next(&mut self) -> anyhow::Result<Option<T>> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(Some(json::from_slice(&line)?));
            }
            let Some(body) = &mut self.body else {
                return Ok(None);
            };
            // The connection breaks when the agent ends or is killed.
            let Some(Ok(frame)) = body.frame().await else {
                self.body = None;
                return Ok(None);
            };
            self.unread.extend(frame.data_ref().into_iter().flatten());
            if self.unread.len() > MAX_RESPONSE {
                bail!("the agent's response is too large");
            }
        }
    }
}

async fn in_time<T>(
    run_dir: &Path,
    response: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let response = tokio::time::timeout(TIMEOUT, response).await;
    let path = socket(run_dir);
    response.with_context(|| format!("the agent on {} does not respond", path.display()))?
}

async fn request(
    run_dir: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<Response<Incoming>> {
    let stream = connect(&socket(run_dir)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "podkeeper");
    let request = request.body(Full::new(body))?;
    Ok(sender.send_request(request).await?)
}

async fn call(run_dir: &Path, path: &str) -> anyhow::Result<Response<Incoming>> {
    let response = request(run_dir, Method::GET, path, Bytes::new()).await?;
    let status = response.status();
    if status != StatusCode::OK {
        let body = Limited::new(response.into_body(), MAX_RESPONSE);
        let body = body.collect().await.map_err(|e| anyhow::anyhow!("{e}"))?;
        let message = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        bail!("the agent responded {status}: {}", message.trim());
    }
    Ok(response)
}

async fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(stream),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{}: permission denied: run this as root", path.display());
        }
        Err(e) => bail!(
            "no podkeeper runs here: nothing listens on {} ({e}); is its --run-dir another one?",
            path.display()
        ),
    }
}
