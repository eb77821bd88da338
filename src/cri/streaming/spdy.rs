//! Frames of SPDY/3.1, as far as the streaming server needs them.
//!
//! Every containerd speaks it, and it alone can close a command's standard input: over a WebSocket they have
//! `v4.channel.k8s.io` at most, which cannot. Headers are sent in stored blocks, and what the server
//! says in its own is not needed, so that nothing is compressed here. The server has no flow control but TCP's.

use std::io;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum size of a piece of data, in bytes.
pub(crate) const CHUNK: usize = 32 * 1024;
/// Maximum size of a frame that is no data, in bytes.
const MAX_CONTROL: usize = 64 * 1024;

/// Version 3, with the bit of control frames.
const CONTROL: [u8; 2] = [0x80, 3];
const SYN_STREAM: u8 = 1;
const SYN_REPLY: u8 = 2;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
/// Flag of the last frame of a stream's direction.
const FIN: u8 = 1;

/// Beginning of a zlib stream without a dictionary.
const ZLIB: [u8; 2] = [0x78, 0x01];
/// Empty stored block, at which a decompressor hands over what it has.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Frame, or piece of one, that the server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SpdyFrame {
    /// A stream is open.
    Opened(u32),
    /// Data of a stream.
    Data(u32, Bytes),
    /// A stream has ended.
    Ended(u32),
    /// A ping with this ID, which is to be returned.
    Ping([u8; 4]),
    Other,
}

/// Rest of a data frame that is being read.
#[derive(Debug, Clone, Copy)]
struct RestOfData {
    stream: u32,
    length: usize,
    is_last: bool,
}

/// Reader of frames.
#[derive(Debug)]
pub(super) struct SpdyReader<R> {
    from: R,
    rest: Option<RestOfData>,
}

impl<R: AsyncRead + Unpin> SpdyReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, rest: None }
    }

    /// Reads the next frame, or a piece of it; `None` at the end of the connection. Not cancel safe.
    ///
    /// # Errors
    /// The connection breaks, or the frame is invalid.
    pub(super) async fn next(&mut self) -> io::Result<Option<SpdyFrame>> {
        if let Some(rest) = self.rest.take() {
            return self.data(rest).await.map(Some);
        }
        let mut head = [0; 8];
        if self.from.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.from.read_exact(&mut head[1..]).await?;
        let [a, b, c, kind, flags, length @ ..] = head;
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if a & CONTROL[0] == 0 {
            let stream = u32::from_be_bytes([a, b, c, kind]);
            let is_last = flags & FIN != 0;
            let rest = RestOfData {
                stream,
                length,
                is_last,
            };
            return self.data(rest).await.map(Some);
        }
        self.control([a, b, c, kind], length).await.map(Some)
    }

    /// Reads a piece of a data frame.
    async fn data(&mut self, rest: RestOfData) -> io::Result<SpdyFrame> {
        let RestOfData {
            stream,
            length,
            is_last,
        } = rest;
        if length == 0 {
            return Ok(if is_last {
                SpdyFrame::Ended(stream)
            } else {
                SpdyFrame::Other
            });
        }
        let mut piece = vec![0; length.min(CHUNK)];
        let read = self.from.read(&mut piece).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        let length = length.saturating_sub(read);
        if length > 0 || is_last {
            self.rest = Some(RestOfData { length, ..rest });
        }
        Ok(SpdyFrame::Data(stream, piece.into()))
    }

    async fn control(&mut self, kind: [u8; 4], length: usize) -> io::Result<SpdyFrame> {
        let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
        if kind[..2] != CONTROL {
            return Err(invalid("expected SPDY/3.1"));
        }
        if length > MAX_CONTROL {
            return Err(invalid("the frame is too large"));
        }
        let mut content = vec![0; length];
        self.from.read_exact(&mut content).await?;
        let Some(&first) = content.first_chunk::<4>() else {
            return Ok(SpdyFrame::Other);
        };
        let stream = u32::from_be_bytes(first) & (u32::MAX >> 1);
        Ok(match kind[3] {
            SYN_REPLY => SpdyFrame::Opened(stream),
            RST_STREAM => SpdyFrame::Ended(stream),
            PING => SpdyFrame::Ping(first),
            _ => SpdyFrame::Other,
        })
    }
}

/// Writes a control frame.
async fn write_control(
    to: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    content: &[u8],
) -> io::Result<()> {
    let [_, length @ ..] = u32::try_from(content.len()).unwrap_or(0).to_be_bytes();
    let head = [&CONTROL[..], &[0, kind, 0], &length].concat();
    to.write_all(&[&head, content].concat()).await?;
    to.flush().await
}

/// Opens a stream with one header. The first one of a connection begins the compressed headers.
///
/// # Errors
/// Any I/O error.
pub(super) async fn open(
    to: &mut (impl AsyncWrite + Unpin),
    stream: u32,
    (name, value): (&str, &str),
    is_first: bool,
) -> io::Result<()> {
    let sized = |text: &str| {
        let length = u32::try_from(text.len()).unwrap_or(0).to_be_bytes();
        [&length, text.as_bytes()].concat()
    };
    let headers = [1_u32.to_be_bytes().to_vec(), sized(name), sized(value)].concat();
    let length = u16::try_from(headers.len()).unwrap_or(0);
    let mut content = stream.to_be_bytes().to_vec();
    // No associated stream, highest priority, no credential.
    content.extend([0; 6]);
    content.extend(if is_first { &ZLIB[..] } else { &[] });
    content.push(0);
    content.extend(length.to_le_bytes());
    content.extend((!length).to_le_bytes());
    content.extend(headers);
    content.extend(FLUSH);
    write_control(to, SYN_STREAM, &content).await
}

/// Returns a ping.
///
/// # Errors
/// Any I/O error.
pub(super) async fn ping(to: &mut (impl AsyncWrite + Unpin), id: [u8; 4]) -> io::Result<()> {
    write_control(to, PING, &id).await
}

/// Writes data to a stream, and ends its direction if there is none.
///
/// # Errors
/// Any I/O error.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    stream: u32,
    data: &[u8],
) -> io::Result<()> {
    if data.is_empty() {
        let [a, b, c, d] = stream.to_be_bytes();
        to.write_all(&[a, b, c, d, FIN, 0, 0, 0]).await?;
    }
    for piece in data.chunks(CHUNK) {
        let [_, length @ ..] = u32::try_from(piece.len()).unwrap_or(0).to_be_bytes();
        let head = [&stream.to_be_bytes()[..], &[0], &length].concat();
        to.write_all(&[&head, piece].concat()).await?;
    }
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    async fn frames(mut bytes: &[u8]) -> io::Result<Vec<SpdyFrame>> {
        let mut reader = SpdyReader::new(&mut bytes);
        let mut found = vec![];
        while let Some(frame) = reader.next().await? {
            found.push(frame);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let mut bytes = vec![];
        let data = vec![7; CHUNK + 1];
        write(&mut bytes, 3, &data).await.unwrap();
        ping(&mut bytes, [0, 0, 0, 2]).await.unwrap();
        write(&mut bytes, 3, &[]).await.unwrap();
        assert_eq!(
            frames(&bytes).await.unwrap(),
            [
                SpdyFrame::Data(3, vec![7; CHUNK].into()),
                SpdyFrame::Data(3, vec![7].into()),
                SpdyFrame::Ping([0, 0, 0, 2]),
                SpdyFrame::Ended(3),
            ]
        );
    }

    #[tokio::test]
    async fn the_last_data_of_a_stream_comes_before_its_end() {
        let bytes = [0, 0, 0, 5, FIN, 0, 0, 2, b'o', b'k'];
        let found = frames(&bytes).await.unwrap();
        let expected = [
            SpdyFrame::Data(5, Bytes::from_static(b"ok")),
            SpdyFrame::Ended(5),
        ];
        assert_eq!(found, expected);
        let reset = [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 5];
        assert_eq!(frames(&reset).await.unwrap(), [SpdyFrame::Ended(5)]);
        let reply = [0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 5];
        assert_eq!(frames(&reply).await.unwrap(), [SpdyFrame::Opened(5)]);
    }

    #[tokio::test]
    async fn headers_are_what_any_decompressor_reads_frame_by_frame() {
        let mut inflate = Decompress::new(true);
        for (stream, value) in [(1, "error"), (3, "stdin")] {
            let mut bytes = vec![];
            let header = ("streamtype", value);
            open(&mut bytes, stream, header, stream == 1).await.unwrap();
            assert_eq!(usize::from(bytes[7]), bytes.len() - 8);
            let mut headers = Vec::with_capacity(100);
            let block = &bytes[18..];
            let sync = FlushDecompress::Sync;
            inflate.decompress_vec(block, &mut headers, sync).unwrap();
            let expected = [
                &b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05"[..],
                value.as_bytes(),
            ];
            assert_eq!(headers, expected.concat());
        }
    }

    #[tokio::test]
    async fn invalid_frames_are_errors() {
        for bytes in [
            &[0x80, 2, 0, 2, 0, 0, 0, 0][..],
            &[0x80, 3, 0, 2, 0, 1, 0, 1],
            &[0x80, 3, 0, 2, 0, 0, 0, 4, 0],
            &[0, 0, 0, 1, 0, 0, 0, 1],
            &[0, 0, 0],
        ] {
            frames(bytes).await.unwrap_err();
        }
        let short = [0x80, 3, 0, 4, 0, 0, 0, 0];
        assert_eq!(frames(&short).await.unwrap(), [SpdyFrame::Other]);
    }
}
