//! An update that does not become Ready in time is taken back, over restarts of the agent too.

use super::node::{FOREVER, Node, on_trial};

super::on_each_containerd!(
    an_update_that_is_not_ready_in_time_is_taken_back_until_the_manifest_changes,
);

async fn an_update_that_is_not_ready_in_time_is_taken_back_until_the_manifest_changes(
    mut node: Node,
) {
    node.put("web.yaml", &on_trial("web", "3s", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    node.wait_known(1).await;
    let good = node.report("web").await.unwrap().uid;

    let broken = on_trial("web", "3s", "echo no database; exit 3");
    node.put("web.yaml", &broken);
    node.wait_until("the update is tried", async || {
        let report = node.report("web").await.unwrap_or_default();
        // Its next start is a while away then: one that the agent's death cuts short ends in another way.
        let mut containers = report.containers.iter();
        let backs_off = containers.any(|c| c.reason == "CrashLoopBackOff");
        report.uid != good && backs_off
    })
    .await;
    // In the middle of the trial.
    node.kill_agent();
    node.start_agent();
    node.wait_until("the update is taken back", async || {
        let report = node.report("web").await.unwrap_or_default();
        report.uid == good && report.ready == 1
    })
    .await;
    let update = node.report("web").await.unwrap().update.unwrap();
    assert_eq!(update.reason, "RolledBack");
    assert!(update.message.contains("exit code 3"), "{}", update.message);

    let running = node.wait_running("web").await;
    node.kill_agent();
    node.start_agent();
    node.wait_known(1).await;
    let report = node.report("web").await.unwrap();
    assert_eq!(report.uid, good, "it stays taken back");
    assert_eq!(report.update.unwrap().reason, "RolledBack");
    assert_eq!(node.wait_running("web").await.id, running.id);

    node.put("web.yaml", &on_trial("web", "1m", FOREVER));
    node.wait_until("another update is tried and is good", async || {
        let report = node.report("web").await.unwrap_or_default();
        report.uid != good && report.ready == 1 && report.update.is_none()
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
    // That is the last thing of it that goes.
    node.wait_until("nothing is kept of the update", async || {
        let kept = std::fs::read_dir(node.path("root/rollbacks"));
        kept.unwrap().count() == 0
    })
    .await;
}
