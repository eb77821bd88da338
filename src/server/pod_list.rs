//! All Pods as a v1 `PodList`, written piece by piece as the caller takes it: on a node with thousands of Pods a
//! response takes no more memory than a piece of it.

use std::convert::Infallible;
use std::iter;
use std::sync::Arc;
use std::vec;

use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::router::Body;
use crate::pod::report::PodSnapshot;

/// Size from which on a piece is sent, in bytes.
const PIECE: usize = 64 * 1024;

const BEGIN: &[u8] = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#;
const END: &[u8] = b"]}";

/// An item of a `PodList`, without kind and API version, as in the API.
#[derive(Debug, Serialize)]
struct Item {
    metadata: ObjectMeta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

/// The pieces of a `PodList`.
#[derive(Debug)]
struct PodListPieces {
    snapshots: vec::IntoIter<Arc<PodSnapshot>>,
    has_begun: bool,
    has_items: bool,
    is_over: bool,
}

impl Iterator for PodListPieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let mut piece = vec![];
        if !std::mem::replace(&mut self.has_begun, true) {
            piece.extend_from_slice(BEGIN);
        }
        while piece.len() < PIECE {
            let Some(snapshot) = self.snapshots.next() else {
                piece.extend_from_slice(END);
                self.is_over = true;
                break;
            };
            self.add(&mut piece, &snapshot);
        }
        Some(piece.into())
    }
}

impl PodListPieces {
    fn add(&mut self, piece: &mut Vec<u8>, snapshot: &PodSnapshot) {
        let Some(pod) = snapshot.pod() else {
            return;
        };
        let item = Item {
            metadata: pod.metadata,
            spec: pod.spec,
            status: pod.status,
        };
        // All keys are texts, so this never fails.
        let item = serde_json::to_vec(&item).unwrap_or_default();
        if std::mem::replace(&mut self.has_items, true) {
            piece.push(b',');
        }
        piece.extend(item);
    }
}

/// Returns the body of a `PodList`. One of a single piece has a length.
pub(super) fn body(snapshots: Vec<Arc<PodSnapshot>>) -> Body {
    let mut pieces = PodListPieces {
        snapshots: snapshots.into_iter(),
        has_begun: false,
        has_items: false,
        is_over: false,
    };
    let first = pieces.next().unwrap_or_default();
    if pieces.is_over {
        return Full::new(first).boxed_unsync();
    }
    let frames = iter::once(first).chain(pieces);
    let frames = frames.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse};
    use hyper::body::Body as _;
    use serde_json::Value;

    fn snapshots(count: usize) -> Vec<Arc<PodSnapshot>> {
        let snapshot = |index: usize| {
            let spec = "spec: {containers: [{name: c, image: i}]}";
            let pod =
                format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p{index}}}, {spec}}}");
            let accepted = parse(pod.as_bytes(), "n", SourceKind::File).unwrap();
            Arc::new(PodSnapshot {
                version: Some(accepted.pod.into()),
                ..PodSnapshot::default()
            })
        };
        // One of which no version is known is left out.
        let unknown = iter::once(Arc::new(PodSnapshot::default()));
        unknown.chain((0..count).map(snapshot)).collect()
    }

    async fn collected(body: Body) -> Value {
        let bytes = body.collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn every_pod_is_an_item_however_many_there_are() {
        for count in [0, 1, 1000] {
            let list = collected(body(snapshots(count))).await;
            assert_eq!(
                (&list["kind"], &list["apiVersion"]),
                (&"PodList".into(), &"v1".into())
            );
            let items = list["items"].as_array().unwrap();
            assert_eq!(items.len(), count);
            let names = items.iter().enumerate();
            for (index, item) in names {
                assert_eq!(item["metadata"]["name"], format!("p{index}-n"));
            }
        }
    }

    #[tokio::test]
    async fn no_more_than_a_piece_is_made_at_a_time() {
        assert!(body(snapshots(10)).size_hint().exact().is_some());
        let all = snapshots(1000);
        let one = Arc::downgrade(&all[1000]);
        let mut body = body(all);
        assert_eq!(body.size_hint().exact(), None);
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!((PIECE..2 * PIECE).contains(&piece.len()));
        assert_eq!(one.strong_count(), 1, "the rest waits");
    }
}
