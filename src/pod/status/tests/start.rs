//! Causes that keep a container from being started or ready: probes, hooks and failures.

use std::time::Duration;

use super::{CREATING, NOW, UNREADY, compare, pod, single};
use crate::pod::backoff;
use crate::pod::plan::volume_holder;
use crate::pod::state::{PostStart, Subject};

#[test]
fn probes_and_hooks_make_a_container_started_and_ready() {
    let hook_failed = PostStart::Failed("no".into());
    compare(vec![
        (
            "its startup probe has not passed",
            single("Always").runs("a").probe("a", false, false),
            vec!["Running", UNREADY, "a: running"],
        ),
        (
            "its readiness probe fails",
            single("Always").runs("a").probe("a", true, false),
            vec!["Running", UNREADY, "a: running, started"],
        ),
        (
            "both pass",
            single("Always").runs("a").probe("a", true, true),
            vec!["Running", "a: running, started, ready"],
        ),
        (
            "the hook after its start runs",
            single("Always").runs("a").hook("a", PostStart::Running),
            vec!["Running", UNREADY, "a: running"],
        ),
        (
            "the hook after its start failed",
            single("Always").runs("a").hook("a", hook_failed),
            vec!["Running", UNREADY, "a: waiting PostStartHookError: no"],
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_container_that_cannot_be_started_says_why() {
    let second = Duration::from_secs(1);
    let (first, again) = (backoff::INITIAL, 2 * backoff::INITIAL);
    let of_sandbox = || Subject::Sandbox("u".into());
    let of_volumes = || Subject::Volumes("u".into());
    let pending = |line| vec!["Pending", UNREADY, line];
    let crashed = || single("Always").ended_after("a", 128, Some(0));
    let subject = || Subject::Container("u".into(), "a".into());
    compare(vec![
        (
            "its configuration is invalid",
            single("Always").not_started("a", "CreateContainerConfigError"),
            pending("a: waiting CreateContainerConfigError: no"),
        ),
        (
            "the runtime cannot make it",
            single("Always").not_started("a", "CreateContainerError"),
            pending("a: waiting CreateContainerError: no"),
        ),
        (
            "the runtime cannot start it",
            single("Always")
                .made("a")
                .not_started("a", "RunContainerError"),
            pending("a: waiting RunContainerError: no"),
        ),
        (
            "that it was not started goes before its pause until it would be tried again",
            crashed().not_started("a", "RunContainerError"),
            vec![
                "Running",
                UNREADY,
                "a: waiting RunContainerError: no, last exit 128 Error",
            ],
        ),
        (
            "and then the pause is what it waits for",
            crashed().failed(subject(), "RunContainerError", NOW),
            vec![
                "Running",
                UNREADY,
                "a: waiting CrashLoopBackOff: back-off 10s restarting failed container=a \
                 pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 128 Error",
            ],
        ),
        (
            "its image cannot be pulled",
            single("Always").no_image("a", "ErrImagePull", first),
            pending("a: waiting ErrImagePull: no"),
        ),
        (
            "nor the next time",
            single("Always").no_image("a", "ErrImagePull", again),
            pending("a: waiting ImagePullBackOff: Back-off pulling image \"i\": ErrImagePull: no"),
        ),
        (
            "it is being pulled once more",
            single("Always").pulls("a", "no"),
            pending("a: waiting ImagePullBackOff: Back-off pulling image \"i\": ErrImagePull: no"),
        ),
        (
            "its image has no proper name",
            single("Always").no_image("a", "InvalidImageName", again),
            pending("a: waiting InvalidImageName: no"),
        ),
        (
            "its image is not there and never pulled",
            single("Always").no_image("a", "ErrImageNeverPull", again),
            pending("a: waiting ErrImageNeverPull: no"),
        ),
        (
            "one that ran before and whose image cannot be pulled",
            single("Always")
                .ended("a", 1)
                .no_image("a", "ErrImagePull", first),
            vec![
                "Running",
                UNREADY,
                "a: waiting ErrImagePull: no, last exit 1 Error",
            ],
        ),
        (
            "an image behind a volume concerns those that have it mounted",
            pod("{volumes: [{name: v, image: {reference: w}}], \
                 containers: [{name: a, volumeMounts: [{name: v, mountPath: /v}]}, b]}")
            .no_image(&volume_holder("v"), "ErrImagePull", again),
            vec![
                "Pending",
                "ContainersReady: False ContainersNotReady: containers with unready status: [a b]",
                "a: waiting ImagePullBackOff: Back-off pulling image \"w\": ErrImagePull: no",
                "b: waiting ContainerCreating",
            ],
        ),
        (
            "its image is being pulled",
            single("Always").pulls("a", ""),
            pending(CREATING),
        ),
        (
            "the Pod's sandbox cannot be made",
            single("Always").failed(of_sandbox(), "FailedCreatePodSandBox", NOW.after(second)),
            pending(CREATING),
        ),
        (
            "the Pod's volumes are not in order",
            single("Always").failed(of_volumes(), "FailedMount", NOW.after(second)),
            pending(CREATING),
        ),
    ]);
}
