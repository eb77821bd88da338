//! The calls of a Pod's life are those that it needs, and no others: each takes time of the runtime that
//! other Pods wait for.

use crate::agent::{Agent, SECOND, full, single};
use crate::runtime::{Life, Settings};

/// The methods that were called since the last look, in order.
fn calls(agent: &Agent, seen: &mut usize) -> Vec<&'static str> {
    let calls = agent.runtime.calls();
    let new = calls[*seen..].iter().map(|call| call.method).collect();
    *seen = calls.len();
    new
}

#[tokio::test(start_paused = true)]
async fn a_pod_takes_the_calls_that_it_needs() {
    for settings in [Settings::containerd_1_7(), Settings::containerd_2_1()] {
        let agent = Agent::start(settings);
        agent.runtime.lives(|_, _, _| Life::LONG);
        tokio::time::sleep(SECOND / 2).await;
        let mut seen = 0;
        calls(&agent, &mut seen);
        agent.want(&[&single("", "")]);
        agent.until_ready("p").await;
        tokio::time::sleep(SECOND / 10).await;
        // The address of the sandbox, and what the runtime calls the image, are only told after the start.
        let start = [
            "ImageStatus",
            "RunPodSandbox",
            "PodSandboxStatus",
            "CreateContainer",
            "StartContainer",
            "ContainerStatus",
        ];
        assert_eq!(calls(&agent, &mut seen), start);
        agent.runtime.exit(&full("p"), "c", 1);
        tokio::time::sleep(SECOND / 2).await;
        // How it ended, and its next instance.
        let restart = [
            "ContainerStatus",
            "ImageStatus",
            "CreateContainer",
            "StartContainer",
            "ContainerStatus",
        ];
        assert_eq!(calls(&agent, &mut seen), restart);
        tokio::time::sleep(SECOND).await;
        // Once more how it ended: that it was killed for want of memory may be known later.
        assert_eq!(calls(&agent, &mut seen), ["ContainerStatus"]);
        agent.want(&[]);
        agent.until_gone().await;
        let end = [
            "StopContainer",
            "ContainerStatus",
            "StopPodSandbox",
            "RemovePodSandbox",
        ];
        assert_eq!(calls(&agent, &mut seen), end);
    }
}
