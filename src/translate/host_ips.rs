//! The node's addresses, which may change while the agent runs.

use std::net::IpAddr;

use tokio::sync::watch;

/// The node's addresses, the first one first. All who hold a copy see the same: what was given, or what was
/// found by the last refresh.
#[derive(Debug, Clone, Default)]
pub struct HostIps {
    known: watch::Sender<Vec<String>>,
    /// Function that finds the addresses; `None` if they are configured.
    find: Option<fn() -> Vec<IpAddr>>,
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

    /// Finds them again. A machine that has none just now, such as one whose lease is being renewed,
    /// keeps those that it had.
    pub fn refresh(&self) {
        let found = self.find.map(|find| find()).unwrap_or_default();
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
            find: None,
        }
    }
}
