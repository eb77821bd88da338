//! The running agent asked over HTTP: what it answers, and that no caller can hurt it. No runtime is
//! needed for these.

#[path = "support/ports.rs"]
mod ports;
#[path = "support/program.rs"]
mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ports::free;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
/// The most that a flood may take of the agent's memory while its callers are there, in bytes: as many as may wait
/// have a task and buffers each.
const TAKEN: f64 = 32.0 * 1024.0 * 1024.0;
/// The most that it may leave there, in bytes.
const LEFT: f64 = 16.0 * 1024.0 * 1024.0;

/// An agent with folders and ports of its own, and no runtime to talk to.
struct Agent {
    process: Child,
    folder: TempDir,
    read_only: SocketAddr,
    healthz: SocketAddr,
    https: SocketAddr,
}

impl Agent {
    fn start() -> Self {
        Self::on(free(), free())
    }

    fn on(read_only: SocketAddr, healthz: SocketAddr) -> Self {
        let https = free();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(at("manifests")).unwrap();
        fs::write(at("manifests/bad.yaml"), "kind: Pod").unwrap();
        let process = Command::new(program::PROGRAM)
            .arg("run")
            .args(["--root-dir", &at("root"), "--run-dir", &at("run")])
            .args(["--container-runtime-endpoint", &at("no.sock")])
            .args(["--pod-manifest-path", &at("manifests")])
            .args(["--read-only-port", &read_only.port().to_string()])
            .args(["--healthz-port", &healthz.port().to_string()])
            .args(["--port", &https.port().to_string()])
            .args(["--hostname-override", "n1", "--anonymous-auth"])
            .args(["--authorization-mode", "AlwaysAllow"])
            .stdin(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let agent = Self {
            process,
            folder,
            read_only,
            healthz,
            https,
        };
        wait("the agent to answer", || agent.answers());
        agent
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Whether the command line gets an answer.
    fn answers(&self) -> bool {
        let mut ps = Command::new(program::PROGRAM);
        let ps = ps.args(["ps", "--run-dir"]).arg(self.path("run")).output();
        ps.unwrap().status.success()
    }

    fn socket(&self) -> UnixStream {
        UnixStream::connect(self.path("run/podkeeper.sock")).unwrap()
    }

    fn metric(&self, name: &str) -> f64 {
        let metrics = get(self.read_only, "/metrics").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        value.trim().parse().unwrap()
    }

    fn memory(&self) -> f64 {
        self.metric("process_resident_memory_bytes ")
    }

    /// Whatever is done, the agent answers everybody else, and its memory does not grow for good.
    fn withstands<T>(&self, what: &str, flood: impl FnOnce() -> T) {
        let before = self.memory();
        let held = flood();
        assert!(self.answers(), "{what}: the command line gets no answer");
        let health = get(self.healthz, "/healthz");
        assert_eq!(health.code, 503, "{what}");
        let taken = self.memory() - before;
        assert!(taken < TAKEN, "{what}: {taken} bytes more");
        drop(held);
        let is_free = || self.memory() - before < LEFT;
        wait(&format!("{what}: the memory is free again"), is_free);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !test() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An answer.
#[derive(Debug, Default)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

fn request(at: SocketAddr, text: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // The server may hang up on what is none before all of it was sent.
    let _ = stream.write_all(text);
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Answer::default();
    };
    Answer {
        code: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn get(at: SocketAddr, path: &str) -> Answer {
    request(
        at,
        format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes(),
    )
}

#[test]
fn each_port_serves_what_it_is_for_and_says_what_that_is() {
    let agent = Agent::start();
    let (read_only, healthz) = (agent.read_only, agent.healthz);
    for at in [read_only, healthz] {
        let health = get(at, "/healthz");
        assert_eq!(health.code, 503);
        assert_eq!(health.body, "the container runtime is not connected yet\n");
    }
    let none = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []});
    for path in ["/pods", "/pods/"] {
        let pods: Value = serde_json::from_str(&get(read_only, path).body).unwrap();
        assert_eq!(pods, none, "{path}");
    }
    assert_eq!(get(read_only, "/metrics/probes").code, 200);
    let configz: Value = serde_json::from_str(&get(read_only, "/configz").body).unwrap();
    let fields = &configz["kubeletconfig"];
    let manifests = agent.path("manifests").display().to_string();
    assert_eq!(fields["staticPodPath"], json!(manifests));
    assert_eq!(fields["readOnlyPort"], json!(read_only.port()));
    wait("the manifests to be read", || {
        agent.metric("podkeeper_manifests_refused ") > 0.0
    });
    let metrics = get(read_only, "/metrics");
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{metrics:?}"
    );
    for line in [
        "# TYPE podkeeper_pods gauge",
        "podkeeper_pods{phase=\"Running\"} 0",
        "podkeeper_manifests_refused 1",
        "podkeeper_sources_unreadable 0",
        concat!(
            "podkeeper_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
        "# TYPE podkeeper_container_restarts_total counter",
        "# TYPE podkeeper_pod_start_duration_seconds histogram",
        "# TYPE podkeeper_container_restart_duration_seconds histogram",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(
            metrics.body.lines().any(|l| l == line),
            "no {line} in\n{}",
            metrics.body
        );
    }
    assert!(agent.metric("podkeeper_source_age_seconds{source=\"directory\"} ") >= 0.0);
    assert!(!metrics.body.contains("source=\"url\""), "there is none");
    assert!(agent.metric("process_cpu_seconds_total ") > 0.0);
    assert!(
        agent.metric("podkeeper_cri_call_errors_total{kind=\"unavailable\",method=\"Version\"} ")
            > 0.0
    );

    for (at, path, there) in [
        (healthz, "/pods", "there is only /healthz\n"),
        (healthz, "/metrics", "there is only /healthz\n"),
        (
            read_only,
            "/v1/status",
            "there is only /healthz, /pods, /configz, /metrics, /metrics/probes\n",
        ),
    ] {
        let answer = get(at, path);
        assert_eq!((answer.code, answer.body.as_str()), (404, there), "{path}");
    }
    let post = request(
        read_only,
        b"POST /pods HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
    );
    assert_eq!(post.code, 405);
    let head = request(read_only, b"HEAD /healthz HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!((head.code, head.body.as_str()), (503, ""));
}

/// What the socket answers to a request line.
fn asked(agent: &Agent, line: &str) -> (u16, String) {
    let mut stream = agent.socket();
    write!(
        stream,
        "{line} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap();
    (code.parse().unwrap(), body.to_owned())
}

#[test]
fn pods_are_changed_over_the_socket_alone_and_by_post() {
    let agent = Agent::start();
    let not_connected = "the container runtime is not connected yet\n";
    for action in ["restart", "pause", "resume"] {
        let path = format!("/v1/pods/{action}?pod=web");
        for (line, code, body) in [
            (format!("GET {path}"), 405, "only POST is served here\n"),
            (format!("POST {path}"), 503, not_connected),
            (
                format!("POST /v1/pods/{action}"),
                400,
                "the query needs pod=NAME\n",
            ),
            (
                format!("POST {path}&x=y"),
                400,
                "found \"x\", expected pod or container\n",
            ),
        ] {
            assert_eq!(asked(&agent, &line), (code, body.to_owned()), "{line}");
        }
        let post = format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(request(agent.read_only, post.as_bytes()).code, 404);
    }
    let (code, body) = asked(&agent, "POST /v1/no");
    assert_eq!(code, 404);
    let posts = "/v1/pods/restart, /v1/pods/pause, /v1/pods/resume, /v1/plan";
    assert!(
        body.ends_with(&format!(", and by POST {posts}\n")),
        "{body}"
    );
    assert_eq!(asked(&agent, "GET /v1/plan").0, 405);
    assert_eq!(asked(&agent, "POST /v1/plan").0, 503);
    let post = "POST /v1/plan HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(request(agent.read_only, post.as_bytes()).code, 404);
    let (code, version) = asked(&agent, "GET /v1/version");
    let version: Value = serde_json::from_str(&version).unwrap();
    assert_eq!((code, &version["runtime"]), (200, &Value::Null));
    assert_eq!(version["runtime_error"], not_connected.trim());
    assert_eq!(asked(&agent, "POST /v1/version").0, 405);
    assert_eq!(
        asked(&agent, "GET /v1/stats"),
        (503, not_connected.to_owned())
    );
    assert_eq!(asked(&agent, "GET /v1/stats?selector=%21%21").0, 400);
}

#[test]
fn a_port_that_is_taken_is_named_once_and_tried_again() {
    let taken = TcpListener::bind(free()).unwrap();
    let agent = Agent::on(free(), taken.local_addr().unwrap());
    let warning = "Failed to open the port, retrying every 5 s; --healthz-port=0 disables it";
    wait("the warning", || agent.log().contains(warning));
    drop(taken);
    wait("the port to open", || {
        TcpStream::connect(agent.healthz).is_ok()
    });
    assert_eq!(get(agent.healthz, "/healthz").code, 503);
    assert_eq!(agent.log().matches(warning).count(), 1, "{}", agent.log());
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let agent = Agent::start();
    let huge = format!(
        "GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    let many = "x: y\r\n".repeat(1000);
    let many = format!("GET /healthz HTTP/1.1\r\n{many}\r\n");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(1 << 20));
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    agent.withstands("bad requests", || {
        for text in [huge.as_bytes(), many.as_bytes(), long.as_bytes(), &garbage] {
            for at in [agent.read_only, agent.healthz] {
                // Hanging up is an answer as well.
                let code = request(at, text).code;
                assert!([0, 400, 404, 414, 431].contains(&code), "{code}");
            }
        }
    });
    for query in ["pod=", "pod=a/b/c", "since=x", "what=ever"] {
        let mut socket = agent.socket();
        let text = format!("GET /v1/pods?{query} HTTP/1.1\r\nhost: h\r\n\r\n");
        socket.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{query}: {answer}");
    }
}

#[test]
fn no_number_of_callers_keeps_others_out() {
    let agent = Agent::start();
    let call = |text: &[u8]| {
        let mut stream = TcpStream::connect(agent.read_only).unwrap();
        // It may be let go at once.
        let _ = stream.write_all(text);
        stream
    };
    agent.withstands("callers who say nothing", || {
        (0..1000).map(|_| call(b"")).collect::<Vec<_>>()
    });
    agent.withstands("callers who never finish", || {
        (0..1000)
            .map(|_| call(b"GET /metrics HTTP/1.1\r\nx: "))
            .collect::<Vec<_>>()
    });
    agent.withstands("callers who never read", || {
        let text = b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n";
        (0..1000).map(|_| call(text)).collect::<Vec<_>>()
    });
}

/// A caller far away: what he sends arrives a tenth of a second after he could send it.
struct Far<S>(S);

impl<S: Read> Read for Far<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<S: Write> Write for Far<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(100));
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(100));
        self.0.write_vectored(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Asks for something and reads the whole response; gives what is wrong with it.
fn complaint(mut stream: impl Read + Write, path: &str) -> Option<String> {
    let mut answer = vec![];
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
    let sent = stream.write_all(request.as_bytes());
    let read = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let is_whole = text.starts_with("HTTP/1.1 ") && text.ends_with(['}', '\n']);
    let is_good = sent.is_ok() && read.is_ok() && is_whole;
    (!is_good).then(|| format!("{path}: {sent:?} {read:?} {text}"))
}

/// Connects for ever, a thousand times a second, and asks for nothing.
fn flood<S: Send + 'static>(connect: impl Fn() -> std::io::Result<S> + Send + 'static) {
    std::thread::spawn(move || {
        let mut held = std::collections::VecDeque::new();
        let mut next = Instant::now();
        while let Ok(stream) = connect() {
            held.push_back(stream);
            if held.len() > 2000 {
                held.pop_front();
            }
            next += Duration::from_millis(1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
}

#[test]
fn a_thousand_idle_connections_a_second_keep_no_far_caller_out() {
    let agent = Agent::start();
    wait("the certificate", || {
        TcpStream::connect(agent.https).is_ok() && agent.path("root/pki/kubelet.crt").exists()
    });
    let mut roots = rustls::RootCertStore::empty();
    let certificate =
        rustls::pki_types::CertificateDer::from_pem_file(agent.path("root/pki/kubelet.crt"));
    roots.add(certificate.unwrap()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = Arc::new(tls);
    let (read_only, https) = (agent.read_only, agent.https);
    let socket = agent.path("run/podkeeper.sock");
    flood(move || TcpStream::connect(read_only));
    flood(move || TcpStream::connect(https));
    flood({
        let socket = socket.clone();
        move || UnixStream::connect(&socket)
    });
    let connect = move |at: SocketAddr| {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Far(stream)
    };
    let caller = move |number: usize| match number % 3 {
        0 => complaint(connect(read_only), "/configz"),
        1 => {
            let tls = rustls::ClientConnection::new(Arc::clone(&tls), "n1".try_into().unwrap());
            let stream = rustls::StreamOwned::new(tls.unwrap(), connect(https));
            complaint(stream, "/pods")
        }
        _ => complaint(Far(UnixStream::connect(&socket).unwrap()), "/healthz"),
    };
    let caller = Arc::new(caller);
    let callers: Vec<_> = (0..90)
        .map(|number| {
            let caller = Arc::clone(&caller);
            // They come one after the other, as the flood goes on.
            std::thread::sleep(Duration::from_millis(10));
            std::thread::spawn(move || caller(number))
        })
        .collect();
    let complaints = callers.into_iter().map(|caller| caller.join().unwrap());
    assert_eq!(complaints.flatten().collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn callers_on_the_socket_do_not_keep_each_other_out() {
    let agent = Agent::start();
    let call = |text: &str| {
        let mut socket = agent.socket();
        // It may be let go at once.
        let _ = socket.write_all(text.as_bytes());
        socket
    };
    agent.withstands("callers who say nothing", || {
        (0..200).map(|_| call("")).collect::<Vec<_>>()
    });
    let follow = "GET /v1/status?follow=true HTTP/1.1\r\nhost: h\r\n\r\n";
    agent.withstands("callers who never read what changes", || {
        (0..200).map(|_| call(follow)).collect::<Vec<_>>()
    });
    // Once they are gone, there is room again.
    wait("room for one who is told of changes", || {
        let mut socket = call(follow);
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut begin = [0; 12];
        socket.read_exact(&mut begin).is_ok() && &begin == b"HTTP/1.1 200"
    });
}
