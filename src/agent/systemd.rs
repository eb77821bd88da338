//! Notifications to systemd (`sd_notify(3)`): the agent is ready, alive, reloading, or stopping.
//!
//! Without systemd nothing is sent. A thread of its own sends, so that nothing waits for a systemd that does
//! not read.

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::node::supervisor::{HeartbeatReceiver, is_alive};
use crate::units::time::half;

/// Notifications that wait to be sent; further ones are dropped.
const PENDING: usize = 16;
/// Longest wait for the notification that the agent stops.
const STOPPING_LIMIT: Duration = Duration::from_millis(500);

/// Longest time in one request for more, in microseconds.
const LONGEST_EXTENSION: u32 = 3_600_000_000;

/// Sender of notifications.
#[derive(Debug, Clone)]
pub(super) struct Systemd(SyncSender<Notification>);

#[derive(Debug)]
enum Notification {
    Notify(Vec<NotifyState<'static>>),
    Status(Cow<'static, str>),
    /// Answered once everything before was sent.
    Flush(SyncSender<()>),
}

impl Systemd {
    /// Starts the thread that sends.
    pub(super) fn connect() -> Self {
        let (sender, messages) = sync_channel(PENDING);
        thread::spawn(move || send_all(&messages));
        Self(sender)
    }

    /// Notifies that the agent is ready at the supervisor's first heartbeat, and from then on, as often as
    /// systemd asks for it, that the supervisor is alive.
    pub(super) async fn follow(self, mut heartbeat: HeartbeatReceiver) {
        if heartbeat.wait_for(Option::is_some).await.is_err() {
            return;
        }
        info!("podkeeper is ready, every Pod was observed");
        self.notify([NotifyState::Ready]);
        let Some(patience) = sd_notify::watchdog_enabled() else {
            return;
        };
        loop {
            if is_alive(&heartbeat) {
                self.notify([NotifyState::Watchdog]);
            } else {
                warn!("Supervisor is stuck, systemd is no longer notified");
            }
            tokio::time::sleep(half(patience)).await;
        }
    }

    /// Sets the text that `systemctl status` shows; empty for none.
    pub(super) fn notify_status(&self, text: impl Into<Cow<'static, str>>) {
        // As below.
        let _ = self.0.try_send(Notification::Status(text.into()));
    }

    /// Has systemd wait this long from now on for the agent to end, at most an hour.
    pub(super) fn extend_stop(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(LONGEST_EXTENSION);
        let micros = micros.min(LONGEST_EXTENSION);
        self.notify([NotifyState::ExtendTimeoutUsec(micros)]);
    }

    /// Notifies that the configuration is being reloaded.
    pub(super) fn notify_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.notify([NotifyState::Reloading, now]);
        }
    }

    /// Notifies that the reload is over.
    pub(super) fn notify_reloaded(&self) {
        self.notify([NotifyState::Ready]);
    }

    /// Notifies that the agent stops, and waits a little until that was sent.
    pub(super) fn notify_stopping(&self) {
        self.notify([NotifyState::Stopping]);
        let (sender, sent) = sync_channel(1);
        if self.0.try_send(Notification::Flush(sender)).is_ok() {
            // A systemd that does not read misses it.
            let _ = sent.recv_timeout(STOPPING_LIMIT);
        }
    }

    fn notify<const N: usize>(&self, states: [NotifyState<'static>; N]) {
        // A systemd that does not read misses it, and the agent works on.
        let _ = self.0.try_send(Notification::Notify(states.into()));
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "Failed to notify systemd");
    }
}

fn send_all(messages: &Receiver<Notification>) {
    for message in messages {
        match message {
            Notification::Notify(states) => send(&states),
            Notification::Status(text) => send(&[NotifyState::Status(&text)]),
            Notification::Flush(sent) => {
                // The caller may have waited long enough.
                let _ = sent.send(());
            }
        }
    }
}
