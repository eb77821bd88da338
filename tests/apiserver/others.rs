//! Pods that others bind to the node, and what kubectl does to nodes: `debug node/…`, `cordon` and `drain`.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::endpoint::spawn;
use crate::node::{FOREVER, Node, pod};

mod shared {
    crate::with_apiserver!(
        shared:
        kubectl_debug_of_the_node_is_told_why_its_pod_does_not_start,
        draining_the_node_stops_no_static_pod,
    );
}

async fn kubectl_debug_of_the_node_is_told_why_its_pod_does_not_start(
    mut node: Node,
    cluster: Cluster,
) {
    cluster.admit(&mut node);
    node.start_agent();
    node.wait_until("the Node is there", async || {
        cluster.get(&format!("node {}", node.name)).is_some()
    })
    .await;
    let debug = format!("debug node/{} --image=busybox --attach -- true", node.name);
    let child = spawn(&mut cluster.command(&debug));
    let mut said = BufReader::new(child.stderr()).lines();
    let reason = "runs static Pods only";
    assert!(said.any(|line| line.unwrap().contains(reason)));
    drop(child);

    let pods = cluster.get("pods").unwrap();
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    let debugger = format!("node-debugger-{}-", node.name);
    let mut pods = pods["items"].as_array().unwrap().iter().map(name);
    let debugger = pods.find(|name| name.starts_with(&debugger)).unwrap();
    let found = cluster.get(&format!("pod {debugger}")).unwrap();
    assert_eq!(found["status"]["phase"], "Pending");
    let waiting = &found["status"]["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "StaticPodsOnly");
    node.wait_until("an event says so", async || {
        let events = cluster.ask(&format!("describe pod {debugger}"));
        events.is_some_and(|text| text.contains(reason))
    })
    .await;
    // Nobody else would finish the deletion.
    cluster.kubectl(&format!("delete pod {debugger} --timeout=30s"));
}

async fn draining_the_node_stops_no_static_pod(mut node: Node, cluster: Cluster) {
    node.put("web.yaml", &pod("web", FOREVER));
    cluster.admit(&mut node);
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    let container = node.running_one("web", "c").await.unwrap();
    cluster.kubectl(&format!("cordon {}", node.name));
    let drain = "--ignore-daemonsets --force --timeout=30s";
    cluster.kubectl(&format!("drain {} {drain}", node.name));
    let mirror = cluster.wait_running(&node, "web").await;
    assert!(mirror["metadata"]["deletionTimestamp"].is_null());
    let after = node.running_one("web", "c").await.unwrap();
    assert_eq!(after.id, container.id);
    cluster.kubectl(&format!("uncordon {}", node.name));
}
