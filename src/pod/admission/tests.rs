//! Tests of admission: ports, resources, labels and the node's features.

use super::*;
use crate::translate::{Identity, NodeCapacity};

use serde_json::{Value, json};

fn facts() -> NodeFacts {
    NodeFacts {
        capacity: NodeCapacity {
            cpus: 2,
            memory: 1 << 30,
            ..NodeCapacity::default()
        },
        identity: Identity {
            name: "n1".into(),
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            ..Identity::default()
        },
        allowed_unsafe_sysctls: vec!["net.core.*".into()],
        ..NodeFacts::default()
    }
}

fn pod(name: &str, uid: &str, spec: Value) -> StaticPod {
    StaticPod {
        key: PodKey {
            namespace: "default".into(),
            name: name.into(),
        },
        uid: uid.into(),
        spec: serde_json::from_value(spec).unwrap(),
        ..StaticPod::default()
    }
}

fn with(extra: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn port(port: i32, address: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "ports": [
            {"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": "TCP"}]}]})
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn reason(result: Result<(), Rejection>) -> Cow<'static, str> {
    result.map_or_else(|rejection| rejection.reason, |()| "admitted".into())
}

#[test]
fn a_taken_host_port_is_refused_until_it_is_given_back() {
    let allocations = Allocations::default();
    let first = pod("a", "1", port(80, ""));
    assert_eq!(reason(allocations.admit(&facts(), &first)), "admitted");
    let second = pod("b", "2", port(80, "10.0.0.1"));
    let rejection = allocations.admit(&facts(), &second).unwrap_err();
    assert_eq!(rejection.reason, "NodePorts");
    assert!(
        rejection.message.contains("default/a"),
        "{}",
        rejection.message
    );
    let newer = pod("a", "3", port(80, ""));
    assert_eq!(
        reason(allocations.admit(&facts(), &newer)),
        "admitted",
        "of itself"
    );
    let mut changes = allocations.changes();
    changes.mark_unchanged();
    allocations.release(&first.key, &"1".into());
    allocations.release(&first.key, &"3".into());
    assert!(changes.has_changed().unwrap());
    assert_eq!(reason(allocations.admit(&facts(), &second)), "admitted");
}

#[test]
fn addresses_and_protocols_keep_ports_apart() {
    let allocations = Allocations::default();
    let first = pod("a", "1", port(80, "10.0.0.1"));
    assert_eq!(reason(allocations.admit(&facts(), &first)), "admitted");
    let other = pod("b", "2", port(80, "10.0.0.2"));
    assert_eq!(reason(allocations.admit(&facts(), &other)), "admitted");
}

#[test]
fn more_than_the_node_has_is_refused() {
    let allocations = Allocations::default();
    let first = pod("a", "1", requests("1500m", "512Mi"));
    assert_eq!(reason(allocations.admit(&facts(), &first)), "admitted");
    for (cpu, memory, expected) in [
        ("600m", "1Mi", "OutOfcpu"),
        ("500m", "513Mi", "OutOfmemory"),
        ("500m", "512Mi", "admitted"),
    ] {
        let second = pod("b", "2", requests(cpu, memory));
        assert_eq!(
            reason(allocations.admit(&facts(), &second)),
            expected,
            "{cpu} {memory}"
        );
    }
}

/// The kubelet's words: pkg/kubelet/lifecycle, `InsufficientResourceError`.
#[test]
fn every_resource_is_held_against_what_the_node_has() {
    let facts = NodeFacts {
        capacity: NodeCapacity {
            ephemeral_storage: 10 << 30,
            huge_pages: [(2048, 4), (1 << 20, 0)].into(),
            max_pods: 2,
            ..facts().capacity
        },
        ..facts()
    };
    let with = |resources: &str| {
        let resources: Value = serde_json::from_str(resources).unwrap();
        json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": resources}}]})
    };
    let allocations = Allocations::default();
    let first = with(r#"{"cpu": "1", "ephemeral-storage": "6Gi", "hugepages-2Mi": "4Mi"}"#);
    let first = pod("a", "1", first);
    assert_eq!(reason(allocations.admit(&facts, &first)), "admitted");
    for (resources, expected, words) in [
        (
            r#"{"ephemeral-storage": "5Gi"}"#,
            "OutOfephemeral-storage",
            "",
        ),
        (r#"{"hugepages-2Mi": "6Mi"}"#, "OutOfhugepages-2Mi", ""),
        (r#"{"hugepages-1Gi": "1Gi"}"#, "OutOfhugepages-1Gi", ""),
        (r#"{"hugepages-4Mi": "4Mi"}"#, "OutOfhugepages-4Mi", ""),
        // What is set aside as huge pages is no memory for others.
        (r#"{"memory": "1017Mi"}"#, "OutOfmemory", ""),
        (
            r#"{"cpu": "1500m"}"#,
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
        ),
        (
            r#"{"ephemeral-storage": "4Gi", "hugepages-2Mi": "4Mi", "memory": "1016Mi"}"#,
            "admitted",
            "",
        ),
    ] {
        let second = pod("b", "2", with(resources));
        let admitted = allocations.admit(&facts, &second);
        if let Some(rejection) = admitted.as_ref().err().filter(|_| !words.is_empty()) {
            assert_eq!(rejection.message, words);
        }
        assert_eq!(reason(admitted), expected, "{resources}");
    }
    let third = pod("c", "3", with("{}"));
    let rejection = allocations.admit(&facts, &third).unwrap_err();
    assert_eq!(rejection.reason, "OutOfpods");
    let words = "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2";
    assert_eq!(rejection.message, words);
    let newer = pod("b", "4", with("{}"));
    assert_eq!(
        reason(allocations.admit(&facts, &newer)),
        "admitted",
        "of itself"
    );
}

#[test]
fn a_pod_that_is_labelled_for_another_system_is_refused() {
    for (label, expected) in [
        ("windows", "PodOSSelectorNodeLabelDoesNotMatch"),
        ("linux", "admitted"),
    ] {
        let mut pod = pod("a", "1", with(&json!({})));
        let labels = [(OS_LABEL.to_owned(), label.to_owned())];
        pod.metadata.labels = Some(labels.into());
        let admitted = Allocations::default().admit(&facts(), &pod);
        assert_eq!(reason(admitted), expected, "{label}");
    }
}

#[test]
fn the_nodes_labels_decide() {
    let affinity = |operator: &str, key: &str, values: &[&str]| {
        let expression = json!({"key": key, "operator": operator, "values": values});
        with(&json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}}))
    };
    for (spec, expected) in [
        (with(&json!({"nodeSelector": {"disk": "ssd"}})), "admitted"),
        (
            with(&json!({"nodeSelector": {"disk": "hdd"}})),
            "NodeAffinity",
        ),
        (
            with(&json!({"nodeSelector": {"gpu": "yes"}})),
            "NodeAffinity",
        ),
        (affinity("In", "disk", &["hdd", "ssd"]), "admitted"),
        (affinity("NotIn", "disk", &["ssd"]), "NodeAffinity"),
        (affinity("NotIn", "gpu", &["a"]), "admitted"),
        (affinity("Exists", "gpu", &[]), "NodeAffinity"),
        (affinity("DoesNotExist", "gpu", &[]), "admitted"),
        (affinity("Gt", "disk", &["1"]), "NodeAffinity"),
    ] {
        let pod = pod("a", "1", spec.clone());
        let admitted = Allocations::default().admit(&facts(), &pod);
        assert_eq!(reason(admitted), expected, "{spec}");
    }
}

#[test]
fn what_the_node_or_its_runtime_cannot_do_is_looked_at() {
    let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    for (extra, expected) in [
        (
            json!({"securityContext": sysctl("net.ipv4.tcp_syncookies")}),
            "admitted",
        ),
        (
            json!({"securityContext": sysctl("net.core.somaxconn")}),
            "admitted",
        ),
        (
            json!({"securityContext": sysctl("kernel.msgmax")}),
            "SysctlForbidden",
        ),
        (
            json!({"hostNetwork": true, "securityContext": sysctl("net.core.somaxconn")}),
            "SysctlForbidden",
        ),
        (json!({"os": {"name": "windows"}}), "PodOSNotSupported"),
        (
            json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
            "SupplementalGroupsPolicyNotSupported",
        ),
        (
            json!({"securityContext": {"supplementalGroupsPolicy": "Merge"}}),
            "admitted",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            "AppArmor",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "admitted",
        ),
    ] {
        let pod = pod("a", "1", with(&extra));
        let admitted = Allocations::default().admit(&facts(), &pod);
        assert_eq!(reason(admitted), expected, "{extra}");
    }
}

/// Monitoring matches these texts: the kubelet's 1.36 (`pkg/kubelet/lifecycle`, `pkg/kubelet/sysctl`,
/// `pkg/security/apparmor`).
#[test]
fn a_rejection_begins_with_the_kubelets_message() {
    let sysctls = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    for (extra, expected) in [
        (
            json!({"nodeSelector": {"disk": "hdd"}}),
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (
            json!({"securityContext": sysctls("kernel.msgmax")}),
            "forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        ),
        (
            json!({"hostNetwork": true, "securityContext": sysctls("net.core.somaxconn")}),
            "forbidden sysctl: \"net.core.somaxconn\" not allowed with host net enabled",
        ),
        (
            json!({"hostIPC": true, "securityContext": sysctls("kernel.shm_rmid_forced")}),
            "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled",
        ),
        (
            json!({"os": {"name": "windows"}}),
            "Failed to admit pod as the OS field doesn't match node OS",
        ),
        (
            json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            "Cannot enforce AppArmor: AppArmor is not enabled on the host",
        ),
    ] {
        let pod = pod("a", "1", with(&extra));
        let rejection = Allocations::default().admit(&facts(), &pod).unwrap_err();
        let message = rejection.message;
        assert!(message.starts_with(expected), "{message}");
    }
    let mut labelled = pod("a", "1", with(&json!({})));
    labelled.metadata.labels = Some([(OS_LABEL.to_owned(), "windows".to_owned())].into());
    let rejection = Allocations::default()
        .admit(&facts(), &labelled)
        .unwrap_err();
    let expected = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
    assert!(rejection.message.starts_with(expected));
    let allocations = Allocations::default();
    let first = allocations.admit(&facts(), &pod("a", "1", port(80, "")));
    assert_eq!(reason(first), "admitted");
    let rejection = allocations
        .admit(&facts(), &pod("b", "2", port(80, "")))
        .unwrap_err();
    let expected = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod \
                        ports: ";
    assert!(rejection.message.starts_with(expected));
}
