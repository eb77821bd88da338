//! One command in a container, or a container's own streams, from the connection to the exit code.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::request;
use super::spdy::{self, SpdyFrame, SpdyReader};

/// Timeout of the connection and its upgrade, and of the opening of the streams.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a command's result and of a refusal, in bytes.
const MAX_RESULT: usize = 64 * 1024;

/// Size of a pipe, in bytes: as much input is taken without a reader.
const PIPE_SIZE: usize = 64 * 1024;
/// Time after which input that is not taken never will be, once the outputs have ended.
const STALLED: Duration = Duration::from_secs(60);
const STALL_CHECK: Duration = Duration::from_millis(500);

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const STREAM_TYPE: &str = "streamtype";

const RESULT: u32 = 1;
const STDIN: u32 = 3;
const STDOUT: u32 = 5;
const STDERR: u32 = 7;
const RESIZE: u32 = 9;

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TerminalSize {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// Local ends of the streams. They must be those that `Exec` or `Attach` was called with.
#[derive(Debug)]
pub(crate) struct LocalStreams {
    /// Closed when its sender is dropped.
    pub(crate) stdin: Option<mpsc::Receiver<Bytes>>,
    pub(crate) stdout: mpsc::Sender<Bytes>,
    pub(crate) stderr: Option<mpsc::Sender<Bytes>>,
    /// Size of the terminal, with `tty`.
    pub(crate) size: Option<watch::Receiver<Option<TerminalSize>>>,
}

/// Failure of the streams, or of the command's start.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum StreamingError {
    /// The server cannot be reached, or refuses the streams.
    #[error("the container runtime does not open the streams: {0}")]
    Refused(String),
    /// The connection ended before the command did.
    #[error("the connection to the container runtime broke, the command may still be running")]
    Broken,
    /// The command's outputs have ended, and what is to be its input is not taken. containerd reports no exit code until it is.
    #[error(
        "the command has closed its outputs and no longer reads its input, it may still be running; \
         the container runtime does not report how it ended"
    )]
    Stalled,
    /// The receiver of the output is gone.
    #[error("nobody reads the output")]
    OutputClosed,
    /// The runtime's message.
    #[error("{0}")]
    Failed(String),
}

/// Carries the streams until the command ends, or the container in case of `Attach`; returns the exit code.
///
/// # Errors
/// Any [`StreamingError`].
pub(crate) async fn run(url: &str, streams: LocalStreams) -> Result<i32, StreamingError> {
    let (from, mut to) = tokio::io::split(connect(url).await?);
    let mut session = Session::new(from, &streams);
    let opened = async {
        session.open(&mut to).await?;
        session.wait_opened().await
    };
    let opened = timeout(TIMEOUT, opened).await;
    match opened {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(StreamingError::Broken),
        Err(_) => return Err(late()),
    }
    let progress = StreamProgress::default();
    let (pings, received) = mpsc::channel(4);
    let mut sender = Outgoing {
        to,
        stdin: streams.stdin,
        size: streams.size,
        pings: received,
    };
    tokio::select! {
        ended = session.receive(&streams.stdout, streams.stderr.as_ref(), pings, &progress) => ended,
        () = sender.send(&progress) => Err(StreamingError::Broken),
        () = progress.stalled() => Err(StreamingError::Stalled),
    }
}

/// State that the two halves share.
#[derive(Debug, Default)]
struct StreamProgress {
    /// Standard output and standard error have ended.
    outputs_ended: Cell<bool>,
    /// Size of the input so far, in bytes.
    sent: Cell<usize>,
    /// Time of the last input, or of the end of the outputs.
    latest: Cell<Option<Instant>>,
}

impl StreamProgress {
    fn add_sent(&self, length: usize) {
        self.sent.set(self.sent.get().saturating_add(length));
        self.latest.set(Some(Instant::now()));
    }

    fn end_outputs(&self) {
        self.outputs_ended.set(true);
        self.latest.set(Some(Instant::now()));
    }

    /// Waits until the outputs have ended, and more input than a pipe holds waits without anything happening.
    async fn stalled(&self) {
        loop {
            tokio::time::sleep(STALL_CHECK).await;
            let latest = self.latest.get().filter(|_| self.outputs_ended.get());
            let is_over = latest.is_some_and(|latest| latest.elapsed() > STALLED);
            if is_over && self.sent.get() > PIPE_SIZE {
                return;
            }
        }
    }
}

fn late() -> StreamingError {
    StreamingError::Refused(format!("no response within {} s", TIMEOUT.as_secs()))
}

async fn connect(url: &str) -> Result<TokioIo<Upgraded>, StreamingError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    let version = HeaderValue::from_static("v4.channel.k8s.io");
    headers.insert(PROTOCOL_VERSION, version.clone());
    let upgraded = async {
        let response = request(url, Method::POST, headers).await;
        let response = response.map_err(StreamingError::Refused)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        if response.headers().get(PROTOCOL_VERSION) != Some(&version) {
            let reason = "its streaming server does not have v4.channel.k8s.io".to_owned();
            return Err(StreamingError::Refused(reason));
        }
        let upgraded = hyper::upgrade::on(response).await;
        upgraded.map_err(|_| StreamingError::Broken)
    };
    let upgraded = timeout(TIMEOUT, upgraded).await;
    upgraded.unwrap_or_else(|_| Err(late())).map(TokioIo::new)
}

/// Returns the reason that the server gives.
async fn refusal(response: Response<Incoming>) -> StreamingError {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_RESULT).collect();
    let body = body.await.map(http_body_util::Collected::to_bytes);
    let body = body.unwrap_or_default();
    let reason = String::from_utf8_lossy(&body);
    StreamingError::Refused(format!("{status}: {}", reason.trim()))
}

/// Receiving half.
#[derive(Debug)]
struct Session<R> {
    frames: SpdyReader<R>,
    /// Streams that the server has to open, by their types.
    wanted: Vec<(u32, &'static str)>,
    /// Output streams that have not ended.
    outputs: Vec<u32>,
    result: Vec<u8>,
}

impl Session<ReadHalf<TokioIo<Upgraded>>> {
    async fn open(&self, to: &mut WriteHalf<TokioIo<Upgraded>>) -> io::Result<()> {
        for (stream, kind) in &self.wanted {
            let header = (STREAM_TYPE, *kind);
            spdy::open(to, *stream, header, *stream == RESULT).await?;
        }
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> Session<R> {
    fn new(from: R, streams: &LocalStreams) -> Self {
        let mut wanted = vec![(RESULT, "error")];
        wanted.extend(streams.stdin.as_ref().map(|_| (STDIN, "stdin")));
        wanted.push((STDOUT, "stdout"));
        wanted.extend(streams.stderr.as_ref().map(|_| (STDERR, "stderr")));
        wanted.extend(streams.size.as_ref().map(|_| (RESIZE, "resize")));
        let all = wanted.iter().map(|(stream, _)| *stream);
        let outputs = all.filter(|s| [RESULT, STDOUT, STDERR].contains(s));
        Self {
            frames: SpdyReader::new(from),
            outputs: outputs.collect(),
            wanted,
            result: vec![],
        }
    }

    /// Waits until the server has opened all streams: it sends nothing before.
    async fn wait_opened(&mut self) -> io::Result<()> {
        while !self.wanted.is_empty() {
            match self.frames.next().await? {
                Some(SpdyFrame::Opened(opened)) => {
                    self.wanted.retain(|(stream, _)| *stream != opened);
                }
                Some(SpdyFrame::Ping(_) | SpdyFrame::Other) => {}
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }

    async fn receive(
        &mut self,
        stdout: &mpsc::Sender<Bytes>,
        stderr: Option<&mpsc::Sender<Bytes>>,
        pings: mpsc::Sender<[u8; 4]>,
        progress: &StreamProgress,
    ) -> Result<i32, StreamingError> {
        while !self.outputs.is_empty() {
            let frame = tokio::select! {
                frame = self.frames.next() => frame,
                () = stdout.closed() => return Err(StreamingError::OutputClosed),
            };
            let Ok(Some(frame)) = frame else {
                break;
            };
            match frame {
                SpdyFrame::Data(STDOUT, data) => {
                    let sent = stdout.send(data).await;
                    sent.map_err(|_| StreamingError::OutputClosed)?;
                }
                SpdyFrame::Data(STDERR, data) => {
                    if let Some(stderr) = stderr {
                        let sent = stderr.send(data).await;
                        sent.map_err(|_| StreamingError::OutputClosed)?;
                    }
                }
                SpdyFrame::Data(RESULT, data) => {
                    let room = MAX_RESULT.saturating_sub(self.result.len());
                    self.result.extend(data.iter().take(room));
                }
                SpdyFrame::Ended(ended) => {
                    self.outputs.retain(|stream| *stream != ended);
                    if self.outputs == [RESULT] {
                        progress.end_outputs();
                    }
                }
                // A server that sends more of them than are written has no need of answers.
                SpdyFrame::Ping(id) => drop(pings.try_send(id)),
                SpdyFrame::Data(..) | SpdyFrame::Opened(_) | SpdyFrame::Other => {}
            }
        }
        exit_code(&self.result)
    }
}

/// Sending half.
struct Outgoing {
    to: WriteHalf<TokioIo<Upgraded>>,
    stdin: Option<mpsc::Receiver<Bytes>>,
    size: Option<watch::Receiver<Option<TerminalSize>>>,
    pings: mpsc::Receiver<[u8; 4]>,
}

impl Outgoing {
    /// Sends input, the terminal's sizes and answers to pings. Does not return: the server reports the end.
    async fn send(&mut self, progress: &StreamProgress) {
        let mut has_stdin = self.stdin.is_some();
        loop {
            let to = &mut self.to;
            let sent = tokio::select! {
                data = next(&mut self.stdin), if has_stdin => {
                    has_stdin = data.is_some();
                    let data = data.unwrap_or_default();
                    progress.add_sent(data.len());
                    spdy::write(to, STDIN, &data).await
                }
                size = changed(&mut self.size) => {
                    let TerminalSize { columns, rows } = size;
                    let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
                    spdy::write(to, RESIZE, size.as_bytes()).await
                }
                Some(id) = self.pings.recv() => spdy::ping(to, id).await,
            };
            if sent.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

async fn next(stdin: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    stdin.as_mut()?.recv().await
}

/// Waits for the next size; for ever if there are none.
async fn changed(size: &mut Option<watch::Receiver<Option<TerminalSize>>>) -> TerminalSize {
    while let Some(sizes) = size {
        if sizes.changed().await.is_err() {
            break;
        }
        if let Some(size) = *sizes.borrow_and_update() {
            return size;
        }
    }
    std::future::pending().await
}

/// Returns the exit code that a `Status` of the API holds.
fn exit_code(result: &[u8]) -> Result<i32, StreamingError> {
    if result.is_empty() {
        return Err(StreamingError::Broken);
    }
    let status: Value = serde_json::from_slice(result).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let mut causes = causes.into_iter().flatten();
    let code = causes.find(|cause| cause["reason"] == "ExitCode");
    let code = code.and_then(|cause| cause["message"].as_str()?.parse().ok());
    if let Some(code) = code.filter(|_| status["reason"] == "NonZeroExitCode") {
        return Ok(code);
    }
    let message = status["message"].as_str();
    let message = message.unwrap_or("the container runtime's result is invalid");
    Err(StreamingError::Failed(message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_status_es() {
        let failed = |message: &str| Err(StreamingError::Failed(message.to_owned()));
        for (result, expected) in [
            (r#"{"status":"Success"}"#, Ok(0)),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#,
                Ok(42),
            ),
            (
                r#"{"status":"Failure","reason":"InternalError","message":"no such file"}"#,
                failed("no such file"),
            ),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"x"}]}}"#,
                failed("the container runtime's result is invalid"),
            ),
            (
                "garbage",
                failed("the container runtime's result is invalid"),
            ),
            ("", Err(StreamingError::Broken)),
        ] {
            assert_eq!(exit_code(result.as_bytes()), expected, "{result}");
        }
    }

    fn streams() -> (LocalStreams, mpsc::Receiver<Bytes>) {
        let (stdout, read) = mpsc::channel(4);
        let streams = LocalStreams {
            stdin: None,
            stdout,
            stderr: None,
            size: None,
        };
        (streams, read)
    }

    async fn received(frames: &[u8]) -> (Result<i32, StreamingError>, Vec<u8>) {
        let (streams, mut read) = streams();
        let mut session = Session::new(frames, &streams);
        let (pings, _received) = mpsc::channel(4);
        let ended = session
            .receive(&streams.stdout, None, pings, &StreamProgress::default())
            .await;
        drop(streams);
        let mut output = vec![];
        while let Some(piece) = read.recv().await {
            output.extend(piece);
        }
        (ended, output)
    }

    #[tokio::test]
    async fn output_that_comes_after_the_result_is_not_lost() {
        let mut frames = vec![];
        let success = br#"{"status":"Success"}"#;
        for (stream, data) in [
            (RESULT, &success[..]),
            (RESULT, b""),
            (STDOUT, b"late"),
            (STDOUT, b""),
        ] {
            spdy::write(&mut frames, stream, data).await.unwrap();
        }
        assert_eq!(received(&frames).await, (Ok(0), b"late".to_vec()));
        // A connection that ends after the result is no failure, one that ends before is.
        let length = frames.len();
        assert_eq!(received(&frames[..length - 8]).await.0, Ok(0));
        let (_, unfinished) = frames.split_at(8 + success.len() + 8);
        let broken = (Err(StreamingError::Broken), b"late".to_vec());
        assert_eq!(received(unfinished).await, broken);
    }

    #[tokio::test]
    async fn an_output_that_is_closed_ends_a_command_that_is_silent() {
        let (streams, read) = streams();
        let (_server, from) = tokio::io::duplex(64);
        let mut session = Session::new(from, &streams);
        let (pings, _received) = mpsc::channel(4);
        let progress = StreamProgress::default();
        let receive = session.receive(&streams.stdout, None, pings, &progress);
        drop(read);
        let ended = timeout(Duration::from_secs(60), receive).await;
        assert_eq!(ended, Ok(Err(StreamingError::OutputClosed)));
    }

    #[tokio::test]
    async fn streams_are_open_once_the_server_says_so() {
        let (streams, _read) = streams();
        let reply = |stream: u8| [0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, stream];
        let frames = [reply(1), reply(5)].concat();
        let mut session = Session::new(&frames[..], &streams);
        session.wait_opened().await.unwrap();
        let mut session = Session::new(&frames[..12], &streams);
        session.wait_opened().await.unwrap_err();
    }
}
