//! Taking calls, with bounds on what callers may cost.
//!
//! There are so many at a time and no more. One more takes the place of the one that has been here
//! longest: an honest caller is done in a moment, so whoever dawdles is the one to go, and a flood of
//! them keeps nobody out. A request has to be there, and a call to be over, in a given time, unless its
//! answer is one that goes on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use tracing::debug;

use super::router::{Body, Endless};

/// What callers of one listener may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Callers at a time.
    pub(super) callers: usize,
    /// As large may a request's line and headers be, in bytes.
    pub(super) headers: usize,
    /// How long a caller may take for its request's headers.
    pub(super) header_time: Duration,
    /// How long a call may take in all, the reading of the answer too.
    pub(super) call_time: Duration,
}

/// The limits of every listener.
pub(super) const LIMITS: Limits = Limits {
    callers: 64,
    headers: 16 * 1024,
    header_time: Duration::from_secs(5),
    call_time: Duration::from_secs(10),
};

/// How long to leave a listener alone that cannot take calls, as without file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where calls come in.
pub(super) trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    async fn take_call(&self) -> io::Result<Self::Stream>;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn take_call(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn take_call(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Takes calls for ever, and answers each request with what `answer` makes of it.
pub(super) async fn serve<L: Listener>(
    listener: &L,
    limits: Limits,
    answer: impl Fn(&Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
) {
    take_calls(listener, limits.callers, move |stream, stays| {
        let answer = answer.clone();
        let answer = move |request| std::future::ready(answer(&request));
        serve_one(stream, limits, answer, stays)
    })
    .await;
}

/// Takes calls for ever, no more than so many at a time, and leaves each to `call`.
pub(super) async fn take_calls<L: Listener, C: Future<Output = ()> + Send + 'static>(
    listener: &L,
    callers: usize,
    call: impl Fn(L::Stream, Arc<AtomicBool>) -> C,
) {
    let mut served = Callers::default();
    loop {
        let stream = match listener.take_call().await {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "cannot take a call");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        served.make_room(callers);
        let stays = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(call(stream, Arc::clone(&stays))).abort_handle();
        served.0.push_back(Caller { task, stays });
    }
}

/// Those who are served, longest first.
#[derive(Debug, Default)]
struct Callers(VecDeque<Caller>);

#[derive(Debug)]
struct Caller {
    task: AbortHandle,
    /// Whether its answer goes on. There are few of these, by a bound of their own.
    stays: Arc<AtomicBool>,
}

impl Callers {
    /// Makes room for one more.
    fn make_room(&mut self, most: usize) {
        self.0.retain(|caller| !caller.task.is_finished());
        while self.0.len() >= most {
            let dawdles = |caller: &Caller| !caller.stays.load(Ordering::Relaxed);
            let Some(longest) = self.0.iter().position(dawdles) else {
                return;
            };
            if let Some(longest) = self.0.remove(longest) {
                longest.task.abort();
            }
        }
    }
}

/// Serves one caller. `stays` is set once his answer is one that goes on.
pub(super) async fn serve_one<A: Future<Output = Response<Body>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    limits: Limits,
    answer: impl Fn(Request<Incoming>) -> A,
    stays: Arc<AtomicBool>,
) {
    let service = service_fn(|request| {
        let answer = answer(request);
        async {
            let mut response = answer.await;
            // One request, one connection; one that is upgraded goes on, and has a header of its own.
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            if response.extensions().get::<Endless>().is_some() {
                stays.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let call = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(limits.headers)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut call = std::pin::pin!(call);
    let ended = match tokio::time::timeout(limits.call_time, &mut call).await {
        Err(_) if stays.load(Ordering::Relaxed) => call.await,
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
            callers: 2,
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

    #[tokio::test]
    async fn who_is_told_of_changes_keeps_his_place() {
        let caller = |stays| Caller {
            task: tokio::spawn(std::future::pending::<()>()).abort_handle(),
            stays: Arc::new(AtomicBool::new(stays)),
        };
        let mut callers = Callers([true, false, true, false].map(caller).into());
        callers.make_room(3);
        let left: Vec<bool> = callers
            .0
            .iter()
            .map(|c| c.stays.load(Ordering::Relaxed))
            .collect();
        assert_eq!(left, [true, true]);
    }
}
