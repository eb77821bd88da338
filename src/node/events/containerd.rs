//! Hints from containerd's own events, for versions whose CRI has none (1.6).
//!
//! containerd publishes the end of a process before its CRI plugin has recorded it, so that the container is
//! asked for until it has. An event names neither Pod nor labels; the container's status has both.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prost::Message;

use crate::cri::containerd_events::{Envelope, TaskExit};
use crate::cri::v1::{
    ContainerState, ContainerStatusRequest, PodSandboxState, PodSandboxStatusRequest,
};
use crate::cri::{Client, Error, if_found};
use crate::pod::observe::owner;

use super::{Follower, Hint};

/// Waits between two looks at a container whose end the CRI plugin has not recorded: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(200);
/// Looks at a container before its end is left to the next relist: 3 s in all.
const LOOKS: u32 = 20;
/// Containers that are asked for at a time. Of more a relist costs less.
const MOST: usize = 32;

impl Follower {
    /// Sends hints from the ends of containers' first processes until their stream ends.
    ///
    /// # Errors
    /// [`Error::Unimplemented`] at once where the runtime is not containerd.
    pub(super) async fn task_exits(&self) -> Result<(), Error> {
        let mut events = self.opened(self.client.task_exits()).await?;
        let mut exits = FuturesUnordered::new();
        let broke = |status| Error::from_status("Subscribe", Duration::ZERO, &status);
        loop {
            let hint = tokio::select! {
                event = events.message() => match event.map_err(broke)? {
                    None => return Ok(()),
                    Some(event) => match ended_container(&event) {
                        None => continue,
                        Some(_) if exits.len() >= MOST => Hint::Relist,
                        Some(id) => {
                            exits.push(recorded_exit(&self.client, &self.owner_label, id));
                            continue;
                        }
                    }
                },
                Some(hint) = exits.next() => match hint {
                    None => continue,
                    Some(hint) => hint,
                }
            };
            if self.hints.send(hint).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Returns the ID of the container or sandbox whose first process ended, where an event is about that: commands
/// that are executed in a container have IDs of their own.
fn ended_container(event: &Envelope) -> Option<String> {
    let event = event.event.as_ref()?;
    if !event.type_url.ends_with("TaskExit") {
        return None;
    }
    let exit = TaskExit::decode(event.value.as_slice()).ok()?;
    (exit.id == exit.container_id).then_some(exit.container_id)
}

/// Waits until the CRI plugin has recorded that a container or sandbox ended. Gives the hint, or nothing where it is
/// not of a Pod with our owner label.
async fn recorded_exit(client: &Client, owner_label: &str, id: String) -> Option<Hint> {
    let mut wait = FIRST_WAIT;
    for _ in 0..LOOKS {
        match ended(client, &id).await {
            Ok(Some((labels, has_ended))) => {
                let key = owner(owner_label, &labels)?;
                if has_ended {
                    return Some(Hint::Changed(key, id));
                }
            }
            // Whoever removed it, a relist finds out if that concerns a Pod of ours.
            Ok(None) | Err(_) => return Some(Hint::Relist),
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(LONGEST_WAIT);
    }
    Some(Hint::Relist)
}

type Labels = std::collections::HashMap<String, String>;

/// Returns the labels of a container or sandbox and if it has ended, where the runtime has it.
async fn ended(client: &Client, id: &str) -> Result<Option<(Labels, bool)>, Error> {
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let answer = if_found(client.container_status(request).await)?;
    if let Some(status) = answer.and_then(|answer| answer.status) {
        let has_ended = status.state() != ContainerState::ContainerRunning;
        return Ok(Some((status.labels, has_ended)));
    }
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: false,
    };
    let answer = if_found(client.pod_sandbox_status(request).await)?;
    let status = answer.and_then(|answer| answer.status);
    Ok(status.map(|status| {
        let has_ended = status.state() != PodSandboxState::SandboxReady;
        (status.labels, has_ended)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::containerd_events::Any;

    #[test]
    fn only_the_end_of_a_first_process_is_the_end_of_a_container() {
        let event = |type_url: &str, container_id: &str, id: &str| {
            let exit = TaskExit {
                container_id: container_id.to_owned(),
                id: id.to_owned(),
            };
            Envelope {
                event: Some(Any {
                    type_url: type_url.to_owned(),
                    value: exit.encode_to_vec(),
                }),
                ..Envelope::default()
            }
        };
        let exit = "containerd.events.TaskExit";
        let of = |event: &Envelope| ended_container(event);
        assert_eq!(of(&event(exit, "c1", "c1")).as_deref(), Some("c1"));
        assert_eq!(of(&event(exit, "c1", "e7")), None);
        assert_eq!(of(&event("containerd.events.TaskStart", "c1", "c1")), None);
        assert_eq!(of(&Envelope::default()), None);
        let mut torn = event(exit, "c1", "c1");
        torn.event.as_mut().unwrap().value.truncate(3);
        assert_eq!(of(&torn), None);
    }
}
