//! Accepting connections, with limits for callers.
//!
//! The number of connections is limited; `callers` decides which is closed when there are more. A request
//! must arrive, and a call be over, in a given time, unless its response is a stream.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::debug;

use super::callers::{Callers, ConnectionPhase, ConnectionSlot, Source};
use super::router::{Body, Endless};
use super::wire::{Ending, Wire};

/// Limits for the callers of one listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum number of connections whose request has not arrived yet.
    pub(super) waiting: usize,
    /// Maximum number of requests that are served at a time.
    pub(super) served: usize,
    /// Maximum size of a request's line and headers, in bytes.
    pub(super) headers: usize,
    /// Timeout of a request's headers.
    pub(super) header_time: Duration,
    /// Timeout of a whole call, including the reading of the response.
    pub(super) call_time: Duration,
}

/// The limits of every listener. Enough connections may wait that a caller whose request takes most of a
/// second to arrive gets through a flood of a thousand connections a second from its own address.
pub(super) const LIMITS: Limits = Limits {
    waiting: 1024,
    served: 128,
    headers: 16 * 1024,
    header_time: Duration::from_secs(5),
    call_time: Duration::from_secs(10),
};

/// Share of the process' file descriptors for the waiting connections of one listener.
const PART_OF_FILES: u64 = 16;
/// Pause after a failure to accept connections, as without file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A source of connections.
pub(super) trait Listener {
    type Stream: Stream;

    async fn accept_from(&self) -> io::Result<(Self::Stream, Source)>;
}

/// An accepted connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Waits until the caller has sent something, or closed the connection.
    fn sent(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept_from(&self) -> io::Result<(Self::Stream, Source)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, Source::Local))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept_from(&self) -> io::Result<(Self::Stream, Source)> {
        let (stream, address) = self.accept().await?;
        Ok((stream, address.ip().into()))
    }
}

impl Stream for UnixStream {
    async fn sent(&self) -> io::Result<()> {
        self.readable().await
    }
}

impl Stream for TcpStream {
    async fn sent(&self) -> io::Result<()> {
        self.readable().await
    }
}

/// Accepts connections for ever, and responds to each request with `handle`.
pub(super) async fn serve<L: Listener, A: Future<Output = Response<Body>> + Send + 'static>(
    listener: &L,
    limits: Limits,
    handle: impl Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
) {
    accept_all(listener, limits, move |stream, place| {
        serve_one(stream, limits, handle.clone(), place)
    })
    .await;
}

/// Accepts connections for ever, and hands each to `call` once its caller has sent something: until then it
/// costs next to nothing.
pub(super) async fn accept_all<L: Listener, C: Future<Output = ()> + Send + 'static>(
    listener: &L,
    limits: Limits,
    call: impl Fn(L::Stream, Arc<ConnectionSlot>) -> C + Clone + Send + 'static,
) {
    let callers = Arc::new(Callers::new(places(limits.waiting), limits.served));
    loop {
        let (stream, source) = match listener.accept_from().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "Failed to accept a connection");
                callers.drop_one();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let place = Arc::new(callers.admit(source));
        let number = place.number();
        let call = call.clone();
        let task = tokio::spawn(async move {
            match tokio::time::timeout(limits.header_time, stream.sent()).await {
                Ok(Ok(())) => call(stream, place).await,
                Ok(Err(error)) => debug!(%error, "Connection closed early"),
                Err(_) => debug!("Connection closed: nothing was sent"),
            }
        });
        callers.set_task(number, task.abort_handle());
    }
}

/// Returns the number of connections that may wait in a process with this limit of files.
fn places(most: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let part = usize::try_from(files / PART_OF_FILES).unwrap_or(usize::MAX);
    most.min(part.max(16))
}

/// Serves one connection.
pub(super) async fn serve_one<A: Future<Output = Response<Body>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    limits: Limits,
    handle: impl Fn(Request<Incoming>) -> A,
    place: Arc<ConnectionSlot>,
) {
    let service = service_fn(|request| {
        let response = place.begin().then(|| handle(request));
        async {
            let mut response = match response {
                Some(response) => response.await,
                None => too_many(),
            };
            // One request, one connection; one that is upgraded goes on, and has a header of its own.
            let is_upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if !is_upgraded {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            if is_upgraded || response.extensions().get::<Endless>().is_some() {
                place.set_phase(ConnectionPhase::Streaming);
            }
            let response = response.map(|body| match body.size_hint().exact() {
                // Its length marks its end.
                Some(_) => body,
                None => Ending::new(body, Arc::clone(&place)).boxed_unsync(),
            });
            Ok::<_, Infallible>(response)
        }
    });
    let wire = Wire::new(stream, Arc::clone(&place));
    let call = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.headers)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    let mut call = std::pin::pin!(call);
    let ended = match tokio::time::timeout(limits.call_time, &mut call).await {
        Err(_) if place.phase() == Some(ConnectionPhase::Streaming) => call.await,
        Err(_) => {
            debug!("Connection closed: the call timed out");
            return;
        }
        Ok(ended) => ended,
    };
    if let Err(error) = ended {
        debug!(%error, "Connection failed");
    }
}

/// Response to a request beyond the limit.
fn too_many() -> Response<Body> {
    let text = Bytes::from_static(b"too many requests are being served, try again later\n");
    let mut response = Response::new(Full::new(text).boxed_unsync());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use hyper::body::Bytes;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    const BODY: usize = 32 * 1024 * 1024;

    /// Starts a server, on its own thread, with a body larger than any socket's buffers.
    fn server(limits: Limits) -> SocketAddr {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let body = Bytes::from(vec![b'x'; BODY]);
                let handle = move |_| {
                    let response = Response::new(Full::new(body.clone()).boxed_unsync());
                    std::future::ready(response)
                };
                serve(&listener, limits, handle).await;
            });
        });
        receiver.recv().unwrap()
    }

    fn call(at: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// Returns the number of bytes until the server closes the connection.
    fn read(mut stream: TcpStream) -> usize {
        let (mut chunk, mut all) = (vec![0; 1 << 20], 0);
        loop {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return all,
                Ok(length) => all += length,
            }
        }
    }

    const WHOLE: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

    #[test]
    fn a_caller_that_stalls_is_disconnected() {
        let limits = Limits {
            header_time: Duration::from_millis(100),
            call_time: Duration::from_millis(300),
            ..LIMITS
        };
        let at = server(limits);
        // The server closes the connection: nothing else ends these reads.
        assert_eq!(read(call(at, "")), 0);
        assert_eq!(read(call(at, "GET / HTTP/1.1\r\nhost: ")), 0);
        // Its socket is full until the server closes it: nothing else makes a write fail.
        let mut unread = call(at, WHOLE);
        while unread.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(read(unread) < BODY);
    }

    #[test]
    fn a_request_is_as_long_as_the_listener_allows() {
        let path = "x".repeat(60 * 1024);
        let request = format!("GET /{path} HTTP/1.1\r\nhost: h\r\n\r\n");
        for (headers, is_read) in [(LIMITS.headers, false), (128 * 1024, true)] {
            let at = server(Limits { headers, ..LIMITS });
            assert_eq!(read(call(at, &request)) > BODY, is_read, "{headers}");
        }
    }

    #[test]
    fn one_more_connection_closes_the_oldest() {
        // No connection times out here, however busy the machine is.
        let ages = Duration::from_secs(600);
        let at = server(Limits {
            waiting: 2,
            served: 2,
            headers: LIMITS.headers,
            header_time: ages,
            call_time: ages,
        });
        let dawdlers: Vec<_> = (0..50).map(|_| call(at, "GET / HT")).collect();
        assert!(read(call(at, WHOLE)) > BODY);
        let mut dawdlers = dawdlers.into_iter();
        let (first, last) = (dawdlers.next().unwrap(), dawdlers.next_back().unwrap());
        assert_eq!(read(first), 0);
        // The last one may still finish.
        (&last).write_all(&WHOLE.as_bytes()[8..]).unwrap();
        assert!(read(last) > BODY);
    }
}
