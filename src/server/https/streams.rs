//! Streams into containers. The runtime serves them itself, at a URL that it returns for each; a connection
//! that the caller upgrades, to SPDY or to a WebSocket, is proxied there and back as it is.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use super::refusal::{Refusal, respond};
use crate::cri::streaming;
use crate::server::router::Body;
use crate::server::wire::END_PAUSE;

/// Maximum number of streams.
const MOST: usize = 64;
/// Timeout of a response of the runtime's streaming server.
const DEADLINE: Duration = Duration::from_secs(15);
/// Maximum size of a response without a stream that is passed on.
const MAX_RESPONSE: usize = 64 * 1024;
const CHUNK: usize = 32 * 1024;

/// Headers that belong to the stream, and are passed on. No header with the caller's identity is.
const STREAM_HEADERS: [HeaderName; 3] = [
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("x-stream-protocol-version"),
];
const WEB_SOCKET_HEADERS: &str = "sec-websocket-";

/// The open streams.
#[derive(Debug)]
pub(super) struct Streams {
    permits: Arc<Semaphore>,
    idle_timeout: Duration,
}

impl Streams {
    /// Creates an empty set of streams; each is closed after `idle_timeout` without traffic.
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MOST)),
            idle_timeout,
        }
    }

    /// Reserves a permit for one stream.
    ///
    /// # Errors
    /// There are too many streams, or the request does not upgrade its connection.
    pub(super) fn permit(&self, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Refusal> {
        if !headers.contains_key(UPGRADE) {
            let reason = "expected a connection that is to be upgraded, to SPDY/3.1 or websocket";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|_| {
            let reason = format!("{MOST} streams are open already, end one of them");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        })
    }

    /// Proxies the caller's connection to the runtime's URL of this stream.
    ///
    /// # Errors
    /// The runtime refuses the stream.
    pub(super) async fn pass(
        &self,
        mut request: Request<Incoming>,
        url: &str,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, Refusal> {
        let caller = hyper::upgrade::on(&mut request);
        let headers = stream_headers(request.headers());
        let upstream = streaming::request(url, request.method().clone(), headers);
        let upstream = tokio::time::timeout(DEADLINE, upstream).await;
        let upstream = upstream.unwrap_or_else(|_| Err(format!("no response within {DEADLINE:?}")));
        let mut upstream = match upstream {
            Ok(upstream) => upstream,
            Err(reason) => {
                let reason = format!("the container runtime refuses the stream: {reason}");
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, reason));
            }
        };
        if upstream.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(whole(upstream).await);
        }
        let runtime = hyper::upgrade::on(&mut upstream);
        tokio::spawn(join(caller, runtime, self.idle_timeout, permit));
        let mut response = Response::new(Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = stream_headers(upstream.headers());
        Ok(response)
    }
}

fn stream_headers(headers: &HeaderMap) -> HeaderMap {
    let ours = |name: &HeaderName| {
        STREAM_HEADERS.contains(name) || name.as_str().starts_with(WEB_SOCKET_HEADERS)
    };
    let found = headers.iter().filter(|(name, _)| ours(name));
    // A repeated header stays repeated.
    let mut kept = HeaderMap::new();
    for (name, value) in found {
        kept.append(name.clone(), value.clone());
    }
    kept
}

/// Response of the runtime without a stream: the reason.
async fn whole(response: Response<Incoming>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(DEADLINE, Limited::new(body, MAX_RESPONSE).collect()).await;
    let body = body.ok().and_then(Result::ok);
    let body = body.map_or(Bytes::new(), http_body_util::Collected::to_bytes);
    let mut response = respond("text/plain; charset=utf-8", body);
    *response.status_mut() = head.status;
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

/// Copies between both ends until one closes, or the stream is idle for too long.
async fn join(
    caller: OnUpgrade,
    runtime: OnUpgrade,
    idle_timeout: Duration,
    _permit: OwnedSemaphorePermit,
) {
    let both = async { tokio::try_join!(caller, runtime) };
    match tokio::time::timeout(DEADLINE, both).await {
        Ok(Ok((caller, runtime))) => {
            carry(TokioIo::new(caller), TokioIo::new(runtime), idle_timeout).await;
        }
        Ok(Err(error)) => debug!(%error, "Failed to upgrade a stream"),
        Err(_) => debug!("Timed out upgrading a stream"),
    }
}

async fn carry(
    caller: impl AsyncRead + AsyncWrite,
    runtime: impl AsyncRead + AsyncWrite,
    idle_timeout: Duration,
) {
    let moved = Notify::new();
    let (mut from_caller, mut to_caller) = tokio::io::split(Box::pin(caller));
    let (mut from_runtime, mut to_runtime) = tokio::io::split(Box::pin(runtime));
    let ended = tokio::select! {
        ended = copy(&mut from_caller, &mut to_runtime, &moved) => ended,
        ended = copy(&mut from_runtime, &mut to_caller, &moved) => ended,
        () = idle(&moved, idle_timeout) => {
            debug!("Stream is idle, closing it");
            Ok(())
        }
    };
    if let Err(error) = ended {
        debug!(%error, "Stream failed");
    }
    // The other end may be closed already. The last data must not arrive together with the end.
    let farewell = async {
        tokio::time::sleep(END_PAUSE).await;
        let _ = to_caller.shutdown().await;
        let _ = to_runtime.shutdown().await;
    };
    let _ = tokio::time::timeout(DEADLINE, farewell).await;
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Notify,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..length]).await?;
        to.flush().await?;
        moved.notify_one();
    }
}

/// Waits until there was no traffic for this long.
async fn idle(moved: &Notify, timeout: Duration) {
    while tokio::time::timeout(timeout, moved.notified())
        .await
        .is_ok()
    {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    const LONG: Duration = Duration::from_secs(3600);

    fn joined(idle_timeout: Duration) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<()>) {
        let (caller, near) = duplex(64);
        let (runtime, far) = duplex(64);
        (
            caller,
            runtime,
            tokio::spawn(carry(near, far, idle_timeout)),
        )
    }

    #[tokio::test]
    async fn both_ends_receive_everything_however_small_the_buffers() {
        let (caller, runtime, task) = joined(LONG);
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut from_caller, mut to_runtime) = tokio::io::split(caller);
        let (mut from_runtime, mut to_caller) = tokio::io::split(runtime);
        let (mut there, mut back) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        // Both ways at once: neither may wait for the other.
        let (a, b, c, d) = tokio::join!(
            to_runtime.write_all(&bytes),
            to_caller.write_all(&bytes),
            from_runtime.read_exact(&mut there),
            from_caller.read_exact(&mut back),
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok() && d.is_ok());
        assert!(there == bytes && back == bytes);
        assert!(!task.is_finished());
    }

    #[tokio::test]
    async fn a_stream_is_over_when_one_end_is_and_its_last_words_arrive() {
        let (mut caller, mut runtime, task) = joined(LONG);
        runtime.write_all(b"last words").await.unwrap();
        drop(runtime);
        let mut heard = String::new();
        caller.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "last words");
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_on_which_nothing_moves_is_ended_and_no_other() {
        let (mut caller, mut runtime, task) = joined(Duration::from_secs(60));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            caller.write_all(b"x").await.unwrap();
            runtime.read_exact(&mut [0]).await.unwrap();
        }
        assert!(!task.is_finished());
        let mut rest = vec![];
        caller.read_to_end(&mut rest).await.unwrap();
        task.await.unwrap();
    }

    #[test]
    fn the_runtime_is_not_told_who_calls() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("upgrade", "SPDY/3.1"),
            ("connection", "Upgrade"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("sec-websocket-key", "k"),
            ("x-forwarded-for", "10.0.0.1"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let mut kept: Vec<String> = stream_headers(&headers)
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        kept.sort();
        assert_eq!(
            kept,
            [
                "connection: Upgrade",
                "sec-websocket-key: k",
                "upgrade: SPDY/3.1",
                "x-stream-protocol-version: v4.channel.k8s.io",
                "x-stream-protocol-version: v5.channel.k8s.io",
            ]
        );
    }
}
