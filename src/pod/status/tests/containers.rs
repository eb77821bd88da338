//! Fields of container statuses, and wanted differences from the kubelet.

use k8s_openapi::api::core::v1::LinuxContainerUser;
use serde_json::{Value, json};

use super::{CREATING, lines, pod, restarting_all, single};
use crate::pod::admission::Rejection;
use crate::pod::backoff;
use crate::pod::state::observed::State;
use crate::pod::state::{Admission, PostStart};

/// Checks what is shown otherwise than by the kubelet, and why.
#[test]
fn differences_from_the_kubelet_that_are_meant() {
    let crashed = single("Always").ended_after("a", 1, Some(0));
    let hook_failed = PostStart::Failed("no".into());
    let replaced = restarting_all()
        .ended("init", 0)
        .ended("a", 137)
        .ended("b", 88)
        .was_initialized()
        .all_replaced();
    for (reason, scene, line) in [
        (
            "images are checked before the sandbox is made, so that an update is short: a Pod that \
             waits for one has neither sandbox nor address",
            single("Always")
                .without_sandbox()
                .no_image("a", "ErrImagePull", backoff::INITIAL),
            "PodReadyToStartContainers: False",
        ),
        (
            "the end of a pause is reported, not only its length",
            crashed,
            "a: waiting CrashLoopBackOff: back-off 10s restarting failed container=a \
             pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 1 Error",
        ),
        (
            "a container that was made and not started has a reason to wait; the kubelet gives none",
            single("Always").made("a"),
            CREATING,
        ),
        (
            "so has one that the runtime lost track of",
            single("Always").lost("a"),
            CREATING,
        ),
        (
            "a failed hook is reported while its container is being stopped, for that may take long",
            single("Always").runs("a").hook("a", hook_failed),
            "a: waiting PostStartHookError: no",
        ),
        (
            "containers that restart with all others are kept until then, so that how they really \
             ended is known; the kubelet tells 137 of each",
            replaced,
            "b: waiting RestartingAllContainers: The container is removed because RestartAllContainers \
             in place, last exit 88 Error",
        ),
    ] {
        let found = lines(&scene.status());
        assert!(found.iter().any(|l| l == line), "{reason}: {found:#?}");
    }
}

#[test]
fn a_pod_that_may_not_run_here_has_nothing_but_its_end() {
    let mut scene = single("Always").without_sandbox();
    let rejection = Rejection {
        reason: "NodePorts".into(),
        message: "taken".into(),
    };
    scene.state.version_mut(&"u".into()).admission = Admission::Rejected(rejection);
    let shown = serde_json::to_value(scene.status()).unwrap();
    let expected = json!({
        "phase": "Failed",
        "reason": "NodePorts",
        "message": "Pod was rejected: taken",
        "qosClass": "BestEffort",
        "startTime": "2023-11-14T22:13:20Z",
    });
    assert_eq!(shown, expected);
}

#[test]
fn a_container_that_was_never_made_has_its_mounts_and_no_resources() {
    let scene = pod(
        "{volumes: [{name: v, hostPath: {path: /v}}], containers: [{name: a, \
         resources: {limits: {cpu: 1}}, volumeMounts: [{name: v, mountPath: /v, readOnly: true, \
         recursiveReadOnly: Enabled}]}]}",
    );
    let shown = serde_json::to_value(scene.container("a")).unwrap();
    let mounts = json!([
        {"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled"}
    ]);
    assert_eq!(shown["volumeMounts"], mounts);
    assert_eq!(shown["resources"], Value::Null);
    assert_eq!(shown["allocatedResources"], Value::Null);
}

#[test]
fn a_container_shows_whom_it_runs_as_where_the_runtime_tells() {
    let mut scene = single("Always").runs("a");
    assert_eq!(scene.container("a").user, None);
    scene.observed.containers[0].user = Some(LinuxContainerUser {
        uid: 1000,
        gid: 1001,
        supplemental_groups: Some(vec![1001, 4242]),
    });
    let shown = serde_json::to_value(scene.container("a").user).unwrap();
    let expected = json!({"linux": {"uid": 1000, "gid": 1001, "supplementalGroups": [1001, 4242]}});
    assert_eq!(shown, expected);
}

#[test]
fn the_containers_of_a_pod_share_what_it_may_say_of_their_ends() {
    for (containers, bytes) in [
        ("[a]", 12288),
        ("[a, b, c]", 4096),
        ("[a, b, c, d, e]", 2457),
    ] {
        let mut scene = pod(&format!(
            "{{restartPolicy: Never, containers: {containers}}}"
        ));
        scene = scene.ended("a", 1);
        let said = "x".repeat(20_000);
        if let State::Exited(exit) = &mut scene.observed.containers[0].state {
            exit.message.clone_from(&said);
        }
        let ended = scene.container("a").state.unwrap().terminated.unwrap();
        assert_eq!(ended.message.unwrap(), said[..bytes], "{containers}");
    }
    let mut scene = single("Never").ended("a", 1);
    if let State::Exited(exit) = &mut scene.observed.containers[0].state {
        exit.message = format!("x{}", "ä".repeat(10_000));
    }
    let ended = scene.container("a").state.unwrap().terminated.unwrap();
    assert_eq!(ended.message.unwrap().len(), 12287, "no character is cut");
}
