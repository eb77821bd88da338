//! Properties from any state, under any events.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::any::any_world;
use super::expected::Broken;
use super::version;
use super::world::World;
use crate::pod::plan::{Step, choose_instances, plan};
use crate::pod::state::ShutdownStop;
use crate::pod::state::observed::Observed;

/// Steps and events in which any world comes to rest.
const LIMIT: usize = 3000;

impl World {
    /// Executes the planner's steps, each checked before, and has happen what is to come, until nothing is
    /// left to do or to wait for.
    fn run(&mut self, check: impl Fn(&Self, &Step) -> Broken) -> Result<(), TestCaseError> {
        for _ in 0..LIMIT {
            let next = plan(self.view());
            if let Some(step) = next.step {
                if let Err(promise) = check(self, &step) {
                    let problem = format!("{promise}: {step:?} in {self:#?}");
                    return Err(TestCaseError::fail(problem));
                }
                self.apply(step);
            } else if !self.happen() {
                let Some(wake) = next.wake else {
                    return Ok(());
                };
                assert!(wake > self.now, "an alarm in the past");
                self.now = wake;
            }
        }
        Err(TestCaseError::fail(format!("it never ends: {self:#?}")))
    }
}

proptest! {
    #[test]
    fn from_any_state_the_wanted_one_is_reached(mut world in any_world()) {
        world.run(|_, _| Ok(()))?;
        let Some(wanted) = world.wanted.clone() else {
            prop_assert_eq!(&world.observed, &Observed::default());
            prop_assert_eq!(world.state.uids_on_disk().next(), None);
            return Ok(());
        };
        let end = world.check_end(&wanted);
        prop_assert!(end.is_ok(), "{:?}: {:#?}", end, world);
        prop_assert!(world.observed.uids().all(|uid| *uid == wanted.uid));
        prop_assert!(world.state.uids_on_disk().all(|uid| *uid == wanted.uid));
    }

    #[test]
    fn a_container_starts_only_where_it_may(mut world in any_world()) {
        world.run(World::check_start)?;
    }

    #[test]
    fn a_healthy_container_of_an_unchanged_pod_is_never_stopped(mut world in any_world()) {
        world.run(World::check_stop)?;
    }

    #[test]
    fn a_requested_restart_has_every_chosen_instance_replaced(mut world in any_world()) {
        world.run(|_, _| Ok(()))?;
        let Some(wanted) = world.wanted.clone() else {
            return Ok(());
        };
        let Ok(choice) = choose_instances(world.view(), &wanted, None) else {
            return Ok(());
        };
        world.state.request_restart(&wanted.uid, &choice);
        world.run(|_, _| Ok(()))?;
        let left = world.state.history(&wanted.uid).map(|history| &history.restarts);
        prop_assert!(left.is_none_or(BTreeSet::is_empty), "{:#?}", world);
        if world.state.finished(&wanted.uid).is_some() {
            // It was over again before all of it had come, as where an init container failed.
            return Ok(());
        }
        for id in &choice.instances {
            let newest = |name: &str| world.observed.history_of(&wanted.uid, name)[0].id.clone();
            let old = world.observed.container(id);
            prop_assert!(old.is_none_or(|old| newest(&old.name) != *id), "{:#?}", world);
        }
    }

    #[test]
    fn a_shutdown_of_the_machine_stops_all_containers_and_does_nothing_else(mut world in any_world()) {
        world.state.shutdown = Some(ShutdownStop {
            until: world.now,
            finished_before: BTreeSet::new(),
        });
        world.run(|_, step| match step {
            Step::Terminate { .. } | Step::StopContainers { .. } => Ok(()),
            _ => Err("nothing but stops".to_owned()),
        })?;
        prop_assert!(world.live().is_empty(), "{:#?}", world);
        prop_assert!(plan(world.view()).step.is_none());
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
