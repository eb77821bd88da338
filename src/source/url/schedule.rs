//! Times of polls: pure, with chance as a value.
//!
//! A fleet that starts at one time must not poll at one time for ever, nor come back at one time
//! after its server was unreachable. So the poll after the first one comes at any time of a period, all others
//! a period apart give or take a tenth, and waits after failures are spread more widely still.

use std::time::Duration;

use fastrand::Rng;

use crate::units::time::scaled;

/// The longest wait after failures that the server did not ask for.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// The first wait after a failure while there is no document at all.
const EAGER: Duration = Duration::from_secs(1);

/// The schedule of one poller.
#[derive(Debug)]
pub(super) struct Schedule {
    period: Duration,
    rng: Rng,
    /// Failures since the last success.
    failures: u32,
    /// The phase of the polls is this poller's own, not that of its start.
    spread: bool,
}

impl Schedule {
    pub(super) fn new(period: Duration, rng: Rng) -> Self {
        Self {
            period,
            rng,
            failures: 0,
            spread: false,
        }
    }

    /// The wait for the first poll. One that knows a document already has time.
    pub(super) fn first(&mut self, has_document: bool) -> Duration {
        self.spread = has_document;
        if has_document {
            scaled(self.period, self.rng.f64())
        } else {
            Duration::ZERO
        }
    }

    /// The wait after a server that answered as it should.
    pub(super) fn after_success(&mut self) -> Duration {
        self.failures = 0;
        if std::mem::replace(&mut self.spread, true) {
            self.around(self.period, 0.1)
        } else {
            scaled(self.period, self.rng.f64())
        }
    }

    /// The wait after a failure: twice as long each time, and as long as the server asks for.
    pub(super) fn after_failure(
        &mut self,
        has_document: bool,
        retry_after: Option<Duration>,
    ) -> Duration {
        let first = if has_document {
            self.period
        } else {
            self.period.min(EAGER)
        };
        let doubled = first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.spread = true;
        let wait = self.around(doubled.min(MAX_BACKOFF.max(self.period)), 0.5);
        match retry_after {
            None => wait,
            Some(asked) => {
                let more = scaled(scaled(asked, 0.25).max(self.period), self.rng.f64());
                wait.max(asked.saturating_add(more))
            }
        }
    }

    /// The wait after a server on this machine that is not there: asking costs nobody anything, so that it
    /// never grows beyond the period.
    pub(super) fn after_local_refusal(&mut self, has_document: bool) -> Duration {
        let first = if has_document {
            self.period
        } else {
            self.period.min(EAGER)
        };
        let doubled = first.saturating_mul(1 << self.failures.min(16));
        if doubled < self.period {
            self.failures = self.failures.saturating_add(1);
        }
        self.spread = true;
        self.around(doubled.min(self.period), 0.1)
    }

    fn around(&mut self, middle: Duration, part: f64) -> Duration {
        scaled(middle, 1.0 - part + 2.0 * part * self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(20);

    fn fleet() -> Vec<Schedule> {
        let schedule = |seed| Schedule::new(PERIOD, Rng::with_seed(seed));
        (0..2000).map(schedule).collect()
    }

    /// Number of polls in each second from `from` on.
    #[expect(clippy::cast_possible_truncation, reason = "seconds of a short test")]
    fn per_second(moments: &[Duration], from: u64, seconds: u64) -> Vec<usize> {
        let mut counts = vec![0; seconds as usize];
        for moment in moments {
            if let Some(second) = moment.as_secs().checked_sub(from)
                && let Some(count) = counts.get_mut(second as usize)
            {
                *count += 1;
            }
        }
        counts
    }

    #[test]
    fn a_fleet_that_starts_at_once_polls_evenly_after_its_first_poll() {
        let mut moments = vec![];
        for mut schedule in fleet() {
            let mut at = schedule.first(false);
            assert_eq!(at, Duration::ZERO);
            while at < PERIOD * 6 {
                at += schedule.after_success();
                moments.push(at);
            }
        }
        // 100 polls a second on average.
        for (second, count) in per_second(&moments, 1, 100).into_iter().enumerate() {
            assert!(
                (50..200).contains(&count),
                "{count} polls in second {second}"
            );
        }
    }

    #[test]
    fn a_fleet_that_boots_with_a_document_polls_evenly_from_the_start() {
        let first: Vec<_> = fleet().iter_mut().map(|s| s.first(true)).collect();
        for count in per_second(&first, 0, 20) {
            assert!((50..200).contains(&count), "{count}");
        }
    }

    #[test]
    fn failures_thin_the_polls_out_and_a_server_that_is_back_is_not_stormed() {
        let mut next = vec![];
        for mut schedule in fleet() {
            let waits: Vec<_> = (0..8).map(|_| schedule.after_failure(true, None)).collect();
            for (i, wait) in waits.iter().enumerate() {
                let middle = (PERIOD * (1 << i)).min(MAX_BACKOFF).as_secs_f64();
                let part = wait.as_secs_f64() / middle;
                assert!((0.5..=1.5).contains(&part), "failure {i}: {wait:?}");
            }
            next.push(waits[7]);
        }
        let most = per_second(&next, 0, 500).into_iter().max().unwrap();
        assert!(most < 40, "{most} polls in one second");
    }

    #[test]
    fn a_poller_without_a_document_is_eager_and_then_patient() {
        let mut schedule = Schedule::new(PERIOD, Rng::with_seed(1));
        assert!(schedule.after_failure(false, None) <= EAGER * 3 / 2);
        let last = (0..20).map(|_| schedule.after_failure(false, None)).last();
        assert!(last.unwrap() >= MAX_BACKOFF / 2);
        schedule.after_success();
        assert!(schedule.after_failure(false, None) <= EAGER * 3 / 2);
    }

    #[test]
    fn a_server_of_this_machine_is_asked_at_the_plain_period_however_long_it_is_away() {
        for has_document in [false, true] {
            let mut schedule = Schedule::new(PERIOD, Rng::with_seed(1));
            let waits = (0..1000).map(|_| schedule.after_local_refusal(has_document));
            let waits: Vec<_> = waits.collect();
            assert!(waits.iter().all(|wait| *wait <= PERIOD * 11 / 10));
            assert!(waits[10..].iter().all(|wait| *wait >= PERIOD * 9 / 10));
            let first = if has_document { PERIOD } else { EAGER };
            assert!(waits[0] <= first * 11 / 10, "{:?}", waits[0]);
        }
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it_and_not_everybody_at_its_end() {
        let asked = Duration::from_secs(600);
        let waits = fleet();
        let waits = waits
            .into_iter()
            .map(|mut s| s.after_failure(true, Some(asked)));
        let waits: Vec<_> = waits.collect();
        assert!(waits.iter().all(|wait| *wait >= asked));
        let most = per_second(&waits, 600, 150).into_iter().max().unwrap();
        assert!(most < 40, "{most} polls in one second");
    }
}
