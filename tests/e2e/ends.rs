//! Hooks, signals and grace periods: how containers end.

use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::node::Node;

super::on_each_containerd!(
    grace_periods_are_kept_to_within_half_a_second,
    a_grace_period_goes_on_under_a_new_agent,
    a_deadline_ends_a_pod_for_good,
    hooks_run_after_the_start_and_before_the_signal,
    a_pre_stop_hook_lives_as_long_as_its_container,
    a_post_start_hook_is_run_again_after_the_agents_end,
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

/// Whether so many seconds lie between the two, to within half a one: if not, what was found.
fn apart(what: &str, from: SystemTime, to: SystemTime, expected: f64) -> Option<String> {
    let found = seconds(from, to);
    let is_kept = (found - expected).abs() < 0.5;
    (!is_kept).then(|| format!("{what}: {found} s, expected {expected} s"))
}

/// Measures up to three times, each with an empty shared folder and no Pod, until a round has nothing to
/// say against. One round may be late because the machine is busy with something else; what is late in all
/// three is.
async fn measure(node: &mut Node, mut round: impl AsyncFnMut(&mut Node) -> Vec<String>) {
    let mut rounds = vec![];
    node.make_out();
    for _ in 0..3 {
        let missed = round(node).await;
        node.wait_gone().await;
        if missed.is_empty() {
            return;
        }
        rounds.push(missed);
        node.clear_out();
    }
    panic!("three times in a row: {rounds:#?}");
}

async fn grace_periods_are_kept_to_within_half_a_second(mut node: Node) {
    node.start_agent();
    measure(&mut node, async |node| grace_periods(node).await).await;
}

/// Ends Pods with grace periods of all kinds; gives those that were not kept.
async fn grace_periods(node: &Node) -> Vec<String> {
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
    for pod in ["plain", "short", "stuck", "sick"] {
        node.wait_written(&format!("{pod}.up")).await;
    }
    let told = node.wait_written("sick.term").await;
    let sick = node.wait_finished("sick", "c").await;
    let mut missed = vec![apart("a probe's", told, sick, 3.0)];
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
    missed.push(apart("the Pod's", told, plain, 3.0));
    let (begun, told) = (
        node.wait_written("short.hook").await,
        node.wait_written("short.term").await,
    );
    missed.push(apart("the hook's part", begun, told, 1.6));
    missed.push(apart("the Pod's with a hook", begun, short, 4.0));
    let (begun, told) = (
        node.wait_written("stuck.hook").await,
        node.wait_written("stuck.term").await,
    );
    missed.push(apart("a hook that hangs is cut off", begun, told, 2.0));
    missed.push(apart("and the container has two seconds", told, stuck, 2.0));
    for container in ["c", "side"] {
        if let Some(container) = node.running_one("sick", container).await {
            node.kill_container(&container.id).await;
        }
    }
    missed.into_iter().flatten().collect()
}

async fn a_grace_period_goes_on_under_a_new_agent(mut node: Node) {
    node.start_agent();
    measure(&mut node, async |node| {
        node.put_with_out("web", &deaf("web", 6, ""));
        node.wait_written("web.up").await;
        node.remove("web.yaml");
        let told = node.wait_written("web.term").await;
        node.kill_agent();
        node.start_agent();
        let killed = node.wait_finished("web", "c").await;
        let missed = apart("under two agents", told, killed, 6.0);
        missed.into_iter().collect()
    })
    .await;
}

async fn a_deadline_ends_a_pod_for_good(mut node: Node) {
    node.start_agent();
    measure(&mut node, async |node| deadline(node).await).await;
}

/// Has a Pod ended by its deadline, for good; gives its grace period if that was not kept.
async fn deadline(node: &mut Node) -> Vec<String> {
    // Time enough for its start on a busy machine.
    let spec = deaf("late", 2, "").replace("  volumes", "  activeDeadlineSeconds: 15\n  volumes");
    node.put_with_out("late", &spec);
    node.wait_written("late.up").await;
    let told = node.wait_written("late.term").await;
    let killed = node.wait_finished("late", "c").await;
    let missed = apart("a deadline's", told, killed, 2.0);
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
    missed.into_iter().collect()
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
            // Whoever asks goes on when there is an answer, so the time is taken before.
            let _ = sender.send((path, SystemTime::now()));
            // Who does not wait for the answer does without.
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
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
    // The time of a file is that of the kernel's last tick.
    let tick = Duration::from_millis(10);
    assert!(at <= http + tick, "asked before the signal");
    assert!(seconds(at, slept) > 1.0, "slept before the signal");
}

async fn a_pre_stop_hook_lives_as_long_as_its_container(mut node: Node) {
    let spec = r#"
  terminationGracePeriodSeconds: 2
  volumes: $OUT
  containers:
  - name: c
    image: $BUSYBOX
    command: [sh, -c, "trap '' TERM; touch /out/up; while :; do touch /out/main; sleep 0.05; done"]
    $MOUNT
    lifecycle: {preStop: {exec: {command: [sh, -c, "while :; do touch /out/hook; sleep 0.05; done"]}}}
"#;
    node.start_agent();
    measure(&mut node, async |node| {
        node.put_with_out("web", spec);
        node.wait_written("up").await;
        node.remove("web.yaml");
        node.wait_gone().await;
        let hook = node.wait_written("hook").await;
        let main = node.wait_written("main").await;
        let apart = apart("the last sign of each", hook, main, 0.0);
        apart.into_iter().collect()
    })
    .await;
}

async fn a_post_start_hook_is_run_again_after_the_agents_end(mut node: Node) {
    node.make_out();
    let spec = r#"
  volumes: $OUT
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    $MOUNT
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo begun >> /out/log; while [ ! -e /out/go ]; do sleep 0.1; done; echo done >> /out/log"]}}}
"#;
    node.put_with_out("web", spec);
    node.start_agent();
    node.wait_written("log").await;
    let container = node.running_one("web", "c").await.unwrap();
    node.kill_agent();
    node.start_agent();
    node.wait_until("the hook runs again", async || {
        let begun = node
            .lines("log")
            .iter()
            .filter(|line| *line == "begun")
            .count();
        begun == 2
    })
    .await;
    assert_eq!(node.report("web").await.unwrap().ready, 0);
    std::fs::write(node.path("out").join("go"), "").unwrap();
    node.wait_until("it is ready", async || {
        node.report("web").await.unwrap().ready == 1
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, container.id);
    node.remove("web.yaml");
    node.wait_gone().await;
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
    assert_eq!(node.log_lines_with("PostStart hook failed"), 1);
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
