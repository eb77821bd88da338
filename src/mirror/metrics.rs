//! Measures of what the API server has of the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter};
use tokio::sync::watch;

use super::Numbers;
use crate::measure::{counter, gauge};

/// Metrics of the node's objects at the API server. Cloning is cheap and shares the measures.
#[derive(Debug, Clone)]
pub struct MirrorMetrics {
    connected: Gauge,
    mirrors: Gauge,
    refused: Gauge,
    requests: IntCounter,
}

impl Default for MirrorMetrics {
    fn default() -> Self {
        Self {
            connected: gauge(
                "podkeeper_api_server_connected",
                "Whether an API server answers: 1 or 0.",
            ),
            mirrors: gauge(
                "podkeeper_mirror_pods",
                "Mirror Pods that the API server has.",
            ),
            refused: gauge(
                "podkeeper_mirror_pods_refused",
                "Pods for which the API server does not do something.",
            ),
            requests: counter(
                "podkeeper_api_server_requests_total",
                "Requests that the API server was sent since the agent's start.",
            ),
        }
    }
}

impl MirrorMetrics {
    /// For the registry.
    pub(crate) fn collectors(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.connected.clone()),
            Box::new(self.mirrors.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.requests.clone()),
        ]
    }

    /// Returns the number of mirror Pods that the API server has.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count that was set"
    )]
    pub(crate) fn mirrors(&self) -> u64 {
        self.mirrors.get() as u64
    }

    /// Takes over what changes, for as long as the mirrors are kept.
    pub async fn follow(self, mut numbers: watch::Receiver<Numbers>, requests: Arc<AtomicU64>) {
        loop {
            self.take(&numbers.borrow_and_update().clone(), &requests);
            if numbers.changed().await.is_err() {
                return;
            }
        }
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "nothing here is counted that far"
    )]
    fn take(&self, numbers: &Numbers, requests: &AtomicU64) {
        self.connected.set(f64::from(u8::from(numbers.connected)));
        self.mirrors.set(numbers.mirrors as f64);
        self.refused.set(numbers.refused.len() as f64);
        let requests = requests.load(Ordering::Relaxed);
        self.requests
            .inc_by(requests.saturating_sub(self.requests.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::PodKey;

    #[tokio::test]
    async fn what_the_api_server_refuses_is_measured() {
        let metrics = MirrorMetrics::default();
        let (sender, numbers) = watch::channel(Numbers::default());
        let pod = PodKey {
            namespace: "default".into(),
            name: "web-n1".into(),
        };
        sender.send_replace(Numbers {
            connected: true,
            mirrors: 2,
            reported: 0,
            refused: [(pod, "forbidden".to_owned())].into(),
        });
        drop(sender);
        let follow = metrics.clone().follow(numbers, Arc::new(AtomicU64::new(7)));
        follow.await;
        let all = [&metrics.connected, &metrics.mirrors, &metrics.refused];
        assert_eq!(all.map(|gauge| gauge.get().to_string()), ["1", "2", "1"]);
        assert_eq!(metrics.requests.get(), 7);
        metrics.take(&Numbers::default(), &AtomicU64::new(9));
        assert_eq!(metrics.requests.get(), 9);
    }
}
