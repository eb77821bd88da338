//! Accepting connections, with limits on what callers may cost.
//!
//! There are so many connections at a time and no more; which one has to go is decided in `callers`. A
//! request has to be there, and a call to be over, in a given time, unless its response is one that goes
//! on.

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

use super::callers::{Callers, Phase, Place, Source};
use super::router::{Body, Endless};
use super::wire::{Ending, Wire};

/// What callers of one listener may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time whose request is not there yet.
    pub(super) waiting: usize,
    /// Requests at a time that are served.
    pub(super) served: usize,
    /// Largest size of a request's line and headers, in bytes.
    pub(super) headers: usize,
    /// Time that a caller has for his request's headers.
    pub(super) header_time: Duration,
    /// Time that a call may take in all, the reading of the response too.
    pub(super) call_time: Duration,
}

/// The limits of every listener. So many may wait that a caller whose request takes most of a second to
/// arrive gets through a flood of a thousand connections a second from his own address.
pub(super) const LIMITS: Limits = Limits {
    waiting: 1024,
    served: 128,
    headers: 16 * 1024,
    header_time: Duration::from_secs(5),
    call_time: Duration::from_secs(10),
};

/// Part of the process' file descriptors that one listener's waiting connections may take.
const PART_OF_FILES: u64 = 16;
/// How long to leave a listener alone that cannot accept connections, as without file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections come in.
pub(super) trait Listener {
    type Stream: Stream;

    async fn accept_from(&self) -> io::Result<(Self::Stream, Source)>;
}

/// A connection as it comes in.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Waits until the caller has sent something, or hung up.
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

/// Accepts connections for ever, and answers each request with what `answer` makes of it.
pub(super) async fn serve<L: Listener>(
    listener: &L,
    limits: Limits,
    answer: impl Fn(&Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
) {
    accept_all(listener, limits, move |stream, place| {
        let answer = answer.clone();
        let answer = move |request| std::future::ready(answer(&request));
        serve_one(stream, limits, answer, place)
    })
    .await;
}

/// Accepts connections for ever, and leaves each to `call` once its caller has sent something: until then
/// it costs next to nothing.
pub(super) async fn accept_all<L: Listener, C: Future<Output = ()> + Send + 'static>(
    listener: &L,
    limits: Limits,
    call: impl Fn(L::Stream, Arc<Place>) -> C + Clone + Send + 'static,
) {
    let callers = Arc::new(Callers::new(places(limits.waiting), limits.served));
    loop {
        let (stream, source) = match listener.accept_from().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "cannot accept a connection");
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
                Err(_) => debug!("a caller has sent nothing"),
            }
        });
        callers.set_task(number, task.abort_handle());
    }
}

/// So many connections may wait in a process that may have so many files.
fn places(most: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let part = usize::try_from(files / PART_OF_FILES).unwrap_or(usize::MAX);
    most.min(part.max(16))
}

/// Serves one caller.
pub(super) async fn serve_one<A: Future<Output = Response<Body>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    limits: Limits,
    answer: impl Fn(Request<Incoming>) -> A,
    place: Arc<Place>,
) {
    let service = service_fn(|request| {
        let answer = place.begin().then(|| answer(request));
        async {
            let mut response = match answer {
                Some(answer) => answer.await,
                None => too_many(),
            };
            // One request, one connection; one that is upgraded goes on, and has a header of its own.
            let is_upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if !is_upgraded {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            if is_upgraded || response.extensions().get::<Endless>().is_some() {
                place.set_phase(Phase::Streaming);
            }
            let response = response.map(|body| match body.size_hint().exact() {
                // Its end is known from its length.
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
        Err(_) if place.phase() == Some(Phase::Streaming) => call.await,
        Err(_) => {
            debug!("a caller took too long");
            return;
        }
        Ok(ended) => ended,
    };
    if let Err(error) = ended {
        debug!(%error, "a call broke off");
    }
}

/// Response to a request for which there is no room.
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

    /// A server with a body that no socket's buffers hold, on a thread of its own.
    fn server(limits: Limits) -> SocketAddr {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let body = Bytes::from(vec![b'x'; BODY]);
                let answer = move |_: &_| Response::new(Full::new(body.clone()).boxed_unsync());
                serve(&listener, limits, answer).await;
            });
        });
        receiver.recv().unwrap()
    }

    fn call(at: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// How much comes until the server hangs up.
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
    fn who_does_not_finish_a_request_or_read_the_answer_is_let_go() {
        let limits = Limits {
            header_time: Duration::from_millis(100),
            call_time: Duration::from_millis(300),
            ..LIMITS
        };
        let at = server(limits);
        // The server hangs up by itself: nothing else ends these reads.
        assert_eq!(read(call(at, "")), 0);
        assert_eq!(read(call(at, "GET / HTTP/1.1\r\nhost: ")), 0);
        // Its socket is full, until the server gives up: nothing else makes a write fail.
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
    fn one_more_takes_the_place_of_the_one_that_is_here_longest() {
        // Nobody is let go because of the time here, however busy the machine is.
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
