//! Names that the runtime holds for a sandbox or a container that it does not have: what a call left that
//! ran into its deadline. containerd gives such a name back only when it restarts, so the next attempt, which
//! has another name, is made in its place. Nothing here is kept over restarts of the agent: the next one
//! finds the same.

use super::PodTask;
use crate::cri::capabilities::name_holder;
use crate::cri::{Client, Error, if_found, v1};
use crate::pod::plan::{Outcome, Step};
use crate::pod::state::Subject;

impl PodTask {
    /// Passes over an attempt whose name is reserved for something that the runtime does not know.
    pub(super) async fn pass_reserved_name(
        &mut self,
        step: &Step,
        subject: &Subject,
        error: &Error,
    ) {
        let message = error.message();
        let Some(id) = name_holder(&message) else {
            return;
        };
        let client = self.context.client.clone();
        let there = exists(&client, subject, id);
        if let Ok(Ok(false)) = self.part(subject, there).await {
            self.outcome(step, Outcome::NameReserved);
        }
    }
}

/// Returns true if the runtime has a sandbox or a container with this ID.
pub(super) async fn exists(client: &Client, subject: &Subject, id: &str) -> Result<bool, Error> {
    if let Subject::Sandbox(_) = subject {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        return Ok(if_found(client.pod_sandbox_status(request).await)?.is_some());
    }
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    Ok(if_found(client.container_status(request).await)?.is_some())
}
