//! Handlers of authorized requests.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::caller::ClientCertificate;
use super::guard::Guard;
use super::logs;
use super::query::Query;
use super::refusal::{Refusal, respond};
use super::stats::{self, Stats};
use super::streams::Streams;
use super::target::{ContainerName, PATHS, Target};
use crate::cri::{self, v1};
use crate::manifest::PodKey;
use crate::pod::report::PodSnapshot;
use crate::pod::task::Context;
use crate::server::router::{Audience, Body, METRICS, handle as common};
use crate::server::state::ServerState;
use crate::translate::labels;

/// Maximum number of callers that read logs at a time.
const MOST_READERS: usize = 32;

/// State that the handlers read.
pub(super) struct Handlers {
    pub(super) guard: Guard,
    state: Arc<ServerState>,
    streams: Streams,
    readers: Arc<Semaphore>,
    stats: Stats,
}

type Answer<T> = Result<T, Refusal>;

impl Handlers {
    pub(super) fn new(guard: Guard, state: Arc<ServerState>, streams: Streams) -> Self {
        Self {
            guard,
            state,
            streams,
            readers: Arc::new(Semaphore::new(MOST_READERS)),
            stats: Stats::default(),
        }
    }

    /// Returns the response to a request on a connection with this client certificate.
    pub(super) async fn handle(
        &self,
        request: Request<Incoming>,
        certificate: &ClientCertificate,
    ) -> Response<Body> {
        if let Err(refusal) = self.guard.admit(&request, certificate).await {
            return refusal.response();
        }
        let response = self.serve(request).await;
        response.unwrap_or_else(Refusal::response)
    }

    async fn serve(&self, request: Request<Incoming>) -> Answer<Response<Body>> {
        let Some(target) = Target::of(request.uri().path()) else {
            let reason = format!("there is only {PATHS}");
            return Err(Refusal::new(StatusCode::NOT_FOUND, reason));
        };
        let streams = matches!(
            target,
            Target::Exec(_) | Target::Attach(_) | Target::PortForward(_)
        );
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let posts = streams && request.method() == Method::POST;
        if !reads && !posts {
            let reason = "only GET is served here";
            let mut response = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason).response();
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return Ok(response);
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        match target {
            Target::Common => Ok(common(&request, &self.state, Audience::Reader)),
            Target::Summary => self.summary().await,
            Target::ResourceMetrics => self.resource_metrics().await,
            Target::CadvisorMetrics => self.cadvisor_metrics().await,
            Target::Logs(name) => self.logs(name, &query).await,
            Target::Exec(name) => self.exec(request, &name, &query).await,
            Target::Attach(name) => self.attach(request, &name, &query).await,
            Target::PortForward(pod) => self.port_forward(request, &pod, &query).await,
        }
    }

    fn context(&self) -> Answer<Arc<Context>> {
        let context = self.state.context.borrow().clone();
        context.ok_or_else(|| {
            let reason = "the container runtime is not connected yet";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        })
    }

    async fn summary(&self) -> Answer<Response<Body>> {
        let context = self.context()?;
        let usage = self.stats.measure(&context).await.map_err(|e| failed(&e))?;
        let disks = self.stats.measure_disks(&context).await;
        let summary = stats::summary(&context.node_name, &usage, &disks);
        let body = serde_json::to_vec(&summary);
        let body =
            body.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        Ok(respond("application/json", body.into()))
    }

    async fn resource_metrics(&self) -> Answer<Response<Body>> {
        let usage = self.usage(&*self.context()?).await;
        Ok(respond(METRICS, stats::metrics(usage.as_deref()).into()))
    }

    async fn cadvisor_metrics(&self) -> Answer<Response<Body>> {
        let context = self.context()?;
        let usage = self.usage(&context).await;
        let page = stats::cadvisor_metrics(&context, usage).await;
        Ok(respond(METRICS, page.into()))
    }

    /// Returns the present usage for a page that has a metric for a failure, too.
    async fn usage(&self, context: &Context) -> Option<Arc<stats::Usage>> {
        let usage = self.stats.measure(context).await;
        let usage = usage.inspect_err(|error| warn!(%error, "Failed to get the Pods' usage"));
        usage.ok()
    }

    async fn logs(&self, name: ContainerName, query: &Query) -> Answer<Response<Body>> {
        let context = self.context()?;
        let reported = find(&context, &name.pod)?;
        if !has_container(&reported, &name.container) {
            return Err(no_container(&name));
        }
        let permit = Arc::clone(&self.readers).try_acquire_owned();
        let permit = permit.map_err(|_| {
            let reason = format!("{MOST_READERS} callers read logs already, end one of them");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        })?;
        logs::handle(&context, &reported, name, query, permit).await
    }

    /// Checks what a stream into a container needs: a permit, the runtime, and that the container runs; returns the
    /// container's id.
    fn open_stream(
        &self,
        request: &Request<Incoming>,
        name: &ContainerName,
    ) -> Answer<(OwnedSemaphorePermit, Arc<Context>, String)> {
        let permit = self.streams.permit(request.headers())?;
        let context = self.context()?;
        let container_id = running(&context, name)?;
        Ok((permit, context, container_id))
    }

    async fn exec(
        &self,
        request: Request<Incoming>,
        name: &ContainerName,
        query: &Query,
    ) -> Answer<Response<Body>> {
        let (permit, context, container_id) = self.open_stream(&request, name)?;
        let options = StreamOptions::of(query)?;
        let cmd: Vec<String> = query.all("command").map(str::to_owned).collect();
        if cmd.is_empty() {
            let reason = "command: found none, expected what to run in the container";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        let message = v1::ExecRequest {
            container_id,
            cmd,
            tty: options.tty,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let served = context.client.exec(message).await.map_err(|e| failed(&e))?;
        self.streams.pass(request, &served.url, permit).await
    }

    async fn attach(
        &self,
        request: Request<Incoming>,
        name: &ContainerName,
        query: &Query,
    ) -> Answer<Response<Body>> {
        let (permit, context, container_id) = self.open_stream(&request, name)?;
        let options = StreamOptions::of(query)?;
        let message = v1::AttachRequest {
            container_id,
            tty: options.tty,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let served = context.client.attach(message).await;
        let served = served.map_err(|e| failed(&e))?;
        self.streams.pass(request, &served.url, permit).await
    }

    async fn port_forward(
        &self,
        request: Request<Incoming>,
        pod: &PodKey,
        query: &Query,
    ) -> Answer<Response<Body>> {
        let permit = self.streams.permit(request.headers())?;
        let context = self.context()?;
        let reported = find(&context, pod)?;
        // A WebSocket has its ports in the query, SPDY within the stream.
        let ports: Result<Vec<i32>, _> = query.all("port").map(str::parse).collect();
        let port = ports.map_err(|_| {
            let reason = "port: expected numbers from 1 to 65535";
            Refusal::new(StatusCode::BAD_REQUEST, reason)
        })?;
        let message = v1::PortForwardRequest {
            pod_sandbox_id: sandbox(&context, pod, &reported.report.uid).await?,
            port,
        };
        let served = context.client.port_forward(message).await;
        let served = served.map_err(|e| failed(&e))?;
        self.streams.pass(request, &served.url, permit).await
    }
}

/// Streams of a command or a container that a query asks for.
#[allow(
    clippy::struct_excessive_bools,
    reason = "the contract has these very fields"
)]
struct StreamOptions {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl StreamOptions {
    fn of(query: &Query) -> Answer<Self> {
        let tty = query.is_on("tty");
        let wanted = Self {
            stdin: query.is_on("input"),
            stdout: query.is_on("output"),
            // A terminal has one stream for both.
            stderr: query.is_on("error") && !tty,
            tty,
        };
        if wanted.stdin || wanted.stdout || wanted.stderr {
            return Ok(wanted);
        }
        let reason = "input, output, error: expected at least one of them to be 1";
        Err(Refusal::new(StatusCode::BAD_REQUEST, reason))
    }
}

fn find(context: &Context, pod: &PodKey) -> Answer<Arc<PodSnapshot>> {
    context.reports.get(pod).ok_or_else(|| {
        let reason = format!(
            "pod {:?} of namespace {:?} is not on this node",
            pod.name, pod.namespace
        );
        Refusal::new(StatusCode::NOT_FOUND, reason)
    })
}

fn has_container(reported: &PodSnapshot, container: &str) -> bool {
    let version = reported.version.as_ref();
    // A Pod of an earlier agent may run without a known manifest.
    version.is_some_and(|v| v.unpack().container(container).is_some())
        || logs::status(reported, container).is_some()
}

fn no_container(name: &ContainerName) -> Refusal {
    let ContainerName { pod, container } = name;
    let reason = format!("pod {:?} has no container {container:?}", pod.name);
    Refusal::new(StatusCode::NOT_FOUND, reason)
}

/// Returns the runtime's id of a running container.
fn running(context: &Context, name: &ContainerName) -> Answer<String> {
    let reported = find(context, &name.pod)?;
    if !has_container(&reported, &name.container) {
        return Err(no_container(name));
    }
    let status = logs::status(&reported, &name.container);
    let status = status.filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
    let id = status.and_then(|s| s.container_id);
    let id = id.as_deref().and_then(|id| id.split_once("://"));
    let (_, id) = id.ok_or_else(|| {
        let ContainerName { pod, container } = name;
        let reason = format!("container {container:?} of pod {:?} does not run", pod.name);
        Refusal::new(StatusCode::BAD_REQUEST, reason)
    })?;
    Ok(id.to_owned())
}

/// Returns the runtime's id of the Pod's sandbox.
async fn sandbox(context: &Context, pod: &PodKey, uid: &str) -> Answer<String> {
    let selector = [
        (labels::ROOT_DIR, context.owner_label.as_str()),
        (labels::POD_NAMESPACE, &pod.namespace),
        (labels::POD_NAME, &pod.name),
        (labels::POD_UID, uid),
    ];
    let selector = selector.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let ready = v1::PodSandboxStateValue {
        state: v1::PodSandboxState::SandboxReady.into(),
    };
    let message = v1::ListPodSandboxRequest {
        filter: Some(v1::PodSandboxFilter {
            state: Some(ready),
            label_selector: selector.into(),
            ..v1::PodSandboxFilter::default()
        }),
    };
    let found = context.client.list_pod_sandbox(message).await;
    let mut found = found.map_err(|e| failed(&e))?.items;
    found.sort_by_key(|sandbox| sandbox.created_at);
    let newest = found.pop().ok_or_else(|| {
        let reason = format!("pod {:?} does not run", pod.name);
        Refusal::new(StatusCode::BAD_REQUEST, reason)
    })?;
    Ok(newest.id)
}

/// Response to an error of the runtime.
fn failed(error: &cri::Error) -> Refusal {
    warn!(%error, "Request failed");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}"))
}
