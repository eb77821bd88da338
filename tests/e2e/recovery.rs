//! Failed clean-ups and calls without an answer do not keep Pods from starting.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use podkeeper::pod::events::Event;
use podkeeper::pod::report::PodReport;
use podkeeper::server::fetch;

use super::hangs::host_path;
use super::mounts::{Mounted, folder};
use super::network::{Held, Kept, NOT_GIVEN_BACK};
use super::node::{BUSYBOX, FOREVER, Node, cgroups_with, pod, pod_with};

super::on_each_containerd!(
    names_of_calls_that_never_ended_are_passed_over,
    names_of_calls_that_outlast_their_deadline_are_passed_over,
    a_name_reserved_by_a_call_that_was_dropped_is_passed_over,
    a_network_that_is_not_given_back_holds_up_nothing,
    a_cgroup_that_stays_busy_holds_up_nothing,
);

/// Less than any call that hangs may take.
const SOON: Duration = Duration::from_secs(30);

/// Whether there is a warning with this reason and these words about a Pod of the node.
async fn is_warned(node: &Node, reason: &str, words: &str) -> bool {
    let events = fetch(&node.path("run"), "/v1/events").await;
    let events: Vec<Event> = events.unwrap_or_default();
    let mut events = events.iter();
    events.any(|e| e.reason == reason && e.message.contains(words))
}

/// Waits until a Pod's container `c` runs, with the restart count and the log file of its attempt; returns the
/// attempt.
async fn wait_attempt(node: &Node, pod: &str) -> u32 {
    let attempt = node.wait_running(pod).await.metadata.unwrap().attempt;
    let report = node
        .wait("the Pod is up", async || {
            node.report(pod).await.filter(|r| r.ready == 1)
        })
        .await;
    assert_eq!(report.restarts, attempt, "{report:#?}");
    let log = node.path("logs").join(format!(
        "default_{}_{}/c/{attempt}.log",
        node.full_name(pod),
        report.uid
    ));
    node.wait_until("its log is written", async || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("up"))
    })
    .await;
    attempt
}

/// Whether a step of this name is under way for a Pod.
async fn is_under_way(node: &Node, pod: &str, step: &str) -> bool {
    let report = node.report(pod).await.unwrap_or_default();
    report.steps.iter().any(|s| s.name == step)
}

async fn names_of_calls_that_never_ended_are_passed_over(mut node: Node) {
    node.patience = SOON;
    let dead = folder(node.path("dead"));
    let mount = Mounted::hanging(&dead);
    let held = Held::once(&node, &["network"]);
    node.put("network.yaml", &pod("network", FOREVER));
    let mounting = pod_with("mount", BUSYBOX, FOREVER, &host_path(&dead, ""));
    node.put("mount.yaml", &mounting);
    node.start_agent();
    held.wait(&node).await;
    node.wait_until("both calls hang", async || {
        is_under_way(&node, "mount", "CreateContainer").await
            && is_under_way(&node, "network", "RunPodSandbox").await
    })
    .await;
    // The calls go on in the runtime, and hold the names, without anybody who waits for them.
    node.kill_agent();
    mount.detach();
    node.start_agent();
    assert_eq!(wait_attempt(&node, "mount").await, 1);
    wait_attempt(&node, "network").await;
    let sandboxes = node.sandboxes().await;
    let metadata = sandboxes.iter().filter_map(|s| s.metadata.as_ref());
    let of_network = metadata.filter(|m| m.name.starts_with("network"));
    let attempts: Vec<u32> = of_network.map(|m| m.attempt).collect();
    assert_eq!(attempts, [1]);
    // What ends then leaves nothing behind.
    drop(mount);
    drop(held);
    node.remove("mount.yaml");
    node.remove("network.yaml");
    node.wait_gone().await;
}

async fn names_of_calls_that_outlast_their_deadline_are_passed_over(mut node: Node) {
    // The deadlines are minutes.
    if std::env::var_os("PODKEEPER_TEST_LONG").is_none() {
        return;
    }
    node.patience = Duration::from_secs(400);
    let dead = folder(node.path("dead"));
    let mount = Mounted::hanging(&dead);
    let held = Held::once(&node, &["network"]);
    node.put("network.yaml", &pod("network", FOREVER));
    let mounting = pod_with("mount", BUSYBOX, FOREVER, &host_path(&dead, ""));
    node.put("mount.yaml", &mounting);
    node.start_agent();
    let cause = format!("hostPath volumes may not answer: {}", dead.display());
    let names_path = async || {
        let report = node.report("mount").await;
        report.is_some_and(|r| r.message.contains(&cause))
    };
    node.wait_until("the path is named", &names_path).await;
    // The next attempts hang as well, and none of them hides the cause.
    let tried_again = async || {
        assert!(names_path().await, "{:#?}", node.report("mount").await);
        is_under_way(&node, "mount", "CreateContainer").await
    };
    node.wait_until("the container is tried again", tried_again)
        .await;
    mount.detach();
    assert!(wait_attempt(&node, "mount").await > 0);
    node.wait_until("the network plugin is named", async || {
        let report = node.report("network").await.unwrap_or_default();
        report.message.contains("network plugin (CNI)") || report.ready == 1
    })
    .await;
    wait_attempt(&node, "network").await;
    drop(mount);
    drop(held);
    node.remove("mount.yaml");
    node.remove("network.yaml");
    node.wait_gone().await;
}

async fn a_name_reserved_by_a_call_that_was_dropped_is_passed_over(mut node: Node) {
    node.patience = 2 * SOON;
    let dead = folder(node.path("dead"));
    let mount = Mounted::hanging(&dead);
    let other = format!(
        "  - name: other\n    image: {BUSYBOX}\n    command: [sh, -c, \"{FOREVER}\"]\n{}",
        host_path(&dead, "")
    );
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, &other));
    node.start_agent();
    let first = node.wait_running("web").await;
    node.wait_until("the other one hangs", async || {
        is_under_way(&node, "web", "CreateContainer").await
    })
    .await;
    node.kill_container(&first.id).await;
    node.wait_after("web", &first).await;
    node.wait_until("the call was dropped", async || {
        let report = node.report("web").await.unwrap_or_default();
        report.message.contains("cancelled since another container")
    })
    .await;
    mount.detach();
    let second = node.wait_container("web", "other").await;
    assert!(second.metadata.unwrap().attempt > 0);
    drop(mount);
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_network_that_is_not_given_back_holds_up_nothing(mut node: Node) {
    let graceful = |value: &str| {
        let env = format!("    env: [{{name: A, value: {value:?}}}]\n");
        pod_with("web", BUSYBOX, FOREVER, &env)
    };
    node.put("web.yaml", &graceful("1"));
    node.start_agent();
    let first = node.wait_running("web").await;
    let kept = Kept::new(&node, "web");
    node.put("web.yaml", &graceful("2"));
    let second = node.wait_after("web", &first).await;
    assert_ne!(second.pod_sandbox_id, first.pod_sandbox_id);
    let cleanup = node
        .wait("the clean-up fails", async || {
            node.report("web").await.and_then(|r| r.cleanup)
        })
        .await;
    assert_eq!(cleanup.reason, "FailedKillPod");
    assert!(
        cleanup.message.contains(NOT_GIVEN_BACK),
        "{}",
        cleanup.message
    );
    assert!(node.ps().contains(NOT_GIVEN_BACK), "{}", node.ps());
    assert!(is_warned(&node, "FailedKillPod", NOT_GIVEN_BACK).await);
    drop(kept);
    node.wait_until("all of the old version is gone", async || {
        node.sandboxes().await.len() == 1
    })
    .await;
    node.wait_until("nothing fails any more", async || {
        node.report("web")
            .await
            .is_some_and(|r| r.cleanup.is_none())
    })
    .await;
    // A removal, and the same manifest put back.
    let kept = Kept::new(&node, "web");
    node.remove("web.yaml");
    let report = node.wait_reason("web", "FailedKillPod").await;
    assert_eq!(report.phase, "Terminating");
    assert!(report.message.contains(NOT_GIVEN_BACK), "{report:#?}");
    node.put("web.yaml", &graceful("2"));
    node.wait_after("web", &second).await;
    drop(kept);
    node.wait_until("all of what was removed is gone", async || {
        node.sandboxes().await.len() == 1
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// A process that no kill ends, since a cgroup of the test's own has it frozen, until this is dropped.
struct Frozen {
    process: Child,
    freezer: PathBuf,
}

impl Frozen {
    /// Starts one, where cgroups are of version 1: in those of version 2 a kill ends what is frozen.
    fn start() -> Option<Self> {
        let freezer = Path::new("/sys/fs/cgroup/freezer");
        if !freezer.exists() {
            return None;
        }
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let freezer = freezer.join(format!("podkeeper-test-{}", process.id()));
        fs::create_dir(&freezer).unwrap();
        let frozen = Self { process, freezer };
        frozen.enter(&frozen.freezer);
        fs::write(frozen.freezer.join("freezer.state"), "FROZEN").unwrap();
        Some(frozen)
    }

    fn enter(&self, group: &Path) {
        let id = self.process.id().to_string();
        fs::write(group.join("cgroup.procs"), id).unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        fs::write(self.freezer.join("freezer.state"), "THAWED").unwrap();
        // It may have been killed while it was frozen.
        let _ = self.process.kill();
        self.process.wait().unwrap();
        fs::remove_dir(&self.freezer).unwrap();
    }
}

async fn a_cgroup_that_stays_busy_holds_up_nothing(mut node: Node) {
    let Some(frozen) = Frozen::start() else {
        return;
    };
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let mut container = node.wait_running("web").await;
    let uid = node.report("web").await.unwrap().uid;
    let mut groups = cgroups_with(&uid);
    groups.retain(|g| g.starts_with("/sys/fs/cgroup/memory") && g.ends_with(format!("pod{uid}")));
    let group = &groups[0];
    frozen.enter(group);
    let changed = pod_with("web", BUSYBOX, FOREVER, "    env: [{name: A, value: b}]\n");
    for manifest in [pod("web", FOREVER), changed] {
        node.remove("web.yaml");
        let PodReport { phase, message, .. } = node.wait_reason("web", "FailedRemoval").await;
        assert_eq!(phase, "Terminating");
        let path = group.to_str().unwrap();
        assert!(message.contains(path), "{message}");
        assert!(node.ps().contains(path), "{}", node.ps());
        assert!(is_warned(&node, "FailedRemoval", path).await);
        node.put("web.yaml", &manifest);
        container = node.wait_after("web", &container).await;
        node.wait_known(1).await;
        assert_eq!(node.report("web").await.unwrap().restarts, 0);
    }
    drop(frozen);
    node.wait_until("the old version's cgroup is gone", async || {
        cgroups_with(&uid).is_empty()
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}
