//! Updates that are taken back, in time that the test moves.

use crate::agent::{Agent, HOUR, SECOND, full, pod};
use crate::runtime::{Life, Settings};

/// A version with one container, that has a minute to become Ready.
fn version(container: &str) -> String {
    let image = "image: 'busybox:1.36'";
    let manifest = pod(&format!("containers: [{{name: {container}, {image}}}]"));
    let annotated = "{name: p, annotations: {podkeeper.io/rollback-after: 60s}}";
    manifest.replace("{name: p}", annotated)
}

/// An agent on a runtime where containers called `bad` end at once.
fn start() -> Agent {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, name, _| match name {
        "bad" => Life::ends(3),
        _ => Life::LONG,
    });
    agent
}

fn is_taken_back(agent: &Agent) -> bool {
    let update = agent.report("p").update;
    update.is_some_and(|update| update.reason == "RolledBack")
}

async fn until_taken_back(agent: &Agent) {
    agent
        .until_told("the update is taken back", is_taken_back)
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_update_is_taken_back_though_the_good_version_was_just_not_running() {
    let agent = start();
    agent.runtime.lives(|_, name, _| match name {
        "bad" => Life::ends(3),
        _ => Life::ends_after(30 * SECOND, 1),
    });
    agent.want(&[&version("good")]);
    let pauses = |agent: &Agent| {
        let waits = agent.waits_for("p", "good");
        agent.report("p").restarts == 1 && waits.as_deref() == Some("CrashLoopBackOff")
    };
    agent
        .until_told("it waits to be started again", pauses)
        .await;
    agent.want(&[&version("bad")]);
    until_taken_back(&agent).await;
    agent.until_ready("p").await;
    let names: Vec<String> = agent.running("p").into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["good"]);
}

#[tokio::test(start_paused = true)]
async fn an_update_has_its_minute_once_though_the_agent_dies_again_and_again() {
    let mut agent = start();
    agent.want(&[&version("good")]);
    agent.until_ready("p").await;
    agent.want(&[&version("bad")]);
    let tried = |agent: &Agent| agent.container("p", "bad").is_some();
    agent.until_told("the update is tried", tried).await;
    let before = tokio::time::Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(11 * SECOND).await;
        assert!(!is_taken_back(&agent));
        agent.die_and_start().await;
    }
    until_taken_back(&agent).await;
    let took = before.elapsed().as_secs();
    assert!((59..=62).contains(&took), "{took}");
    agent.until_ready("p").await;

    for _ in 0..2 {
        tokio::time::sleep(HOUR).await;
        assert!(is_taken_back(&agent), "it stays so");
        assert_eq!(agent.running("p"), [("good".to_owned(), 0)]);
        agent.die_and_start().await;
        until_taken_back(&agent).await;
    }
    agent.want(&[&version("better")]);
    let better = |agent: &Agent| agent.running("p") == [("better".to_owned(), 0)];
    agent.until_told("another update is tried", better).await;
    tokio::time::sleep(HOUR).await;
    assert!(better(&agent) && !is_taken_back(&agent), "{}", full("p"));
}

/// Without events, the end of a container is seen some time after it.
#[tokio::test(start_paused = true)]
async fn an_update_that_has_ended_unseen_is_taken_back() {
    let agent = Agent::start(Settings::containerd_1_6());
    agent.runtime.lives(|_, name, _| match name {
        "bad" => Life::ends_after(SECOND / 10, 3),
        _ => Life::LONG,
    });
    let short = |container| version(container).replace("60s", "1s");
    for _ in 0..5 {
        agent.want(&[&short("good")]);
        agent.until_ready("p").await;
        agent.want(&[&short("bad")]);
        until_taken_back(&agent).await;
        agent.until_ready("p").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_was_good_is_not_taken_back_for_what_comes_later() {
    let agent = start();
    agent.runtime.lives(|_, name, _| match name {
        "later" => Life::ends_after(600 * SECOND, 1),
        _ => Life::LONG,
    });
    agent.want(&[&version("good")]);
    agent.until_ready("p").await;
    agent.want(&[&version("later")]);
    tokio::time::sleep(HOUR).await;
    let restarts = agent.report("p").restarts;
    assert!(restarts > 0 && !is_taken_back(&agent), "{restarts}");
    assert!(agent.starts("p", "good").len() == 1);
}
