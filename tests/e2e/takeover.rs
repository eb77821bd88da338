//! In a kubelet's place: static Pods that it left are stopped before those that manifests name are started, and no Pod
//! runs twice. The Pods here are made as a kubelet makes them, for one that runs would kill those of other tests.

use std::collections::HashMap;

use podkeeper::cri::v1;
use podkeeper::translate::labels;

use super::node::{BUSYBOX, FOREVER, Node, pod};

super::on_each_containerd!(
    a_kubelets_pod_ends_with_its_hook_and_grace_period_before_ours_starts,
    a_kubelets_pod_that_is_to_be_left_alone_keeps_ours_from_starting,
);

/// Writes what becomes of it, and takes a second to end.
const KUBELETS: &str = "trap 'echo term >>/out/log; sleep 1; echo ended >>/out/log; exit 0' TERM; \
                        echo up >>/out/log; while :; do sleep 0.05; done";
const HOOK: &str = r#"{"exec": {"command": ["sh", "-c", "echo hook >>/out/log"]}}"#;

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    let owned = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    owned.into()
}

/// Runs a static Pod as a kubelet does; returns its sandbox and container.
async fn run_as_kubelet(node: &Node, name: &str) -> (String, String) {
    let name = node.full_name(name);
    let uid = format!("{name}-of-the-kubelet");
    let pod_labels = [
        (labels::POD_NAME, name.as_str()),
        (labels::POD_NAMESPACE, "default"),
        (labels::POD_UID, &uid),
    ];
    let sandbox_config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.clone(),
            uid: uid.clone(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: node.path("kubelet-logs").display().to_string(),
        labels: texts(pod_labels),
        annotations: texts([("kubernetes.io/config.source", "file")]),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..v1::PodSandboxConfig::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(sandbox_config.clone()),
        runtime_handler: String::new(),
    };
    let sandbox = node.client.run_pod_sandbox(request).await.unwrap();
    let sandbox = sandbox.pod_sandbox_id;
    let image = v1::ImageSpec {
        image: BUSYBOX.into(),
        ..v1::ImageSpec::default()
    };
    let mut container_labels = texts(pod_labels);
    container_labels.extend(texts([(labels::CONTAINER_NAME, "c")]));
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        }),
        image: Some(image),
        command: ["sh", "-c", KUBELETS].map(str::to_owned).into(),
        labels: container_labels,
        annotations: texts([
            (labels::TERMINATION_GRACE_PERIOD, "20"),
            (labels::PRE_STOP_HANDLER, HOOK),
        ]),
        mounts: vec![v1::Mount {
            host_path: node.path("out").display().to_string(),
            container_path: "/out".into(),
            ..v1::Mount::default()
        }],
        ..v1::ContainerConfig::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let container = node.client.create_container(request).await.unwrap();
    let id = container.container_id;
    let start = v1::StartContainerRequest {
        container_id: id.clone(),
    };
    node.client.start_container(start).await.unwrap();
    node.wait_until("the kubelet's container is up", async || {
        node.lines("log").contains(&"up".to_owned())
    })
    .await;
    (sandbox, id)
}

async fn is_running(node: &Node, container: &str) -> bool {
    let request = v1::ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: false,
    };
    let status = node.client.container_status(request).await;
    status
        .ok()
        .and_then(|answer| answer.status)
        .is_some_and(|status| status.state() == v1::ContainerState::ContainerRunning)
}

/// A Pod of ours that says when it starts.
fn put_ours(node: &Node, name: &str) {
    let spec = format!(
        "  containers:\n  - name: c\n    image: {BUSYBOX}\n    command: [sh, -c, {:?}]\n    $MOUNT\n  volumes: $OUT\n",
        format!("echo ours >>/out/log; {FOREVER}")
    );
    node.put_with_out(name, &spec);
}

async fn a_kubelets_pod_ends_with_its_hook_and_grace_period_before_ours_starts(mut node: Node) {
    node.make_out();
    let (sandbox, container) = run_as_kubelet(&node, "web").await;
    let (other, others_container) = run_as_kubelet(&node, "other").await;
    node.wait_until("both have said that they are up", async || {
        node.lines("log") == ["up", "up"]
    })
    .await;
    std::fs::write(node.path("out/log"), "").unwrap();
    put_ours(&node, "web");
    node.put("beside.yaml", &pod("beside", FOREVER));
    node.start_agent();
    node.wait_running("beside").await;
    node.wait_running("web").await;
    node.wait_until("ours has started", async || {
        node.lines("log").contains(&"ours".to_owned())
    })
    .await;
    assert_eq!(node.lines("log"), ["hook", "term", "ended", "ours"]);
    assert!(!is_running(&node, &container).await);
    let status = v1::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox,
        verbose: false,
    };
    assert!(node.client.pod_sandbox_status(status).await.is_err());
    assert_eq!(
        node.log_lines_with("Stopping Pod that a kubelet left, before podkeeper starts it"),
        1
    );
    // What no manifest names is not taken over, and that is said.
    assert!(is_running(&node, &others_container).await);
    // Other tests have such Pods on this containerd as well.
    let left = "Found static Pods of a kubelet that no manifest here names, leaving them alone";
    let log = node.log();
    let warning = log.lines().find(|line| line.contains(left));
    let other_name = node.full_name("other");
    assert!(
        warning.is_some_and(|line| line.contains(&other_name)),
        "{log}"
    );
    // A manifest that comes later takes over too.
    put_ours(&node, "other");
    node.wait_until("the second one has started", async || {
        node.lines("log")
            .iter()
            .filter(|line| *line == "ours")
            .count()
            == 2
    })
    .await;
    assert!(!is_running(&node, &others_container).await);
    let status = v1::PodSandboxStatusRequest {
        pod_sandbox_id: other,
        verbose: false,
    };
    assert!(node.client.pod_sandbox_status(status).await.is_err());
    for name in ["web", "other", "beside"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
}

async fn a_kubelets_pod_that_is_to_be_left_alone_keeps_ours_from_starting(mut node: Node) {
    node.make_out();
    let (sandbox, container) = run_as_kubelet(&node, "web").await;
    node.flag("take-over-kubelet-pods", "false");
    put_ours(&node, "web");
    node.put("beside.yaml", &pod("beside", FOREVER));
    node.start_agent();
    node.wait_running("beside").await;
    let report = node
        .wait("it is said that ours waits", async || {
            let report = node.report("web").await?;
            let blocked = report.containers.first()?;
            (blocked.reason == "FailedCreatePodSandBox").then(|| blocked.message.clone())
        })
        .await;
    assert!(
        report.contains("--take-over-kubelet-pods=false"),
        "{report}"
    );
    assert!(is_running(&node, &container).await);
    assert!(node.running_one("web", "c").await.is_none());
    // Once somebody has removed it, ours starts.
    node.remove_sandbox(&sandbox).await;
    node.wait_running("web").await;
    for name in ["web", "beside"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
}
