//! Events of Pods at the API server, on their mirror Pods.
//!
//! The same thing again raises the count of the same event. A Pod has a budget of requests, which
//! fills up again slowly; the rest is sent later, with the count that the event has reached by then.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::IgnoredAny;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::debug;

use super::Local;
use super::api::{Api, PatchType};
use super::error::{ApiError, ErrorKind};
use crate::hex::hex;
use crate::manifest::PodKey;
use crate::pod::events::{Event, EventKind};
use crate::units::time::Later;

/// A Pod may have so many requests at once, and one more each time this has passed (the reference
/// agent's limits).
const BUDGET: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// Time that an event rests before it is sent, so that events in quick succession are sent together.
const SETTLE: Duration = Duration::from_millis(200);
/// Events that are known to be at the API server.
const KNOWN: usize = 2000;
/// Reporting component of the events.
const COMPONENT: &str = "podkeeper";
/// Names of objects have at most 253 characters; a hash comes behind this part.
const NAME_PART: usize = 230;

/// State that outlives a connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The newest happening that was taken in.
    taken: u64,
    /// Events to send, with their names, by the number of their last happening.
    waiting: BTreeMap<u64, (String, Event)>,
    /// The numbers of the events to send, by name.
    numbers: BTreeMap<String, u64>,
    /// The names of events that the API server has, with the number of their last happening.
    known: BTreeMap<String, u64>,
    budgets: BTreeMap<PodKey, EventBudget>,
}

/// Rate limit of requests per Pod.
#[derive(Debug, Clone, Copy)]
struct EventBudget {
    left: u32,
    filled: Instant,
}

impl EventBudget {
    fn new(now: Instant) -> Self {
        Self {
            left: BUDGET,
            filled: now,
        }
    }

    /// Takes one request, or returns the time when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let steps = now.duration_since(self.filled).as_nanos();
        let steps = steps.checked_div(REFILL.as_nanos()).unwrap_or(0);
        let steps = u32::try_from(steps).unwrap_or(BUDGET);
        self.left = self.left.saturating_add(steps).min(BUDGET);
        self.filled = self.filled.later(REFILL.saturating_mul(steps));
        if self.left == BUDGET {
            self.filled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.filled.later(REFILL)),
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        let missing = BUDGET.saturating_sub(self.left);
        now.duration_since(self.filled) >= REFILL.saturating_mul(missing)
    }
}

impl Outbox {
    /// Takes in what happened.
    fn take(&mut self, events: Vec<Event>, now: Instant) {
        self.budgets.retain(|_, budget| !budget.is_full(now));
        for event in events {
            let number = event.number;
            self.taken = self.taken.max(number);
            let name = name(&event);
            if let Some(before) = self.numbers.insert(name.clone(), number) {
                self.waiting.remove(&before);
            }
            self.waiting.insert(number, (name, event));
        }
    }

    /// Returns the next event to send, the oldest first, with its request already counted; or the time when
    /// there may be one.
    fn next(&mut self, now: Instant) -> Result<(String, Event), Option<Instant>> {
        let mut wake: Option<Instant> = None;
        for (name, event) in self.waiting.values() {
            let key = PodKey {
                namespace: event.namespace.clone(),
                name: event.name.clone(),
            };
            let budget = self
                .budgets
                .entry(key)
                .or_insert_with(|| EventBudget::new(now));
            match budget.take(now) {
                Ok(()) => return Ok((name.clone(), event.clone())),
                Err(at) => wake = wake.into_iter().chain([at]).min(),
            }
        }
        Err(wake)
    }

    /// Removes an event that was sent, or will not be.
    fn done(&mut self, name: &str, number: u64, is_known: bool) {
        if self.numbers.get(name) == Some(&number) {
            self.numbers.remove(name);
            self.waiting.remove(&number);
        }
        if !is_known {
            self.known.remove(name);
            return;
        }
        self.known.insert(name.to_owned(), number);
        if self.known.len() > KNOWN {
            let oldest = self.known.iter().min_by_key(|(_, number)| **number);
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.and_then(|name| self.known.remove(&name));
        }
    }
}

/// Sends events until the API server is unreachable.
pub(super) async fn send_all(
    local: &Local,
    api: &Api,
    outbox: &mut Outbox,
) -> Result<Infallible, ApiError> {
    let mut newest = local.context.events.newest();
    newest.mark_changed();
    let mut wake = None;
    loop {
        let until = wake.unwrap_or_else(|| Instant::now().later(REFILL));
        tokio::select! {
            Ok(()) = newest.changed() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep_until(until) => {}
        }
        newest.mark_unchanged();
        outbox.take(local.context.events.since(outbox.taken), Instant::now());
        wake = loop {
            let (name, event) = match outbox.next(Instant::now()) {
                Ok(next) => next,
                Err(wake) => break wake,
            };
            if let Some(pause) = tell_one(local, api, outbox, &name, &event).await? {
                tokio::time::sleep(pause).await;
            }
        };
    }
}

/// Sends one event. Returns the time to wait before the next, if the server asks for that.
async fn tell_one(
    local: &Local,
    api: &Api,
    outbox: &mut Outbox,
    name: &str,
    event: &Event,
) -> Result<Option<Duration>, ApiError> {
    let is_known = outbox.known.contains_key(name);
    let result = send(api, &local.context.node_name, name, event, is_known).await;
    match result {
        Ok(()) => outbox.done(name, event.number, true),
        Err(error) => match error.kind {
            ErrorKind::Unreachable => return Err(error),
            ErrorKind::Busy(after) => return Ok(Some(after)),
            ErrorKind::Fault => return Ok(Some(Duration::from_secs(5))),
            // There is no such namespace, or nobody wants it: the log has it all the same.
            _ => {
                debug!(pod = event.name, reason = event.reason, %error, "API server rejected event");
                outbox.done(name, event.number, false);
            }
        },
    }
    Ok(None)
}

/// Raises the count of an event that exists, or creates it.
async fn send(
    api: &Api,
    node: &str,
    name: &str,
    event: &Event,
    is_known: bool,
) -> Result<(), ApiError> {
    let events = format!("/api/v1/namespaces/{}/events", event.namespace);
    let one = format!("{events}/{name}");
    let change = json!({"count": event.count, "lastTimestamp": time(event.last)});
    if is_known {
        let raised: Result<IgnoredAny, ApiError> = api.patch(&one, PatchType::Merge, &change).await;
        match raised {
            // It was forgotten there: events are, after an hour.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            raised => return raised.map(|_| ()),
        }
    }
    let new = api_event(node, name, event);
    match api.create::<IgnoredAny>(&events, &new).await {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            let kind = PatchType::Merge;
            api.patch::<IgnoredAny>(&one, kind, &change)
                .await
                .map(|_| ())
        }
        made => made.map(|_| ()),
    }
}

/// The name of an event: the same for the same thing again, another for the same thing of another
/// agent's life.
fn name(event: &Event) -> String {
    let mut hash = Sha256::new();
    for part in [&event.uid, &event.field, &event.reason, &event.message] {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(event.first.to_le_bytes());
    let part: String = event.name.chars().take(NAME_PART).collect();
    format!(
        "{}.{}",
        part.trim_end_matches(['.', '-']),
        hex(&hash.finalize()[..8])
    )
}

/// Returns the event as the API server wants it. It is about the static Pod's UID, by which tools select the
/// events of a mirror Pod.
fn api_event(node: &str, name: &str, event: &Event) -> ApiEvent {
    let kind = match event.kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    };
    ApiEvent {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(event.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(event.namespace.clone()),
            name: Some(event.name.clone()),
            uid: Some(event.uid.clone()),
            field_path: Some(event.field.clone()).filter(|field| !field.is_empty()),
            ..ObjectReference::default()
        },
        reason: Some(event.reason.clone()),
        message: Some(event.message.clone()),
        type_: Some(kind.to_owned()),
        count: i32::try_from(event.count).ok(),
        first_timestamp: time(event.first),
        last_timestamp: time(event.last),
        ..reported_by(node)
    }
}

/// An event of which nothing is known but that this node's agent reports it.
fn reported_by(node: &str) -> ApiEvent {
    ApiEvent {
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..ApiEvent::default()
    }
}

/// Creates the kubelet's event about a Node that begins to shut down.
///
/// # Errors
/// The API server is unreachable, or refuses it.
pub(super) async fn record_node_shutdown(api: &Api, node: &str) -> Result<(), ApiError> {
    let now = jiff::Timestamp::now();
    let event = ApiEvent {
        metadata: ObjectMeta {
            // Two shutdowns do not begin in the same nanosecond.
            name: Some(format!("{node}.{:x}", now.as_nanosecond())),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // So that `kubectl describe node` finds it, as with the kubelet.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        reason: Some("Shutdown".to_owned()),
        message: Some("Shutdown manager detected shutdown event".to_owned()),
        type_: Some("Normal".to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..reported_by(node)
    };
    let created = api.create::<IgnoredAny>("/api/v1/namespaces/default/events", &event);
    created.await.map(drop)
}

fn time(nanos: i64) -> Option<Time> {
    jiff::Timestamp::from_nanosecond(nanos.into())
        .ok()
        .map(Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(pod: &str, message: &str, number: u64) -> Event {
        Event {
            number,
            namespace: "default".into(),
            name: pod.into(),
            uid: pod.into(),
            field: "spec.containers{web}".into(),
            kind: EventKind::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            count: u32::try_from(number).unwrap(),
            first: 1_000_000_000,
            last: 2_000_000_000,
        }
    }

    #[test]
    fn a_restless_pod_has_25_requests_and_then_one_every_five_minutes() {
        let mut outbox = Outbox::default();
        let (start, mut sent) = (Instant::now(), vec![]);
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            outbox.take(vec![event("p", "again", second + 1)], now);
            while let Ok((name, event)) = outbox.next(now) {
                outbox.done(&name, event.number, true);
                sent.push(event.count);
            }
        }
        assert_eq!(sent.len(), 25 + 11);
        assert_eq!(
            sent[24..27],
            [25, 301, 601],
            "the count is what it is by then"
        );
        outbox.take(vec![event("other", "first", 9999)], start);
        assert!(outbox.next(start + Duration::from_secs(3600)).is_ok());
    }

    #[test]
    fn what_waits_is_told_in_order_and_only_as_it_is_last() {
        let mut outbox = Outbox::default();
        let now = Instant::now();
        let happened = [("b", 2), ("a", 3), ("b", 4)];
        let events = happened.map(|(message, number)| event("p", message, number));
        outbox.take(events.into(), now);
        let mut sent = vec![];
        while let Ok((name, event)) = outbox.next(now) {
            outbox.done(&name, event.number, true);
            sent.push((event.message, event.count));
        }
        assert_eq!(sent, [("a".to_owned(), 3), ("b".to_owned(), 4)]);
    }

    #[test]
    fn a_happening_during_a_request_is_not_lost() {
        let mut outbox = Outbox::default();
        let now = Instant::now();
        outbox.take(vec![event("p", "a", 1)], now);
        let (name, first) = outbox.next(now).unwrap();
        outbox.take(vec![event("p", "a", 2)], now);
        outbox.done(&name, first.number, true);
        assert_eq!(outbox.next(now).unwrap().1.number, 2);
    }

    #[test]
    fn an_event_is_about_the_static_pod_and_says_what_the_agent_says() {
        let event = event("web-n1", "Back-off", 7);
        let made = serde_json::to_value(api_event("n1", &name(&event), &event)).unwrap();
        let expected = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name(&event), "namespace": "default"},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "default",
                "name": "web-n1", "uid": "web-n1", "fieldPath": "spec.containers{web}"},
            "type": "Warning", "reason": "BackOff", "message": "Back-off", "count": 7,
            "firstTimestamp": "1970-01-01T00:00:01Z", "lastTimestamp": "1970-01-01T00:00:02Z",
            "source": {"component": "podkeeper", "host": "n1"},
            "reportingComponent": "podkeeper", "reportingInstance": "n1",
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn names_are_those_of_objects_however_long_the_pods_is() {
        let mut long = event(&"a".repeat(253), "m", 1);
        assert!(name(&long).len() <= 253);
        let other = Event {
            first: 5,
            ..long.clone()
        };
        assert_ne!(name(&long), name(&other));
        long.number = 9;
        assert_eq!(
            name(&long),
            name(&Event {
                number: 1,
                ..long.clone()
            })
        );
    }
}
