//! Whatever fails, is late or never answers, and whenever the agent dies: it always ends in exactly what
//! is wanted, and never with two live containers of a name.

use tonic::Status;

use crate::agent::{Agent, SECOND, full, pod, single};
use crate::runtime::{Fate, Life, Rule, Settings};

/// An init container, a sidecar and two containers; an update has another `version`.
fn manifest(version: &str) -> String {
    let image = "image: 'busybox:1.36'";
    pod(&format!(
        "initContainers: [{{name: init, {image}}}, {{name: side, {image}, restartPolicy: Always}}], \
         containers: [{{name: a, {image}, env: [{{name: VERSION, value: '{version}'}}]}}, {{name: b, {image}}}]"
    ))
}

fn start(settings: Settings) -> Agent {
    let agent = Agent::start(settings);
    agent.runtime.lives(|_, name, _| match name {
        "init" => Life::ends(0),
        _ => Life::LONG,
    });
    agent
}

/// Waits until exactly the wanted containers run, with this value of `VERSION`.
async fn until_runs(agent: &Agent, version: &str) {
    let runs = |agent: &Agent| {
        let report = agent.report("p");
        report.ready == 3 && report.update.is_none() && shown_version(agent) == version
    };
    agent.until_told("the wanted version runs", runs).await;
    let names: Vec<String> = agent.running("p").into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["a", "b", "side"]);
    let ready = agent.runtime.look(|state| {
        let ready = state.sandboxes.iter().filter(|s| s.ready);
        ready.count()
    });
    assert_eq!(ready, 1, "sandboxes");
}

fn shown_version(agent: &Agent) -> String {
    agent.runtime.look(|state| {
        let a = state.newest(&full("p"), "a").filter(|c| c.is_running());
        let envs = a.into_iter().flat_map(|c| &c.config.envs);
        let mut values = envs.filter(|e| e.key == "VERSION");
        let value = values.next().map(|e| e.value.clone());
        String::from_utf8(value.unwrap_or_default()).unwrap()
    })
}

const METHODS: [&str; 13] = [
    "RunPodSandbox",
    "PodSandboxStatus",
    "StopPodSandbox",
    "RemovePodSandbox",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ContainerStatus",
    "ListContainers",
    "ImageStatus",
    "PullImage",
];

/// A Pod starts, is updated and ends while calls of each method meet this fate.
async fn live_through(fate: &Fate) {
    for method in METHODS {
        for (first, times) in [(1, 2), (2, 1)] {
            let agent = start(Settings {
                every_image: method != "PullImage",
                ..Settings::containerd_1_6()
            });
            let rule = || Rule::of(method, fate.clone()).nth(first, times);
            agent.runtime.rule(rule());
            agent.want(&[&manifest("1")]);
            until_runs(&agent, "1").await;
            agent.runtime.rule(rule());
            agent.want(&[&manifest("2")]);
            until_runs(&agent, "2").await;
            agent.runtime.rule(rule());
            agent.want(&[]);
            agent.until_gone().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_are_made_again() {
    live_through(&Fate::Fails(Status::unknown("no"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_is_waited_for() {
    live_through(&Fate::Fails(Status::unavailable("away"))).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_done_though_the_answer_says_otherwise_is_found() {
    live_through(&Fate::DoneButFails(Status::unknown("no"))).await;
    live_through(&Fate::DoneButFails(Status::unavailable("away"))).await;
}

#[tokio::test(start_paused = true)]
async fn late_answers_are_waited_for() {
    live_through(&Fate::Late(20 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_never_end_are_given_up_and_made_again() {
    live_through(&Fate::Hangs).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_after_any_call_is_followed_by_one_that_finishes() {
    let calls = |agent: &Agent| agent.runtime.look(|state| state.calls.len());
    for step in 1.. {
        let mut agent = start(Settings::containerd_1_6());
        agent.runtime.change(|state| state.needs_mounts = true);
        let mut deaths = 0;
        for version in ["1", "2", ""] {
            let begun = calls(&agent);
            let wanted = (!version.is_empty()).then(|| manifest(version));
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            agent.want(&wanted);
            let enough = |state: &crate::runtime::State| state.calls.len() >= begun + step;
            let died = {
                let done = async {
                    match version {
                        "" => agent.until_gone().await,
                        version => until_runs(&agent, version).await,
                    }
                };
                tokio::select! {
                    biased;
                    () = agent.runtime.until("so many calls", enough) => true,
                    () = done => false,
                }
            };
            if died {
                deaths += 1;
                agent.die_and_start().await;
            }
            match version {
                "" => agent.until_gone().await,
                version => until_runs(&agent, version).await,
            }
        }
        if deaths == 0 {
            assert!(step > 20, "too few calls to die after: {step}");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_termination_that_hangs_ends_in_the_last_version_that_was_wanted() {
    let agent = start(Settings::containerd_2_1());
    agent.want(&[&manifest("1")]);
    until_runs(&agent, "1").await;
    let hangs = Rule::of("StopContainer", Fate::Hangs).container("a");
    agent.runtime.rule(hangs.nth(1, 1));
    agent.want(&[]);
    let ends = |agent: &Agent| agent.report("p").phase == "Terminating";
    agent.until_told("it is being stopped", ends).await;
    for version in ["2", "1", "3"] {
        agent.want(&[&manifest(version)]);
        tokio::time::sleep(SECOND).await;
        assert_eq!(shown_version(&agent), "1", "the old one still stops");
    }
    until_runs(&agent, "3").await;
    agent.want(&[]);
    agent.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn a_finished_container_that_somebody_removed_is_not_run_again() {
    let mut agent = start(Settings::containerd_1_6());
    agent.runtime.lives(|_, _, _| Life::ends(0));
    agent.want(&[&single("", "restartPolicy: OnFailure")]);
    let over = |agent: &Agent| agent.report("p").phase == "Succeeded";
    agent.until_told("it has succeeded", over).await;
    agent.runtime.vanish(&full("p"), "c");
    tokio::time::sleep(60 * SECOND).await;
    agent.die_and_start().await;
    agent.until_told("the new agent knows it", over).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(agent.starts("p", "c").len(), 1);
    assert_eq!(agent.report("p").phase, "Succeeded");
}
