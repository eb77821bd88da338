//! Memory of Pods that have nothing to do.

use std::time::Duration;

use crate::agent::{Agent, SECOND, full, single};
use crate::runtime::Settings;

/// More than the agent waits before it keeps a Pod in little memory.
const LONG: Duration = Duration::from_secs(8);

fn is_unpacked(agent: &Agent) -> bool {
    let desired = agent.desired.borrow();
    let pods = &desired.as_ref().unwrap().pods;
    pods.values().any(|wanted| wanted.pod.is_unpacked())
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_packed_unless_something_happens_to_it() {
    let probes = "readinessProbe: {exec: {command: [x]}}, livenessProbe: {exec: {command: [x]}}";
    let hook = "lifecycle: {preStop: {exec: {command: [x]}}}";
    let container = format!("{probes}, {hook}, env: [{{name: A, value: b}}]");
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&single(&container, "")]);
    agent.until_ready("p").await;
    assert!(is_unpacked(&agent));
    tokio::time::sleep(LONG).await;
    assert!(!is_unpacked(&agent));

    agent.runtime.exit(&full("p"), "c", 1);
    let has_restarted = |agent: &Agent| agent.report("p").restarts == 1;
    agent
        .until_told("it was started again", has_restarted)
        .await;
    assert!(is_unpacked(&agent));
    agent.until_ready("p").await;
    tokio::time::sleep(LONG).await;
    assert!(!is_unpacked(&agent));

    // What an earlier agent started, too.
    agent.die_and_start().await;
    agent.until_ready("p").await;
    tokio::time::sleep(LONG).await;
    assert!(!is_unpacked(&agent));
    assert_eq!(agent.running("p"), [("c".to_owned(), 1)]);

    agent.want(&[]);
    agent.until_gone().await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(agent.told("p"), None);
}
