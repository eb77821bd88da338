//! Wait before another try: Kubernetes' rule for containers that keep stopping and for
//! images that cannot be had (Pod lifecycle, "How Pods handle problems with containers"): 10 s,
//! doubled each time, at most 5 minutes, forgotten after 10 minutes of running.

use std::time::Duration;

/// The first wait.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait.
pub const MAXIMUM: Duration = Duration::from_secs(300);
/// A container that ran this long starts from nothing again.
pub const RESET_AFTER: Duration = Duration::from_secs(600);

/// Decision about one restart of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartBackoff {
    /// Time between the end of the last instance and the start of the next.
    pub wait: Duration,
    /// Value that the next instance carries in its annotation: the back-off period that this restart used
    /// up, `None` while the back-off has not begun. The period of the restart after it is worked out from
    /// that.
    pub recorded: Option<Duration>,
}

/// Returns the back-off of a container that ended by itself. `recorded` is what the instance carries, `ran`
/// how long it ran, `longest` the longest period. The first restart comes at once.
#[must_use]
pub fn after_exit(recorded: Option<Duration>, ran: Duration, longest: Duration) -> RestartBackoff {
    match period(recorded, ran, longest) {
        None => RestartBackoff {
            wait: Duration::ZERO,
            recorded: Some(Duration::ZERO),
        },
        Some(period) => RestartBackoff {
            wait: period,
            recorded: Some(period),
        },
    }
}

/// Returns the back-off of a container that was stopped because of a failed probe. The kubelet decides on
/// that restart with the status from before the stop: it counts the period from the end of the instance
/// before, and without one the back-off does not even begin. `since_last_exit` is the time between the two
/// ends, `None` where there was no instance before.
#[must_use]
pub fn after_probe_failure(
    recorded: Option<Duration>,
    ran: Duration,
    since_last_exit: Option<Duration>,
    longest: Duration,
) -> RestartBackoff {
    let wait = Duration::ZERO;
    let period = period(recorded, ran, longest);
    match (since_last_exit, period) {
        (None, period) => RestartBackoff {
            wait,
            recorded: recorded.filter(|_| period.is_some()),
        },
        (Some(since), Some(period)) if since >= period => RestartBackoff {
            wait,
            recorded: Some(period),
        },
        (Some(_), _) => after_exit(recorded, ran, longest),
    }
}

/// Returns the back-off period that is in force after a run of this length, if any is.
fn period(recorded: Option<Duration>, ran: Duration, longest: Duration) -> Option<Duration> {
    let recorded = recorded.filter(|_| ran < RESET_AFTER)?;
    Some(next(recorded).min(longest))
}

/// The wait after one more failure in a row; `previous` is zero before the first.
#[must_use]
pub fn next(previous: Duration) -> Duration {
    previous.saturating_mul(2).clamp(INITIAL, MAXIMUM)
}

/// The longest wait before a step that failed.
pub const STEP_MAXIMUM: Duration = Duration::from_secs(60);
/// The same for what a Pod needs before its containers, its sandbox and its volumes: the kubelet tries again
/// after 10 to 15 s.
pub const SANDBOX_MAXIMUM: Duration = Duration::from_secs(15);

/// The wait before a step that the runtime failed is tried again: short at first, because most such
/// failures pass quickly. `tries` counts the failures in a row, from 1; `longest` is the longest wait.
#[must_use]
pub fn step_delay(tries: u32, longest: Duration) -> Duration {
    Duration::from_millis(500 << tries.clamp(1, 16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Starts of a container, in seconds, by the rule of this back-off: each instance runs for `ran`.
    fn starts(
        count: usize,
        ran: u64,
        decide: impl Fn(Option<Duration>, Option<Duration>) -> RestartBackoff,
    ) -> Vec<u64> {
        let (mut recorded, mut last_end, mut now) = (None, None, secs(0));
        let mut starts = vec![];
        for _ in 0..count {
            starts.push(now.as_secs());
            let end = now + secs(ran);
            let decision = decide(recorded, last_end.map(|last| end.saturating_sub(last)));
            (recorded, last_end) = (decision.recorded, Some(end));
            now = end + decision.wait;
        }
        starts
    }

    #[test]
    fn a_container_that_keeps_stopping_waits_0_10_20_and_so_on_to_300_seconds() {
        let mut waits = vec![];
        let mut recorded = None;
        for _ in 0..8 {
            let decision = after_exit(recorded, secs(1), MAXIMUM);
            waits.push(decision.wait.as_secs());
            recorded = decision.recorded;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn restarts_after_probe_failures_are_those_of_the_kubelet() {
        // Observed with the kubelet where the probe fails after 15 s: 0, 15, 30, 45, 82.
        let table: [(u64, &[u64]); 4] = [
            (15, &[0, 15, 30, 45, 80, 135, 230]),
            // The period before counts from the end of the instance before, waits included.
            (10, &[0, 10, 20, 30, 60, 110, 200, 370, 680]),
            (5, &[0, 5, 10, 25, 50, 95, 180]),
            // Each instance runs for longer than any period.
            (301, &[0, 301, 602, 903, 1204, 1505, 1806, 2107]),
        ];
        for (ran, expected) in table {
            let found = starts(expected.len(), ran, |recorded, since| {
                after_probe_failure(recorded, secs(ran), since, MAXIMUM)
            });
            assert_eq!(found, expected, "{ran}");
        }
    }

    #[test]
    fn a_probe_failure_after_an_exit_goes_on_with_its_back_off() {
        let decide = |recorded, ran, since| {
            let since = Some(secs(since));
            let found = after_probe_failure(Some(secs(recorded)), secs(ran), since, MAXIMUM);
            (found.wait.as_secs(), found.recorded.unwrap().as_secs())
        };
        assert_eq!(decide(0, 9, 9), (10, 10), "not yet out of the period");
        assert_eq!(decide(0, 9, 10), (0, 10), "the wait before counts");
        assert_eq!(decide(20, 30, 39), (40, 40));
        assert_eq!(decide(300, 1, 301), (0, 300));
        assert_eq!(decide(300, 600, 900), (0, 0), "ten minutes end it");
        let first = after_probe_failure(None, secs(5), None, MAXIMUM);
        assert_eq!((first.wait, first.recorded), (secs(0), None));
    }

    #[test]
    fn ten_minutes_of_running_are_a_new_start() {
        let delay = |ran| after_exit(Some(secs(300)), secs(ran), MAXIMUM).wait;
        assert_eq!(delay(599), secs(300));
        assert_eq!(delay(600), secs(0));
    }

    #[test]
    fn the_longest_wait_can_be_set() {
        for (longest, previous, delay) in [(30, 20, 30), (30, 30, 30), (1, 0, 1), (300, 0, 10)] {
            let found = after_exit(Some(secs(previous)), secs(1), secs(longest));
            assert_eq!(found.wait, secs(delay), "{longest} {previous}");
        }
    }

    #[test]
    fn a_failed_step_is_tried_again_soon_and_a_sandbox_never_later_than_by_the_kubelet() {
        for (longest, expected) in [
            (STEP_MAXIMUM, [1, 2, 4, 8, 16, 32, 60, 60]),
            (SANDBOX_MAXIMUM, [1, 2, 4, 8, 15, 15, 15, 15]),
        ] {
            let waits: Vec<u64> = (1..9).map(|n| step_delay(n, longest).as_secs()).collect();
            assert_eq!(waits, expected);
            assert_eq!(step_delay(u32::MAX, longest), longest);
        }
    }
}
