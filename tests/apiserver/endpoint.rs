//! What kubectl asks the node for through the API server: logs, streams and usage; and who is refused.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::node::{BUSYBOX, FOREVER, Node, PATIENCE, manifest, pod};
use crate::ports::free;

mod shared {
    crate::with_apiserver!(
        shared:
        kubectl_logs_shows_what_a_container_says,
        kubectl_logs_follows_a_container_to_its_end,
        kubectl_exec_runs_a_command_with_its_streams_and_exit_code,
        kubectl_exec_gives_a_terminal,
        kubectl_attach_joins_a_containers_streams,
        kubectl_port_forward_reaches_a_pods_port,
        usage_is_measured_and_shown_through_the_api_server,
        who_is_unknown_or_has_no_right_is_refused,
    );
}

mod own {
    crate::with_apiserver!(own: kubectl_top_shows_what_pods_and_the_node_use);
}

/// Starts the agent with the node's API on a port of its own; gives the port.
pub(crate) fn start(node: &mut Node, cluster: &Cluster) -> u16 {
    cluster.admit(node);
    let port = free().port();
    node.flag("port", &port.to_string());
    let authority = cluster.path("ca.crt");
    node.flag("client-ca-file", &authority.display().to_string());
    node.start_agent();
    port
}

/// How long a program may run before the test gives up on it.
const DEADLINE: Duration = Duration::from_secs(120);

/// A program with pipes to its streams. It is ended when it is dropped, so that a test that fails leaves
/// nothing behind, and when it takes too long, which ends what reads from it.
pub(crate) struct Running {
    child: Arc<Mutex<Child>>,
    _watched: mpsc::Sender<()>,
}

pub(crate) fn spawn(command: &mut Command) -> Running {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = Arc::new(Mutex::new(child.unwrap()));
    let (sender, watched) = mpsc::channel();
    let watch = Arc::clone(&child);
    std::thread::spawn(move || {
        if watched.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            // It may have ended just now.
            let _ = watch.lock().unwrap().kill();
        }
    });
    Running {
        child,
        _watched: sender,
    }
}

impl Running {
    fn stdin(&self) -> ChildStdin {
        self.child.lock().unwrap().stdin.take().unwrap()
    }

    fn stdout(&self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.lock().unwrap().stdout.take().unwrap())
    }

    pub(crate) fn stderr(&self) -> ChildStderr {
        self.child.lock().unwrap().stderr.take().unwrap()
    }

    /// The next line that it prints, without its end.
    pub(crate) fn line(&self) -> String {
        let mut line = String::new();
        self.stdout().read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until it has ended.
    fn wait(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

async fn kubectl_logs_shows_what_a_container_says(mut node: Node, cluster: Cluster) {
    let script = "echo one; echo two; sleep 0.3; echo three; [ -e /t/x ] || { touch /t/x; exit 1; }; \
                  while :; do sleep 0.1; done";
    // The runtime reads a container's two streams side by side: lines of both have no order.
    let loud = "echo problem >&2; while :; do sleep 0.1; done";
    let spec = format!(
        "  containers:\n  - {{name: c, image: {BUSYBOX}, command: [sh, -c, '{script}'], volumeMounts: \
         [{{name: t, mountPath: /t}}]}}\n  - {{name: loud, image: {BUSYBOX}, command: [sh, -c, '{loud}']}}\n  \
         volumes: [{{name: t, emptyDir: {{}}}}]\n"
    );
    node.put("web.yaml", &manifest("web", &spec));
    start(&mut node, &cluster);
    let restarted = |mirror: &Value| {
        let status = &mirror["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["ready"] == true
    };
    cluster.wait_mirror(&node, "web", restarted).await;
    let logs = |flags: &str| cluster.ask(&format!("logs {flags} {}", node.full_name("web")));
    node.wait_until("the log is whole", async || {
        logs("").as_deref() == Some("one\ntwo\nthree\n")
    })
    .await;
    node.wait_until("what is said to stderr is there", async || {
        logs("-c loud").as_deref() == Some("problem\n")
    })
    .await;
    for (flags, expected) in [
        ("--previous", "one\ntwo\nthree\n"),
        ("--tail=1", "three\n"),
        ("--tail=0", ""),
        ("--since=1h", "one\ntwo\nthree\n"),
        ("--since-time=2999-01-01T00:00:00Z", ""),
        ("--limit-bytes=5", "one\nt"),
    ] {
        assert_eq!(logs(flags).as_deref(), Some(expected), "{flags}");
    }
    let stamped = logs("--timestamps --tail=1").unwrap();
    let (time, text) = stamped.split_once(' ').unwrap();
    assert_eq!(text, "three\n");
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{stamped}");
}

async fn kubectl_logs_follows_a_container_to_its_end(mut node: Node, cluster: Cluster) {
    let script = "echo up; until [ -e /go ]; do sleep 0.1; done; echo bye; exit 0";
    node.put("web.yaml", &pod("web", script));
    start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let container = node.running_one("web", "c").await.unwrap();
    let follow = format!("logs --follow {}", node.full_name("web"));
    let child = spawn(&mut cluster.command(&follow));
    let mut said = child.stdout();
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    // What is said from now on comes as it is said, and then it is over by itself.
    node.sh(&container.id, "touch /go").await;
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye\n");
    assert!(child.wait().success());
}

async fn kubectl_exec_runs_a_command_with_its_streams_and_exit_code(
    mut node: Node,
    cluster: Cluster,
) {
    node.put("web.yaml", &pod("web", FOREVER));
    start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let mut command = cluster.command(&format!("exec -i {}", node.full_name("web")));
    command.args(["--", "sh", "-c", "cat; echo problem >&2; exit 7"]);
    let child = spawn(&mut command);
    let text = "a line of the caller's\n".repeat(10_000);
    let (mut input, mut problems) = (child.stdin(), child.stderr());
    let written = text.clone();
    let writer = std::thread::spawn(move || input.write_all(written.as_bytes()));
    let error = std::thread::spawn(move || {
        let mut error = String::new();
        problems.read_to_string(&mut error).map(|_| error)
    });
    let mut said = vec![];
    child.stdout().read_to_end(&mut said).unwrap();
    writer.join().unwrap().unwrap();
    let error = error.join().unwrap().unwrap();
    let length = said.len();
    assert!(said == text.as_bytes(), "{length} bytes, {error}");
    assert!(error.contains("problem"), "{error}");
    assert_eq!(child.wait().code(), Some(7), "{error}");
    // A container that is not there is named.
    let mut command = cluster.command(&format!("exec {} -c other", node.full_name("web")));
    let done = command.args(["--", "true"]).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && error.contains("other"), "{error}");
}

async fn kubectl_exec_gives_a_terminal(mut node: Node, cluster: Cluster) {
    node.put("web.yaml", &pod("web", FOREVER));
    start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let kubectl = format!(
        "{} --kubeconfig {} exec -it {} -- sh",
        cluster.path("kubectl").display(),
        cluster.path("admin.kubeconfig").display(),
        node.full_name("web")
    );
    let mut command = Command::new("script");
    let child = spawn(command.args(["--quiet", "--return", "--command", &kubectl, "/dev/null"]));
    let mut input = child.stdin();
    input
        .write_all(b"tty -s && echo it is a $((1 + 1))nd terminal; exit 3\n")
        .unwrap();
    let mut shown = String::new();
    child.stdout().read_to_string(&mut shown).unwrap();
    assert!(shown.contains("it is a 2nd terminal"), "{shown}");
    assert_eq!(child.wait().code(), Some(3), "{shown}");
}

async fn kubectl_attach_joins_a_containers_streams(mut node: Node, cluster: Cluster) {
    let script = "while read line; do echo heard $line; done; while :; do sleep 0.1; done";
    let spec = format!(
        "  containers: [{{name: c, image: {BUSYBOX}, stdin: true, command: [sh, -c, '{script}']}}]\n"
    );
    node.put("web.yaml", &manifest("web", &spec));
    start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let child = spawn(&mut cluster.command(&format!("attach -i {}", node.full_name("web"))));
    let mut input = child.stdin();
    input.write_all(b"hello\n").unwrap();
    let mut line = String::new();
    child.stdout().read_line(&mut line).unwrap();
    assert_eq!(line, "heard hello\n");
}

async fn kubectl_port_forward_reaches_a_pods_port(mut node: Node, cluster: Cluster) {
    let script = "while :; do printf \"HTTP/1.0 200 OK\\r\\n\\r\\nhello from the pod\" | nc -l -p 8080; done";
    node.put("web.yaml", &pod("web", script));
    start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let forward = format!("port-forward {} :8080", node.full_name("web"));
    let child = spawn(&mut cluster.command(&forward));
    let mut line = String::new();
    let mut said = child.stdout();
    said.read_line(&mut line).unwrap();
    let place = line.split_whitespace().nth(2).unwrap();
    // The server in the Pod takes one call at a time, and none for a moment in between.
    node.wait_until("the Pod answers", async || {
        let mut curl = Command::new("curl");
        let done = curl
            .args(["--silent", "--max-time", "5"])
            .arg(format!("http://{place}/"));
        done.output().unwrap().stdout == b"hello from the pod"
    })
    .await;
}

/// A script that uses so much memory, and CPU time for as long as a test may take, but not for ever.
fn busy(mebibytes: u32) -> String {
    format!(
        "dd if=/dev/zero of=/dev/shm/x bs=1M count={mebibytes}; echo full; \
         timeout 300 sh -c 'while :; do :; done'"
    )
}

async fn usage_is_measured_and_shown_through_the_api_server(mut node: Node, cluster: Cluster) {
    const SIZE: u32 = 20 << 20;
    node.put("web.yaml", &pod("web", &busy(SIZE >> 20)));
    start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let name = node.full_name("web");
    let ask = |path: &str| {
        cluster.ask(&format!(
            "get --raw /api/v1/nodes/{}/proxy/{path}",
            node.name
        ))
    };
    let labels = format!("{{container=\"c\",namespace=\"default\",pod=\"{name}\"}}");
    let metric = |family: &str| {
        let page = ask("metrics/resource")?;
        let head = format!("{family}{labels} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&head))?;
        line.split(' ').next()?.parse::<f64>().ok()
    };
    // What is written to memory is used there, and not much more; a busy container uses more and more.
    let memory = node
        .wait("the memory is told", async || {
            let bytes = metric("container_memory_working_set_bytes")?;
            (bytes >= f64::from(SIZE)).then_some(bytes)
        })
        .await;
    assert!(memory < 2.0 * f64::from(SIZE), "{memory}");
    let used = metric("container_cpu_usage_seconds_total").unwrap();
    node.wait_until("the CPU time grows", async || {
        metric("container_cpu_usage_seconds_total") > Some(used)
    })
    .await;
    let summary = node
        .wait("the summary tells of the Pod", async || {
            let summary: Value = serde_json::from_str(&ask("stats/summary")?).ok()?;
            let rate = &summary["pods"][0]["containers"][0]["cpu"]["usageNanoCores"];
            (rate.as_u64() > Some(0)).then_some(summary)
        })
        .await;
    assert_eq!(summary["node"]["nodeName"], node.name.as_str());
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"]["name"], name.as_str());
    let bytes = pod["memory"]["workingSetBytes"].as_u64().unwrap();
    assert!(
        (SIZE.into()..u64::from(2 * SIZE)).contains(&bytes),
        "{bytes}"
    );
    let all = &summary["node"]["memory"];
    let used = all["workingSetBytes"].as_u64().unwrap();
    assert!(used > bytes && used < podkeeper::host::machine::memory_capacity());
}

/// The millicores and mebibytes in a line of `kubectl top` that starts with these names.
fn usage(table: &str, names: &[&str]) -> Option<(u64, u64)> {
    let lines = table.lines().map(|line| line.split_whitespace().collect());
    let mut numbers = lines.filter_map(|words: Vec<&str>| {
        let numbers = words.strip_prefix(names)?;
        let cpu = numbers.first()?.strip_suffix('m')?.parse().ok()?;
        let memory = numbers.iter().find_map(|word| word.strip_suffix("Mi"))?;
        Some((cpu, memory.parse().ok()?))
    });
    numbers.next()
}

async fn kubectl_top_shows_what_pods_and_the_node_use(mut node: Node, cluster: Cluster) {
    const SIZE: u32 = 20;
    // A metrics-server looks every 10 s, and tells of what it has seen twice.
    node.patience = 3 * PATIENCE;
    cluster.hack("metrics-server");
    let spec = format!(
        "  containers:\n  - {{name: c, image: {BUSYBOX}, command: [sh, -c, \"{}\"]}}\n  \
         - {{name: idle, image: {BUSYBOX}, command: $FOREVER}}\n",
        busy(SIZE)
    );
    node.put("web.yaml", &manifest("web", &spec));
    start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let name = node.full_name("web");
    let top = |what: &str| cluster.ask(&format!("top {what}"));
    let is_right = |(cpu, memory): (u64, u64)| cpu > 0 && memory >= SIZE.into();
    let pod = node
        .wait("kubectl top shows the Pod", async || {
            usage(&top(&format!("pod {name}"))?, &[&name]).filter(|u| is_right(*u))
        })
        .await;
    assert!(pod.1 < 2 * u64::from(SIZE), "{pod:?}");
    // The busy one of its containers is told from the other.
    node.wait_until("kubectl top shows the containers", async || {
        let Some(table) = top(&format!("pod {name} --containers")) else {
            return false;
        };
        let (busy, idle) = (
            usage(&table, &[&name, "c"]),
            usage(&table, &[&name, "idle"]),
        );
        busy.is_some_and(is_right) && idle.is_some_and(|idle| Some(idle) < busy)
    })
    .await;
    let all = node
        .wait("kubectl top shows the node", async || {
            usage(&top("node")?, &[&node.name]).filter(|u| is_right(*u))
        })
        .await;
    assert!(all.1 > pod.1, "{all:?} {pod:?}");
}

/// What the node's API answers to a caller with this token, or without: its code and text.
fn ask(port: u16, path: &str, token: Option<&str>) -> (String, String) {
    ask_as(port, path, token, &[])
}

/// The same with further flags of curl.
fn ask_as(port: u16, path: &str, token: Option<&str>, flags: &[&str]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(flags);
    curl.args(["--silent", "--insecure", "--write-out", "\n%{http_code}"]);
    if let Some(token) = token {
        curl.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    curl.arg(format!("https://127.0.0.1:{port}{path}"));
    let done = curl.output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let (text, code) = text.rsplit_once('\n').unwrap();
    (code.to_owned(), text.to_owned())
}

async fn who_is_unknown_or_has_no_right_is_refused(mut node: Node, cluster: Cluster) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.flag("authorization-webhook-cache-unauthorized-ttl", "1s");
    let port = start(&mut node, &cluster);
    cluster.wait_running(&node, "web").await;
    let account = format!("reader-{}", node.name);
    cluster.kubectl(&format!("create serviceaccount {account}"));
    let token = cluster.kubectl(&format!("create token {account}"));
    let token = token.trim();

    let (code, text) = ask(port, "/pods", None);
    assert_eq!(code, "401", "{text}");
    assert!(text.contains("expected a client certificate"), "{text}");
    let (code, text) = ask(port, "/pods", Some("no-such-token"));
    assert_eq!(code, "401", "{text}");
    let (code, text) = ask(port, "/pods", Some(token));
    assert_eq!(code, "403", "{text}");
    let user = format!("system:serviceaccount:default:{account}");
    assert!(
        text.contains(&user) && text.contains("nodes/pods or nodes/proxy"),
        "{text}"
    );

    // A right that is granted is used, and no other.
    cluster.kubectl(&format!(
        "create clusterrole {account} --verb=get --resource=nodes/pods"
    ));
    cluster.kubectl(&format!(
        "create clusterrolebinding {account} --clusterrole={account} --serviceaccount=default:{account}"
    ));
    node.wait_until("the right is known", async || {
        ask(port, "/pods", Some(token)).0 == "200"
    })
    .await;
    for path in ["/pods", "/pods/"] {
        let (_, text) = ask(port, path, Some(token));
        assert!(text.contains(&node.full_name("web")), "{path}: {text}");
    }
    // A certificate of another authority than that of clients is worth nothing, and does no harm.
    let file = |name: &str| cluster.path(name).display().to_string();
    let (certificate, key) = (file("front-proxy.crt"), file("front-proxy.key"));
    let other = ["--cert", &certificate, "--key", &key];
    for (token, expected) in [(Some(token), "200"), (Some("bad"), "401"), (None, "401")] {
        let (code, text) = ask_as(port, "/pods", token, &other);
        assert_eq!(code, expected, "{token:?}: {text}");
    }
    let log = format!("/containerLogs/default/{}/c", node.full_name("web"));
    for path in [log.as_str(), "/metrics", "/stats/summary", "/run/a/b/c"] {
        let (code, text) = ask(port, path, Some(token));
        assert_eq!(code, "403", "{path}: {text}");
    }
    cluster.kubectl(&format!("delete clusterrole,clusterrolebinding {account}"));
    cluster.kubectl(&format!("delete serviceaccount {account}"));
}
