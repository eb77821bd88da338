//! Responses of the local API for which the runtime or the kernel is asked first, within a limit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::https::stats::{TopReport, top};
use super::router::{Body, JSON, LocalQuery, line, only, plain, whole};
use super::select::PodFilter;
use super::state::ServerState;
use crate::cri::v1;
use crate::manifest::PodKey;
use crate::mirror::VERSION;
use crate::pod::task::Context;

/// Timeout of what is asked.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A path whose response needs the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuntimePath {
    Version,
    Stats,
}

impl RuntimePath {
    /// Returns the path of this text, if it is one of these.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/version" => Some(Self::Version),
            "/v1/stats" => Some(Self::Stats),
            _ => None,
        }
    }
}

/// Version of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentVersion {
    /// The agent's own, without a `v`.
    pub version: String,
    /// The version of Kubernetes whose rules it follows.
    pub kubernetes: String,
    /// Version of the runtime, if it responds.
    pub runtime: Option<RuntimeVersion>,
    /// Reason for which that is not known.
    pub runtime_error: String,
}

/// Version of the runtime, as it reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeVersion {
    /// `containerd`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Version of CRI.
    pub api_version: String,
}

/// Returns the response to a request for one of these paths.
pub(super) async fn respond<B>(
    request: &Request<B>,
    path: RuntimePath,
    state: &ServerState,
) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return only("GET, HEAD");
    }
    let context = state.context.borrow().clone();
    match path {
        RuntimePath::Version => of_line(&version(context).await),
        RuntimePath::Stats => {
            let query = request.uri().query().unwrap_or_default();
            let filter = match LocalQuery::parse(query) {
                Ok(query) => query.filter,
                Err(why) => return plain(StatusCode::BAD_REQUEST, why + "\n"),
            };
            match top_report(state, context, &filter).await {
                Ok(report) => of_line(&report),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
            }
        }
    }
}

fn of_line(item: &impl Serialize) -> Response<Body> {
    let body = line(item).unwrap_or_default();
    whole(JSON, Ok::<_, std::convert::Infallible>(Bytes::from(body)))
}

async fn top_report(
    state: &ServerState,
    context: Option<Arc<Context>>,
    filter: &PodFilter,
) -> Result<TopReport, String> {
    let context = context.ok_or("the container runtime is not connected yet")?;
    let measured = tokio::time::timeout(TIMEOUT, state.stats.measure(&context));
    let Ok(usage) = measured.await else {
        let seconds = TIMEOUT.as_secs();
        return Err(format!(
            "the runtime did not report usage within {seconds}s"
        ));
    };
    let usage = usage.map_err(|error| error.to_string())?;
    let pods = filter.select(&context.node_name, context.reports.snapshots());
    let selected: BTreeSet<PodKey> = pods.into_iter().map(|(key, _)| key).collect();
    let capacity = &context.facts.capacity;
    Ok(top(&context.node_name, capacity, &usage, |key| {
        selected.contains(key)
    }))
}

async fn version(context: Option<Arc<Context>>) -> AgentVersion {
    let runtime = match context {
        None => Err("the container runtime is not connected yet".to_owned()),
        Some(context) => {
            let request = v1::VersionRequest {
                version: "v1".to_owned(),
            };
            let asked = context.client.version(request);
            match tokio::time::timeout(TIMEOUT, asked).await {
                Ok(Ok(version)) => Ok(RuntimeVersion {
                    name: version.runtime_name,
                    version: version.runtime_version,
                    api_version: version.runtime_api_version,
                }),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("it did not respond within {}s", TIMEOUT.as_secs())),
            }
        }
    };
    let runtime_error = runtime.as_ref().err().cloned().unwrap_or_default();
    AgentVersion {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kubernetes: VERSION.to_owned(),
        runtime: runtime.ok(),
        runtime_error,
    }
}
