//! The Pod's phase, and the waits of a container that keeps ending.

use super::{COMPLETED, CREATING, FAILED, UNREADY, compare, pod, single, with_sidecar};
use crate::pod::state::Phase;
use crate::pod::status::end_phase;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_phase_is_what_the_containers_and_the_restart_policy_make_of_it() {
    let two = |policy: &str| pod(&format!("{{restartPolicy: {policy}, containers: [z, a]}}"));
    let with_rule = || {
        let rule = "{action: Restart, exitCodes: {operator: In, values: [3]}}";
        pod(&format!(
            "{{restartPolicy: Never, containers: [{{name: a, restartPolicy: Never, \
             restartPolicyRules: [{rule}]}}]}}"
        ))
    };
    compare(vec![
        (
            "nothing of it is there",
            single("Always").without_sandbox(),
            vec![
                "Pending",
                "PodReadyToStartContainers: False",
                UNREADY,
                CREATING,
            ],
        ),
        (
            "its sandbox is there",
            single("Always"),
            vec!["Pending", UNREADY, CREATING],
        ),
        (
            "its container was made and not started",
            single("Always").made("a"),
            vec!["Pending", UNREADY, CREATING],
        ),
        (
            "the runtime lost track of its container",
            single("Always").lost("a"),
            vec!["Pending", UNREADY, CREATING],
        ),
        (
            "it runs",
            single("Always").runs("a"),
            vec!["Running", "a: running, started, ready"],
        ),
        (
            "one of two was never started",
            two("Always").runs("z"),
            vec!["Pending", UNREADY, CREATING, "z: running, started, ready"],
        ),
        (
            "those that are not ready are named in the manifest's order, the statuses in that of names",
            two("Always"),
            vec![
                "Pending",
                "ContainersReady: False ContainersNotReady: containers with unready status: [z a]",
                CREATING,
                "z: waiting ContainerCreating",
            ],
        ),
        (
            "Always: a container that ended well runs again",
            single("Always").ended("a", 0),
            vec!["Running", UNREADY, "a: exit 0 Completed"],
        ),
        (
            "OnFailure: one that failed runs again",
            single("OnFailure").ended("a", 1),
            vec!["Running", UNREADY, "a: exit 1 Error"],
        ),
        (
            "OnFailure: one that ended well does not",
            single("OnFailure").ended("a", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "a: exit 0 Completed",
            ],
        ),
        (
            "Never: all ended well",
            two("Never").ended("a", 0).ended("z", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "a: exit 0 Completed",
                "z: exit 0 Completed",
            ],
        ),
        (
            "Never: one of two failed",
            two("Never").ended("a", 1).ended("z", 0),
            vec!["Failed", FAILED, "a: exit 1 Error", "z: exit 0 Completed"],
        ),
        (
            "Never: one failed and the other runs",
            two("Never").ended("a", 1).runs("z"),
            vec![
                "Running",
                UNREADY,
                "a: exit 1 Error",
                "z: running, started, ready",
            ],
        ),
        (
            "a container's own policy goes before the Pod's",
            pod("{restartPolicy: Never, containers: [{name: a, restartPolicy: OnFailure}]}")
                .ended("a", 1),
            vec!["Running", UNREADY, "a: exit 1 Error"],
        ),
        (
            "a container's rule goes before its own policy",
            with_rule().ended("a", 3),
            vec!["Running", UNREADY, "a: exit 3 Error"],
        ),
        (
            "a rule that is about another exit code does not count",
            with_rule().ended("a", 4),
            vec!["Failed", FAILED, "a: exit 4 Error"],
        ),
        (
            "it ran for longer than it may",
            single("Always")
                .runs("a")
                .finished("DeadlineExceeded", "too long"),
            vec![
                "Failed DeadlineExceeded: too long",
                FAILED,
                "a: running, started, ready",
            ],
        ),
    ]);
}

#[test]
fn a_container_that_keeps_ending_waits_ever_longer() {
    let line = |wait: &str, until: &str| {
        format!(
            "a: waiting CrashLoopBackOff: back-off {wait} restarting failed container=a \
             pod=p-n1_default(u), next start at 2023-11-14T{until}Z, last exit 1 Error"
        )
    };
    for (waited, wait, until) in [
        (0, "10s", "22:13:30"),
        (10, "20s", "22:13:40"),
        (40, "1m20s", "22:14:40"),
        (80, "2m40s", "22:16:00"),
        (160, "5m0s", "22:18:20"),
        (300, "5m0s", "22:18:20"),
    ] {
        let scene = single("Always").ended_after("a", 1, Some(waited));
        let line = line(wait, until);
        compare(vec![("back-off", scene, vec!["Running", UNREADY, &line])]);
    }
    let two = pod("{containers: [a, b]}").ended_after("a", 1, Some(0));
    let two = two.runs("b");
    let line = line("10s", "22:13:30");
    let expected = vec!["Running", UNREADY, &line, "b: running, started, ready"];
    compare(vec![("a crash loop beside one that runs", two, expected)]);
}

#[test]
fn a_pod_is_over_with_its_own_containers_whatever_its_sidecars_do() {
    for (code, phase) in [(0, Phase::Succeeded), (1, Phase::Failed)] {
        let scene = with_sidecar("Never").runs("side").ended("main", code);
        assert_eq!(end_phase(&scene.version, &scene.status()), phase);
    }
}
