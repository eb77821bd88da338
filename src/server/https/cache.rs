//! Cache of the API server's reviews, so that it is not called for each request.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::units::time::Later;

/// Maximum number of cached values.
const MOST: usize = 1024;

/// Values by key, each with the time at which it expires.
#[derive(Debug)]
pub(super) struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// Returns the value of `key` if it is cached and has not expired.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, until) = all.get(key)?;
        (Instant::now() < *until).then(|| value.clone())
    }

    /// Caches a value for the duration `ttl`.
    pub(super) fn put(&self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, (_, until)| now < *until);
        }
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(key, (value, now.later(ttl)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_value_expires_and_the_number_of_values_is_limited() {
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
