//! Local ports that lead to a Pod's.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use super::cli::{ask, output, text};
use super::node::{BUSYBOX, FOREVER, Node, pod_with};
use super::streams::{ended, noise};

super::on_each_containerd!(local_ports_lead_to_the_pod);

mod on_one {
    super::super::on_containerd!("2.1": a_pod_on_the_hosts_network_has_the_hosts_ports);
}

mod on_latest {
    super::super::on_containerd!("2.4": local_ports_lead_to_the_pod);
}

/// `podkeeper port-forward` that goes on until it is dropped.
pub(super) struct Forward {
    process: Child,
    file: std::path::PathBuf,
}

impl Forward {
    fn said(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts it, and returns its first local port.
pub(super) async fn forward(node: &Node, name: &str, words: &[&str]) -> (Forward, u16) {
    let file = node.path(name);
    let out = fs::File::create(&file).unwrap();
    let process = ask(node, &[&["port-forward"], words].concat())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn();
    let forward = Forward {
        process: process.unwrap(),
        file,
    };
    let port = node
        .wait("it listens", async || {
            let said = forward.said();
            let line = said.lines().find(|l| l.contains("127.0.0.1:"))?;
            let port = line.split(':').nth(1)?.split(' ').next()?;
            port.parse().ok()
        })
        .await;
    (forward, port)
}

/// Gets a document; returns its body.
fn get(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut response = vec![];
    stream.read_to_end(&mut response)?;
    let end = response.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(response.split_off(end + 4))
}

async fn local_ports_lead_to_the_pod(mut node: Node) {
    let script = |text: &str| {
        format!(
            "echo {text} >/tmp/text; httpd -p 127.0.0.1:8080 -h /tmp; httpd -p 8081 -h /out; {FOREVER}"
        )
    };
    let ports = "    ports: [{name: files, containerPort: 8081}]\n";
    let volumes = node.with_out(&format!("{ports}    $MOUNT\n  volumes: $OUT\n"));
    node.make_out();
    let bytes = noise(100_000_000);
    fs::write(node.path("out/big"), &bytes).unwrap();
    let put = |node: &Node, text: &str| {
        node.put(
            "web.yaml",
            &pod_with("web", BUSYBOX, &script(text), &volumes),
        );
    };
    put(&node, "one");
    node.start_agent();
    let first = node.wait_running("web").await;
    node.wait_known(1).await;
    let words = ["web", ":8080", ":files", ":9", "--address=127.0.0.1"];
    let (mut forward, port) = forward(&node, "forward", &words).await;
    node.wait_until("all are listened on", async || {
        forward.said().lines().count() == 3
    })
    .await;
    let said = forward.said();
    let ports: Vec<u16> = said
        .lines()
        .map(|line| line.split([':', ' ']).nth(3).unwrap().parse().unwrap())
        .collect();
    assert!(
        said.contains(&format!("127.0.0.1:{} -> 8081\n", ports[1])),
        "{said}"
    );
    node.wait_until("its server is up", async || get(port, "/text").is_ok())
        .await;
    assert_eq!(get(port, "/text").unwrap(), b"one\n");
    // Several at once, of which some break, and one that takes nothing.
    let idle = TcpStream::connect(("127.0.0.1", ports[1])).unwrap();
    (&idle).write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| get(ports[1], "/big").unwrap()))
            .collect();
        for _ in 0..5 {
            let mut broken = TcpStream::connect(("127.0.0.1", ports[1])).unwrap();
            broken.write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
            broken.read_exact(&mut [0; 1000]).unwrap();
        }
        for whole in all {
            assert!(whole.join().unwrap() == bytes);
        }
    });
    drop(idle);
    // A port that nobody listens on.
    assert!(get(ports[2], "/").is_err());
    let error = format!("An error occurred forwarding {} -> 9: ", ports[2]);
    node.wait_until("that is reported", async || forward.said().contains(&error))
        .await;
    assert_eq!(get(port, "/text").unwrap(), b"one\n");
    // After an update it leads to the new Pod.
    put(&node, "two");
    node.wait_after("web", &first).await;
    node.wait_until("the new one answers", async || {
        get(port, "/text").is_ok_and(|text| text == b"two\n")
    })
    .await;
    let id = forward.process.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &id]).status();
    assert!(sent.unwrap().success());
    assert_eq!(ended(&node, &mut forward.process).await, Some(0));
    let words = ["port-forward", "web", "8080", "--address=192.0.2.1"];
    let refused = output(&node, &words);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("unable to listen on port 8080: 192.0.2.1:8080: "));
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_pod_on_the_hosts_network_has_the_hosts_ports(mut node: Node) {
    let on_host = pod_with("web", BUSYBOX, FOREVER, "  hostNetwork: true\n");
    node.put("web.yaml", &on_host);
    node.start_agent();
    node.wait_running("web").await;
    node.wait_known(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let served = format!(":{}", listener.local_addr().unwrap().port());
    let (_forward, port) = forward(&node, "forward", &["web", &served]).await;
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"host").unwrap();
    drop(accepted);
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(said, "host");
    // Without the Pod they are no longer forwarded.
    node.remove("web.yaml");
    node.wait_gone().await;
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    listener.set_nonblocking(true).unwrap();
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}
