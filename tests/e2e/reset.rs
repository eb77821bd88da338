//! `podkeeper reset` removes the Pods of an agent that no longer runs, and nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use super::node::{BUSYBOX, FOREVER, Node, cgroups_with, command, pod, pod_with};

super::on_each_containerd!(
    a_reset_leaves_nothing_of_the_pods_and_touches_no_others,
    a_reset_keeps_grace_periods_and_goes_on_after_a_timeout,
);

mod on_one {
    super::super::on_containerd!("2.1": without_a_runtime_a_reset_fails_where_there_are_pods);
}

/// Output of `podkeeper reset` for the agent of a node, which needs no source of manifests.
fn reset(node: &Node, flags: &[&str]) -> Output {
    let flag = |name: &str, folder: &str| format!("--{name}={}", node.path(folder).display());
    command(&["reset", "--force"])
        .arg(flag("root-dir", "root"))
        .arg(flag("pod-logs-dir", "logs"))
        .arg(flag("container-logs-dir", "container-logs"))
        .arg(format!(
            "--container-runtime-endpoint={}",
            node.client.endpoint()
        ))
        .args(flags)
        .output()
        .unwrap()
}

fn assert_done(output: &Output) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
}

fn assert_refused(output: &Output, reason: &str) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains(reason), "{log}");
}

async fn a_reset_leaves_nothing_of_the_pods_and_touches_no_others(mut node: Node) {
    let mut other = Node::new(node.version);
    other.put("other.yaml", &pod("other", FOREVER));
    other.start_agent();
    let others = other.wait_running("other").await;
    let volumes = "    volumeMounts: [{name: memory, mountPath: /memory}]\n  volumes: [{name: memory, emptyDir: {medium: Memory}}]\n";
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, volumes));
    // The cgroups of all Pods go too, and the tests beside this one have Pods of their own below the root.
    let cgroup_root = format!("--cgroup-root=/{}", node.name);
    node.extra_flags.push(cgroup_root.clone());
    node.start_agent();
    let container = node.wait_running("web").await;
    let uid = node.report("web").await.unwrap().uid;
    assert_refused(
        &reset(&node, &[&cgroup_root]),
        "podkeeper runs with the root directory",
    );

    node.end_agent();
    fs::create_dir(node.path("root/seccomp")).unwrap();
    assert_eq!(node.wait_running("web").await.id, container.id);
    assert_done(&reset(&node, &[&cgroup_root]));
    assert_eq!(node.leftovers().await, [""; 0]);
    assert_eq!(cgroups_with(&uid), Vec::<PathBuf>::new());
    assert_eq!(
        cgroups_with(&format!("{}/", node.name)),
        Vec::<PathBuf>::new()
    );
    let mut kept: Vec<_> = fs::read_dir(node.path("root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    kept.sort();
    assert_eq!(kept, ["lock", "seccomp"]);
    assert_done(&reset(&node, &[&cgroup_root]));
    assert_eq!(other.wait_running("other").await.id, others.id);

    // What was accepted before does not come back by itself, and a manifest that is still there does.
    node.start_agent();
    assert_ne!(node.wait_running("web").await.id, container.id);
    other.remove("other.yaml");
    other.wait_gone().await;
    node.end_agent();
    assert_done(&reset(&node, &[&cgroup_root]));
    for folder in cgroups_with(&node.name) {
        fs::remove_dir(folder).unwrap();
    }
}

async fn a_reset_keeps_grace_periods_and_goes_on_after_a_timeout(mut node: Node) {
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    let grace = "  terminationGracePeriodSeconds: 6\n";
    node.put("deaf.yaml", &pod_with("deaf", BUSYBOX, deaf, grace));
    node.start_agent();
    let container = node.wait_running("deaf").await;
    node.kill_agent();
    let reason = format!(
        "waiting for Pods to be removed: default/{}",
        node.full_name("deaf")
    );
    assert_refused(&reset(&node, &["--timeout=2s"]), &reason);
    let running = node.containers().await;
    assert!(running.iter().any(|c| c.id == container.id), "{running:?}");
    assert_done(&reset(&node, &[]));
    assert_eq!(node.leftovers().await, [""; 0]);
}

async fn without_a_runtime_a_reset_fails_where_there_are_pods(node: Node) {
    let nowhere = format!(
        "--container-runtime-endpoint=unix://{}",
        node.path("no.sock").display()
    );
    let flags = [nowhere.as_str(), "--timeout=1s"];
    assert_done(&reset(&node, &flags));
    let folder = node.path("root/pods/05959fa4fbfb1f507f5d23e1992861b4");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("pod.json"), "{}").unwrap();
    assert_refused(&reset(&node, &flags), "its Pods may still run");
    assert!(folder.exists());
    let output = command(&["reset"]).output().unwrap();
    assert_refused(&output, "--force confirms that");
}
