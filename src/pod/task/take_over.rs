//! Stopping a static Pod that a kubelet left, before the agent starts its own of this name.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Lifecycle};
use serde::de::DeserializeOwned;
use tracing::{debug, info};

use super::Context;
use super::background::FILES;
use super::clean_up::{remove_cgroups, remove_sandbox, stop_sandbox};
use super::error::StepError;
use super::stop_container::stop_alone;
use crate::cri::v1;
use crate::host::blocking::{FileSubject, pooled};
use crate::manifest::PodKey;
use crate::pod::identity::{ValidUid, check_id};
use crate::pod::kubelet_pods;
use crate::pod::observe;
use crate::translate::labels;

/// Stops and removes what a kubelet left of a static Pod.
///
/// # Errors
/// A call of the runtime fails, or the Pod is there and is to be left alone.
pub(super) async fn take_over(context: Arc<Context>, key: PodKey) -> Result<(), StepError> {
    let sandboxes = kubelet_pods::list(&context.client, &key).await?;
    if !sandboxes.is_empty() && !context.kubelet_pods.take_over {
        return Err(StepError::Node {
            reason: "FailedCreatePodSandBox",
            message: "a kubelet left a static Pod of this name, which is left alone, as \
                      --take-over-kubelet-pods=false says: remove it with crictl"
                .to_owned(),
        });
    }
    for sandbox in sandboxes {
        if check_id(&sandbox.id).is_err() {
            continue;
        }
        info!(pod = %key, sandbox = sandbox.id, "Stopping Pod that a kubelet left, before podkeeper starts it");
        stop_containers(&context, &key, &sandbox).await?;
        stop_sandbox(Arc::clone(&context), sandbox.id.as_str().into()).await?;
        remove_sandbox(Arc::clone(&context), sandbox.id.as_str().into()).await?;
        remove_cgroups_of(&context, &key, sandbox).await;
    }
    context.kubelet_pods.forget(&key);
    Ok(())
}

/// Removes the cgroups of a sandbox that is gone. That they stay is for the kubelet to mend, should it come back.
async fn remove_cgroups_of(context: &Arc<Context>, key: &PodKey, sandbox: v1::PodSandbox) {
    let uid = sandbox.metadata.unwrap_or_default().uid;
    let Ok(valid) = ValidUid::parse(&uid) else {
        return;
    };
    let subject = FileSubject::of(key, &uid, format!("removal of cgroups of {uid}"));
    let shared = Arc::clone(context);
    let removed = pooled(subject, FILES, move || remove_cgroups(&shared, &valid)).await;
    if !matches!(removed, Ok(Ok(()))) {
        debug!(pod = %key, uid, "Failed to remove cgroups of a kubelet's Pod");
    }
}

/// Stops the containers of a sandbox side by side, by what the kubelet wrote to their annotations: preStop hook and
/// grace period.
async fn stop_containers(
    context: &Arc<Context>,
    key: &PodKey,
    sandbox: &v1::PodSandbox,
) -> Result<(), StepError> {
    let client = &context.client;
    let request = v1::ListContainersRequest {
        filter: Some(v1::ContainerFilter {
            pod_sandbox_id: sandbox.id.clone(),
            state: Some(v1::ContainerStateValue {
                state: v1::ContainerState::ContainerRunning.into(),
            }),
            ..v1::ContainerFilter::default()
        }),
    };
    let containers = client.list_containers(request).await?.containers;
    let id = sandbox.id.as_str().into();
    let status = observe::inspect_sandbox(client, &context.clock, &id).await?;
    let ip = status.and_then(|status| status.ips.into_iter().next());
    let ip = ip.unwrap_or_default();
    let mine = containers.iter().filter(|c| c.pod_sandbox_id == sandbox.id);
    let stops = mine.map(|container| {
        let grace_period = grace_period(&container.annotations);
        let (context, pod, ip) = (Arc::clone(context), key.clone(), ip.clone());
        let id = container.id.as_str().into();
        stop_alone(context, pod, ip, id, spec(container), grace_period)
    });
    for stopped in join_all(stops).await {
        stopped?;
    }
    Ok(())
}

/// The grace period of the container's Pod in seconds, 30 if it is not known.
fn grace_period(annotations: &HashMap<String, String>) -> i64 {
    let given = annotations.get(labels::TERMINATION_GRACE_PERIOD);
    let given = given.and_then(|text| text.parse::<i64>().ok());
    given.unwrap_or(30).max(0)
}

/// The known parts of the container's specification: its name, its ports and its preStop hook.
fn spec(container: &v1::Container) -> ContainerSpec {
    fn read<T: DeserializeOwned>(container: &v1::Container, annotation: &str) -> Option<T> {
        serde_json::from_str(container.annotations.get(annotation)?).ok()
    }
    let pre_stop = read(container, labels::PRE_STOP_HANDLER);
    ContainerSpec {
        name: container
            .labels
            .get(labels::CONTAINER_NAME)
            .cloned()
            .unwrap_or_default(),
        ports: read(container, labels::PORTS),
        lifecycle: pre_stop.map(|hook| Lifecycle {
            pre_stop: Some(hook),
            ..Lifecycle::default()
        }),
        ..ContainerSpec::default()
    }
}
