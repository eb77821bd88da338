//! Answers that are remembered for a while, so that the API server is not asked for each request.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::units::time::Later;

/// As many answers are remembered at most.
const MOST: usize = 1024;

/// Answers by question.
#[derive(Debug)]
pub(super) struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// The answer, if it is remembered and still holds.
    pub(super) fn get(&self, question: &K) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, until) = all.get(question)?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    /// Remembers an answer for so long.
    pub(super) fn put(&self, question: K, answer: V, holds: Duration) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, (_, until)| now < *until);
        }
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(question, (answer, now.later(holds)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time_and_there_are_not_endlessly_many() {
        let cache = Cache::default();
        cache.put(1, "one", Duration::from_secs(10));
        assert_eq!(cache.get(&1), Some("one"));
        assert_eq!(cache.get(&2), None);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(cache.get(&1), None);
        for number in 0..10_000 {
            cache.put(number, "many", Duration::from_secs(10));
        }
        assert_eq!(cache.get(&9_999), Some("many"));
        assert!(cache.0.lock().unwrap().len() <= MOST);
    }
}
