//! The running agent's answers to its own command line: HTTP over a Unix socket that only root can
//! reach.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use crate::pod::report::PodReport;
use crate::pod::reports::Reports;
use crate::source::Desired;

/// The socket's name in the run folder.
const SOCKET: &str = "podkeeper.sock";
/// Callers served at a time; more wait.
const MAX_CALLERS: usize = 16;
/// A caller that does not finish its request in this time is let go.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// More than a node's whole state could need.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Everything that `podkeeper ps` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The Pods, by namespace and name.
    pub pods: Vec<PodReport>,
    /// Manifests that are not carried out as they stand.
    pub refused: Vec<RefusedReport>,
    /// Why manifests cannot be read just now, for each source that cannot.
    pub unreadable: Vec<String>,
    /// What the agent waits for before it can do anything.
    pub waiting_for: Option<String>,
}

/// A manifest that is not carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReport {
    /// The file, or the URL.
    pub path: String,
    /// What is wrong, each as `line:column: field: message`.
    pub problems: Vec<String>,
    /// The Pod whose last accepted version runs on, as `namespace/name`.
    pub keeps: Option<String>,
}

/// What the answers are made from.
#[derive(Debug)]
pub struct State {
    /// What the manifests want; nothing until they were read for the first time.
    pub desired: watch::Receiver<Option<Desired>>,
    /// What the tasks tell; nothing until the runtime answered for the first time.
    pub reports: watch::Receiver<Option<Arc<crate::pod::task::Context>>>,
}

impl State {
    fn node_status(&self) -> NodeStatus {
        let context = self.reports.borrow().clone();
        let desired = self.desired.borrow().clone();
        let waiting_for = match (&context, &desired) {
            (None, _) => Some("the container runtime does not answer yet"),
            (_, None) => Some("the manifests are being read for the first time"),
            _ => None,
        };
        let desired = desired.unwrap_or_default();
        let refused = desired.refused.into_iter().map(|refused| RefusedReport {
            path: refused.origin.to_string(),
            problems: refused.problems.iter().map(ToString::to_string).collect(),
            keeps: refused.keeps.map(|key| key.to_string()),
        });
        NodeStatus {
            pods: context
                .map(|c| Reports::all(&c.reports))
                .unwrap_or_default(),
            refused: refused.collect(),
            unreadable: desired.unreadable,
            waiting_for: waiting_for.map(str::to_owned),
        }
    }
}

/// The socket, bound and guarded, before anybody is served.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds the socket in `run_dir`, in place of one that a dead agent left.
    ///
    /// # Errors
    /// The folder or socket cannot be made, or another agent answers there.
    pub async fn bind(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(SOCKET);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir);
        made.with_context(|| format!("cannot make {}", run_dir.display()))?;
        if UnixStream::connect(&path).await.is_ok() {
            bail!(
                "another podkeeper answers on {}; give this one its own --run-dir",
                path.display()
            );
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path);
        let listener = listener.with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Serves callers for ever.
    pub async fn serve(self, state: Arc<State>) {
        let callers = Arc::new(Semaphore::new(MAX_CALLERS));
        loop {
            let Ok(permit) = Arc::clone(&callers).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "cannot take a call");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let call = serve_one(stream, state);
                if tokio::time::timeout(REQUEST_TIME, call).await.is_err() {
                    debug!("a caller took too long");
                }
                drop(permit);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that stays behind is replaced by the next agent.
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve_one(stream: UnixStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &state);
        async move { response }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!(%error, "a call broke off");
    }
}

fn answer(
    request: &Request<Incoming>,
    state: &State,
) -> hyper::http::Result<Response<Full<Bytes>>> {
    let (code, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => match serde_json::to_vec(&state.node_status()) {
            Ok(body) => (StatusCode::OK, body),
            Err(e) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                e.to_string().into_bytes(),
            ),
        },
        _ => (
            StatusCode::NOT_FOUND,
            b"there is only GET /v1/status\n".to_vec(),
        ),
    };
    let response = Response::builder().status(code);
    response
        .header("content-type", "application/json")
        .body(Full::from(body))
}

/// Asks the agent that runs with this run folder for its state.
///
/// # Errors
/// None runs there, or it does not answer as it should.
pub async fn fetch_status(run_dir: &Path) -> anyhow::Result<NodeStatus> {
    let path = run_dir.join(SOCKET);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{}: permission denied: ask as root", path.display());
        }
        Err(e) => bail!(
            "no podkeeper runs here: nobody answers on {} ({e}); is its --run-dir another one?",
            path.display()
        ),
    };
    let answer = tokio::time::timeout(REQUEST_TIME, request_status(stream));
    answer
        .await
        .with_context(|| format!("the agent on {} does not answer", path.display()))?
}

async fn request_status(stream: UnixStream) -> anyhow::Result<NodeStatus> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/v1/status").header("host", "podkeeper");
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body.map_err(|e| anyhow::anyhow!("{e}"))?.to_bytes();
    if status != StatusCode::OK {
        bail!(
            "the agent answered {status}: {}",
            String::from_utf8_lossy(&body).trim()
        );
    }
    Ok(serde_json::from_slice(&body)?)
}
