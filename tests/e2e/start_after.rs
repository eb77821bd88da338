//! Pods that are started after others, and what is refused of such an order.

use super::cli::{output, text};
use super::node::{FOREVER, Node, pod};

super::on_each_containerd!(a_pod_is_started_after_another_and_a_circle_takes_nothing_down);

/// A Pod that is started after others.
fn after(name: &str, others: &str) -> String {
    let order = format!("metadata:\n  annotations:\n    podkeeper.io/start-after: {others}\n");
    pod(name, FOREVER).replace("metadata:\n", &order)
}

async fn a_pod_is_started_after_another_and_a_circle_takes_nothing_down(mut node: Node) {
    node.put("web.yaml", &after("web", "db"));
    node.start_agent();
    let (web, db) = (node.full_name("web"), node.full_name("db"));
    let waits = format!("the first start waits for Pods to be Ready: default/{db} (not found)");
    node.wait_until("it is held", async || {
        let ps = node.ps();
        ps.contains("WaitingForPods") && ps.contains(&waits)
    })
    .await;
    let page = text(&output(&node, &["describe", "web"]).stdout);
    for words in [
        &waits,
        "WaitingForPods",
        "Waiting for Pods to become Ready before the first start: ",
    ] {
        assert!(page.contains(words), "no {words:?} in\n{page}");
    }
    let pods = text(&output(&node, &["get", "-o", "json"]).stdout);
    assert!(pods.contains("\"reason\": \"WaitingForPods\""), "{pods}");
    let waiting = output(&node, &["wait", "web", "--timeout=1s"]);
    let said = text(&waiting.stderr);
    assert!(said.contains(&waits), "{said}");
    node.kill_agent();
    node.start_agent();
    node.wait_until("it is held by the next agent", async || {
        node.ps().contains(&waits)
    })
    .await;
    assert_eq!(node.sandboxes().await.len(), 0);

    node.put("db.yaml", &pod("db", FOREVER));
    let before = [
        node.wait_running("db").await.id,
        node.wait_running("web").await.id,
    ];
    // Each waits for the other now: the edit is refused, over a restart of the agent too.
    node.put("db.yaml", &after("db", "web"));
    let refused = format!(
        "{}:5:31: metadata.annotations[podkeeper.io/start-after]: makes Pods wait for each other: \
         default/{db} -> default/{web} -> default/{db}",
        node.manifest("db.yaml").display()
    );
    let keeps = format!("default/{db} keeps running as last accepted from there");
    for _ in 0..2 {
        node.wait_until("the edit is refused", async || {
            let ps = node.ps();
            ps.contains(&refused) && ps.contains(&keeps)
        })
        .await;
        node.wait_known(2).await;
        let now = [
            node.wait_running("db").await.id,
            node.wait_running("web").await.id,
        ];
        assert_eq!(now, before);
        node.kill_agent();
        node.start_agent();
    }
    let check = node.path("manifests").display().to_string();
    let checked = super::node::command(&["check", &check]).output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    let said = text(&checked.stdout);
    assert_eq!(
        said.matches("makes Pods wait for each other").count(),
        2,
        "{said}"
    );
    node.wait_known(2).await;
    let plan = text(&output(&node, &["plan"]).stdout);
    assert!(plan.contains("1 unchanged, 1 refused"), "{plan}");

    node.put("db.yaml", &pod("db", &format!("echo new; {FOREVER}")));
    let is_new = async || {
        let report = node.report("db").await.unwrap_or_default();
        report.ready == 1 && report.containers[0].id != before[0] && !node.ps().contains(&refused)
    };
    node.wait_until("a good edit is carried out", is_new).await;
    assert_eq!(node.wait_running("web").await.id, before[1]);
    node.remove("web.yaml");
    node.remove("db.yaml");
    node.wait_gone().await;
}
