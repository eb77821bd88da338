//! An edit is a safe swap.

use super::node::{BUSYBOX, FOREVER, Node, PATIENCE, pod, pod_with};

super::on_each_containerd!(
    an_edit_stops_the_old_pod_and_starts_the_new_one,
    an_edit_to_an_image_that_cannot_be_had_leaves_the_old_pod_running,
    several_edits_in_a_row_end_in_the_last_one,
    a_file_removed_during_an_update_stops_everything,
    a_manifest_that_comes_back_while_its_pod_stops_runs_again,
    an_edit_while_the_old_pod_stops_waits_for_its_end,
    a_host_path_that_is_not_there_does_not_take_the_old_pod_down,
);

/// The main path, on the newest containerd as well.
mod v2_4 {
    super::super::on_containerd!("2.4": an_edit_stops_the_old_pod_and_starts_the_new_one);
}

const OTHER_IMAGE: &str = "localhost/podkeeper/busybox:2";
const MISSING_IMAGE: &str = "localhost/podkeeper/nowhere:1";

/// A script that takes a second to end.
const SLOW_TO_END: &str = "trap 'sleep 1; exit 0' TERM; echo up; while :; do sleep 0.1; done";

/// Which image runs; nothing while none does, or while it is being stopped.
async fn image_version(node: &Node, pod: &str) -> Option<String> {
    let container = node.running_one(pod, "c").await?;
    let command = ["cat", "/etc/image-version"].map(str::to_owned);
    let done = node
        .client
        .exec_sync(&container.id, &command, PATIENCE)
        .await
        .ok()?;
    (done.exit_code == 0).then(|| String::from_utf8(done.stdout).unwrap())
}

async fn an_edit_stops_the_old_pod_and_starts_the_new_one(mut node: Node) {
    node.make_out();
    let hook = node.with_out(
        "    lifecycle: {preStop: {exec: {command: [touch, /out/hook]}}}\n    $MOUNT\n  volumes: $OUT\n",
    );
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, &hook));
    node.start_agent();
    let first = node.wait_running("web").await;
    let old_uid = node.report("web").await.unwrap().uid;
    node.put("web.yaml", &pod_with("web", OTHER_IMAGE, FOREVER, &hook));
    node.wait_after("web", &first).await;
    assert_eq!(image_version(&node, "web").await.unwrap(), "2\n");
    assert!(
        node.path("out/hook").exists(),
        "the old version's preStop hook ran"
    );
    node.wait_until("the old version is gone", async || {
        let left = node.leftovers().await;
        !left.iter().any(|l| l.contains(&old_uid)) && node.sandboxes().await.len() == 1
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn an_edit_to_an_image_that_cannot_be_had_leaves_the_old_pod_running(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    node.put("web.yaml", &pod_with("web", MISSING_IMAGE, FOREVER, ""));
    let update = node
        .wait("the update waits with its reason", async || {
            let update = node.report("web").await?.update;
            update.filter(|u| u.reason == "ErrImagePull" && !u.message.is_empty())
        })
        .await;
    assert!(update.message.contains("nowhere"), "{update:#?}");
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    // The old version keeps being looked after, also by an agent that is started now.
    node.kill_agent();
    node.start_agent();
    node.wait_until("the update still waits", async || {
        node.report("web").await.is_some_and(|r| r.update.is_some())
    })
    .await;
    node.kill_container(&first.id).await;
    let second = node.wait_after("web", &first).await;
    assert_eq!(second.pod_sandbox_id, first.pod_sandbox_id);
    node.put("web.yaml", &pod_with("web", OTHER_IMAGE, FOREVER, ""));
    node.wait_until("a good edit takes over", async || {
        image_version(&node, "web").await.as_deref() == Some("2\n")
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn several_edits_in_a_row_end_in_the_last_one(mut node: Node) {
    node.put("web.yaml", &pod("web", SLOW_TO_END));
    node.start_agent();
    node.wait_running("web").await;
    for number in 0..10 {
        node.put(
            "web.yaml",
            &pod("web", &format!("echo edit {number}; {FOREVER}")),
        );
        tokio::time::sleep(std::time::Duration::from_millis(number * 30)).await;
    }
    let path = node.manifest("web.yaml");
    let last = std::fs::read(&path).unwrap();
    let last = podkeeper::manifest::parse(&last, &node.name, podkeeper::manifest::SourceKind::File);
    let uid = last.unwrap().pod.uid.to_string();
    node.wait_until("the last edit runs alone", async || {
        let sandboxes = node.sandboxes().await;
        let running = node.running_one("web", "c").await;
        sandboxes.len() == 1
            && sandboxes[0].metadata.as_ref().unwrap().uid == uid
            && running.is_some()
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_file_removed_during_an_update_stops_everything(mut node: Node) {
    node.put("web.yaml", &pod("web", SLOW_TO_END));
    node.start_agent();
    node.wait_running("web").await;
    node.put("web.yaml", &pod_with("web", OTHER_IMAGE, FOREVER, ""));
    node.wait_stopping().await;
    node.remove("web.yaml");
    node.wait_gone().await;
    // And one whose image is missing, with the old version running.
    node.put("web.yaml", &pod("web", FOREVER));
    node.wait_running("web").await;
    node.put("web.yaml", &pod_with("web", MISSING_IMAGE, FOREVER, ""));
    node.wait_until("the update waits", async || {
        node.report("web").await.is_some_and(|r| r.update.is_some())
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_manifest_that_comes_back_while_its_pod_stops_runs_again(mut node: Node) {
    node.put("web.yaml", &pod("web", SLOW_TO_END));
    node.start_agent();
    let first = node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_stopping().await;
    node.put("web.yaml", &pod("web", SLOW_TO_END));
    let second = node.wait_after("web", &first).await;
    assert_ne!(
        second.pod_sandbox_id, first.pod_sandbox_id,
        "after the old one had ended"
    );
    assert_eq!(second.metadata.unwrap().attempt, 0);
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn an_edit_while_the_old_pod_stops_waits_for_its_end(mut node: Node) {
    node.put("web.yaml", &pod("web", SLOW_TO_END));
    node.start_agent();
    let first = node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_stopping().await;
    node.put("web.yaml", &pod_with("web", OTHER_IMAGE, FOREVER, ""));
    // `running_one` fails the test if ever two run at once.
    node.wait_after("web", &first).await;
    assert_eq!(image_version(&node, "web").await.unwrap(), "2\n");
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_host_path_that_is_not_there_does_not_take_the_old_pod_down(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    let missing = node.path("missing");
    let volume = format!(
        "    volumeMounts: [{{name: v, mountPath: /v}}]\n  volumes: [{{name: v, hostPath: {{path: {}, type: Directory}}}}]\n",
        missing.display()
    );
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, &volume));
    let update = node
        .wait("the update waits", async || {
            node.report("web")
                .await?
                .update
                .filter(|u| u.reason == "FailedMount")
        })
        .await;
    assert!(update.message.contains("spec.volumes[0]"), "{update:#?}");
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    std::fs::create_dir(&missing).unwrap();
    node.wait_after("web", &first).await;
    node.remove("web.yaml");
    node.wait_gone().await;
}
