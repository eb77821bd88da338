//! The environment that a container's first process has.

use std::collections::BTreeMap;

use super::node::{Node, manifest};

super::on_each_containerd!(
    variables_have_the_values_that_the_pod_refers_to,
    a_start_in_a_new_sandbox_sees_its_address,
);

/// The environment of the container's first process.
async fn environment(node: &Node, id: &str) -> BTreeMap<String, String> {
    // Until the container's own program runs, the runtime's is there, which lets nobody look.
    let look = "until cat /proc/1/environ 2>/dev/null; do sleep 0.1; done";
    let text = node.exec(id, &["sh", "-c", look]).await;
    let pairs = text.split_terminator('\0');
    pairs
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

const SOURCES: &str = r#"
  initContainers:
  - name: writer
    image: $BUSYBOX
    command: [sh, -c, "echo \"FILED='from a file'\" > /made/vars; echo \"OTHER='two\nlines'\" >> /made/vars"]
    volumeMounts: [{name: made, mountPath: /made}]
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    resources:
      requests: {cpu: 250m, memory: 10Mi}
      limits: {cpu: 1500m, memory: 20Mi}
    env:
    - {name: PLAIN, value: "a b"}
    - {name: EXPANDED, value: "<$(PLAIN)> $$(PLAIN) $(NOTHING) $(LATER)"}
    - {name: LATER, value: x}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app.io/name']"}}}
    - {name: ANNOTATION, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: CPU_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MEMORY_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: MEMORY_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.memory}}}
    - {name: FILED, valueFrom: {fileKeyRef: {volumeName: made, path: vars, key: FILED}}}
    - {name: LINES, valueFrom: {fileKeyRef: {volumeName: made, path: vars, key: OTHER}}}
    - {name: UNFILED, valueFrom: {fileKeyRef: {volumeName: made, path: vars, key: NONE, optional: true}}}
  volumes:
  - {name: made, emptyDir: {}}
"#;

async fn variables_have_the_values_that_the_pod_refers_to(mut node: Node) {
    let metadata = "  name: facts\n  labels: {app.io/name: web}\n  annotations: {note: \"a note\"}";
    let text = manifest("facts", SOURCES).replace("  name: facts", metadata);
    node.put("facts.yaml", &text);
    node.flag("node-ip", "192.0.2.7,2001:db8::7");
    node.start_agent();
    let container = node.wait_running("facts").await;
    let found = environment(&node, &container.id).await;
    let report = node.report("facts").await.unwrap();
    let name = node.full_name("facts");
    for (variable, expected) in [
        ("PLAIN", "a b"),
        ("EXPANDED", "<a b> $(PLAIN) $(NOTHING) $(LATER)"),
        ("NAME", &name),
        ("NAMESPACE", "default"),
        ("UID", &report.uid),
        ("LABEL", "web"),
        ("ANNOTATION", "a note"),
        ("NODE", &node.name),
        ("ACCOUNT", ""),
        ("HOST_IP", "192.0.2.7"),
        ("HOST_IPS", "192.0.2.7,2001:db8::7"),
        ("POD_IP", &report.ips[0]),
        ("POD_IPS", &report.ips.join(",")),
        ("CPU_REQUEST", "250"),
        ("CPU_LIMIT", "2"),
        ("MEMORY_LIMIT", "20"),
        ("MEMORY_REQUEST", "10485760"),
        ("FILED", "from a file"),
        ("LINES", "two\nlines"),
    ] {
        let found = found.get(variable).map(String::as_str);
        assert_eq!(found, Some(expected), "{variable}");
    }
    assert_eq!(found.get("UNFILED"), None);
    node.remove("facts.yaml");
    node.wait_gone().await;
}

async fn a_start_in_a_new_sandbox_sees_its_address(mut node: Node) {
    let spec = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    env:
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
";
    node.put("web.yaml", &manifest("web", spec));
    node.start_agent();
    let first = node.wait_running("web").await;
    let before = environment(&node, &first.id).await["POD_IP"].clone();
    node.kill_sandbox(&first.pod_sandbox_id).await;
    let second = node.wait_after("web", &first).await;
    assert_ne!(second.pod_sandbox_id, first.pod_sandbox_id);
    let now = environment(&node, &second.id).await["POD_IP"].clone();
    assert_eq!(
        node.report("web").await.unwrap().ips,
        std::slice::from_ref(&now)
    );
    assert_ne!(now, before, "a new sandbox has a new address");
    let hosts = node.exec(&second.id, &["cat", "/etc/hosts"]).await;
    let own = |line: &&str| line.ends_with(&format!("\t{}", node.full_name("web")));
    let own: Vec<&str> = hosts.lines().filter(own).collect();
    assert_eq!(own, [format!("{now}\t{}", node.full_name("web"))]);
    node.remove("web.yaml");
    node.wait_gone().await;
}
