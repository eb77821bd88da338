//! Logs over a WebSocket, as dashboards read them: the API server upgrades the connection and sends what the
//! node's API answers to it.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::cluster::Cluster;
use crate::endpoint::{spawn, start};
use crate::node::{BUSYBOX, Node, pod_with};

mod shared {
    crate::with_apiserver!(shared: logs_over_a_websocket_are_whole_every_time);
}

/// Returns the data that a server sends over a WebSocket until it closes it.
fn websocket(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         {key}\r\nSec-WebSocket-Protocol: binary.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, frames) = answer.split_at(end.unwrap() + 4);
    let head = String::from_utf8_lossy(head);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    String::from_utf8(payload(frames)).unwrap()
}

/// Returns the data in frames that a server sent (RFC 6455, section 5.2).
fn payload(mut frames: &[u8]) -> Vec<u8> {
    const CLOSE: u8 = 8;
    let mut data = vec![];
    while let [first, second, rest @ ..] = frames {
        let (length, rest) = match second {
            126 => rest.split_at(2),
            127 => rest.split_at(8),
            _ => (&frames[1..2], rest),
        };
        let length = length
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte));
        if first & 0x0f == CLOSE {
            break;
        }
        data.extend(&rest[..length]);
        frames = &rest[length..];
    }
    data
}

async fn logs_over_a_websocket_are_whole_every_time(mut node: Node, cluster: Cluster) {
    const TIMES: usize = 60;
    // One of a single piece, and one of several.
    let logs = [("short", 3), ("long", 30_000)];
    for (name, lines) in logs {
        let text = pod_with(
            name,
            BUSYBOX,
            &format!("seq {lines}; echo the last line"),
            "  restartPolicy: Never\n",
        );
        node.put(&format!("{name}.yaml"), &text);
    }
    start(&mut node, &cluster);
    for (name, _) in logs {
        cluster
            .wait_mirror(&node, name, |mirror| {
                mirror["status"]["phase"] == "Succeeded"
            })
            .await;
    }
    let proxy = spawn(&mut cluster.command("proxy --port=0"));
    let address = proxy.line().rsplit(' ').next().unwrap().to_owned();
    for (name, lines) in logs {
        let numbers: Vec<String> = (1..=lines).map(|n| n.to_string()).collect();
        let whole = numbers.join("\n") + "\nthe last line\n";
        let path = format!(
            "/api/v1/namespaces/default/pods/{}/log",
            node.full_name(name)
        );
        // Everything that is not whole, with how it ends.
        let cut: Vec<(usize, String)> = (0..TIMES)
            .map(|time| websocket(&address, &format!("{path}?follow={}", time % 2 == 0)))
            .enumerate()
            .filter(|(_, shown)| *shown != whole)
            .map(|(time, shown)| (time, shown[shown.len().saturating_sub(40)..].to_owned()))
            .collect();
        assert!(cut.is_empty(), "{name}: {} of {TIMES}: {cut:?}", cut.len());
    }
}
