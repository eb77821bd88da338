//! The node's addresses, which may change while the agent runs.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Time for which addresses count as they were found: the kernel looks at every interface for them, of which each Pod
/// has one, and of many containers that start at once each would have it look.
const FRESH: Duration = Duration::from_secs(1);

/// The node's addresses, the first one first. All who hold a copy see the same: what was given, or what was
/// found by the last refresh.
#[derive(Debug, Clone, Default)]
pub struct HostIps {
    known: watch::Sender<Vec<String>>,
    /// Function that finds the addresses; `None` if they are configured.
    find: Option<fn() -> Vec<IpAddr>>,
    /// Time of the last look for them.
    looked: Arc<Mutex<Option<Instant>>>,
}

impl HostIps {
    /// Creates the addresses that `find` finds, now and at each refresh.
    #[must_use]
    pub fn found_by(find: fn() -> Vec<IpAddr>) -> Self {
        let ips = Self {
            find: Some(find),
            ..Self::default()
        };
        ips.refresh();
        ips
    }

    /// Finds them again, unless that was done a moment ago. A machine that has none just now, such as one whose lease
    /// is being renewed, keeps those that it had.
    pub fn refresh(&self) {
        let Some(find) = self.find else {
            return;
        };
        {
            let mut last = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|at| at.elapsed() < FRESH) {
                return;
            }
            *last = Some(Instant::now());
        }
        let found = find();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        self.known.send_if_modified(|known| {
            let is_changed = !found.is_empty() && *known != found;
            if is_changed {
                *known = found;
            }
            is_changed
        });
    }

    /// Returns those that are known.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.known.borrow().clone()
    }

    /// Returns the first one that is known.
    #[must_use]
    pub fn first(&self) -> Option<String> {
        self.known.borrow().first().cloned()
    }

    /// Returns those that were given; none where they are found.
    #[must_use]
    pub fn given(&self) -> Vec<String> {
        match self.find {
            Some(_) => vec![],
            None => self.all(),
        }
    }

    /// Returns a receiver that is notified when they change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Vec<String>> {
        self.known.subscribe()
    }
}

impl From<Vec<String>> for HostIps {
    /// These, whatever the machine has.
    fn from(given: Vec<String>) -> Self {
        Self {
            known: watch::Sender::new(given),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn addresses_are_looked_for_once_a_second_at_most() {
        static LOOKS: AtomicU8 = AtomicU8::new(0);
        let ips =
            HostIps::found_by(|| vec![[10, 0, 0, LOOKS.fetch_add(1, Ordering::Relaxed)].into()]);
        for (milliseconds, first) in [(0, "10.0.0.0"), (999, "10.0.0.0"), (1, "10.0.0.1")] {
            tokio::time::advance(Duration::from_millis(milliseconds)).await;
            ips.refresh();
            ips.clone().refresh();
            assert_eq!(ips.first().as_deref(), Some(first));
        }
    }
}
