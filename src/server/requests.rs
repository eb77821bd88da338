//! Requests that change a Pod. Each goes to the Pod's task, which alone changes anything.

use std::time::Duration;

use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::PodName;
use super::router::{Body, JSON, only, plain, whole};
use super::state::ServerState;
use crate::manifest::PodKey;
use crate::pod::task::{Message, PauseRequest, PodRequest, RequestRefused, RestartRequest};

/// Timeout of a task's response. A task reads its inbox while a call or file work is under way.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Request for a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Restart,
    Pause,
    Resume,
}

impl Action {
    pub(super) const PATHS: [&str; 3] = ["/v1/pods/restart", "/v1/pods/pause", "/v1/pods/resume"];

    /// Returns the action that a path stands for, if it stands for one.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/pods/restart" => Some(Self::Restart),
            "/v1/pods/pause" => Some(Self::Pause),
            "/v1/pods/resume" => Some(Self::Resume),
            _ => None,
        }
    }
}

/// Response to a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartResponse {
    /// The Pod, as `namespace/name`.
    pub pod: String,
    /// The containers that are restarted.
    pub containers: Vec<String>,
}

/// Response to a pause or its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseResponse {
    /// The Pod, as `namespace/name`.
    pub pod: String,
    /// False if it was so already.
    pub changed: bool,
}

/// Query of a request.
#[derive(Debug, Default)]
struct RequestQuery {
    pod: Option<PodName>,
    container: Option<String>,
}

impl RequestQuery {
    fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("pod", value) => parsed.pod = Some(value.parse()?),
                ("container", value) => parsed.container = Some(value.to_owned()),
                (key, _) => return Err(format!("found {key:?}, expected pod or container")),
            }
        }
        Ok(parsed)
    }
}

/// Has the Pod's task carry out a request, and responds once it has taken it.
pub(super) async fn respond<B>(
    request: &Request<B>,
    action: Action,
    state: &ServerState,
) -> Response<Body> {
    if *request.method() != Method::POST {
        return only("POST");
    }
    let query = match RequestQuery::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) => query,
        Err(why) => return plain(StatusCode::BAD_REQUEST, why + "\n"),
    };
    let container = query.container;
    let key = match the_key(state, query.pod) {
        Ok(key) => key,
        Err((status, why)) => return plain(status, why + "\n"),
    };
    let responded = match action {
        Action::Restart => {
            let (reply, replied) = oneshot::channel();
            let message = Message::Restart(RestartRequest { container, reply });
            let containers = ask(state, &key, message, replied).await;
            containers.map(|containers| {
                let response = RestartResponse {
                    pod: key.to_string(),
                    containers,
                };
                serde_json::to_vec(&response)
            })
        }
        Action::Pause | Action::Resume => {
            let (reply, replied) = oneshot::channel();
            let pause = action == Action::Pause;
            let message = Message::Pause(PauseRequest { pause, reply });
            let changed = ask(state, &key, message, replied).await;
            changed.map(|changed| {
                let response = PauseResponse {
                    pod: key.to_string(),
                    changed,
                };
                serde_json::to_vec(&response)
            })
        }
    };
    match responded {
        Ok(body) => whole(JSON, body.map(Into::into)),
        Err((status, why)) => plain(status, why + "\n"),
    }
}

/// Reason for which a request fails.
type RequestFailure = (StatusCode, String);

const NOT_CONNECTED: &str = "the container runtime is not connected yet";

/// Returns the one Pod of this name.
fn the_key(state: &ServerState, name: Option<PodName>) -> Result<PodKey, RequestFailure> {
    let Some(name) = name else {
        return Err((
            StatusCode::BAD_REQUEST,
            "the query needs pod=NAME".to_owned(),
        ));
    };
    let Some(context) = state.context.borrow().clone() else {
        return Err((StatusCode::SERVICE_UNAVAILABLE, NOT_CONNECTED.to_owned()));
    };
    let mut keys = name.select(&context.node_name, context.reports.keys().into_iter());
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => {
            let why = format!("several Pods are called {name}");
            Err((StatusCode::CONFLICT, why))
        }
        (None, _) => Err((StatusCode::NOT_FOUND, format!("there is no Pod {name}"))),
    }
}

/// Sends a Pod's task a message, and waits for its response.
async fn ask<T>(
    state: &ServerState,
    key: &PodKey,
    message: Message,
    replied: oneshot::Receiver<Result<T, RequestRefused>>,
) -> Result<T, RequestFailure> {
    let unavailable = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
    let Some(context) = state.context.borrow().clone() else {
        return Err(unavailable(NOT_CONNECTED.to_owned()));
    };
    let request = PodRequest {
        key: key.clone(),
        message,
    };
    if !context.requests.send(request) {
        return Err(unavailable(
            "too many requests wait, try again later".to_owned(),
        ));
    }
    match tokio::time::timeout(TIMEOUT, replied).await {
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(refused))) => Err((StatusCode::CONFLICT, refused.to_string())),
        Ok(Err(_)) => Err((StatusCode::NOT_FOUND, format!("Pod {key} is gone"))),
        Err(_) => {
            let seconds = TIMEOUT.as_secs();
            let why = format!(
                "Pod {key} did not accept the request within {seconds}s, it may still be carried out"
            );
            Err((StatusCode::GATEWAY_TIMEOUT, why))
        }
    }
}
