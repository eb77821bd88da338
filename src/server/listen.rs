//! Taking calls, with bounds on what callers may cost.
//!
//! There are at most [`MAX_CALLERS`] at a time. One more takes the place of the one that has been here
//! longest: an honest caller is done in a moment, so whoever dawdles is the one to go, and a flood of
//! them keeps nobody out. A request has to be there within [`HEADER_TIME`] and be over within
//! [`CALL_TIME`], unless its answer is one that goes on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use tracing::debug;

use super::router::{Body, Endless};

/// Callers of one listener at a time.
const MAX_CALLERS: usize = 64;
/// How long a caller may take for its request's headers.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a call may take in all, the reading of the answer too.
const CALL_TIME: Duration = Duration::from_secs(10);
/// As large may the headers be, in bytes.
const MAX_HEADERS: usize = 16 * 1024;
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
    answer: impl Fn(&Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
) {
    let mut callers = Callers::default();
    loop {
        let stream = match listener.take_call().await {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "cannot take a call");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        callers.make_room();
        let stays = Arc::new(AtomicBool::new(false));
        let call = serve_one(stream, answer.clone(), Arc::clone(&stays));
        let task = tokio::spawn(call).abort_handle();
        callers.0.push_back(Caller { task, stays });
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
    fn make_room(&mut self) {
        self.0.retain(|caller| !caller.task.is_finished());
        while self.0.len() >= MAX_CALLERS {
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

async fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: impl Fn(&Request<Incoming>) -> Response<Body>,
    stays: Arc<AtomicBool>,
) {
    let service = service_fn(|request| {
        let response = answer(&request);
        if response.extensions().get::<Endless>().is_some() {
            stays.store(true, Ordering::Relaxed);
        }
        async move { Ok::<_, Infallible>(response) }
    });
    let call = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut call = std::pin::pin!(call);
    let ended = match tokio::time::timeout(CALL_TIME, &mut call).await {
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
