//! Static Pods that a kubelet left on the node: those that a manifest here names are taken over, by stopping them
//! first, so that no Pod runs twice.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::identity::check_key;
use crate::cri::{Client, Error, v1};
use crate::manifest::PodKey;
use crate::translate::labels;

/// Annotation with which a kubelet says where a Pod comes from.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Its values for static Pods.
const STATIC_SOURCES: [&str; 2] = ["file", "http"];

/// Static Pods that a kubelet left, by the node's first list. A kubelet that comes later would run beside the agent,
/// which is no way to run either.
#[derive(Debug)]
pub struct KubeletPods {
    /// True if they are stopped, false if they are left alone.
    pub take_over: bool,
    found: Mutex<BTreeSet<PodKey>>,
}

impl KubeletPods {
    /// Creates the record, with nothing in it; `take_over` is `--take-over-kubelet-pods`.
    #[must_use]
    pub fn new(take_over: bool) -> Self {
        Self {
            take_over,
            found: Mutex::default(),
        }
    }

    /// Records those among all sandboxes of the runtime.
    pub fn record(&self, sandboxes: &[v1::PodSandbox]) {
        let found = sandboxes.iter().filter_map(kubelet_pod).collect();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// Returns the Pods that a kubelet left.
    #[must_use]
    pub fn keys(&self) -> Vec<PodKey> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().cloned().collect()
    }

    /// Returns true if a kubelet left a Pod of this name.
    #[must_use]
    pub fn has(&self, key: &PodKey) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.contains(key)
    }

    /// Forgets a Pod that is gone.
    pub fn forget(&self, key: &PodKey) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.remove(key);
    }
}

/// Lists the sandboxes that a kubelet left of a static Pod.
///
/// # Errors
/// Any failure of the call.
pub async fn list(client: &Client, key: &PodKey) -> Result<Vec<v1::PodSandbox>, Error> {
    let selector = [
        (labels::POD_NAMESPACE, &key.namespace),
        (labels::POD_NAME, &key.name),
    ];
    let selector = selector.map(|(label, value)| (label.to_owned(), value.clone()));
    let request = v1::ListPodSandboxRequest {
        filter: Some(v1::PodSandboxFilter {
            label_selector: selector.into(),
            ..v1::PodSandboxFilter::default()
        }),
    };
    let mut sandboxes = client.list_pod_sandbox(request).await?.items;
    sandboxes.retain(|sandbox| kubelet_pod(sandbox).as_ref() == Some(key));
    Ok(sandboxes)
}

/// The static Pod of a kubelet that a sandbox is of; `None` for those of others, and of Pods that came from an API
/// server.
fn kubelet_pod(sandbox: &v1::PodSandbox) -> Option<PodKey> {
    if sandbox.labels.contains_key(labels::ROOT_DIR) {
        return None;
    }
    let source = sandbox.annotations.get(CONFIG_SOURCE)?;
    if !STATIC_SOURCES.contains(&source.as_str()) {
        return None;
    }
    let key = PodKey {
        namespace: sandbox.labels.get(labels::POD_NAMESPACE)?.clone(),
        name: sandbox.labels.get(labels::POD_NAME)?.clone(),
    };
    check_key(&key).ok().map(|()| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(name: &str, source: &str, owner_label: Option<&str>) -> v1::PodSandbox {
        let mut sandbox = v1::PodSandbox::default();
        let labels = [
            (labels::POD_NAMESPACE, Some("default")),
            (labels::POD_NAME, Some(name)),
            (labels::ROOT_DIR, owner_label),
        ];
        for (label, value) in labels {
            if let Some(value) = value {
                sandbox.labels.insert(label.to_owned(), value.to_owned());
            }
        }
        let annotation = (CONFIG_SOURCE.to_owned(), source.to_owned());
        sandbox.annotations.extend([annotation]);
        sandbox
    }

    #[test]
    fn only_a_kubelets_static_pods_are_taken_for_such() {
        let pods = KubeletPods::new(true);
        pods.record(&[
            sandbox("from-file-n1", "file", None),
            sandbox("from-url-n1", "http", None),
            sandbox("from-api", "api", None),
            sandbox("ours-n1", "file", Some("/var/lib/podkeeper")),
            sandbox("../odd", "file", None),
            v1::PodSandbox::default(),
        ]);
        let keys = pods.keys();
        let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["from-file-n1", "from-url-n1"]);
        assert!(pods.has(&keys[0]));
        pods.forget(&keys[0]);
        assert!(!pods.has(&keys[0]) && pods.has(&keys[1]));
    }
}
