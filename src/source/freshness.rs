//! When each source was last read well.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When each source was last read well. Cloning it shares it.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// The directory.
    pub directory: LastRead,
    /// The document on the web.
    pub url: LastRead,
}

/// When one source was last read well; nothing while it never was, and while there is none.
#[derive(Debug, Clone, Default)]
pub struct LastRead(Arc<Mutex<Option<Instant>>>);

impl LastRead {
    /// How long ago it was.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| last.elapsed())
    }

    pub(super) fn now(&self) {
        self.set(Some(Instant::now()));
    }

    pub(super) fn never(&self) {
        self.set(None);
    }

    fn set(&self, last: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}
