//! What the service manager is told (`sd_notify(3)`): that the agent is ready, alive, or reading its
//! configuration again. Without a service manager nothing is told.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

/// A supervisor that did not go round for this long is stuck. Each round waits for the runtime twice at
/// most, half a minute each.
const STUCK: Duration = Duration::from_secs(120);

/// Tells the service manager that the agent is ready once the supervisor's first pulse is there, and
/// from then on, as often as it wants to hear it, that the supervisor goes round.
pub(super) async fn keep_told(mut pulse: watch::Receiver<Option<Instant>>) {
    if pulse.wait_for(Option::is_some).await.is_err() {
        return;
    }
    info!("every Pod was looked at");
    tell(&[NotifyState::Ready]);
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        if pulse.borrow().is_some_and(|last| last.elapsed() < STUCK) {
            tell(&[NotifyState::Watchdog]);
        } else {
            warn!("the supervisor does not go round, the service manager is told no more");
        }
        tokio::time::sleep(patience / 3).await;
    }
}

/// Tells that the configuration is being read again. [`NotifyState::Ready`] must follow.
pub(super) fn tell_reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

pub(super) fn tell(what: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "the service manager cannot be told");
    }
}
