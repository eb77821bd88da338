//! Time as the planner sees it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::units::time::Later;

/// A point of monotonic time, in milliseconds from a start that only differences depend on. May lie
/// before the agent's start, so it can be negative. Setting the machine's clock does not move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonotonicTime(pub i64);

impl MonotonicTime {
    /// This much later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(millis(delay)))
    }

    /// This much earlier.
    #[must_use]
    pub fn before(self, delay: Duration) -> Self {
        Self(self.0.saturating_sub(millis(delay)))
    }

    /// The time from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The agent's clock: monotonic time for decisions, wall time for what the runtime and people read.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall: fn() -> i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::with_wall(wall_now)
    }
}

impl Clock {
    /// A clock whose wall time, in nanoseconds since the epoch, is what `wall` returns.
    #[must_use]
    pub fn with_wall(wall: fn() -> i64) -> Self {
        let start = Instant::now();
        Self { start, wall }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> MonotonicTime {
        MonotonicTime(millis(self.start.elapsed()))
    }

    /// The machine's time, in nanoseconds since the epoch.
    #[must_use]
    pub fn wall_now(&self) -> i64 {
        (self.wall)()
    }

    /// The monotonic time of a wall-clock time that the runtime gave (nanoseconds since the epoch), taken
    /// while it is fresh: later changes of the machine's clock do not matter any more. A time in the
    /// future is now.
    #[must_use]
    pub fn monotonic_of(&self, wall_nanos: i64) -> MonotonicTime {
        let age = self.wall_now().saturating_sub(wall_nanos).max(0);
        self.now().before(Duration::from_nanos(age.unsigned_abs()))
    }

    /// The machine's wall-clock time of a monotonic one, in nanoseconds since the epoch, as its clock stands now.
    #[must_use]
    pub fn wall_of(&self, monotonic: MonotonicTime) -> i64 {
        let millis = monotonic.0.saturating_sub(self.now().0);
        self.wall_now()
            .saturating_add(millis.saturating_mul(1_000_000))
    }

    /// The [`Instant`] of a monotonic time.
    #[must_use]
    pub fn instant_of(&self, monotonic: MonotonicTime) -> Instant {
        self.start.later(monotonic.since(MonotonicTime(0)))
    }
}

/// The machine's time beside monotonic time, as they were last compared. Follows the machine's clock only
/// where that was set, so that a time that is worked out twice is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wall {
    /// The machine's time at the monotonic time 0, in nanoseconds since the epoch.
    origin: Option<i64>,
}

impl Wall {
    /// Clocks that are compared differ by so many nanoseconds though none was set.
    const TOLERANCE: u64 = 2_000_000_000;

    /// Compares the clocks. Returns true if the machine's clock was set since they were last compared.
    pub fn follow(&mut self, clock: &Clock) -> bool {
        let now = clock.wall_of(MonotonicTime(0));
        let same = |origin: i64| origin.abs_diff(now) <= Self::TOLERANCE;
        let before = self.origin;
        self.origin = before.filter(|origin| same(*origin)).or(Some(now));
        before.is_some() && self.origin != before
    }

    /// Returns true if this time is the one that the machine's clock gives to the monotonic time.
    #[must_use]
    pub fn agrees(self, nanos: i64, monotonic: MonotonicTime) -> bool {
        let at = self.at(monotonic);
        at.is_some_and(|at| at.abs_diff(nanos) <= 2 * Self::TOLERANCE)
    }

    /// The machine's time of a monotonic one; `None` before the clocks were compared.
    #[must_use]
    pub fn at(self, monotonic: MonotonicTime) -> Option<i64> {
        let nanos = monotonic.0.saturating_mul(1_000_000);
        self.origin.map(|origin| origin.saturating_add(nanos))
    }

    /// A time that the machine's clock gave, unless the clock was set since: then the time that it would give
    /// to the same monotonic time now.
    #[must_use]
    pub fn corrected(self, nanos: i64, monotonic: MonotonicTime) -> i64 {
        let now = self.at(monotonic);
        now.filter(|now| now.abs_diff(nanos) > 2 * Self::TOLERANCE)
            .unwrap_or(nanos)
    }
}

/// A time from which something counts, over restarts of the agent too. On disk it is the machine's, in
/// nanoseconds since the epoch; in memory it is also a monotonic time, so that setting the machine's clock while
/// the agent runs moves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
pub struct Timestamp {
    nanos: i64,
    monotonic: Option<MonotonicTime>,
}

impl Timestamp {
    /// From now on.
    #[must_use]
    pub fn now(clock: &Clock) -> Self {
        Self {
            nanos: clock.wall_now(),
            monotonic: Some(clock.now()),
        }
    }

    /// The same with its monotonic time, which for a time from disk is worked out now.
    #[must_use]
    pub fn fixed(self, clock: &Clock) -> Self {
        Self {
            monotonic: Some(self.monotonic(clock)),
            ..self
        }
    }

    /// The same by the machine's clock as it was set since, if its monotonic time was worked out.
    #[must_use]
    pub fn corrected(self, wall: Wall) -> Self {
        let nanos = self.monotonic.map(|at| wall.corrected(self.nanos, at));
        Self {
            nanos: nanos.unwrap_or(self.nanos),
            ..self
        }
    }

    /// Its monotonic time, if that was worked out.
    #[must_use]
    pub fn known(&self) -> Option<MonotonicTime> {
        self.monotonic
    }

    /// The machine's time, in nanoseconds since the epoch.
    #[must_use]
    pub fn nanos(&self) -> i64 {
        self.nanos
    }

    /// Its monotonic time.
    #[must_use]
    pub fn monotonic(&self, clock: &Clock) -> MonotonicTime {
        self.monotonic
            .unwrap_or_else(|| clock.monotonic_of(self.nanos))
    }
}

impl From<i64> for Timestamp {
    fn from(nanos: i64) -> Self {
        let monotonic = None;
        Self { nanos, monotonic }
    }
}

impl From<Timestamp> for i64 {
    fn from(since: Timestamp) -> Self {
        since.nanos
    }
}

/// The machine's clock, in nanoseconds since the epoch.
#[must_use]
pub fn wall_now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since_epoch.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    static NOW: AtomicI64 = AtomicI64::new(0);

    #[tokio::test(start_paused = true)]
    async fn times_are_those_of_the_clock_as_it_was_set_last() {
        const SECOND: i64 = 1_000_000_000;
        const YEAR: i64 = 365 * 24 * 3600 * SECOND;
        let clock = Clock::with_wall(|| NOW.load(Ordering::Relaxed));
        let mut wall = Wall::default();
        let later = MonotonicTime(5_000);
        assert_eq!(wall.at(later), None);
        assert_eq!(wall.corrected(7, later), 7);
        for (now, origin) in [
            (YEAR, YEAR),
            (YEAR + SECOND, YEAR),
            (10 * SECOND, 10 * SECOND),
            (9 * SECOND, 10 * SECOND),
            (YEAR, YEAR),
        ] {
            NOW.store(now, Ordering::Relaxed);
            let before = wall.at(later);
            let is_set = wall.follow(&clock);
            assert_eq!(wall.at(later), Some(origin + 5 * SECOND));
            assert_eq!(is_set, before.is_some_and(|b| Some(b) != wall.at(later)));
            assert!(wall.agrees(now + 5 * SECOND, later));
            assert!(!wall.agrees(now + 20 * SECOND, later));
            assert_eq!(clock.wall_of(later), now + 5 * SECOND);
        }
        let near = YEAR + 5 * SECOND + 1;
        assert_eq!(wall.corrected(near, later), near);
        assert_eq!(wall.corrected(2 * YEAR, later), YEAR + 5 * SECOND);
    }
}
