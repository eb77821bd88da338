//! Probes and hooks against real servers: what they ask, what they make of the answers, and what they
//! say.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, Lifecycle,
    LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podkeeper::cri::{Client, v1};
use podkeeper::probe::{ProbeOutcome, ProbeTarget, hook, run};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

#[path = "support/grpc.rs"]
mod grpc;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/web_server.rs"]
mod web_server;

use grpc::Grpc;
use ports::free;
use web_server::{Reply, Web};

const IP: &str = "127.0.0.1";
const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime that is not there.
fn nowhere() -> Client {
    Client::new("unix:///nowhere.sock".parse().unwrap())
}

fn client_of(socket: &Path) -> Client {
    Client::new(format!("unix://{}", socket.display()).parse().unwrap())
}

fn target(client: Client) -> ProbeTarget {
    ProbeTarget {
        client,
        container_id: "the-id".to_owned(),
        ip: IP.to_owned(),
        ports: BTreeMap::new(),
    }
}

fn port_of(web: &Web) -> u16 {
    let url = web.url("");
    url.rsplit(':').next().unwrap().parse().unwrap()
}

fn get(port: u16, path: &str) -> HTTPGetAction {
    HTTPGetAction {
        port: IntOrString::Int(port.into()),
        path: Some(path.to_owned()),
        scheme: Some("HTTP".to_owned()),
        ..HTTPGetAction::default()
    }
}

fn header(name: &str, value: &str) -> HTTPHeader {
    HTTPHeader {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

/// A probe that has time enough, where being late is not the matter.
fn unhurried() -> Probe {
    Probe {
        timeout_seconds: Some(30),
        ..Probe::default()
    }
}

async fn run_http(action: HTTPGetAction) -> ProbeOutcome {
    let probe = Probe {
        http_get: Some(action),
        ..unhurried()
    };
    run(&probe, &target(nowhere())).await
}

/// With the second that a probe has unless it says otherwise.
async fn run_http_for_a_second(action: HTTPGetAction) -> ProbeOutcome {
    let probe = Probe {
        http_get: Some(action),
        ..Probe::default()
    };
    run(&probe, &target(nowhere())).await
}

fn failure(message: impl Into<String>) -> ProbeOutcome {
    ProbeOutcome::Failure(message.into())
}

/// The lines of a request's head, in lower case and sorted, the request line first.
fn lines(head: &str) -> Vec<&str> {
    let mut lines: Vec<_> = head.lines().filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    lines
}

#[tokio::test]
async fn codes_from_200_to_399_are_success() {
    let web = Web::start(Reply::ok(""));
    let failed = |code: u16| failure(format!("HTTP probe failed with statuscode: {code}"));
    let warned = || {
        let text = "Probe terminated redirects, Response body: the body";
        ProbeOutcome::Warning(text.to_owned())
    };
    for (status, expected) in [
        ("200 OK", ProbeOutcome::Success),
        ("201 Created", ProbeOutcome::Success),
        ("299 Strange", ProbeOutcome::Success),
        ("300 Multiple Choices", warned()),
        // A redirect that says not where to.
        ("302 Found", warned()),
        ("399 Strange", warned()),
        ("400 Bad Request", failed(400)),
        ("404 Not Found", failed(404)),
        ("500 Internal Server Error", failed(500)),
        ("503 Service Unavailable", failed(503)),
    ] {
        web.say(Reply::new(status, "", "the body"));
        assert_eq!(
            run_http(get(port_of(&web), "/")).await,
            expected,
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_request_looks_like_the_reference_agents() {
    let web = Web::start(Reply::ok(""));
    let port = port_of(&web);
    run_http(get(port, "/healthz?verbose=1")).await;
    let host = format!("host: 127.0.0.1:{port}");
    let requests = web.requests();
    assert_eq!(
        lines(&requests[0]),
        [
            "get /healthz?verbose=1 http/1.1",
            "accept: */*",
            "connection: close",
            &host,
            "user-agent: kube-probe/1.36",
        ]
    );
}

#[tokio::test]
async fn headers_are_sent_as_given() {
    let web = Web::start(Reply::ok(""));
    let headers = [
        ("Host", "web.example.com"),
        ("X-Check", "one"),
        ("X-Check", "two"),
        ("User-Agent", "mine"),
        ("Accept", ""),
    ];
    let action = HTTPGetAction {
        http_headers: Some(headers.map(|(name, value)| header(name, value)).into()),
        ..get(port_of(&web), "/")
    };
    assert_eq!(run_http(action).await, ProbeOutcome::Success);
    let requests = web.requests();
    assert_eq!(
        lines(&requests[0]),
        [
            "get / http/1.1",
            "connection: close",
            "host: web.example.com",
            "user-agent: mine",
            "x-check: one",
            "x-check: two",
        ]
    );
}

#[tokio::test]
async fn a_host_of_its_own_is_asked_in_place_of_the_pod() {
    let web = Web::start(Reply::ok(""));
    let action = HTTPGetAction {
        host: Some("localhost".to_owned()),
        ..get(port_of(&web), "/")
    };
    let probe = Probe {
        http_get: Some(action),
        ..unhurried()
    };
    let elsewhere = ProbeTarget {
        ip: "192.0.2.1".to_owned(),
        ..target(nowhere())
    };
    assert_eq!(run(&probe, &elsewhere).await, ProbeOutcome::Success);
    let host = format!("host: localhost:{}", port_of(&web));
    assert!(web.requests()[0].contains(&host));
}

#[tokio::test]
async fn a_port_may_be_named() {
    let web = Web::start(Reply::ok(""));
    let spec = Container {
        ports: Some(vec![ContainerPort {
            name: Some("web".to_owned()),
            container_port: port_of(&web).into(),
            ..ContainerPort::default()
        }]),
        ..Container::default()
    };
    let target = ProbeTarget::new(&nowhere(), "the-id", &spec, IP);
    let named = |name: &str| {
        let port = IntOrString::String(name.to_owned());
        let tcp_socket = TCPSocketAction { port, host: None };
        Probe {
            tcp_socket: Some(tcp_socket),
            ..unhurried()
        }
    };
    assert_eq!(run(&named("web"), &target).await, ProbeOutcome::Success);
    let missing = run(&named("metrics"), &target).await;
    assert!(
        matches!(&missing, ProbeOutcome::Error(e) if e.contains("\"metrics\"")),
        "says nothing about the container: {missing:?}"
    );
}

#[tokio::test]
async fn redirects_are_followed_on_the_host() {
    let web = Web::start(Reply::ok(""));
    let port = port_of(&web);
    web.script(move |head| {
        let to = |place: &str| Reply::new("302 Found", &format!("Location: {place}\r\n"), "");
        match head.split(' ').nth(1) {
            Some("/a/start") => to("next?x=1"),
            Some("/a/next?x=1") => to(&format!("http://127.0.0.1:{port}/end")),
            Some("/end") => Reply::ok("done"),
            _ => Reply::new("500 Wrong", "", ""),
        }
    });
    let action = HTTPGetAction {
        http_headers: Some(vec![header("Host", "mine"), header("X-Check", "one")]),
        ..get(port, "/a/start")
    };
    assert_eq!(run_http(action).await, ProbeOutcome::Success);
    let requests = web.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|head| head.contains("x-check: one")));
    let hosts: Vec<_> = requests.iter().map(|h| h.contains("host: mine")).collect();
    assert_eq!(hosts, [true, true, false], "until the server names itself");
}

#[tokio::test]
async fn a_redirect_to_another_host_is_a_success_that_deserves_a_look() {
    let other = Web::start(Reply::new("500 Wrong", "", ""));
    let web = Web::start(Reply::ok(""));
    for place in [
        format!("http://localhost:{}/", port_of(&other)),
        "mailto:root@localhost".to_owned(),
    ] {
        let location = format!("Location: {place}\r\n");
        web.say(Reply::new("301 Moved Permanently", &location, "moved"));
        let expected = "Probe terminated redirects, Response body: moved";
        let found = run_http(get(port_of(&web), "/")).await;
        assert_eq!(found, ProbeOutcome::Warning(expected.to_owned()), "{place}");
    }
    assert_eq!(other.requests(), [""; 0]);
}

#[tokio::test]
async fn redirects_in_a_circle_are_a_failure() {
    let web = Web::start(Reply::new("302 Found", "Location: /again\r\n", ""));
    let port = port_of(&web);
    let expected = format!("Get \"http://127.0.0.1:{port}/again\": stopped after 10 redirects");
    assert_eq!(run_http(get(port, "/")).await, failure(expected));
    assert_eq!(web.requests().len(), 10);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_failure_that_says_why() {
    let web = Web::start(Reply::Silence);
    let port = port_of(&web);
    let url = format!("Get \"http://127.0.0.1:{port}/\": ");
    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    for (reply, expected) in [
        (Reply::Silence, late),
        (Reply::raw(""), "EOF"),
        (Reply::raw("HTTP/1.1 200 OK\r\nX-"), "EOF"),
        (Reply::raw("hello\r\n\r\n"), "malformed HTTP response"),
        (
            Reply::Flood(
                b"HTTP/1.1 200 OK\r\n".to_vec(),
                b"X-Flood: yes\r\n".to_vec(),
            ),
            "",
        ),
    ] {
        web.say(reply.clone());
        let found = if expected == late {
            run_http_for_a_second(get(port, "/")).await
        } else {
            run_http(get(port, "/")).await
        };
        let expected = format!("{url}{expected}");
        assert!(
            matches!(&found, ProbeOutcome::Failure(m) if m.starts_with(&expected)),
            "{reply:?}: {found:?}, expected {expected}"
        );
    }

    let port = free().port();
    let refused = format!(
        "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(run_http(get(port, "/")).await, failure(refused));
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_nothing() {
    let web = Web::start(Reply::ok(""));
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    for reply in [
        Reply::raw(head),
        Reply::Trickle(head.into(), vec![b' '; 99]),
    ] {
        web.say(reply.clone());
        let found = run_http_for_a_second(get(port_of(&web), "/")).await;
        assert!(
            matches!(found, ProbeOutcome::Error(_)),
            "{reply:?}: {found:?}"
        );
    }
}

#[tokio::test]
async fn of_a_long_answer_only_the_beginning_is_read() {
    let web = Web::start(Reply::ok(""));
    for status in ["200 OK", "304 Strange", "300 Multiple Choices"] {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 99999999999\r\n\r\n");
        web.say(Reply::Flood(head.into(), vec![b'x'; 1000]));
        match run_http(get(port_of(&web), "/")).await {
            ProbeOutcome::Success => {}
            ProbeOutcome::Warning(text) => assert!(text.len() < 11_000, "{}", text.len()),
            other => panic!("{status}: {other:?}"),
        }
    }
}

/// A server with a certificate that nobody signed, for another name, over its time. It answers with
/// `answer`, and notes each request and how its connection ended.
async fn tls_server(answer: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(["other.example.com".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            key.serialize_der().try_into().unwrap(),
        );
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind((IP, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = [0; 1000];
            let length = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            stream.write_all(answer.as_bytes()).await.unwrap();
            let end = stream.read(&mut [0]).await;
            noted.lock().unwrap().extend([head, format!("{end:?}")]);
        }
    });
    (port, asked)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get_https(port: u16) -> HTTPGetAction {
    HTTPGetAction {
        scheme: Some("HTTPS".to_owned()),
        ..get(port, "/secure")
    }
}

/// What a server notes of its first connection, once that is over.
async fn first_noted(noted: &Mutex<Vec<String>>) -> Vec<String> {
    let over = async {
        while noted.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, over).await.unwrap();
    noted.lock().unwrap()[..2].to_vec()
}

#[tokio::test]
async fn https_takes_any_certificate_and_takes_its_leave() {
    let (port, noted) = tls_server(OK).await;
    assert_eq!(run_http(get_https(port)).await, ProbeOutcome::Success);
    let noted = first_noted(&noted).await;
    assert!(
        noted[0].starts_with("GET /secure HTTP/1.1\r\n"),
        "{noted:?}"
    );
    assert_eq!(noted[1], "Ok(0)", "an end that no attacker could make");

    let by_name = HTTPGetAction {
        host: Some("localhost".to_owned()),
        ..get_https(port)
    };
    assert_eq!(run_http(by_name).await, ProbeOutcome::Success);
    let (port, _) = tls_server("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    let expected = failure("HTTP probe failed with statuscode: 503");
    assert_eq!(run_http(get_https(port)).await, expected);
}

#[tokio::test]
async fn https_where_there_is_none_is_a_failure_that_says_so() {
    let (port, _) = plain_server().await;
    let expected = format!(
        "Get \"https://127.0.0.1:{port}/secure\": http: server gave HTTP response to HTTPS client"
    );
    assert_eq!(run_http(get_https(port)).await, failure(expected));

    let (port, _) = tls_server(OK).await;
    let found = run_http(get(port, "/")).await;
    assert!(matches!(found, ProbeOutcome::Failure(_)), "{found:?}");
}

/// A server that knows nothing of TLS, and notes the requests that it understands.
async fn plain_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((IP, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).await.unwrap();
            let head = String::from_utf8_lossy(&bytes[..length]);
            let answer = if head.starts_with("GET ") {
                noted.lock().unwrap().push(head.into_owned());
                OK
            } else {
                "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, heads)
}

async fn run_tcp(port: u16) -> ProbeOutcome {
    run_tcp_of(unhurried(), port).await
}

async fn run_tcp_of(probe: Probe, port: u16) -> ProbeOutcome {
    let probe = Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::Int(port.into()),
            host: None,
        }),
        ..probe
    };
    run(&probe, &target(nowhere())).await
}

#[tokio::test]
async fn a_tcp_probe_asks_whether_somebody_listens() {
    let listener = TcpListener::bind((IP, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(run_tcp(port).await, ProbeOutcome::Success);
    drop(listener);
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(run_tcp(port).await, failure(refused));
}

#[tokio::test]
async fn a_tcp_probe_of_a_listener_that_is_overrun_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts, so each success is one less until no more are let in.
    let found = loop {
        match run_tcp_of(Probe::default(), address.port()).await {
            ProbeOutcome::Success => {}
            other => break other,
        }
    };
    let expected = format!("dial tcp {address}: i/o timeout");
    assert_eq!(found, failure(expected));
}

#[tokio::test]
async fn every_connection_is_closed_after_its_probe() {
    let listener = TcpListener::bind((IP, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = Web::start(Reply::ok(""));
    for _ in 0..50 {
        assert_eq!(run_tcp(port).await, ProbeOutcome::Success);
        let (mut stream, _) = listener.accept().await.unwrap();
        let end = timeout(PATIENCE, stream.read(&mut [0])).await;
        assert_eq!(end.unwrap().unwrap(), 0, "the end, and no reset");
        assert_eq!(
            run_http(get(port_of(&web), "/")).await,
            ProbeOutcome::Success
        );
    }
    assert_eq!(web.requests().len(), 50);
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

async fn run_grpc(port: u16, service: &str) -> ProbeOutcome {
    run_grpc_of(unhurried(), port, service).await
}

async fn run_grpc_of(probe: Probe, port: u16, service: &str) -> ProbeOutcome {
    let probe = Probe {
        grpc: Some(GRPCAction {
            port: port.into(),
            service: Some(service.to_owned()),
        }),
        ..probe
    };
    run(&probe, &target(nowhere())).await
}

#[tokio::test]
async fn a_grpc_probe_asks_for_the_health_of_a_service() {
    let health = |status| grpc::Reply::message(&HealthCheckResponse { status });
    let unhealthy =
        |status: &str| failure(format!("service unhealthy (responded with \"{status}\")"));
    let not_implemented = "error: this server does not implement the grpc health protocol \
                           (grpc.health.v1.Health): unknown service";
    for (reply, expected) in [
        (health(1), ProbeOutcome::Success),
        (health(0), unhealthy("UNKNOWN")),
        (health(2), unhealthy("NOT_SERVING")),
        (health(3), unhealthy("SERVICE_UNKNOWN")),
        (health(9), unhealthy("9")),
        (
            grpc::Reply::Status(12, "unknown service"),
            failure(not_implemented),
        ),
        (
            grpc::Reply::Status(5, "unknown service"),
            failure(
                "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
            ),
        ),
        (
            grpc::Reply::Silence,
            failure("timeout: health rpc did not complete within 1s"),
        ),
    ] {
        let (server, port) = Grpc::on_tcp(reply.clone()).await;
        let found = if matches!(reply, grpc::Reply::Silence) {
            run_grpc_of(Probe::default(), port, "db").await
        } else {
            run_grpc(port, "db").await
        };
        assert_eq!(found, expected, "{reply:?}");
        let calls = server.calls();
        assert_eq!(calls[0].path, "/grpc.health.v1.Health/Check");
        let asked = HealthCheckRequest::decode(&*calls[0].message).unwrap();
        assert_eq!(asked.service, "db");
        assert!(
            calls[0].user_agent.starts_with("kube-probe/1.36"),
            "{calls:?}"
        );
    }
}

#[tokio::test]
async fn a_grpc_probe_says_why_it_finds_no_server() {
    let port = free().port();
    let found = run_grpc(port, "").await;
    let expected = format!(
        "error: failed to connect service at \"127.0.0.1:{port}\": \
         dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(found, failure(expected));

    let web = Web::start(Reply::ok(""));
    let found = run_grpc(port_of(&web), "").await;
    assert!(matches!(found, ProbeOutcome::Failure(_)), "{found:?}");
}

/// A runtime that answers like this, and a target there.
fn runtime(folder: &Path, reply: grpc::Reply) -> (Grpc, ProbeTarget) {
    let socket = folder.join("runtime.sock");
    let server = Grpc::on_socket(&socket, reply);
    (server, target(client_of(&socket)))
}

fn exit(exit_code: i32, stdout: &str, stderr: &str) -> grpc::Reply {
    grpc::Reply::message(&v1::ExecSyncResponse {
        exit_code,
        stdout: stdout.into(),
        stderr: stderr.into(),
    })
}

fn command() -> ExecAction {
    let command = ["sh", "-c", "check"].map(str::to_owned);
    ExecAction {
        command: Some(command.into()),
    }
}

#[tokio::test]
async fn an_exec_probe_goes_by_the_commands_exit_code() {
    let probe = Probe {
        exec: Some(command()),
        timeout_seconds: Some(7),
        ..Probe::default()
    };
    let long = "x".repeat(100_000);
    for (reply, expected) in [
        (exit(0, "fine", ""), ProbeOutcome::Success),
        (exit(1, "out ", "err"), failure("out err")),
        (exit(127, &long, ""), failure(&long[..10 * 1024])),
        (
            grpc::Reply::Status(4, "timeout 7s exceeded"),
            failure("command timed out: \"sh -c check\" timed out after 7s"),
        ),
        (
            grpc::Reply::Status(2, "container is not running"),
            ProbeOutcome::Error("ExecSync: container is not running".to_owned()),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (server, target) = runtime(folder.path(), reply);
        assert_eq!(run(&probe, &target).await, expected);
        let calls = server.calls();
        let asked = v1::ExecSyncRequest::decode(&*calls[0].message).unwrap();
        assert_eq!(asked.container_id, "the-id");
        assert_eq!(Some(asked.cmd), command().command);
        assert_eq!(asked.timeout, 7);
    }
    let away = run(&probe, &target(nowhere())).await;
    assert!(matches!(away, ProbeOutcome::Error(_)), "{away:?}");
}

#[tokio::test]
async fn a_probe_without_a_handler_says_nothing() {
    let found = run(&Probe::default(), &target(nowhere())).await;
    assert!(matches!(found, ProbeOutcome::Error(_)), "{found:?}");
}

/// A container with this hook on both ends.
fn with_hook(handler: &LifecycleHandler) -> Container {
    Container {
        name: "web".to_owned(),
        lifecycle: Some(Lifecycle {
            post_start: Some(handler.clone()),
            pre_stop: Some(handler.clone()),
            ..Lifecycle::default()
        }),
        ..Container::default()
    }
}

/// Runs both hooks; they must come to the same.
async fn run_hooks(client: &Client, handler: &LifecycleHandler) -> Result<(), String> {
    let spec = with_hook(handler);
    let after = hook::post_start(client, &spec, "the-id", IP, PATIENCE).await;
    let before = hook::pre_stop(client, &spec, "the-id", IP, PATIENCE).await;
    assert_eq!(after, before);
    after
}

fn http_hook(action: HTTPGetAction) -> LifecycleHandler {
    LifecycleHandler {
        http_get: Some(action),
        ..LifecycleHandler::default()
    }
}

#[tokio::test]
async fn a_container_without_hooks_has_them_done_at_once() {
    let spec = Container::default();
    let client = nowhere();
    let none = Duration::ZERO;
    assert_eq!(
        hook::post_start(&client, &spec, "the-id", IP, none).await,
        Ok(())
    );
    assert_eq!(
        hook::pre_stop(&client, &spec, "the-id", IP, none).await,
        Ok(())
    );
}

#[tokio::test]
async fn a_hooks_command_must_end_well() {
    let handler = LifecycleHandler {
        exec: Some(command()),
        ..LifecycleHandler::default()
    };
    for (reply, expected) in [
        (exit(0, "fine", ""), Ok(())),
        (
            exit(3, "out ", "err"),
            Err(
                "Exec lifecycle hook ([sh -c check]) for Container \"web\" failed - error: \
                 command 'sh -c check' exited with 3: err, message: \"out err\"",
            ),
        ),
        (
            grpc::Reply::Status(2, "no such container"),
            Err(
                "Exec lifecycle hook ([sh -c check]) for Container \"web\" failed - error: \
                 ExecSync: no such container, message: \"\"",
            ),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (_server, target) = runtime(folder.path(), reply);
        let found = run_hooks(&target.client, &handler).await;
        assert_eq!(found, expected.map_err(str::to_owned));
    }
}

#[tokio::test]
async fn a_hooks_request_is_done_with_any_answer() {
    let web = Web::start(Reply::ok(""));
    let handler = http_hook(get(port_of(&web), "/stop?now=1"));
    for status in ["200 OK", "404 Not Found", "500 Internal Server Error"] {
        web.say(Reply::new(status, "", "body"));
        assert_eq!(run_hooks(&nowhere(), &handler).await, Ok(()), "{status}");
    }
    let requests = web.requests();
    assert_eq!(requests.len(), 6);
    assert!(requests[0].starts_with("get /stop?now=1 http/1.1\r\n"));
    assert!(requests[0].contains("\r\nuser-agent: kube-lifecycle/1.36\r\n"));

    let port = free().port();
    let expected = format!(
        "HTTP lifecycle hook (/stop) for Container \"web\" failed - error: \
         Get \"http://127.0.0.1:{port}/stop\": dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    let found = run_hooks(&nowhere(), &http_hook(get(port, "/stop"))).await;
    assert_eq!(found, Err(expected));
}

#[tokio::test]
async fn a_hook_over_https_does_without_where_the_server_has_none() {
    let (port, asked) = tls_server(OK).await;
    let handler = http_hook(get_https(port));
    assert_eq!(run_hooks(&nowhere(), &handler).await, Ok(()));
    assert!(first_noted(&asked).await[0].starts_with("GET /secure "));

    let (port, heads) = plain_server().await;
    let action = HTTPGetAction {
        http_headers: Some(vec![
            header("Authorization", "Bearer secret"),
            header("X-Check", "one"),
        ]),
        ..get_https(port)
    };
    assert_eq!(run_hooks(&nowhere(), &http_hook(action)).await, Ok(()));
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 2, "one for each hook");
    for head in heads.iter() {
        assert!(head.contains("X-Check: one"), "{head}");
        assert!(
            !head.contains("secret"),
            "it was for an encrypted connection"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_may_sleep_and_is_cut_off_at_its_limit() {
    let handler = LifecycleHandler {
        sleep: Some(SleepAction { seconds: 20 }),
        ..LifecycleHandler::default()
    };
    let began = tokio::time::Instant::now();
    assert_eq!(run_hooks(&nowhere(), &handler).await, Ok(()));
    assert_eq!(
        began.elapsed().as_secs(),
        40,
        "both hooks, of the timers' time"
    );

    let limit = Duration::from_secs(5);
    let spec = with_hook(&handler);
    let cut = hook::pre_stop(&nowhere(), &spec, "the-id", IP, limit).await;
    assert_eq!(cut, Err("it was not done within 5 s".to_owned()));
}

#[tokio::test]
async fn a_hook_of_another_kind_fails() {
    let handler = LifecycleHandler {
        tcp_socket: Some(TCPSocketAction::default()),
        ..LifecycleHandler::default()
    };
    let found = run_hooks(&nowhere(), &handler).await;
    assert!(found.is_err_and(|e| e.starts_with("Cannot run handler")));
}
