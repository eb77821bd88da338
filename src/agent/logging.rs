//! The agent's log: its format, its level, and the limit on lines that say the same.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use super::log_limit::LogLimit;
use crate::config::LogFormat;
use crate::text::LogWriter;

/// Handle of the log level, which changes while the agent runs.
#[derive(Debug, Clone)]
pub(super) struct LogLevel(reload::Handle<Targets, Registry>);

/// Starts logging to standard error.
pub(super) fn start(format: LogFormat, level: Level) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(|| LogWriter);
    let all = Registry::default().with(filter).with(LogLimit::default());
    match format {
        LogFormat::Text => all.with(lines.with_ansi(io::stderr().is_terminal())).init(),
        LogFormat::Json => all.with(lines.json().flatten_event(true)).init(),
    }
    LogLevel(handle)
}

impl LogLevel {
    /// Changes the least serious level that is logged.
    pub(super) fn set(&self, level: Level) {
        // Its only error is that nothing is logged any more.
        let _ = self.0.reload(filter(level));
    }
}

/// Returns the filter of a level. Libraries' own debug lines are for their developers, not for the node.
fn filter(level: Level) -> Targets {
    Targets::new()
        .with_default(Level::WARN)
        .with_target("kube_client", Level::ERROR)
        .with_target(env!("CARGO_PKG_NAME"), level)
}
