//! Containers that are stopped have the time that is theirs, whatever comes between: failures, edits,
//! and the agent's death.

use std::time::Duration;

use tonic::Status;

use crate::agent::{Agent, SECOND, full, pod, single};
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

/// A probe that gives its container up in its first round.
const GIVEN_UP: &str =
    "livenessProbe: {exec: {command: [fails]}, periodSeconds: 1, failureThreshold: 1}";
const GRACE: &str = "terminationGracePeriodSeconds: 60";

/// An agent on a runtime where containers do not hear their stop signal and the command `fails` does.
fn start() -> Agent {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, _| Life::DEAF);
    agent.runtime.commands(|_, command| Executed {
        code: i32::from(command == ["fails"]),
        ..Executed::default()
    });
    agent
}

/// How long the first instance of a container ran, in whole seconds, once another took its place.
async fn first_ran(agent: &Agent, container: &str) -> i64 {
    let next = |state: &crate::runtime::State| {
        let newest = state.newest(&full("p"), container);
        newest.is_some_and(|c| c.attempt() == 1)
    };
    while !agent.runtime.look(next) {
        tokio::time::sleep(SECOND).await;
    }
    agent.runtime.look(|state| {
        let mut named = state.containers.iter().filter(|c| c.name() == container);
        let first = named.find(|c| c.attempt() == 0).unwrap();
        (first.finished_at - first.started_at) / 1_000_000_000
    })
}

async fn until_asked_to_stop(agent: &Agent, times: usize) {
    let asked = |state: &crate::runtime::State| {
        let stops = state.calls.iter().filter(|c| c.method == "StopContainer");
        stops.count() == times
    };
    agent.runtime.until("it is asked to stop", asked).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_given_up_has_its_grace_period_though_a_call_fails() {
    for fate in [
        Fate::Fails(Status::unknown("not now")),
        Fate::Fails(Status::unavailable("away")),
    ] {
        let agent = start();
        agent
            .runtime
            .rule(Rule::of("StopContainer", fate).nth(1, 1));
        agent.want(&[&single(GIVEN_UP, GRACE)]);
        let ran = first_ran(&agent, "c").await;
        assert!((60..=63).contains(&ran), "{ran}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_given_up_has_its_grace_period_once_though_the_agent_dies() {
    let of_probe = GIVEN_UP.replace(
        "failureThreshold: 1",
        "failureThreshold: 1, terminationGracePeriodSeconds: 40",
    );
    let hook = "lifecycle: {postStart: {exec: {command: [fails]}}}";
    for (container, grace) in [(GIVEN_UP, 60), (of_probe.as_str(), 40), (hook, 60)] {
        let mut agent = start();
        agent.want(&[&single(container, GRACE)]);
        until_asked_to_stop(&agent, 1).await;
        for _ in 0..2 {
            tokio::time::sleep(10 * SECOND).await;
            agent.die_and_start().await;
        }
        let ran = first_ran(&agent, "c").await;
        assert!((grace..=grace + 3).contains(&ran), "{container}: {ran}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_given_up_runs_again_though_it_ends_well_after_the_agents_death() {
    let mut agent = start();
    agent.runtime.lives(|_, _, attempt| match attempt {
        0 => Life {
            on_stop: Some((30 * SECOND, 0)),
            ..Life::LONG
        },
        _ => Life::LONG,
    });
    agent.want(&[&single(
        GIVEN_UP,
        &format!("{GRACE}, restartPolicy: OnFailure"),
    )]);
    until_asked_to_stop(&agent, 1).await;
    // What the first agent found the next one does not find again.
    agent.runtime.commands(|_, _| Executed::default());
    agent.die_and_start().await;
    assert!(first_ran(&agent, "c").await >= 30);
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_post_start_hook_failed_is_not_started_for_the_next_agent_either() {
    let mut agent = start();
    let hook = "lifecycle: {postStart: {exec: {command: [fails]}}}";
    agent.want(&[&single(hook, GRACE)]);
    until_asked_to_stop(&agent, 1).await;
    let mut told = vec![];
    for _ in 0..2 {
        let waits =
            |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("PostStartHookError");
        agent.until_told("it shows why it is stopped", waits).await;
        let status = agent.container("p", "c").unwrap();
        assert_eq!((status.started, status.ready), (Some(false), false));
        told.push(status);
        tokio::time::sleep(Duration::from_secs(5)).await;
        agent.die_and_start().await;
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test(start_paused = true)]
async fn a_removal_does_not_wait_for_a_container_that_is_being_given_up() {
    for of_probe in ["60", "600"] {
        let agent = start();
        let probe = format!("failureThreshold: 1, terminationGracePeriodSeconds: {of_probe}");
        let probe = GIVEN_UP.replace("failureThreshold: 1", &probe);
        let image = "image: 'busybox:1.36'";
        agent.want(&[&pod(&format!(
            "containers: [{{name: a, {image}, {probe}}}, {{name: b, {image}}}], {GRACE}"
        ))]);
        until_asked_to_stop(&agent, 1).await;
        tokio::time::sleep(SECOND).await;
        let before = tokio::time::Instant::now();
        agent.want(&[]);
        agent.until_gone().await;
        let took = before.elapsed().as_secs();
        assert!((60..=61).contains(&took), "{of_probe}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_does_not_wait_for_a_container_that_is_being_given_up() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    agent.runtime.lives(|_, name, _| match name {
        "c" => Life::DEAF,
        _ => Life::LONG,
    });
    agent.runtime.commands(|_, _| Executed {
        code: 1,
        ..Executed::default()
    });
    agent.runtime.image("busybox:1.36", Some(0), "");
    let late = Rule::of("PullImage", Fate::Late(20 * SECOND));
    agent.runtime.rule(late);
    let probe = "failureThreshold: 1, terminationGracePeriodSeconds: 600";
    let probe = GIVEN_UP.replace("failureThreshold: 1", probe);
    agent.want(&[&single(&probe, GRACE)]);
    until_asked_to_stop(&agent, 1).await;
    let before = tokio::time::Instant::now();
    agent.want(&[&pod("containers: [{name: new, image: 'busybox:1.37'}]")]);
    let runs = |agent: &Agent| agent.running("p") == [("new".to_owned(), 0)];
    agent.until_told("the new version runs", runs).await;
    let took = before.elapsed().as_secs();
    assert!(
        (80..=82).contains(&took),
        "the pull and the grace period: {took}"
    );
}

/// The moments of calls about a container of the Pod, in seconds since the manifest went.
fn after(agent: &Agent, removed: tokio::time::Instant, method: &str, container: &str) -> Vec<u64> {
    let calls = agent.runtime.calls_for(&full("p")).into_iter();
    let calls = calls.filter(|c| c.method == method && c.at >= removed);
    let of = calls.filter(|c| c.subject.container.as_deref() == Some(container));
    of.map(|c| (c.at - removed).as_secs()).collect()
}

#[tokio::test(start_paused = true)]
async fn hooks_before_the_stop_run_side_by_side_and_signals_come_in_their_turn() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, name, _| match name {
        "deaf" => Life::DEAF,
        _ => Life::LONG,
    });
    agent.runtime.commands(|subject, _| Executed {
        takes: match subject.container.as_deref() {
            Some("first") => 20 * SECOND,
            _ => SECOND,
        },
        ..Executed::default()
    });
    let of = |name: &str, more: &str| {
        let hook = "lifecycle: {preStop: {exec: {command: [hook]}}}";
        format!("{{name: {name}, image: 'busybox:1.36', {hook}, {more}}}")
    };
    let sidecar = "restartPolicy: Always";
    let (first, second) = (of("first", sidecar), of("second", sidecar));
    for (main, grace, stops) in [
        // Those that end well: the last sidecar at once, the first when its hook is done.
        ("main", 30, [1, 1, 20]),
        // One that uses up all of the time: the others have the least time that there is.
        ("deaf", 5, [1, 5, 5]),
    ] {
        let main = of(main, "");
        agent.want(&[&pod(&format!(
            "initContainers: [{first}, {second}], containers: [{main}], \
             terminationGracePeriodSeconds: {grace}"
        ))]);
        agent.until_ready("p").await;
        let before = tokio::time::Instant::now();
        agent.want(&[]);
        agent.until_gone().await;
        let name = if grace == 30 { "main" } else { "deaf" };
        for (name, stop) in [name, "second", "first"].into_iter().zip(stops) {
            let hooks = after(&agent, before, "ExecSync", name);
            assert_eq!(hooks, [0], "{name}, {grace} s");
            let stopped = after(&agent, before, "StopContainer", name);
            assert_eq!(stopped, [stop], "{name}, {grace} s");
        }
    }
}
