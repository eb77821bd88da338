//! Problems of operations that are tried again and again.
//!
//! A problem is logged when it begins and when it changes, and every ten minutes for as long as it lasts, but
//! not at every try.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// A problem that lasts is logged again after this time.
const REPEAT: Duration = Duration::from_secs(600);

/// Problem of each subject at its last try.
#[derive(Debug, Default)]
pub(crate) struct LogOnce(BTreeMap<String, LoggedProblem>);

#[derive(Debug)]
struct LoggedProblem {
    text: String,
    logged: Instant,
}

impl LogOnce {
    /// Records the outcome of a try; returns `true` if it is a problem that has to be logged now.
    pub(crate) fn should_log(&mut self, subject: &str, problem: Option<&str>) -> bool {
        let Some(text) = problem else {
            self.0.remove(subject);
            return false;
        };
        let now = Instant::now();
        let known = self.0.get(subject);
        let is_logged =
            |known: &LoggedProblem| known.text == text && now.duration_since(known.logged) < REPEAT;
        if known.is_some_and(is_logged) {
            return false;
        }
        let problem = LoggedProblem {
            text: text.to_owned(),
            logged: now,
        };
        self.0.insert(subject.to_owned(), problem);
        true
    }

    /// Records the outcome of a try; returns the text of its error if that has to be logged now.
    pub(crate) fn record<T, E: Display>(
        &mut self,
        subject: &str,
        outcome: &Result<T, E>,
    ) -> Option<String> {
        let error = outcome.as_ref().err().map(|error| format!("{error:#}"));
        self.should_log(subject, error.as_deref())
            .then_some(error)
            .flatten()
    }

    /// Records a try without a problem; returns `true` if there was one before.
    pub(crate) fn resolve(&mut self, subject: &str) -> bool {
        self.0.remove(subject).is_some()
    }

    /// Forgets the problems of subjects that are no longer tried.
    pub(crate) fn retain(&mut self, is_tried: impl Fn(&str) -> bool) {
        self.0.retain(|subject, _| is_tried(subject));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_problem_is_logged_when_it_begins_when_it_changes_and_now_and_then() {
        let mut problems = LogOnce::default();
        for (problem, should_log) in [
            (None, false),
            (Some("full"), true),
            (Some("full"), false),
            (Some("gone"), true),
            (None, false),
            (Some("gone"), true),
        ] {
            assert_eq!(
                problems.should_log("disk", problem),
                should_log,
                "{problem:?}"
            );
        }
        assert!(problems.should_log("other", Some("gone")));
        problems.retain(|subject| subject == "disk");
        assert!(!problems.should_log("disk", Some("gone")));
        assert!(problems.should_log("other", Some("gone")));
        assert!(problems.resolve("other"));
        assert!(!problems.resolve("other"));
        let failed: Result<(), &str> = Err("full");
        assert_eq!(problems.record("write", &failed).as_deref(), Some("full"));
        assert_eq!(problems.record("write", &failed), None);
        assert_eq!(problems.record("write", &Ok::<(), &str>(())), None);
        assert!(!problems.resolve("write"));
        let mut logged = 0;
        for _ in 0..3600 {
            tokio::time::advance(Duration::from_secs(1)).await;
            logged += u32::from(problems.should_log("disk", Some("gone")));
        }
        assert_eq!(logged, 6);
    }
}
