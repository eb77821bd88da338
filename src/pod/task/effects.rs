//! Steps that succeed and change nothing. A step that succeeded is never the next one again while what it
//! brought about lasts: where the planner names it once more shortly after, the runtime reported success
//! and has the same as before. Such a step has failed, and backs off as any other that failed.

use std::time::Duration;

use crate::manifest::Uid;
use crate::pod::plan::Step;
use crate::pod::state::observed::{Container, State};
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{PodState, Subject, View};

/// A step that comes again later than this is not a repetition: what it brought about has lasted. Longer
/// than the longest back-off of a step and the interval of relists.
const WINDOW: Duration = Duration::from_secs(120);

/// Steps that succeeded a short while ago.
#[derive(Debug, Clone, Default)]
pub(super) struct Effects {
    done: Vec<Success>,
}

/// A step that succeeded.
#[derive(Debug, Clone)]
pub(super) struct Success {
    step: Step,
    at: MonotonicTime,
    /// True if it has not been the next one since.
    is_trusted: bool,
    /// True if it ever was the next one again.
    is_repeated: bool,
}

impl Effects {
    /// Records a step that succeeded. Returns true if its success counts, which it does not where the step
    /// had no effect the last time.
    pub(super) fn succeeded(&mut self, step: &Step, now: MonotonicTime) -> bool {
        self.done.retain(|done| now.since(done.at) < WINDOW);
        if let Some(done) = self.done.iter_mut().find(|done| done.step == *step) {
            (done.at, done.is_trusted) = (now, true);
            return !done.is_repeated;
        }
        if method(step).is_some() {
            self.done.push(Success {
                step: step.clone(),
                at: now,
                is_trusted: true,
                is_repeated: false,
            });
        }
        true
    }

    /// Forgets the stops of a version that is gone, or starts again.
    pub(super) fn forget(&mut self, version: &Uid) {
        self.done.retain(|done| match &done.step {
            Step::Terminate { uid } | Step::StopContainers { uid, .. } => uid != version,
            _ => true,
        });
    }

    /// Returns the reason and message of the failure where a step is the next one again that succeeded a
    /// short while ago; only once for each success.
    pub(super) fn take_repeated(
        &mut self,
        step: &Step,
        now: MonotonicTime,
    ) -> Option<(&'static str, String)> {
        let mut recent = self.done.iter_mut().filter(|d| now.since(d.at) < WINDOW);
        let done = recent.find(|done| done.step == *step && done.is_trusted)?;
        (done.is_trusted, done.is_repeated) = (false, true);
        let reason = step.reason()?;
        let method = method(step)?;
        let message = format!(
            "{method} succeeded, but the container runtime reports the same state as before"
        );
        Some((reason, message))
    }
}

/// Returns the CRI method of a step that ends or removes something in the runtime.
fn method(step: &Step) -> Option<&'static str> {
    match step {
        Step::Terminate { .. } | Step::StopContainers { .. } => Some("StopContainer"),
        Step::StopSandbox { .. } => Some("StopPodSandbox"),
        Step::RemoveSandbox { .. } => Some("RemovePodSandbox"),
        Step::RemoveContainer { .. } => Some("RemoveContainer"),
        // What starts is inspected right after, and counts as failed where it does not run.
        Step::RunSandbox { .. }
        | Step::RunContainer { .. }
        | Step::StartContainer { .. }
        | Step::Admit { .. }
        | Step::EnsureImage { .. }
        | Step::CheckVolumes { .. }
        | Step::TakeTurn { .. }
        | Step::TakeOverKubeletPod { .. }
        | Step::RestartAll { .. }
        | Step::Fail { .. }
        | Step::CleanUp { .. }
        | Step::StartAgain { .. } => None,
    }
}

/// Returns the failures that what is there contradicts: the sandbox is ready after all, the container runs,
/// the containers have stopped.
pub(super) fn outdated(view: View<'_>) -> Vec<Subject> {
    let (observed, PodState { failures, .. }) = (view.observed, view.state);
    let is_outdated = |subject: &Subject| match subject {
        Subject::Sandbox(uid) => observed.ready_sandbox(uid).is_some(),
        Subject::Container(uid, name) => {
            let newest = observed.history_of(uid, name).into_iter().next();
            newest.is_some_and(|c| matches!(c.state, State::Running { .. }))
        }
        Subject::Stop(uid) => !observed.containers_of(uid).any(Container::is_live),
        Subject::KubeletPod
        | Subject::Volumes(_)
        | Subject::RemoveContainer(_)
        | Subject::RemoveSandbox(_)
        | Subject::CleanUp(_)
        | Subject::Turn(_) => false,
    };
    failures
        .keys()
        .filter(|s| is_outdated(s))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_comes_again_at_once_has_changed_nothing() {
        let step = || Step::StopSandbox { id: "s".into() };
        let mut effects = Effects::default();
        let at = |seconds: u64| MonotonicTime(0).after(Duration::from_secs(seconds));
        assert_eq!(effects.take_repeated(&step(), at(0)), None);
        assert!(effects.succeeded(&step(), at(0)));
        let other = Step::StopSandbox { id: "t".into() };
        assert_eq!(effects.take_repeated(&other, at(1)), None);
        let (reason, message) = effects.take_repeated(&step(), at(1)).unwrap();
        assert_eq!(reason, "FailedKillPod");
        assert!(
            message.starts_with("StopPodSandbox succeeded, but"),
            "{message}"
        );
        assert_eq!(effects.take_repeated(&step(), at(1)), None, "taken once");
        effects.succeeded(&step(), at(2));
        assert_eq!(
            effects.take_repeated(&step(), at(122)),
            None,
            "it has lasted"
        );
    }
}
