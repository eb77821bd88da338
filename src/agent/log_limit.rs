//! A limit on log lines that say the same: whatever goes wrong in a loop, the log stays readable.
//!
//! This is the last resort. What is known to be tried again and again logs a problem once by itself
//! (`host::log_once`).

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Largest number of equal lines that are written within [`WINDOW`].
const MOST: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Lines that are remembered.
const REMEMBERED: usize = 4096;

/// Layer that drops lines that were written too often just now.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Mutex<HashMap<u64, Written>>);

#[derive(Debug)]
struct Written {
    /// Begin of the window.
    since: Instant,
    count: u32,
}

impl LogLimit {
    /// Counts a line that is to be written; returns `false` if it was written too often.
    fn admit(&self, line: u64, now: Instant) -> bool {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= REMEMBERED && !lines.contains_key(&line) {
            lines.retain(|_, written| now.duration_since(written.since) < WINDOW);
            if lines.len() >= REMEMBERED {
                lines.clear();
            }
        }
        let written = lines.entry(line).or_insert(Written {
            since: now,
            count: 0,
        });
        if now.duration_since(written.since) >= WINDOW {
            *written = Written {
                since: now,
                count: 0,
            };
        }
        written.count = written.count.saturating_add(1);
        written.count <= MOST
    }
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        // Whoever asks for details gets all of them.
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let mut line = LineHasher(DefaultHasher::new());
        event.metadata().callsite().hash(&mut line.0);
        event.record(&mut line);
        self.admit(line.0.finish(), Instant::now())
    }
}

/// Returns a digest of a line's text.
struct LineHasher(DefaultHasher);

impl Visit for LineHasher {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        field.name().hash(&mut self.0);
        format!("{value:?}").hash(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tracing::{debug, info, warn};
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    /// Counts the lines that are written.
    struct Counter(Arc<AtomicU32>);

    impl<S: Subscriber> Layer<S> for Counter {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn lines_that_say_the_same_are_few_and_others_are_all_there() {
        let count = Arc::new(AtomicU32::new(0));
        let counter = Counter(Arc::clone(&count));
        let all = Registry::default().with(LogLimit::default()).with(counter);
        let taken = || count.swap(0, Ordering::Relaxed);
        tracing::subscriber::with_default(all, || {
            for number in 0..100 {
                warn!(pod = "a", error = "full", "it failed");
                info!(number, "it goes on");
            }
            assert_eq!(taken(), MOST + 100);
            warn!(pod = "b", error = "full", "it failed");
            assert_eq!(taken(), 1);
            (0..100).for_each(|_| debug!("a detail"));
            assert_eq!(taken(), 100);
        });
    }

    #[test]
    fn a_line_is_written_again_later_and_not_endlessly_many_are_remembered() {
        let limit = LogLimit::default();
        let now = Instant::now();
        let written = (0..100).filter(|_| limit.admit(1, now)).count();
        assert_eq!(written, 5);
        assert!(limit.admit(1, now + WINDOW));
        for line in 0..3 * REMEMBERED as u64 {
            limit.admit(line, now);
        }
        assert!(limit.0.lock().unwrap().len() <= REMEMBERED);
    }
}
