//! A connection as it is read from and written to, and the end of what is written.
//!
//! The end of a response or stream must not destroy or hide the last bytes before it:
//!
//! - The end of a chunked body is written once everything before it has been flushed, so that it is never in
//!   one TLS record with the last piece. Readers exist that drop a piece which arrives together with the end:
//!   an API server that passes logs on to a WebSocket does (`k8s.io/apiserver`, `wsstream`).
//! - A socket that is closed with unread data is reset, and the reset may overtake the last bytes. So what
//!   the caller still sends after the end is read for a short time.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::callers::{ConnectionPhase, ConnectionSlot};
use super::router::Body;

/// Pause between the last piece and the end, in which a proxy passes the piece on by itself.
pub(super) const END_PAUSE: Duration = Duration::from_millis(50);
/// Limits of what is read after the end.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A connection, which keeps its [`ConnectionSlot`] up to date.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    place: Arc<ConnectionSlot>,
    /// Something was read.
    is_talking: bool,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct Lingering {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, place: Arc<ConnectionSlot>) -> Self {
        Self {
            stream,
            place,
            is_talking: false,
            lingering: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && !self.is_talking {
            self.is_talking = true;
            if self.place.phase() == Some(ConnectionPhase::Silent) {
                self.place.set_phase(ConnectionPhase::Talking);
            }
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.place.set_blocked(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.place.set_blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.place.set_blocked(flushed.is_pending());
        if flushed.is_ready() {
            self.place.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            this.place.set_blocked(false);
            this.place.set_phase(ConnectionPhase::Silent);
            this.lingering = Some(Lingering {
                until: Box::pin(tokio::time::sleep(LINGER)),
                left: LINGER_BYTES,
            });
        }
        let Some(lingering) = &mut this.lingering else {
            return Poll::Ready(Ok(()));
        };
        let mut scratch = [0; 4096];
        while lingering.left > 0 && lingering.until.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            // All has been written: what fails now changes nothing.
            if ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)).is_err() {
                break;
            }
            match buffer.filled().len() {
                0 => break,
                length => lingering.left = lingering.left.saturating_sub(length),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A body that ends a short time after everything before the end has been flushed.
pub(super) struct Ending {
    body: Body,
    place: Arc<ConnectionSlot>,
    /// `None` before the first piece.
    has_pieces: bool,
    is_over: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Ending {
    pub(super) fn new(body: Body, place: Arc<ConnectionSlot>) -> Self {
        Self {
            body,
            place,
            has_pieces: false,
            is_over: false,
            pause: None,
        }
    }
}

impl hyper::body::Body for Ending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if !this.is_over {
            if let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(context)) {
                this.has_pieces = true;
                this.place.written();
                return Poll::Ready(Some(frame));
            }
            this.is_over = true;
        }
        if this.has_pieces {
            if !this.place.is_flushed(context.waker()) {
                return Poll::Pending;
            }
            let pause = this
                .pause
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(END_PAUSE)));
            ready!(pause.as_mut().poll(context));
        }
        Poll::Ready(None)
    }

    // Nothing of `is_end_stream` here: hyper joins the end to a piece after which the body says that it
    // is over.

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::callers::{Callers, Source};
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::Response;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn place() -> Arc<ConnectionSlot> {
        let callers = Arc::new(Callers::new(1, 1));
        Arc::new(callers.admit(Source::Local))
    }

    /// A stream that records what was written between two flushes: TLS makes records of that.
    struct Records {
        stream: DuplexStream,
        written: Vec<u8>,
        flushed: Arc<Mutex<Vec<String>>>,
    }

    impl AsyncRead for Records {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Records {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let length = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
            self.written.extend(&bytes[..length]);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let written = std::mem::take(&mut self.written);
            if !written.is_empty() {
                let record = String::from_utf8(written).unwrap();
                self.flushed.lock().unwrap().push(record);
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    /// Returns what is written between two flushes while a body of so many pieces is served, with a buffer of
    /// this size between the ends; `is_plain` serves it as it is.
    async fn records(pieces: usize, room: usize, is_plain: bool) -> Vec<String> {
        let (mut near, far) = duplex(room);
        let records = Arc::default();
        let stream = Records {
            stream: far,
            written: vec![],
            flushed: Arc::clone(&records),
        };
        let place = place();
        let wire = Wire::new(stream, Arc::clone(&place));
        let service = service_fn(move |_| {
            let pieces = (0..pieces).map(|n| {
                let piece = Bytes::from(format!("piece {n} {}", "x".repeat(100)));
                Ok::<_, Infallible>(Frame::data(piece))
            });
            let body = StreamBody::new(stream::iter(pieces.collect::<Vec<_>>())).boxed_unsync();
            let body = if is_plain {
                body
            } else {
                Ending::new(body, Arc::clone(&place)).boxed_unsync()
            };
            async { Ok::<_, Infallible>(Response::new(body)) }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(wire), service);
        let serving = tokio::spawn(serving);
        let request = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        let (mut reader, mut writer) = tokio::io::split(&mut near);
        let mut all = vec![];
        let (sent, read) = tokio::join!(writer.write_all(request), reader.read_to_end(&mut all));
        assert!(sent.is_ok() && read.is_ok());
        drop(near);
        serving.await.unwrap().unwrap();
        let records = records.lock().unwrap();
        records.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_body_never_comes_together_with_its_last_piece() {
        for pieces in [1, 3] {
            // However little of it is taken at a time.
            for room in [7, 4096] {
                let records = records(pieces, room, false).await;
                assert_eq!(records.last().unwrap(), "0\r\n\r\n", "{records:?}");
                let last = format!("piece {} ", pieces - 1);
                assert!(records.concat().contains(&last));
            }
        }
        // Else they would come together.
        let plain = records(1, 4096, true).await;
        assert!(
            plain.last().unwrap().ends_with("x\r\n0\r\n\r\n"),
            "{plain:?}"
        );
    }

    #[tokio::test]
    async fn the_last_bytes_arrive_although_the_caller_sent_more_than_was_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::new(stream, place());
        // More than the caller's socket takes in at once, while it goes on sending.
        let text = vec![b'x'; 8 << 20];
        let serving = tokio::spawn({
            let text = text.clone();
            async move {
                wire.write_all(&text).await?;
                wire.shutdown().await
            }
        });
        caller.write_all(&[b'y'; 1000]).await.unwrap();
        let mut all = vec![];
        caller.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), text.len());
        caller.write_all(b"more").await.unwrap();
        drop(caller);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_never_hangs_up_is_waited_for_only_briefly() {
        let (near, far) = duplex(64);
        let mut wire = Wire::new(far, place());
        wire.shutdown().await.unwrap();
        drop(near);
    }
}
