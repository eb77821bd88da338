//! Probes, round after round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::agent::{Agent, HOUR, SECOND, single};
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

const PROBES: &str = "readinessProbe: {exec: {command: [ready]}, periodSeconds: 1, failureThreshold: 2}, \
     livenessProbe: {exec: {command: [live]}, periodSeconds: 2, failureThreshold: 3}";

/// A switch that commands of this name obey.
fn switch(agent: &Agent) -> impl Fn(&str, bool) + use<> {
    let flags = Arc::new([AtomicBool::new(true), AtomicBool::new(true)]);
    let names = ["ready", "live"];
    let obeyed = Arc::clone(&flags);
    agent.runtime.commands(move |_, command| {
        let at = names.iter().position(|name| command == [*name]).unwrap();
        Executed {
            code: i32::from(!obeyed[at].load(Ordering::Relaxed)),
            ..Executed::default()
        }
    });
    move |name, works| {
        let at = names.iter().position(|known| *known == name).unwrap();
        flags[at].store(works, Ordering::Relaxed);
    }
}

fn execs(agent: &Agent, command: &str) -> usize {
    let calls = agent.runtime.calls();
    let requests = calls.iter().filter_map(|c| c.request());
    let commands = requests.filter(|r: &&podkeeper::cri::v1::ExecSyncRequest| r.cmd == [command]);
    commands.count()
}

#[tokio::test(start_paused = true)]
async fn thousands_of_rounds_come_in_their_rhythm_and_change_nothing() {
    let agent = Agent::start(Settings::containerd_2_1());
    let works = switch(&agent);
    agent.want(&[&single(PROBES, "")]);
    agent.until_ready("p").await;
    let changes = agent.context.reports.changes();
    tokio::time::sleep(HOUR).await;
    assert!(
        !changes.has_changed().unwrap(),
        "nothing happened, nothing was told"
    );
    let ready = execs(&agent, "ready");
    assert!((3599..=3602).contains(&ready), "{ready}");
    let live = execs(&agent, "live");
    assert!((1799..=1801).contains(&live), "{live}");

    works("ready", false);
    let unready = |agent: &Agent| agent.report("p").ready == 0;
    agent.until_told("it is not ready", unready).await;
    works("ready", true);
    agent.until_ready("p").await;
    assert_eq!(agent.running("p"), [("c".to_owned(), 0)]);

    works("live", false);
    let restarted = |agent: &Agent| agent.report("p").restarts == 1;
    agent.until_told("it is restarted", restarted).await;
    works("live", true);
    agent.until_ready("p").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(agent.running("p"), [("c".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_told_while_a_container_is_being_stopped() {
    let agent = Agent::start(Settings::containerd_2_1());
    let works = switch(&agent);
    agent.runtime.lives(|_, _, _| Life::DEAF);
    let spec = "terminationGracePeriodSeconds: 300";
    let manifest = single(PROBES, spec);
    agent.want(&[&manifest]);
    agent.until_ready("p").await;
    agent.want(&[]);
    let ends = |agent: &Agent| agent.report("p").phase == "Terminating";
    agent.until_told("it is being stopped", ends).await;
    let before = tokio::time::Instant::now();
    works("ready", false);
    let unready = |agent: &Agent| agent.report("p").ready == 0;
    agent.until_told("it is not ready", unready).await;
    assert!(before.elapsed() < 5 * SECOND);
    assert_eq!(agent.running("p").len(), 1, "it still runs");
    agent.until_gone().await;
    assert_eq!(before.elapsed().as_secs(), 300, "and has its grace period");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_a_probe_gives_up_shows_how_it_ended() {
    let agent = Agent::start(Settings::containerd_2_1());
    let works = switch(&agent);
    agent.runtime.lives(|_, _, attempt| match attempt {
        0 => Life::DEAF,
        _ => Life::LONG,
    });
    let grace = PROBES.replace("[live]}", "[live]}, terminationGracePeriodSeconds: 7");
    agent.want(&[&single(&grace, "")]);
    agent.until_ready("p").await;
    works("live", false);
    let restarted = |agent: &Agent| agent.report("p").restarts == 1;
    agent.until_told("it is restarted", restarted).await;
    works("live", true);
    let status = agent.container("p", "c").unwrap();
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref()),
        (137, Some("Error"))
    );
    let ran = last.finished_at.unwrap().0 - last.started_at.unwrap().0;
    assert!(
        ran.get_seconds() >= 12,
        "three rounds and its grace period: {ran}"
    );
    let killing = |agent: &Agent| {
        let events = agent.events("p").into_iter();
        let killing = events.filter(|e| e.reason == "Killing");
        killing.map(|e| e.message).collect::<Vec<_>>()
    };
    let message = "Container c failed liveness probe, will be restarted";
    assert_eq!(killing(&agent), [message]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_restarts_has_failed_when_a_probe_gives_it_up() {
    let agent = Agent::start(Settings::containerd_2_1());
    let works = switch(&agent);
    agent.want(&[&single(PROBES, "restartPolicy: Never")]);
    agent.until_ready("p").await;
    works("live", false);
    let over = |agent: &Agent| agent.report("p").phase == "Failed";
    agent.until_told("it has failed", over).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(agent.starts("p", "c").len(), 1);
    let state = agent.container("p", "c").unwrap().state.unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 143);
}

/// A command whose child holds its output for so long after its end.
fn leaves_a_child(agent: &Agent, held: std::time::Duration) {
    agent.runtime.commands(move |_, _| Executed {
        held,
        ..Executed::default()
    });
}

#[tokio::test(start_paused = true)]
async fn a_command_that_leaves_a_child_is_decided_at_its_timeout() {
    for kind in ["livenessProbe", "startupProbe"] {
        let agent = Agent::start(Settings::containerd_2_1());
        leaves_a_child(&agent, 300 * SECOND);
        let probe = format!(
            "{kind}: {{exec: {{command: [sh]}}, timeoutSeconds: 1, periodSeconds: 5, failureThreshold: 3}}"
        );
        agent.want(&[&single(&probe, "")]);
        let restarted = |agent: &Agent| agent.report("p").restarts == 1;
        agent.until_told("it is restarted", restarted).await;
        let starts = agent.starts("p", "c");
        assert!((15.0..18.0).contains(&starts[1]), "{kind}: {starts:?}");
        let said = agent.events("p").into_iter();
        let said: Vec<String> = said
            .filter(|e| e.reason == "Unhealthy")
            .map(|e| e.message)
            .collect();
        assert!(
            said.iter().all(|m| m.contains("timed out after 1s")),
            "{said:?}"
        );
        assert!(!said.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_probe_never_run_side_by_side_and_leave_few_processes() {
    let agent = Agent::start(Settings::containerd_2_1());
    // A child that never ends: each command that is run leaves one.
    leaves_a_child(&agent, 1000 * HOUR);
    let probe = "readinessProbe: {exec: {command: [sh]}, timeoutSeconds: 1, periodSeconds: 5}";
    agent.want(&[&single(probe, "")]);
    let runs = |agent: &Agent| !agent.running("p").is_empty();
    agent.until_told("it runs", runs).await;
    tokio::time::sleep(HOUR).await;
    let commands = agent
        .runtime
        .calls()
        .iter()
        .filter(|c| c.method == "ExecSync")
        .count();
    assert!(
        (2..=9).contains(&commands),
        "{commands} commands in an hour"
    );
    assert_eq!(agent.runtime.look(|state| state.most_executing), 1);
    // Once the command leaves nothing, it is run again and counts.
    leaves_a_child(&agent, std::time::Duration::ZERO);
    agent.until_ready("p").await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_killed_at_its_timeout_is_run_again_at_the_next_round() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.commands(|_, _| Executed {
        takes: 10 * SECOND,
        ..Executed::default()
    });
    let probe = "livenessProbe: {exec: {command: [sh]}, timeoutSeconds: 1, periodSeconds: 5, failureThreshold: 3}";
    agent.want(&[&single(probe, "")]);
    let restarted = |agent: &Agent| agent.report("p").restarts == 1;
    agent.until_told("it is restarted", restarted).await;
    let calls = agent.runtime.calls();
    let commands = calls.iter().filter(|c| c.method == "ExecSync").count();
    assert_eq!(commands, 3);
    assert_eq!(agent.runtime.look(|state| state.most_executing), 1);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_answers_nothing_is_no_reason_to_restart_a_container() {
    let agent = Agent::start(Settings::containerd_1_6());
    let works = switch(&agent);
    agent.want(&[&single(PROBES, "")]);
    agent.until_ready("p").await;
    for method in [
        "ExecSync",
        "Version",
        "ListPodSandbox",
        "ListContainers",
        "ContainerStatus",
    ] {
        agent.runtime.rule(Rule::of(method, Fate::Hangs));
    }
    tokio::time::sleep(300 * SECOND).await;
    agent.runtime.clear_rules();
    tokio::time::sleep(300 * SECOND).await;
    works("live", true);
    agent.until_ready("p").await;
    assert_eq!(agent.running("p"), [("c".to_owned(), 0)]);
    assert_eq!(agent.starts("p", "c").len(), 1);
}
