//! Hints from the runtime's own stream of container events.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tracing::{debug, info};

use crate::cri::v1::ContainerEventType;
use crate::cri::{Client, Error};
use crate::pod::observe::owner;

use super::{Connected, Hint};

/// Wait before a stream that broke is opened again.
const RETRY: Duration = Duration::from_secs(1);
/// Time in which a runtime without events answers that it has none, with time to spare.
const SILENCE: Duration = Duration::from_millis(500);

/// Sends hints from the runtime's container events (CRI `GetContainerEvents`) about Pods with our owner label, for
/// as long as they are received. Ends at once where the runtime has no such events.
pub async fn container_events(
    client: Client,
    owner_label: String,
    hints: Sender<Hint>,
    connected: Connected,
) {
    while !hints.is_closed() {
        match follow(&client, &owner_label, &hints, &connected).await {
            Ok(()) => debug!("Container event stream ended"),
            Err(Error::Unimplemented { .. }) => {
                info!("Container runtime has no container events, relisting instead");
                return;
            }
            Err(error) => debug!(%error, "Container event stream broke"),
        }
        connected.set(false);
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(
    client: &Client,
    owner_label: &str,
    hints: &Sender<Hint>,
    connected: &Connected,
) -> Result<(), Error> {
    let opening = client.container_events();
    tokio::pin!(opening);
    // No answer for this long means that the runtime listens and nothing has happened yet.
    let opened = tokio::time::timeout(SILENCE, &mut opening).await;
    let opened = opened.ok().transpose()?;
    // Events before the stream was open are made up for by a relist.
    connected.set(true);
    let _ = hints.send(Hint::Relist).await;
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
        // Only we create and start.
        if !ends.contains(&event.container_event_type()) {
            continue;
        }
        let hint = match event
            .pod_sandbox_status
            .and_then(|s| owner(owner_label, &s.labels))
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
