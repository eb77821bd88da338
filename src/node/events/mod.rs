//! Hints that something happened in the runtime, from one file for each source, in one channel.
//!
//! A hint only has the supervisor relist or a task observe its Pod. A lost one costs time, never correctness,
//! since the supervisor also relists by itself.

mod containerd;
mod cri;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tracing::{debug, info};

use crate::cri::{Client, Error};
use crate::manifest::PodKey;

/// Wait before a stream that broke is opened again.
const RETRY: Duration = Duration::from_secs(1);
/// Wait before a runtime without events is asked again: another version may have taken its place.
const RETRY_MISSING: Duration = Duration::from_secs(60);
/// Time in which a runtime without events answers that it has none, with time to spare.
const SILENCE: Duration = Duration::from_millis(500);

/// A hint that something happened in the runtime.
#[derive(Debug, PartialEq, Eq)]
pub enum Hint {
    /// This container or sandbox of this Pod changed.
    Changed(PodKey, String),
    /// Something may have changed anywhere.
    Relist,
}

/// State of the source of hints: while they come in, relists may be rare.
#[derive(Debug, Clone, Default)]
pub struct Connected(Arc<AtomicBool>);

impl Connected {
    /// Returns `true` while hints come in.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, connected: bool) {
        self.0.store(connected, Ordering::Relaxed);
    }
}

/// The receiver of hints, and what makes them of events.
struct Follower {
    client: Client,
    owner_label: String,
    hints: Sender<Hint>,
    connected: Connected,
}

/// Sends hints from the runtime's events about Pods with our owner label: those of CRI, or containerd's own where
/// it has none of CRI (containerd 1.6). Goes on until nobody receives hints.
pub async fn follow(
    client: Client,
    owner_label: String,
    hints: Sender<Hint>,
    connected: Connected,
) {
    let follower = Follower {
        client,
        owner_label,
        hints,
        connected,
    };
    let mut is_logged = false;
    while !follower.hints.is_closed() {
        let end = match follower.container_events().await {
            Err(Error::Unimplemented { .. }) => follower.task_exits().await,
            end => end,
        };
        follower.connected.set(false);
        let mut retry = RETRY;
        match end {
            Ok(()) => debug!("Container event stream ended"),
            Err(Error::Unimplemented { .. }) => {
                retry = RETRY_MISSING;
                if !is_logged {
                    info!("Container runtime has no container events, relisting instead");
                }
                is_logged = true;
            }
            Err(error) => debug!(%error, "Container event stream broke"),
        }
        tokio::time::sleep(retry).await;
    }
}

impl Follower {
    /// Waits until a stream is open, and takes the first answer, if there is one by then. Events before that are
    /// made up for by a relist.
    async fn opened<T>(&self, opening: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::pin!(opening);
        // No answer for this long means that the runtime listens and nothing has happened yet.
        let opened = tokio::time::timeout(SILENCE, &mut opening).await;
        let opened = opened.ok().transpose()?;
        self.connected.set(true);
        let _ = self.hints.send(Hint::Relist).await;
        match opened {
            Some(stream) => Ok(stream),
            None => opening.await,
        }
    }
}
