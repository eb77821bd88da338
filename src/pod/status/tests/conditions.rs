//! Conditions of the Pod: readiness gates, and containers that all restart.

use super::{COMPLETED, CREATING, FAILED, UNREADY, compare, pod, restarting_all};

#[test]
fn readiness_gates_hold_a_pod_back_until_each_is_open() {
    let gates = |gates: &str| pod(&format!("{{readinessGates: [{gates}], containers: [a]}}"));
    let (x, y) = ("{conditionType: example.com/x}", "{conditionType: y}");
    let runs = "a: running, started, ready";
    compare(vec![
        (
            "nobody sets conditions on a static Pod: all of them are named",
            gates(&format!("{x}, {y}")).runs("a"),
            vec![
                "Running",
                "Ready: False ReadinessGatesNotReady: corresponding condition of pod readiness gate \
                 \"example.com/x\" does not exist., corresponding condition of pod readiness gate \"y\" \
                 does not exist.",
                runs,
            ],
        ),
        (
            "one of the agent's own conditions may be a gate",
            gates("{conditionType: Initialized}").runs("a"),
            vec!["Running", runs],
        ),
        (
            "and may be shut",
            gates("{conditionType: PodReadyToStartContainers}")
                .runs("a")
                .without_sandbox(),
            vec![
                "Running",
                "PodReadyToStartContainers: False",
                "Ready: False ReadinessGatesNotReady: the status of pod readiness gate \
                 \"PodReadyToStartContainers\" is not \"True\", but False",
                runs,
            ],
        ),
        (
            "first the containers have to be ready",
            gates(x),
            vec!["Pending", UNREADY, CREATING],
        ),
    ]);
}

#[test]
fn a_pod_whose_containers_can_all_start_anew_says_whether_they_do() {
    const SETTLED: &str = "AllContainersRestarting: False";
    const UNDER_WAY: &str = "AllContainersRestarting: True RestartAllContainersStarted: container \
                             exited with restart policy rule";
    const UNREADY: &str =
        "ContainersReady: False ContainersNotReady: containers with unready status:";
    const INIT: &str = "init: exit 0 Completed, ready";
    const REPLACED: &str = "waiting RestartingAllContainers: The container is removed because \
                        RestartAllContainers in place";
    let running = || {
        restarting_all()
            .ended("init", 0)
            .runs("a")
            .was_initialized()
    };
    let up = running().runs("b");
    let asked = running().ended("b", 88);
    let stopped = restarting_all()
        .ended("init", 0)
        .ended("a", 137)
        .ended("b", 88);
    let stopped = stopped.was_initialized().all_replaced();
    let again = stopped.clone().runs("init");
    let over = restarting_all().ended("init", 0).ended("a", 0);
    let unready = |names: &str| format!("{UNREADY} [{names}]");
    let (of_b, of_both) = (unready("b"), unready("a b"));
    let replaced = |name: &str, last: &str| format!("{name}: {REPLACED}, last exit {last}");
    let of_init = replaced("init", "0 Completed");
    let (of_a, b_replaced) = (replaced("a", "137 Error"), replaced("b", "88 Error"));
    let runs = |name: &str| format!("{name}: running, started, ready");
    let (a_runs, b_runs) = (runs("a"), runs("b"));
    compare(vec![
        (
            "all is well",
            up,
            vec!["Running", SETTLED, INIT, &a_runs, &b_runs],
        ),
        (
            "one ended in such a way",
            asked,
            vec![
                "Running",
                &of_b,
                UNDER_WAY,
                INIT,
                &a_runs,
                "b: exit 88 Error",
            ],
        ),
        (
            "all were stopped; that the Pod was initialized stays so",
            stopped,
            vec!["Running", &of_both, UNDER_WAY, &of_init, &of_a, &b_replaced],
        ),
        (
            "the first one runs again",
            again,
            vec![
                "Pending",
                &of_both,
                SETTLED,
                "init: running, last exit 0 Completed, restarts 1, started",
                "a: exit 137 Error",
                "b: exit 88 Error",
            ],
        ),
        (
            "it succeeded",
            over.clone().ended("b", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "AllContainersRestarting: False PodCompleted",
                INIT,
                "a: exit 0 Completed",
                "b: exit 0 Completed",
            ],
        ),
        (
            "it failed",
            over.ended("b", 1),
            vec![
                "Failed",
                FAILED,
                "AllContainersRestarting: False PodFailed",
                INIT,
                "a: exit 0 Completed",
                "b: exit 1 Error",
            ],
        ),
    ]);
}
