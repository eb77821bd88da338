//! S7, a node's tools find containers and logs by the kubelet's labels and paths; S8, a container that ends is
//! started again as its restart policy says.

use podkeeper::cri::v1;

use super::cli;
use super::node::{FOREVER, Node, pod, pod_with};
use super::ports::free;

super::on_each_containerd!(
    containers_stand_under_the_names_that_a_nodes_tools_expect,
    a_container_killed_by_hand_runs_again,
    the_end_of_a_container_is_seen_by_an_event_and_not_by_a_relist,
    a_container_stopped_through_the_runtime_runs_again,
    a_dead_sandbox_is_made_anew,
    a_container_that_keeps_ending_backs_off_and_says_so,
    restart_policies_are_kept,
    what_the_manifest_says_is_what_the_container_sees,
    host_ports_and_the_hosts_network_answer,
);

/// The main path, on the newest containerd as well.
mod v2_4 {
    super::super::on_containerd!("2.4": containers_stand_under_the_names_that_a_nodes_tools_expect,
        a_container_killed_by_hand_runs_again, a_dead_sandbox_is_made_anew,
        the_end_of_a_container_is_seen_by_an_event_and_not_by_a_relist);
}

async fn containers_stand_under_the_names_that_a_nodes_tools_expect(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let container = node.wait_running("web").await;
    let uid = node.report("web").await.unwrap().uid;
    let full_name = node.full_name("web");
    for (label, value) in [
        ("io.kubernetes.pod.name", full_name.as_str()),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", &uid),
        ("io.kubernetes.container.name", "c"),
    ] {
        assert_eq!(container.labels[label], value);
    }
    let sandbox = node.sandboxes().await.remove(0);
    assert_eq!(sandbox.metadata.as_ref().unwrap().name, full_name);
    assert_eq!(sandbox.metadata.unwrap().uid, uid);
    assert_eq!(sandbox.annotations["kubernetes.io/config.hash"], uid);
    assert_eq!(sandbox.annotations["kubernetes.io/config.source"], "file");
    let log = node
        .path("logs")
        .join(format!("default_{full_name}_{uid}/c/0.log"));
    node.wait_until("the log is in the runtime's format", async || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.ends_with(" stdout F up\n"))
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_container_killed_by_hand_runs_again(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    node.kill_container(&first.id).await;
    let second = node.wait_after("web", &first).await;
    assert_eq!(second.metadata.unwrap().attempt, 1);
    assert_eq!(
        second.pod_sandbox_id, first.pod_sandbox_id,
        "the sandbox is the same"
    );
    let kept = node.containers().await;
    assert!(
        kept.iter().any(|c| c.id == first.id),
        "the dead one is kept for its log"
    );
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn the_end_of_a_container_is_seen_by_an_event_and_not_by_a_relist(mut node: Node) {
    let read_only = free();
    node.flag("read-only-port", &read_only.port().to_string());
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    node.start_agent();
    let mut first = vec![];
    for name in names {
        first.push(node.wait_running(name).await);
    }
    let lists = || {
        let metrics = cli::get(read_only, "/metrics").unwrap().1;
        let count = "podkeeper_cri_call_duration_seconds_count{method=\"ListPodSandbox\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(count));
        count.unwrap().parse::<u64>().unwrap()
    };
    // A relist may come by chance; that one comes each time is no chance.
    let mut without_relist = 0;
    for (name, container) in names.into_iter().zip(&first) {
        let before = lists();
        node.kill_container(&container.id).await;
        node.wait_after(name, container).await;
        without_relist += u32::from(lists() == before);
    }
    assert!(without_relist > 0, "{}", node.log());
    for name in names {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
}

async fn a_container_stopped_through_the_runtime_runs_again(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    node.client.stop_container(&first.id, 5).await.unwrap();
    node.wait_after("web", &first).await;
    // Removed by hand altogether, it still runs again, under a number of its own. The runtime may
    // refuse the removal where the agent starts the container at that very moment.
    let second = node.running_one("web", "c").await.unwrap();
    let remove = v1::RemovePodSandboxRequest {
        pod_sandbox_id: second.pod_sandbox_id.clone(),
    };
    node.wait_until("it is removed", async || {
        node.client.remove_pod_sandbox(remove.clone()).await.is_ok()
    })
    .await;
    node.wait_after("web", &second).await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_dead_sandbox_is_made_anew(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let first = node.wait_running("web").await;
    node.stop_sandbox(&first.pod_sandbox_id).await;
    let second = node
        .wait("it runs in a new sandbox", async || {
            let running = node.running_one("web", "c").await;
            running.filter(|c| c.pod_sandbox_id != first.pod_sandbox_id)
        })
        .await;
    let sandboxes = node.sandboxes().await;
    let new = sandboxes.iter().find(|s| s.id == second.pod_sandbox_id);
    assert_eq!(new.unwrap().metadata.as_ref().unwrap().attempt, 1);
    node.remove("web.yaml");
    node.wait_gone().await;
    // The one that was stopped for the removal did not die.
    assert_eq!(node.log_lines_with("sandbox died"), 1, "{}", node.log());
}

async fn a_container_that_keeps_ending_backs_off_and_says_so(mut node: Node) {
    node.put("bad.yaml", &pod("bad", "exit 3"));
    node.start_agent();
    node.wait_until("it backs off", async || {
        let report = node.report("bad").await.unwrap_or_default();
        report.reason == "CrashLoopBackOff" && report.restarts == 1
    })
    .await;
    let report = node.report("bad").await.unwrap();
    assert_eq!(report.containers[0].last_exit_code, Some(3));
    assert!(report.message.contains("back-off 10s"), "{report:#?}");
    node.remove("bad.yaml");
    node.wait_gone().await;
    assert_eq!(
        node.log_lines_with("Started container"),
        2,
        "{}",
        node.log()
    );
}

async fn restart_policies_are_kept(mut node: Node) {
    let policy = |policy: &str| format!("  restartPolicy: {policy}\n");
    let image = super::node::BUSYBOX;
    node.put(
        "never.yaml",
        &pod_with("never", image, "exit 1", &policy("Never")),
    );
    node.put(
        "done.yaml",
        &pod_with("done", image, "exit 0", &policy("OnFailure")),
    );
    node.put(
        "again.yaml",
        &pod_with("again", image, "exit 1", &policy("OnFailure")),
    );
    node.start_agent();
    node.wait_until("each is where its policy leads", async || {
        phase(&node, "never").await == "Failed"
            && phase(&node, "done").await == "Succeeded"
            && node.report("again").await.is_some_and(|r| r.restarts == 1)
    })
    .await;
    node.kill_agent();
    node.start_agent();
    node.wait_until("the new agent knows them", async || {
        phase(&node, "done").await == "Succeeded"
    })
    .await;
    node.wait_until("and the other", async || {
        phase(&node, "never").await == "Failed"
    })
    .await;
    let attempts = node.containers().await.into_iter().filter_map(|c| {
        let again = c.labels["io.kubernetes.pod.name"].starts_with("again");
        (!again).then(|| c.metadata.unwrap().attempt)
    });
    assert_eq!(
        attempts.collect::<Vec<_>>(),
        [0, 0],
        "what is finished stays finished"
    );
    for file in ["never.yaml", "done.yaml", "again.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

async fn what_the_manifest_says_is_what_the_container_sees(mut node: Node) {
    let host = node.path("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "from the host").unwrap();
    let manifest = format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  name: full
  namespace: kube-system
spec:
  hostname: named
  hostAliases:
  - ip: 10.9.8.7
    hostnames: [friend]
  dnsPolicy: None
  dnsConfig:
    nameservers: [10.1.1.1]
    searches: [example.org]
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sh, -c]
    args: [\"echo '$(GREETING)' > /scratch/out; echo again > /made/out; trap 'exit 0' TERM; while :; do sleep 0.1; done\"]
    workingDir: /tmp
    env:
    - name: NAME
      value: world
    - name: GREETING
      value: hello $(NAME) $$(NAME)
    volumeMounts:
    - {{name: scratch, mountPath: /scratch}}
    - {{name: host, mountPath: /host, readOnly: true}}
    - {{name: made, mountPath: /made}}
  volumes:
  - name: scratch
    emptyDir: {{}}
  - name: host
    hostPath: {{path: {host}, type: Directory}}
  - name: made
    hostPath: {{path: {made}, type: DirectoryOrCreate}}
",
        host = host.display(),
        made = node.path("made").display(),
    );
    node.put("full.yaml", &manifest);
    node.start_agent();
    let container = node.wait_running("full").await;
    let see = async |command: &[&str]| node.exec(&container.id, command).await;
    node.wait_until("it has written", async || node.path("made/out").exists())
        .await;
    assert_eq!(see(&["cat", "/scratch/out"]).await, "hello world $(NAME)\n");
    assert_eq!(see(&["cat", "/host/file"]).await, "from the host");
    assert!(
        see(&["cat", "/proc/mounts"])
            .await
            .lines()
            .any(|l| l.contains(" /host ") && l.contains("ro,"))
    );
    assert_eq!(see(&["hostname"]).await, "named\n");
    assert_eq!(
        see(&["sh", "-c", "cd /proc/1/cwd && pwd -P"]).await.trim(),
        "/tmp"
    );
    let hosts = see(&["cat", "/etc/hosts"]).await;
    assert!(hosts.contains("10.9.8.7\tfriend\n"), "{hosts}");
    let ip = node.report("full").await.unwrap().ips.remove(0);
    assert!(hosts.contains(&format!("{ip}\tnamed\n")), "{hosts}");
    let resolv = see(&["cat", "/etc/resolv.conf"]).await;
    assert!(
        resolv.contains("nameserver 10.1.1.1") && resolv.contains("search example.org"),
        "{resolv}"
    );
    node.remove("full.yaml");
    node.wait_gone().await;
    assert!(host.join("file").exists(), "the host's own files stay");
    assert!(node.path("made/out").exists());
}

async fn host_ports_and_the_hosts_network_answer(mut node: Node) {
    let (port, own) = (free().port(), free().port());
    let web = |name: &str, network: &str, ports: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{network} containers: [{{name: c, \
             image: 'localhost/podkeeper/web:1', {ports}}}]}}}}"
        )
    };
    let mapped = format!("ports: [{{containerPort: 8080, hostPort: {port}, hostIP: 127.0.0.1}}]");
    node.put("mapped.yaml", &web("mapped", "", &mapped));
    let command = format!("command: [httpd, '-f', '-p', '{own}', '-h', /www]");
    node.put("host.yaml", &web("host", "hostNetwork: true,", &command));
    node.start_agent();
    for port in [port, own] {
        node.wait_until("it answers over HTTP", async || {
            let answer = get(port).await.unwrap_or_default();
            answer.contains("This page comes from a static Pod.")
        })
        .await;
    }
    node.remove("mapped.yaml");
    node.remove("host.yaml");
    node.wait_gone().await;
    assert!(get(port).await.is_err(), "the port is free again");
}

async fn phase(node: &Node, pod: &str) -> String {
    node.report(pod).await.unwrap_or_default().phase
}

async fn get(port: u16) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
