//! Where hints come from that something happened in the runtime: one file for each source, all of them
//! feeding the same channel. A hint only says "look"; a lost one costs time, never correctness, since
//! the supervisor also looks around by itself.

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
    LookAround,
}

/// Whether hints come in, so that looking around may be rare.
#[derive(Debug, Clone, Default)]
pub struct Connected(Arc<AtomicBool>);

impl Connected {
    /// Whether hints come in.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, connected: bool) {
        self.0.store(connected, Ordering::Relaxed);
    }
}
