//! What people ask for while the agent runs: restarts of containers.

use tokio::sync::oneshot;

use podkeeper::manifest::PodKey;
use podkeeper::pod::task::{Message, PodRequest, RequestRefused, RestartRequest};
use tonic::Status;

use crate::agent::{Agent, SECOND, full, pod, single};
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

pub(crate) fn ask(agent: &Agent, message: Message) {
    let key = PodKey {
        namespace: "default".into(),
        name: full("p"),
    };
    assert!(agent.context.requests.send(PodRequest { key, message }));
}

/// Asks for a restart; returns the names of the containers.
async fn restart(agent: &Agent, container: Option<&str>) -> Result<Vec<String>, RequestRefused> {
    let (reply, replied) = oneshot::channel();
    let container = container.map(str::to_owned);
    ask(agent, Message::Restart(RestartRequest { container, reply }));
    replied.await.expect("the Pod has a task")
}

/// Waits until this instance of a container runs, and the restart is over.
async fn until_attempt(agent: &Agent, container: &str, attempt: u32) {
    let runs = |agent: &Agent| {
        let running = agent.running("p");
        !agent.report("p").restarting && running.contains(&(container.to_owned(), attempt))
    };
    let what = format!("instance {attempt} of {container} runs");
    agent.until_told(&what, runs).await;
}

fn restarts_told(agent: &Agent) -> Vec<String> {
    let events = agent.events("p").into_iter();
    let events = events.filter(|event| event.reason == "RestartRequested");
    events.map(|event| event.message).collect()
}

#[tokio::test(start_paused = true)]
async fn a_restart_has_the_hook_and_the_grace_period_and_no_back_off() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, _| Life::DEAF);
    agent.runtime.commands(|_, _| Executed {
        takes: 5 * SECOND,
        ..Executed::default()
    });
    let hook = "lifecycle: {preStop: {exec: {command: [bye]}}}";
    agent.want(&[&single(hook, "terminationGracePeriodSeconds: 20")]);
    agent.until_ready("p").await;
    for attempt in 1..=3 {
        let before = tokio::time::Instant::now();
        assert_eq!(restart(&agent, None).await, Ok(vec!["c".to_owned()]));
        assert!(agent.report("p").restarting, "its report shows it at once");
        until_attempt(&agent, "c", attempt).await;
        let took = before.elapsed().as_secs();
        assert!((20..=21).contains(&took), "{took}");
    }
    let hooks = |state: &crate::runtime::State| {
        let hooks = state.calls.iter().filter(|c| c.method == "ExecSync");
        hooks.count()
    };
    assert_eq!(agent.runtime.look(hooks), 3);
    assert_eq!(agent.report("p").restarts, 3);
    assert_eq!(
        restarts_told(&agent),
        ["Container c is restarted on request"; 1]
    );
    agent.want(&[]);
    agent.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn containers_are_stopped_side_by_side_for_a_restart() {
    let agent = Agent::start(Settings::containerd_1_6());
    agent.runtime.lives(|_, _, _| Life::DEAF);
    let image = "image: 'busybox:1.36'";
    agent.want(&[&pod(&format!(
        "restartPolicy: Never, terminationGracePeriodSeconds: 30,
         containers: [{{name: a, {image}}}, {{name: b, {image}}}]"
    ))]);
    agent.until_ready("p").await;
    let before = tokio::time::Instant::now();
    restart(&agent, None).await.unwrap();
    until_attempt(&agent, "a", 1).await;
    until_attempt(&agent, "b", 1).await;
    let took = before.elapsed().as_secs();
    assert!((30..=31).contains(&took), "{took}");
    restart(&agent, Some("b")).await.unwrap();
    until_attempt(&agent, "b", 2).await;
    assert!(agent.running("p").contains(&("a".into(), 1)));
    let refused = restart(&agent, Some("x")).await.unwrap_err().to_string();
    let expected = format!(
        "Pod default/{} cannot be restarted: it has no container \"x\"",
        full("p")
    );
    assert_eq!(refused, expected);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_was_begun_goes_on_though_the_agent_dies_and_a_stop_fails() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, _| Life::DEAF);
    let fate = Fate::Fails(Status::unavailable("away"));
    agent
        .runtime
        .rule(Rule::of("StopContainer", fate).nth(1, 1));
    agent.want(&[&single("", "terminationGracePeriodSeconds: 60")]);
    agent.until_ready("p").await;
    let before = tokio::time::Instant::now();
    restart(&agent, None).await.unwrap();
    for _ in 0..2 {
        tokio::time::sleep(10 * SECOND).await;
        agent.die_and_start().await;
    }
    until_attempt(&agent, "c", 1).await;
    let took = before.elapsed().as_secs();
    assert!((60..=63).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_taken_while_another_or_a_start_is_under_way() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, _| Life::DEAF);
    let late = Fate::Late(30 * SECOND);
    agent
        .runtime
        .rule(Rule::of("StartContainer", late).nth(1, 1));
    agent.want(&[&single("", "terminationGracePeriodSeconds: 20")]);
    let starts =
        |state: &crate::runtime::State| state.calls.iter().any(|c| c.method == "StartContainer");
    agent.runtime.until("it starts", starts).await;
    // It is the new instance already.
    restart(&agent, None).await.unwrap();
    agent.until_ready("p").await;
    assert_eq!(agent.running("p"), [("c".to_owned(), 0)]);
    restart(&agent, None).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    let before = tokio::time::Instant::now();
    restart(&agent, None).await.unwrap();
    until_attempt(&agent, "c", 1).await;
    let took = before.elapsed().as_secs();
    assert!((10..=11).contains(&took), "{took}");
    // One that is being stopped for good is not restarted.
    agent.want(&[]);
    tokio::time::sleep(SECOND).await;
    let refused = restart(&agent, None).await.unwrap_err().to_string();
    assert!(
        refused.ends_with("cannot be restarted: it is being stopped"),
        "{refused}"
    );
    agent.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_does_not_run_again_in_a_sandbox_that_is_being_stopped() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, attempt| match attempt {
        0 => Life::ends_after(SECOND, 0),
        _ => Life::LONG,
    });
    let late = Fate::Late(5 * SECOND);
    agent.runtime.rule(Rule::of("StopPodSandbox", late));
    agent.want(&[&single("", "restartPolicy: Never")]);
    let is_called = |state: &crate::runtime::State| {
        state
            .calls
            .iter()
            .any(|call| call.method == "StopPodSandbox")
    };
    agent
        .runtime
        .until("its sandbox is being stopped", is_called)
        .await;
    restart(&agent, None).await.unwrap();
    until_attempt(&agent, "c", 1).await;
    let of_new = agent.runtime.look(|state| {
        let newest = state.newest(&full("p"), "c").unwrap();
        let ready = state.sandboxes.iter().filter(|s| s.ready);
        ready.map(|s| s.id == newest.sandbox).collect::<Vec<_>>()
    });
    assert_eq!(of_new, [true]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_runs_again_on_request() {
    for settings in [Settings::containerd_1_6(), Settings::containerd_2_1()] {
        let mut agent = Agent::start(settings);
        agent.runtime.lives(|_, _, attempt| match attempt {
            0 => Life::ends_after(SECOND, 0),
            _ => Life::LONG,
        });
        agent.want(&[&single("", "restartPolicy: Never")]);
        let is_over = |agent: &Agent| agent.report("p").phase == "Succeeded";
        agent.until_told("it is over", is_over).await;
        tokio::time::sleep(60 * SECOND).await;
        restart(&agent, None).await.unwrap();
        until_attempt(&agent, "c", 1).await;
        agent.until_ready("p").await;
        agent.die_and_start().await;
        agent.until_ready("p").await;
        assert_eq!(agent.running("p"), [("c".to_owned(), 1)]);
        agent.want(&[]);
        agent.until_gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_takes_nothing_back_from_others_on_request() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|pod, _, _| {
        if pod == full("p") {
            Life::ends_after(SECOND, 0)
        } else {
            Life::LONG
        }
    });
    let port = "ports: [{containerPort: 80, hostPort: 80}]";
    let over = single(port, "restartPolicy: Never");
    let other = single(port, "").replace("name: p}", "name: q}");
    agent.want(&[&over]);
    let is_over = |agent: &Agent| agent.report("p").phase == "Succeeded";
    agent.until_told("it is over", is_over).await;
    agent.want(&[&over, &other]);
    agent.until_ready("q").await;
    let RequestRefused(why) = restart(&agent, None).await.unwrap_err();
    assert!(why.contains("NodePorts"), "{why}");
    assert_eq!(agent.report("p").phase, "Succeeded");
    // One that was never admitted has nothing to restart.
    let agent = Agent::start(Settings::containerd_2_1());
    agent.want(&[&other]);
    agent.until_ready("q").await;
    agent.want(&[&other, &single(port, "")]);
    let is_rejected = |agent: &Agent| agent.report("p").reason == "NodePorts";
    agent.until_told("it is rejected", is_rejected).await;
    let RequestRefused(why) = restart(&agent, None).await.unwrap_err();
    assert!(why.contains("the node rejects it"), "{why}");
}
