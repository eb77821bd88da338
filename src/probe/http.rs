//! Asking a container over HTTP or HTTPS, for probes and hooks.
//!
//! One connection per request, no proxy, no verification of certificates. Redirects are followed as
//! long as they stay on the host.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    USER_AGENT,
};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use reqwest::Url;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::dial::{address, connect, words};
use super::task::Task;
use super::tls::{TlsError, handshake};
use super::{MAX_OUTPUT, ProbeOutcome, ProbeTarget, start_of};

/// Requests made at most for one answer, the first and the redirects; the reference agent's.
const MAX_REQUESTS: usize = 10;
/// User agent of the reference agent's probes.
const PROBE_AGENT: HeaderValue = HeaderValue::from_static("kube-probe/1.36");

/// Probes a URL: succeeds if a GET returns a status code from 200 to 399.
pub(super) async fn probe(
    target: &ProbeTarget,
    action: &HTTPGetAction,
    limit: Duration,
) -> ProbeOutcome {
    let request = match ProbeRequest::new(target, action, PROBE_AGENT) {
        Ok(request) => request,
        Err(error) => return ProbeOutcome::Error(error),
    };
    let began = Instant::now();
    let answer = match timeout(limit, request.send()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(fault)) => return ProbeOutcome::Failure(fault.to_string()),
        Err(_) => return ProbeOutcome::Failure(request.late().to_string()),
    };
    let left = limit.saturating_sub(began.elapsed());
    let status = answer.status();
    match timeout(left, answer.body()).await {
        Ok(Ok(body)) => judge(&request, status, &body),
        Ok(Err(error)) => ProbeOutcome::Error(error),
        Err(_) => ProbeOutcome::Error(
            "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
                .to_owned(),
        ),
    }
}

fn judge(request: &ProbeRequest, status: StatusCode, body: &[u8]) -> ProbeOutcome {
    let code = status.as_u16();
    let body = start_of(body);
    match code {
        200..300 => ProbeOutcome::Success,
        300..400 => {
            ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        _ => {
            // The body stays out of what users of an API server see: it may hold what is not for them.
            debug!(url = %request.place, code, body, "HTTP probe failed");
            ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {code}"))
        }
    }
}

/// URL of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProbeUrl {
    https: bool,
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

impl fmt::Display for ProbeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        let address = address(&self.host, self.port);
        write!(f, "{scheme}://{address}{}", self.path)
    }
}

/// A GET as an action describes it.
#[derive(Debug, Clone)]
pub(super) struct ProbeRequest {
    place: ProbeUrl,
    headers: HeaderMap,
    /// The `Host` header that the action asks for.
    host: Option<HeaderValue>,
}

impl ProbeRequest {
    /// The request of `action`, which introduces itself as `agent` unless the action says otherwise.
    ///
    /// # Errors
    /// Returns the part of the action that a request cannot have.
    pub(super) fn new(
        target: &ProbeTarget,
        action: &HTTPGetAction,
        agent: HeaderValue,
    ) -> Result<Self, String> {
        let mut headers = headers(action)?;
        let host = headers.remove(HOST).filter(|h| !h.is_empty());
        for (name, value) in [
            (USER_AGENT, agent),
            (ACCEPT, HeaderValue::from_static("*/*")),
        ] {
            // An empty one is how an action asks for none.
            let given = headers.entry(name.clone()).or_insert(value);
            if given.is_empty() {
                headers.remove(name);
            }
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let place = ProbeUrl {
            https: action.scheme.as_deref() == Some("HTTPS"),
            host: target.host(action.host.as_deref()).to_owned(),
            port: target.port(&action.port)?,
            path: path_and_query(action.path.as_deref().unwrap_or_default()),
        };
        Ok(Self {
            place,
            headers,
            host,
        })
    }

    /// The same over plain HTTP, without what was only for an encrypted connection.
    pub(super) fn without_tls(&self) -> Self {
        let mut plain = self.clone();
        plain.place.https = false;
        plain.headers.remove(AUTHORIZATION);
        plain
    }

    /// Asks, and follows redirects that stay on the host. A redirect that leads elsewhere is the
    /// answer.
    pub(super) async fn send(&self) -> Result<ProbeResponse, Fault> {
        let mut request = self.clone();
        for _ in 0..MAX_REQUESTS {
            let answer = request.exchange().await;
            let answer = answer.map_err(|cause| request.fault(cause))?;
            if !request.redirect(&answer.response) {
                return Ok(answer);
            }
        }
        let stopped = format!("stopped after {MAX_REQUESTS} redirects");
        Err(request.fault(Cause::Other(stopped)))
    }

    /// Goes where the answer points, if it is to be followed.
    fn redirect(&mut self, response: &Response<Incoming>) -> bool {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return false;
        }
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|l| l.to_str().ok()).unwrap_or_default();
        let base = Url::parse(&self.place.to_string());
        let (Ok(here), false) = (base, location.is_empty()) else {
            return false;
        };
        let Ok(there) = here.join(location) else {
            return false;
        };
        let https = match there.scheme() {
            "http" => false,
            "https" => true,
            _ => return false,
        };
        let port = there.port_or_known_default();
        let (true, Some(port)) = (there.host_str() == here.host_str(), port) else {
            return false;
        };
        if Url::parse(location).is_ok() {
            // The server says itself how it is called.
            self.host = None;
        }
        let query = there.query().map(|q| format!("?{q}")).unwrap_or_default();
        self.place = ProbeUrl {
            https,
            port,
            host: self.place.host.clone(),
            path: format!("{}{query}", there.path()),
        };
        true
    }

    async fn exchange(&self) -> Result<ProbeResponse, Cause> {
        let stream = self.connect().await?;
        let mut client = http1::Builder::new();
        let client = client.title_case_headers(true);
        let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await?;
        let connection = Task::spawn(async move {
            // The response shows how it ends.
            let _ = connection.await;
        });
        let response = sender.send_request(self.message()?).await?;
        Ok(ProbeResponse {
            response,
            connection,
        })
    }

    async fn connect(&self) -> Result<Box<dyn ByteStream>, Cause> {
        let ProbeUrl { host, port, .. } = &self.place;
        let stream = connect(host, *port).await.map_err(Cause::Other)?;
        if !self.place.https {
            return Ok(Box::new(stream));
        }
        match handshake(host, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(TlsError::PlainHttp) => Err(Cause::PlainHttp),
            Err(TlsError::Other(error)) => Err(Cause::Other(error)),
        }
    }

    fn message(&self) -> Result<hyper::Request<Empty<Bytes>>, Cause> {
        let wrong = |e: &dyn fmt::Display| Cause::Other(format!("cannot be asked for: {e}"));
        let address = address(&self.place.host, self.place.port);
        let own = HeaderValue::try_from(address).map_err(|e| wrong(&e))?;
        let request = hyper::Request::get(&self.place.path);
        let mut request = request.body(Empty::new()).map_err(|e| wrong(&e))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone().unwrap_or(own));
        headers.extend(self.headers.clone());
        Ok(request)
    }

    fn fault(&self, cause: Cause) -> Fault {
        Fault {
            url: self.place.to_string(),
            cause,
        }
    }

    /// Returns the error of a request without an answer in time.
    fn late(&self) -> Fault {
        let cause = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
        self.fault(Cause::Other(cause.to_owned()))
    }
}

/// The headers that an action asks for, in its order.
fn headers(action: &HTTPGetAction) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in action.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&header.name)
            .map_err(|_| format!("found {:?}, expected the name of a header", header.name))?;
        let value = HeaderValue::try_from(&header.value)
            .map_err(|_| format!("found {:?}, expected a header's value", header.value))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// A path and query as they go over the wire: from the root, without a fragment, and what no URL can
/// hold as it is, escaped.
fn path_and_query(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut escaped = String::with_capacity(path.len().saturating_add(1));
    if !path.starts_with('/') {
        escaped.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.extend(format!("%{byte:02X}").chars());
        }
    }
    escaped
}

/// A server's answer, whose body was not read yet. Its connection ends with it.
#[derive(Debug)]
pub(super) struct ProbeResponse {
    response: Response<Incoming>,
    connection: Task,
}

impl ProbeResponse {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The body, or its beginning where it is long.
    pub(super) async fn body(self) -> Result<Vec<u8>, String> {
        let mut body = self.response.into_body();
        let mut start = Vec::new();
        while start.len() < MAX_OUTPUT {
            let Some(frame) = body.frame().await else {
                // All was said: both sides take their leave.
                self.connection.detach();
                break;
            };
            let frame = frame.map_err(|e| explain(&e))?;
            start.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
        }
        start.truncate(MAX_OUTPUT);
        Ok(start)
    }
}

/// Failure of a request without a response.
#[derive(Debug, thiserror::Error)]
#[error("Get {url:?}: {cause}")]
pub(super) struct Fault {
    url: String,
    cause: Cause,
}

impl Fault {
    /// True if the server would have responded without TLS.
    pub(super) fn is_plain_http(&self) -> bool {
        matches!(self.cause, Cause::PlainHttp)
    }
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainHttp,
    #[error("{0}")]
    Other(String),
}

impl From<hyper::Error> for Cause {
    fn from(error: hyper::Error) -> Self {
        Self::Other(explain(&error))
    }
}

fn explain(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "EOF".to_owned();
    }
    if error.is_parse() {
        return format!("malformed HTTP response: {error}");
    }
    let source = error.source();
    match source.and_then(|s| s.downcast_ref::<std::io::Error>()) {
        Some(error) => words(error),
        None => source.map_or_else(|| error.to_string(), ToString::to_string),
    }
}

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

#[cfg(test)]
mod tests {
    use super::path_and_query;

    #[test]
    fn a_path_is_asked_for_as_it_is_written_where_a_url_can_hold_it() {
        for (path, asked) in [
            ("", "/"),
            ("/", "/"),
            ("/healthz", "/healthz"),
            ("healthz", "/healthz"),
            ("/ready?verbose=1&x=%20", "/ready?verbose=1&x=%20"),
            ("/a/../b", "/a/../b"),
            ("/a b\"{", "/a%20b%22%7B"),
            ("/é", "/%C3%A9"),
            ("/page#part", "/page"),
        ] {
            assert_eq!(path_and_query(path), asked, "{path}");
        }
    }
}
