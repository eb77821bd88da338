//! Events of Pods, in the words of Kubernetes: for
//! people, and for the API server where there is one.
//!
//! The same thing again raises a count, also where its sandbox is another one; of old events the oldest go, so that no Pod, however restless,
//! takes more than its share of memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::state::same_but_for_ids;
use super::state::time::wall_now;
use crate::manifest::PodKey;

/// Events kept in all, and of one Pod.
const KEPT: usize = 2000;
const KEPT_OF_POD: usize = 60;
/// Longest message of an event, in bytes, as the API server wants it.
const MAX_MESSAGE: usize = 1024;

/// True if an event is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Something may need attention.
    Warning,
}

/// One event, as often as it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises with each happening; the events with the highest numbers are the newest.
    pub number: u64,
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's full name.
    pub name: String,
    /// The Pod's UID.
    pub uid: String,
    /// The field that it is about, as `spec.containers{web}`; empty for the Pod as a whole.
    pub field: String,
    /// True if it is as it should be.
    pub kind: EventKind,
    /// Kubernetes' word for it: `Pulled`, `Killing`, `BackOff`, …
    pub reason: String,
    /// Message for people.
    pub message: String,
    /// Number of occurrences.
    pub count: u32,
    /// The first time, in nanoseconds since the epoch.
    pub first: i64,
    /// The last time, in nanoseconds since the epoch.
    pub last: i64,
}

/// The subject of an event.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The Pod.
    pub pod: &'a PodKey,
    /// The Pod's UID.
    pub uid: &'a str,
    /// The field, as [`Event::field`] has it.
    pub field: &'a str,
}

/// The events of all Pods, newest last.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<VecDeque<Event>>,
    newest: watch::Sender<u64>,
    /// Number of events that went to make room.
    dropped: AtomicU64,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            newest: watch::channel(0).0,
            dropped: AtomicU64::new(0),
        }
    }
}

impl Events {
    /// Something happened.
    pub fn record(&self, about: About<'_>, kind: EventKind, reason: &str, message: &str) {
        let now = wall_now();
        let mut kept = self.lock();
        let number = self.newest.borrow().saturating_add(1);
        let message = cut(message);
        let same = |e: &Event| {
            e.uid == about.uid
                && e.reason == reason
                && e.field == about.field
                && same_but_for_ids(&e.message, message)
        };
        let known = kept.iter().position(same).and_then(|at| kept.remove(at));
        let event = match known {
            Some(known) => Event {
                number,
                count: known.count.saturating_add(1),
                last: now,
                ..known
            },
            None => Event {
                number,
                namespace: about.pod.namespace.clone(),
                name: about.pod.name.clone(),
                uid: about.uid.to_owned(),
                field: about.field.to_owned(),
                kind,
                reason: reason.to_owned(),
                message: message.to_owned(),
                count: 1,
                first: now,
                last: now,
            },
        };
        kept.push_back(event);
        let of_pod = |e: &&Event| e.name == about.pod.name && e.namespace == about.pod.namespace;
        if kept.iter().filter(of_pod).count() > KEPT_OF_POD {
            let oldest = kept.iter().position(|e| of_pod(&e));
            oldest.and_then(|at| kept.remove(at));
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if kept.len() > KEPT {
            kept.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.newest.send_replace(number);
    }

    /// The events with higher numbers than this, oldest first.
    #[must_use]
    pub fn since(&self, number: u64) -> Vec<Event> {
        let kept = self.lock();
        kept.iter().filter(|e| e.number > number).cloned().collect()
    }

    /// Returns the number of old events that went to make room for new ones.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns a receiver of the number of the newest event.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // Each change leaves the list whole, even if one is lost to a panic elsewhere.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(message: &str) -> &str {
    let fits = |(at, c): (usize, char)| at.saturating_add(c.len_utf8());
    let ends = message.char_indices().map(fits);
    let end = ends.take_while(|end| *end <= MAX_MESSAGE).last();
    &message[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn record(events: &Events, pod: &str, message: &str) {
        let about = About {
            pod: &key(pod),
            uid: pod,
            field: "",
        };
        events.record(about, EventKind::Normal, "Started", message);
    }

    #[test]
    fn the_same_again_is_counted_and_is_the_newest() {
        let events = Events::default();
        for message in ["a", "b", "a"] {
            record(&events, "p", message);
        }
        let all = events.since(0);
        let all: Vec<_> = all.iter().map(|e| (e.message.as_str(), e.count)).collect();
        assert_eq!(all, [("b", 1), ("a", 2)]);
        assert_eq!(events.since(2).len(), 1);
    }

    #[test]
    fn a_restless_pod_pushes_out_its_own_events_only() {
        let events = Events::default();
        record(&events, "quiet", "here");
        for n in 0..500 {
            record(&events, "restless", &n.to_string());
        }
        let all = events.since(0);
        assert_eq!(all.len(), KEPT_OF_POD + 1);
        assert_eq!(all[0].name, "quiet");
        assert_eq!(all[KEPT_OF_POD].message, "499");
        assert_eq!(events.dropped(), 500 - KEPT_OF_POD as u64);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut(&"ä".repeat(1000)).len(), 1024);
        assert_eq!(cut(&format!("x{}", "ä".repeat(1000))).len(), 1023);
    }
}
