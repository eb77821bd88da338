//! Failed requests for mirror Pods: their back-off, and their log messages.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{ApiError, ErrorKind};
use crate::manifest::PodKey;
use crate::units::time::{Later, scaled};

/// The wait before the same is tried again, at first and at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A fault is logged when it happened this often in a row.
const PATIENCE: u32 = 5;

/// Failures by Pod.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    failed: BTreeMap<PodKey, FailedRequest>,
    /// True if the logged failures are those that were last asked for.
    is_unchanged: bool,
}

#[derive(Debug)]
struct FailedRequest {
    kind: ErrorKind,
    message: String,
    /// Failures in a row.
    tries: u32,
    /// The kind of failure that was logged.
    logged: Option<ErrorKind>,
}

/// Response to a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Time of the next try.
    pub(super) at: Instant,
    /// It has to be logged now.
    pub(super) should_log: bool,
}

impl Refusals {
    /// Records that a step for the Pod failed; `chance` from 0 to 1 spreads the waits.
    pub(super) fn failed(
        &mut self,
        key: &PodKey,
        error: &ApiError,
        now: Instant,
        chance: f64,
    ) -> Verdict {
        self.is_unchanged = false;
        let refusal = self.failed.entry(key.clone()).or_insert(FailedRequest {
            kind: error.kind,
            message: String::new(),
            tries: 0,
            logged: None,
        });
        refusal.kind = error.kind;
        refusal.message.clone_from(&error.message);
        refusal.tries = refusal.tries.saturating_add(1);
        let patience = match error.kind {
            ErrorKind::Refused(_) | ErrorKind::NotFound => 1,
            // A mirror Pod that is terminating is no other Pod.
            ErrorKind::AlreadyExists => 2,
            _ => PATIENCE,
        };
        let should_log = refusal.tries >= patience && refusal.logged != Some(error.kind);
        if should_log {
            refusal.logged = Some(error.kind);
        }
        let wait = RETRY
            .saturating_mul(2_u32.saturating_pow(refusal.tries.saturating_sub(1)))
            .min(RETRY_MAX);
        let wait = match error.kind {
            ErrorKind::Busy(after) => wait.max(after),
            _ => wait,
        };
        Verdict {
            at: now.later(scaled(wait, 0.75 + chance / 2.0)),
            should_log,
        }
    }

    /// Records that a step for the Pod succeeded; returns `true` if a failure of it was logged before.
    pub(super) fn succeeded(&mut self, key: &PodKey) -> bool {
        self.remove(key).is_some_and(|r| r.logged.is_some())
    }

    /// Returns the other Pods that are refused what may now be granted, since this Pod no longer is: all that
    /// met the same refusal, for what nobody may; those of its namespace, for what only concerns that.
    pub(super) fn like(&self, key: &PodKey) -> Vec<PodKey> {
        let Some(granted) = self.failed.get(key) else {
            return vec![];
        };
        let alike = |(other, refusal): &(&PodKey, &FailedRequest)| {
            *other != key
                && refusal.kind == granted.kind
                && (refusal.kind != ErrorKind::NotFound || other.namespace == key.namespace)
        };
        let alike = self.failed.iter().filter(alike);
        alike.map(|(other, _)| other.clone()).collect()
    }

    /// Returns the Pods for which a failure was logged, with the server's message, where that may have changed since
    /// this was last asked.
    pub(super) fn changed(&mut self) -> Option<BTreeMap<PodKey, String>> {
        if std::mem::replace(&mut self.is_unchanged, true) {
            return None;
        }
        let logged = self.failed.iter().filter(|(_, r)| r.logged.is_some());
        let logged = logged.map(|(key, r)| (key.clone(), r.message.clone()));
        Some(logged.collect())
    }

    /// The Pods for which something failed.
    pub(super) fn keys(&self) -> impl Iterator<Item = &PodKey> {
        self.failed.keys()
    }

    /// Drops a Pod.
    pub(super) fn forget(&mut self, key: &PodKey) {
        self.remove(key);
    }

    fn remove(&mut self, key: &PodKey) -> Option<FailedRequest> {
        let removed = self.failed.remove(key);
        self.is_unchanged &= removed.is_none();
        removed
    }

    /// Resets the back-off of all Pods: the server was unreachable meanwhile.
    pub(super) fn reset(&mut self) {
        for refusal in self.failed.values_mut() {
            refusal.tries = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> PodKey {
        PodKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn error(kind: ErrorKind) -> ApiError {
        ApiError {
            kind,
            message: "no".into(),
        }
    }

    #[test]
    fn a_refusal_is_said_once_and_tried_again_ever_more_rarely() {
        let now = Instant::now();
        let (mut refusals, key) = (Refusals::default(), key("a", "p"));
        let mut seen = vec![];
        for _ in 0..8 {
            let verdict = refusals.failed(&key, &error(ErrorKind::Refused(403)), now, 0.5);
            seen.push(((verdict.at - now).as_secs(), verdict.should_log));
        }
        let waits: Vec<u64> = seen.iter().map(|(wait, _)| *wait).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seen.iter().filter(|(_, should_log)| *should_log).count(), 1);
        let another = refusals.failed(&key, &error(ErrorKind::Refused(422)), now, 0.5);
        assert!(another.should_log, "another refusal");
        assert!(refusals.succeeded(&key));
        assert!(!refusals.succeeded(&key));
    }

    #[test]
    fn faults_are_said_only_when_they_last() {
        let now = Instant::now();
        let (mut refusals, key) = (Refusals::default(), key("a", "p"));
        let mut said = |kind| -> Vec<bool> {
            refusals.succeeded(&key);
            let mut fail = || refusals.failed(&key, &error(kind), now, 0.5).should_log;
            (0..6).map(|_| fail()).collect()
        };
        let expected = [false, false, false, false, true, false];
        assert_eq!(said(ErrorKind::Fault), expected);
        let expected = [false, true, false, false, false, false];
        assert_eq!(said(ErrorKind::AlreadyExists), expected);
    }

    #[test]
    fn what_one_pod_is_granted_others_may_be_too() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        for (namespace, name, kind) in [
            ("a", "1", ErrorKind::NotFound),
            ("a", "2", ErrorKind::NotFound),
            ("b", "3", ErrorKind::NotFound),
            ("a", "4", ErrorKind::Refused(403)),
            ("b", "5", ErrorKind::Refused(403)),
        ] {
            refusals.failed(&key(namespace, name), &error(kind), now, 0.5);
        }
        assert_eq!(refusals.like(&key("a", "1")), [key("a", "2")]);
        assert_eq!(refusals.like(&key("a", "4")), [key("b", "5")]);
        assert_eq!(refusals.like(&key("c", "9")), []);
    }
}
