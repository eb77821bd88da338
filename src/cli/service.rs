//! What the service manager is told (`sd_notify(3)`): that the agent is ready, alive, or reading its
//! configuration again. Without a service manager nothing is told.
//!
//! A thread of its own does the telling, so that a service manager that does not listen holds nothing
//! up.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::node::supervisor::goes_round;
use crate::units::time::half;

/// What the service manager has not heard yet; more is not told.
const UNHEARD: usize = 16;
/// How long the end of the agent waits for being told.
const FAREWELL: Duration = Duration::from_millis(500);

/// The line to the service manager.
#[derive(Debug, Clone)]
pub(super) struct Manager(SyncSender<Message>);

#[derive(Debug)]
enum Message {
    Tell(Vec<NotifyState<'static>>),
    /// Everything before was told.
    Flush(SyncSender<()>),
}

impl Manager {
    pub(super) fn new() -> Self {
        let (sender, messages) = sync_channel(UNHEARD);
        thread::spawn(move || tell_all(&messages));
        Self(sender)
    }

    /// Tells that the agent is ready once the supervisor's first pulse is there, and from then on, as
    /// often as the service manager wants to hear it, that the supervisor goes round.
    pub(super) async fn keep_told(self, mut pulse: watch::Receiver<Option<Instant>>) {
        if pulse.wait_for(Option::is_some).await.is_err() {
            return;
        }
        info!("ready, every Pod was looked at");
        self.tell([NotifyState::Ready]);
        let Some(patience) = sd_notify::watchdog_enabled() else {
            return;
        };
        loop {
            if goes_round(&pulse) {
                self.tell([NotifyState::Watchdog]);
            } else {
                warn!("the supervisor does not go round, the service manager is told no more");
            }
            tokio::time::sleep(half(patience)).await;
        }
    }

    /// Tells what the agent waits for, as `systemctl status` shows it; empty for nothing.
    pub(super) fn tell_status(&self, text: &'static str) {
        self.tell([NotifyState::Status(text)]);
    }

    /// Tells that the configuration is being read again.
    pub(super) fn tell_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell([NotifyState::Reloading, now]);
        }
    }

    /// Tells that what [`Manager::tell_reloading`] told of is over.
    pub(super) fn tell_reloaded(&self) {
        self.tell([NotifyState::Ready]);
    }

    /// Tells that the agent ends, and waits a little until that was heard.
    pub(super) fn tell_stopping(&self) {
        self.tell([NotifyState::Stopping]);
        let (sender, told) = sync_channel(1);
        if self.0.try_send(Message::Flush(sender)).is_ok() {
            // One that does not listen misses it.
            let _ = told.recv_timeout(FAREWELL);
        }
    }

    fn tell<const N: usize>(&self, what: [NotifyState<'static>; N]) {
        // One that does not listen misses it, and the agent works on.
        let _ = self.0.try_send(Message::Tell(what.into()));
    }
}

fn tell_all(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Tell(what) => {
                if let Err(error) = sd_notify::notify(&what) {
                    warn!(%error, "the service manager cannot be told");
                }
            }
            Message::Flush(told) => {
                // Whoever wanted to know may have waited long enough.
                let _ = told.send(());
            }
        }
    }
}
