//! Whatever happens to the agent or the runtime, it ends in exactly the wanted containers.

mod hangs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use podkeeper::cri::v1::{PodSandbox, PodSandboxState};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::node::{FOREVER, Node, pod};

super::on_each_containerd!(
    an_agent_killed_at_any_instant_ends_in_exactly_the_wanted_containers,
    a_runtime_restarted_under_load_ends_in_exactly_the_wanted_containers,
    a_runtime_that_starts_with_the_agent_is_waited_for,
);

/// The main path, on the newest containerd as well.
mod v2_4 {
    super::super::on_containerd!("2.4": an_agent_killed_at_any_instant_ends_in_exactly_the_wanted_containers);
}

const PODS: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];

/// What is done to one Pod: nothing, its manifest written in a version, or removed.
type Change = (usize, Option<u8>);

/// Applies changes to the manifests; gives what is wanted then.
fn apply(node: &Node, wanted: &mut [Option<u8>; 5], (index, version): Change) {
    let file = format!("{}.yaml", PODS[index]);
    match version {
        Some(version) => node.put(
            &file,
            &pod(PODS[index], &format!("echo {version}; {FOREVER}")),
        ),
        None if wanted[index].is_some() => node.remove(&file),
        None => {}
    }
    wanted[index] = version;
}

/// The Pod in a manifest of the node: its UID, and how many containers it has.
fn defined(node: &Node, pod: &str) -> (String, usize) {
    let bytes = std::fs::read(node.manifest(&format!("{pod}.yaml"))).unwrap();
    let kind = podkeeper::manifest::SourceKind::File;
    let accepted = podkeeper::manifest::parse(&bytes, &node.name, kind).unwrap();
    let spec = &accepted.pod.spec;
    (accepted.pod.uid.to_string(), spec.containers.len())
}

/// The Pods that have a manifest.
fn names(wanted: &[Option<u8>; 5]) -> impl Iterator<Item = &'static str> {
    let pods = PODS.into_iter().zip(wanted);
    pods.filter_map(|(pod, version)| version.map(|_| pod))
}

/// Waits until the Pods of these manifests run, each container once, and nothing is left of others.
/// The last dead container of each name may stay for its log, and so may the sandbox that it ran in.
async fn wait_for_exactly(node: &Node, wanted: impl IntoIterator<Item = &str>) {
    let wanted: BTreeMap<String, usize> =
        wanted.into_iter().map(|pod| defined(node, pod)).collect();
    let uids: BTreeSet<String> = wanted.keys().cloned().collect();
    let all: usize = wanted.values().sum();
    node.wait_until("exactly what is wanted runs", async || {
        let containers = node.containers().await;
        let (ready, dead): (Vec<_>, Vec<_>) = node
            .sandboxes()
            .await
            .into_iter()
            .partition(|s| s.state() == PodSandboxState::SandboxReady);
        let running = node.running().await;
        for (pod, containers) in &running {
            assert!(containers.len() < 2, "{pod:?} runs twice: {containers:#?}");
        }
        let there = ready
            .iter()
            .map(|s| s.metadata.as_ref().unwrap().uid.clone());
        let there: BTreeSet<String> = there.collect();
        let is_kept = |s: &PodSandbox| {
            let is_wanted = uids.contains(&s.metadata.as_ref().unwrap().uid);
            is_wanted && containers.iter().any(|c| c.pod_sandbox_id == s.id)
        };
        let folders = std::fs::read_dir(node.path("root/pods"))
            .into_iter()
            .flatten();
        there == uids
            && ready.len() == uids.len()
            && dead.iter().all(is_kept)
            && running.len() == all
            && containers.len() <= 2 * all
            && folders.count() == uids.len()
    })
    .await;
}

async fn an_agent_killed_at_any_instant_ends_in_exactly_the_wanted_containers(mut node: Node) {
    let kills = if std::env::var_os("PODKEEPER_TEST_LONG").is_some() {
        100
    } else {
        20
    };
    let change = || (0..PODS.len(), proptest::option::weighted(0.7, 0..3u8));
    let round = (proptest::collection::vec(change(), 1..5), 0..400u64);
    let mut runner = TestRunner::default();
    let mut wanted = [None; 5];
    node.start_agent();
    for kill in 0..kills {
        let (changes, delay) = round.new_tree(&mut runner).unwrap().current();
        // Shown where it fails, so that the same can be done again.
        println!("kill {kill}: {changes:?}, then {delay} ms");
        for change in &changes {
            apply(&node, &mut wanted, *change);
        }
        tokio::time::sleep(Duration::from_millis(delay)).await;
        node.kill_agent();
        node.start_agent();
        if kill % 5 == 4 {
            wait_for_exactly(&node, names(&wanted)).await;
            // None is started twice: what runs now runs for as long as nothing is changed.
            let before = ids(&node).await;
            node.kill_agent();
            node.start_agent();
            let known = wanted.iter().flatten().count();
            node.wait_known(known).await;
            assert_eq!(ids(&node).await, before);
        }
    }
    for index in 0..PODS.len() {
        apply(&node, &mut wanted, (index, None));
    }
    node.wait_gone().await;
}

async fn ids(node: &Node) -> BTreeSet<String> {
    let running = node.running().await.into_values().flatten();
    running.map(|c| c.id).collect()
}

/// Runs `hack/containerd`.
pub(super) fn containerd(arguments: &[&str], dir: &std::path::Path) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("hack/containerd");
    let status = Command::new(script)
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .status();
    assert!(status.unwrap().success(), "hack/containerd {arguments:?}");
}

/// A containerd of the test's own, gone with the test.
pub(super) struct Own(PathBuf);

impl Own {
    /// Brings one up for the node.
    pub(super) fn start(node: &mut Node) -> Self {
        let own = Self(node.path("containerd"));
        containerd(&["up", "--version", node.version], &own.0);
        let socket = own.0.join("run/containerd.sock");
        let endpoint = format!("unix://{}", socket.display());
        node.client = podkeeper::cri::Client::new(endpoint.parse().unwrap());
        node.runtime_dir.clone_from(&own.0);
        own
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        containerd(&["down"], &self.0);
    }
}

async fn a_runtime_restarted_under_load_ends_in_exactly_the_wanted_containers(mut node: Node) {
    let own = Own::start(&mut node);
    let mut wanted = [None; 5];
    node.start_agent();
    for round in 0..4u8 {
        for index in 0..PODS.len() {
            let version = (usize::from(round) + index) % 4;
            let version = u8::try_from(version).unwrap();
            apply(
                &node,
                &mut wanted,
                (index, (version != 3).then_some(version)),
            );
        }
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 120)).await;
        containerd(&["kill"], &own.0);
        containerd(&["start"], &own.0);
    }
    node.patience *= 2;
    wait_for_exactly(&node, names(&wanted)).await;
    for index in 0..PODS.len() {
        apply(&node, &mut wanted, (index, None));
    }
    node.wait_gone().await;
    // The runtime goes before the folder it lives in.
    node.kill_agent();
    drop(own);
}

async fn a_runtime_that_starts_with_the_agent_is_waited_for(mut node: Node) {
    let own = Own::start(&mut node);
    for pod in ["one", "two", "three"] {
        let spec = "\n  containers: [{name: c, image: $BUSYBOX, command: $FOREVER}]\n";
        node.put(&format!("{pod}.yaml"), &super::node::manifest(pod, spec));
    }
    node.start_agent();
    for pod in ["one", "two", "three"] {
        node.wait_running(pod).await;
    }
    let before = ids(&node).await;
    for round in 0..6u64 {
        node.kill_agent();
        containerd(&["kill"], &own.0);
        let dir = own.0.clone();
        let runtime = std::thread::spawn(move || containerd(&["start"], &dir));
        tokio::time::sleep(Duration::from_millis(round * 60)).await;
        node.start_agent();
        runtime.join().unwrap();
        node.wait_known(3).await;
    }
    assert_eq!(ids(&node).await, before);
    for pod in ["one", "two", "three"] {
        node.remove(&format!("{pod}.yaml"));
    }
    node.wait_gone().await;
    node.kill_agent();
    drop(own);
}
