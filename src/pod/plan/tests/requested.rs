//! Restarts on request.

use serde_json::json;

use super::world::World;
use super::{static_pod, version};
use crate::pod::plan::rules::is_finished;
use crate::pod::plan::{Step, choose_instances};
use crate::pod::state::history::StopReason;
use crate::pod::state::observed::State;

impl World {
    /// Requests a restart, and has it carried out without letting time pass; returns the steps.
    fn restart(&mut self, name: Option<&str>) -> Result<Vec<Step>, String> {
        let version = self.wanted.clone().unwrap();
        let choice = choose_instances(self.view(), &version, name)?;
        self.state.request_restart(&version.uid, &choice);
        self.steps.clear();
        self.settle();
        Ok(std::mem::take(&mut self.steps))
    }

    fn attempts(&self, names: &[&str]) -> Vec<u32> {
        let newest = |name: &&str| self.observed.history_of(&"u".into(), name)[0];
        let newest = names.iter().map(newest);
        newest
            .map(|c| {
                assert!(matches!(c.state, State::Running { .. }), "{c:?}");
                c.attempt
            })
            .collect()
    }
}

#[test]
fn containers_that_run_are_stopped_together_and_run_again_at_once_whatever_the_policy() {
    for policy in ["Always", "OnFailure", "Never"] {
        let mut world = World::new(Some(version("u", policy)));
        world.settle_for_good();
        for attempt in 1..=3 {
            let done = world.restart(None).unwrap();
            let stops = done.iter().filter_map(|step| match step {
                Step::StopContainers { ids, reason, .. } => Some((ids.len(), *reason)),
                _ => None,
            });
            let expected = [(2, StopReason::Requested)];
            assert_eq!(stops.collect::<Vec<_>>(), expected, "{policy}");
            assert_eq!(world.attempts(&["a", "b"]), [attempt; 2], "{policy}");
        }
        assert_eq!(world.observed.sandboxes.len(), 1);
        let history = world.state.history(&"u".into()).unwrap();
        assert!(history.restarts.is_empty() && history.failed_instances.is_empty());
    }
}

#[test]
fn one_container_is_restarted_alone() {
    let mut world = World::new(Some(version("u", "Never")));
    world.settle_for_good();
    world.restart(Some("b")).unwrap();
    assert_eq!(world.attempts(&["a", "b"]), [0, 1]);
}

#[test]
fn a_container_that_backs_off_starts_at_once_and_backs_off_as_before_after_that() {
    let mut world = World::new(Some(version("u", "Always")));
    world.settle_for_good();
    let end = |world: &mut World| {
        let id = world.observed.history_of(&"u".into(), "a")[0].id.clone();
        let exit = world.ended(1);
        world.set_state(&id, exit);
        world.record_histories();
    };
    end(&mut world);
    world.settle_for_good();
    end(&mut world);
    let now = world.now;
    assert!(
        world.settle().wake.is_some_and(|wake| wake > now),
        "it waits"
    );
    world.restart(Some("a")).unwrap();
    assert_eq!(world.now, now);
    assert_eq!(world.attempts(&["a", "b"]), [2, 0]);
    end(&mut world);
    assert!(
        world.settle().wake.is_some_and(|wake| wake > now),
        "it waits"
    );
}

#[test]
fn what_failed_before_is_tried_again_at_once() {
    let mut world = World::new(Some(version("u", "Always")));
    world.no_image.insert("u".into());
    assert!(world.settle().wake.is_some());
    world.no_image.clear();
    assert!(world.settle().wake.is_some(), "it waits");
    world.restart(None).unwrap();
    assert_eq!(world.attempts(&["a", "b"]), [0, 0]);
}

#[test]
fn a_pod_that_is_over_runs_once_more_from_its_beginning() {
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "first", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    for code in [0, 1] {
        let pod = static_pod("u", spec.clone());
        let mut world = World::new(Some(pod.clone()));
        // Where the init container failed, the others never came.
        let run = |world: &mut World| {
            while {
                world.settle_for_good();
                world.happen()
            } {}
        };
        if code == 1 {
            let end = super::events::End::Exit(1);
            world.ends.insert("first".into(), vec![end]);
        }
        run(&mut world);
        let exit = world.ended(0);
        for container in world.observed.containers.iter_mut().filter(|c| c.is_live()) {
            container.state = exit.clone();
        }
        world.record_histories();
        run(&mut world);
        assert!(is_finished(world.view(), &pod), "{code}");
        world.restart(None).unwrap();
        assert!(!is_finished(world.view(), &pod), "{code}");
        run(&mut world);
        let attempt = u32::from(code == 0);
        assert_eq!(world.attempts(&["a", "b"]), [attempt; 2], "{code}");
        assert_eq!(
            world.observed.ready_sandbox(&"u".into()).unwrap().attempt,
            1
        );
    }
}

#[test]
fn sidecars_are_restarted_with_the_others_and_init_containers_are_not() {
    let spec = json!({
        "initContainers": [{"name": "first", "image": "i"},
                           {"name": "side", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "i"}]});
    let mut world = World::new(Some(static_pod("u", spec)));
    while {
        world.settle_for_good();
        world.happen()
    } {}
    let error = world.restart(Some("first")).unwrap_err();
    assert!(error.contains("first is an init container"), "{error}");
    let error = world.restart(Some("x")).unwrap_err();
    assert_eq!(error, "it has no container \"x\"");
    world.restart(None).unwrap();
    assert_eq!(world.attempts(&["side", "a"]), [1, 1]);
    assert_eq!(world.observed.history_of(&"u".into(), "first").len(), 1);
}

#[test]
fn a_pod_whose_deadline_has_passed_is_not_restarted() {
    let spec = json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a", "image": "i"}]});
    let mut world = World::new(Some(static_pod("u", spec)));
    world.settle_for_good();
    let error = world.restart(None).unwrap_err();
    assert!(
        error.contains("longer than the specified deadline"),
        "{error}"
    );
}
