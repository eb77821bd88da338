//! Time as the planner sees it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A point of monotonic time, in milliseconds from a start that only differences depend on. May lie
/// before the agent's start, so it can be negative. Setting the machine's clock does not move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub i64);

impl Moment {
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
pub struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock {
    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(millis(self.0.elapsed()))
    }

    /// The moment of a wall-clock time that the runtime gave (nanoseconds since the epoch), taken
    /// while it is fresh: later changes of the machine's clock do not matter any more. A time in the
    /// future is now.
    #[must_use]
    pub fn moment_of(&self, wall_nanos: i64) -> Moment {
        let age = wall_now().saturating_sub(wall_nanos).max(0);
        self.now().before(Duration::from_nanos(age.unsigned_abs()))
    }

    /// The time of the machine that has [`Moment`] `moment`.
    #[must_use]
    pub fn instant_of(&self, moment: Moment) -> Instant {
        self.0 + moment.since(Moment(0))
    }
}

/// The machine's clock, in nanoseconds since the epoch.
#[must_use]
pub fn wall_now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since_epoch.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}
