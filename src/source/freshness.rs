//! Time of each source's last successful read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time of each source's last successful read. Cloning it shares it.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// The directory.
    pub directory: LastRead,
    /// The document on the web.
    pub url: LastRead,
}

/// Time of one source's last successful read, and the age of its content; nothing while it never was, and while
/// there is none.
#[derive(Debug, Clone, Default)]
pub struct LastRead(Arc<Mutex<Times>>);

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    read: Option<Instant>,
    /// Time at which the content was signed, or last changed, in seconds since 1970.
    content: Option<i64>,
}

impl LastRead {
    /// Returns the time since then.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.times().read.map(|last| last.elapsed())
    }

    /// Age of the content, whenever it was read: a server that answers for ever that nothing changed
    /// makes it no younger.
    #[must_use]
    pub fn content_age(&self) -> Option<Duration> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let content = self.times().content?.try_into().unwrap_or_default();
        Some(
            since_1970
                .ok()?
                .saturating_sub(Duration::from_secs(content)),
        )
    }

    pub(super) fn now(&self) {
        self.times().read = Some(Instant::now());
    }

    pub(super) fn content_is_of(&self, time: Option<i64>) {
        self.times().content = time;
    }

    pub(super) fn never(&self) {
        *self.times() = Times::default();
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
