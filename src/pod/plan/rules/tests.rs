//! The rules of a Pod's life as tables, each row one of Kubernetes' documentation (Pod Lifecycle, Init
//! Containers, Sidecar Containers, Container Lifecycle Hooks), carried out by the planner.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::manifest::{PodKey, StaticPod};
use crate::pod::plan::rules::{is_finished, stop_order};
use crate::pod::plan::tests::World;
use crate::pod::plan::{Step, plan};
use crate::pod::state::history::{Finished, StopReason};
use crate::pod::state::observed::{Container, ContainerId, Exit, State};
use crate::pod::state::{FirstSeen, Phase, PostStart};
use crate::probe::{Failed, Health, ProbeKind};

/// A Pod of this specification, with the UID `u`.
pub(in crate::pod) fn pod(spec: Value) -> Arc<StaticPod> {
    Arc::new(StaticPod {
        key: PodKey {
            namespace: "default".into(),
            name: "p-n1".into(),
        },
        uid: "u".into(),
        spec: serde_json::from_value(spec).unwrap(),
        ..StaticPod::default()
    })
}

/// An init container `init`, a sidecar `side`, another init container `late`, and `main`.
fn in_order() -> Arc<StaticPod> {
    pod(json!({
        "initContainers": [
            {"name": "init", "image": "i"},
            {"name": "side", "image": "i", "restartPolicy": "Always"},
            {"name": "late", "image": "i"},
        ],
        "containers": [{"name": "main", "image": "i"}],
    }))
}

fn single(policy: &str, extra: &Value) -> Arc<StaticPod> {
    let mut container = json!({"name": "main", "image": "i"});
    for (key, value) in extra.as_object().unwrap() {
        container[key] = value.clone();
    }
    pod(json!({"restartPolicy": policy, "containers": [container]}))
}

impl World {
    fn newest(&self, name: &str) -> Option<Container> {
        let history = self.observed.history_of(&"u".into(), name);
        history.first().map(|c| (*c).clone())
    }

    fn end(&mut self, name: &str, code: i32) {
        let id = self.newest(name).unwrap().id;
        let exit = self.exit(code);
        self.set_state(&id, exit);
    }

    /// The names of the live containers, sorted.
    fn live_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.live().iter().map(|c| c.name.clone()).collect();
        names.sort();
        names
    }

    fn attempt(&self, name: &str) -> u32 {
        self.newest(name).unwrap().attempt
    }

    fn probe(&mut self, name: &str, health: Health) {
        let id = self.newest(name).unwrap().id;
        self.state.probes.insert(id, health);
    }
}

fn started(pod: &Arc<StaticPod>) -> World {
    let mut world = World::new(Some(Arc::clone(pod)));
    world.settle();
    world
}

#[test]
fn init_containers_end_one_after_the_other_before_what_follows() {
    let mut world = started(&in_order());
    assert_eq!(world.live_names(), ["init"]);
    world.end("init", 0);
    world.settle();
    assert_eq!(world.live_names(), ["late", "side"]);
    world.end("late", 1);
    world.settle_for_good();
    assert_eq!(world.attempt("late"), 1, "it is tried again");
    assert_eq!(world.live_names(), ["late", "side"]);
    world.end("late", 0);
    world.settle();
    assert_eq!(world.live_names(), ["main", "side"]);
}

#[test]
fn what_follows_a_sidecar_waits_for_its_startup_probe() {
    let mut world = started(&in_order());
    world.end("init", 0);
    let waits = Health {
        started: false,
        ready: false,
        failed: None,
    };
    while let Some(step) = plan(world.view()).step {
        let sidecar = matches!(&step, Step::RunContainer { container, .. } if container == "side");
        world.apply(step);
        if sidecar {
            world.probe("side", waits.clone());
        }
    }
    assert_eq!(world.live_names(), ["side"]);
    world.state.probes.clear();
    world.settle();
    assert_eq!(world.live_names(), ["late", "side"]);
}

#[test]
fn a_sidecar_that_ends_is_started_again_whatever_the_pods_policy() {
    for policy in ["Always", "OnFailure", "Never"] {
        let mut spec = json!({
            "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}],
            "containers": [{"name": "main", "image": "i"}],
        });
        spec["restartPolicy"] = json!(policy);
        let mut world = started(&pod(spec));
        world.end("side", 0);
        world.settle_for_good();
        assert_eq!(world.attempt("side"), 1, "{policy}");
        assert_eq!(world.live_names(), ["main", "side"], "{policy}");
    }
}

#[test]
fn a_failed_init_container_of_a_pod_that_never_restarts_fails_the_pod() {
    let pod = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "init", "image": "i"}],
        "containers": [{"name": "main", "image": "i"}],
    }));
    let mut world = started(&pod);
    world.end("init", 1);
    world.settle_for_good();
    assert!(is_finished(world.view(), &pod));
    assert!(world.newest("main").is_none());
}

#[test]
fn in_a_new_sandbox_init_containers_come_first_again() {
    let mut world = started(&in_order());
    for name in ["init", "late"] {
        world.end(name, 0);
        world.settle();
    }
    assert_eq!(world.live_names(), ["main", "side"]);
    world.observed.sandboxes[0].ready = false;
    for name in ["main", "side"] {
        world.end(name, 137);
    }
    world.settle();
    assert_eq!(world.live_names(), ["init"]);
    assert_eq!(world.attempt("init"), 1);
}

#[test]
fn sidecars_stop_after_the_rest_the_last_one_first() {
    let pod = pod(json!({
        "initContainers": [
            {"name": "s1", "image": "i", "restartPolicy": "Always"},
            {"name": "s2", "image": "i", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
    }));
    let world = started(&pod);
    let ids: Vec<ContainerId> = world.live().iter().map(|c| c.id.clone()).collect();
    let groups = stop_order(&pod, &world.observed, &ids);
    let name = |id: &ContainerId| {
        world
            .observed
            .containers
            .iter()
            .find(|c| c.id == *id)
            .unwrap()
    };
    let names: Vec<Vec<&str>> = groups
        .iter()
        .map(|group| group.iter().map(|id| name(id).name.as_str()).collect())
        .collect();
    assert_eq!(names, [vec!["a", "b"], vec!["s2"], vec!["s1"]]);
}

#[test]
fn once_the_pods_own_containers_are_over_its_sidecars_are_stopped() {
    let pod = pod(json!({
        "restartPolicy": "OnFailure",
        "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "main", "image": "i"}],
    }));
    let mut world = started(&pod);
    world.end("main", 0);
    world.settle_for_good();
    assert!(world.live_names().is_empty());
    assert_eq!(world.attempt("side"), 0, "it is not started again");
    assert!(is_finished(world.view(), &pod));
}

#[test]
fn a_container_that_its_probe_gave_up_is_stopped_and_started_again_unless_never() {
    for (policy, reason, kind, again) in [
        ("Always", StopReason::Liveness, ProbeKind::Liveness, true),
        ("OnFailure", StopReason::Liveness, ProbeKind::Liveness, true),
        ("Always", StopReason::Startup, ProbeKind::Startup, true),
        ("Never", StopReason::Liveness, ProbeKind::Liveness, false),
        ("Never", StopReason::Startup, ProbeKind::Startup, false),
    ] {
        let mut world = started(&single(policy, &json!({})));
        let failed = Failed {
            kind,
            message: "no answer".into(),
        };
        let health = Health {
            started: true,
            ready: false,
            failed: Some(failed),
        };
        world.probe("main", health);
        world.steps.clear();
        world.settle_for_good();
        let stopped =
            |s: &Step| matches!(s, Step::StopContainers { reason: w, .. } if *w == reason);
        assert_eq!(
            world.steps.iter().filter(|s| stopped(s)).count(),
            1,
            "{policy} {reason:?}"
        );
        // It ended well when asked to stop, and runs again all the same.
        assert_eq!(world.attempt("main") == 1, again, "{policy} {reason:?}");
    }
}

#[test]
fn nothing_comes_after_a_container_whose_post_start_hook_runs() {
    let pod =
        pod(json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}));
    let mut world = World::new(Some(pod));
    while world.newest("a").is_none() {
        let step = plan(world.view()).step.unwrap();
        world.apply(step);
    }
    let id = world.newest("a").unwrap().id;
    world
        .state
        .post_starts
        .insert(id.clone(), PostStart::Running);
    world.settle();
    assert_eq!(world.live_names(), ["a"]);
    world.state.post_starts.remove(&id);
    world.settle();
    assert_eq!(world.live_names(), ["a", "b"]);
}

#[test]
fn a_container_whose_post_start_hook_failed_is_stopped_and_tried_again() {
    let mut world = started(&single("Always", &json!({})));
    let id = world.newest("main").unwrap().id;
    let failed = PostStart::Failed("exit code 1".into());
    world.state.post_starts.insert(id, failed);
    world.settle_for_good();
    assert_eq!(world.attempt("main"), 1);
    assert_eq!(world.live_names(), ["main"]);
}

#[test]
fn restart_rules_and_a_containers_own_policy_go_before_the_pods() {
    let rule = |operator: &str, values: &[i32]| {
        json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": operator, "values": values}}]})
    };
    for (policy, container, code, again) in [
        ("Never", rule("In", &[42]), 42, true),
        ("Never", rule("In", &[42]), 1, false),
        ("Never", rule("NotIn", &[42]), 1, true),
        ("Never", rule("NotIn", &[42]), 42, false),
        ("Always", json!({"restartPolicy": "Never"}), 1, false),
        ("Never", json!({"restartPolicy": "Always"}), 0, true),
        ("Never", json!({"restartPolicy": "OnFailure"}), 0, false),
        ("Never", json!({"restartPolicy": "OnFailure"}), 1, true),
        ("Always", json!({}), 0, true),
    ] {
        let pod = single(policy, &container);
        let mut world = started(&pod);
        world.end("main", code);
        world.settle_for_good();
        assert_eq!(
            world.attempt("main") == 1,
            again,
            "{policy} {container} {code}"
        );
        assert_eq!(
            is_finished(world.view(), &pod),
            !again,
            "{policy} {container} {code}"
        );
    }
}

#[test]
fn a_rule_may_start_all_containers_anew_in_the_same_sandbox() {
    let pod = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "init", "image": "i"}],
        "containers": [
            {"name": "a", "image": "i"},
            {"name": "b", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [
                {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]},
        ],
    }));
    let mut world = started(&pod);
    world.end("init", 0);
    world.settle();
    assert_eq!(world.live_names(), ["a", "b"]);
    world.end("b", 88);
    world.settle();
    assert_eq!(world.live_names(), ["init"]);
    world.end("init", 0);
    world.settle_for_good();
    assert_eq!(world.live_names(), ["a", "b"]);
    assert_eq!(
        [
            world.attempt("init"),
            world.attempt("a"),
            world.attempt("b")
        ],
        [1, 1, 1]
    );
    assert_eq!(world.observed.sandboxes.len(), 1);
    world.end("b", 1);
    world.settle_for_good();
    assert_eq!(world.attempt("b"), 1, "no rule is about that");
}

#[test]
fn what_ended_with_the_machine_waits_for_no_crash_back_off() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
    let mut world = started(&pod);
    for _ in 0..3 {
        world.end("a", 1);
        world.settle_for_good();
    }
    let before = world.newest("a").unwrap().backoff;
    assert_eq!(before, Some(Duration::from_secs(20)));
    // After several boots in a row.
    for _ in 0..3 {
        let ended = world.now;
        let id = world.newest("a").unwrap().id.clone();
        let State::Exited(exit) = world.exit(255) else {
            unreachable!()
        };
        let reason = "Unknown".to_owned();
        world.set_state(&id, State::Exited(Exit { reason, ..exit }));
        world.settle_for_good();
        assert_eq!(world.live_names(), ["a"]);
        assert_eq!(world.now, ended);
        assert_eq!(world.newest("a").unwrap().backoff, before);
    }
    let ended = world.now;
    world.end("a", 255);
    world.settle_for_good();
    assert_eq!(world.now.since(ended), Duration::from_secs(40));
}

#[test]
fn a_restart_of_all_containers_waits_for_no_crash_back_off() {
    let pod = pod(json!({
        "initContainers": [{"name": "init", "image": "i"}],
        "containers": [{"name": "a", "image": "i", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]}],
    }));
    let mut world = started(&pod);
    world.end("init", 0);
    world.settle();
    // It crashes by itself, and its back-off begins.
    for _ in 0..3 {
        world.end("a", 1);
        world.settle_for_good();
    }
    let before = world.newest("a").unwrap().backoff;
    assert_eq!(before, Some(Duration::from_secs(20)));
    let ended = world.now;
    world.end("a", 88);
    world.settle_for_good();
    assert_eq!(world.live_names(), ["init"]);
    world.end("init", 0);
    world.settle_for_good();
    assert_eq!(world.live_names(), ["a"]);
    assert!(world.now.since(ended) <= Duration::from_secs(1));
    assert_eq!(
        world.newest("a").unwrap().backoff,
        before,
        "and it is not lost"
    );
}

#[test]
fn a_pod_that_ran_for_as_long_as_it_may_has_failed_for_good() {
    let pod = pod(json!({
        "activeDeadlineSeconds": 60,
        "containers": [{"name": "main", "image": "i"}],
    }));
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.state.version_mut(&"u".into()).seen = Some(FirstSeen {
        nanos: 1,
        monotonic: world.now,
    });
    let alarm = world.settle().wake.unwrap();
    assert_eq!(alarm.since(world.now), Duration::from_secs(60));
    assert_eq!(world.live_names(), ["main"]);
    world.now = alarm;
    world.settle_for_good();
    assert!(world.live_names().is_empty());
    assert_eq!(
        world.state.finished(&"u".into()).unwrap().reason,
        "DeadlineExceeded"
    );
    assert!(world.observed.ready_sandbox(&"u".into()).is_none());
    assert_eq!(world.attempt("main"), 0);
}

#[test]
fn a_pod_that_was_over_stays_over_even_if_nothing_is_left_of_it() {
    let pod = single("Never", &json!({}));
    let mut world = World::new(Some(pod));
    let finished = Finished {
        phase: Phase::Succeeded,
        ..Finished::default()
    };
    let history = world.state.version_mut(&"u".into()).history_mut();
    history.finished = Some(finished);
    world.settle_for_good();
    assert!(world.steps.is_empty(), "{:#?}", world.steps);
}

#[test]
fn a_container_that_somebody_removed_is_remembered_with_what_it_did() {
    let pod = single("OnFailure", &json!({}));
    let mut world = started(&pod);
    world.end("main", 0);
    let mut gone = world.newest("main").unwrap();
    gone.gone = true;
    world.observed.containers = vec![gone];
    world.settle_for_good();
    assert!(is_finished(world.view(), &pod));
    assert!(matches!(
        world.newest("main").unwrap().state,
        State::Exited(_)
    ));
}
