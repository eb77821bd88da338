//! First starts that are held for other Pods.

use std::sync::Arc;
use std::time::Duration;

use super::world::World;
use crate::manifest::{PodKey, SourceKind, StaticPod, parse};
use crate::pod::plan::rules::deadline;
use crate::pod::plan::{Step, choose_instances, held_by, waiting};
use crate::pod::state::Image;
use crate::pod::state::order::{Hold, Readiness};
use crate::pod::state::time::{Clock, MonotonicTime, Timestamp};

/// A Pod that is started after `db`, and within a minute where it has a limit.
fn ordered(image: &str, limit: bool) -> Arc<StaticPod> {
    let limit = if limit {
        ", podkeeper.io/start-after-timeout: 60s"
    } else {
        ""
    };
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: web, annotations: {{podkeeper.io/start-after: db{limit}}}}},\
         spec: {{containers: [{{name: a, image: {image}}}, {{name: b, image: i}}]}}}}"
    );
    let pod = parse(text.as_bytes(), "n1", SourceKind::File).unwrap();
    pod.pod
}

fn look(world: &mut World, readiness: Readiness) {
    let db = PodKey {
        namespace: "default".into(),
        name: "db-n1".into(),
    };
    world.state.order.readiness.insert(db, readiness);
}

fn sandboxes(world: &World) -> usize {
    let steps = world.steps.iter();
    steps
        .filter(|step| matches!(step, Step::RunSandbox { .. }))
        .count()
}

#[test]
fn no_sandbox_is_made_before_the_others_are_ready_and_images_are_had() {
    for readiness in [
        Readiness::Missing,
        Readiness::Paused,
        Readiness::Over,
        Readiness::Terminating,
        Readiness::NotReady,
    ] {
        let pod = ordered("i", false);
        let mut world = World::new(Some(Arc::clone(&pod)));
        look(&mut world, readiness);
        let plan = world.settle();
        assert_eq!((plan.step, plan.wake, sandboxes(&world)), (None, None, 0));
        let images = world.steps.iter();
        let images = images.filter(|step| matches!(step, Step::EnsureImage { .. }));
        assert_eq!(images.count(), 2);
        let message = waiting::not_ready(world.view(), &pod);
        assert_eq!(message, format!("default/db-n1 ({readiness})"));
        look(&mut world, Readiness::Ready);
        world.settle_for_good();
        assert_eq!(sandboxes(&world), 1);
        // It runs, whatever becomes of the other.
        look(&mut world, readiness);
        assert_eq!(held_by(world.view(), &pod), None);
    }
}

#[test]
fn a_restart_does_not_end_a_hold() {
    let pod = ordered("i", false);
    let world = World::new(Some(Arc::clone(&pod)));
    let error = choose_instances(world.view(), &pod, None).unwrap_err();
    let expected = "the first start waits for Pods to be Ready: default/db-n1 (not found)";
    assert_eq!(error, expected);
}

#[test]
fn a_hold_that_is_over_holds_nothing_again() {
    let mut world = World::new(Some(ordered("i", false)));
    world.state.order.hold.is_over = true;
    world.settle_for_good();
    assert_eq!(sandboxes(&world), 1);
}

#[test]
fn a_limit_is_the_time_of_the_next_plan() {
    let pod = ordered("i", true);
    let mut world = World::new(Some(Arc::clone(&pod)));
    let since = Timestamp::from(0).fixed(&Clock::with_wall(|| 0));
    world.state.order.hold = Hold {
        since: Some(since),
        ..Hold::default()
    };
    world.now = since.known().unwrap();
    let due = world.now.after(Duration::from_secs(60));
    assert_eq!(world.settle().wake, Some(due));
    assert_eq!(waiting::until(world.view(), &pod, "a"), Some(due));
    world.now = MonotonicTime(due.0 - 1);
    assert!(held_by(world.view(), &pod).is_some());
    world.now = due;
    world.settle_for_good();
    assert_eq!(sandboxes(&world), 1);
}

#[test]
fn the_time_that_a_pod_may_run_counts_from_the_end_of_its_hold() {
    let mut pod = StaticPod::clone(&ordered("i", false));
    pod.spec.active_deadline_seconds = Some(300);
    let pod = Arc::new(pod);
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle();
    world.now = world.now.after(Duration::from_secs(3600));
    assert_eq!(deadline(world.view(), &pod), None);
    world.settle();
    assert_eq!(sandboxes(&world), 0);
    look(&mut world, Readiness::Ready);
    let ended = world.now.0 * 1_000_000;
    let ended = Timestamp::from(ended).fixed(&Clock::with_wall(|| 0));
    let after = ended.known().unwrap();
    world.state.order.hold = Hold {
        is_over: true,
        ended: Some(ended),
        ..Hold::default()
    };
    world.now = world.now.max(after);
    let due = deadline(world.view(), &pod);
    let seen = world.state.first_seen(&pod.uid).unwrap().monotonic;
    assert_eq!(due, Some(after.max(seen).after(Duration::from_secs(300))));
}

#[test]
fn an_image_that_cannot_be_had_is_reported_during_the_hold() {
    let pod = ordered("i", false);
    let mut world = World::new(Some(Arc::clone(&pod)));
    world.settle();
    let blocked_by = |world: &World| {
        let blocked = waiting::blocked_by(world.view(), &pod, "a");
        blocked.map(|waiting| waiting.reason)
    };
    assert_eq!(blocked_by(&world).as_deref(), Some("WaitingForPods"));
    let failed = Image::Failed {
        reason: "ErrImagePull",
        message: "no such image".to_owned(),
        delay: Duration::from_secs(10),
        retry: world.now.after(Duration::from_secs(10)),
    };
    let version = world.state.version_mut(&pod.uid);
    version.images.insert("a".to_owned(), failed);
    assert_eq!(blocked_by(&world), None);
}

#[test]
fn many_pods_are_named_in_part() {
    let names = (0..9).map(|i| format!("p{i}"));
    assert_eq!(waiting::named(names), "p0, p1, p2, p3, p4 and 4 more");
}
