//! The Node as the API server holds it, against the one that the reference agent registers.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::ports::free;

mod shared {
    crate::with_apiserver!(shared: the_node_is_that_of_the_reference_agent,);
}

/// What the machine and the moment make of a Node, and the API server's own.
const OF_THE_MACHINE: [&str; 22] = [
    "/metadata/creationTimestamp",
    "/metadata/labels/beta.kubernetes.io~1arch",
    "/metadata/labels/kubernetes.io~1arch",
    "/metadata/uid",
    "/status/addresses/0/address",
    "/status/allocatable",
    "/status/capacity",
    "/status/conditions/0/lastHeartbeatTime",
    "/status/conditions/0/lastTransitionTime",
    "/status/conditions/1/lastHeartbeatTime",
    "/status/conditions/1/lastTransitionTime",
    "/status/conditions/2/lastHeartbeatTime",
    "/status/conditions/2/lastTransitionTime",
    "/status/conditions/3/lastHeartbeatTime",
    "/status/conditions/3/lastTransitionTime",
    "/status/nodeInfo/architecture",
    "/status/nodeInfo/bootID",
    "/status/nodeInfo/kernelVersion",
    "/status/nodeInfo/machineID",
    "/status/nodeInfo/osImage",
    "/status/nodeInfo/systemUUID",
    "/status/runtimeHandlers",
];

/// Where the Node means to differ, what stands there, and why; amounts apart, which the machine makes.
fn wanted_differences() -> Vec<(&'static str, Value, &'static str)> {
    let not_ready = json!({"effect": "NoSchedule", "key": "node.kubernetes.io/not-ready"});
    let static_only = json!({"effect": "NoSchedule", "key": "podkeeper.io/static-only"});
    vec![
        (
            "/metadata/annotations",
            Value::Null,
            "no volumes are attached, by nobody",
        ),
        (
            "/spec/taints",
            json!([static_only, not_ready]),
            "Pods that a scheduler puts here would not run",
        ),
        (
            "/status/conditions/0/message",
            json!("podkeeper has sufficient memory available"),
            "names who speaks",
        ),
        (
            "/status/conditions/1/message",
            json!("podkeeper has no disk pressure"),
            "names who speaks",
        ),
        (
            "/status/conditions/2/message",
            json!("podkeeper has sufficient PID available"),
            "names who speaks",
        ),
        (
            "/status/conditions/3/message",
            json!("podkeeper is posting ready status"),
            "names who speaks",
        ),
        (
            "/status/declaredFeatures",
            json!(["RestartAllContainersOnContainerExits"]),
            "static Pods are not resized in place, and streams are not extended",
        ),
        (
            "/status/nodeInfo/kubeletVersion",
            json!(concat!("v1.36.0+podkeeper.", env!("CARGO_PKG_VERSION"))),
            "the version names the agent",
        ),
        (
            "/status/nodeInfo/containerRuntimeVersion",
            Value::Null,
            "looked at by itself",
        ),
    ]
}

fn put(object: &mut Value, place: &str, value: Value) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    let name = name.replace("~1", "/");
    match (parent, value) {
        (Value::Array(items), value) => items[name.parse::<usize>().unwrap()] = value,
        (parent, Value::Null) => drop(parent.as_object_mut().unwrap().remove(&name)),
        (parent, value) => parent[name] = value,
    }
}

async fn the_node_is_that_of_the_reference_agent(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.flag("node-ip", "192.0.2.7");
    let port = free().port();
    node.flag("port", &port.to_string());
    node.start_agent();
    let found = node
        .wait("the Node is ready", async || {
            let found = cluster.get(&format!("node {}", node.name))?;
            (found["status"]["conditions"][3]["status"] == "True").then_some(found)
        })
        .await;
    let expected = include_str!("../golden/node.json");
    let mut expected: Value = serde_json::from_str(expected).unwrap();
    let mut found: Value =
        serde_json::from_str(&found.to_string().replace(&node.name, "my-node1")).unwrap();

    for amounts in ["capacity", "allocatable"] {
        let names = |node: &Value| -> Vec<String> {
            let names = node["status"][amounts].as_object().unwrap().keys();
            let names = names.filter(|name| !name.starts_with("hugepages-"));
            names.cloned().collect()
        };
        assert_eq!(names(&found), names(&expected));
        assert_eq!(found["status"][amounts]["pods"], "110");
    }
    let at = "/status/daemonEndpoints/kubeletEndpoint/Port";
    assert_eq!(found.pointer(at), Some(&json!(port)));
    put(&mut found, at, json!(10250));
    let runtime = &found["status"]["nodeInfo"]["containerRuntimeVersion"];
    let runtime = runtime.as_str().unwrap();
    assert!(runtime.starts_with("containerd://2.1."), "{runtime}");
    let handlers = found["status"]["runtimeHandlers"].as_array().unwrap();
    let keys = |handler: &Value| -> Vec<String> {
        let features = handler["features"].as_object().unwrap().keys();
        features.cloned().collect()
    };
    let handler = &expected["status"]["runtimeHandlers"][0];
    assert!(handlers.iter().all(|h| keys(h) == keys(handler)));

    // The disk of a machine of tests may be full.
    if found["status"]["conditions"][1]["status"] == "True" {
        let condition = &found["status"]["conditions"][1];
        assert_eq!(condition["reason"], "KubeletHasDiskPressure");
        assert_eq!(condition["message"], "podkeeper has disk pressure");
        for (name, value) in [
            ("status", "False"),
            ("reason", "KubeletHasNoDiskPressure"),
            ("message", "podkeeper has no disk pressure"),
        ] {
            put(
                &mut found,
                &format!("/status/conditions/1/{name}"),
                json!(value),
            );
        }
    }
    for place in OF_THE_MACHINE {
        let value = expected.pointer(place).unwrap().clone();
        assert!(
            found.pointer(place).is_some(),
            "nothing at {place}: {found:#}"
        );
        put(&mut found, place, value);
    }
    let images = found["status"]["images"].as_array().unwrap();
    assert!(images.iter().any(|image| image["names"][0].is_string()));
    assert!(images.is_sorted_by_key(|image| -image["sizeBytes"].as_i64().unwrap()));
    put(&mut found, "/status/images", Value::Null);
    put(&mut found, "/metadata/resourceVersion", Value::Null);
    put(&mut found, "/status/nodeInfo/swap", Value::Null);
    put(
        &mut found,
        "/status/nodeInfo/containerRuntimeVersion",
        Value::Null,
    );
    for (place, value, why) in wanted_differences() {
        assert_ne!(
            expected.pointer(place),
            Some(&value),
            "{place} ({why}) does not differ"
        );
        put(&mut expected, place, value);
    }
    assert_eq!(found, expected);
}
