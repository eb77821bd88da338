//! The agent's own report, which says more than a status has room for.

use std::time::Duration;

use super::{NOW, Scene, facts, pod, single};
use crate::manifest::PackedPod;
use crate::pod::report::report;
use crate::pod::state::Subject;
use crate::source::{DesiredPod, Origin};

#[test]
fn the_agents_own_report_tells_what_a_status_has_no_room_for() {
    let second = NOW.after(Duration::from_secs(1));
    let (sandbox, volumes) = (Subject::Sandbox("u".into()), Subject::Volumes("u".into()));
    for (scene, reason, message) in [
        (
            single("Always").pulls("a", ""),
            "Pulling",
            "the image \"i\" is being pulled",
        ),
        (
            single("Always").pulls("a", "no such host"),
            "ErrImagePull",
            "no such host; the image \"i\" is being pulled again since 2023-11-14T22:13:20Z",
        ),
        (
            single("Always").failed(sandbox, "FailedCreatePodSandBox", second),
            "FailedCreatePodSandBox",
            "no",
        ),
        (
            single("Always").failed(volumes, "FailedMount", second),
            "FailedMount",
            "no",
        ),
        (
            single("Always").not_started("a", "CreateContainerError"),
            "CreateContainerError",
            "no",
        ),
    ] {
        let key = &scene.version.key;
        let snapshot = report(scene.view(), &facts(), key, None).report;
        let container = &snapshot.containers[0];
        assert_eq!(container.state, "waiting", "{container:#?}");
        let said = (container.reason.as_str(), container.message.as_str());
        assert_eq!(said, (reason, message));
    }
}

#[test]
fn the_agents_own_report_tells_what_a_running_pod_waits_for() {
    let snapshot = |scene: &Scene| {
        let wanted = DesiredPod {
            pod: PackedPod::from(&scene.version),
            origin: Origin::File("/m/p.yaml".into()),
            warnings: vec![],
        };
        let key = &scene.version.key;
        report(scene.view(), &facts(), key, Some(&wanted)).report
    };
    let probes = "{name: a, image: i, startupProbe: {exec: {command: [a]}}, readinessProbe: {exec: {command: [a]}}}";
    let pod = |gates: &str| pod(&format!("{{{gates} containers: [{probes}]}}"));
    for (scene, expected) in [
        (
            pod("").runs("a").probe("a", false, false),
            Some("container a: the startup probe has not succeeded yet"),
        ),
        (
            pod("").runs("a").probe("a", true, false),
            Some("container a: the readiness probe does not succeed"),
        ),
        (
            pod("readinessGates: [{conditionType: x}],")
                .runs("a")
                .probe("a", true, true),
            Some("corresponding condition of pod readiness gate \"x\" does not exist."),
        ),
        (pod("").runs("a").probe("a", true, true), None),
    ] {
        let waits_for = snapshot(&scene).waits_for;
        let first = waits_for.first().map(String::as_str);
        let same = expected.is_none_or(|words| first.is_some_and(|first| first.starts_with(words)));
        assert!(
            same && first.is_some() == expected.is_some(),
            "{waits_for:?}"
        );
    }
}
