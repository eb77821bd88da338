//! Streams of a container as files of a thread.

use std::io::{self, Read, Write};

use hyper::body::Bytes;
use tokio::sync::mpsc::{Receiver, Sender};

use crate::cri::streaming::CHUNK;

/// Reader of what a command in a container writes.
#[derive(Debug)]
pub(super) struct PieceReader {
    pieces: Receiver<Bytes>,
    piece: Bytes,
}

impl PieceReader {
    pub(super) fn new(pieces: Receiver<Bytes>) -> Self {
        Self {
            pieces,
            piece: Bytes::new(),
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(piece) = self.pieces.blocking_recv() else {
                return Ok(0);
            };
            self.piece = piece;
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// Writer of what a command in a container reads. What was not flushed is lost.
#[derive(Debug)]
pub(super) struct PieceWriter {
    pieces: Sender<Bytes>,
    piece: Vec<u8>,
}

impl PieceWriter {
    pub(super) fn new(pieces: Sender<Bytes>) -> Self {
        Self {
            pieces,
            piece: vec![],
        }
    }
}

impl Write for PieceWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = CHUNK.saturating_sub(self.piece.len());
        let length = data.len().min(room);
        self.piece.extend_from_slice(&data[..length]);
        if self.piece.len() == CHUNK {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() {
            return Ok(());
        }
        let sent = self.pieces.blocking_send(piece.into());
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
