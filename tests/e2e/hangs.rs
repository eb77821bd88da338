//! A network or a mount that does not answer holds up its own Pod and nobody else.

use std::path::Path;
use std::time::Duration;

use super::mounts::{Mounted, folder};
use super::network::Held;
use super::node::{BUSYBOX, FOREVER, Node, manifest, pod, pod_with};

super::on_each_containerd!(
    a_network_that_hangs_holds_up_nobody_else,
    a_pod_whose_network_hangs_follows_its_manifest,
    a_host_path_that_hangs_in_an_update_leaves_the_old_version_supervised,
    a_host_path_that_hangs_holds_up_nobody_else,
    a_post_start_hook_that_leaves_a_child_is_waited_for_and_shown,
);

/// Less than any call that hangs may take.
const SOON: Duration = Duration::from_secs(30);

/// The lines of a Pod's spec that mount a host path in its container.
pub(crate) fn host_path(path: &Path, kind: &str) -> String {
    format!(
        "    volumeMounts: [{{name: v, mountPath: /v}}]\n  volumes: [{{name: v, hostPath: {{path: {}, \
         type: {kind:?}}}}}]\n",
        path.display()
    )
}

/// Pods that run before anything hangs.
async fn others_run(node: &mut Node) {
    node.patience = SOON;
    node.flag("runtime-concurrency", "2");
    for name in ["killed", "edited", "removed"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    node.start_agent();
    for name in ["killed", "edited", "removed"] {
        node.wait_running(name).await;
    }
}

/// Kills, edits and removes them, and starts one on the host's network.
async fn others_do_not_notice(node: &Node) {
    let host = pod_with("host", BUSYBOX, FOREVER, "  hostNetwork: true\n");
    node.put("host.yaml", &host);
    node.wait_running("host").await;
    let killed = node.wait_running("killed").await;
    node.kill_container(&killed.id).await;
    node.wait_after("killed", &killed).await;
    let edited = node.wait_running("edited").await;
    let grace = pod_with(
        "edited",
        BUSYBOX,
        FOREVER,
        "  terminationGracePeriodSeconds: 3\n",
    );
    node.put("edited.yaml", &grace);
    node.wait_after("edited", &edited).await;
    node.remove("removed.yaml");
    node.wait_until("it is removed", async || {
        node.report("removed").await.is_none()
    })
    .await;
}

async fn a_network_that_hangs_holds_up_nobody_else(mut node: Node) {
    others_run(&mut node).await;
    let hanging = ["h0", "h1", "h2", "h3"];
    let held = Held::new(&node, &hanging);
    for name in hanging {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    held.wait(&node).await;
    others_do_not_notice(&node).await;
    // Others that start for the first time come to run as well.
    node.put("late.yaml", &pod("late", FOREVER));
    node.wait_running("late").await;
    drop(held);
    for name in hanging {
        node.wait_running(name).await;
    }
}

async fn a_pod_whose_network_hangs_follows_its_manifest(mut node: Node) {
    node.patience = SOON;
    let held = Held::new(&node, &["removed", "edited"]);
    node.put("removed.yaml", &pod("removed", FOREVER));
    node.put("edited.yaml", &pod("edited", FOREVER));
    node.start_agent();
    held.wait(&node).await;
    node.remove("removed.yaml");
    node.wait_until("it is removed", async || {
        node.report("removed").await.is_none()
    })
    .await;
    let host = pod_with("edited", BUSYBOX, FOREVER, "  hostNetwork: true\n");
    node.put("edited.yaml", &host);
    node.wait_running("edited").await;
    node.remove("edited.yaml");
    node.wait_gone().await;
}

async fn a_host_path_that_hangs_in_an_update_leaves_the_old_version_supervised(mut node: Node) {
    node.patience = SOON;
    let dead = folder(node.path("dead"));
    let _mount = Mounted::hanging(&dead);
    node.put("p.yaml", &pod("p", FOREVER));
    node.start_agent();
    let first = node.wait_running("p").await;
    let uid = node.report("p").await.unwrap().uid;
    let volumes = host_path(&dead, "Directory");
    let update = pod_with("p", BUSYBOX, FOREVER, &volumes);
    node.put("p.yaml", &update);
    node.wait_until("the update waits for the mount", async || {
        let report = node.report("p").await;
        let update = report.and_then(|r| r.update);
        let named = |message: &str| message.contains(&dead.display().to_string());
        update.is_some_and(|u| u.reason == "FailedMount" && named(&u.message))
    })
    .await;
    node.kill_container(&first.id).await;
    let second = node.wait_after("p", &first).await;
    let report = node.report("p").await.unwrap();
    assert_eq!(report.uid, uid, "the old version runs");
    node.put("p.yaml", &pod("p", FOREVER));
    node.wait_until("the update is taken back", async || {
        node.report("p").await.is_some_and(|r| r.update.is_none())
    })
    .await;
    assert_eq!(node.wait_running("p").await.id, second.id);
    node.put("p.yaml", &update);
    node.wait_until("the update waits again", async || {
        node.report("p").await.is_some_and(|r| r.update.is_some())
    })
    .await;
    node.remove("p.yaml");
    node.wait_gone().await;
}

async fn a_host_path_that_hangs_holds_up_nobody_else(mut node: Node) {
    others_run(&mut node).await;
    let dead = folder(node.path("dead"));
    let mount = Mounted::hanging(&dead);
    // One that the agent looks at, and those that the runtime does.
    for (name, kind) in [
        ("h0", ""),
        ("h1", ""),
        ("h2", ""),
        ("h3", "DirectoryOrCreate"),
    ] {
        let hanging = pod_with(name, BUSYBOX, FOREVER, &host_path(&dead, kind));
        node.put(&format!("{name}.yaml"), &hanging);
    }
    node.wait_until("a container hangs", async || {
        node.log().matches("CreateContainer").count() > 0 || node.sandboxes().await.len() >= 6
    })
    .await;
    others_do_not_notice(&node).await;
    for name in ["h0", "h1", "h2", "h3"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_until("they are removed", async || {
        let pods = node.status().await.pods;
        !pods
            .iter()
            .any(|p| p.name.starts_with('h') && !p.name.starts_with("host"))
    })
    .await;
    drop(mount);
}

async fn a_post_start_hook_that_leaves_a_child_is_waited_for_and_shown(mut node: Node) {
    node.patience = SOON;
    let spec = "
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    lifecycle: {postStart: {exec: {command: [sh, -c, 'sleep 300 &']}}}
";
    node.put("web.yaml", &manifest("web", spec));
    node.start_agent();
    let mut container = node.wait_running("web").await;
    let is_shown = "container c: under way: PostStartHook for";
    for end in ["killed", "waited for"] {
        node.wait_until("the hook is shown", async || node.ps().contains(is_shown))
            .await;
        assert_eq!(
            node.report("web").await.unwrap().ready,
            0,
            "not Ready before"
        );
        if end == "killed" {
            node.kill_container(&container.id).await;
            container = node.wait_after("web", &container).await;
        }
    }
    let child = "kill $(ps | grep '[s]leep 300' | awk '{print $1}')";
    node.wait_until("the child is there", async || {
        node.sh(&container.id, "ps | grep -c '[s]leep 300'; true")
            .await
            == "1"
    })
    .await;
    node.sh(&container.id, child).await;
    node.wait_known(1).await;
    assert_eq!(node.wait_running("web").await.id, container.id);
    assert!(!node.ps().contains(is_shown), "{}", node.ps());
    // An edit and a removal do not wait for it.
    let edited = manifest("web", &format!("{spec}    env: [{{name: A, value: b}}]\n"));
    node.put("web.yaml", &edited);
    node.wait_after("web", &container).await;
    node.wait_until("the hook is shown", async || node.ps().contains(is_shown))
        .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}
