//! The machine shuts down: Pods stop in order and in time, whatever hangs, and run again after the next boot.

use std::time::Duration;

use podkeeper::pod::shutdown::{PriorityPeriod, ShutdownPeriods};
use tokio::time::Instant;

use crate::agent::{Agent, SECOND, full};
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

const PERIODS: ShutdownPeriods = ShutdownPeriods::Parts {
    ordinary: Duration::from_secs(30),
    critical: Duration::from_secs(10),
};

fn named(name: &str, container: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: \
         'busybox:1.36', {container}}}], {spec}}}}}"
    )
}

fn critical(name: &str, of: &str) -> String {
    named(
        name,
        "",
        &format!("priorityClassName: system-{of}-critical"),
    )
}

/// An agent whose Pods are ready.
async fn agent_with(manifests: &[String], life: impl Fn(&str) -> Life + Send + 'static) -> Agent {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(move |pod, _, _| life(pod));
    agent.runtime.commands(|_, _| Executed::default());
    want(&agent, manifests);
    for manifest in manifests {
        let (_, name) = manifest.split_once("metadata: {name: ").unwrap();
        let (name, _) = name.split_once('}').unwrap();
        agent.until_ready(name).await;
    }
    // Or the test's calls would begin at the same time as those of the start.
    tokio::time::sleep(SECOND).await;
    agent
}

fn want(agent: &Agent, manifests: &[String]) {
    let manifests: Vec<&str> = manifests.iter().map(String::as_str).collect();
    agent.want(&manifests);
}

/// It ends this long after its stop signal.
fn stops_after(seconds: u64) -> Life {
    Life {
        end: None,
        on_stop: Some((Duration::from_secs(seconds), 0)),
    }
}

/// The times of calls about a Pod since then, in seconds.
fn calls(agent: &Agent, method: &str, pod: &str, since: Instant) -> Vec<u64> {
    let calls = agent.runtime.calls_for(&full(pod)).into_iter();
    let calls = calls.filter(|call| call.method == method && call.at >= since);
    calls.map(|call| (call.at - since).as_secs()).collect()
}

fn running(agent: &Agent) -> usize {
    let running =
        |state: &crate::runtime::State| state.containers.iter().filter(|c| c.is_running()).count();
    agent.runtime.look(running)
}

/// A container was asked to stop.
fn has_stop(state: &crate::runtime::State) -> bool {
    let mut calls = state.calls.iter();
    calls.any(|call| call.method == "StopContainer")
}

#[tokio::test(start_paused = true)]
async fn ordinary_pods_stop_first_and_those_of_the_node_last() {
    let manifests = [
        critical("etcd", "node"),
        critical("dns", "cluster"),
        named("web", "", ""),
    ];
    let mut agent = agent_with(&manifests, |_| stops_after(3)).await;
    let began = Instant::now();
    agent.shut_down(PERIODS);
    agent.until_shut_down().await;
    for (pod, stop) in [("web", 0), ("dns", 3), ("etcd", 6)] {
        assert_eq!(calls(&agent, "StopContainer", pod, began), [stop], "{pod}");
    }
    assert_eq!(began.elapsed().as_secs(), 9, "nothing else is waited for");
    assert_eq!(running(&agent), 0);
}

#[tokio::test(start_paused = true)]
async fn periods_by_priority_are_kept_and_one_without_pods_costs_nothing() {
    let manifests = [
        named("low", "", "priority: -1"),
        named("middle", "", "priority: 1500"),
        named("high", "", "priority: 5000"),
    ];
    let mut agent = agent_with(&manifests, |_| Life::DEAF).await;
    let period = |priority, seconds| PriorityPeriod {
        priority,
        period: Duration::from_secs(seconds),
    };
    let began = Instant::now();
    agent.shut_down(ShutdownPeriods::ByPriority(vec![
        period(0, 8),
        period(1000, 6),
        period(2000, 60),
        period(4000, 4),
    ]));
    agent.until_shut_down().await;
    assert_eq!(calls(&agent, "StopContainer", "low", began)[0], 0);
    // Each group ends with the kill, shortly before its period is over.
    assert_eq!(calls(&agent, "StopContainer", "middle", began)[0], 7);
    let high = calls(&agent, "StopContainer", "high", began)[0];
    assert!((12..=13).contains(&high), "{high}");
    let took = began.elapsed().as_secs();
    assert!((16..18).contains(&took), "{took}");
    assert_eq!(running(&agent), 0);
}

#[tokio::test(start_paused = true)]
async fn hooks_run_and_a_grace_period_that_fits_is_kept() {
    let hook = "lifecycle: {preStop: {exec: {command: [hook]}}}";
    let manifests = [named("web", hook, "terminationGracePeriodSeconds: 12")];
    let mut agent = agent_with(&manifests, |_| Life::DEAF).await;
    agent.runtime.commands(|_, _| Executed {
        takes: 5 * SECOND,
        ..Executed::default()
    });
    let began = Instant::now();
    agent.shut_down(PERIODS);
    agent.until_shut_down().await;
    assert_eq!(calls(&agent, "ExecSync", "web", began), [0]);
    assert_eq!(calls(&agent, "StopContainer", "web", began), [5]);
    assert_eq!(began.elapsed().as_secs(), 12, "the Pod's own grace period");
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_costs_no_more_than_its_groups_time() {
    let hook = "lifecycle: {preStop: {exec: {command: [hook]}}}";
    let grace = "terminationGracePeriodSeconds: 3600";
    let manifests = [
        named("hook", hook, grace),
        named("deaf", "", grace),
        named("stuck", "", grace),
        named("web", "", ""),
        critical("etcd", "node"),
    ];
    let life = |pod: &str| match pod {
        "deaf-my-node1" => Life::DEAF,
        _ => Life::LONG,
    };
    let mut agent = agent_with(&manifests, life).await;
    agent.runtime.commands(|_, _| Executed {
        takes: Duration::from_secs(7200),
        ..Executed::default()
    });
    let stuck = Rule::of("StopContainer", Fate::Hangs).pod(&full("stuck"));
    agent.runtime.rule(stuck);
    let began = Instant::now();
    agent.shut_down(PERIODS);
    agent.until_shut_down().await;
    assert_eq!(calls(&agent, "StopContainer", "web", began), [0]);
    // The container has its signal though its hook hangs, and is killed in time.
    assert_eq!(calls(&agent, "StopContainer", "hook", began), [27]);
    assert_eq!(calls(&agent, "StopContainer", "etcd", began), [30]);
    let took = began.elapsed();
    assert!(took < 31 * SECOND, "{took:?}");
    assert_eq!(running(&agent), 1, "all but the stuck one");
}

#[tokio::test(start_paused = true)]
async fn a_removal_with_a_long_grace_period_is_cut_short() {
    let grace = "terminationGracePeriodSeconds: 3600";
    let manifests = [named("web", "", grace)];
    let mut agent = agent_with(&manifests, |_| Life::DEAF).await;
    agent.want(&[]);
    agent.runtime.until("it is being stopped", has_stop).await;
    let began = Instant::now();
    agent.shut_down(PERIODS);
    agent.until_shut_down().await;
    let took = began.elapsed().as_secs();
    assert!((29..31).contains(&took), "{took}");
    assert_eq!(running(&agent), 0);
    // The next agent goes on with it.
    agent.start_next();
    agent.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_meanwhile_and_the_next_boot_starts_all() {
    let manifests = [named("web", "", ""), critical("etcd", "node")];
    let life = |pod: &str| match pod {
        "web-my-node1" => stops_after(10),
        _ => Life::LONG,
    };
    let mut agent = agent_with(&manifests, life).await;
    let began = Instant::now();
    agent.shut_down(PERIODS);
    agent.runtime.until("it is being stopped", has_stop).await;
    assert_eq!(agent.report("web").reason, "Terminated");
    assert_eq!(agent.status("web").phase.as_deref(), Some("Running"));
    let new = [
        named("web", "env: [{name: A, value: b}]", ""),
        critical("etcd", "node"),
        named("new", "", ""),
    ];
    want(&agent, &new);
    let is_rejected = |agent: &Agent| agent.report("new").reason == "NodeShutdown";
    agent
        .until_told("the new Pod is not started", is_rejected)
        .await;
    agent.until_shut_down().await;
    for method in [
        "RunPodSandbox",
        "CreateContainer",
        "StopPodSandbox",
        "RemoveContainer",
    ] {
        for pod in ["web", "etcd", "new"] {
            assert_eq!(calls(&agent, method, pod, began), [0; 0], "{method} {pod}");
        }
    }
    for pod in ["web", "etcd"] {
        let status = agent.status(pod);
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        assert_eq!(status.reason.as_deref(), Some("Terminated"));
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(status.message.as_deref(), Some(message));
        let conditions = status.conditions.unwrap();
        let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget");
        let target = target.unwrap();
        assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
        assert_eq!(target.status, "True");
        let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "False");
    }
    // The machine boots: no sandbox has a process any more.
    for pod in ["web", "etcd"] {
        agent.runtime.end_sandboxes(&full(pod));
    }
    agent.start_next();
    for pod in ["web", "etcd", "new"] {
        agent.until_ready(pod).await;
        let status = agent.status(pod);
        assert_eq!(status.reason, None, "{pod}");
        let conditions = status.conditions.unwrap();
        assert!(conditions.iter().all(|c| c.type_ != "DisruptionTarget"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_restarted_stays_as_it_ended() {
    let never = "restartPolicy: Never";
    let agent = agent_with(&[named("stopped", "", never)], |_| Life::LONG).await;
    agent.runtime.lives(|pod, _, _| match pod {
        "over-my-node1" => Life::ends(0),
        _ => Life::LONG,
    });
    let mut agent = agent;
    let manifests = [named("stopped", "", never), named("over", "", never)];
    want(&agent, &manifests);
    let phase = |agent: &Agent, pod: &str| agent.status(pod).phase.unwrap_or_default();
    let is_over = |agent: &Agent| phase(agent, "over") == "Succeeded";
    agent.until_told("one is over", is_over).await;
    agent.shut_down(PERIODS);
    agent.until_shut_down().await;
    let check = |agent: &Agent| {
        assert_eq!(phase(agent, "over"), "Succeeded");
        assert_eq!(agent.status("over").reason, None);
        assert_eq!(phase(agent, "stopped"), "Failed");
        let reason = agent.status("stopped").reason;
        assert_eq!(reason.as_deref(), Some("Terminated"));
    };
    check(&agent);
    tokio::time::sleep(SECOND).await;
    let booted = Instant::now();
    agent.runtime.end_sandboxes(&full("stopped"));
    agent.start_next();
    let is_told = |agent: &Agent| agent.told("over").is_some() && agent.told("stopped").is_some();
    agent.until_told("both are told", is_told).await;
    tokio::time::sleep(60 * SECOND).await;
    check(&agent);
    for pod in ["over", "stopped"] {
        assert_eq!(calls(&agent, "RunPodSandbox", pod, booted), [0; 0], "{pod}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_does_not_hold_up_the_shutdown() {
    let mut agent = agent_with(&[named("web", "", "")], |_| Life::LONG).await;
    let hangs = Rule::of("CreateContainer", Fate::Hangs).pod(&full("new"));
    agent.runtime.rule(hangs);
    want(&agent, &[named("web", "", ""), named("new", "", "")]);
    let is_asked = |state: &crate::runtime::State| {
        let mut calls = state.calls.iter().filter(|c| c.method == "CreateContainer");
        calls.any(|c| c.subject.pod == Some(full("new")))
    };
    agent.runtime.until("it hangs", is_asked).await;
    let began = Instant::now();
    agent.shut_down(PERIODS);
    agent.until_shut_down().await;
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    assert_eq!(running(&agent), 0);
}
