//! Notifications of systemd (`sd_notify(3)`): that the agent is ready, alive, or reloading its configuration.
//! Without systemd nothing is sent.
//!
//! They are sent by a thread of their own, so that a systemd that does not read them blocks nothing.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::node::supervisor::goes_round;
use crate::units::time::half;

/// Maximum number of notifications that wait to be sent; others are dropped.
const BACKLOG: usize = 16;
/// Timeout of the last notification.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The channel of notifications to systemd.
#[derive(Debug, Clone)]
pub(super) struct Manager(SyncSender<Message>);

#[derive(Debug)]
enum Message {
    Notify(Vec<NotifyState<'static>>),
    /// Everything before was sent.
    Flush(SyncSender<()>),
}

impl Manager {
    pub(super) fn new() -> Self {
        let (sender, messages) = sync_channel(BACKLOG);
        thread::spawn(move || notify_all(&messages));
        Self(sender)
    }

    /// Notifies that the agent is ready after the supervisor's first heartbeat, and from then on, at
    /// systemd's watchdog interval, that the supervisor is alive.
    pub(super) async fn keep_told(self, mut heartbeat: watch::Receiver<Option<Instant>>) {
        if heartbeat.wait_for(Option::is_some).await.is_err() {
            return;
        }
        info!("Ready, every Pod is synced");
        self.notify([NotifyState::Ready]);
        let Some(interval) = sd_notify::watchdog_enabled() else {
            return;
        };
        loop {
            if goes_round(&heartbeat) {
                self.notify([NotifyState::Watchdog]);
            } else {
                warn!("Supervisor is stuck, not notifying the systemd watchdog");
            }
            tokio::time::sleep(half(interval)).await;
        }
    }

    /// Notifies what the agent waits for, as `systemctl status` shows it; empty for nothing.
    pub(super) fn tell_status(&self, text: &'static str) {
        self.notify([NotifyState::Status(text)]);
    }

    /// Notifies that the configuration is being reloaded.
    pub(super) fn tell_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.notify([NotifyState::Reloading, now]);
        }
    }

    /// Notifies that the reload of [`Manager::tell_reloading`] is over.
    pub(super) fn tell_reloaded(&self) {
        self.notify([NotifyState::Ready]);
    }

    /// Notifies that the agent stops, and waits a short time until that was sent.
    pub(super) fn tell_stopping(&self) {
        self.notify([NotifyState::Stopping]);
        let (sender, sent) = sync_channel(1);
        if self.0.try_send(Message::Flush(sender)).is_ok() {
            // A systemd that does not read misses it.
            let _ = sent.recv_timeout(FLUSH_TIMEOUT);
        }
    }

    fn notify<const N: usize>(&self, what: [NotifyState<'static>; N]) {
        // A systemd that does not read misses it, and the agent goes on.
        let _ = self.0.try_send(Message::Notify(what.into()));
    }
}

fn notify_all(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Notify(what) => {
                if let Err(error) = sd_notify::notify(&what) {
                    warn!(%error, "Failed to notify systemd");
                }
            }
            Message::Flush(sender) => {
                // The sender may have timed out.
                let _ = sender.send(());
            }
        }
    }
}
