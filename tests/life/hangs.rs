//! Whatever hangs, it hangs alone: other Pods do not notice, and its own Pod follows its manifest.

use std::time::Duration;

use podkeeper::pod::report::PodReport;
use tokio::time::Instant;

use crate::agent::{Agent, SECOND, full};
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

/// How long what is not held up takes at most, by the test's clock.
const SOON: Duration = Duration::from_secs(10);
/// As long as any call may take until its deadline, with the waits between the tries.
const DEADLINE: Duration = Duration::from_secs(400);
/// More Pods hang than there are places for calls.
const HANGING: [&str; 6] = ["h0", "h1", "h2", "h3", "h4", "h5"];
/// The image of Pods that hang; calls about images name no Pod.
const HANGING_IMAGE: &str = "hanging:1";

/// A Pod of one container, in this version, with more of its spec.
fn named(name: &str, version: &str, image: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: \
         '{image}', env: [{{name: VERSION, value: '{version}'}}], {spec}}}]}}}}"
    )
}

fn plain(name: &str, version: &str) -> String {
    named(name, version, "busybox:1.36", "")
}

/// One that hangs where hooks do, and has one.
fn hanging(name: &str, version: &str) -> String {
    let hook = "lifecycle: {postStart: {exec: {command: [hook]}}}";
    named(name, version, HANGING_IMAGE, hook)
}

fn want(agent: &Agent, manifests: &[String]) {
    let manifests: Vec<&str> = manifests.iter().map(String::as_str).collect();
    agent.want(&manifests);
}

/// The running version of a Pod.
fn version(agent: &Agent, pod: &str) -> Option<String> {
    agent.runtime.look(|state| {
        let c = state.newest(&full(pod), "c").filter(|c| c.is_running())?;
        let version = c.config.envs.iter().find(|e| e.key == "VERSION")?;
        String::from_utf8(version.value.clone()).ok()
    })
}

fn is_ready(agent: &Agent, pod: &str) -> bool {
    let report: PodReport = agent.report(pod);
    report.ready == 1 && report.update.is_none()
}

/// Waits until something is so, for a limited time by the test's clock.
async fn within(limit: Duration, what: &str, agent: &Agent, test: impl Fn(&Agent) -> bool) {
    let began = Instant::now();
    while !test(agent) {
        assert!(
            began.elapsed() < limit,
            "{what}: {:#?}",
            agent.context.reports.all()
        );
        tokio::time::sleep(SECOND / 10).await;
    }
}

/// Lets every call of a method hang for the Pods that are to hang.
fn hang(agent: &Agent, method: &'static str) {
    for pod in HANGING {
        agent
            .runtime
            .rule(Rule::of(method, Fate::Hangs).pod(&full(pod)));
    }
    let image = Rule::of(method, Fate::Hangs).container(HANGING_IMAGE);
    agent.runtime.rule(image);
}

fn start(method: &str) -> Agent {
    let agent = Agent::start(Settings {
        every_image: method != "PullImage",
        ..Settings::containerd_2_1()
    });
    agent.runtime.image("busybox:1.36", Some(0), "");
    agent.runtime.lives(|_, _, _| Life::LONG);
    agent.runtime.commands(|_, _| Executed::default());
    agent
}

/// Other Pods are killed, edited, removed and started.
async fn others_do_not_notice(agent: &Agent, method: &str, hanging: &[String]) {
    let wants = |others: &[String]| want(agent, &[hanging, others].concat());
    agent.runtime.exit(&full("killed"), "c", 1);
    let restarted = |agent: &Agent| agent.running("killed") == [("c".to_owned(), 1)];
    within(SOON, &format!("{method}: killed"), agent, restarted).await;
    wants(&[
        plain("killed", "1"),
        plain("edited", "2"),
        plain("removed", "1"),
    ]);
    let edited = |agent: &Agent| version(agent, "edited").as_deref() == Some("2");
    within(SOON, &format!("{method}: edited"), agent, edited).await;
    wants(&[plain("killed", "1"), plain("edited", "2")]);
    let removed = |agent: &Agent| {
        let there = |state: &crate::runtime::State| {
            state.containers.iter().any(|c| c.pod == full("removed"))
        };
        !agent.runtime.look(there)
    };
    within(SOON, &format!("{method}: removed"), agent, removed).await;
    wants(&[
        plain("killed", "1"),
        plain("edited", "2"),
        plain("new", "1"),
    ]);
    let started = |agent: &Agent| is_ready(agent, "new");
    within(4 * SOON, &format!("{method}: new"), agent, started).await;
}

fn others() -> [String; 3] {
    ["killed", "edited", "removed"].map(|name| plain(name, "1"))
}

async fn up(agent: &Agent, pods: &[&str]) {
    for pod in pods {
        within(DEADLINE, pod, agent, |agent| is_ready(agent, pod)).await;
    }
}

/// Makes a test of each method.
macro_rules! for_methods {
    ($test:ident: $($name:ident $method:literal,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                $test($method).await;
            }
        )*
    };
}

// Methods that are called for a Pod before it runs.
for_methods! {
    a_start_hangs_alone:
    image_status_hangs_alone "ImageStatus",
    pull_image_hangs_alone "PullImage",
    run_pod_sandbox_hangs_alone "RunPodSandbox",
    pod_sandbox_status_hangs_alone "PodSandboxStatus",
    create_container_hangs_alone "CreateContainer",
    start_container_hangs_alone "StartContainer",
    container_status_hangs_alone "ContainerStatus",
    exec_sync_hangs_alone "ExecSync",
}

// Methods that are called for a Pod that runs, when it is edited or removed.
for_methods! {
    an_end_hangs_alone:
    stop_container_hangs_alone "StopContainer",
    stop_pod_sandbox_hangs_alone "StopPodSandbox",
    remove_pod_sandbox_hangs_alone "RemovePodSandbox",
    remove_container_hangs_alone "RemoveContainer",
}

async fn a_start_hangs_alone(method: &'static str) {
    let agent = start(method);
    want(&agent, &others());
    up(&agent, &["killed", "edited", "removed"]).await;
    hang(&agent, method);
    let hanging_1: Vec<String> = HANGING.iter().map(|h| hanging(h, "1")).collect();
    want(&agent, &[&hanging_1, others().as_slice()].concat());
    let hangs = |state: &crate::runtime::State| {
        let calls = state.calls.iter().filter(|c| c.method == method);
        let ours = |c: &&crate::runtime::Call| {
            let (pod, name) = (&c.subject.pod, &c.subject.container);
            HANGING.iter().any(|h| *pod == Some(full(h))) || name.as_deref() == Some(HANGING_IMAGE)
        };
        calls.filter(ours).count() > 0
    };
    agent.runtime.until("it hangs", hangs).await;
    others_do_not_notice(&agent, method, &hanging_1).await;
    want(&agent, &hanging_1[3..]);
    for pod in &HANGING[..3] {
        let gone = |agent: &Agent| agent.told(pod).is_none();
        within(2 * SOON, &format!("{method}: {pod} removed"), &agent, gone).await;
    }
    // What hangs goes on hanging, what is new does not.
    agent.runtime.clear_rules();
    let edited: Vec<String> = HANGING[3..].iter().map(|h| plain(h, "2")).collect();
    want(&agent, &edited);
    for pod in &HANGING[3..] {
        let runs = |agent: &Agent| version(agent, pod).as_deref() == Some("2");
        within(2 * SOON, &format!("{method}: {pod} edited"), &agent, runs).await;
    }
    want(&agent, &[]);
    agent.until_gone().await;
}

async fn an_end_hangs_alone(method: &'static str) {
    let agent = start(method);
    let pods =
        |version: &str| -> Vec<String> { HANGING.iter().map(|h| hanging(h, version)).collect() };
    want(&agent, &[&pods("1"), others().as_slice()].concat());
    up(&agent, &HANGING).await;
    up(&agent, &["killed", "edited", "removed"]).await;
    hang(&agent, method);
    want(&agent, &[&pods("2"), others().as_slice()].concat());
    others_do_not_notice(&agent, method, &pods("2")).await;
    let edited = &pods("3")[3..];
    want(&agent, edited);
    agent.runtime.clear_rules();
    for pod in &HANGING[..3] {
        let gone = |agent: &Agent| agent.told(pod).is_none();
        within(DEADLINE, &format!("{method}: {pod} removed"), &agent, gone).await;
    }
    for pod in &HANGING[3..] {
        let runs = |agent: &Agent| version(agent, pod).as_deref() == Some("3");
        within(DEADLINE, &format!("{method}: {pod} edited"), &agent, runs).await;
    }
    want(&agent, &[]);
    agent.until_gone().await;
}

/// The list of everything hangs: what the events tell is done all the same.
#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_holds_up_no_edit() {
    let agent = start("ListContainers");
    want(&agent, &others());
    up(&agent, &["killed", "edited", "removed"]).await;
    agent.runtime.rule(Rule::of("ListContainers", Fate::Hangs));
    let listed = |agent: &Agent| {
        let calls = agent.runtime.calls();
        calls
            .iter()
            .rev()
            .any(|c| c.method == "ListContainers" && c.at.elapsed() < SECOND)
    };
    within(6 * SOON, "it is listed", &agent, listed).await;
    others_do_not_notice(&agent, "ListContainers", &[]).await;
}

/// What cleans up after the version before never holds up the one that runs.
#[tokio::test(start_paused = true)]
async fn a_removal_that_hangs_leaves_the_new_version_supervised() {
    let agent = start("");
    want(&agent, &[plain("p", "1")]);
    up(&agent, &["p"]).await;
    agent
        .runtime
        .rule(Rule::of("RemovePodSandbox", Fate::Hangs));
    want(&agent, &[plain("p", "2")]);
    let runs = |agent: &Agent| version(agent, "p").as_deref() == Some("2");
    within(SOON, "it is edited", &agent, runs).await;
    for restarts in 1..3 {
        agent.runtime.exit(&full("p"), "c", 1);
        let restarted = |agent: &Agent| agent.running("p") == [("c".to_owned(), restarts)];
        within(2 * SOON, "it is restarted", &agent, restarted).await;
    }
    agent.runtime.clear_rules();
    want(&agent, &[]);
    agent.until_gone().await;
}

/// A container that is made for ever does not keep the others of its Pod from being started again.
#[tokio::test(start_paused = true)]
async fn a_container_that_hangs_leaves_the_others_supervised() {
    let agent = start("");
    let rule = Rule::of("CreateContainer", Fate::Hangs).container("b");
    agent.runtime.rule(rule);
    let image = "image: 'busybox:1.36'";
    let manifest = crate::agent::pod(&format!(
        "containers: [{{name: a, {image}}}, {{name: b, {image}}}]"
    ));
    agent.want(&[&manifest]);
    let a_runs = |restarts| move |agent: &Agent| agent.running("p") == [("a".to_owned(), restarts)];
    within(SOON, "a runs", &agent, a_runs(0)).await;
    tokio::time::sleep(SECOND).await;
    agent.runtime.exit(&full("p"), "a", 1);
    within(2 * SOON, "a is restarted", &agent, a_runs(1)).await;
}

/// While the old version has its grace period, it is the Pod: in the report, and in its status.
#[tokio::test(start_paused = true)]
async fn the_old_version_is_shown_until_it_has_ended() {
    let agent = start("");
    agent.runtime.lives(|_, _, _| Life::DEAF);
    let manifest = |version: &str| {
        let pod = plain("p", version);
        pod.replace("spec: {", "spec: {terminationGracePeriodSeconds: 20, ")
    };
    want(&agent, &[manifest("1")]);
    up(&agent, &["p"]).await;
    let old = agent.report("p").uid;
    let shown = std::cell::RefCell::new(vec![]);
    want(&agent, &[manifest("2")]);
    let began = Instant::now();
    let is_new = |agent: &Agent| {
        let report = agent.report("p");
        let phase = agent.status("p").phase.unwrap_or_default();
        shown.borrow_mut().push((report.uid.clone(), phase));
        version(agent, "p").as_deref() == Some("2") && report.uid != old
    };
    agent.until_told("the new version runs", is_new).await;
    assert!(began.elapsed() >= 20 * SECOND);
    let mut shown = shown.into_inner();
    shown.dedup_by_key(|(uid, _)| uid.clone());
    assert_eq!(shown.len(), 2, "{shown:#?}");
    assert_eq!(shown[0], (old, "Running".to_owned()));
}

/// Calls for the status of a sandbox so far.
fn sandbox_statuses(agent: &Agent) -> usize {
    let calls = agent.runtime.calls();
    let statuses = calls.iter().filter(|c| c.method == "PodSandboxStatus");
    statuses.count()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_asks_about_some_pods_at_a_time_and_about_all_where_these_hang() {
    const PODS: usize = 40;
    const AT_A_TIME: usize = 16;
    let mut agent = start("");
    let names: Vec<String> = (0..PODS).map(|pod| format!("p{pod}")).collect();
    let manifests: Vec<String> = names.iter().map(|name| plain(name, "1")).collect();
    want(&agent, &manifests);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    up(&agent, &names).await;
    agent.die().await;
    for pod in &names {
        let hangs = Rule::of("PodSandboxStatus", Fate::Hangs);
        agent.runtime.rule(hangs.pod(&full(pod)));
    }
    let before = sandbox_statuses(&agent);
    let asked = |agent: &Agent| sandbox_statuses(agent) - before;
    agent.start_next();
    within(SOON, "some are asked about", &agent, |agent| {
        asked(agent) == AT_A_TIME
    })
    .await;
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(asked(&agent), AT_A_TIME);
    within(SOON, "all are asked about", &agent, |agent| {
        asked(agent) >= PODS
    })
    .await;
    agent.runtime.clear_rules();
    up(&agent, &names).await;
}
