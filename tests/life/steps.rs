//! What a Pod waits for is told while it waits, with its time: the call of the runtime that takes long,
//! the pull, the hook, and what failed the last time.

use podkeeper::pod::report::PodReport;
use podkeeper::pod::state::progress::StepReport;
use tonic::Status;

use crate::agent::{Agent, SECOND, full, single};
use crate::runtime::{Executed, Fate, Rule, Settings};

/// The Pod's report, with the steps that are under way.
fn report(agent: &Agent) -> PodReport {
    let told = agent.told("p");
    told.map(|told| told.current_report()).unwrap_or_default()
}

/// Waits until a step of this name is under way; gives its report.
async fn until_under_way(agent: &Agent, name: &str) -> StepReport {
    for _ in 0..10_000 {
        let mut steps = report(agent).steps.into_iter();
        if let Some(step) = steps.find(|step| step.name == name) {
            return step;
        }
        tokio::time::sleep(SECOND / 10).await;
    }
    panic!("timed out waiting for {name}: {:#?}", report(agent));
}

/// How long a step has been under way, in seconds, by the test's clock.
fn age(agent: &Agent, step: &StepReport) -> i64 {
    let since: jiff::Timestamp = step.since.parse().unwrap();
    agent.context.clock.wall_now() / 1_000_000_000 - since.as_second()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_long_is_shown_with_its_time_while_it_does() {
    for (method, step, container) in [
        ("RunPodSandbox", "RunPodSandbox", ""),
        ("CreateContainer", "CreateContainer", "c"),
        ("StartContainer", "StartContainer", "c"),
        ("PullImage", "PullImage", "c"),
    ] {
        let agent = Agent::start(Settings {
            every_image: method != "PullImage",
            ..Settings::containerd_1_6()
        });
        agent
            .runtime
            .rule(Rule::of(method, Fate::Late(SECOND * 95)).nth(1, 1));
        agent.want(&[&single("", "")]);
        let begun = until_under_way(&agent, step).await;
        assert_eq!(begun.container, container, "{method}");
        tokio::time::sleep(SECOND * 60).await;
        let under_way = until_under_way(&agent, step).await;
        assert_eq!(under_way, begun, "it goes on");
        assert!((59..=62).contains(&age(&agent, &under_way)), "{method}");
        let report = report(&agent);
        assert_eq!(report.containers[0].state, "waiting", "{method}");
        assert!(!report.since.is_empty(), "{method}: {report:#?}");
        agent.until_ready("p").await;
        assert_eq!(self::report(&agent).steps, [], "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_after_a_start_is_shown_while_it_runs() {
    let agent = Agent::start(Settings::containerd_1_6());
    agent.runtime.commands(|_, _| Executed {
        takes: SECOND * 90,
        ..Executed::default()
    });
    let hook = "lifecycle: {postStart: {exec: {command: [wait]}}}";
    agent.want(&[&single(hook, "")]);
    let begun = until_under_way(&agent, "PostStartHook").await;
    assert_eq!(begun.container, "c");
    tokio::time::sleep(SECOND * 60).await;
    let under_way = until_under_way(&agent, "PostStartHook").await;
    assert!((59..=62).contains(&age(&agent, &under_way)));
    agent.until_ready("p").await;
    assert_eq!(report(&agent).steps, []);
}

#[tokio::test(start_paused = true)]
async fn what_failed_last_stays_told_while_it_is_tried_again() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_1_6()
    });
    let gone = Fate::Fails(Status::unknown("no such host"));
    agent.runtime.rule(Rule::of("PullImage", gone).nth(1, 1));
    agent
        .runtime
        .rule(Rule::of("PullImage", Fate::Late(SECOND * 60)).nth(2, 1));
    agent.want(&[&single("", "")]);
    let failed = |agent: &Agent| agent.report("p").reason == "ErrImagePull";
    agent.until_told("the pull failed", failed).await;
    until_under_way(&agent, "PullImage").await;
    let container = report(&agent).containers.remove(0);
    assert_eq!(container.reason, "ErrImagePull");
    let again = "no such host; the image \"busybox:1.36\" is being pulled again since ";
    assert!(container.message.starts_with(again), "{container:#?}");
    agent.until_ready("p").await;

    let agent = Agent::start(Settings::containerd_1_6());
    let no_network = Fate::Fails(Status::unknown("no network"));
    agent
        .runtime
        .rule(Rule::of("RunPodSandbox", no_network).nth(1, 2));
    agent
        .runtime
        .rule(Rule::of("RunPodSandbox", Fate::Late(SECOND * 60)).nth(3, 1));
    agent.want(&[&single("", "")]);
    let failed = |agent: &Agent| agent.report("p").reason == "FailedCreatePodSandBox";
    agent.until_told("the sandbox failed", failed).await;
    let first = report(&agent).since;
    let pod = full("p");
    while agent.runtime.calls_for(&pod).len() < 3 {
        tokio::time::sleep(SECOND / 10).await;
    }
    let under_way = until_under_way(&agent, "RunPodSandbox").await;
    assert!(age(&agent, &under_way) < 2);
    let report = report(&agent);
    assert!(report.message.contains("no network"), "{report:#?}");
    assert_eq!(report.since, first, "since the first failure");
    agent.until_ready("p").await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_takes_long_is_shown_with_what_is_left_of_the_pod() {
    let agent = Agent::start(Settings::containerd_1_6());
    agent.want(&[&single("", "")]);
    agent.until_ready("p").await;
    let uid = agent.report("p").uid;
    let late = Fate::Late(SECOND * 95);
    agent
        .runtime
        .rule(Rule::of("StopPodSandbox", late).nth(1, 1));
    agent.want(&[]);
    until_under_way(&agent, "StopPodSandbox").await;
    tokio::time::sleep(SECOND * 60).await;
    let step = until_under_way(&agent, "StopPodSandbox").await;
    assert!((59..=62).contains(&age(&agent, &step)));
    let report = report(&agent);
    assert_eq!(
        (report.phase.as_str(), &report.uid, &step.uid),
        ("Terminating", &uid, &uid)
    );
    agent.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_waited_for_since_the_pod_was_first_seen() {
    let agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_1_6()
    });
    let gone = Fate::Fails(Status::unknown("no such host"));
    agent.runtime.rule(Rule::of("PullImage", gone).nth(1, 3));
    agent.want(&[&single("", "")]);
    let failed = |agent: &Agent| agent.report("p").reason == "ErrImagePull";
    agent.until_told("the pull failed", failed).await;
    let first = report(&agent).since;
    let again = |agent: &Agent| agent.report("p").reason == "ImagePullBackOff";
    agent.until_told("it failed again", again).await;
    assert_eq!(report(&agent).since, first);
    agent.until_ready("p").await;
}
