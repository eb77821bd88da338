//! What goes wrong in rounds that repeat themselves.

use std::collections::BTreeMap;

/// What went wrong when it was last tried, by what was tried: so that each trouble is told when it
/// begins and when it changes, not every round.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<String, String>);

impl Complaints {
    /// Notes how a try ended; `true` if that is a trouble that was not told yet.
    pub(super) fn is_news(&mut self, subject: &str, trouble: Option<&str>) -> bool {
        let Some(trouble) = trouble else {
            self.0.remove(subject);
            return false;
        };
        let before = self.0.insert(subject.to_owned(), trouble.to_owned());
        before.as_deref() != Some(trouble)
    }

    /// Forgets the troubles of what is not tried any more.
    pub(super) fn keep_only(&mut self, is_tried: impl Fn(&str) -> bool) {
        self.0.retain(|subject, _| is_tried(subject));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_begins_and_when_it_changes() {
        let mut complaints = Complaints::default();
        for (trouble, is_news) in [
            (None, false),
            (Some("full"), true),
            (Some("full"), false),
            (Some("gone"), true),
            (None, false),
            (Some("gone"), true),
        ] {
            assert_eq!(complaints.is_news("disk", trouble), is_news, "{trouble:?}");
        }
        assert!(complaints.is_news("other", Some("gone")));
        complaints.keep_only(|subject| subject == "disk");
        assert!(!complaints.is_news("disk", Some("gone")));
        assert!(complaints.is_news("other", Some("gone")));
    }
}
