//! The planner against a runtime that exists only here: properties from any state, and its rules as
//! tables.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, PodSpec};
use proptest::prelude::*;

use crate::manifest::{PodKey, StaticPod, Uid};
use crate::pod::admission::Rejection;
use crate::pod::plan::rules::{Restart, is_finished, restart};
use crate::pod::plan::{Outcome, Plan, Step, kept_version, plan};
use crate::pod::state::history::{FailedInstance, Finished, StopReason};
use crate::pod::state::observed::{
    Container, ContainerId, Exit, Observed, Sandbox, SandboxId, State,
};
use crate::pod::state::time::{MonotonicTime, Timestamp};
use crate::pod::state::{
    Admission, FirstSeen, Image, Phase, PodState, Subject, Terminating, Termination, Version, View,
};
use crate::translate::ImageUser;

const NAMES: [&str; 2] = ["a", "b"];

fn version(uid: &str, policy: &str) -> Arc<StaticPod> {
    let container = |name: &&str| ContainerSpec {
        name: (*name).to_owned(),
        image: Some("image".to_owned()),
        ..ContainerSpec::default()
    };
    let spec = PodSpec {
        containers: NAMES.iter().map(container).collect(),
        restart_policy: Some(policy.to_owned()),
        ..PodSpec::default()
    };
    Arc::new(StaticPod {
        key: PodKey {
            namespace: "default".into(),
            name: "web-n1".into(),
        },
        uid: uid.into(),
        spec,
        ..StaticPod::default()
    })
}

/// A runtime and a node that do what they are told.
#[derive(Debug, Clone)]
pub(in crate::pod) struct World {
    pub(in crate::pod) wanted: Option<Arc<StaticPod>>,
    pub(in crate::pod) observed: Observed,
    pub(in crate::pod) state: PodState,
    pub(in crate::pod) now: MonotonicTime,
    next_id: u32,
    /// Versions whose images cannot be had.
    no_image: BTreeSet<String>,
    pub(in crate::pod) steps: Vec<Step>,
}

impl World {
    pub(in crate::pod) fn new(wanted: Option<Arc<StaticPod>>) -> Self {
        let mut world = Self {
            wanted: None,
            observed: Observed::default(),
            state: PodState::default(),
            now: MonotonicTime(1_000_000),
            next_id: 0,
            no_image: BTreeSet::new(),
            steps: vec![],
        };
        world.want(wanted);
        world
    }

    pub(in crate::pod) fn want(&mut self, wanted: Option<Arc<StaticPod>>) {
        if let Some(version) = &wanted {
            self.state.version_mut(&version.uid).pod = Some(Arc::clone(version));
        }
        self.wanted = wanted;
    }

    pub(in crate::pod) fn view(&self) -> View<'_> {
        View {
            wanted: self.wanted.as_ref(),
            observed: &self.observed,
            state: &self.state,
            now: self.now,
            longest_backoff: crate::pod::backoff::MAXIMUM,
        }
    }

    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("id{}", self.next_id)
    }

    fn sandbox(&mut self, uid: &str, attempt: u32, ready: bool) -> SandboxId {
        let id = SandboxId::from(self.id());
        self.state.version_mut(&uid.into()).on_disk = true;
        self.observed.sandboxes.push(Sandbox {
            id: id.clone(),
            uid: uid.into(),
            attempt,
            ready,
            created: self.now,
            ips: vec![],
        });
        id
    }

    fn container(
        &mut self,
        uid: &str,
        sandbox: &str,
        name: &str,
        attempt: u32,
        state: State,
    ) -> ContainerId {
        let id = ContainerId::from(self.id());
        self.observed.containers.push(Container {
            id: id.clone(),
            sandbox: sandbox.into(),
            uid: uid.into(),
            name: name.into(),
            attempt,
            state,
            ..Container::default()
        });
        id
    }

    pub(in crate::pod) fn exit(&self, code: i32) -> State {
        State::Exited(Exit {
            code,
            ended: self.now,
            ..Exit::default()
        })
    }

    pub(in crate::pod) fn set_state(&mut self, id: &str, state: State) {
        let container = self.observed.containers.iter_mut().find(|c| c.id == id);
        container.unwrap().state = state;
    }

    pub(in crate::pod) fn live(&self) -> Vec<&Container> {
        self.observed
            .containers
            .iter()
            .filter(|c| c.is_live())
            .collect()
    }

    /// Has the runtime execute a step, and applies its outcomes as the Pod's task does.
    pub(in crate::pod) fn apply(&mut self, step: Step) {
        self.steps.push(step.clone());
        match &step {
            Step::Admit { uid } => {
                assert!(!self.state.is_admitted(uid));
                self.outcome(&step, Outcome::Admission(Ok(())));
            }
            Step::EnsureImage { uid, .. } => {
                let image = self.image(uid);
                self.outcome(&step, Outcome::Image(Some(image)));
            }
            Step::RunSandbox { uid, attempt } => self.run_sandbox(&step, uid, *attempt),
            Step::RunContainer { .. } => self.run_container(&step),
            Step::StartContainer { id, .. } => self.start(&step, id),
            Step::Terminate { uid } => {
                let terminating = Terminating {
                    since: Timestamp::from(0),
                    grace_period: 30,
                };
                self.outcome(&step, Outcome::Terminating(terminating));
                self.stop(|c| c.uid == *uid);
            }
            Step::StopContainers { ids, reason, .. } => {
                if let ([id], StopReason::Liveness | StopReason::Startup | StopReason::PostStart) =
                    (ids.as_slice(), reason)
                {
                    let failed = FailedInstance {
                        reason: *reason,
                        message: String::new(),
                        since: Timestamp::from(0),
                        grace_period: 30,
                    };
                    self.outcome(&step, Outcome::FailedInstance(id.clone(), failed));
                }
                self.stop(|c| ids.contains(&c.id));
            }
            Step::Fail { reason, .. } => {
                let finished = Finished {
                    phase: Phase::Failed,
                    reason: (*reason).into(),
                    ..Finished::default()
                };
                self.outcome(&step, Outcome::Finished(finished, None));
            }
            Step::StartAgain { .. } => {
                let seen = self.first_seen();
                self.outcome(&step, Outcome::StartedAgain(seen));
            }
            Step::RemoveSandbox { id } => {
                let live = self.live().into_iter().any(|c| c.sandbox == *id);
                assert!(!live, "removed with live containers");
                self.done(&step);
            }
            Step::CleanUp { .. } => {
                self.done(&step);
                self.want(self.wanted.clone());
            }
            Step::CheckVolumes { .. }
            | Step::TakeTurn { .. }
            | Step::RestartAll { .. }
            | Step::StopSandbox { .. }
            | Step::RemoveContainer { .. } => self.done(&step),
        }
        self.outcome(&step, Outcome::Succeeded);
    }

    fn outcome(&mut self, step: &Step, outcome: Outcome) {
        self.state.apply(step, outcome, &self.observed);
    }

    fn done(&mut self, step: &Step) {
        self.outcome(step, Outcome::Done);
        self.observed.apply_done(step);
    }

    fn first_seen(&self) -> FirstSeen {
        FirstSeen {
            nanos: 1,
            monotonic: self.now,
        }
    }

    /// The image of this version, as it is found.
    fn image(&self, uid: &str) -> Image {
        if self.no_image.contains(uid) {
            Image::Failed {
                reason: "ErrImagePull",
                message: "no".into(),
                retry: self.now.after(Duration::from_secs(10)),
                delay: Duration::from_secs(10),
            }
        } else {
            Image::Ready {
                reference: "id".into(),
                user: ImageUser::default(),
                pulled: false,
            }
        }
    }

    fn run_sandbox(&mut self, step: &Step, uid: &str, attempt: u32) {
        self.outcome(step, Outcome::Begun);
        let taken = self
            .observed
            .sandboxes_of(&uid.into())
            .any(|s| s.attempt == attempt);
        assert!(!taken, "the runtime has sandbox {attempt} already");
        self.sandbox(uid, attempt, true);
        self.outcome(step, Outcome::Started(self.now));
    }

    fn run_container(&mut self, step: &Step) {
        let Step::RunContainer {
            uid,
            sandbox,
            container,
            attempt,
            backoff,
        } = step
        else {
            panic!("no container is to be run");
        };
        let image = self.state.image(uid, container);
        assert!(
            matches!(image, Some(Image::Ready { .. })),
            "there is no image"
        );
        self.outcome(step, Outcome::Begun);
        let history = self.observed.history_of(uid, container);
        let taken = history.iter().any(|c| c.attempt == *attempt);
        assert!(
            !taken,
            "the runtime has container {container} {attempt} already"
        );
        let id = self.container(uid, sandbox, container, *attempt, State::Created);
        let new = self.observed.containers.iter_mut().find(|c| c.id == id);
        new.unwrap().backoff = *backoff;
        self.start(step, &id);
    }

    fn start(&mut self, step: &Step, id: &str) {
        self.outcome(step, Outcome::Started(self.now));
        self.set_state(id, State::Running { started_at: 1 });
    }

    fn stop(&mut self, test: impl Fn(&Container) -> bool) {
        let exit = self.exit(0);
        let stopped = self.observed.containers.iter_mut();
        stopped
            .filter(|c| c.is_live() && test(c))
            .for_each(|c| c.state = exit.clone());
    }

    /// Plans and acts until there is nothing to do at this moment.
    pub(in crate::pod) fn settle(&mut self) -> Plan {
        for _ in 0..200 {
            let next = plan(self.view());
            match next.step.clone() {
                Some(step) => self.apply(step),
                None => return next,
            }
        }
        panic!("200 steps were not enough: {:#?}", self.steps);
    }

    /// Settles, and lets time pass, until nothing is left to wait for.
    pub(in crate::pod) fn settle_for_good(&mut self) {
        for _ in 0..100 {
            match self.settle().wake {
                Some(wake) => {
                    assert!(wake > self.now, "an alarm in the past");
                    self.now = wake;
                }
                None => return,
            }
        }
        panic!("it never ends: {:#?}", self.steps);
    }

    fn runs(&self, version: &StaticPod) -> bool {
        let Some(sandbox) = self.observed.ready_sandbox(&version.uid) else {
            return false;
        };
        NAMES.iter().all(|name| {
            let named = |c: &&Container| c.name == *name;
            let live = self.live();
            let mut live = live.into_iter().filter(named);
            let one = live.next();
            one.is_some_and(|c| c.sandbox == sandbox.id && c.uid == version.uid)
                && live.next().is_none()
        })
    }
}

/// A world in any state that a runtime, earlier agents and strangers may have left.
fn any_world() -> impl Strategy<Value = World> {
    let state = prop_oneof![Just(0), Just(1), Just(2), Just(3)];
    let container = (0..2usize, 0..3usize, 0..4u32, state);
    let sandbox = (0..3usize, any::<bool>());
    (
        proptest::option::of(0..3usize),
        proptest::collection::vec(sandbox, 0..4),
        proptest::collection::vec(container, 0..6),
        proptest::collection::vec(any::<bool>(), 3),
        proptest::collection::vec(any::<bool>(), 3),
        prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
    )
        .prop_map(
            |(wanted, sandboxes, containers, known, terminating, policy)| {
                let versions = ["u0", "u1", "u2"].map(|uid| version(uid, policy));
                let mut world = World::new(wanted.map(|i| Arc::clone(&versions[i])));
                for (index, (uid, ready)) in sandboxes.iter().enumerate() {
                    let attempt = u32::try_from(index).unwrap();
                    world.sandbox(&versions[*uid].uid, attempt, *ready);
                }
                for (name, place, attempt, state) in containers {
                    let Some(sandbox) = world.observed.sandboxes.get(place).cloned() else {
                        continue;
                    };
                    let name = NAMES[name];
                    let taken = world.observed.history_of(&sandbox.uid, name);
                    if taken.iter().any(|c| c.attempt == attempt) {
                        continue;
                    }
                    let state = match state {
                        0 => State::Created,
                        1 => State::Running { started_at: 1 },
                        2 => world.exit(1),
                        _ => State::Unknown,
                    };
                    world.container(&sandbox.uid, &sandbox.id, name, attempt, state);
                }
                for (index, version) in versions.iter().enumerate() {
                    let there = !world.observed.has_none_of(&version.uid);
                    if known[index] {
                        world.state.version_mut(&version.uid).pod = Some(Arc::clone(version));
                    }
                    if terminating[index] && there {
                        let version = world.state.version_mut(&version.uid);
                        version.termination = Some(Termination::Adopted);
                    }
                }
                world
            },
        )
}

proptest! {
    #[test]
    fn from_any_state_the_wanted_one_is_reached(mut world in any_world()) {
        world.settle_for_good();
        match world.wanted.clone() {
            None => {
                prop_assert_eq!(&world.observed, &Observed::default());
                prop_assert_eq!(world.state.uids_on_disk().next(), None);
            }
            Some(wanted) => {
                let finished = is_finished(world.view(), &wanted);
                // With these policies a container that is over may rightly stay so.
                let partly = wanted.spec.restart_policy.as_deref() != Some("Always");
                prop_assert!(world.runs(&wanted) || finished || partly, "{:#?}", world);
                prop_assert!(world.observed.uids().all(|uid| *uid == wanted.uid));
                prop_assert!(world.state.uids_on_disk().all(|uid| *uid == wanted.uid));
            }
        }
    }

    #[test]
    fn no_container_starts_beside_a_live_one_of_its_name(mut world in any_world()) {
        for _ in 0..300 {
            let next = plan(world.view());
            let name = match &next.step {
                Some(Step::RunContainer { container, .. } | Step::StartContainer { container, .. }) => {
                    Some(container.clone())
                }
                _ => None,
            };
            if let Some(name) = name {
                prop_assert!(!world.live().iter().any(|c| c.name == name), "{:?}", next.step);
            }
            match (next.step, next.wake) {
                (Some(step), _) => world.apply(step),
                (None, Some(wake)) => world.now = wake,
                (None, None) => break,
            }
        }
    }

    #[test]
    fn a_healthy_container_of_an_unchanged_pod_is_never_stopped(mut world in any_world()) {
        prop_assume!(world.wanted.is_some());
        let uid = world.wanted.clone().unwrap().uid.clone();
        prop_assume!(!world.state.is_terminating(&uid));
        let Some(sandbox) = world.observed.ready_sandbox(&uid).map(|s| s.id.clone()) else {
            return Ok(());
        };
        let newest = |c: &&&Container| {
            let history = world.observed.history_of(&uid, &c.name);
            history.first().is_some_and(|n| n.id == c.id)
        };
        let live = world.live();
        let running = |c: &&&Container| c.state == State::Running { started_at: 1 };
        let healthy = live.iter().filter(|c| c.sandbox == sandbox && c.uid == uid);
        let healthy = healthy.filter(newest).filter(running).map(|c| c.id.clone());
        let healthy: Vec<ContainerId> = healthy.collect();
        world.settle_for_good();
        for id in &healthy {
            let container = world.observed.containers.iter().find(|c| c.id == *id);
            prop_assert!(container.is_some_and(Container::is_live), "{id} {:#?}", world.steps);
        }
    }

    #[test]
    fn an_update_without_its_image_leaves_the_old_pod_running(kill in any::<bool>()) {
        let (old, new) = (version("old", "Always"), version("new", "Always"));
        let mut world = World::new(Some(Arc::clone(&old)));
        world.settle_for_good();
        world.no_image.insert("new".into());
        world.want(Some(new));
        if kill {
            let id = world.live()[0].id.clone();
            let exit = world.exit(137);
            world.set_state(&id, exit);
        }
        for _ in 0..50 {
            let wake = world.settle().wake;
            world.now = wake.expect("the pull is tried again");
        }
        prop_assert!(world.runs(&old));
        prop_assert!(world.observed.uids().all(|uid| uid == "old"));
    }
}

#[test]
fn an_update_pulls_then_stops_the_old_pod_then_starts_the_new_one() {
    let (old, new) = (version("old", "Always"), version("new", "Always"));
    let mut world = World::new(Some(old));
    world.settle_for_good();
    world.steps.clear();
    world.want(Some(Arc::clone(&new)));
    world.settle_for_good();
    assert!(world.runs(&new));
    let at = |wanted: fn(&Step) -> bool| world.steps.iter().position(wanted).unwrap();
    let images = world
        .steps
        .iter()
        .rposition(|s| matches!(s, Step::EnsureImage { .. }))
        .unwrap();
    let checked = at(|s| matches!(s, Step::CheckVolumes { .. }));
    let stopped = at(|s| matches!(s, Step::Terminate { .. }));
    let network = at(|s| matches!(s, Step::StopSandbox { .. }));
    let started = at(|s| matches!(s, Step::RunSandbox { .. }));
    let removed = at(|s| matches!(s, Step::RemoveSandbox { .. }));
    assert!(images < stopped && checked < stopped, "{:#?}", world.steps);
    assert!(
        stopped < network && network < started && started < removed,
        "{:#?}",
        world.steps
    );
}

#[test]
fn new_containers_start_in_order_and_a_pull_holds_up_those_after_it() {
    let mut world = World::new(Some(version("u1", "Always")));
    let sandbox = world.sandbox("u1", 0, true);
    let with = |world: &mut World, name: &str, image: Image| {
        let images = &mut world.state.version_mut(&"u1".into()).images;
        images.insert(name.into(), image);
    };
    let pulling = Image::Pulling {
        error: String::new(),
        after: Duration::ZERO,
    };
    let ready = Image::Ready {
        reference: "sha256:1".into(),
        user: ImageUser::default(),
        pulled: false,
    };
    let failed = Image::Failed {
        reason: "ErrImagePull",
        message: String::new(),
        retry: world.now.after(Duration::from_secs(10)),
        delay: Duration::from_secs(10),
    };
    let started = |world: &World| match plan(world.view()).step {
        Some(Step::RunContainer {
            container, attempt, ..
        }) => Some((container, attempt)),
        _ => None,
    };
    with(&mut world, "a", pulling.clone());
    with(&mut world, "b", ready.clone());
    assert_eq!(started(&world), None);
    with(&mut world, "a", failed);
    assert_eq!(started(&world), Some(("b".into(), 0)));
    // One that ran before waits for nobody.
    with(&mut world, "a", pulling);
    let exit = world.exit(1);
    world.container("u1", &sandbox, "b", 0, exit);
    assert_eq!(started(&world), Some(("b".into(), 1)));
    with(&mut world, "a", ready);
    assert_eq!(started(&world), Some(("a".into(), 0)));
}

#[test]
fn several_edits_in_a_row_end_in_the_last_one() {
    let mut world = World::new(Some(version("v1", "Always")));
    world.settle_for_good();
    world.no_image.insert("v2".into());
    world.want(Some(version("v2", "Always")));
    world.settle();
    let last = version("v3", "Always");
    world.want(Some(Arc::clone(&last)));
    world.settle_for_good();
    assert!(world.runs(&last));
    assert!(world.observed.uids().all(|uid| uid == "v3"));
}

#[test]
fn a_manifest_that_comes_back_while_its_pod_stops_runs_once_the_old_one_ended() {
    let pod = version("u", "Never");
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle_for_good();
    world.want(None);
    let step = plan(world.view()).step.unwrap();
    assert!(matches!(step, Step::Terminate { .. }));
    world.apply(step);
    world.want(Some(Arc::clone(&pod)));
    world.steps.clear();
    world.settle_for_good();
    // Its policy is Never, so only a new Pod can run again.
    assert!(world.runs(&pod), "{:#?}", world.steps);
    assert!(
        world
            .steps
            .iter()
            .any(|s| matches!(s, Step::CleanUp { .. }))
    );
}

#[test]
fn a_dead_sandbox_is_made_anew_with_the_attempt_raised() {
    let pod = version("u", "Always");
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle_for_good();
    world.observed.sandboxes[0].ready = false;
    world.settle_for_good();
    assert!(world.runs(&pod));
    assert_eq!(
        world.observed.ready_sandbox(&"u".into()).unwrap().attempt,
        1
    );
    let first = &world.observed.sandboxes[0];
    assert!(
        world.state.stopped_sandboxes.contains(&first.id),
        "its network was given back"
    );
}

#[test]
fn a_sandbox_that_keeps_dying_is_not_made_in_a_tight_loop() {
    let pod = version("u", "Always");
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle_for_good();
    for _ in 0..2 {
        let sandboxes = world.observed.sandboxes.iter_mut();
        sandboxes.for_each(|s| s.ready = false);
        let exit = world.exit(137);
        world
            .observed
            .containers
            .iter_mut()
            .for_each(|c| c.state = exit.clone());
        world.settle();
    }
    assert!(!world.runs(&pod), "the third sandbox waits");
    world.settle_for_good();
    assert!(world.runs(&pod));
}

#[test]
fn the_last_dead_container_of_each_name_is_kept_and_older_ones_go() {
    let pod = version("u", "Always");
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle_for_good();
    for _ in 0..3 {
        let id = world.observed.history_of(&"u".into(), "a")[0].id.clone();
        let exit = world.exit(1);
        world.set_state(&id, exit);
        world.settle_for_good();
    }
    let attempts = world.observed.history_of(&"u".into(), "a");
    let attempts: Vec<u32> = attempts.iter().map(|c| c.attempt).collect();
    assert_eq!(attempts, [3, 2]);
    assert_eq!(world.observed.history_of(&"u".into(), "b").len(), 1);
}

#[test]
fn restart_policies_decide_as_kubernetes_documents_them() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let pod = version("u", policy);
        let mut world = World::new(Some(Arc::clone(&pod)));
        world.settle_for_good();
        let id = world.observed.history_of(&"u".into(), "a")[0].id.clone();
        let exit = world.exit(code);
        world.set_state(&id, exit);
        world.settle_for_good();
        let newest = world.observed.history_of(&"u".into(), "a")[0].clone();
        assert_eq!(newest.attempt == 1, again, "{policy} {code}");
        assert!(
            world.observed.history_of(&"u".into(), "b")[0].is_live(),
            "{policy} {code}"
        );
    }
}

#[test]
fn the_first_restart_comes_at_once_and_the_second_after_ten_seconds() {
    let pod = version("u", "Always");
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle_for_good();
    let mut waits = vec![];
    for _ in 0..3 {
        let last = world.observed.history_of(&"u".into(), "a")[0].clone();
        let exit = world.exit(1);
        world.set_state(&last.id, exit.clone());
        let State::Exited(exit) = exit else {
            panic!("it has ended")
        };
        let Restart::At(due, _) = restart(world.view(), &pod, &last, &exit) else {
            panic!("it starts again");
        };
        waits.push(due.since(world.now).as_secs());
        world.settle_for_good();
    }
    assert_eq!(waits, [0, 10, 20]);
}

#[test]
fn a_finished_pod_gives_its_sandbox_back_and_stays_finished() {
    let pod = version("u", "OnFailure");
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle_for_good();
    let exit = world.exit(0);
    world
        .observed
        .containers
        .iter_mut()
        .for_each(|c| c.state = exit.clone());
    world.settle_for_good();
    assert!(is_finished(world.view(), &pod));
    assert!(world.observed.ready_sandbox(&"u".into()).is_none());
    assert_eq!(world.observed.containers.len(), 2, "kept for their logs");
    world.state.stopped_sandboxes.clear();
    assert_eq!(
        plan(world.view()).step,
        None,
        "an agent that starts leaves it so"
    );
}

#[test]
fn a_failed_step_waits_before_it_is_tried_again() {
    let mut world = World::new(Some(version("u", "Always")));
    while !matches!(plan(world.view()).step, Some(Step::RunSandbox { .. })) {
        let step = plan(world.view()).step.unwrap();
        world.apply(step);
    }
    let subject = Subject::Sandbox("u".into());
    assert!(
        world
            .state
            .record_failure(subject.clone(), "R", "no network".into(), world.now)
    );
    assert!(
        !world
            .state
            .record_failure(subject, "R", "no network".into(), world.now),
        "no news"
    );
    let waiting = plan(world.view());
    assert_eq!(waiting.step, None);
    world.now = waiting.wake.unwrap();
    assert!(matches!(
        plan(world.view()).step,
        Some(Step::RunSandbox { .. })
    ));
}

#[test]
fn a_version_that_cannot_run_here_keeps_no_running_one_down() {
    let (old, new) = (version("old", "Always"), version("new", "Always"));
    let mut world = World::new(Some(Arc::clone(&old)));
    world.settle_for_good();
    let rejection = Rejection {
        reason: "NodePorts".into(),
        message: "the host port 80/TCP is taken".into(),
    };
    world.state.version_mut(&"new".into()).admission = Admission::Rejected(rejection);
    world.want(Some(Arc::clone(&new)));
    world.steps.clear();
    world.settle();
    assert!(
        world.runs(&old) && world.steps.is_empty(),
        "{:#?}",
        world.steps
    );
    let reopen = |_: &Uid, version: &mut Version| version.admission.reopen();
    world.state.update_versions(reopen);
    world.settle_for_good();
    assert!(world.runs(&new));
}

#[test]
fn after_a_reboot_the_old_version_runs_until_the_new_ones_image_is_there() {
    let (old, new) = (version("old", "Always"), version("new", "Always"));
    let mut world = World::new(Some(new));
    world.state.version_mut(&"old".into()).pod = Some(Arc::clone(&old));
    world.no_image.insert("new".into());
    let sandbox = world.sandbox("old", 0, false);
    let exit = world.exit(137);
    for name in NAMES {
        world.container("old", &sandbox, name, 0, exit.clone());
    }
    assert_eq!(
        kept_version(world.view()).map(|v| v.uid.as_str()),
        Some("old")
    );
    world.settle();
    assert!(world.runs(&old), "{:#?}", world.steps);
}
