//! S9, each static Pod has a mirror Pod that kubectl shows; S10, selectors find it by the static Pod's labels;
//! S11, deleting it stops nothing, and it comes back.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, is_running, uid};
use crate::node::{BUSYBOX, FOREVER, Node, command, pod, pod_with};

mod shared {
    crate::with_apiserver!(
        shared:
        kubectl_shows_a_static_pod_and_selectors_find_it,
        a_deleted_mirror_comes_back_50_times_and_nothing_restarts,
        a_pod_that_restarts_is_seen_to,
        a_pod_that_was_over_and_one_that_is_paused_are_seen_to_come_back,
        what_happens_to_a_pod_stands_in_its_events,
        pods_of_others_are_left_alone,
    );
}

/// The manifest of Kubernetes' own page on static Pods, with a label and an image of this machine.
fn static_web() -> String {
    pod("static-web", FOREVER).replace(
        "  name: static-web",
        "  name: static-web\n  labels:\n    role: myrole",
    )
}

async fn kubectl_shows_a_static_pod_and_selectors_find_it(mut node: Node, cluster: Cluster) {
    node.name = "my-node1".into();
    cluster.admit(&mut node);
    node.put("static-web.yaml", &static_web());
    node.start_agent();
    cluster.wait_running(&node, "static-web").await;
    let shown = cluster.kubectl("get pods --selector role=myrole");
    let words: Vec<Vec<&str>> = shown
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(words.len(), 2, "{shown}");
    assert_eq!(words[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(
        words[1][..4],
        ["static-web-my-node1", "1/1", "Running", "0"],
        "{shown}"
    );
    assert_eq!(cluster.kubectl("get pods --selector role=other"), "");
    let wide = cluster.kubectl("get pod static-web-my-node1 --output wide");
    let report = node.report("static-web").await.unwrap();
    assert!(
        wide.contains(&report.ips[0]) && wide.contains("my-node1"),
        "{wide}"
    );

    node.remove("static-web.yaml");
    cluster.wait_no_mirror(&node, "static-web").await;
    node.wait_gone().await;
}

async fn a_deleted_mirror_comes_back_50_times_and_nothing_restarts(
    mut node: Node,
    cluster: Cluster,
) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let container = node.wait_running("web").await;
    let mut mirror = cluster.wait_running(&node, "web").await;
    let mut times = vec![];
    for time in 0..50 {
        let how = match time % 2 {
            0 => "--force --grace-period=0",
            _ => "--grace-period=30",
        };
        let name = node.full_name("web");
        cluster.kubectl(&format!("delete pod {name} --wait=false {how}"));
        let deleted = Instant::now();
        let before = uid(&mirror).to_owned();
        let is_back = |mirror: &Value| uid(mirror) != before && is_running(mirror);
        mirror = cluster.wait_mirror(&node, "web", is_back).await;
        times.push(deleted.elapsed());
        let status = &mirror["status"]["containerStatuses"][0];
        assert_eq!(status["restartCount"], 0);
        let id = format!("containerd://{}", container.id);
        assert_eq!(status["containerID"], id.as_str());
    }
    // Each time, where the machine has nothing else to do; it may have.
    times.sort_unstable();
    println!("the mirror was back, with its status, after {times:?}");
    assert!(times[times.len() / 2] < Duration::from_secs(2), "{times:?}");
    let running = node.running_one("web", "c").await.unwrap();
    assert_eq!(running.id, container.id);
}

async fn a_pod_that_restarts_is_seen_to(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    cluster.wait_running(&node, "web").await;
    node.kill_container(&first.id).await;
    let restarted = |mirror: &Value| {
        let status = &mirror["status"]["containerStatuses"][0];
        is_running(mirror) && status["restartCount"] == 1
    };
    let mirror = cluster.wait_mirror(&node, "web", restarted).await;
    let status = &mirror["status"]["containerStatuses"][0];
    assert_eq!(
        status["lastState"]["terminated"]["exitCode"], 137,
        "{status:#}"
    );
}

async fn what_happens_to_a_pod_stands_in_its_events(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.put("crash.yaml", &pod("crash", "exit 3"));
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    let describe = |pod: &str| cluster.kubectl(&format!("describe pod {}", node.full_name(pod)));
    node.wait_until("the start stands in the events", async || {
        let text = describe("web");
        ["Created", "Started"]
            .iter()
            .all(|reason| text.contains(reason))
    })
    .await;
    let events = |reason: &str| {
        let name = node.full_name("crash");
        let selector = format!("involvedObject.name={name},reason={reason}");
        let list = cluster
            .get(&format!("events --field-selector {selector}"))
            .unwrap();
        list["items"].as_array().unwrap().clone()
    };
    // The same again raises a count.
    let backoff = node
        .wait("the back-off is counted", async || {
            let found = events("BackOff");
            found.into_iter().find(|e| e["count"].as_i64() > Some(0))
        })
        .await;
    let mirror = cluster.mirror(&node, "crash").unwrap();
    let hash = &mirror["metadata"]["annotations"]["kubernetes.io/config.hash"];
    assert_eq!(backoff["involvedObject"]["uid"], *hash);
    assert_eq!(backoff["involvedObject"]["fieldPath"], "spec.containers{c}");
    assert_eq!(backoff["source"]["host"], node.name.as_str());
    assert_eq!(backoff["type"], "Warning");
    assert!(describe("crash").contains("BackOff"));
}

async fn pods_of_others_are_left_alone(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    // One that somebody bound to this node, and one that has the name of a mirror that is to come.
    let foreign = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {}\n  \
             containers: [{{name: c, image: i}}]\n",
            node.name
        )
    };
    let taken = node.full_name("late");
    let other = format!("other-{}", node.name);
    cluster.apply(&foreign(&other));
    cluster.apply(&foreign(&taken));
    let before = [&other, &taken].map(|name| cluster.get(&format!("pod {name}")).unwrap());
    node.put("late.yaml", &pod("late", FOREVER));
    node.wait_running("late").await;
    node.wait_until("the refusal is told", async || {
        node.log_lines_with("which is not the mirror Pod of this node") > 0
    })
    .await;
    let after = [&other, &taken].map(|name| cluster.get(&format!("pod {name}")).unwrap());
    assert_eq!(before, after);
    // When it goes, ours comes.
    cluster.kubectl(&format!(
        "delete pod {taken} --force --grace-period=0 --wait=false"
    ));
    cluster.wait_running(&node, "late").await;
    assert!(cluster.get(&format!("pod {other}")).is_some());
    cluster.kubectl(&format!(
        "delete pod {other} --force --grace-period=0 --wait=false"
    ));
}

async fn a_pod_that_was_over_and_one_that_is_paused_are_seen_to_come_back(
    mut node: Node,
    cluster: Cluster,
) {
    cluster.admit(&mut node);
    let never = "  restartPolicy: Never\n";
    let script = format!("trap 'exit 0' TERM; [ -e /out/second ] || exit 0; {FOREVER}");
    node.make_out();
    let spec = node.with_out(&format!("    $MOUNT\n  volumes: $OUT\n{never}"));
    node.put("web.yaml", &pod_with("web", BUSYBOX, &script, &spec));
    node.start_agent();
    let run_dir = format!("--run-dir={}", node.path("run").display());
    let ask = |action: &str| {
        let status = command(&[action, &run_dir, "web"]).status();
        assert!(status.unwrap().success(), "{action}");
    };
    let is_over = |mirror: &Value| mirror["status"]["phase"] == "Succeeded";
    cluster.wait_mirror(&node, "web", is_over).await;
    std::fs::write(node.path("out/second"), "").unwrap();
    ask("restart");
    cluster.wait_running(&node, "web").await;
    ask("pause");
    let is_paused = |mirror: &Value| {
        let status = &mirror["status"];
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        status["reason"] == "Paused" && waiting["reason"] == "Paused"
    };
    cluster.wait_mirror(&node, "web", is_paused).await;
    let shown = cluster.kubectl("get pods");
    assert!(shown.contains("   Paused   "), "{shown}");
    ask("resume");
    cluster.wait_running(&node, "web").await;
    node.remove("web.yaml");
    cluster.wait_no_mirror(&node, "web").await;
    node.wait_gone().await;
    let refused = node.log_lines_with("may not be transitioned");
    assert_eq!(refused, 0, "{}", node.log());
}
