//! Problems of what is tried again and again: each is logged when it begins and when it changes, and now
//! and then for as long as it lasts, but not at every try.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A problem that lasts is logged again after this time.
const REPEAT: Duration = Duration::from_secs(600);

/// Problem that each subject had when it was last tried.
#[derive(Debug, Default)]
pub(crate) struct Complaints(BTreeMap<String, Problem>);

#[derive(Debug)]
struct Problem {
    text: String,
    logged: Instant,
}

impl Complaints {
    /// Takes in how a try ended; `true` if that is a problem that is to be logged now.
    pub(crate) fn is_news(&mut self, subject: &str, problem: Option<&str>) -> bool {
        let Some(text) = problem else {
            self.0.remove(subject);
            return false;
        };
        let now = Instant::now();
        let known = self.0.get(subject);
        let is_told =
            |known: &Problem| known.text == text && now.duration_since(known.logged) < REPEAT;
        if known.is_some_and(is_told) {
            return false;
        }
        let problem = Problem {
            text: text.to_owned(),
            logged: now,
        };
        self.0.insert(subject.to_owned(), problem);
        true
    }

    /// Forgets the problems of what is not tried any more.
    pub(crate) fn keep_only(&mut self, is_tried: impl Fn(&str) -> bool) {
        self.0.retain(|subject, _| is_tried(subject));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_problem_is_logged_when_it_begins_when_it_changes_and_now_and_then() {
        let mut complaints = Complaints::default();
        for (problem, is_news) in [
            (None, false),
            (Some("full"), true),
            (Some("full"), false),
            (Some("gone"), true),
            (None, false),
            (Some("gone"), true),
        ] {
            assert_eq!(complaints.is_news("disk", problem), is_news, "{problem:?}");
        }
        assert!(complaints.is_news("other", Some("gone")));
        complaints.keep_only(|subject| subject == "disk");
        assert!(!complaints.is_news("disk", Some("gone")));
        assert!(complaints.is_news("other", Some("gone")));
        let mut logged = 0;
        for _ in 0..3600 {
            tokio::time::advance(Duration::from_secs(1)).await;
            logged += u32::from(complaints.is_news("disk", Some("gone")));
        }
        assert_eq!(logged, 6);
    }
}
