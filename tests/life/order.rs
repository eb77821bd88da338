//! Pods that are started after others: their first start is held until those are Ready, and nothing else is.

use std::time::Duration;

use podkeeper::manifest::PodKey;
use podkeeper::pod::task::{Message, PauseRequest, PodRequest};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;

use crate::agent::{Agent, HOUR, SECOND, full, single};
use crate::runtime::{Fate, Life, Rule, Settings, State};

/// A Pod of this name that is started after these.
fn after(name: &str, others: &str, more: &str) -> String {
    let order = format!("podkeeper.io/start-after: '{others}'{more}");
    named(name).replace(
        &format!("name: {name}}}"),
        &format!("name: {name}, annotations: {{{order}}}}}"),
    )
}

fn named(name: &str) -> String {
    single("", "").replace("{name: p}", &format!("{{name: {name}}}"))
}

/// The message of a Pod that is held.
fn held(agent: &Agent, pod: &str) -> Option<String> {
    let report = agent.report(pod);
    (report.reason == "WaitingForPods").then_some(report.message)
}

async fn until_held(agent: &Agent, pod: &str, state: &str) {
    let is_held = |agent: &Agent| held(agent, pod).is_some_and(|message| message.contains(state));
    agent
        .until_told(&format!("{pod} is held by one that is {state}"), is_held)
        .await;
}

/// Pauses or resumes a Pod.
async fn pause(agent: &Agent, pod: &str, pause: bool) {
    let key = PodKey {
        namespace: "default".into(),
        name: full(pod),
    };
    let (reply, replied) = oneshot::channel();
    let message = Message::Pause(PauseRequest { pause, reply });
    assert!(agent.context.requests.send(PodRequest { key, message }));
    assert_eq!(replied.await.unwrap(), Ok(true));
}

fn sandboxes(agent: &Agent, pod: &str) -> usize {
    let calls = agent.runtime.calls_for(&full(pod)).into_iter();
    calls.filter(|call| call.method == "RunPodSandbox").count()
}

fn kept(agent: &Agent) -> usize {
    let kept = std::fs::read_dir(agent.folder.path().join("root/holds"));
    kept.map_or(0, Iterator::count)
}

/// The machine stops without a shutdown and boots: nothing runs, and the next agent is another boot's.
async fn boot(agent: &mut Agent) {
    agent.die().await;
    let pods: Vec<String> = agent.runtime.look(|state| {
        let pods = state.sandboxes.iter().map(|s| s.pod().to_owned());
        pods.collect()
    });
    for pod in &pods {
        agent.runtime.end_sandboxes(pod);
    }
    for entry in std::fs::read_dir(agent.folder.path().join("root/holds")).unwrap() {
        let path = entry.unwrap().path();
        let mut stored: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        stored["boot"] = "another".into();
        std::fs::write(path, stored.to_string()).unwrap();
    }
    agent.start_next();
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_is_held_until_all_the_others_are_ready() {
    for settings in [Settings::containerd_1_6(), Settings::containerd_2_1()] {
        let mut agent = Agent::start(settings);
        let web = after("p", "db,cache", "");
        agent.want(&[&web]);
        until_held(
            &agent,
            "p",
            "default/db-my-node1 (not found), default/cache-my-node1 (not found)",
        )
        .await;
        let since = agent.report("p").since;
        assert!(!since.is_empty());
        assert_eq!(agent.waits_for("p", "c").as_deref(), Some("WaitingForPods"));
        let image = |state: &State| state.calls.iter().any(|c| c.method == "ImageStatus");
        agent
            .runtime
            .until("its image is looked for meanwhile", image)
            .await;

        agent
            .runtime
            .rule(Rule::of("StartContainer", Fate::Late(30 * SECOND)).pod(&full("db")));
        agent.want(&[&web, &named("db"), &named("cache")]);
        agent.until_ready("cache").await;
        until_held(&agent, "p", ": default/db-my-node1 (not Ready)").await;
        tokio::time::sleep(SECOND).await;
        // It is held on, and since the same time, by the next agent.
        agent.die_and_start().await;
        until_held(&agent, "p", ": default/db-my-node1 (not").await;
        assert_eq!(agent.report("p").since, since);
        assert_eq!(sandboxes(&agent, "p"), 0);
        agent.runtime.clear_rules();
        agent.until_ready("p").await;
        let events = agent.events("p").into_iter().map(|event| event.reason);
        let events: Vec<String> = events.filter(|r| r.contains("Pods")).collect();
        assert_eq!(events, ["PodsReady"], "of this agent");
        agent.want(&[]);
        agent.until_gone().await;
        while kept(&agent) > 0 {
            tokio::time::sleep(SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_started_once_is_not_held_again_before_the_next_boot() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    let (web, db) = (after("p", "db", ""), named("db"));
    agent.want(&[&web, &db]);
    agent.until_ready("p").await;
    agent.want(&[&web]);
    let is_gone = |agent: &Agent| agent.told("db").is_none();
    agent
        .until_told("what it came after is gone", is_gone)
        .await;
    // Its container ends, its sandbox ends, the agent dies, and it is updated.
    agent.runtime.exit(&full("p"), "c", 1);
    agent
        .until_told("it ran again", |agent| agent.report("p").restarts == 1)
        .await;
    agent.until_ready("p").await;
    agent.runtime.end_sandboxes(&full("p"));
    let made = |agent: &Agent| sandboxes(agent, "p") == 2;
    agent.until_told("it has another sandbox", made).await;
    agent.until_ready("p").await;
    agent.die().await;
    agent.runtime.end_sandboxes(&full("p"));
    agent.start_next();
    agent
        .until_told("it has a third", |agent| sandboxes(agent, "p") == 3)
        .await;
    agent.until_ready("p").await;
    agent.want(&[&after("p", "db, cache", "")]);
    agent
        .until_told("it was updated", |agent| sandboxes(agent, "p") == 4)
        .await;
    agent.until_ready("p").await;

    boot(&mut agent).await;
    until_held(
        &agent,
        "p",
        "default/db-my-node1 (not found), default/cache-",
    )
    .await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(sandboxes(&agent, "p"), 4);
    agent.want(&[&after("p", "db, cache", ""), &db, &named("cache")]);
    agent.until_ready("p").await;
    assert_eq!(sandboxes(&agent, "p"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ran_without_an_order_is_not_held_when_it_gets_one() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&named("p")]);
    agent.until_ready("p").await;
    // The new version cannot be started at first, and the agent dies meanwhile.
    agent.runtime.rule(Rule::of(
        "RunPodSandbox",
        Fate::Fails(Status::unknown("no")),
    ));
    agent.want(&[&after("p", "db", "")]);
    let fails = |agent: &Agent| agent.report("p").reason == "FailedCreatePodSandBox";
    agent
        .until_told("the new one cannot be started", fails)
        .await;
    agent.die_and_start().await;
    agent.until_told("it is tried again", fails).await;
    agent.runtime.clear_rules();
    agent.until_ready("p").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_starts_without_the_others_once_its_time_is_over() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    let limit = ", podkeeper.io/start-after-timeout: 5m";
    agent.want(&[&after("p", "db", limit)]);
    until_held(&agent, "p", "; starts without them at 20").await;
    let before = Instant::now();
    for _ in 0..2 {
        tokio::time::sleep(60 * SECOND).await;
        agent.die_and_start().await;
        until_held(&agent, "p", "not found").await;
    }
    agent.until_ready("p").await;
    let took = before.elapsed().as_secs();
    assert!((299..=302).contains(&took), "{took}");
    let events = agent.events("p").into_iter();
    let late = events.filter(|event| event.reason == "StartAfterTimeout");
    let late: Vec<String> = late.map(|event| event.message).collect();
    let expected =
        "Starting though Pods are not Ready within 300 s: default/db-my-node1 (not found)";
    assert_eq!(late, [expected]);
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_waits_for_says_why_it_is_not_ready() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|pod, _, _| match pod {
        pod if pod == full("job") => Life::ends(0),
        _ => Life::LONG,
    });
    let job = single("", "restartPolicy: Never").replace("{name: p}", "{name: job}");
    let all = [
        &after("p", "job", "") as &str,
        &after("q", "db", ""),
        &job,
        &named("db"),
    ];
    agent.want(&[&named("db")]);
    agent.until_ready("db").await;
    pause(&agent, "db", true).await;
    agent.want(&all);
    until_held(&agent, "p", "default/job-my-node1 (over, so never Ready)").await;
    until_held(&agent, "q", "default/db-my-node1 (paused)").await;
    pause(&agent, "db", false).await;
    agent.until_ready("q").await;
    assert_eq!(sandboxes(&agent, "p"), 0);
    agent.want(&[&named("p")]);
    agent.until_ready("p").await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_neither_ends_a_hold_nor_begins_one() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    let (web, db) = (
        after("p", "db", ", podkeeper.io/start-after-timeout: 60s"),
        named("db"),
    );
    let is_paused = |agent: &Agent| {
        let report = agent.report("p");
        report.paused && report.phase == "Pending"
    };
    agent.want(&[&web]);
    until_held(&agent, "p", "not found").await;
    pause(&agent, "p", true).await;
    agent.until_told("it is paused", is_paused).await;
    tokio::time::sleep(HOUR).await;
    pause(&agent, "p", false).await;
    // It has all of its time once more.
    until_held(&agent, "p", "not found").await;
    tokio::time::sleep(50 * SECOND).await;
    assert!(held(&agent, "p").is_some());
    agent.want(&[&web, &db]);
    agent.until_ready("p").await;
    pause(&agent, "p", true).await;
    agent.until_told("it is paused", is_paused).await;
    agent.want(&[&web]);
    agent.die_and_start().await;
    agent.until_told("it is paused", is_paused).await;
    pause(&agent, "p", false).await;
    agent.until_ready("p").await;
    assert_eq!(sandboxes(&agent, "p"), 2);
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_pods_wait_for_one_without_looking_again_and_again() {
    let agent = Agent::start(Settings::containerd_2_1());
    let mut pods: Vec<String> = (0..200)
        .map(|i| after(&format!("p{i}"), "db", ""))
        .collect();
    let all = |pods: &[String]| {
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        agent.want(&pods);
    };
    all(&pods);
    until_held(&agent, "p199", "not found").await;
    // Their images are looked for.
    tokio::time::sleep(10 * SECOND).await;
    let before = agent.runtime.calls().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let own = agent.runtime.calls().split_off(before);
    let own = own
        .iter()
        .filter(|call| !call.method.starts_with("List"))
        .count();
    assert_eq!(own, 0, "nothing but relists");
    pods.push(named("db"));
    all(&pods);
    for i in 0..200 {
        agent.until_ready(&format!("p{i}")).await;
    }
}
