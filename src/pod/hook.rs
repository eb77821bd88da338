//! The preStop hook: what a container is told before its stop signal (Kubernetes, Container
//! Lifecycle Hooks). It counts against the grace period, and its failure does not keep the container
//! from being stopped.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::cri::Client;

/// Runs a container's preStop hook, if it has one, for at most `limit`.
///
/// # Errors
/// Why it failed or that it was cut off, for the log.
pub(super) async fn pre_stop(
    client: &Client,
    spec: &Container,
    container_id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    let hook = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    let Some(hook) = hook else {
        return Ok(());
    };
    match tokio::time::timeout(limit, run(client, spec, hook, container_id, pod_ip, limit)).await {
        Ok(result) => result,
        Err(_) => Err(format!("it was not done within {} s", limit.as_secs())),
    }
}

/// Runs the hook after a container's start, for as long as it takes.
///
/// # Errors
/// Why it failed.
pub(super) async fn post_start(
    client: &Client,
    spec: &Container,
    container_id: &str,
    pod_ip: &str,
) -> Result<(), String> {
    let hook = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    match hook {
        Some(hook) => {
            run(
                client,
                spec,
                hook,
                container_id,
                pod_ip,
                Duration::from_secs(3600),
            )
            .await
        }
        None => Ok(()),
    }
}

async fn run(
    client: &Client,
    spec: &Container,
    hook: &LifecycleHandler,
    container_id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.try_into().unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(exec) = &hook.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let done = client.exec_sync(container_id, command, limit).await;
        let done = done.map_err(|e| e.to_string())?;
        if done.exit_code != 0 {
            let output = String::from_utf8_lossy(&done.stderr);
            return Err(format!("exit code {}: {}", done.exit_code, output.trim()));
        }
        return Ok(());
    }
    match &hook.http_get {
        Some(action) => http_get(spec, action, pod_ip).await,
        None => Ok(()),
    }
}

async fn http_get(spec: &Container, action: &HTTPGetAction, pod_ip: &str) -> Result<(), String> {
    let host = action
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(pod_ip);
    let port = port_number(spec, &action.port).ok_or("the port has no such name")?;
    let path = action.path.as_deref().unwrap_or("/");
    let mut request = hyper::Request::get(path).header("host", format!("{host}:{port}"));
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| e.to_string())?;
    let status = response.status();
    // The body says nothing to us, but the server may want it read.
    let _ = response.into_body().collect().await;
    connection.abort();
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(format!("the answer was {status}"))
}

fn port_number(spec: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let mut ports = spec.ports.iter().flatten();
            let named = ports.find(|p| p.name.as_ref() == Some(name))?;
            u16::try_from(named.container_port).ok()
        }
    }
}
