//! Pods that others bind to this node: by hand, by a `DaemonSet`, by `kubectl debug node/…`. They do not run here, and
//! nobody else would say so: each is answered once by its status, which kubectl shows, and an event. Once somebody
//! deletes such a Pod, its deletion is finished, since it would wait for the node for ever.
//!
//! A Pod that has ever been started, by a kubelet that ran on the node before, is left as it is.

use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::{Value, json};

use super::object::SeenPod;

/// Reason for which such a Pod does not start.
pub(super) const REASON: &str = "StaticPodsOnly";

/// Returns the message for such a Pod.
pub(super) fn message(node: &str) -> String {
    format!(
        "Node {node} runs static Pods only, so that this Pod does not start: bind it to another node, or put its \
         manifest into the manifest directory of this one"
    )
}

/// Returns the patch of the status that answers a Pod, if it has to be answered.
pub(super) fn answer(pod: &SeenPod, node: &str) -> Option<Value> {
    if pod.mirrors.is_some() || pod.containers.is_empty() {
        return None;
    }
    let status = pod.status.decode();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let has_status = status.container_statuses.iter().flatten().next();
    if phase != "Pending" || status.start_time.is_some() || has_status.is_some() {
        return None;
    }
    let message = message(node);
    let statuses = pod.containers.iter().map(|container| {
        json!({
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "ready": false,
            "started": false,
            "restartCount": 0,
            // kubectl debug prints this message while it waits.
            "state": {"waiting": {"reason": REASON, "message": message}},
        })
    });
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "False", "reason": REASON, "message": message,
            "lastTransitionTime": jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).ok(),
        })
    };
    let status = json!({
        "phase": "Pending",
        "conditions": [condition("Ready"), condition("ContainersReady")],
        "containerStatuses": statuses.collect::<Vec<_>>(),
    });
    Some(json!({"metadata": {"uid": pod.uid}, "status": status}))
}

/// True if the Pod was answered and is being deleted: nothing of it is on the node.
pub(super) fn is_to_finish(pod: &SeenPod) -> bool {
    let is_answered = |status: &ContainerStatus| {
        let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(REASON))
    };
    if pod.mirrors.is_some() || !pod.is_leaving {
        return false;
    }
    let status = pod.status.decode();
    let mut statuses = status.container_statuses.iter().flatten().peekable();
    status.start_time.is_none() && statuses.peek().is_some() && statuses.all(is_answered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::object::MIRROR;

    fn pod(change: impl Fn(&mut Value)) -> SeenPod {
        let mut pod = json!({
            "metadata": {"name": "debugger", "namespace": "default", "uid": "u"},
            "spec": {"nodeName": "n1", "containers": [{"name": "debugger", "image": "busybox"}]},
            "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_pod_that_others_bind_here_is_answered_once_and_its_deletion_is_finished() {
        let bound = pod(|_| {});
        let patch = answer(&bound, "n1").unwrap();
        assert_eq!(patch["metadata"]["uid"], "u");
        let status = &patch["status"]["containerStatuses"];
        assert_eq!(status[0]["name"], "debugger");
        assert_eq!(status[0]["state"]["waiting"]["reason"], REASON);
        assert!(!is_to_finish(&bound));
        let answered = |pod: &mut Value| pod["status"]["containerStatuses"] = status.clone();
        let again = pod(answered);
        assert_eq!(answer(&again, "n1"), None);
        assert!(!is_to_finish(&again));
        let deleted = pod(|pod| {
            answered(pod);
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        assert!(is_to_finish(&deleted));
    }

    #[test]
    fn a_mirror_and_a_pod_that_a_kubelet_started_are_left_as_they_are() {
        for (place, value) in [
            ("/status/phase", json!("Running")),
            ("/status/phase", json!("Failed")),
            ("/metadata/annotations", json!({MIRROR: "v1"})),
            ("/status/startTime", json!("2026-01-01T00:00:00Z")),
        ] {
            let (around, name) = place.rsplit_once('/').unwrap();
            let change = |pod: &mut Value| {
                pod.pointer_mut(around).unwrap()[name] = value.clone();
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            };
            let other = pod(change);
            assert_eq!(answer(&other, "n1"), None, "{place}");
            assert!(!is_to_finish(&other), "{place}");
        }
    }
}
