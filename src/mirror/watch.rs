//! Objects of one kind at the API server and their changes: listed once, then watched.
//!
//! The list is always narrowed by a field selector. Whoever reads sees first all objects, then each
//! change, and all objects again when the server lost the thread.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::WatchEvent;
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::api::Api;
use super::bounded::MAX_ITEMS;
use super::error::{ApiError, ErrorKind};
use super::refusal_log::RefusalLog;
use crate::units::time::scaled;

/// Time limit of a watch in seconds; a random part is added, so that watches do not end together.
const WATCH_SECONDS: u64 = 300;
/// The wait before something that failed is tried again, at first and at most.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// An update from the watch.
#[derive(Debug, Clone)]
pub(super) enum ObjectUpdate<T> {
    /// These are all objects.
    All(Vec<T>),
    /// An object was added or changed.
    There(T),
    /// An object is gone; this is what it was last.
    Gone(T),
}

/// An object of the API server's.
pub(super) trait WatchedObject: DeserializeOwned + Clone + Send + 'static {
    /// Its version there.
    fn resource_version(&self) -> Option<&str>;
}

#[derive(Deserialize)]
struct List<T> {
    metadata: ListMeta,
    #[serde(default = "Items::default")]
    items: Items<T>,
}

/// Objects of a list, of which there are not endlessly many: small ones take far more memory than they
/// have bytes.
struct Items<T>(Vec<T>);

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ItemsVisitor<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_ITEMS} objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Items<T>, A::Error> {
                let mut all = vec![];
                while let Some(item) = items.next_element()? {
                    if all.len() >= MAX_ITEMS {
                        return Err(A::Error::invalid_length(all.len(), &self));
                    }
                    all.push(item);
                }
                Ok(Items(all))
            }

            // An empty list of Go's may be null.
            fn visit_unit<E>(self) -> Result<Items<T>, E> {
                Ok(Items::default())
            }
        }

        deserializer.deserialize_any(ItemsVisitor(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
}

/// The objects at `path` that the field selector `FIELD=VALUE` leaves, to `sender` until the server
/// is unreachable or nobody listens.
pub(super) async fn watch<T: WatchedObject>(
    api: &Api,
    path: &str,
    selector: (&str, &str),
    sender: mpsc::Sender<ObjectUpdate<T>>,
) -> Result<Infallible, ApiError> {
    let (field, value) = selector;
    let path = format!("{path}?fieldSelector={field}%3D{value}");
    let mut refusals = RefusalLog::new(format!("to list {path}"));
    let mut delay = RETRY;
    let mut version = None;
    loop {
        let began = Instant::now();
        let result = round(api, &path, &mut version, &sender, &mut refusals).await;
        let mut pause = delay;
        match result {
            Ok(()) => {}
            Err(error) => match error.kind {
                ErrorKind::Unreachable => return Err(error),
                ErrorKind::Expired => version = None,
                ErrorKind::Busy(after) => pause = pause.max(after),
                ErrorKind::Fault => debug!(path, %error, "List or watch failed"),
                _ => {
                    version = None;
                    refusals.refused(&error);
                }
            },
        }
        // One that went on for a while ended because everything does.
        if began.elapsed() > RETRY_MAX {
            delay = RETRY;
            continue;
        }
        tokio::time::sleep(scaled(pause, 0.5 + fastrand::f64())).await;
        delay = delay.saturating_mul(2).min(RETRY_MAX);
    }
}

/// One list, if there is no version to go on from, and one watch.
async fn round<T: WatchedObject>(
    api: &Api,
    path: &str,
    version: &mut Option<String>,
    sender: &mpsc::Sender<ObjectUpdate<T>>,
    refusals: &mut RefusalLog,
) -> Result<(), ApiError> {
    let from = if let Some(from) = version.take() {
        from
    } else {
        let list: List<T> = api.get(path).await?;
        refusals.accepted();
        send(sender, ObjectUpdate::All(list.items.0)).await?;
        list.metadata.resource_version
    };
    let seconds = fastrand::u64(WATCH_SECONDS..=2 * WATCH_SECONDS);
    let target = format!(
        "{path}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={from}"
    );
    *version = Some(from);
    let begun = Instant::now();
    let mut events = api.watch::<T>(&target).await?;
    while let Some(event) = events.next().await {
        let event = match event {
            // It was cut. If that is because the server is unreachable, the next one cannot be begun.
            Err(error) if error.kind == ErrorKind::Unreachable => break,
            event => event?,
        };
        let seen = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => ObjectUpdate::There(object),
            WatchEvent::Deleted(object) => ObjectUpdate::Gone(object),
            WatchEvent::Bookmark(bookmark) => {
                *version = Some(bookmark.metadata.resource_version);
                continue;
            }
            WatchEvent::Error(status) => return Err(ApiError::of_status(*status)),
        };
        let (ObjectUpdate::There(object) | ObjectUpdate::Gone(object)) = &seen else {
            continue;
        };
        if let Some(newer) = object.resource_version() {
            *version = Some(newer.to_owned());
        }
        send(sender, seen).await?;
    }
    // One that ended before its time was cut, and the server behind it may be another one, to which
    // the version means nothing.
    if begun.elapsed() < Duration::from_secs(seconds) {
        *version = None;
    }
    Ok(())
}

async fn send<T>(
    sender: &mpsc::Sender<ObjectUpdate<T>>,
    seen: ObjectUpdate<T>,
) -> Result<(), ApiError> {
    let sent = sender.send(seen).await;
    sent.map_err(|_| ApiError::unreachable("nobody listens any more"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IgnoredAny;

    #[test]
    fn a_list_has_so_many_objects_and_no_more() {
        let list = |items: String| {
            let text = format!("{{\"metadata\": {{}}, \"items\": {items}}}");
            let list: Result<List<IgnoredAny>, _> = serde_json::from_str(&text);
            list.map(|list| list.items.0.len())
                .map_err(|e| e.to_string())
        };
        let many = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!(list(many(MAX_ITEMS)), Ok(MAX_ITEMS));
        assert_eq!(list("null".to_owned()), Ok(0));
        let error = list(many(MAX_ITEMS + 1)).unwrap_err();
        assert!(
            error.contains("expected a list of at most 5000 objects"),
            "{error}"
        );
    }
}
