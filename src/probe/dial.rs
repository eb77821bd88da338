//! TCP connections, and the probe that is content with one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::TCPSocketAction;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{ProbeOutcome, ProbeTarget};

/// Probes a TCP port: succeeds if the port accepts a connection.
pub(super) async fn probe(
    target: &ProbeTarget,
    action: &TCPSocketAction,
    limit: Duration,
) -> ProbeOutcome {
    let port = match target.port(&action.port) {
        Ok(port) => port,
        Err(error) => return ProbeOutcome::Error(error),
    };
    let host = target.host(action.host.as_deref());
    match timeout(limit, connect(host, port)).await {
        Ok(Ok(_)) => ProbeOutcome::Success,
        Ok(Err(error)) => ProbeOutcome::Failure(error),
        Err(_) => ProbeOutcome::Failure(format!("dial tcp {}: i/o timeout", address(host, port))),
    }
}

/// Connects to a host, given by its address or its name.
///
/// # Errors
/// Returns the reason why there is no connection, in the reference agent's words.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let mut places = resolve(host, port).await?.into_iter();
    loop {
        let Some(place) = places.next() else {
            return Err(format!("dial tcp: lookup {host}: no such host"));
        };
        let error = match TcpStream::connect(place).await {
            Ok(stream) => {
                // A request is one small write that must not wait for another.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => error,
        };
        if places.len() == 0 {
            return Err(format!("dial tcp {place}: connect: {}", words(&error)));
        }
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = lookup_host((host, port)).await;
    let found = found.map_err(|e| format!("dial tcp: lookup {host}: {}", words(&e)))?;
    Ok(found.collect())
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A system error as the reference agent words it: `connection refused`, not `Connection refused (os
/// error 111)`.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}
