//! Probes: what they find changes readiness and restarts, as documented.

use podkeeper::pod::events::Event;
use podkeeper::server::fetch;

use super::grpc::{Grpc, Reply};
use super::node::Node;

super::on_each_containerd!(
    each_kind_of_probe_makes_a_pod_unready_and_ready_again_and_restarts_it,
    a_startup_probe_comes_before_the_others_and_readiness_survives_the_agent,
    a_probe_that_leaves_a_child_is_decided_at_its_timeout,
);

/// Probes of both kinds that each have one round a second and no patience with a failure. They have it with
/// a container that has just started and with a busy machine: a late answer is no failure here. What gives
/// a container up leaves it a second, the Pod far more than a test may take.
const PROBES: &str = "
    startupProbe: {periodSeconds: 1, failureThreshold: 100, timeoutSeconds: 30, $LIVE}
    readinessProbe: {periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 30, $READY}
    livenessProbe: {periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 30, terminationGracePeriodSeconds: 1, $LIVE}
  terminationGracePeriodSeconds: 300
";

/// A Pod of one container that runs this script, deaf to its stop signal, under these probes.
fn pod(name: &str, script: &str, ready: &str, live: &str, spec: &str) -> String {
    let script = serde_json::to_string(&format!("{script}; while :; do sleep 0.1; done")).unwrap();
    let probes = PROBES.replace("$READY", ready).replace("$LIVE", live);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: c\n    \
         image: {}\n    command: [sh, -c, {script}]{probes}{spec}",
        super::node::BUSYBOX
    )
}

const KINDS: [&str; 4] = ["exec", "http", "tcp", "grpc"];

/// Waits until each of the Pods has so many ready containers and restarts.
async fn wait_all(node: &Node, what: &str, ready: usize, restarts: u32) {
    for kind in KINDS {
        node.wait_until(&format!("{kind} {what}"), async || {
            let report = node.report(kind).await.unwrap_or_default();
            assert!(report.restarts <= restarts, "{report:#?}");
            report.ready == ready && report.restarts == restarts
        })
        .await;
    }
}

/// Runs a command in the container of each of the first three Pods.
async fn tell_all(node: &Node, commands: [&str; 3]) {
    for (kind, command) in KINDS.into_iter().zip(commands) {
        let container = node.wait_running(kind).await;
        node.sh(&container.id, command).await;
    }
}

async fn each_kind_of_probe_makes_a_pod_unready_and_ready_again_and_restarts_it(mut node: Node) {
    // HealthCheckResponse of the gRPC health protocol.
    let [serving, not_serving] = [1, 2].map(|status| Reply::Message(vec![8, status]));
    let (ready, ready_port) = Grpc::on_tcp(serving.clone()).await;
    let (live, live_port) = Grpc::on_tcp(serving.clone()).await;
    let exec = |file: &str| format!("exec: {{command: [cat, /tmp/{file}]}}");
    let http = |file: &str| format!("httpGet: {{path: /{file}, port: 8080}}");
    let tcp = |port: u16| format!("tcpSocket: {{port: {port}}}");
    let grpc = |port: u16| format!("grpc: {{port: {port}}}");
    let files = "touch /tmp/ready /tmp/live";
    let servers = "httpd -p 8081; httpd -p 8082";
    for (kind, script, ready, live, spec) in [
        ("exec", files, exec("ready"), exec("live"), ""),
        (
            "http",
            &format!("{files}; httpd -p 8080 -h /tmp"),
            http("ready"),
            http("live"),
            "",
        ),
        ("tcp", servers, tcp(8081), tcp(8082), ""),
        (
            "grpc",
            "true",
            grpc(ready_port),
            grpc(live_port),
            "  hostNetwork: true\n",
        ),
    ] {
        node.put(
            &format!("{kind}.yaml"),
            &pod(kind, script, &ready, &live, spec),
        );
    }
    node.flag("node-ip", "127.0.0.1");
    node.start_agent();
    wait_all(&node, "is ready", 1, 0).await;

    // The server, and whatever it made to answer a probe that has just asked.
    let kill = |port: u16| {
        format!(
            "ps | grep 'httpd -p {port}' | grep -v -e grep -e 'sh -c' | while read id rest; do kill $id; done; true"
        )
    };
    let unready = "rm /tmp/ready";
    tell_all(&node, [unready, unready, &kill(8081)]).await;
    ready.answers(not_serving.clone());
    wait_all(&node, "is not ready", 0, 0).await;

    let mended = "touch /tmp/ready";
    tell_all(&node, [mended, mended, "httpd -p 8081"]).await;
    ready.answers(serving.clone());
    wait_all(&node, "is ready again", 1, 0).await;

    let dead = "rm /tmp/live";
    tell_all(&node, [dead, dead, &kill(8082)]).await;
    live.answers(not_serving);
    node.wait_until("the last one is given up", async || {
        let said = "failed its liveness probe, it will be restarted";
        node.log_lines_with(said) == KINDS.len()
    })
    .await;
    live.answers(serving);
    wait_all(&node, "was restarted", 1, 1).await;
    for kind in KINDS {
        let report = node.report(kind).await.unwrap();
        assert_eq!(report.containers[0].last_exit_code, Some(137), "{kind}");
        node.remove(&format!("{kind}.yaml"));
    }
    // One whose removal is not seen yet is started again.
    node.wait_until("all are on their way out", async || {
        node.log_lines_with("Stopping Pod") == KINDS.len()
    })
    .await;
    for kind in KINDS {
        node.kill_container(&node.wait_running(kind).await.id).await;
    }
    node.wait_gone().await;
}

async fn a_startup_probe_comes_before_the_others_and_readiness_survives_the_agent(mut node: Node) {
    node.make_out();
    let spec = "
  volumes: $OUT
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    $MOUNT
    startupProbe:
      exec: {command: [sh, -c, 'echo >> /out/startup; cat /out/up']}
      periodSeconds: 1
      timeoutSeconds: 30
      failureThreshold: 100
    livenessProbe:
      exec: {command: [sh, -c, 'echo >> /out/live; cat /out/up']}
      periodSeconds: 1
      timeoutSeconds: 30
      failureThreshold: 1
    readinessProbe:
      exec: {command: [cat, /out/up]}
      timeoutSeconds: 30
      periodSeconds: 60
";
    node.put_with_out("web", spec);
    node.start_agent();
    let rounds = async |file: &str, count: usize| {
        node.wait_until(&format!("{file} has {count} rounds"), async || {
            node.lines(file).len() >= count
        })
        .await;
    };
    rounds("startup", 4).await;
    assert_eq!(node.lines("live"), [""; 0], "the liveness probe waits");
    assert_eq!(node.report("web").await.unwrap().ready, 0);
    std::fs::write(node.path("out/up"), "").unwrap();
    rounds("live", 2).await;
    node.wait_known(1).await;
    let before = node.lines("startup").len();

    // Readiness is looked at once a minute: a new agent has to know it.
    node.kill_agent();
    node.start_agent();
    let first = node
        .wait("the new agent shows it", async || node.report("web").await)
        .await;
    assert_eq!((first.ready, first.restarts), (1, 0));
    let live = node.lines("live").len();
    node.wait_until("it probes on", async || node.lines("live").len() > live)
        .await;
    assert_eq!(
        node.lines("startup").len(),
        before,
        "it has started long ago"
    );
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// What probes that failed said.
async fn unhealthy(node: &Node) -> Vec<Event> {
    let events = fetch(&node.path("run"), "/v1/events").await;
    let mut events: Vec<Event> = events.unwrap();
    events.retain(|event| event.reason == "Unhealthy");
    events
}

async fn a_probe_that_leaves_a_child_is_decided_at_its_timeout(mut node: Node) {
    let spec = "
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    livenessProbe:
      exec: {command: [sh, -c, 'sleep 300 &']}
      timeoutSeconds: 1
      periodSeconds: 5
      failureThreshold: 3
";
    node.put("web.yaml", &super::node::manifest("web", spec));
    node.start_agent();
    let first = node.wait_running("web").await;
    let begun = std::time::Instant::now();
    // What the probe left is counted before the container is restarted.
    node.wait_until("two rounds have failed", async || {
        let events = unhealthy(&node).await;
        events.iter().map(|e| e.count).sum::<u32>() >= 2
    })
    .await;
    let left = node
        .exec(&first.id, &["sh", "-c", "ps | grep -c '[s]leep 300'"])
        .await;
    assert_eq!(left.trim(), "1", "children left");
    let second = node.wait_after("web", &first).await;
    assert_ne!(second.id, first.id);
    // Three rounds of five seconds, not three calls of half a minute.
    assert!(begun.elapsed().as_secs() < 45, "{:?}", begun.elapsed());
    let events = unhealthy(&node).await;
    let right = |e: &Event| e.message.contains("timed out after 1s");
    assert!(events.iter().all(right), "{events:#?}");
    node.remove("web.yaml");
    node.wait_gone().await;
}
