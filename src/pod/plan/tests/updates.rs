//! Versions that take over from others.

use std::sync::Arc;

use super::world::World;
use super::{NAMES, version};
use crate::manifest::{PackedPod, Uid};
use crate::pod::admission::Rejection;
use crate::pod::plan::{Step, kept_version, plan};
use crate::pod::state::{Admission, Version};

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
    world.state.version_mut(&"old".into()).pod = Some(PackedPod::from(&old));
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
