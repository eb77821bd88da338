//! The number of expensive calls at a time.
//!
//! The best number depends on the runtime, the machine and the calls, so that it is set from what the calls
//! take, as TCP Vegas sets its window (Brakmo and Peterson, 1995). Of a number of calls at a time, those
//! that the runtime works on take as long as one alone does, and the others wait in it for processors, disks
//! and locks. So many calls at a time that a few wait keep it busy; more add nothing but their wait.

use std::time::Duration;

use super::{CallKind, KINDS};

/// Bounds of the number of calls at a time where it is set from what they take.
const LEAST: usize = 2;
const MOST: usize = 64;
/// Fewer calls than this that wait in the runtime are too few; more than the other are too many.
const FEW: usize = 4;
const MANY: usize = 8;
/// The weight of a call in the mean slowdown is one in this many.
const SLOWDOWN_WEIGHT: usize = 8;
/// The least duration of a kind of calls moves to longer ones by one in this many of the difference, since a
/// machine may become slower.
const LEAST_WEIGHT: u32 = 4096;
/// A slowdown beyond this factor counts as this one.
const SLOWDOWN_MAX: usize = 1000;
/// Unit of the numbers below.
const THOUSAND: usize = 1000;

/// The number of calls at a time, fixed or set from what the calls take.
#[derive(Debug)]
pub(super) struct Concurrency {
    /// In thousandths.
    limit: usize,
    is_fixed: bool,
    /// The duration of one call alone, by kind, as far as it is known.
    least: [Option<Duration>; KINDS],
    /// The factor by which calls take longer than one alone, in thousandths; the mean of the newest.
    slowdown: usize,
    /// True once so many calls at a time were too many: from then on the number changes slowly.
    is_settled: bool,
}

impl Concurrency {
    /// Always the same number; zero counts as one.
    pub(super) fn fixed(limit: usize) -> Self {
        Self {
            limit: limit.max(1).saturating_mul(THOUSAND),
            is_fixed: true,
            least: [None; KINDS],
            slowdown: THOUSAND,
            is_settled: false,
        }
    }

    /// A number that follows from what the calls take, at first this one.
    pub(super) fn adaptive(first: usize) -> Self {
        Self {
            is_fixed: false,
            ..Self::fixed(first.clamp(LEAST, MOST))
        }
    }

    /// Returns the number of calls at a time, at least one.
    pub(super) fn limit(&self) -> usize {
        self.limit / THOUSAND
    }

    /// Takes the duration of a call into account. `active` is the number of calls at a time at its end, and
    /// `is_short` true if others wait for their turn.
    pub(super) fn record(&mut self, kind: CallKind, took: Duration, active: usize, is_short: bool) {
        if self.is_fixed {
            return;
        }
        let slowdown = self.slowdown_of(kind, took);
        let others = self.slowdown.saturating_mul(SLOWDOWN_WEIGHT - 1);
        self.slowdown = others.saturating_add(slowdown) / SLOWDOWN_WEIGHT;
        // Below the limit, or with nobody to take another place, the calls say nothing about it.
        if active < self.limit() {
            return;
        }
        let works = active.saturating_mul(THOUSAND * THOUSAND);
        let works = works.checked_div(self.slowdown).unwrap_or(works);
        let waits = active.saturating_mul(THOUSAND).saturating_sub(works);
        if waits > MANY * THOUSAND {
            self.is_settled = true;
            let step = self.slow_step().saturating_mul(waits) / (MANY * THOUSAND);
            self.limit = self.limit.saturating_sub(step);
        } else if waits < FEW * THOUSAND && is_short {
            let step = if self.is_settled {
                self.slow_step()
            } else {
                THOUSAND / 2
            };
            self.limit = self.limit.saturating_add(step);
        }
        self.limit = self.limit.clamp(LEAST * THOUSAND, MOST * THOUSAND);
    }

    /// One call more or less in the time that as many take as run at a time, in thousandths.
    fn slow_step(&self) -> usize {
        THOUSAND.checked_div(self.limit()).unwrap_or(THOUSAND)
    }

    /// Returns the factor by which a call took longer than one alone, in thousandths.
    fn slowdown_of(&mut self, kind: CallKind, took: Duration) -> usize {
        let took = took.max(Duration::from_micros(1));
        let known = &mut self.least[kind as usize];
        let least = known.unwrap_or(took).min(took);
        let above = took.saturating_sub(least).checked_div(LEAST_WEIGHT);
        let least = least.saturating_add(above.unwrap_or_default());
        *known = Some(least);
        let took = took.as_nanos().saturating_mul(THOUSAND as u128);
        let factor = took.checked_div(least.as_nanos()).unwrap_or(u128::MAX);
        let factor = usize::try_from(factor).unwrap_or(usize::MAX);
        factor.clamp(THOUSAND, SLOWDOWN_MAX * THOUSAND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Runs so many calls on a machine on which `works` of them proceed at a time, each taking `alone` if
    /// it were the only one; gives the number at a time that comes of it.
    fn settle(concurrency: &mut Concurrency, works: u32, alone: Duration, calls: usize) -> usize {
        for _ in 0..calls {
            let active = concurrency.limit();
            let at_a_time = u32::try_from(active).unwrap();
            let took = alone.saturating_mul(at_a_time.max(works)) / works;
            concurrency.record(CallKind::RunSandbox, took, active, true);
        }
        concurrency.limit()
    }

    /// A node that has started a container now and then.
    fn adaptive() -> Concurrency {
        let mut concurrency = Concurrency::adaptive(4);
        concurrency.record(CallKind::RunSandbox, MILLISECOND * 100, 1, false);
        concurrency
    }

    #[test]
    fn the_number_follows_what_the_machine_can_do() {
        for (works, least, most) in [
            (1, 4, 10),
            (2, 5, 11),
            (8, 12, 17),
            (30, 33, 39),
            (500, 64, 64),
        ] {
            let mut concurrency = adaptive();
            let limit = settle(&mut concurrency, works, MILLISECOND * 100, 1000);
            assert!(
                (least..=most).contains(&limit),
                "{works} at a time: {limit}"
            );
        }
    }

    #[test]
    fn the_number_is_found_within_few_calls() {
        let mut concurrency = adaptive();
        let limit = settle(&mut concurrency, 30, MILLISECOND * 100, 80);
        assert!((30..=40).contains(&limit), "{limit}");
    }

    #[test]
    fn a_machine_that_becomes_slower_takes_fewer_calls() {
        let mut concurrency = adaptive();
        settle(&mut concurrency, 30, MILLISECOND * 100, 500);
        let limit = settle(&mut concurrency, 2, MILLISECOND * 100, 500);
        assert!((5..=11).contains(&limit), "{limit}");
    }

    #[test]
    fn the_number_stays_within_bounds_whatever_the_calls_take() {
        for took in [Duration::ZERO, MILLISECOND, Duration::MAX] {
            let mut concurrency = Concurrency::adaptive(0);
            for _ in 0..1000 {
                concurrency.record(CallKind::Remove, MILLISECOND, usize::MAX, true);
                concurrency.record(CallKind::Remove, took, usize::MAX, true);
                let limit = concurrency.limit();
                assert!((LEAST..=MOST).contains(&limit), "{took:?}: {limit}");
            }
        }
    }

    #[test]
    fn calls_below_the_limit_and_without_others_that_wait_change_nothing() {
        let mut concurrency = adaptive();
        for _ in 0..1000 {
            concurrency.record(CallKind::RunSandbox, MILLISECOND * 100, 3, true);
            concurrency.record(CallKind::RunSandbox, MILLISECOND * 100, 4, false);
        }
        assert_eq!(concurrency.limit(), 4);
    }

    #[test]
    fn a_number_that_was_given_stays() {
        for (given, limit) in [(0, 1), (1, 1), (3, 3), (1000, 1000)] {
            let mut concurrency = Concurrency::fixed(given);
            settle(&mut concurrency, 500, MILLISECOND, 100);
            assert_eq!(concurrency.limit(), limit);
        }
    }
}
