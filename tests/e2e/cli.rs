//! The command line and the local API beside a running agent: logs, events, waiting, one Pod on a page,
//! and what programs read.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Output, Stdio};

use podkeeper::cri::v1;
use podkeeper::cri::v1::runtime_service_client::RuntimeServiceClient;
use serde_json::Value;
use tokio::net::UnixStream;

use super::node::{FOREVER, Node, command, pod, pod_with};
use super::ports::free;

super::on_each_containerd!(logs_are_followed_over_rotation_and_restarts);

mod on_one {
    super::super::on_containerd!(
        "2.1": a_pod_that_keeps_ending_is_described,
        a_last_line_without_a_newline_is_shown,
        what_is_under_way_is_shown_with_its_time_and_warnings_beside_it,
        waiting_ends_when_the_pod_is_ready_or_gone,
        events_and_changes_are_told_as_they_come,
        programs_read_pods_health_and_metrics
    );
}

/// A command that asks this node's agent.
pub(super) fn ask(node: &Node, words: &[&str]) -> std::process::Command {
    let run_dir = format!("--run-dir={}", node.path("run").display());
    let mut command = command(&[words[0], &run_dir]);
    command.args(&words[1..]).stdin(Stdio::null());
    command
}

pub(super) fn output(node: &Node, words: &[&str]) -> Output {
    ask(node, words).output().unwrap()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A command that goes on, and what it has written.
struct Running {
    process: Child,
    file: std::path::PathBuf,
}

impl Running {
    fn start(node: &Node, name: &str, words: &[&str]) -> Self {
        let file = node.path(name);
        let out = File::create(&file).unwrap();
        let process = ask(node, words).stdout(out).spawn().unwrap();
        Self { process, file }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tells the runtime to write a container's log into a new file, as who rotates it does.
async fn reopen_log(node: &Node, id: &str) {
    let socket = node.client.endpoint().socket().to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move {
            let stream = UnixStream::connect(socket).await;
            stream.map(hyper_util::rt::TokioIo::new)
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let request = v1::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };
    let mut client = RuntimeServiceClient::new(channel);
    client.reopen_container_log(request).await.unwrap();
}

async fn logs_are_followed_over_rotation_and_restarts(mut node: Node) {
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";
    node.put("web.yaml", &pod("web", script));
    node.start_agent();
    let first = node.wait_running("web").await;
    let logs = Running::start(&node, "followed", &["logs", "web", "--follow"]);
    let uid = node.report("web").await.unwrap().uid;
    let folder = format!("logs/default_{}_{uid}/c", node.full_name("web"));
    let log = node.path(&folder).join("0.log");
    for time in ["20260101-000000", "20260101-000001"] {
        let seen = logs.said().len();
        node.wait_until("it goes on", async || logs.said().len() > seen + 200)
            .await;
        let rotated = log.with_file_name(format!("0.log.{time}"));
        fs::rename(&log, rotated).unwrap();
        reopen_log(&node, &first.id).await;
    }
    let seen = logs.said().len();
    node.wait_until("it goes on", async || logs.said().len() > seen + 200)
        .await;
    node.kill_container(&first.id).await;
    node.wait_after("web", &first).await;
    node.wait_until("the next one is heard", async || {
        let said = logs.said();
        let again = said.rfind("line 1\n").unwrap_or_default();
        again > 0 && said[again..].contains("line 9\n")
    })
    .await;
    let said = logs.said();
    let again = said.rfind("line 1\n").unwrap();
    for (which, said) in [("first", &said[..again]), ("second", &said[again..])] {
        for (at, line) in said.lines().enumerate() {
            assert_eq!(line, format!("line {}", at + 1), "of the {which} instance");
        }
    }
    // The one before has all its lines, and no more come.
    let previous = output(&node, &["logs", "web", "--previous"]);
    assert_eq!(text(&previous.stdout), said[..again]);
    let tail = output(&node, &["logs", "web", "--previous", "--tail=3"]);
    let lines: Vec<&str> = said[..again].lines().collect();
    let last: Vec<&str> = lines[lines.len() - 3..].to_vec();
    assert_eq!(text(&tail.stdout).lines().collect::<Vec<_>>(), last);
    // It ends when the Pod does.
    let mut logs = logs;
    node.remove("web.yaml");
    node.wait_gone().await;
    node.wait_until("the logs end", async || {
        logs.process.try_wait().unwrap().is_some()
    })
    .await;
    assert!(logs.process.wait().unwrap().success());
}

async fn a_last_line_without_a_newline_is_shown(mut node: Node) {
    let script = |wait: &str| format!("echo first; printf 'last words, no newline'; {wait}");
    let never = "  restartPolicy: Never\n";
    let runs = "while [ ! -e /out/end ]; do sleep 0.05; done";
    let volumes = node.with_out("    $MOUNT\n  volumes: $OUT\n") + never;
    node.make_out();
    let image = super::node::BUSYBOX;
    node.put("web.yaml", &pod_with("web", image, &script(runs), &volumes));
    node.start_agent();
    node.wait_running("web").await;
    let mut followed = Running::start(&node, "followed", &["logs", "web", "--follow"]);
    node.wait_until("it is followed", async || followed.said() == "first\n")
        .await;
    fs::write(node.path("out/end"), "").unwrap();
    node.wait_until("it has ended", async || {
        followed.process.try_wait().unwrap().is_some()
    })
    .await;
    let expected = "first\nlast words, no newline";
    assert_eq!(followed.said(), expected);
    for (words, expected) in [
        (&["logs", "web"][..], expected),
        (&["logs", "web", "--tail=1"], "last words, no newline"),
        (&["logs", "web", "--tail=2"], expected),
        (&["logs", "web", "--tail=0"], ""),
    ] {
        let shown = text(&output(&node, words).stdout);
        assert_eq!(shown, expected, "{words:?}");
    }
    // What comes after it begins a line.
    let again = script("sleep 1; exit 1").replace("first", "again");
    node.put("again.yaml", &pod("again", &again));
    node.wait_until("it was started again", async || {
        node.report("again").await.is_some_and(|r| r.restarts > 0)
    })
    .await;
    let followed = Running::start(&node, "again", &["logs", "again", "--follow"]);
    let both = "again\nlast words, no newline\n";
    node.wait_until("the next instance follows", async || {
        followed.said().contains(both) || followed.said() == "again\nlast words, no newline"
    })
    .await;
    node.remove("web.yaml");
    node.remove("again.yaml");
    node.wait_gone().await;
}

async fn a_pod_that_keeps_ending_is_described(mut node: Node) {
    let script = "echo no such port >/dev/termination-log; exit 3";
    let spec = "    env:\n    - {name: MODE, value: fast}\n  terminationGracePeriodSeconds: 7\n";
    let image = super::node::BUSYBOX;
    node.put("bad.yaml", &pod_with("bad", image, script, spec));
    node.start_agent();
    let name = node.full_name("bad");
    let page = node
        .wait("it backs off", async || {
            let output = output(&node, &["describe", &name]);
            let page = text(&output.stdout);
            (page.contains("waiting: CrashLoopBackOff") && page.contains("Restarts:       1"))
                .then_some(page)
        })
        .await;
    for line in [
        format!("Name:           {name}"),
        format!("Source:         {}", node.manifest("bad.yaml").display()),
        "Grace period:   7s".to_owned(),
        format!("    Image:          {image}"),
        "    Env:            MODE=fast".to_owned(),
        "                    no such port".to_owned(),
    ] {
        assert!(page.lines().any(|l| l == line), "no {line:?} in\n{page}");
    }
    for words in [
        "    Last exit:      Error, exit code 3, started 20",
        "    Next try:       20",
        "  Initialized                 True     ",
        "   Warning   BackOff ",
        "   Normal    Created ",
    ] {
        assert!(page.contains(words), "no {words:?} in\n{page}");
    }
    let unknown = output(&node, &["describe", "web"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = text(&unknown.stderr);
    let expected = format!("podkeeper: there is no Pod web; there are default/{name}\n");
    assert_eq!(said, expected);
    node.remove("bad.yaml");
    node.wait_gone().await;
}

async fn what_is_under_way_is_shown_with_its_time_and_warnings_beside_it(mut node: Node) {
    let hook = "    comand: [a]\n    lifecycle: {postStart: {exec: {command: [sleep, '1000']}}}\n";
    let volume = "  volumes:\n  - {name: v, empty-dir: {}}\n  terminationGracePeriodSeconds: 1\n";
    let image = super::node::BUSYBOX;
    let spec = format!("{hook}{volume}");
    node.put("web.yaml", &pod_with("web", image, FOREVER, &spec));
    node.start_agent();
    let name = node.full_name("web");
    let page = node
        .wait("the hook runs", async || {
            let page = text(&output(&node, &["ps"]).stdout);
            page.contains("under way: PostStartHook").then_some(page)
        })
        .await;
    let manifest = node.manifest("web.yaml");
    let manifest = manifest.display();
    for words in [
        format!("default/{name}: container c: under way: PostStartHook for "),
        format!("default/{name}: warning: {manifest}:"),
        "spec.containers[0].comand: unknown field, did you mean command? It has no effect\n"
            .to_owned(),
        "did you mean emptyDir? It has no effect: the volume is an emptyDir\n".to_owned(),
    ] {
        assert!(page.contains(&words), "no {words:?} in\n{page}");
    }
    let described = text(&output(&node, &["describe", "web"]).stdout);
    for words in [
        "    Under way:      PostStartHook since 20",
        "Warnings:       ",
    ] {
        assert!(described.contains(words), "no {words:?} in\n{described}");
    }
    for line in page.lines().chain(described.lines()) {
        assert_eq!(line, line.trim_end(), "no line ends in blanks");
    }
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn waiting_ends_when_the_pod_is_ready_or_gone(mut node: Node) {
    node.start_agent();
    node.wait_until("the agent answers", async || {
        output(&node, &["ps"]).status.success()
    })
    .await;
    let waiting = ask(&node, &["wait", "web", "--timeout=60s"]);
    let mut waiting = { waiting }.stdout(Stdio::piped()).spawn().unwrap();
    node.put("web.yaml", &pod("web", FOREVER));
    node.wait_until("the waiting ends", async || {
        waiting.try_wait().unwrap().is_some()
    })
    .await;
    let ready = waiting.wait_with_output().unwrap();
    let name = node.full_name("web");
    assert_eq!(text(&ready.stdout), format!("default/{name} is ready\n"));
    assert!(ready.status.success());
    assert!(node.running_one("web", "c").await.is_some());

    let image = "localhost/podkeeper/no-such-image:1";
    node.put("bad.yaml", &pod_with("bad", image, FOREVER, ""));
    node.wait_until("its image cannot be had", async || {
        let report = node.report("bad").await;
        report.is_some_and(|report| report.reason == "ErrImagePull")
    })
    .await;
    let timed_out = output(&node, &["wait", "bad", "--timeout=1s"]);
    assert_eq!(timed_out.status.code(), Some(1));
    let said = text(&timed_out.stderr);
    let bad = node.full_name("bad");
    let expected = format!(
        "podkeeper: Timed out after 1s waiting for Pod default/{bad} to become ready: Pending: ErrImagePull: "
    );
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.ends_with(" (0 of 1 containers are ready)\n"), "{said}");

    // Over a restart of the agent too.
    let waiting = ask(&node, &["wait", "--for=deleted", &name, "--timeout=60s"]);
    let mut waiting = { waiting }.stdout(Stdio::piped()).spawn().unwrap();
    let files = format!("/proc/{}/fd", waiting.id());
    node.wait_until("the agent is asked", async || {
        let files = fs::read_dir(&files).unwrap().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| target.to_string_lossy().starts_with("socket:"))
    })
    .await;
    node.kill_agent();
    node.remove("bad.yaml");
    node.start_agent();
    node.wait_known(1).await;
    let ended = waiting.try_wait().unwrap();
    assert!(ended.is_none(), "it is there: {ended:?}");
    node.remove("web.yaml");
    node.wait_gone().await;
    node.wait_until("the waiting ends", async || {
        waiting.try_wait().unwrap().is_some()
    })
    .await;
    let gone = waiting.wait_with_output().unwrap();
    assert_eq!(text(&gone.stdout), format!("{name} is gone\n"));
    assert!(gone.status.success());
}

async fn events_and_changes_are_told_as_they_come(mut node: Node) {
    node.put("a.yaml", &pod("a", FOREVER));
    node.start_agent();
    node.wait_known(1).await;
    let all = Running::start(&node, "all", &["events", "--follow"]);
    let of_b = Running::start(&node, "of-b", &["events", "--follow", "b"]);
    let rows = Running::start(&node, "rows", &["ps", "--watch"]);
    node.wait_until("what was before is told", async || {
        let started = |line: &str| line.contains("   Started ");
        all.said().lines().any(started) && rows.said().contains("   1/1     Running ")
    })
    .await;
    node.put("b.yaml", &pod("b", FOREVER));
    let (a, b) = (node.full_name("a"), node.full_name("b"));
    let started = |said: String| {
        let started = |line: &str| line.ends_with("   c           Container started");
        let mut of_b = said.lines().filter(|line| line.contains(&b));
        of_b.any(started)
    };
    node.wait_until("what comes is told", async || {
        let row = |line: &str| line.contains(&b) && line.contains("   1/1     Running ");
        started(all.said()) && started(of_b.said()) && rows.said().lines().any(row)
    })
    .await;
    assert!(all.said().contains(&a) && !of_b.said().contains(&a));
    assert!(!rows.said().contains('\u{1b}'), "{}", rows.said());
    let header = "NAMESPACE   POD";
    assert_eq!(rows.said().matches(header).count(), 1, "{}", rows.said());
    for file in ["a.yaml", "b.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
    node.wait_until("the end is told", async || {
        let gone = |line: &str| line.contains(&a) && line.contains("   Gone ");
        rows.said().lines().any(gone)
    })
    .await;
}

/// The status line's code and the body of an answer.
pub(super) fn get(at: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(at).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

async fn programs_read_pods_health_and_metrics(mut node: Node) {
    let (read_only, healthz) = (free(), free());
    node.flag("read-only-port", &read_only.port().to_string());
    node.flag("healthz-port", &healthz.port().to_string());
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    node.wait_until("the agent says that it works", async || {
        get(healthz, "/healthz") == Some((200, "ok".to_owned()))
    })
    .await;
    let first = node.wait_running("web").await;
    node.wait_known(1).await;
    let (code, list) = get(read_only, "/pods").unwrap();
    assert_eq!(code, 200);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&"PodList".into(), &"v1".into())
    );
    let web = &list["items"][0];
    assert_eq!(web["metadata"]["name"], node.full_name("web"));
    assert_eq!(web["spec"]["nodeName"], node.name.as_str());
    assert_eq!(web["status"]["phase"], "Running");
    let status = &web["status"]["containerStatuses"][0];
    assert_eq!(status["containerID"], format!("containerd://{}", first.id));
    assert_eq!(status["ready"], true);

    node.kill_container(&first.id).await;
    node.wait_after("web", &first).await;
    node.wait_until("the restart is counted", async || {
        let metrics = get(read_only, "/metrics").unwrap().1;
        let has = |line: &str| metrics.lines().any(|l| l == line);
        has("podkeeper_container_restarts_total 1")
            && has("podkeeper_container_restart_duration_seconds_count 1")
            && has("podkeeper_pod_start_duration_seconds_count 1")
            && has("podkeeper_pods{phase=\"Running\"} 1")
            && has("podkeeper_pods_ready 1")
            && has("podkeeper_cri_call_duration_seconds_count{method=\"RunPodSandbox\"} 1")
            && has("podkeeper_cri_call_duration_seconds_count{method=\"StartContainer\"} 2")
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
    node.wait_until("the list is empty", async || {
        get(read_only, "/pods").unwrap().1.contains("\"items\":[]")
    })
    .await;
}
