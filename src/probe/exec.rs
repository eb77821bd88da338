//! The probe that runs a command in the container.

use std::time::Duration;

use k8s_openapi::api::core::v1::ExecAction;

use super::{Outcome, Target, start_of};
use crate::cri::Error;

/// Whether the command ends with exit code 0. The runtime kills it after `limit`, which is a failure;
/// that the runtime cannot run it is none.
pub(super) async fn probe(target: &Target, action: &ExecAction, limit: Duration) -> Outcome {
    let command = action.command.as_deref().unwrap_or_default();
    let done = target
        .client
        .exec_sync(&target.container_id, command, limit);
    match done.await {
        Ok(done) if done.exit_code == 0 => Outcome::Success,
        Ok(done) => {
            let output = [done.stdout, done.stderr].concat();
            Outcome::Failure(start_of(&output))
        }
        Err(Error::Deadline { .. }) => Outcome::Failure(format!(
            "command timed out: {:?} timed out after {}s",
            command.join(" "),
            limit.as_secs()
        )),
        Err(error) => Outcome::Error(error.to_string()),
    }
}
