//! Routes: requests and their responses.

use std::sync::Arc;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::requests::Action;
use super::select::{PodFilter, query_pairs};
use super::state::ServerState;
use super::{follow, plan, pod_list};
use crate::pod::events::Event;

/// Audience of a listener; each may get what the ones before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// Callers of the health port.
    Health,
    /// Callers of the read-only port.
    Reader,
    /// Callers of the Unix socket: root.
    Owner,
}

/// Body of a response.
pub(super) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Marks a response that is a stream without an end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endless;

/// The paths, and the least audience that may get each.
const PATHS: [(&str, Audience); 10] = [
    ("/healthz", Audience::Health),
    ("/pods", Audience::Reader),
    ("/configz", Audience::Reader),
    ("/metrics", Audience::Reader),
    ("/metrics/probes", Audience::Reader),
    ("/v1/status", Audience::Owner),
    ("/v1/pods", Audience::Owner),
    ("/v1/events", Audience::Owner),
    // These are responded to by `runtime`.
    ("/v1/version", Audience::Owner),
    ("/v1/stats", Audience::Owner),
];

const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
/// Content type of Prometheus' text format.
pub(super) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the response to a request.
pub(super) fn handle<B>(
    request: &Request<B>,
    state: &Arc<ServerState>,
    audience: Audience,
) -> Response<Body> {
    // The kubelet's list of Pods is at a path with a slash, which some of its clients ask for.
    let path = match request.uri().path() {
        "/pods/" => "/pods",
        path => path,
    };
    let mut paths = PATHS.iter().filter(|(_, from)| *from <= audience);
    if !paths.clone().any(|(known, _)| *known == path) {
        let known: Vec<&str> = paths.by_ref().map(|(known, _)| *known).collect();
        let mut there = format!("there is only {}", known.join(", "));
        if audience == Audience::Owner {
            let posts = [&Action::PATHS[..], &[plan::PATH]].concat();
            there = format!("{there}, and by POST {}", posts.join(", "));
        }
        there.push('\n');
        return plain(StatusCode::NOT_FOUND, there);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return only("GET, HEAD");
    }
    let query = request.uri().query().unwrap_or_default();
    match path {
        "/healthz" => match state.health() {
            Ok(()) => plain(StatusCode::OK, "ok"),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/pods" => of_type(JSON, pod_list::body(state.snapshots())),
        "/configz" => whole(JSON, serde_json::to_vec(&state.configz()).map(Bytes::from)),
        "/metrics" => whole(METRICS, state.metrics().map(Bytes::from)),
        "/metrics/probes" => of_type(
            METRICS,
            Full::new(state.probe_metrics().into()).boxed_unsync(),
        ),
        _ => match LocalQuery::parse(query) {
            Ok(query) => lines(path, query, state),
            Err(why) => plain(StatusCode::BAD_REQUEST, why + "\n"),
        },
    }
}

/// Response to a method that is not one of these.
pub(super) fn only(methods: &'static str) -> Response<Body> {
    let first = methods.split(',').next().unwrap_or(methods);
    let text = format!("only {first} is served here\n");
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, text);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Query of a path of the local API.
#[derive(Debug, Default)]
pub(super) struct LocalQuery {
    pub(super) filter: PodFilter,
    since: u64,
    follow: bool,
}

impl LocalQuery {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (key, value) in query_pairs(query) {
            match key.as_str() {
                "pod" => parsed.filter.name = Some(value.parse()?),
                "namespace" => parsed.filter.namespace = Some(value),
                "selector" => parsed.filter.selector = Some(value.parse()?),
                "since" => {
                    let wrong = |_| format!("since: found {value:?}, expected a number");
                    parsed.since = value.parse().map_err(wrong)?;
                }
                "follow" => parsed.follow = value == "true",
                _ => {
                    let known = "pod, namespace, selector, since or follow";
                    return Err(format!("found {key:?}, expected {known}"));
                }
            }
        }
        Ok(parsed)
    }
}

/// Responses of the local API: a line of JSON for each item, and further ones on changes if the query has
/// `follow`.
fn lines(path: &str, query: LocalQuery, state: &Arc<ServerState>) -> Response<Body> {
    let LocalQuery {
        filter,
        since,
        follow,
    } = query;
    match path {
        "/v1/status" => {
            let mut changed = Changed::default();
            let next = move |state: &ServerState| changed.line(&state.node_status(&filter));
            of_lines(state, follow, next)
        }
        "/v1/pods" => {
            let mut changed = Changed::default();
            let next = move |state: &ServerState| changed.line(&state.details(&filter));
            of_lines(state, follow, next)
        }
        _ => {
            let mut since = since;
            let next = move |state: &ServerState| {
                let events = state.events(since, &filter);
                since = events.last().map_or(since, |event: &Event| event.number);
                let lines = events.iter().filter_map(line);
                Some(lines.collect::<Vec<_>>().concat()).filter(|lines| !lines.is_empty())
            };
            of_lines(state, follow, next)
        }
    }
}

fn of_lines(
    state: &Arc<ServerState>,
    follow: bool,
    mut next: impl FnMut(&ServerState) -> Option<Vec<u8>> + Send + 'static,
) -> Response<Body> {
    if !follow {
        let body = next(state).unwrap_or_default();
        return whole(JSON, Ok::<_, std::convert::Infallible>(Bytes::from(body)));
    }
    let Ok(permit) = Arc::clone(&state.followers).try_acquire_owned() else {
        let why = "too many callers follow already, end one of them\n";
        return plain(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let mut response = Response::new(follow::body(Arc::clone(state), permit, next));
    response.extensions_mut().insert(Endless);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// Writes an item when it differs from the one before.
#[derive(Debug, Default)]
struct Changed(Option<Vec<u8>>);

impl Changed {
    fn line(&mut self, what: &impl Serialize) -> Option<Vec<u8>> {
        let line = line(what);
        if line.is_none() || line == self.0 {
            return None;
        }
        self.0.clone_from(&line);
        line
    }
}

/// A line of JSON. All items have text keys, so it never fails.
pub(super) fn line(what: &impl Serialize) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(what).ok()?;
    line.push(b'\n');
    Some(line)
}

pub(super) fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    respond(status, TEXT, Bytes::from(text.into()))
}

pub(super) fn whole<E: std::fmt::Display>(
    content_type: &'static str,
    body: Result<Bytes, E>,
) -> Response<Body> {
    match body {
        Ok(body) => respond(StatusCode::OK, content_type, body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = of_type(content_type, Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn of_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
