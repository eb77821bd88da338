//! Faults of Pods' networks: files that the network plugin of `hack/containerd` looks for.

use std::fs;
use std::path::PathBuf;

use super::node::Node;

/// Pods whose network hangs, until this is dropped.
pub(crate) struct Held(Vec<PathBuf>);

impl Held {
    /// Holds the network of these Pods. The runtime's call ends where the plugin is killed.
    pub(crate) fn new(node: &Node, pods: &[&str]) -> Self {
        Self::with(node, pods, "")
    }

    /// Holds the next ADD of each of these Pods alone. The runtime's call does not end by killing the plugin,
    /// and the name of the sandbox stays reserved.
    pub(crate) fn once(node: &Node, pods: &[&str]) -> Self {
        Self::with(node, pods, "once")
    }

    fn with(node: &Node, pods: &[&str], how: &str) -> Self {
        let hold = node.runtime_dir.join("cni/hold");
        let files = pods.iter().map(|pod| hold.join(node.full_name(pod)));
        let files: Vec<PathBuf> = files.collect();
        for file in &files {
            fs::write(file, how).unwrap();
        }
        Self(files)
    }

    /// Waits until the network of all of them hangs.
    pub(crate) async fn wait(&self, node: &Node) {
        let waits = |file: &PathBuf| file.with_extension("waits").exists();
        node.wait_until("the networks hang", async || self.0.iter().all(waits))
            .await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for file in &self.0 {
            // Often only one of them is there.
            let _ = fs::remove_file(file);
            let _ = fs::remove_file(file.with_extension("waits"));
        }
    }
}

/// The plugin's error when its DEL fails.
pub(crate) const NOT_GIVEN_BACK: &str = "the network agent is not up";

/// A Pod for which the plugin's DEL fails, until this is dropped.
pub(crate) struct Kept(PathBuf);

impl Kept {
    pub(crate) fn new(node: &Node, pod: &str) -> Self {
        let file = node.runtime_dir.join("cni/fail").join(node.full_name(pod));
        fs::write(&file, "").unwrap();
        Self(file)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // A test that failed may have taken the runtime's folder away.
        let _ = fs::remove_file(&self.0);
    }
}
