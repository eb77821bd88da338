//! What cannot run on the node is shown as Failed with Kubernetes' reason, and runs once it can.

use super::node::{BUSYBOX, FOREVER, Node, pod_with};
use super::ports::free;

super::on_each_containerd!(
    a_host_port_is_one_pods_until_it_is_gone,
    what_the_node_does_not_have_is_refused_by_its_reason,
    memory_is_given_to_who_comes_first,
);

fn with(name: &str, spec: &str) -> String {
    pod_with(name, BUSYBOX, FOREVER, spec)
}

/// Waits until the Pod is shown as Failed for this reason, and this is said of it.
async fn wait_refused(node: &Node, pod: &str, reason: &str, words: &str) {
    let report = node.wait_reason(pod, reason).await;
    assert_eq!(report.phase, "Failed", "{report:#?}");
    assert!(report.message.contains(words), "{report:#?}");
    let ps = node.ps();
    let name = node.full_name(pod);
    let row = ps.lines().find(|line| line.contains(&name)).unwrap();
    assert!(row.contains(reason), "{ps}");
    assert!(ps.contains(&report.message), "{ps}");
}

async fn a_host_port_is_one_pods_until_it_is_gone(mut node: Node) {
    let port = free().port();
    let ports = format!("    ports: [{{containerPort: 80, hostPort: {port}}}]\n");
    node.put("a.yaml", &with("a", &ports));
    node.start_agent();
    node.wait_running("a").await;
    node.put("b.yaml", &with("b", &ports));
    let words = format!(
        "the host port {port}/TCP is taken by the Pod default/{}",
        node.full_name("a")
    );
    wait_refused(&node, "b", "NodePorts", &words).await;
    // Who had it keeps it over a restart of the agent.
    node.kill_agent();
    node.start_agent();
    wait_refused(&node, "b", "NodePorts", &words).await;
    assert!(node.running_one("a", "c").await.is_some());
    node.remove("a.yaml");
    node.wait_running("b").await;
    node.remove("b.yaml");
    node.wait_gone().await;
}

async fn what_the_node_does_not_have_is_refused_by_its_reason(mut node: Node) {
    let apparmor = std::path::Path::new("/sys/module/apparmor").exists();
    let requests = |what: &str| format!("    resources: {{requests: {{{what}}}}}\n");
    let affinity = "  affinity:\n    nodeAffinity:\n      \
                    requiredDuringSchedulingIgnoredDuringExecution:\n        nodeSelectorTerms:\n        \
                    - matchExpressions: [{key: disk, operator: NotIn, values: [ssd]}]\n";
    let mut refused = vec![
        (
            "cpu",
            requests("cpu: 1000"),
            "OutOfcpu",
            "cpu, requested: 1000000, used: 0",
        ),
        (
            "memory",
            requests("memory: 100Ti"),
            "OutOfmemory",
            "Node didn't have enough resource: memory",
        ),
        (
            "selector",
            "  nodeSelector: {disk: hdd}\n".into(),
            "NodeAffinity",
            "wants disk=hdd, the node has \"ssd\"",
        ),
        ("affinity", affinity.into(), "NodeAffinity", "spec.affinity"),
        (
            "sysctl",
            "  securityContext: {sysctls: [{name: kernel.msgmax, value: \"65536\"}]}\n".into(),
            "SysctlForbidden",
            "--allowed-unsafe-sysctls=kernel.msgmax",
        ),
        (
            "os",
            "  os: {name: windows}\n".into(),
            "PodOSNotSupported",
            "\"windows\"",
        ),
    ];
    if !apparmor {
        let profile = "    securityContext: {appArmorProfile: {type: RuntimeDefault}}\n";
        refused.push((
            "apparmor",
            profile.into(),
            "AppArmor",
            "AppArmor is not enabled",
        ));
    }
    for (name, spec, ..) in &refused {
        node.put(&format!("{name}.yaml"), &with(name, spec));
    }
    node.put(
        "good.yaml",
        &with(
            "good",
            "  nodeSelector: {disk: ssd, kubernetes.io/os: linux}\n",
        ),
    );
    node.flag("node-labels", "disk=ssd");
    node.start_agent();
    node.wait_running("good").await;
    for (name, _, reason, words) in &refused {
        wait_refused(&node, name, reason, words).await;
    }
    assert_eq!(
        node.sandboxes().await.len(),
        1,
        "nothing was made for those refused"
    );
    node.end_agent();
    node.flag("allowed-unsafe-sysctls", "kernel.msg*");
    node.start_agent();
    let id = node.wait_running("sysctl").await.id;
    assert_eq!(node.sh(&id, "cat /proc/sys/kernel/msgmax").await, "65536");
    for (name, ..) in &refused {
        node.remove(&format!("{name}.yaml"));
    }
    node.remove("good.yaml");
    node.wait_gone().await;
}

async fn memory_is_given_to_who_comes_first(mut node: Node) {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let memory: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    let most = format!(
        "    resources: {{requests: {{memory: {}Ki}}}}\n",
        memory * 6 / 10
    );
    node.put("a.yaml", &with("a", &most));
    node.start_agent();
    node.wait_running("a").await;
    node.put("b.yaml", &with("b", &most));
    let used = format!("used: {}", (memory * 6 / 10) << 10);
    wait_refused(&node, "b", "OutOfmemory", &used).await;
    // A new version of the Pod that has it does not compete with the old one.
    let first = node.wait_running("a").await;
    node.put(
        "a.yaml",
        &with("a", &format!("{most}    env: [{{name: A, value: b}}]\n")),
    );
    node.wait_after("a", &first).await;
    wait_refused(&node, "b", "OutOfmemory", &used).await;
    node.remove("a.yaml");
    node.wait_running("b").await;
    node.remove("b.yaml");
    node.wait_gone().await;
}
