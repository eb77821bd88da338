//! S13: a Pod whose manifest is removed stops within its grace period and leaves nothing on the node.

use std::fs;
use std::time::{Duration, Instant};

use super::node::{FOREVER, Node, cgroups_with, pod_with};

super::on_each_containerd!(
    nothing_of_a_removed_pod_is_left_five_seconds_later,
    a_container_gets_its_grace_period_and_no_more,
    the_pre_stop_hook_comes_before_the_signal,
    a_process_that_the_runtime_lost_goes_with_its_pod,
);

/// The main path, on the newest containerd as well.
mod v2_4 {
    super::super::on_containerd!("2.4": nothing_of_a_removed_pod_is_left_five_seconds_later);
}

async fn nothing_of_a_removed_pod_is_left_five_seconds_later(mut node: Node) {
    node.start_agent();
    let mut left = vec![];
    // A machine that is busy with something else may be late once; what is late three times is.
    for _ in 0..3 {
        left = left_five_seconds_later(&node).await;
        node.wait_gone().await;
        if left.is_empty() {
            return;
        }
    }
    panic!("three times in a row, and last: {left:#?}");
}

/// Removes a Pod; gives what is left of it five seconds after its process has ended.
async fn left_five_seconds_later(node: &Node) -> Vec<String> {
    let volumes = "    volumeMounts: [{name: scratch, mountPath: /scratch}]\n  volumes: [{name: scratch, emptyDir: {}}]\n";
    let script = format!("touch /scratch/file; {FOREVER}");
    node.put(
        "web.yaml",
        &pod_with("web", super::node::BUSYBOX, &script, volumes),
    );
    let container = node.wait_running("web").await;
    let uid = node.report("web").await.unwrap().uid;
    assert_ne!(
        cgroups_with(&uid),
        Vec::<std::path::PathBuf>::new(),
        "it had cgroups"
    );
    let process = node.process(&container.id).await;
    let sandbox = container.pod_sandbox_id.clone();
    assert!(mounts_with(&sandbox) > 0, "it had mounts");
    node.remove("web.yaml");
    node.wait_until("its process has ended", async || {
        !fs::exists(format!("/proc/{process}")).unwrap()
    })
    .await;
    let ended = Instant::now();
    // A look takes time itself, and what counts is when it begins.
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let is_last = ended.elapsed() >= Duration::from_secs(5);
        let mut left = node.leftovers().await;
        left.extend(cgroups_with(&uid).iter().map(|p| p.display().to_string()));
        left.extend((mounts_with(&sandbox) > 0).then(|| "mounts of the sandbox".to_owned()));
        left.extend((mounts_with(&container.id) > 0).then(|| "mounts of the container".to_owned()));
        left.extend(processes_with(&sandbox));
        if left.is_empty() || is_last {
            return left;
        }
    }
}

pub(crate) fn mounts_with(words: &str) -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|l| l.contains(words)).count()
}

/// Processes with these words in their command line: a sandbox's shim has its id there.
fn processes_with(words: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let line = |path: std::path::PathBuf| fs::read(path.join("cmdline")).unwrap_or_default();
    let lines = processes.map(|p| String::from_utf8_lossy(&line(p.path())).into_owned());
    lines.filter(|l| l.contains(words)).collect()
}

async fn a_container_gets_its_grace_period_and_no_more(mut node: Node) {
    let deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    let grace = "  terminationGracePeriodSeconds: 3\n";
    node.put(
        "deaf.yaml",
        &pod_with("deaf", super::node::BUSYBOX, deaf, grace),
    );
    node.start_agent();
    let container = node.wait_running("deaf").await;
    let process = node.process(&container.id).await;
    let removed = Instant::now();
    node.remove("deaf.yaml");
    node.wait_until("it says that it ends", async || {
        node.report("deaf")
            .await
            .is_some_and(|r| r.phase == "Terminating")
    })
    .await;
    node.wait_until("it was killed", async || {
        !fs::exists(format!("/proc/{process}")).unwrap()
    })
    .await;
    let took = removed.elapsed();
    assert!(took >= Duration::from_millis(2900), "it had only {took:?}");
    assert!(took < Duration::from_secs(10), "it had {took:?}");
    node.wait_gone().await;
}

async fn the_pre_stop_hook_comes_before_the_signal(mut node: Node) {
    node.make_out();
    let script =
        "trap 'echo signal >> /out/order; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let more = node.with_out(
        "    lifecycle: {preStop: {exec: {command: [sh, -c, \"sleep 0.5; echo hook >> /out/order\"]}}}\n    \
         $MOUNT\n  volumes: $OUT\n",
    );
    node.put(
        "web.yaml",
        &pod_with("web", super::node::BUSYBOX, script, &more),
    );
    node.start_agent();
    node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_gone().await;
    assert_eq!(node.lines("order"), ["hook", "signal"]);
    // The next one's hook is an HTTP request, here to a port where nobody listens: it is stopped all
    // the same.
    let hook = "    lifecycle: {preStop: {httpGet: {port: 9}}}\n";
    node.put(
        "web.yaml",
        &pod_with("web", super::node::BUSYBOX, FOREVER, hook),
    );
    node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_gone().await;
    assert_eq!(node.log_lines_with("PreStop hook failed"), 1);
}

async fn a_process_that_the_runtime_lost_goes_with_its_pod(mut node: Node) {
    node.put("web.yaml", &super::node::pod("web", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    let uid = node.report("web").await.unwrap().uid;
    let mut lost = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let mut groups = cgroups_with(&uid);
    groups.retain(|group| group.ends_with(format!("pod{uid}")));
    let group = groups
        .iter()
        .find(|group| group.starts_with("/sys/fs/cgroup/memory"));
    let group = group.unwrap_or(&groups[0]);
    fs::write(group.join("cgroup.procs"), lost.id().to_string()).unwrap();
    node.remove("web.yaml");
    node.wait_until("no cgroup is left", async || cgroups_with(&uid).is_empty())
        .await;
    assert!(!lost.wait().unwrap().success(), "it was killed");
    node.wait_gone().await;
}
