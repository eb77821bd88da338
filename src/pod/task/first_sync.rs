//! Permits of the tasks to read their Pods for the first time.
//!
//! Without them, all tasks ask the runtime at once when the agent starts, and the memory of all these calls stays with
//! the process.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Tasks that read their Pods at a time.
const MAX_CONCURRENT: usize = 16;

/// The longest wait for a permit while none is given back: those who have them may hang.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The permits.
#[derive(Debug)]
pub struct FirstSyncs {
    permits: Semaphore,
    /// Counts the permits that were given back.
    done: AtomicU64,
}

/// A permit, given back when it is dropped.
#[derive(Debug)]
pub struct FirstSyncPermit<'a> {
    _permit: SemaphorePermit<'a>,
    done: &'a AtomicU64,
}

impl Drop for FirstSyncPermit<'_> {
    fn drop(&mut self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for FirstSyncs {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(MAX_CONCURRENT),
            done: AtomicU64::default(),
        }
    }
}

impl FirstSyncs {
    /// Waits for a permit. Returns `None` if none is given back within a second; the caller goes on without one.
    pub async fn permit(&self) -> Option<FirstSyncPermit<'_>> {
        let mut permit = pin!(self.permits.acquire());
        loop {
            let before = self.done.load(Ordering::Relaxed);
            if let Ok(permit) = timeout(MAX_WAIT, &mut permit).await {
                return permit.ok().map(|permit| FirstSyncPermit {
                    _permit: permit,
                    done: &self.done,
                });
            }
            if self.done.load(Ordering::Relaxed) == before {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_waits_for_a_permit_while_others_are_given_back_but_not_for_those_that_hang() {
        let syncs = FirstSyncs::default();
        let mut permits = vec![];
        for _ in 0..MAX_CONCURRENT {
            permits.extend(syncs.permit().now_or_never().flatten());
        }
        assert_eq!(permits.len(), MAX_CONCURRENT);
        assert!(syncs.permit().now_or_never().is_none());
        let began = Instant::now();
        assert!(syncs.permit().await.is_none());
        assert_eq!(began.elapsed(), MAX_WAIT);
        // Each that is given back goes to one who came before.
        let (mut first, mut last) = (pin!(syncs.permit()), pin!(syncs.permit()));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(last.as_mut().now_or_never().is_none());
        tokio::time::advance(MAX_WAIT / 2).await;
        permits.pop();
        let first = first.as_mut().now_or_never().flatten();
        assert!(first.is_some());
        tokio::time::advance(MAX_WAIT * 3 / 4).await;
        assert!(last.as_mut().now_or_never().is_none());
        drop(first);
        assert!(last.now_or_never().flatten().is_some());
    }
}
