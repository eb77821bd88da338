//! The Node against what the reference agent says of the same machine, and the rules of its conditions.

use k8s_openapi::api::core::v1::{NodeStatus, Taint};
use serde_json::{Value, json};

use super::lease::lease;
use super::measure::{Host, Measured, Pressure};
use super::status::{node, says_the_same, status, status_patch};
use crate::mirror::object::NodeIdentity;
use crate::translate::{HandlerFeatures, NodeFacts};

fn facts() -> NodeFacts {
    let able = HandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: true,
    };
    let labels = [
        ("beta.kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("kubernetes.io/hostname", "my-node1"),
        ("kubernetes.io/os", "linux"),
    ];
    NodeFacts {
        node_name: "my-node1".into(),
        host_ips: vec!["$HOST_IP".to_owned()].into(),
        cpus: 2,
        max_pods: 110,
        memory_capacity: 24_684_092 << 10,
        ephemeral_storage: 264_212_084 << 10,
        labels: labels.map(|(k, v)| (k.into(), v.into())).into(),
        handlers: ["", "gvisor", "runc"]
            .map(|name| (name.into(), able))
            .into(),
        ..NodeFacts::default()
    }
}

fn measured() -> Measured {
    Measured {
        host: Host {
            boot_id: "$API_UID".into(),
            machine_id: "$machineID".into(),
            system_uuid: "$systemUUID".into(),
            kernel_version: "$kernelVersion".into(),
            os_image: "$osImage".into(),
        },
        runtime_version: "containerd://2.1.9".into(),
        supplemental_groups_policy: Some(true),
        huge_pages: [(2048, 0), (1 << 20, 0)].into(),
        ..Measured::default()
    }
}

fn taint() -> Taint {
    Taint {
        key: "podkeeper.io/static-only".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    }
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// Where the Node means to differ from the reference agent's, what stands there, and why.
fn wanted_differences() -> Vec<(&'static str, Value, &'static str)> {
    let message = |text: &str| json!(format!("podkeeper {text}"));
    vec![
        (
            "/metadata/annotations",
            Value::Null,
            "no volumes are attached, by nobody",
        ),
        (
            "/metadata/creationTimestamp",
            Value::Null,
            "written by the API server",
        ),
        ("/metadata/uid", Value::Null, "written by the API server"),
        (
            "/spec/taints",
            json!([taint()]),
            "Pods that a scheduler puts here would not run; the API server adds its own taint",
        ),
        (
            "/status/allocatable/memory",
            json!("24684092Ki"),
            "no Pods are evicted, so nothing is kept back",
        ),
        (
            "/status/allocatable/pods",
            json!("110"),
            "the reference was told 1000",
        ),
        (
            "/status/capacity/pods",
            json!("110"),
            "the reference was told 1000",
        ),
        (
            "/status/conditions/0/message",
            message("has sufficient memory available"),
            "names who speaks",
        ),
        (
            "/status/conditions/1/message",
            message("has no disk pressure"),
            "names who speaks",
        ),
        (
            "/status/conditions/2/message",
            message("has sufficient PID available"),
            "names who speaks",
        ),
        (
            "/status/conditions/3/message",
            message("is posting ready status"),
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
    ]
}

#[test]
fn the_node_says_what_the_reference_agents_says_wanted_differences_apart() {
    let before = NodeStatus::default();
    let status = status(&facts(), &measured(), &before, Some(10250), now());
    let ours = serde_json::to_string(&node(&facts(), &[taint()], status)).unwrap();
    let ours = ours.replace("2026-01-02T03:04:05Z", "$TIME");
    let ours: Value = serde_json::from_str(&ours).unwrap();
    let mut expected: Value =
        serde_json::from_str(include_str!("../../../tests/golden/node.json")).unwrap();
    for (place, value, _why) in wanted_differences() {
        let found = expected.pointer(place);
        assert_ne!(found, Some(&value), "{place} does not differ");
        let (parent, name) = place.rsplit_once('/').unwrap();
        let parent = expected.pointer_mut(parent).unwrap();
        match value {
            Value::Null => drop(parent.as_object_mut().unwrap().remove(name)),
            value if parent.is_array() => parent[name.parse::<usize>().unwrap()] = value,
            value => parent[name] = value,
        }
    }
    assert_eq!(ours, expected);
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let later = now() + jiff::SignedDuration::from_secs(60);
    let before = status(
        &facts(),
        &measured(),
        &NodeStatus::default(),
        Some(10250),
        now(),
    );
    let mut changed = measured();
    changed.not_ready = Some("the container runtime does not answer".into());
    changed.pressure = Pressure {
        disk: true,
        ..Pressure::default()
    };
    let after = status(&facts(), &changed, &before, Some(10250), later);
    let times = after.conditions.iter().flatten().map(|c| {
        let since = c.last_transition_time.as_ref().unwrap().0;
        (c.type_.as_str(), c.status.as_str(), since == later)
    });
    let expected = [
        ("MemoryPressure", "False", false),
        ("DiskPressure", "True", true),
        ("PIDPressure", "False", false),
        ("Ready", "False", true),
    ];
    assert_eq!(times.collect::<Vec<_>>(), expected);
    assert!(!says_the_same(&after, &before));
}

#[test]
fn a_status_is_told_again_only_if_it_says_something_new() {
    let ours = status(
        &facts(),
        &measured(),
        &NodeStatus::default(),
        Some(10250),
        now(),
    );
    let mut theirs = serde_json::to_value(&ours).unwrap();
    theirs["images"] = json!([{"names": ["a"]}]);
    let foreign = json!({"type": "KernelDeadlock", "status": "False"});
    theirs["conditions"]
        .as_array_mut()
        .unwrap()
        .insert(0, foreign);
    for condition in theirs["conditions"].as_array_mut().unwrap() {
        condition["lastHeartbeatTime"] = json!("2020-01-01T00:00:00Z");
    }
    let theirs: NodeStatus = serde_json::from_value(theirs).unwrap();
    assert!(says_the_same(&ours, &theirs));
    let mut other = ours.clone();
    other.addresses = None;
    assert!(!says_the_same(&ours, &other));
}

#[test]
fn addresses_replace_those_that_are_there() {
    let ours = status(
        &facts(),
        &measured(),
        &NodeStatus::default(),
        Some(10250),
        now(),
    );
    let patch = status_patch(&ours);
    let addresses = patch["status"]["addresses"].as_array().unwrap();
    assert_eq!(addresses.last(), Some(&json!({"$patch": "replace"})));
}

#[test]
fn amounts_are_written_as_the_api_server_writes_them() {
    let mut facts = facts();
    let mut measured = measured();
    facts.memory_capacity = 8 << 30;
    measured.huge_pages = [(2048, 3), (1 << 20, 2), (64, 1)].into();
    let status = status(
        &facts,
        &measured,
        &NodeStatus::default(),
        Some(10250),
        now(),
    );
    let capacity = serde_json::to_value(status.capacity).unwrap();
    for (name, expected) in [
        ("memory", "8Gi"),
        ("hugepages-2Mi", "6Mi"),
        ("hugepages-1Gi", "2Gi"),
        ("hugepages-64Ki", "64Ki"),
    ] {
        assert_eq!(capacity[name], expected, "{name}");
    }
}

#[test]
fn the_lease_lasts_40_seconds_and_goes_with_the_node() {
    let node = NodeIdentity {
        name: "n".into(),
        uid: "u".into(),
    };
    let lease = serde_json::to_value(lease(&node, now())).unwrap();
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(lease["spec"]["holderIdentity"], "n");
    assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "u");
}
