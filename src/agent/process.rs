//! The agent's process: limits, core dumps, and signals to stop.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::debug;

/// Open files that are enough whatever callers do.
const MAX_FILES: u64 = 65_536;

/// Raises the limit of open files as far as it may be, up to what callers, Pods and watches could need:
/// systemd gives a service 1024 unless it raises that itself.
pub(super) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MAX_FILES).min(MAX_FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            debug!(%error, "Failed to raise the limit of open files");
        }
    }
}

/// Keeps the agent's memory, in which there are Secrets, out of core dumps.
///
/// A handler of dumps is not bound by the limit of their size, so that the process is not dumpable either.
pub(super) fn disable_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Neither can fail for a process that gives something up.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Signals that ask the agent to stop.
#[derive(Debug)]
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Listens for the signals, from now on.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
