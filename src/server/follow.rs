//! Answers that go on: a piece each time that something changed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::router::Body;
use super::state::State;
use crate::pod::task::Context;
use crate::source::Desired;
use crate::units::time::Later;

/// Pieces are at least this far apart, so that a burst of changes costs few.
const BETWEEN: Duration = Duration::from_millis(100);
/// Steps that are under way come and go without a change: these are looked for this often.
const TICK: Duration = Duration::from_secs(1);

/// A body that begins with what `next` gives now, and goes on with what it gives after each change of
/// the state. A reader who is slow misses what was in between; no more than one piece waits for him.
pub(super) fn body(
    state: Arc<State>,
    permit: OwnedSemaphorePermit,
    next: impl FnMut(&State) -> Option<Vec<u8>> + Send + 'static,
) -> Body {
    let follower = Follower {
        changes: Changes::new(&state),
        state,
        next,
        earliest: Instant::now(),
        _permit: permit,
    };
    let pieces = stream::unfold(follower, |mut follower| async {
        let piece = follower.piece().await?;
        let frame = Frame::data(Bytes::from(piece));
        Some((Ok::<_, Infallible>(frame), follower))
    });
    StreamBody::new(pieces).boxed_unsync()
}

struct Follower<N> {
    state: Arc<State>,
    changes: Changes,
    next: N,
    /// When the next piece may be made.
    earliest: Instant,
    /// One of the followers that there may be.
    _permit: OwnedSemaphorePermit,
}

impl<N: FnMut(&State) -> Option<Vec<u8>>> Follower<N> {
    /// Waits for the next piece; there is none any more when the agent ends.
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

/// Tells when any part of the state changed.
struct Changes {
    desired: watch::Receiver<Option<Desired>>,
    context: watch::Receiver<Option<Arc<Context>>>,
    pulse: watch::Receiver<Option<Instant>>,
    /// Counts of reports and of events, once there are any.
    counts: Option<[watch::Receiver<u64>; 2]>,
}

impl Changes {
    fn new(state: &State) -> Self {
        let mut changes = Self {
            desired: state.desired.clone(),
            context: state.context.clone(),
            pulse: state.pulse.clone(),
            counts: None,
        };
        changes.mark_seen();
        changes
    }

    /// What is there now is no change.
    fn mark_seen(&mut self) {
        self.desired.borrow_and_update();
        self.pulse.borrow_and_update();
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
        // The first pulse tells that every Pod was looked at, the later ones tell nothing.
        let first_pulse = self.pulse.borrow().is_none();
        tokio::select! {
            changed = self.desired.changed() => changed.ok(),
            changed = reports.changed() => changed.ok(),
            changed = events.changed() => changed.ok(),
            changed = self.pulse.changed(), if first_pulse => changed.ok(),
            () = tokio::time::sleep(TICK) => Some(()),
        }
    }
}
