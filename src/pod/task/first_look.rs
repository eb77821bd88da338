//! Turns of the tasks to read their Pods for the first time.
//!
//! Without them, all tasks ask the runtime at once when the agent starts, and the memory of all these calls stays with
//! the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Tasks that read their Pods at a time.
const AT_A_TIME: usize = 16;

/// The longest wait for a turn: others may hang.
const PATIENCE: Duration = Duration::from_secs(1);

/// The turns.
#[derive(Debug)]
pub struct FirstLooks(Arc<Semaphore>);

impl Default for FirstLooks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl FirstLooks {
    /// Waits for a turn, which lasts until what this returns is dropped. After a second there need not be one.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.0).acquire_owned();
        let turn = timeout(PATIENCE, turn).await;
        turn.ok().and_then(Result::ok)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_waits_for_a_turn_but_not_for_those_that_hang() {
        let looks = FirstLooks::default();
        let mut turns = vec![];
        for _ in 0..AT_A_TIME {
            turns.extend(looks.turn().now_or_never().flatten());
        }
        assert_eq!(turns.len(), AT_A_TIME);
        assert!(looks.turn().now_or_never().is_none());
        assert!(looks.turn().await.is_none());
        turns.pop();
        assert!(looks.turn().now_or_never().flatten().is_some());
    }
}
