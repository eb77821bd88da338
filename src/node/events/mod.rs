//! Hints that something happened in the runtime, from one file for each source, in one channel.
//!
//! A hint only has the supervisor relist or a task observe its Pod. A lost one costs time, never correctness,
//! since the supervisor also relists by itself.

pub mod cri;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::manifest::PodKey;

/// A hint that something happened in the runtime.
#[derive(Debug)]
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
