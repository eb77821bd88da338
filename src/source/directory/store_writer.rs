//! Writer of the store: writes what runs to disk beside the relists, one write at a time.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tracing::warn;

use crate::host::log_once::LogOnce;
use crate::source::store::{Store, StoreEntry};

/// The store and what it is to hold.
pub(super) struct StoreWriter {
    wanted: BTreeMap<PathBuf, StoreEntry>,
    /// The store may not hold that: it has changed since it was last written, or could not be written.
    is_pending: bool,
    /// The store while nothing is written.
    idle: Option<Store>,
    /// The store while it is being written.
    busy: Option<JoinHandle<(Store, io::Result<()>)>>,
    /// Failures to write.
    problems: LogOnce,
}

impl StoreWriter {
    pub(super) fn new(store: Store) -> Self {
        Self {
            wanted: BTreeMap::new(),
            is_pending: true,
            idle: Some(store),
            busy: None,
            problems: LogOnce::default(),
        }
    }

    pub(super) fn set_entries(&mut self, wanted: BTreeMap<PathBuf, StoreEntry>) {
        self.is_pending |= self.wanted != wanted;
        self.wanted = wanted;
    }

    /// Starts writing, if nothing is being written and something is to be.
    pub(super) fn start(&mut self) {
        if !self.is_pending || self.idle.is_none() {
            return;
        }
        self.is_pending = false;
        if let Some(mut store) = self.idle.take_if(|store| store.differs(&self.wanted)) {
            let wanted = self.wanted.clone();
            self.busy = Some(spawn_blocking(move || {
                let result = store.sync(&wanted);
                (store, result)
            }));
        }
    }

    /// Waits for the write under way, for ever if there is none, and starts the next. A failed
    /// write waits for the next relist. May be cancelled.
    pub(super) async fn done(&mut self) -> Result<(), JoinError> {
        let Some(busy) = &mut self.busy else {
            return std::future::pending().await;
        };
        let outcome = busy.await;
        self.busy = None;
        let (store, result) = outcome?;
        self.idle = Some(store);
        if let Some(error) = self.problems.record("store", &result) {
            warn!(error, "Failed to write accepted manifests");
        }
        if result.is_ok() {
            self.start();
        } else {
            self.is_pending = true;
        }
        Ok(())
    }

    /// Writes what is still to be written.
    pub(super) async fn finish(mut self) -> Result<(), JoinError> {
        self.start();
        while self.busy.is_some() {
            self.done().await?;
        }
        Ok(())
    }
}
