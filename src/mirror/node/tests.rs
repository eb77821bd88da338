//! The Node against what the reference agent says of the same machine, and the rules of its conditions.

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeStatus, Taint};
use serde_json::{Value, json};

use super::lease::lease;
use super::measure::{Host, Measured};
use super::pressure::{Pressure, Thresholds};
use super::status::{NoOpStatus, node, says_the_same, status, status_patch};
use crate::cri::HandlerFeatures;
use crate::mirror::ApiServerSettings;
use crate::mirror::object::NodeIdentity;
use crate::translate::{Identity, NodeCapacity, NodeFacts};

fn settings() -> ApiServerSettings {
    ApiServerSettings {
        kubeconfig: "/k".into(),
        bootstrap_kubeconfig: None,
        certificate_folder: None,
        rotate_certificates: false,
        register_node: true,
        taints: vec![taint()],
        provider_id: None,
        measure_interval: Duration::from_secs(10),
        thresholds: Thresholds::default(),
        report_interval: Duration::from_secs(300),
        lease_seconds: 40,
        port: Some(10250),
    }
}

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
        runtime: ["", "gvisor", "runc"]
            .map(|name| (name.to_owned(), able))
            .into(),
        identity: Identity {
            name: "my-node1".into(),
            ips: vec!["$HOST_IP".to_owned()].into(),
            labels: labels.map(|(k, v)| (k.into(), v.into())).into(),
        },
        capacity: NodeCapacity {
            cpus: 2,
            max_pods: 110,
            memory: 24_684_092 << 10,
            ephemeral_storage: 264_212_084 << 10,
            ..NodeCapacity::default()
        },
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

/// Fields where the Node differs from the reference agent's on purpose, the values there, and the reasons.
// Longer than other functions: one table, a row for each field.
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
    let ours = serde_json::to_string(&node(&facts(), &settings(), status)).unwrap();
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
        process_ids: true,
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
        ("PIDPressure", "True", true),
        ("Ready", "False", true),
    ];
    assert_eq!(times.collect::<Vec<_>>(), expected);
    let reason = after.conditions.iter().flatten().nth(2).unwrap();
    assert_eq!(reason.reason.as_deref(), Some("KubeletHasInsufficientPID"));
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
fn a_field_that_the_api_server_does_not_know_is_told_once() {
    let snapshot = |measured: &Measured, before: &NodeStatus| {
        status(&facts(), measured, before, Some(10250), now())
    };
    let answer = |snapshot: &NodeStatus| NodeStatus {
        declared_features: None,
        ..snapshot.clone()
    };
    let mut no_op = NoOpStatus::default();
    let ours = snapshot(&measured(), &NodeStatus::default());
    assert!(!no_op.is_known(&ours, &NodeStatus::default()));
    let theirs = answer(&ours);
    no_op.record(&ours, &theirs);
    let again = snapshot(&measured(), &theirs);
    assert!(!says_the_same(&again, &theirs) && no_op.is_known(&again, &theirs));

    let changed = Measured {
        not_ready: Some("why".into()),
        ..measured()
    };
    assert!(!no_op.is_known(&snapshot(&changed, &theirs), &theirs));
    let overwritten = NodeStatus {
        addresses: None,
        ..theirs
    };
    assert!(!no_op.is_known(&snapshot(&measured(), &overwritten), &overwritten));
    no_op.record(&ours, &ours);
    assert!(!no_op.is_known(&ours, &ours), "all of it was taken");
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
    let patch = status_patch(&ours, &NodeStatus::default());
    let addresses = patch["status"]["addresses"].as_array().unwrap();
    assert_eq!(addresses.last(), Some(&json!({"$patch": "replace"})));
}

/// Applies a patch of the status as the API server does, as far as this agent's patches go: fields are
/// replaced, and amounts merged by name.
fn patched(before: &Value, patch: &Value) -> NodeStatus {
    let mut after = before.clone();
    for (field, value) in patch["status"].as_object().unwrap() {
        if let ("capacity" | "allocatable", Some(amounts)) = (field.as_str(), value.as_object()) {
            for (name, amount) in amounts {
                match amount {
                    Value::Null => drop(after[field].as_object_mut().unwrap().remove(name)),
                    amount => after[field][name] = amount.clone(),
                }
            }
        } else {
            after[field] = value.clone();
        }
    }
    after["addresses"].as_array_mut().unwrap().pop();
    serde_json::from_value(after).unwrap()
}

#[test]
fn a_status_that_was_told_is_the_same_then_with_what_others_advertise() {
    let mut before = json!({
        "capacity": {"cpu": "9", "example.com/dongle": "4", "hugepages-64Ki": "0"},
        "allocatable": {"example.com/gone": "1", "hugepages-64Ki": "0"},
    });
    for port in [None, Some(10250)] {
        let theirs: NodeStatus = serde_json::from_value(before.clone()).unwrap();
        let ours = status(&facts(), &measured(), &theirs, port, now());
        assert!(!says_the_same(&ours, &theirs));
        let after = patched(&before, &status_patch(&ours, &theirs));
        let endpoint = serde_json::to_value(&after.daemon_endpoints).unwrap();
        let expected = json!({"kubeletEndpoint": {"Port": port.unwrap_or_default()}});
        assert_eq!(endpoint, expected);
        for amounts in [&after.capacity, &after.allocatable] {
            let amounts = serde_json::to_value(amounts).unwrap();
            assert_eq!(amounts["example.com/dongle"], "4");
            assert_eq!(amounts["cpu"], "2");
            assert_eq!(amounts.get("example.com/gone"), None);
            assert_eq!(amounts.get("hugepages-64Ki"), None);
        }
        let again = status(&facts(), &measured(), &after, port, now());
        assert!(says_the_same(&again, &after));
        before = serde_json::to_value(&after).unwrap();
        before["capacity"]["cpu"] = json!("9");
    }
}

#[test]
fn amounts_are_written_as_the_api_server_writes_them() {
    let mut facts = facts();
    let mut measured = measured();
    facts.capacity.memory = 8 << 30;
    measured.huge_pages = [(2048, 3), (1 << 20, 2), (64, 1)].into();
    measured.swap = 1 << 30;
    let status = status(
        &facts,
        &measured,
        &NodeStatus::default(),
        Some(10250),
        now(),
    );
    let swap = status.node_info.and_then(|info| info.swap);
    assert_eq!(swap.and_then(|swap| swap.capacity), Some(1 << 30));
    let capacity = serde_json::to_value(status.capacity).unwrap();
    let allocatable = serde_json::to_value(status.allocatable).unwrap();
    for (name, expected) in [
        ("memory", "8Gi"),
        ("hugepages-2Mi", "6Mi"),
        ("hugepages-1Gi", "2Gi"),
        ("hugepages-64Ki", "64Ki"),
    ] {
        assert_eq!(capacity[name], expected, "{name}");
    }
    // 8 GiB without 2 GiB, 6 MiB and 64 KiB.
    assert_eq!(allocatable["memory"], "6285248Ki");
}

#[test]
fn the_lease_lasts_as_long_as_told_and_goes_with_the_node() {
    let node = NodeIdentity {
        name: "n".into(),
        uid: "u".into(),
    };
    let lease = serde_json::to_value(lease(&node, 60, now())).unwrap();
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 60);
    assert_eq!(lease["spec"]["holderIdentity"], "n");
    assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "u");
}
