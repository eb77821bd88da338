//! S5: an agent that starts finds the Pods that an earlier one started, restarts none of them, and touches
//! nothing else.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use podkeeper::cri::v1;

use super::node::{BUSYBOX, FOREVER, Node, command, pod, pod_with};
use super::program::PROGRAM;

super::on_each_containerd!(
    a_killed_agent_is_followed_by_one_that_restarts_nothing,
    an_ended_agent_leaves_its_pods_running,
    what_was_removed_meanwhile_stops_with_the_grace_period_it_was_given,
    sandboxes_of_others_are_never_touched,
    one_root_directory_serves_one_agent,
    beside_a_kubelet_the_agent_does_not_run,
    a_restarted_runtime_is_found_again,
);

async fn a_killed_agent_is_followed_by_one_that_restarts_nothing(mut node: Node) {
    for name in ["a", "b", "d"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    node.start_agent();
    for name in ["a", "b", "d"] {
        node.wait_running(name).await;
    }
    let before = node.containers().await;
    node.kill_agent();
    node.start_agent();
    node.wait_known(3).await;
    let ids = [before, node.containers().await].map(|all| {
        let mut ids: Vec<_> = all.into_iter().map(|c| c.id).collect();
        ids.sort();
        ids
    });
    assert_eq!(ids[0], ids[1]);
    for name in ["a", "b", "d"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
}

async fn an_ended_agent_leaves_its_pods_running(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    assert_eq!(node.end_agent(), Some(0));
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    let ps = command(&["ps", "--run-dir"])
        .arg(node.path("run"))
        .output()
        .unwrap();
    let error = String::from_utf8(ps.stderr).unwrap();
    assert!(
        !ps.status.success() && error.contains("no podkeeper runs here"),
        "{error}"
    );
    node.start_agent();
    node.wait_until("it is known again", async || {
        node.report("web").await.is_some_and(|r| r.ready == 1)
    })
    .await;
    let ps = command(&["ps", "--run-dir"])
        .arg(node.path("run"))
        .output()
        .unwrap();
    let table = String::from_utf8(ps.stdout).unwrap();
    assert!(
        table.contains(&node.full_name("web")) && table.contains("1/1"),
        "{table}"
    );
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn what_was_removed_meanwhile_stops_with_the_grace_period_it_was_given(mut node: Node) {
    node.make_out();
    let script = "trap 'sleep 2; echo ended > /out/ended; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let more = node.with_out("    $MOUNT\n  terminationGracePeriodSeconds: 20\n  volumes: $OUT\n");
    node.put("web.yaml", &pod_with("web", BUSYBOX, script, &more));
    node.put("stays.yaml", &pod("stays", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    let stays = node.wait_running("stays").await;
    node.kill_agent();
    node.remove("web.yaml");
    node.start_agent();
    node.wait_until("only the other is left", async || {
        node.sandboxes().await.len() == 1
    })
    .await;
    assert_eq!(
        node.lines("ended"),
        ["ended"],
        "it had the time that it needs"
    );
    assert_eq!(node.running_one("stays", "c").await.unwrap().id, stays.id);
    node.remove("stays.yaml");
    node.wait_gone().await;
}

async fn sandboxes_of_others_are_never_touched(mut node: Node) {
    let name = node.full_name("foreign");
    let labels = HashMap::from([
        ("io.kubernetes.pod.name".to_owned(), name.clone()),
        (
            "io.kubernetes.pod.namespace".to_owned(),
            "default".to_owned(),
        ),
        ("io.kubernetes.pod.uid".to_owned(), "1".to_owned()),
    ]);
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name,
            uid: "1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        labels,
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..v1::PodSandboxConfig::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    let foreign = node
        .client
        .run_pod_sandbox(request)
        .await
        .unwrap()
        .pod_sandbox_id;
    // One of the same name is wanted, comes and goes.
    node.put("foreign.yaml", &pod("foreign", FOREVER));
    node.start_agent();
    node.wait_running("foreign").await;
    node.remove("foreign.yaml");
    node.wait_gone().await;
    let status = v1::PodSandboxStatusRequest {
        pod_sandbox_id: foreign.clone(),
        verbose: false,
    };
    let status = node
        .client
        .pod_sandbox_status(status)
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    node.remove_sandbox(&foreign).await;
}

async fn one_root_directory_serves_one_agent(mut node: Node) {
    node.start_agent();
    node.wait_until("it runs", async || node.log_lines_with("Relisted pods") > 0)
        .await;
    let flag = |name: &str, folder: &str| format!("--{name}={}", node.path(folder).display());
    let second = command(&[
        "run",
        "--container-runtime-endpoint",
        &node.client.endpoint().to_string(),
    ])
    .args([
        flag("root-dir", "root"),
        flag("run-dir", "run2"),
        flag("pod-manifest-path", "manifests"),
    ])
    .output()
    .unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success(), "{error}");
    assert!(
        error.contains("another podkeeper runs with the root directory"),
        "{error}"
    );
}

async fn beside_a_kubelet_the_agent_does_not_run(node: Node) {
    // The agent looks in its own namespaces, so a fake kubelet in new ones tells nothing to the agents
    // of other tests.
    let fake = node.path("kubelet");
    std::fs::copy("/bin/sleep", &fake).unwrap();
    let agent = format!(
        "{} run --pod-manifest-path {} --root-dir {} --run-dir {} --healthz-port 0 \
         --container-runtime-endpoint unix:///nowhere.sock",
        PROGRAM,
        node.path("manifests").display(),
        node.path("root").display(),
        node.path("run").display(),
    );
    let run = |prefix: &str, agent: &str| {
        let script = format!(
            "{prefix} {} 1000 & until cat /proc/[0-9]*/comm 2>&1 | grep -qx kubelet; do sleep 0.1; done; \
             {agent}; echo status $?; kill -9 -1",
            fake.display(),
        );
        // With a PID namespace of its own, `kill -9 -1` ends what the script started and nothing else.
        let mut unshare = Command::new("timeout");
        unshare.args(["60", "unshare", "--pid", "--fork", "--kill-child"]);
        unshare.args(["--mount", "--mount-proc", "sh", "-c", &script]);
        unshare.stdin(Stdio::null()).process_group(0);
        let output = unshare.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8(text).unwrap()
    };
    let beside = run("", &agent);
    assert!(beside.contains("a kubelet runs on this node"), "{beside}");
    assert!(beside.contains("status 1"), "{beside}");
    let log = node.path("agent.log").display().to_string();
    let waits = format!(
        "{agent} 2>{log} & agent=$!; until grep -q 'Waiting for the container runtime' {log}; do sleep 0.1; done; \
         kill $agent; wait $agent"
    );
    let contained = run("unshare --pid --fork --mount", &waits);
    assert!(
        contained.contains("status 0"),
        "{contained}\n{}",
        node.log()
    );
}

async fn a_restarted_runtime_is_found_again(mut node: Node) {
    // The runtime is shared, so it is not this test's to restart: a socket of its own leads to it, and
    // goes away and comes back.
    let socket = node.path("runtime.sock");
    let target = node.runtime_dir.join("run/containerd.sock");
    let relay = || {
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let target = target.clone();
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let target = target.clone();
                connections.spawn(async move {
                    let mut to = tokio::net::UnixStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        })
    };
    let relaying = relay();
    let endpoint = format!("unix://{}", socket.display());
    node.extra_flags = vec!["--container-runtime-endpoint".into(), endpoint];
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    relaying.abort();
    assert!(relaying.await.unwrap_err().is_cancelled());
    std::fs::remove_file(&socket).unwrap();
    node.wait_until("it is noticed", async || {
        node.log_lines_with("is unreachable, Pods are left") == 1
    })
    .await;
    node.kill_container(&first.id).await;
    node.put("late.yaml", &pod("late", FOREVER));
    let _relaying = relay();
    node.wait_running("late").await;
    node.wait_after("web", &first).await;
    assert_eq!(
        node.log_lines_with("is unreachable, Pods are left"),
        1,
        "said once"
    );
    node.remove("web.yaml");
    node.remove("late.yaml");
    node.wait_gone().await;
}
