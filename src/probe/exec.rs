//! The probe that runs a command in the container.
//!
//! A runtime answers once everything that holds the command's output has ended, which for a child that
//! the command left behind may be never. A round is decided at the probe's timeout all the same. The call
//! stays open until it ends or is abandoned, and until then no other is made: so no two commands of a
//! probe run at a time, and the processes that they leave in the container are few.

use std::time::Duration;

use k8s_openapi::api::core::v1::ExecAction;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{ProbeOutcome, ProbeTarget, start_of};
use crate::cri::Error;
use crate::cri::v1::{ExecSyncResponse, VersionRequest};
use crate::units::time::Later;

/// Extra time before a probe times out by itself: the runtime's own time-out is reported first where it has
/// one.
const SLACK: Duration = Duration::from_millis(200);
/// Time that a call stays open after its probe. Doubled after each abandoned call in a row, since each may
/// have left a process.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_PATIENCE: Duration = Duration::from_secs(3600);
/// Time within which a runtime that is not stuck responds.
const ALIVE: Duration = Duration::from_secs(2);

/// The call of a probe that its round did not see the end of. It ends with its owner.
#[derive(Debug, Default)]
pub(super) struct OpenCall(Mutex<CallState>);

#[derive(Debug, Default)]
struct CallState {
    /// One at most.
    call: JoinSet<Result<ExecSyncResponse, Error>>,
    /// Time at which the call is abandoned.
    until: Option<Instant>,
    /// Calls in a row that were abandoned.
    given_up: u32,
    /// The runtime answered nothing when the last round was over.
    is_silent: bool,
}

impl CallState {
    /// The end of the call, if it comes within `limit`; at once where there is no call.
    async fn end(&mut self, limit: Duration) -> Option<Option<Result<ExecSyncResponse, Error>>> {
        let ended = timeout(limit, self.call.join_next()).await.ok()?;
        let is_late = self.until.is_some_and(|until| Instant::now() >= until);
        match &ended {
            Some(Ok(Err(Error::Deadline { .. }))) if is_late => {
                self.given_up = self.given_up.saturating_add(1);
            }
            Some(_) => self.given_up = 0,
            None => {}
        }
        self.is_silent &= ended.is_none();
        Some(ended.map(|joined| match joined {
            Ok(answer) => answer,
            // A panic of the call's is the probe's.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(Error::Failed {
                    method: "ExecSync",
                    code: tonic::Code::Internal,
                    message: error.to_string(),
                }),
            },
        }))
    }

    /// Outcome of a round whose call was not answered in time. A runtime that answers nothing at all says
    /// nothing about the container: a healthy one is not restarted for that, and the call is abandoned.
    async fn unanswered(
        &mut self,
        target: &ProbeTarget,
        command: &[String],
        limit: Duration,
    ) -> ProbeOutcome {
        let asked = target.client.version(VersionRequest::default());
        let answered = timeout(ALIVE, asked).await;
        let was_silent = std::mem::replace(&mut self.is_silent, !matches!(answered, Ok(Ok(_))));
        let error = match answered {
            Ok(Ok(_)) if !was_silent => return timed_out(command, limit),
            // What it was asked while it was stuck may never be answered.
            Ok(Ok(_)) => "the container runtime did not answer until now".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the container runtime does not answer".to_owned(),
        };
        self.call = JoinSet::new();
        ProbeOutcome::Error(error)
    }

    /// Time limit of a call after its probe.
    fn patience(&self) -> Duration {
        let times = 2_u32.saturating_pow(self.given_up);
        PATIENCE.saturating_mul(times).min(MAX_PATIENCE)
    }
}

/// Probes a command: succeeds if it ends with exit code 0 within `limit`; if the runtime cannot run it, that
/// is no failure. While the call of an earlier probe is open, the command is not run, and the probe times
/// out.
pub(super) async fn probe(
    target: &ProbeTarget,
    action: &ExecAction,
    limit: Duration,
    open: &OpenCall,
) -> ProbeOutcome {
    let mut state = open.0.lock().await;
    let command = action.command.clone().unwrap_or_default();
    let wait = limit.saturating_add(SLACK);
    if state.end(wait).await.is_none() {
        return state.unanswered(target, &command, limit).await;
    }
    let deadline = limit.saturating_add(state.patience());
    let (client, id, words) = (
        target.client.clone(),
        target.container_id.clone(),
        command.clone(),
    );
    state.until = Some(Instant::now().later(deadline));
    state.call.spawn(async move {
        let call = client.exec_sync_within(&id, &words, limit, deadline);
        call.await
    });
    match state.end(wait).await {
        Some(Some(Ok(done))) if done.exit_code == 0 => ProbeOutcome::Success,
        Some(Some(Ok(done))) => {
            let output = [done.stdout, done.stderr].concat();
            ProbeOutcome::Failure(start_of(&output))
        }
        None => state.unanswered(target, &command, limit).await,
        Some(Some(Err(Error::Deadline { .. }))) => timed_out(&command, limit),
        Some(Some(Err(error))) => ProbeOutcome::Error(error.to_string()),
        Some(None) => ProbeOutcome::Error("the command was not run".to_owned()),
    }
}

fn timed_out(command: &[String], limit: Duration) -> ProbeOutcome {
    ProbeOutcome::Failure(format!(
        "command timed out: {:?} timed out after {}s",
        command.join(" "),
        limit.as_secs()
    ))
}
