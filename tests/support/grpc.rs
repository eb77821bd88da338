//! A gRPC server that answers single calls as it is told: on TCP as the server of a container, on a Unix
//! socket as a container runtime.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// How the server answers a call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// This message.
    Message(Vec<u8>),
    /// This status code, with these words.
    Status(u32, &'static str),
    /// Nothing at all, on an open connection.
    Silence,
}

impl Reply {
    pub(crate) fn message(message: &impl Message) -> Self {
        Self::Message(message.encode_to_vec())
    }
}

/// A call: its path, its message, and who sent it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) message: Vec<u8>,
    pub(crate) user_agent: String,
}

/// What a server answers, and what it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    reply: Arc<Mutex<Reply>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Grpc {
    /// A server on TCP, and its port.
    pub(crate) async fn on_tcp(reply: Reply) -> (Self, u16) {
        let grpc = Self::new(reply);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = grpc.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                served.serve(stream);
            }
        });
        (grpc, port)
    }

    /// A server on a Unix socket.
    pub(crate) fn on_socket(path: &Path, reply: Reply) -> Self {
        let grpc = Self::new(reply);
        let listener = UnixListener::bind(path).unwrap();
        let served = grpc.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                served.serve(stream);
            }
        });
        grpc
    }

    fn new(reply: Reply) -> Self {
        let reply = Arc::new(Mutex::new(reply));
        let calls = Arc::default();
        Self { reply, calls }
    }

    /// What it answers from now on.
    pub(crate) fn answers(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let grpc = self.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| grpc.clone().answer(request));
            let server = http2::Builder::new(TokioExecutor::new());
            let connection = server.serve_connection(TokioIo::new(stream), service);
            // A caller that hangs up in the middle is part of the game.
            let _ = connection.await;
        });
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<impl http_body_util::BodyExt<Data = Bytes, Error = Infallible>>, Infallible>
    {
        let agent = request.headers().get("user-agent");
        let user_agent = agent.map(|a| a.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        self.calls.lock().unwrap().push(Call {
            path,
            // One byte for no compression and four of length come before.
            message: body.slice(5..).to_vec(),
            user_agent: user_agent.unwrap_or_default(),
        });
        let reply = self.reply.lock().unwrap().clone();
        let (body, code, words) = match reply {
            Reply::Message(message) => (framed(&message), 0, ""),
            Reply::Status(code, words) => (vec![], code, words),
            Reply::Silence => std::future::pending().await,
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code));
        trailers.insert("grpc-message", HeaderValue::from_static(words));
        let body = Full::new(Bytes::from(body));
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = Response::new(body);
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        Ok(response)
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}
