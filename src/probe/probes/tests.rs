//! The probes of a Pod over hours of time that takes none: only timers move the clock here.

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::Container;
use tokio::time::sleep;

use crate::probe::{
    Failed, Health, ProbeKind, ProbeOutcome, ProbeResult, ProbeUpdate, ProbedContainer, Which,
};

use fixture::{ID, Node, READY, container, failure, probe, seconds, wanted};

#[tokio::test(start_paused = true)]
async fn a_container_without_probes_is_started_and_ready() {
    let mut node = Node::new();
    node.probes.sync(&[wanted(ID, &container(&[]))]);
    assert_eq!(node.health(ID), READY);
    assert_eq!(node.update(seconds(3600)).await, []);
}

#[tokio::test(start_paused = true)]
async fn the_other_probes_wait_for_the_startup_probe() {
    let mut node = Node::new();
    let spec = Container {
        startup_probe: Some(probe(ProbeKind::Startup, 30)),
        ..container(&ProbeKind::ALL)
    };
    node.answer(ProbeKind::Startup, ID, failure());
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(Duration::from_millis(20_500)).await;
    assert_eq!(node.rounds(ProbeKind::Liveness, ID), [0; 0]);
    assert_eq!(node.rounds(ProbeKind::Readiness, ID), [0; 0]);
    let health = node.health(ID);
    assert!(!health.started && !health.ready, "{health:?}");

    node.answer(ProbeKind::Startup, ID, ProbeOutcome::Success);
    let update = node.update(seconds(4)).await;
    let updates: Vec<_> = update.iter().map(|n| (n.kind, n.result)).collect();
    let success = Some(ProbeResult::Success);
    assert_eq!(
        updates,
        [
            (ProbeKind::Startup, success),
            (ProbeKind::Readiness, success)
        ]
    );
    assert_eq!(node.health(ID), READY);
    let startup = node.rounds(ProbeKind::Startup, ID);
    assert_eq!(
        startup,
        (0..=21).collect::<Vec<_>>(),
        "none after it passed"
    );
    assert_eq!(node.rounds(ProbeKind::Readiness, ID), [21, 22, 23, 24]);
    assert_eq!(node.rounds(ProbeKind::Liveness, ID), [22, 23, 24]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_does_not_come_up_fails_after_all_its_periods() {
    let mut node = Node::new();
    node.answer(ProbeKind::Startup, ID, failure());
    let spec = container(&ProbeKind::ALL);
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(Duration::from_millis(2999)).await;
    assert_eq!(node.health(ID).failed, None);
    node.update(seconds(3600)).await;
    let failed = Failed {
        kind: ProbeKind::Startup,
        message: "no".to_owned(),
    };
    assert_eq!(node.health(ID).failed, Some(failed));
    let rounds = node.rounds(ProbeKind::Startup, ID);
    assert_eq!(
        rounds,
        [0, 1, 2, 3],
        "an early probe and three rounds that count"
    );
    assert_eq!(node.rounds(ProbeKind::Readiness, ID), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_container_is_left_alone_until_it_is_another() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Liveness, ProbeKind::Readiness]);
    node.answer(ProbeKind::Liveness, ID, failure());
    node.probes.sync(&[wanted(ID, &spec)]);
    let update = node.update(Duration::from_millis(100_500)).await;
    let result = |n: &ProbeUpdate| (n.kind == ProbeKind::Liveness).then_some(n.result)?;
    let results: Vec<_> = update.iter().filter_map(result).collect();
    assert_eq!(results, [ProbeResult::Failure], "reported once");
    assert_eq!(node.rounds(ProbeKind::Liveness, ID), [1, 2, 3]);
    let health = node.health(ID);
    assert!(health.failed.is_some_and(|f| f.kind == ProbeKind::Liveness));
    assert!(health.ready, "readiness goes its own way");
    assert_eq!(node.rounds(ProbeKind::Readiness, ID).last(), Some(&100));

    node.probes.sync(&[wanted("second", &spec)]);
    node.update(Duration::from_millis(10_500)).await;
    assert_eq!(node.health("second"), READY);
    assert_eq!(node.probes.health(ID), None);
    assert_eq!(node.rounds(ProbeKind::Liveness, "second").len(), 10);
}

#[tokio::test(start_paused = true)]
async fn readiness_comes_and_goes_for_hours_and_each_change_is_told() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Readiness]);
    node.probes.sync(&[wanted(ID, &spec)]);
    let mut expected = ProbeResult::Success;
    for _ in 0..500 {
        let update = node.update(seconds(10)).await;
        let results: Vec<_> = update.iter().filter_map(|n| n.result).collect();
        assert_eq!(results, [expected]);
        let is_ready = expected == ProbeResult::Success;
        assert_eq!(node.health(ID).ready, is_ready);
        let (next, answer) = if is_ready {
            (ProbeResult::Failure, failure())
        } else {
            (ProbeResult::Success, ProbeOutcome::Success)
        };
        node.answer(ProbeKind::Readiness, ID, answer);
        expected = next;
    }
    assert_eq!(node.rounds(ProbeKind::Readiness, ID).len(), 5000);
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_probes_keep_their_rhythm_however_often_they_are_looked_at() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Liveness]);
    let ids: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let all: Vec<_> = ids.iter().map(|id| wanted(id, &spec)).collect();
    for _ in 0..1000 {
        node.probes.sync(&all);
        assert_eq!(node.update(Duration::from_millis(100)).await, []);
    }
    for id in &ids {
        let expected: Vec<u64> = (1..=100).collect();
        let rounds = node.rounds(ProbeKind::Liveness, id);
        assert_eq!(rounds[..99], expected[..99], "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_that_begin_together_with_old_containers_do_not_fire_together() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Liveness]);
    let ids: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let all = ids.iter().zip(0..).map(|(id, n)| ProbedContainer {
        // Each was started 37 ms after the one before.
        age: Duration::from_millis(500_000 - 37 * n),
        ..wanted(id, &spec)
    });
    node.probes.sync(&all.collect::<Vec<_>>());
    node.update(Duration::from_millis(1001)).await;
    let script = node.script.lock().unwrap();
    let mut times: Vec<_> = script.rounds.iter().map(|(.., at)| *at).collect();
    assert_eq!(times.len(), 100, "every one within its period");
    times.sort();
    times.dedup();
    assert!(times.len() > 90, "{} moments", times.len());
}

#[tokio::test(start_paused = true)]
async fn readiness_goes_on_while_the_pod_is_ended_and_the_others_stop() {
    let mut node = Node::new();
    let spec = container(&ProbeKind::ALL);
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(Duration::from_millis(10_500)).await;
    let ending = ProbedContainer {
        which: Which::Readiness,
        ..wanted(ID, &spec)
    };
    node.probes.sync(&[ending]);
    for kind in [ProbeKind::Liveness, ProbeKind::Readiness] {
        node.answer(kind, ID, failure());
    }
    node.update(seconds(10)).await;
    assert_eq!(node.rounds(ProbeKind::Liveness, ID).last(), Some(&10));
    assert_eq!(node.rounds(ProbeKind::Readiness, ID).last(), Some(&20));
    let ready = false;
    assert_eq!(node.health(ID), Health { ready, ..READY });
}

#[tokio::test(start_paused = true)]
async fn what_is_known_stays_while_the_container_is_there_and_goes_with_it() {
    let mut node = Node::new();
    let spec = container(&ProbeKind::ALL);
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(seconds(5)).await;
    let resting = ProbedContainer {
        which: Which::None,
        ..wanted(ID, &spec)
    };
    node.probes.sync(&[resting]);
    let rounds = node.rounds(ProbeKind::Readiness, ID).len();
    assert_eq!(node.update(seconds(100)).await, []);
    assert_eq!(node.rounds(ProbeKind::Readiness, ID).len(), rounds);
    assert_eq!(node.probes.results().collect::<Vec<_>>(), [(ID, &READY)]);

    node.probes.sync(&[]);
    assert_eq!(node.probes.results().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn delays_begin_with_the_containers_start() {
    let mut node = Node::new();
    let mut spec = container(&[ProbeKind::Readiness]);
    spec.readiness_probe.as_mut().unwrap().initial_delay_seconds = Some(7);
    let made = ProbedContainer {
        which: Which::None,
        ..wanted(ID, &spec)
    };
    node.probes.sync(&[made]);
    node.update(seconds(100)).await;
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(seconds(10)).await;
    assert_eq!(node.rounds(ProbeKind::Readiness, ID).first(), Some(&107));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_was_ready_stays_ready_under_a_new_agent() {
    let mut node = Node::new();
    let spec = container(&ProbeKind::ALL);
    let adopted = ProbedContainer {
        age: Duration::from_millis(100_250),
        known: Some(&READY),
        ..wanted(ID, &spec)
    };
    node.probes.sync(&[adopted]);
    assert_eq!(node.health(ID), READY);
    node.answer(ProbeKind::Readiness, ID, failure());
    node.update(Duration::from_millis(2500)).await;
    assert!(node.health(ID).ready, "below the threshold");
    node.update(seconds(1)).await;
    assert!(!node.health(ID).ready);
    assert_eq!(node.rounds(ProbeKind::Startup, ID), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_runtime_is_told_and_changes_nothing() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Liveness, ProbeKind::Readiness]);
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(seconds(5)).await;
    for kind in [ProbeKind::Liveness, ProbeKind::Readiness] {
        node.answer(
            kind,
            ID,
            ProbeOutcome::Error("the runtime is unreachable".to_owned()),
        );
    }
    let update = node.update(seconds(1000)).await;
    assert!(update.iter().all(|n| n.result.is_none()), "{update:?}");
    let says = |n: &ProbeUpdate| n.event.clone().unwrap().message;
    let expected =
        "Liveness probe errored and resulted in unknown state: the runtime is unreachable";
    assert!(update.iter().any(|n| says(n) == expected), "{update:?}");
    assert_eq!(node.health(ID), READY);
}

#[tokio::test(start_paused = true)]
async fn events_say_what_the_reference_agent_says() {
    for (kind, outcome, reason, message) in [
        (
            ProbeKind::Readiness,
            failure(),
            "Unhealthy",
            "Readiness probe failed: no",
        ),
        (
            ProbeKind::Liveness,
            failure(),
            "Unhealthy",
            "Liveness probe failed: no",
        ),
        (
            ProbeKind::Startup,
            failure(),
            "Unhealthy",
            "Startup probe failed: no",
        ),
        (
            ProbeKind::Readiness,
            ProbeOutcome::Warning("well".to_owned()),
            "ProbeWarning",
            "Readiness probe warning: well",
        ),
    ] {
        let mut node = Node::new();
        node.answer(kind, ID, outcome);
        let spec = container(&[kind]);
        node.probes.sync(&[wanted(ID, &spec)]);
        let ProbeUpdate {
            container_id,
            container,
            event,
            ..
        } = node.probes.next().await;
        assert_eq!((container_id.as_str(), container.as_str()), (ID, "web"));
        let event = event.unwrap();
        assert_eq!((event.reason, event.message.as_str()), (reason, message));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_holds_up_no_other_and_makes_up_for_one_round() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Liveness, ProbeKind::Readiness]);
    node.pause(ProbeKind::Liveness, Duration::from_millis(2500));
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(Duration::from_millis(10_100)).await;
    let script = Arc::clone(&node.script);
    let slow: Vec<_> = {
        let script = script.lock().unwrap();
        let rounds = script.rounds.iter();
        let rounds = rounds.filter(|(kind, ..)| kind == "Liveness");
        rounds.map(|(.., at)| at.as_millis()).collect()
    };
    assert_eq!(slow, [1000, 3500, 6000, 8500]);
    let expected: Vec<u64> = (0..=10).collect();
    assert_eq!(node.rounds(ProbeKind::Readiness, ID), expected);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_long_busy_misses_no_result() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Readiness]);
    node.answer(ProbeKind::Readiness, ID, failure());
    node.probes.sync(&[wanted(ID, &spec)]);
    sleep(seconds(3600)).await;
    node.answer(ProbeKind::Readiness, ID, ProbeOutcome::Success);
    sleep(seconds(3600)).await;
    assert!(!node.health(ID).ready, "not before it was reported");
    let update = node.update(seconds(10)).await;
    assert!(update.len() < 100, "{} old events were kept", update.len());
    assert_eq!(update.last().unwrap().result, Some(ProbeResult::Success));
    assert_eq!(node.health(ID), READY);
}

#[tokio::test(start_paused = true)]
async fn giving_up_the_wait_loses_nothing() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Readiness]);
    node.answer(ProbeKind::Readiness, ID, failure());
    node.probes.sync(&[wanted(ID, &spec)]);
    let mut reported = 0;
    for _ in 0..100_000 {
        // As a select! does whose other side is ready.
        reported += usize::from(node.probes.next().now_or_never().is_some());
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(reported, node.rounds(ProbeKind::Readiness, ID).len());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_reached_elsewhere_keeps_what_is_known_of_it() {
    let mut node = Node::new();
    let spec = container(&[ProbeKind::Readiness]);
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(Duration::from_millis(5500)).await;
    let moved = ProbedContainer {
        ip: "10.0.0.2",
        ..wanted(ID, &spec)
    };
    node.probes.sync(&[moved]);
    assert_eq!(node.health(ID), READY);
    node.update(seconds(5)).await;
    let script = node.script.lock().unwrap();
    let addresses: Vec<_> = script
        .rounds
        .iter()
        .map(|(_, _, ip, _)| ip.as_str())
        .collect();
    assert_eq!(addresses[..6], ["10.0.0.1"; 6]);
    assert_eq!(addresses[6..], ["10.0.0.2"; 5]);
}

#[tokio::test(start_paused = true)]
async fn probes_end_with_their_pod() {
    let mut node = Node::new();
    let spec = container(&ProbeKind::ALL);
    node.probes.sync(&[wanted(ID, &spec)]);
    node.update(seconds(5)).await;
    let Node {
        script,
        probes,
        began,
    } = node;
    drop(probes);
    sleep(seconds(1)).await;
    assert_eq!(Arc::strong_count(&script), 1, "no task holds it");
    let last = script.lock().unwrap().rounds.last().unwrap().3;
    assert!(last <= seconds(5) && began.elapsed() >= seconds(6));
}
