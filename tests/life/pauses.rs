//! Pods that are paused: stopped with all that is theirs, kept so, and started again as their manifests say then.

use podkeeper::pod::task::{Message, PauseRequest, RequestRefused};
use podkeeper::source::Desired;
use tokio::sync::oneshot;
use tonic::Status;

use crate::agent::{Agent, HOUR, SECOND, full, single};
use crate::requests::ask;
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

/// Asks for a pause or its end; returns whether that changed anything.
async fn pause(agent: &Agent, pause: bool) -> Result<bool, RequestRefused> {
    let (reply, replied) = oneshot::channel();
    ask(agent, Message::Pause(PauseRequest { pause, reply }));
    replied.await.expect("the Pod has a task")
}

async fn until_paused(agent: &Agent) {
    let is_paused = |agent: &Agent| {
        let report = agent.report("p");
        report.paused && (report.phase.as_str(), report.reason.as_str()) == ("Pending", "Paused")
    };
    agent.until_told("it is paused", is_paused).await;
    let left = |state: &crate::runtime::State| state.sandboxes.len() + state.containers.len();
    assert_eq!(agent.runtime.look(left), 0);
}

/// The number of sandboxes that were made so far.
fn sandboxes(agent: &Agent) -> usize {
    let calls = agent.runtime.calls_for(&full("p")).into_iter();
    calls.filter(|call| call.method == "RunPodSandbox").count()
}

fn kept(agent: &Agent) -> usize {
    let kept = std::fs::read_dir(agent.folder.path().join("root/pauses"));
    kept.map_or(0, Iterator::count)
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_paused_with_its_grace_period_and_stays_so_until_it_is_resumed() {
    for settings in [Settings::containerd_1_6(), Settings::containerd_2_1()] {
        let mut agent = Agent::start(settings);
        agent.runtime.lives(|_, _, _| Life::DEAF);
        agent.runtime.commands(|_, _| Executed {
            takes: 5 * SECOND,
            ..Executed::default()
        });
        let hook = "lifecycle: {preStop: {exec: {command: [bye]}}}";
        let manifest = single(hook, "terminationGracePeriodSeconds: 20");
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        let before = tokio::time::Instant::now();
        assert_eq!(pause(&agent, true).await, Ok(true));
        assert_eq!(pause(&agent, true).await, Ok(false), "it is so already");
        let report = agent.report("p");
        assert!(report.paused && report.phase == "Terminating", "{report:?}");
        until_paused(&agent).await;
        let took = before.elapsed().as_secs();
        assert!((20..=22).contains(&took), "{took}");

        let status = agent.status("p");
        assert_eq!(status.reason.as_deref(), Some("Paused"));
        assert_eq!(agent.waits_for("p", "c").as_deref(), Some("Paused"));
        let told = agent.told("p").unwrap();
        assert!(!told.status.is_ready() && !told.terminating && told.version.is_some());
        for _ in 0..2 {
            tokio::time::sleep(HOUR).await;
            agent.die_and_start().await;
            until_paused(&agent).await;
        }
        assert_eq!(sandboxes(&agent), 1);

        assert_eq!(pause(&agent, false).await, Ok(true));
        assert!(!agent.report("p").paused, "its report shows it at once");
        agent.until_ready("p").await;
        assert_eq!(kept(&agent), 0);
        assert_eq!(pause(&agent, false).await, Ok(false));
        agent.die_and_start().await;
        agent.until_ready("p").await;
        assert_eq!(sandboxes(&agent), 2);
        agent.want(&[]);
        agent.until_gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_pod_comes_back_as_its_manifest_says_by_then() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&single("", "")]);
    agent.until_ready("p").await;
    pause(&agent, true).await.unwrap();
    until_paused(&agent).await;
    let before = agent.report("p").uid;
    agent.want(&[&single("args: [second]", "")]);
    let is_new = |agent: &Agent| agent.report("p").uid != before;
    agent.until_told("it is the new one", is_new).await;
    until_paused(&agent).await;
    let second = agent.report("p").uid;
    // Changed once more while no agent runs.
    agent.die().await;
    agent.want(&[&single("args: [third]", "")]);
    agent.start_next();
    let is_new = |agent: &Agent| !["", &second].contains(&agent.report("p").uid.as_str());
    agent.until_told("it is the newest one", is_new).await;
    until_paused(&agent).await;
    assert_eq!(sandboxes(&agent), 1);
    pause(&agent, false).await.unwrap();
    agent.until_ready("p").await;
    let args = |state: &crate::runtime::State| state.containers[0].config.args.clone();
    assert_eq!(agent.runtime.look(args), ["third"]);
    agent.want(&[]);
    agent.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_with_the_manifest_whether_or_not_an_agent_runs_then() {
    for runs in [true, false] {
        let mut agent = Agent::start(Settings::containerd_2_1());
        let manifest = single("", "");
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        pause(&agent, true).await.unwrap();
        until_paused(&agent).await;
        if runs {
            agent.want(&[]);
        } else {
            agent.die().await;
            agent.want(&[]);
            agent.start_next();
        }
        agent.until_gone().await;
        while kept(&agent) > 0 {
            tokio::time::sleep(SECOND).await;
        }
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        agent.want(&[]);
        agent.until_gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_outlives_an_agent_that_does_not_know_all_manifests() {
    for why in ["the document of the URL", "the directory"] {
        let mut agent = Agent::start(Settings::containerd_2_1());
        let manifest = single("", "terminationGracePeriodSeconds: 60");
        agent.runtime.lives(|_, _, _| Life::DEAF);
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        pause(&agent, true).await.unwrap();
        let stops = |agent: &Agent| agent.report("p").phase == "Terminating";
        agent.until_told("it is being stopped", stops).await;
        agent.die().await;
        let mut unknown = Desired::default();
        if why == "the directory" {
            unknown.unreadable.push("does not answer".to_owned());
        } else {
            unknown.web_unknown = true;
        }
        agent.desired.send_replace(Some(unknown));
        agent.start_next();
        agent.until_gone().await;
        tokio::time::sleep(100 * SECOND).await;
        assert_eq!(kept(&agent), 1, "{why}");
        let before = sandboxes(&agent);
        agent.want(&[&manifest]);
        until_paused(&agent).await;
        tokio::time::sleep(HOUR).await;
        assert_eq!(sandboxes(&agent), before, "{why}");
        agent.want(&[]);
        agent.until_gone().await;
        while kept(&agent) > 0 {
            tokio::time::sleep(SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_being_started_or_cannot_be_is_paused_at_once() {
    let late = Fate::Late(50 * SECOND);
    let fails = Fate::Fails(Status::unknown("no"));
    for (method, fate) in [
        ("RunPodSandbox", late.clone()),
        ("StartContainer", late),
        ("CreateContainer", fails),
    ] {
        let agent = Agent::start(Settings::containerd_2_1());
        agent.runtime.rule(Rule::of(method, fate));
        agent.want(&[&single("", "")]);
        let is_called =
            |state: &crate::runtime::State| state.calls.iter().any(|call| call.method == method);
        agent.runtime.until("it is being started", is_called).await;
        assert_eq!(pause(&agent, true).await, Ok(true), "{method}");
        until_paused(&agent).await;
        agent.runtime.clear_rules();
        // It is resumed while it is being stopped once more, too.
        pause(&agent, false).await.unwrap();
        agent.until_ready("p").await;
        pause(&agent, true).await.unwrap();
        pause(&agent, false).await.unwrap();
        agent.until_ready("p").await;
        agent.want(&[]);
        agent.until_gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_paused_pod_had_of_the_node_is_free_and_not_taken_back() {
    let agent = Agent::start(Settings::containerd_2_1());
    let manifest = single("ports: [{containerPort: 80, hostPort: 80}]", "");
    let other = manifest.replace("name: p}", "name: q}");
    agent.want(&[&manifest]);
    agent.until_ready("p").await;
    agent.want(&[&manifest, &other]);
    let is_rejected = |agent: &Agent| agent.report("q").phase == "Failed";
    agent.until_told("there is no room", is_rejected).await;
    pause(&agent, true).await.unwrap();
    until_paused_beside(&agent).await;
    agent.until_ready("q").await;
    pause(&agent, false).await.unwrap();
    let is_rejected = |agent: &Agent| agent.report("p").phase == "Failed";
    agent.until_told("there is no room", is_rejected).await;
    pause(&agent, true).await.unwrap();
    agent.want(&[]);
    agent.until_gone().await;
}

async fn until_paused_beside(agent: &Agent) {
    let is_paused = |agent: &Agent| agent.report("p").reason == "Paused";
    agent.until_told("it is paused", is_paused).await;
}
