//! Hints from the runtime's own stream of container events.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tracing::{debug, info};

use crate::cri::v1::ContainerEventType;
use crate::cri::{Client, Error};
use crate::pod::observe::owner;

use super::{Connected, Hint};

/// How long a stream that broke is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// How soon a runtime without events says so, with room to spare.
const SILENCE: Duration = Duration::from_millis(500);

/// Hints from the runtime's container events (CRI `GetContainerEvents`) about what carries our mark, for
/// as long as somebody takes them. Ends at once where the runtime has no such events.
pub async fn container_events(
    client: Client,
    mark: String,
    hints: Sender<Hint>,
    connected: Connected,
) {
    while !hints.is_closed() {
        match follow(&client, &mark, &hints, &connected).await {
            Ok(()) => debug!("the stream of container events ended"),
            Err(Error::Unimplemented { .. }) => {
                info!("the container runtime has no container events, looking around instead");
                return;
            }
            Err(error) => debug!(%error, "the stream of container events broke"),
        }
        connected.set(false);
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(
    client: &Client,
    mark: &str,
    hints: &Sender<Hint>,
    connected: &Connected,
) -> Result<(), Error> {
    let opening = client.container_events();
    tokio::pin!(opening);
    // No answer for this long means that the runtime listens and nothing has happened yet.
    let opened = tokio::time::timeout(SILENCE, &mut opening).await;
    let opened = opened.ok().transpose()?;
    // What happened before the stream stood is seen by looking around once.
    connected.set(true);
    let _ = hints.send(Hint::LookAround).await;
    let mut events = match opened {
        Some(events) => events,
        None => opening.await?,
    };
    let broke = |status| Error::from_status("GetContainerEvents", Duration::ZERO, &status);
    while let Some(event) = events.message().await.map_err(broke)? {
        let ends = [
            ContainerEventType::ContainerStoppedEvent,
            ContainerEventType::ContainerDeletedEvent,
        ];
        // What is made or started is made or started by us.
        if !ends.contains(&event.container_event_type()) {
            continue;
        }
        let hint = match event
            .pod_sandbox_status
            .and_then(|s| owner(mark, &s.labels))
        {
            Some(key) => Hint::Changed(key, event.container_id),
            None => continue,
        };
        if hints.send(hint).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
