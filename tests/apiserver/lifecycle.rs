//! The mirror Pods follow the static Pods, whenever the agent or the API server is not there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, Watch, is_running, uid};
use crate::endpoint::start;
use crate::node::{BUSYBOX, FOREVER, Node, pod, pod_with};
use crate::proxy::Proxy;

mod shared {
    crate::with_apiserver!(
        shared:
        a_mirror_is_replaced_when_its_pod_changes,
        an_edited_pod_keeps_its_mirror_for_the_whole_grace_period,
        a_mirror_stays_until_its_pod_has_really_ended,
        a_mirror_is_adopted_by_the_next_agent,
        the_mirror_of_a_pod_that_went_without_an_agent_goes_with_the_next,
        a_shutdown_of_the_machine_shows_until_the_next_boot,
    );
}

mod own {
    crate::with_apiserver!(
        own:
        what_changes_while_the_api_server_is_away_is_right_when_it_is_back,
        a_pod_removed_in_the_agents_first_second_has_no_mirror_in_the_end,
        after_a_wipe_everything_comes_back,
        without_an_api_server_pods_start_and_stop,
    );
}

fn hash(mirror: &Value) -> &Value {
    &mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"]
}

async fn a_mirror_is_replaced_when_its_pod_changes(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    let before = cluster.wait_running(&node, "web").await;
    node.put("web.yaml", &pod("web", &format!("{FOREVER} # changed")));
    node.wait_after("web", &first).await;
    let is_new = |mirror: &Value| hash(mirror) != hash(&before) && is_running(mirror);
    let after = cluster.wait_mirror(&node, "web", is_new).await;
    assert_ne!(uid(&before), uid(&after));
    let uid = node.report("web").await.unwrap().uid;
    assert_eq!(*hash(&after), uid.as_str());
}

/// The Pods that the node serves at `/pods`.
fn served_pods(cluster: &Cluster, node: &Node) -> Vec<Value> {
    let path = format!("/api/v1/nodes/{}/proxy/pods", node.name);
    let list = cluster.kubectl(&format!("get --raw {path}"));
    let list: Value = serde_json::from_str(&list).unwrap();
    list["items"].as_array().unwrap().clone()
}

async fn an_edited_pod_keeps_its_mirror_for_the_whole_grace_period(
    mut node: Node,
    cluster: Cluster,
) {
    const GRACE: Duration = Duration::from_secs(12);
    // It ends only when it is killed.
    let deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    let grace = format!("  terminationGracePeriodSeconds: {}\n", GRACE.as_secs());
    node.put("web.yaml", &pod_with("web", BUSYBOX, deaf, &grace));
    start(&mut node, &cluster);
    let container = node.wait_running("web").await;
    let before = cluster.wait_running(&node, "web").await;
    let version = node.report("web").await.unwrap().uid;
    assert_eq!(*hash(&before), version.as_str());
    let watch = Watch::start(&cluster, &before);

    let edited = Instant::now();
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, &grace));
    // What is seen before the old container is found running was seen while it ran.
    let (mut seen, mut ran) = (0, Duration::ZERO);
    loop {
        let mirror = cluster.mirror(&node, "web");
        let shown = node.report("web").await;
        let pods = served_pods(&cluster, &node);
        let time = edited.elapsed();
        let running = node.running_one("web", "c").await;
        if running.is_none_or(|running| running.id != container.id) {
            break;
        }
        let mirror = mirror.unwrap();
        assert_eq!(uid(&mirror), uid(&before), "after {time:?}: {mirror:#}");
        assert_eq!(mirror["status"]["phase"], "Running", "after {time:?}");
        assert_eq!(shown.unwrap().uid, version, "after {time:?}");
        assert_eq!(pods.len(), 1, "after {time:?}");
        assert_eq!(uid(&pods[0]), version, "after {time:?}");
        assert_eq!(pods[0]["status"]["phase"], "Running", "after {time:?}");
        (seen, ran) = (seen + 1, time);
    }
    println!("the old version was seen {seen} times, the last time after {ran:?}");
    assert!(ran > GRACE / 2, "{ran:?}");

    let is_new = |mirror: &Value| uid(mirror) != uid(&before) && is_running(mirror);
    let after = cluster.wait_mirror(&node, "web", is_new).await;
    let new = node.report("web").await.unwrap().uid;
    assert_ne!(new, version);
    assert_eq!(*hash(&after), new.as_str());
    let pods = served_pods(&cluster, &node);
    assert_eq!((pods.len(), uid(&pods[0])), (1, new.as_str()));
    node.wait_until("the watch has the new mirror running", async || {
        let events = watch.events();
        events.last().is_some_and(|(_, pod)| is_new(pod))
    })
    .await;
    let events = watch.events();
    let whole: Vec<(&str, &str)> = events
        .iter()
        .filter(|(kind, _)| kind != "MODIFIED")
        .map(|(kind, pod)| (kind.as_str(), uid(pod)))
        .collect();
    let (old, new) = (uid(&before), uid(&after));
    assert_eq!(whole, [("DELETED", old), ("ADDED", new)], "{events:#?}");
}

async fn a_mirror_stays_until_its_pod_has_really_ended(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    // It ends when a file appears, so it has not ended before.
    let slow = "trap 'while ! [ -e /tmp/end ]; do sleep 0.1; done; exit 0' TERM; \
                echo up; while :; do sleep 0.1; done";
    node.put("web.yaml", &pod("web", slow));
    node.start_agent();
    let container = node.wait_running("web").await;
    let before = cluster.wait_running(&node, "web").await;
    node.remove("web.yaml");
    node.wait_stopping().await;
    assert_eq!(uid(&cluster.mirror(&node, "web").unwrap()), uid(&before));
    node.exec(&container.id, &["touch", "/tmp/end"]).await;
    cluster.wait_no_mirror(&node, "web").await;
    node.wait_gone().await;
}

async fn a_mirror_is_adopted_by_the_next_agent(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let before = cluster.wait_running(&node, "web").await;
    node.kill_agent();
    node.start_agent();
    node.wait_until("the second agent is there", async || {
        node.log_lines_with("API server is reachable") == 2
    })
    .await;
    // A second Pod's mirror comes after the agent has looked at the first's.
    node.put("second.yaml", &pod("second", FOREVER));
    cluster.wait_running(&node, "second").await;
    assert_eq!(uid(&cluster.mirror(&node, "web").unwrap()), uid(&before));
}

async fn the_mirror_of_a_pod_that_went_without_an_agent_goes_with_the_next(
    mut node: Node,
    cluster: Cluster,
) {
    cluster.admit(&mut node);
    for name in ["stays", "goes"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    node.start_agent();
    cluster.wait_running(&node, "goes").await;
    cluster.wait_running(&node, "stays").await;
    node.kill_agent();
    node.remove("goes.yaml");
    node.start_agent();
    cluster.wait_no_mirror(&node, "goes").await;
    assert!(cluster.mirror(&node, "stays").is_some());
}

async fn what_changes_while_the_api_server_is_away_is_right_when_it_is_back(
    mut node: Node,
    cluster: Cluster,
) {
    let proxy = Proxy::start(&cluster, &mut node);
    for name in ["stays", "goes", "changes"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    node.start_agent();
    let stays = cluster.wait_running(&node, "stays").await;
    cluster.wait_running(&node, "goes").await;
    cluster.wait_running(&node, "changes").await;
    let before = node.wait_running("changes").await;
    cluster.hack("stop");
    node.remove("goes.yaml");
    node.put("comes.yaml", &pod("comes", FOREVER));
    node.put(
        "changes.yaml",
        &pod("changes", &format!("{FOREVER} # changed")),
    );
    node.wait_running("comes").await;
    node.wait_after("changes", &before).await;
    node.wait_until("the Pod is gone", async || {
        node.report("goes").await.is_none()
    })
    .await;
    cluster.hack("start");
    proxy.take_asked();
    cluster.wait_running(&node, "comes").await;
    cluster.wait_no_mirror(&node, "goes").await;
    let version = node.report("changes").await.unwrap().uid;
    let is_new = |mirror: &Value| *hash(mirror) == version.as_str() && is_running(mirror);
    cluster.wait_mirror(&node, "changes", is_new).await;
    assert_eq!(uid(&cluster.mirror(&node, "stays").unwrap()), uid(&stays));
    assert_eq!(node.log_lines_with("API server is unreachable"), 1);
    // Four Pods of five requests each, as a start costs; the two mirrors that go; the Node, its lease, lists
    // and watches; and each of these may have been tried once before the server was ready.
    let asked = proxy.take_asked();
    println!("{} requests after the outage", asked.len());
    assert!(asked.len() <= 60, "{asked:#?}");
}

async fn a_pod_removed_in_the_agents_first_second_has_no_mirror_in_the_end(
    mut node: Node,
    cluster: Cluster,
) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    node.kill_agent();
    cluster.hack("stop");
    node.start_agent();
    node.remove("web.yaml");
    node.wait_gone().await;
    cluster.hack("start");
    cluster.wait_no_mirror(&node, "web").await;
}

async fn after_a_wipe_everything_comes_back(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let container = node.wait_running("web").await;
    let before = cluster.wait_running(&node, "web").await;
    cluster.hack("wipe");
    cluster.kubectl("create serviceaccount default");
    let is_new = |mirror: &Value| uid(mirror) != uid(&before) && is_running(mirror);
    let mirror = cluster.wait_mirror(&node, "web", is_new).await;
    let found = cluster.get(&format!("node {}", node.name)).unwrap();
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["uid"], uid(&found));
    node.wait_until("the lease is there", async || {
        let lease = format!("lease --namespace kube-node-lease {}", node.name);
        cluster.get(&lease).is_some()
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, container.id);
}

async fn without_an_api_server_pods_start_and_stop(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    cluster.hack("stop");
    node.start_agent();
    node.put("web.yaml", &pod("web", FOREVER));
    node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_gone().await;
    // Said once for each time that it was away, which a slow answer may make two.
    assert!(node.log_lines_with("API server is unreachable") >= 1);
}

async fn a_shutdown_of_the_machine_shows_until_the_next_boot(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    // A systemd whose only job is the shutdown.
    let folder = node.path("bin");
    fs::create_dir(&folder).unwrap();
    let systemctl = folder.join("systemctl");
    fs::write(
        &systemctl,
        "#!/bin/sh\necho 13 shutdown.target start waiting\n",
    )
    .unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let socket = node.path("notify").display().to_string();
    let _notified = UnixDatagram::bind(&socket).unwrap();
    node.env.push(("PATH".to_owned(), path));
    node.env.push(("NOTIFY_SOCKET".to_owned(), socket));
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let before = cluster.wait_running(&node, "web").await;
    assert_eq!(node.end_agent(), Some(0));

    let mirror = cluster.mirror(&node, "web").unwrap();
    assert_eq!(uid(&mirror), uid(&before));
    assert_eq!(mirror["status"]["phase"], "Failed");
    assert_eq!(mirror["status"]["reason"], "Terminated");
    let condition = |object: &Value, kind: &str| {
        let conditions = object["status"]["conditions"].as_array().unwrap().clone();
        conditions.into_iter().find(|c| c["type"] == kind)
    };
    let target = condition(&mirror, "DisruptionTarget").unwrap();
    assert_eq!(target["reason"], "TerminationByKubelet");
    let object = cluster.get(&format!("node {}", node.name)).unwrap();
    let ready = condition(&object, "Ready").unwrap();
    assert_eq!(ready["status"], "False");
    assert_eq!(ready["reason"], "KubeletNotReady");
    assert_eq!(ready["message"], "node is shutting down");
    let events = cluster.kubectl(&format!(
        "get events --namespace default --field-selector involvedObject.name={},reason=Shutdown --no-headers",
        node.name
    ));
    assert!(events.contains("detected shutdown event"), "{events}");

    node.start_agent();
    let is_back = |mirror: &Value| is_running(mirror) && mirror["status"]["reason"].is_null();
    let after = cluster.wait_mirror(&node, "web", is_back).await;
    assert_eq!(condition(&after, "DisruptionTarget"), None);
    let is_ready = async || {
        let object = cluster.get(&format!("node {}", node.name)).unwrap();
        condition(&object, "Ready").unwrap()["status"] == "True"
    };
    node.wait_until("the Node is Ready", is_ready).await;
    node.remove("web.yaml");
    node.wait_gone().await;
    fs::write(&systemctl, "#!/bin/sh\n").unwrap();
}
