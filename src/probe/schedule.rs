//! Schedule of a probe. Pure; every time is counted from the container's start.
//!
//! Rounds are anchored at the start of the container, not of the agent: a period after it (or
//! `initialDelaySeconds`, if that is longer), and then every `periodSeconds`. So probes are spread as
//! their containers' starts were, a new agent goes on where the last one was, and a container has
//! `failureThreshold` whole periods to come up.
//!
//! Startup and readiness probes run earlier too, from `initialDelaySeconds` on, so that what comes up
//! fast is ready fast (Kubernetes' documentation of `periodSeconds` allows it). An early probe that finds
//! a container not started yet counts for nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::seconds;
use super::state::{ProbeKind, ProbeResult};

/// Delay of the second early probe after the first; doubled for each further one.
const EARLY: Duration = Duration::from_secs(1);
const DEFAULT_PERIOD: i32 = 10;

/// The times of one probe.
#[derive(Debug, Clone)]
pub(super) struct ProbeSchedule {
    kind: ProbeKind,
    delay: Duration,
    period: Duration,
}

impl ProbeSchedule {
    pub(super) fn new(kind: ProbeKind, probe: &Probe) -> Self {
        let period = probe.period_seconds.filter(|s| *s > 0);
        Self {
            kind,
            delay: seconds(probe.initial_delay_seconds),
            period: seconds(period.or(Some(DEFAULT_PERIOD))),
        }
    }

    /// The first round of a container of this age. `came_up` is whether its startup probe has only just
    /// passed: then the readiness probe runs at once.
    pub(super) fn first(&self, age: Duration, came_up: bool) -> Duration {
        let is_early = self.runs_early() && age < self.regular();
        let at_once = is_early || (came_up && self.kind == ProbeKind::Readiness);
        if at_once && age >= self.delay {
            return age;
        }
        self.after(age)
    }

    /// The round that follows what happened at `last`.
    pub(super) fn after(&self, last: Duration) -> Duration {
        let regular = self.regular();
        if let Some(since) = last.checked_sub(regular) {
            let into = since.as_nanos().checked_rem(self.period.as_nanos());
            let into = Duration::from_nanos(into.unwrap_or(0).try_into().unwrap_or(u64::MAX));
            return last.saturating_add(self.period.saturating_sub(into));
        }
        if !self.runs_early() {
            return regular;
        }
        match last.checked_sub(self.delay) {
            Some(since) => {
                let twice = since.saturating_mul(2).saturating_add(EARLY);
                self.delay.saturating_add(twice).min(regular)
            }
            None => self.delay,
        }
    }

    /// True if the result of a probe at this time counts.
    pub(super) fn counts(&self, at: Duration, result: ProbeResult) -> bool {
        let is_early = at < self.regular();
        !(is_early && self.kind == ProbeKind::Startup && result == ProbeResult::Failure)
    }

    /// The first round that Kubernetes promises.
    fn regular(&self) -> Duration {
        self.delay.max(self.period)
    }

    fn runs_early(&self) -> bool {
        self.kind != ProbeKind::Liveness
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ProbeKind, delay: i32, period: i32) -> ProbeSchedule {
        let probe = Probe {
            initial_delay_seconds: Some(delay),
            period_seconds: Some(period),
            ..Probe::default()
        };
        ProbeSchedule::new(kind, &probe)
    }

    /// The first rounds of a container that is seen right at its start, in seconds.
    fn rounds(schedule: &ProbeSchedule, count: usize) -> Vec<u64> {
        let first = schedule.first(Duration::ZERO, false);
        let rounds = std::iter::successors(Some(first), |last| Some(schedule.after(*last)));
        rounds.take(count).map(|at| at.as_secs()).collect()
    }

    #[test]
    fn rounds_come_as_delay_and_period_say() {
        use ProbeKind::{Liveness, Readiness, Startup};
        for (kind, delay, period, expected) in [
            // A liveness probe waits for its delay, or for a period where that is longer.
            (Liveness, 0, 10, [10, 20, 30, 40, 50]),
            (Liveness, 3, 3, [3, 6, 9, 12, 15]),
            (Liveness, 15, 10, [15, 25, 35, 45, 55]),
            (Liveness, 2, 10, [10, 20, 30, 40, 50]),
            // The others probe early, ever less often.
            (Readiness, 0, 1, [0, 1, 2, 3, 4]),
            (Readiness, 0, 10, [0, 1, 3, 7, 10]),
            (Readiness, 5, 10, [5, 6, 8, 10, 20]),
            (Readiness, 20, 10, [20, 30, 40, 50, 60]),
            (Startup, 0, 5, [0, 1, 3, 5, 10]),
        ] {
            let found = rounds(&schedule(kind, delay, period), 5);
            assert_eq!(found, expected, "{kind}, delay {delay}, period {period}");
        }
    }

    #[test]
    fn a_container_has_all_its_periods_to_come_up() {
        let startup = schedule(ProbeKind::Startup, 0, 10);
        let counted = rounds(&startup, 40)
            .into_iter()
            .filter(|at| startup.counts(Duration::from_secs(*at), ProbeResult::Failure));
        // failureThreshold: 30 is reached after 30 × 10 s (Kubernetes, "Protect slow starting
        // containers with startup probes").
        assert_eq!(counted.take(30).last(), Some(300));
        assert!(startup.counts(Duration::ZERO, ProbeResult::Success));
    }

    #[test]
    fn a_container_found_running_is_probed_in_the_rhythm_it_had() {
        for kind in ProbeKind::ALL {
            let schedule = schedule(kind, 4, 10);
            let found = schedule.first(Duration::from_millis(123_456), false);
            assert_eq!(found, Duration::from_secs(130), "{kind}");
        }
    }

    #[test]
    fn readiness_is_looked_at_when_the_startup_probe_passes() {
        let age = Duration::from_millis(34_500);
        for (kind, delay, expected) in [
            (ProbeKind::Readiness, 0, age),
            (ProbeKind::Readiness, 60, Duration::from_secs(60)),
            (ProbeKind::Liveness, 0, Duration::from_secs(40)),
        ] {
            assert_eq!(
                schedule(kind, delay, 10).first(age, true),
                expected,
                "{kind}"
            );
        }
    }

    #[test]
    fn time_only_goes_forward_whatever_the_fields() {
        for kind in ProbeKind::ALL {
            for delay in [-1, 0, 1, 7, i32::MAX] {
                for period in [-1, 0, 1, 3, 10, i32::MAX] {
                    let schedule = schedule(kind, delay, period);
                    for at in [
                        0,
                        1,
                        999,
                        1000,
                        6999,
                        7000,
                        10_000,
                        12_345_678,
                        u64::MAX / 1_000_000,
                    ] {
                        let at = Duration::from_millis(at);
                        assert!(schedule.after(at) > at, "{schedule:?} at {at:?}");
                        assert!(schedule.first(at, true) >= at, "{schedule:?} at {at:?}");
                    }
                }
            }
        }
    }
}
