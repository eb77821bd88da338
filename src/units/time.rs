//! Times and time spans.
//!
//! The operators of [`Duration`] and of both kinds of `Instant` panic on overflow, and so do the
//! deadlines of gRPC calls. A span from outside is at most [`LONGEST`], which all of them take.

use std::time::Duration;

use jiff::Timestamp;

const YEAR: u64 = 365 * 24 * 60 * 60;

/// Longest span that anything lasts or waits: a hundred years. Go's durations end after 292, and a
/// runtime written in Go takes what is longer for none at all.
pub const LONGEST: Duration = Duration::from_secs(100 * YEAR);

/// Bounds a span by [`LONGEST`].
#[must_use]
pub fn bounded(span: Duration) -> Duration {
    span.min(LONGEST)
}

/// Returns the span of this many seconds: zero where they are negative, [`LONGEST`] where they are more.
#[must_use]
pub fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).unsigned_abs()).min(LONGEST)
}

/// Returns whole seconds of a span, rounded up, at most those of [`LONGEST`].
#[must_use]
pub fn whole_seconds(span: Duration) -> i64 {
    let span = bounded(span);
    let begun = i64::from(span.subsec_nanos() > 0);
    i64::try_from(span.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_add(begun)
}

/// Returns nanoseconds of a span, at most as many as an `i64` holds.
#[must_use]
pub fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// The span times `factor`, which spreads waits of a fleet; at most [`LONGEST`].
#[must_use]
pub fn scaled(span: Duration, factor: f64) -> Duration {
    let seconds = bounded(span).as_secs_f64() * factor.max(0.0);
    Duration::try_from_secs_f64(seconds).map_or(LONGEST, bounded)
}

/// Half of the span.
#[must_use]
pub fn half(span: Duration) -> Duration {
    span.checked_div(2).unwrap_or_default()
}

/// The time `span` before `time`, or the earliest there is.
#[must_use]
pub fn earlier(time: Timestamp, span: Duration) -> Timestamp {
    time.saturating_sub(bounded(span)).unwrap_or(Timestamp::MIN)
}

/// Points of time to which a span can be added.
pub trait Later: Copy {
    /// The time `span` later; a span beyond [`LONGEST`] counts as that.
    #[must_use]
    fn later(self, span: Duration) -> Self;
}

impl Later for std::time::Instant {
    fn later(self, span: Duration) -> Self {
        self.checked_add(bounded(span)).unwrap_or(self)
    }
}

impl Later for tokio::time::Instant {
    fn later(self, span: Duration) -> Self {
        self.checked_add(bounded(span)).unwrap_or(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_from_outside_are_bounded() {
        for (given, expected) in [
            (i64::MIN, Duration::ZERO),
            (-1, Duration::ZERO),
            (0, Duration::ZERO),
            (30, Duration::from_secs(30)),
            (360_000_000_000, LONGEST),
            (i64::MAX, LONGEST),
        ] {
            assert_eq!(seconds(given), expected, "{given}");
        }
        assert_eq!(bounded(Duration::MAX), LONGEST);
        // As Go counts: nanoseconds in 64 bits.
        assert!(nanos(LONGEST) < i64::MAX);
        assert_eq!(nanos(Duration::MAX), i64::MAX);
    }

    #[test]
    fn whole_seconds_are_never_too_few() {
        for (millis, expected) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), expected);
        }
        let longest = i64::try_from(LONGEST.as_secs()).unwrap();
        assert_eq!(whole_seconds(Duration::MAX), longest);
    }

    #[tokio::test]
    async fn a_time_can_be_as_far_away_as_anything_asks_for() {
        let (now, tokios) = (std::time::Instant::now(), tokio::time::Instant::now());
        assert_eq!(now.later(Duration::MAX) - now, LONGEST);
        assert_eq!(tokios.later(Duration::MAX) - tokios, LONGEST);
        let sleep = tokio::time::sleep_until(tokios.later(Duration::MAX));
        let slept = tokio::time::timeout(Duration::from_millis(1), sleep).await;
        assert!(slept.is_err());
    }
}
