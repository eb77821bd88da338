//! Responses that are streams: a further piece after each change of the state.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::router::Body;
use super::state::ServerState;
use crate::pod::task::Context;
use crate::source::Desired;
use crate::units::time::Later;

/// Minimum interval between pieces, so that a burst of changes costs few.
const BETWEEN: Duration = Duration::from_millis(100);
/// Interval at which steps in progress are checked, since they start and end without a change.
const TICK: Duration = Duration::from_secs(1);

/// Returns a body that starts with what `next` returns now, and continues with what it returns after each
/// change of the state. A slow reader misses changes in between; at most one piece waits for it.
pub(super) fn body(
    state: Arc<ServerState>,
    permit: OwnedSemaphorePermit,
    next: impl FnMut(&ServerState) -> Option<Vec<u8>> + Send + 'static,
) -> Body {
    let changes = ChangeStream {
        changes: Changes::new(&state),
        state,
        next,
        earliest: Instant::now(),
        _permit: permit,
    };
    let pieces = stream::unfold(changes, |mut changes| async {
        let piece = changes.piece().await?;
        let frame = Frame::data(Bytes::from(piece));
        Some((Ok::<_, Infallible>(frame), changes))
    });
    StreamBody::new(pieces).boxed_unsync()
}

struct ChangeStream<N> {
    state: Arc<ServerState>,
    changes: Changes,
    next: N,
    /// Earliest time of the next piece.
    earliest: Instant,
    /// Permit of this follower, one of a limited number.
    _permit: OwnedSemaphorePermit,
}

impl<N: FnMut(&ServerState) -> Option<Vec<u8>>> ChangeStream<N> {
    /// Waits for the next piece; `None` once the agent ends.
    async fn piece(&mut self) -> Option<Vec<u8>> {
        loop {
            tokio::time::sleep_until(self.earliest).await;
            self.changes.mark_seen();
            if let Some(piece) = (self.next)(&self.state) {
                self.earliest = Instant::now().later(BETWEEN);
                return Some(piece);
            }
            self.changes.wait().await?;
        }
    }
}

/// Changes of any part of the state.
struct Changes {
    desired: watch::Receiver<Option<Desired>>,
    context: watch::Receiver<Option<Arc<Context>>>,
    heartbeat: watch::Receiver<Option<Instant>>,
    /// Counts of reports and of events, once there are any.
    counts: Option<[watch::Receiver<u64>; 2]>,
}

impl Changes {
    fn new(state: &ServerState) -> Self {
        let mut changes = Self {
            desired: state.desired.clone(),
            context: state.context.clone(),
            heartbeat: state.heartbeat.clone(),
            counts: None,
        };
        changes.mark_seen();
        changes
    }

    /// Marks the present state as seen.
    fn mark_seen(&mut self) {
        self.desired.borrow_and_update();
        self.heartbeat.borrow_and_update();
        let context = self.context.borrow_and_update();
        if let (None, Some(context)) = (&self.counts, &*context) {
            let reports = context.reports.changes();
            self.counts = Some([reports, context.events.newest()]);
        }
        for count in self.counts.iter_mut().flatten() {
            count.borrow_and_update();
        }
    }

    async fn wait(&mut self) -> Option<()> {
        let Some([reports, events]) = &mut self.counts else {
            return tokio::select! {
                changed = self.desired.changed() => changed.ok(),
                changed = self.context.changed() => changed.ok(),
            };
        };
        // The first heartbeat says that every Pod was synced, the later ones say nothing.
        let no_heartbeat = self.heartbeat.borrow().is_none();
        tokio::select! {
            changed = self.desired.changed() => changed.ok(),
            changed = reports.changed() => changed.ok(),
            changed = events.changed() => changed.ok(),
            changed = self.heartbeat.changed(), if no_heartbeat => changed.ok(),
            () = tokio::time::sleep(TICK) => Some(()),
        }
    }
}
