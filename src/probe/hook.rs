//! Lifecycle hooks: run right after a container's start and before its stop signal (Kubernetes,
//! Container Lifecycle Hooks).
//!
//! The caller handles failures: a failed `postStart` kills the container, a failed `preStop` does not keep it
//! from being stopped.

use std::time::Duration;

use hyper::header::HeaderValue;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler};
use tokio::time::timeout;
use tracing::warn;

use super::http::ProbeRequest;
use super::{ProbeTarget, start_of};
use crate::cri::Client;
use crate::units::time::seconds;

/// Message of the reference agent's event `FailedPostStartHook`, which leaves out the failure itself.
pub const POST_START_FAILED: &str = "PostStartHook failed";
/// Message of the reference agent's event `FailedPreStopHook`, which leaves out the failure itself.
pub const PRE_STOP_FAILED: &str = "PreStopHook failed";
/// Longer limits count as none, since the runtime cannot be given them.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// User agent of the reference agent's lifecycle hooks.
const HOOK_AGENT: HeaderValue = HeaderValue::from_static("kube-lifecycle/1.36");

/// Runs a container's `preStop` hook, if it has one, for at most `limit`.
///
/// # Errors
/// Returns the failure, or that the hook timed out, in the reference agent's words.
pub async fn pre_stop(
    client: &Client,
    spec: &Container,
    container_id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    let hook = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    let target = ProbeTarget::new(client, container_id, spec, pod_ip);
    run_within(&target, &spec.name, hook, limit).await
}

/// Runs a container's `postStart` hook, if it has one, for at most `limit`.
///
/// # Errors
/// Returns the failure, or that the hook timed out, in the reference agent's words.
pub async fn post_start(
    client: &Client,
    spec: &Container,
    container_id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    let hook = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    let target = ProbeTarget::new(client, container_id, spec, pod_ip);
    run_within(&target, &spec.name, hook, limit).await
}

async fn run_within(
    target: &ProbeTarget,
    container: &str,
    hook: Option<&LifecycleHandler>,
    limit: Duration,
) -> Result<(), String> {
    let Some(hook) = hook else {
        return Ok(());
    };
    let limit = limit.min(LONGEST);
    let done = timeout(limit, Box::pin(run(target, container, hook, limit))).await;
    done.unwrap_or_else(|_| Err(format!("it was not done within {} s", limit.as_secs())))
}

async fn run(
    target: &ProbeTarget,
    container: &str,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let command = action.command.as_deref().unwrap_or_default().join(" ");
        let failed = |(error, output): (String, String)| {
            format!(
                "Exec lifecycle hook ([{command}]) for Container {container:?} failed - error: {error}, message: {output:?}"
            )
        };
        return exec(target, action, limit).await.map_err(failed);
    }
    if let Some(action) = &hook.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let failed = |error| {
            format!(
                "HTTP lifecycle hook ({path}) for Container {container:?} failed - error: {error}"
            )
        };
        return http_get(target, container, action).await.map_err(failed);
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(seconds(action.seconds)).await;
        return Ok(());
    }
    Err(
        "Cannot run handler: found none that hooks have, expected exec, httpGet or sleep"
            .to_owned(),
    )
}

/// Runs a command in the container. A failure comes with the command's output.
async fn exec(
    target: &ProbeTarget,
    action: &ExecAction,
    limit: Duration,
) -> Result<(), (String, String)> {
    let command = action.command.as_deref().unwrap_or_default();
    let done = target
        .client
        .exec_sync(&target.container_id, command, limit);
    let done = done.await.map_err(|e| (e.to_string(), String::new()))?;
    if done.exit_code == 0 {
        return Ok(());
    }
    let (command, code) = (command.join(" "), done.exit_code);
    let stderr = start_of(&done.stderr);
    let error = format!("command '{command}' exited with {code}: {stderr}");
    let output = [done.stdout, done.stderr].concat();
    Err((error, start_of(&output)))
}

/// Asks the container. As with the reference agent every answer will do, whatever its code, and a server
/// without TLS is asked without.
async fn http_get(
    target: &ProbeTarget,
    container: &str,
    action: &HTTPGetAction,
) -> Result<(), String> {
    let request = ProbeRequest::new(target, action, HOOK_AGENT)?;
    let answer = match request.send().await {
        Err(fault) if fault.is_plain_http() => {
            let plain = request.without_tls().send().await;
            plain.map_err(|_| fault.to_string())?
        }
        other => other.map_err(|fault| fault.to_string())?,
    };
    let status = answer.status();
    if status.is_client_error() || status.is_server_error() {
        let code = status.as_u16();
        warn!(
            container,
            code, "HTTP hook returned an error status, which counts as success"
        );
    }
    // The body says nothing to us, but the server may want it read.
    let _ = answer.body().await;
    Ok(())
}
