//! Bounds on what is read of an API server's responses.
//!
//! A response that is longer than anything an API server has to say ends with an error as soon as that
//! shows; what is over the bound is never kept.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::{Method, Request, StatusCode};
use thiserror::Error;
use tower::BoxError;

/// One object, or one line of a watch: an API server takes 3 MiB for one.
const OBJECT: usize = 8 << 20;
/// A list of what is on one node.
const LIST: usize = 32 << 20;
/// A review of who somebody is and what he may do, or an error.
const SHORT: usize = 1 << 20;
/// Objects of a list.
pub(super) const MAX_ITEMS: usize = 5_000;

/// A response is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("response of the API server: found more than {most} bytes{}", if *.of_line { " in one line" } else { "" })]
pub(super) struct TooLong {
    most: usize,
    of_line: bool,
}

/// Length that a response may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// In all.
    Whole(usize),
    /// For each line; there may be any number of them.
    Line(usize),
}

impl Bound {
    /// The bound on the response to a request.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let (path, query) = (request.uri().path(), request.uri().query());
        let asks = |what: &str| {
            let mut pairs = query.unwrap_or_default().split('&');
            pairs.any(|pair| pair.starts_with(what))
        };
        if asks("watch=true") {
            Self::Line(OBJECT)
        } else if request.method() == Method::GET && asks("fieldSelector=") {
            Self::Whole(LIST)
        } else if path.ends_with("reviews") {
            Self::Whole(SHORT)
        } else {
            Self::Whole(OBJECT)
        }
    }

    /// The same, once it is known how the response begins.
    pub(super) fn for_status(self, status: StatusCode) -> Self {
        if status.is_success() {
            self
        } else {
            Self::Whole(SHORT)
        }
    }
}

/// A body that is read within its bound.
#[derive(Debug)]
pub(super) struct Bounded<B> {
    body: B,
    bound: Bound,
    /// Read so far, of the whole or of the line.
    read: usize,
}

impl<B> Bounded<B> {
    pub(super) fn new(body: B, bound: Bound) -> Self {
        let read = 0;
        Self { body, bound, read }
    }

    fn take_in(&mut self, data: &[u8]) -> Result<(), TooLong> {
        let (most, of_line) = match self.bound {
            Bound::Whole(most) => (most, false),
            Bound::Line(most) => (most, true),
        };
        let ends = |byte: &u8| of_line && *byte == b'\n';
        for part in data.split_inclusive(ends) {
            self.read = self.read.saturating_add(part.len());
            if self.read > most {
                return Err(TooLong { most, of_line });
            }
            if part.last().is_some_and(ends) {
                self.read = 0;
            }
        }
        Ok(())
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        if let Some(data) = frame.data_ref() {
            self.take_in(data)?;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};

    async fn read(bound: Bound, pieces: &[&str]) -> Result<usize, String> {
        let pieces: Vec<_> = pieces.iter().map(|p| Bytes::from(p.to_string())).collect();
        let pieces = pieces
            .into_iter()
            .map(|p| Ok::<_, BoxError>(Frame::data(p)));
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        let read = Bounded::new(body, bound).collect().await;
        read.map(|read| read.to_bytes().len())
            .map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_response_that_is_too_long_is_not_read_on() {
        assert_eq!(read(Bound::Whole(6), &["abc", "de\n"]).await, Ok(6));
        let error = read(Bound::Whole(5), &["abc", "de\n"]).await.unwrap_err();
        assert_eq!(error, "response of the API server: found more than 5 bytes");
        assert_eq!(
            read(Bound::Line(4), &["abc\nabc", "\n\nabc\na"]).await,
            Ok(14)
        );
        for pieces in [&["abc\nab", "cde\n"][..], &["abcde"], &["a\nabcdef\n"]] {
            let error = read(Bound::Line(4), pieces).await.unwrap_err();
            assert!(error.ends_with("more than 4 bytes in one line"), "{error}");
        }
    }

    #[test]
    fn a_request_decides_how_long_its_response_may_be() {
        let of = |method: Method, uri: &str| {
            let request = Request::builder().method(method).uri(uri);
            Bound::of(&request.body(()).unwrap())
        };
        let list = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn";
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        for (method, uri, bound) in [
            (Method::GET, list, Bound::Whole(LIST)),
            (
                Method::GET,
                &format!("{list}&watch=true&x=y"),
                Bound::Line(OBJECT),
            ),
            (Method::GET, "/api/v1/nodes/n", Bound::Whole(OBJECT)),
            (
                Method::POST,
                "/api/v1/namespaces/watch=true/pods",
                Bound::Whole(OBJECT),
            ),
            (Method::POST, reviews, Bound::Whole(SHORT)),
        ] {
            assert_eq!(of(method, uri), bound, "{uri}");
            let error = bound.for_status(StatusCode::FORBIDDEN);
            assert_eq!(error, Bound::Whole(SHORT));
            assert_eq!(bound.for_status(StatusCode::OK), bound);
        }
    }
}
