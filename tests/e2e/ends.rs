//! Hooks, signals and grace periods: how containers end.

use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::node::Node;

super::on_each_containerd!(
    grace_periods_are_kept_to_within_half_a_second,
    a_grace_period_goes_on_under_a_new_agent,
    a_deadline_ends_a_pod_for_good,
    hooks_run_after_the_start_and_before_the_signal,
    a_container_whose_post_start_hook_fails_is_started_anew,
    a_stop_signal_that_the_runtime_does_not_know_is_told,
);

/// Where the runtime knows of stop signals.
mod v2_4 {
    super::super::on_containerd!("2.4": the_stop_signal_is_the_pods);
}

/// Notes its stop signal in a file, and goes on.
const DEAF: &str = r#"[sh, -c, "trap '[ -e /out/$POD.term ] || touch /out/$POD.term' TERM; touch /out/$POD.up; while :; do sleep 0.05; done"]"#;

/// A deaf main container, and a sidecar just like it: while that has its last seconds, the runtime still
/// knows how the first one ended.
fn deaf(name: &str, grace: u32, container: &str) -> String {
    let command = DEAF.replace("$POD", name);
    format!(
        "
  terminationGracePeriodSeconds: {grace}
  volumes: $OUT
  initContainers:
  - name: side
    image: $BUSYBOX
    restartPolicy: Always
    command: [sh, -c, 'trap : TERM; while :; do sleep 0.1; done']
  containers:
  - name: c
    image: $BUSYBOX
    command: {command}
    $MOUNT
    {container}
"
    )
}

fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}

/// Between the two lie so many seconds, to within half a one.
fn assert_apart(what: &str, from: SystemTime, to: SystemTime, expected: f64) {
    let found = seconds(from, to);
    assert!(
        (found - expected).abs() < 0.5,
        "{what}: {found} s, expected {expected} s"
    );
}

async fn grace_periods_are_kept_to_within_half_a_second(mut node: Node) {
    node.make_out();
    let hook = |script: &str| {
        format!("lifecycle: {{preStop: {{exec: {{command: [sh, -c, '{script}']}}}}}}")
    };
    node.put_with_out("plain", &deaf("plain", 3, ""));
    node.put_with_out(
        "short",
        &deaf("short", 4, &hook("touch /out/short.hook; sleep 1.6")),
    );
    node.put_with_out(
        "stuck",
        &deaf("stuck", 2, &hook("touch /out/stuck.hook; sleep 600")),
    );
    // Gone before the sandbox is, a probe's own grace period.
    let probe = "livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1, \
                 terminationGracePeriodSeconds: 3}";
    node.put_with_out("sick", &deaf("sick", 600, probe));
    node.start_agent();
    for pod in ["plain", "short", "stuck", "sick"] {
        node.wait_written(&format!("{pod}.up")).await;
    }
    let told = node.wait_written("sick.term").await;
    assert_apart(
        "a probe's",
        told,
        node.wait_finished("sick", "c").await,
        3.0,
    );
    node.remove("sick.yaml");
    for pod in ["plain", "short", "stuck"] {
        node.remove(&format!("{pod}.yaml"));
    }
    let (plain, short, stuck) = tokio::join!(
        node.wait_finished("plain", "c"),
        node.wait_finished("short", "c"),
        node.wait_finished("stuck", "c"),
    );
    let told = node.wait_written("plain.term").await;
    assert_apart("the Pod's", told, plain, 3.0);
    let (begun, told) = (
        node.wait_written("short.hook").await,
        node.wait_written("short.term").await,
    );
    assert_apart("the hook's part", begun, told, 1.6);
    assert_apart("the Pod's with a hook", begun, short, 4.0);
    let (begun, told) = (
        node.wait_written("stuck.hook").await,
        node.wait_written("stuck.term").await,
    );
    assert_apart("a hook that hangs is cut off", begun, told, 2.0);
    assert_apart("and the container has two seconds", told, stuck, 2.0);
    for container in ["c", "side"] {
        if let Some(container) = node.running_one("sick", container).await {
            node.kill_container(&container.id).await;
        }
    }
    node.wait_gone().await;
}

async fn a_grace_period_goes_on_under_a_new_agent(mut node: Node) {
    node.make_out();
    node.put_with_out("web", &deaf("web", 6, ""));
    node.start_agent();
    node.wait_written("web.up").await;
    node.remove("web.yaml");
    let told = node.wait_written("web.term").await;
    node.kill_agent();
    node.start_agent();
    let killed = node.wait_finished("web", "c").await;
    assert_apart("under two agents", told, killed, 6.0);
    node.wait_gone().await;
}

async fn a_deadline_ends_a_pod_for_good(mut node: Node) {
    node.make_out();
    let spec = deaf("late", 2, "").replace("  volumes", "  activeDeadlineSeconds: 3\n  volumes");
    node.put_with_out("late", &spec);
    node.start_agent();
    node.wait_written("late.up").await;
    let told = node.wait_written("late.term").await;
    assert_apart(
        "a deadline's",
        told,
        node.wait_finished("late", "c").await,
        2.0,
    );
    let failed = async || {
        let report = node.report("late").await.unwrap_or_default();
        (report.phase, report.reason)
    };
    let expected = ("Failed".to_owned(), "DeadlineExceeded".to_owned());
    node.wait_until("it has failed", async || failed().await == expected)
        .await;
    node.wait_until("nothing of it runs", async || {
        node.running().await.is_empty()
    })
    .await;
    node.kill_agent();
    node.start_agent();
    let shown = async || node.report("late").await.map(|r| (r.phase, r.reason));
    assert_eq!(node.wait("the new agent shows it", shown).await, expected);
    let attempts = node.containers().await.into_iter();
    let attempts = attempts.map(|c| c.metadata.unwrap().attempt);
    assert_eq!(attempts.max(), Some(0), "nothing was started again");
    node.remove("late.yaml");
    node.wait_gone().await;
}

/// A web server on the node that tells the paths it is asked for, and when.
async fn listen() -> (u16, mpsc::UnboundedReceiver<(String, SystemTime)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            // Who does not wait for the answer does without.
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
            let _ = sender.send((path, SystemTime::now()));
        }
    });
    (port, asked)
}

async fn hooks_run_after_the_start_and_before_the_signal(mut node: Node) {
    node.make_out();
    let (port, mut asked) = listen().await;
    let http = |path: &str| format!("{{httpGet: {{host: 127.0.0.1, port: {port}, path: {path}}}}}");
    let spec = r#"
  terminationGracePeriodSeconds: 30
  volumes: $OUT
  containers:
  - name: exec
    image: $BUSYBOX
    command: [sh, -c, "trap 'echo signal >> /out/exec; exit 0' TERM; while :; do sleep 0.05; done"]
    $MOUNT
    lifecycle:
      postStart: {exec: {command: [sh, -c, "sleep 0.3; echo postStart >> /out/exec"]}}
      preStop: {exec: {command: [sh, -c, "sleep 0.3; echo preStop >> /out/exec"]}}
  - name: http
    image: $BUSYBOX
    command: [sh, -c, "trap 'touch /out/http; exit 0' TERM; while :; do sleep 0.05; done"]
    $MOUNT
    lifecycle: {postStart: $STARTED, preStop: $STOPPING}
  - name: sleep
    image: $BUSYBOX
    command: [sh, -c, "trap 'touch /out/sleep; exit 0' TERM; while :; do sleep 0.05; done"]
    $MOUNT
    lifecycle: {preStop: {sleep: {seconds: 2}}}
"#;
    let spec = spec.replace("$STARTED", &http("/started"));
    node.put_with_out("web", &spec.replace("$STOPPING", &http("/stopping")));
    node.start_agent();
    node.wait_container("web", "sleep").await;
    assert_eq!(
        node.lines("exec"),
        ["postStart"],
        "what comes after waits for it"
    );
    assert_eq!(asked.recv().await.unwrap().0, "/started");
    node.wait_until("all are ready", async || {
        node.report("web").await.unwrap().ready == 3
    })
    .await;
    node.remove("web.yaml");
    let (path, at) = asked.recv().await.unwrap();
    assert_eq!(path, "/stopping");
    node.wait_gone().await;
    assert_eq!(node.lines("exec"), ["postStart", "preStop", "signal"]);
    let http = node.wait_written("http").await;
    let slept = node.wait_written("sleep").await;
    assert!(at <= http, "asked before the signal");
    assert!(seconds(at, slept) > 1.0, "slept before the signal");
}

async fn a_container_whose_post_start_hook_fails_is_started_anew(mut node: Node) {
    node.make_out();
    let spec = r#"
  volumes: $OUT
  containers:
  - name: c
    image: $BUSYBOX
    command: [sh, -c, "trap 'echo signal >> /out/log; exit 0' TERM; echo start >> /out/log; while :; do sleep 0.05; done"]
    $MOUNT
    lifecycle: {postStart: {exec: {command: [sh, -c, "while [ ! -e /out/log ]; do :; done; [ -e /out/good ] || { touch /out/good; sleep 0.3; exit 3; }"]}}}
"#;
    node.put_with_out("web", spec);
    node.start_agent();
    node.wait_until("it runs, the second time", async || {
        let report = node.report("web").await.unwrap_or_default();
        report.ready == 1 && report.restarts == 1
    })
    .await;
    assert_eq!(node.log_lines_with("the postStart hook failed"), 1);
    assert_eq!(node.lines("log"), ["start", "signal", "start"]);
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// A Pod with a stop signal of its own; it notes which one it gets.
fn with_stop_signal(node: &Node) {
    node.make_out();
    let spec = r#"
  os: {name: linux}
  volumes: $OUT
  containers:
  - name: c
    image: $BUSYBOX
    command: [sh, -c, "trap 'echo usr1 >> /out/log; exit 0' USR1; trap 'echo term >> /out/log; exit 0' TERM; touch /out/up; while :; do sleep 0.05; done"]
    $MOUNT
    lifecycle: {stopSignal: SIGUSR1}
"#;
    node.put_with_out("web", spec);
}

/// What is said of a stop signal that the runtime does not know.
const UNKNOWN: &str =
    "lifecycle.stopSignal is SIGUSR1, which this container runtime does not know of";

async fn the_stop_signal_is_the_pods(mut node: Node) {
    with_stop_signal(&node);
    node.start_agent();
    node.wait_written("up").await;
    node.remove("web.yaml");
    node.wait_gone().await;
    assert_eq!(node.lines("log"), ["usr1"]);
    assert_eq!(node.log_lines_with(UNKNOWN), 0);
}

async fn a_stop_signal_that_the_runtime_does_not_know_is_told(mut node: Node) {
    with_stop_signal(&node);
    node.start_agent();
    node.wait_written("up").await;
    node.remove("web.yaml");
    node.wait_gone().await;
    assert_eq!(node.lines("log"), ["term"]);
    assert_eq!(node.log_lines_with(UNKNOWN), 1);
}
