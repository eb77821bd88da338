//! Memory of Pods that wait.

use podkeeper::source::Desired;

use crate::agent::{Agent, SECOND, full, single};
use crate::runtime::{Fate, Rule, Settings};

/// The number of Pods whose metadata and spec are in memory as the API's types.
fn unpacked(agent: &Agent) -> usize {
    let desired = agent.desired.borrow();
    let pods = desired
        .iter()
        .flat_map(|desired: &Desired| desired.pods.values());
    pods.filter(|wanted| wanted.pod.is_unpacked()).count()
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_packed_unless_something_happens_to_it() {
    let probes = "readinessProbe: {exec: {command: [x]}}, livenessProbe: {exec: {command: [x]}}";
    let hook = "lifecycle: {preStop: {exec: {command: [x]}}}";
    let container = format!("{probes}, {hook}, env: [{{name: A, value: b}}]");
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&single(&container, "")]);
    agent.until_ready("p").await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(unpacked(&agent), 0);

    agent.runtime.exit(&full("p"), "c", 1);
    let has_restarted = |agent: &Agent| agent.report("p").restarts == 1;
    agent
        .until_told("it was started again", has_restarted)
        .await;
    agent.until_ready("p").await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(unpacked(&agent), 0);

    // What an earlier agent started, too.
    agent.die_and_start().await;
    agent.until_ready("p").await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(unpacked(&agent), 0);
    assert_eq!(agent.running("p"), [("c".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn pods_that_wait_for_their_turn_are_packed() {
    let agent = Agent::start(Settings::containerd_2_1());
    let late = Rule::of("RunPodSandbox", Fate::Late(20 * SECOND));
    agent.runtime.rule(late);
    let pod = |number: u32| single("", "").replace("name: p", &format!("name: p{number}"));
    let pods: Vec<String> = (0..60).map(pod).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    agent.want(&pods);
    // Long enough for each of them to have looked at itself several times.
    tokio::time::sleep(5 * SECOND).await;
    let calls = agent.runtime.calls();
    let begun = calls.iter().filter(|call| call.method == "RunPodSandbox");
    let begun = begun.count();
    assert!((1..40).contains(&begun), "{begun} of 60 have their turn");
    assert!(unpacked(&agent) <= begun, "{}", unpacked(&agent));
}
