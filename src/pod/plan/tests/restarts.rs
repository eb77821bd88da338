//! Starts and restarts of sandboxes and containers, and what is kept of those that ended.

use std::sync::Arc;
use std::time::Duration;

use super::version;
use super::world::World;
use crate::pod::plan::rules::{Restart, is_finished, restart};
use crate::pod::plan::{Plan, Step, plan};
use crate::pod::state::observed::State;
use crate::pod::state::{Image, Subject};
use crate::translate::ImageUser;

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
        since: world.now,
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
fn sandboxes_that_cannot_be_stopped_do_not_pile_up() {
    let mut world = World::new(Some(version("u", "Always")));
    let mut made: u32 = 0;
    for _ in 0..100 {
        let step = match plan(world.view()) {
            Plan {
                step: Some(step), ..
            } => step,
            Plan {
                wake: Some(wake), ..
            } => {
                world.now = wake;
                continue;
            }
            Plan { .. } => break,
        };
        match &step {
            // The runtime keeps what it could not make, and cannot stop it.
            Step::RunSandbox { attempt, .. } => {
                world.sandbox("u", *attempt, false);
                made += 1;
            }
            Step::StopSandbox { .. } | Step::RemoveSandbox { .. } => {}
            _ => {
                world.apply(step);
                continue;
            }
        }
        let subject = step.subject().unwrap();
        let message = "no plugin".to_owned();
        let now = world.now;
        world.state.record_failure(subject, "R", message, now);
    }
    assert_eq!(made, 5);
}
