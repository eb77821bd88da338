//! Init containers and sidecars, which come before the Pod's own containers.

use super::{
    COMPLETED, FAILED, INITIALIZING, RUNS, UNREADY_MAIN, UNREADY_SIDE, compare, pod, with_inits,
    with_sidecar,
};

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn init_containers_come_first_and_one_by_one() {
    const BOTH: &str = "Initialized: False ContainersNotInitialized: containers with incomplete status: [init late]";
    const LATE: &str =
        "Initialized: False ContainersNotInitialized: containers with incomplete status: [late]";
    const LATE_WAITS: &str = "late: waiting PodInitializing";
    let pending = |init| {
        vec![
            "Pending",
            BOTH,
            UNREADY_MAIN,
            init,
            LATE_WAITS,
            INITIALIZING,
        ]
    };
    let done = |init| {
        vec![
            "Pending",
            LATE,
            UNREADY_MAIN,
            init,
            LATE_WAITS,
            INITIALIZING,
        ]
    };
    let failed = |init| vec!["Failed", BOTH, FAILED, init, LATE_WAITS, INITIALIZING];
    let own = |policy: &str| {
        pod(&format!(
            "{{initContainers: [{{name: init, {policy}}}, late], containers: [main]}}"
        ))
    };
    let not_in = "restartPolicy: Never, restartPolicyRules: [{action: Restart, \
                  exitCodes: {operator: NotIn, values: [5]}}]";
    compare(vec![
        (
            "none ran yet",
            with_inits("Always"),
            pending("init: waiting PodInitializing"),
        ),
        (
            "the first runs",
            with_inits("Always").runs("init"),
            pending("init: running, started"),
        ),
        (
            "the first is done, which makes it ready",
            with_inits("Always").ended("init", 0),
            done("init: exit 0 Completed, ready"),
        ),
        (
            "Always: one that failed runs again",
            with_inits("Always").ended("init", 1),
            pending("init: exit 1 Error"),
        ),
        (
            "OnFailure: one that failed runs again",
            with_inits("OnFailure").ended("init", 1),
            pending("init: exit 1 Error"),
        ),
        (
            "one that keeps failing waits",
            with_inits("Always")
                .ended("init", 1)
                .ended_after("init", 1, Some(0)),
            pending(
                "init: waiting CrashLoopBackOff: back-off 10s restarting failed container=init \
                 pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 1 Error, restarts 1",
            ),
        ),
        (
            "it is done once it succeeds",
            with_inits("Always")
                .ended("init", 1)
                .ended_after("init", 0, Some(0)),
            done("init: exit 0 Completed, last exit 1 Error, restarts 1, ready"),
        ),
        (
            "Never: one that failed fails the Pod",
            with_inits("Never").ended("init", 1),
            failed("init: exit 1 Error"),
        ),
        (
            "its own policy goes before the Pod's",
            own("restartPolicy: Never").ended("init", 1),
            failed("init: exit 1 Error"),
        ),
        (
            "a rule has it run again after a failure",
            own(not_in).ended("init", 1),
            pending("init: exit 1 Error"),
        ),
        (
            "it is done once it succeeds, even if a rule matches 0",
            own(not_in).ended("init", 1).ended_after("init", 0, Some(0)),
            done("init: exit 0 Completed, last exit 1 Error, restarts 1, ready"),
        ),
        (
            "all are done",
            with_inits("Always")
                .ended("init", 0)
                .ended("late", 0)
                .runs("main"),
            vec![
                "Running",
                "init: exit 0 Completed, ready",
                "late: exit 0 Completed, ready",
                RUNS,
            ],
        ),
        (
            "all are done, and the Pod is",
            with_inits("Never")
                .ended("init", 0)
                .ended("late", 0)
                .ended("main", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "init: exit 0 Completed, ready",
                "late: exit 0 Completed, ready",
                "main: exit 0 Completed",
            ],
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn sidecars_start_before_and_run_beside_the_pods_own_containers() {
    const OPEN: &str =
        "Initialized: False ContainersNotInitialized: containers with incomplete status: [side]";
    const BOTH: &str =
        "ContainersReady: False ContainersNotReady: containers with unready status: [side main]";
    const SIDE: &str = "side: running, started, ready";
    let init_fails = || {
        pod(
            "{restartPolicy: Never, initContainers: [{name: side, restartPolicy: Always}, init], \
             containers: [main]}",
        )
    };
    compare(vec![
        (
            "it has not started in full",
            with_sidecar("Always")
                .runs("side")
                .probe("side", false, false),
            vec!["Pending", OPEN, BOTH, "side: running", INITIALIZING],
        ),
        (
            "that it started is enough for what comes after it",
            with_sidecar("Always")
                .runs("side")
                .probe("side", true, false),
            vec!["Pending", BOTH, "side: running, started", INITIALIZING],
        ),
        (
            "its readiness counts for the Pod's",
            with_sidecar("Always")
                .runs("side")
                .probe("side", true, false)
                .runs("main"),
            vec!["Running", UNREADY_SIDE, "side: running, started", RUNS],
        ),
        (
            "all is well",
            with_sidecar("Always").runs("side").runs("main"),
            vec!["Running", SIDE, RUNS],
        ),
        (
            "it starts once more beside what runs: the Pod stays initialized",
            with_sidecar("Always")
                .ended("side", 1)
                .runs("side")
                .probe("side", false, false)
                .runs("main"),
            vec![
                "Running",
                UNREADY_SIDE,
                "side: running, last exit 1 Error, restarts 1",
                RUNS,
            ],
        ),
        (
            "one that fails runs again under each policy of the Pod",
            with_sidecar("Never")
                .ended_after("side", 1, Some(0))
                .runs("main"),
            vec![
                "Running",
                UNREADY_SIDE,
                "side: waiting CrashLoopBackOff: back-off 10s restarting failed container=side \
                 pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 1 Error",
                RUNS,
            ],
        ),
        (
            "of one that ended well its end is shown, although it runs again",
            with_sidecar("Always")
                .ended_after("side", 0, Some(0))
                .runs("main"),
            vec!["Running", UNREADY_SIDE, "side: exit 0 Completed", RUNS],
        ),
        (
            "it runs on for a while after the Pod's own",
            with_sidecar("Never").runs("side").ended("main", 0),
            vec!["Running", UNREADY_MAIN, SIDE, "main: exit 0 Completed"],
        ),
        (
            "and so where those failed",
            with_sidecar("Never").runs("side").ended("main", 1),
            vec!["Running", UNREADY_MAIN, SIDE, "main: exit 1 Error"],
        ),
        (
            "how it ends says nothing of the Pod",
            with_sidecar("Never").ended("side", 137).ended("main", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "side: exit 137 Error",
                "main: exit 0 Completed",
            ],
        ),
        (
            "an init container that failed fails the Pod at once",
            init_fails().runs("side").ended("init", 1),
            vec![
                "Failed",
                "Initialized: False ContainersNotInitialized: containers with incomplete status: [init]",
                FAILED,
                SIDE,
                "init: exit 1 Error",
                INITIALIZING,
            ],
        ),
        (
            "so does running for longer than it may",
            with_sidecar("Always")
                .runs("side")
                .runs("main")
                .finished("DeadlineExceeded", "too long"),
            vec!["Failed DeadlineExceeded: too long", FAILED, SIDE, RUNS],
        ),
    ]);
}
