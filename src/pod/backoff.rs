//! How long to wait before trying again: Kubernetes' rule for containers that keep stopping and for
//! images that cannot be had (Pod lifecycle, "How Pods handle problems with containers"): 10 s,
//! doubled each time, at most 5 minutes, forgotten after 10 minutes of running.

use std::time::Duration;

/// The first wait.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait.
pub const MAXIMUM: Duration = Duration::from_secs(300);
/// A container that ran this long starts from nothing again.
pub const RESET_AFTER: Duration = Duration::from_secs(600);

/// The wait before a container is started again. `previous` is the wait that came before the run
/// that just ended (`None`: it was the first), `ran` how long that run was, `longest` the longest wait.
/// The first restart comes at once.
#[must_use]
pub fn restart_delay(previous: Option<Duration>, ran: Duration, longest: Duration) -> Duration {
    match previous {
        None => Duration::ZERO,
        Some(_) if ran >= RESET_AFTER => Duration::ZERO,
        Some(previous) => next(previous).min(longest),
    }
}

/// The wait after one more failure in a row; `previous` is zero before the first.
#[must_use]
pub fn next(previous: Duration) -> Duration {
    (previous * 2).clamp(INITIAL, MAXIMUM)
}

/// The wait before a step that the runtime failed is tried again: short at first, because most such
/// failures pass quickly. `tries` counts the failures in a row, from 1.
#[must_use]
pub fn step_delay(tries: u32) -> Duration {
    Duration::from_millis(500 << tries.clamp(1, 16)).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_container_that_keeps_stopping_waits_0_10_20_and_so_on_to_300_seconds() {
        let mut waits = vec![];
        let mut previous = None;
        for _ in 0..8 {
            let delay = restart_delay(previous, secs(1), MAXIMUM);
            waits.push(delay.as_secs());
            previous = Some(delay);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_are_a_new_start() {
        let delay = |ran| restart_delay(Some(secs(300)), secs(ran), MAXIMUM);
        assert_eq!(delay(599), secs(300));
        assert_eq!(delay(600), secs(0));
    }

    #[test]
    fn the_longest_wait_can_be_set() {
        for (longest, previous, delay) in [(30, 20, 30), (30, 30, 30), (1, 0, 1), (300, 0, 10)] {
            let found = restart_delay(Some(secs(previous)), secs(1), secs(longest));
            assert_eq!(found, secs(delay), "{longest} {previous}");
        }
    }

    #[test]
    fn a_failed_step_is_tried_again_soon_and_then_ever_more_rarely() {
        let waits: Vec<u64> = (1..9).map(|n| step_delay(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(step_delay(u32::MAX), secs(60));
    }
}
