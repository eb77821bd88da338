//! Hints from the runtime's own stream of container events (CRI `GetContainerEvents`).

use std::time::Duration;

use crate::cri::Error;
use crate::cri::v1::ContainerEventType;
use crate::pod::observe::owner;

use super::{Follower, Hint};

impl Follower {
    /// Sends hints from the runtime's container events until their stream ends.
    ///
    /// # Errors
    /// [`Error::Unimplemented`] at once where the runtime has no such events.
    pub(super) async fn container_events(&self) -> Result<(), Error> {
        let mut events = self.opened(self.client.container_events()).await?;
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
            let status = event.pod_sandbox_status;
            let Some(key) = status.and_then(|s| owner(&self.owner_label, &s.labels)) else {
                continue;
            };
            let hint = Hint::Changed(key, event.container_id);
            if self.hints.send(hint).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
