//! Steps that are under way for one Pod, with their start: for people alone, nothing is decided by it.
//!
//! Whoever executes a step records it here, in the Pod's task or beside it, and a record ends with what
//! it is about, however that ends: finished, failed or dropped. It is read when somebody asks, so that
//! a call that takes long is shown while it does.

use crate::manifest::Uid;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// A step that is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The CRI method, or another name for what is done: `RunPodSandbox`, `PrepareVolumes`.
    pub name: String,
    /// The UID of the version that it is for.
    pub uid: String,
    /// The container that it is for; empty for the Pod as a whole.
    pub container: String,
    /// Time of its start, RFC 3339.
    pub since: String,
}

/// The steps that are under way for one Pod. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Steps>>);

#[derive(Debug, Default)]
struct Steps {
    next: u64,
    /// In the order in which they began.
    under_way: Vec<(u64, StepReport)>,
}

/// Steps are compared when they are read: they come and go without a change of anything else.
impl PartialEq for Progress {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Progress {
    /// Records a step that begins now, `nanos` since the epoch. It is under way until what this returns
    /// is dropped.
    #[must_use]
    pub fn begin(&self, uid: &Uid, container: Option<&str>, name: &str, nanos: i64) -> UnderWay {
        let step = StepReport {
            name: name.to_owned(),
            uid: uid.to_string(),
            container: container.unwrap_or_default().to_owned(),
            since: rfc3339(nanos),
        };
        let mut steps = self.lock();
        let number = steps.next;
        steps.next = number.wrapping_add(1);
        steps.under_way.push((number, step));
        drop(steps);
        UnderWay {
            progress: self.clone(),
            number,
        }
    }

    /// The steps that are under way, in the order in which they began.
    #[must_use]
    pub fn steps(&self) -> Vec<StepReport> {
        let steps = self.lock();
        steps
            .under_way
            .iter()
            .map(|(_, step)| step.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        // Each change is one push or removal, so a panic elsewhere leaves the list whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step, for as long as it is under way.
#[derive(Debug)]
pub struct UnderWay {
    progress: Progress,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut steps = self.progress.lock();
        steps.under_way.retain(|(number, _)| *number != self.number);
        if steps.under_way.is_empty() {
            // Most of the time there is none.
            steps.under_way = vec![];
        }
    }
}

/// A time in nanoseconds since the epoch as RFC 3339 in whole seconds; empty for one that is none.
#[must_use]
pub(in crate::pod) fn rfc3339(nanos: i64) -> String {
    let time = jiff::Timestamp::from_second(nanos.div_euclid(1_000_000_000));
    time.map_or_else(|_| String::new(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_under_way_until_it_is_dropped() {
        let progress = Progress::default();
        let seen = || -> Vec<String> {
            let steps = progress.steps().into_iter();
            steps
                .map(|step| format!("{} {} {}", step.name, step.container, step.since))
                .collect()
        };
        let pull = progress.begin(
            &"u".into(),
            Some("c"),
            "PullImage",
            1_767_225_600_999_999_999,
        );
        let call = progress.clone().begin(
            &"u".into(),
            None,
            "RunPodSandbox",
            1_767_225_660_000_000_000,
        );
        assert_eq!(
            seen(),
            [
                "PullImage c 2026-01-01T00:00:00Z",
                "RunPodSandbox  2026-01-01T00:01:00Z"
            ]
        );
        drop(pull);
        assert_eq!(seen(), ["RunPodSandbox  2026-01-01T00:01:00Z"]);
        drop(call);
        assert!(progress.steps().is_empty());
    }
}
