//! What fails on the way out or is lost on the way in holds up nothing that can go on.

use std::path::PathBuf;

use podkeeper::cri::v1::ExecSyncRequest;
use podkeeper::pod::report::PodReport;
use tokio::time::Instant;
use tonic::Status;

use crate::agent::{Agent, SECOND, full, pod, single};
use crate::runtime::{Executed, Fate, Life, Rule, Settings};

const GRACE: &str = "terminationGracePeriodSeconds: 1";
const PLUGIN: &str = "failed to destroy network for sandbox \"s\": plugin type=\"slow-cni\" failed \
                      (delete): exit status 1";

fn edited() -> String {
    single("env: [{name: VERSION, value: '2'}]", GRACE)
}

/// An agent whose runtime cannot give back networks.
fn without_teardown() -> Agent {
    let agent = Agent::start(Settings::containerd_2_1());
    let fails = Fate::DoneButFails(Status::unknown(PLUGIN));
    agent.runtime.rule(Rule::of("StopPodSandbox", fails));
    agent
}

fn killed_in_vain(agent: &Agent) -> bool {
    let events = agent.events("p");
    let mut events = events.iter();
    // The kubelet quotes the runtime's error in it.
    let quoted = format!("{:?}", format!("rpc error: code = Unknown desc = {PLUGIN}"));
    events.any(|e| e.reason == "FailedKillPod" && e.message.ends_with(&quoted))
}

#[tokio::test(start_paused = true)]
async fn an_update_does_not_wait_for_a_network_that_is_not_given_back() {
    let agent = without_teardown();
    agent.want(&[&single("", GRACE)]);
    agent.until_ready("p").await;
    let old = agent.report("p").uid;
    let before = Instant::now();
    agent.want(&[&edited()]);
    let runs = |agent: &Agent| agent.report("p").ready == 1 && agent.report("p").uid != old;
    agent.until_told("the update runs", runs).await;
    assert!(before.elapsed() < 5 * SECOND, "{:?}", before.elapsed());
    let fails = |agent: &Agent| agent.report("p").cleanup.is_some();
    agent.until_told("the clean-up fails", fails).await;
    let cleanup = agent.report("p").cleanup.unwrap();
    assert_eq!(cleanup.reason, "FailedKillPod");
    assert!(cleanup.message.contains(PLUGIN), "{}", cleanup.message);
    assert!(killed_in_vain(&agent), "{:#?}", agent.events("p"));
    // A plugin that is mended later lets the rest go.
    tokio::time::sleep(100 * SECOND).await;
    assert!(fails(&agent), "it does not forget");
    agent.runtime.clear_rules();
    let one = |state: &crate::runtime::State| state.sandboxes.len() == 1;
    agent.runtime.until("the old sandbox is gone", one).await;
    agent
        .until_told("all is clean", |agent| !fails(agent))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_says_which_network_is_not_given_back_and_the_pod_comes_back_at_once() {
    for manifest in [single("", GRACE), edited()] {
        let agent = without_teardown();
        agent.want(&[&single("", GRACE)]);
        agent.until_ready("p").await;
        agent.want(&[]);
        let fails = |agent: &Agent| agent.report("p").message.contains(PLUGIN);
        agent.until_told("the removal fails", fails).await;
        let PodReport { phase, reason, .. } = agent.report("p");
        assert_eq!(
            (phase.as_str(), reason.as_str()),
            ("Terminating", "FailedKillPod")
        );
        assert!(killed_in_vain(&agent), "{:#?}", agent.events("p"));
        tokio::time::sleep(100 * SECOND).await;
        let before = Instant::now();
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        assert!(before.elapsed() < 3 * SECOND, "{:?}", before.elapsed());
        agent.runtime.clear_rules();
        agent.want(&[]);
        agent.until_gone().await;
    }
}

/// The Pod's cgroup in a hierarchy that is a plain folder, where nothing that holds a file goes.
fn cgroup(agent: &Agent) -> PathBuf {
    let uid = agent.report("p").uid;
    let mut folders = vec![agent.folder.path().join("cgroups")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with(format!("pod{uid}")) {
                return path;
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    panic!("the Pod has no cgroup");
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_names_the_path_and_the_pod_comes_back_at_once() {
    for restart_policy in ["Always", "Never"] {
        let mut agent = Agent::start(Settings::containerd_2_1());
        std::fs::create_dir(agent.folder.path().join("cgroups/cpu")).unwrap();
        let manifest = single("", &format!("{GRACE}, restartPolicy: {restart_policy}"));
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        let cgroup = cgroup(&agent);
        std::fs::write(cgroup.join("busy"), "").unwrap();
        for dies in [false, true] {
            agent.want(&[]);
            let names = |agent: &Agent| {
                let report = agent.report("p");
                let path = cgroup.to_str().unwrap();
                report.reason == "FailedRemoval" && report.message.contains(path)
            };
            agent.until_told("the removal fails", names).await;
            assert_eq!(agent.report("p").phase, "Terminating");
            let told = |agent: &Agent| {
                let events = agent.events("p");
                events.iter().any(|e| e.reason == "FailedRemoval")
            };
            assert!(told(&agent));
            tokio::time::sleep(200 * SECOND).await;
            if dies {
                agent.die_and_start().await;
                agent.until_told("it still fails", names).await;
            }
            let before = Instant::now();
            agent.want(&[&manifest]);
            agent.until_ready("p").await;
            assert!(before.elapsed() < 3 * SECOND, "{:?}", before.elapsed());
            assert_eq!(
                agent.report("p").restarts,
                0,
                "nothing of it was left in the runtime"
            );
        }
        agent.want(&[]);
        std::fs::remove_dir_all(&cgroup).unwrap();
        agent.until_gone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stays_reserved_for_nothing_is_passed_over() {
    let agent = Agent::start(Settings::containerd_2_1());
    let lost = |method| Rule::of(method, Fate::LeavesName).nth(1, 2);
    agent.runtime.rule(lost("RunPodSandbox"));
    agent.runtime.rule(lost("CreateContainer"));
    agent.want(&[&single("", GRACE)]);
    let fails = |agent: &Agent| {
        let report = agent.report("p");
        let cause = "CreateContainer: context deadline exceeded";
        let made = agent.runtime.look(|state| state.sandboxes.len());
        made == 1 && report.message.contains(cause) && agent.runtime.calls().len() > 5
    };
    agent.until_told("the cause is shown", fails).await;
    let before = Instant::now();
    agent.until_ready("p").await;
    assert!(before.elapsed() < 20 * SECOND, "{:?}", before.elapsed());
    let (sandbox, log) = agent.runtime.look(|state| {
        let container = state.newest(&full("p"), "c").unwrap();
        let sandbox = state.sandboxes[0].config.metadata.as_ref().unwrap();
        (sandbox.attempt, container.config.log_path.clone())
    });
    assert_eq!((sandbox, log.as_str()), (1, "c/1.log"));
    assert_eq!(agent.running("p"), [("c".to_owned(), 1)]);
    assert_eq!(agent.report("p").restarts, 1, "as the runtime counts them");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_reserved_for_something_that_is_there_is_waited_for() {
    let agent = Agent::start(Settings::containerd_2_1());
    let late = Fate::DoneButFails(Status::deadline_exceeded("context deadline exceeded"));
    agent
        .runtime
        .rule(Rule::of("CreateContainer", late).nth(1, 1));
    agent.want(&[&single("", GRACE)]);
    agent.until_ready("p").await;
    assert_eq!(agent.running("p"), [("c".to_owned(), 0)]);
}

/// How often the command was run, and how long each may take, in seconds.
fn hooks(agent: &Agent) -> Vec<i64> {
    let calls = agent.runtime.calls();
    let requests = calls.iter().filter_map(|c| c.request::<ExecSyncRequest>());
    requests.map(|r| r.timeout).collect()
}

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_is_run_again_by_the_next_agent_and_the_pod_is_not_ready_before() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.commands(|_, _| Executed {
        takes: 4 * SECOND,
        ..Executed::default()
    });
    let hook = "lifecycle: {postStart: {exec: {command: [hook]}}}";
    agent.want(&[&single(hook, GRACE)]);
    for runs in 1..4 {
        let asked = |state: &crate::runtime::State| {
            state
                .calls
                .iter()
                .filter(|c| c.method == "ExecSync")
                .count()
                == runs
        };
        agent.runtime.until("the hook runs", asked).await;
        tokio::time::sleep(3 * SECOND / 2).await;
        let status = agent.container("p", "c").unwrap();
        assert_eq!(
            (status.started, status.ready),
            (Some(false), false),
            "run {runs}"
        );
        if runs < 3 {
            agent.die_and_start().await;
        }
    }
    agent.until_ready("p").await;
    agent.die_and_start().await;
    agent.until_ready("p").await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(hooks(&agent).len(), 3, "one that is done is not run again");
    assert_eq!(agent.running("p"), [("c".to_owned(), 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_may_run_until_its_container_is_killed() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, _, _| Life::DEAF);
    agent.runtime.commands(|_, _| Executed {
        takes: 100 * SECOND,
        ..Executed::default()
    });
    let hook = "lifecycle: {preStop: {exec: {command: [hook]}}}";
    agent.want(&[&single(hook, "terminationGracePeriodSeconds: 5")]);
    agent.until_ready("p").await;
    let before = Instant::now();
    agent.want(&[]);
    agent.until_gone().await;
    let took = before.elapsed().as_secs();
    assert!((7..=8).contains(&took), "{took}");
    let [timeout] = hooks(&agent)[..] else {
        panic!("one hook is run");
    };
    assert!(timeout > 7, "longer than the container lives: {timeout}");
    let failed = agent
        .events("p")
        .iter()
        .filter(|e| e.reason == "FailedPreStopHook")
        .count();
    assert_eq!(failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_folder_and_init_container_are_lost_runs_on_with_its_age() {
    let mut agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, name, _| match name {
        "init" => Life::ends(0),
        _ => Life::LONG,
    });
    let image = "image: 'busybox:1.36'";
    agent.want(&[&pod(&format!(
        "initContainers: [{{name: init, {image}}}], containers: [{{name: a, {image}}}, {{name: b, {image}}}]"
    ))]);
    agent.until_ready("p").await;
    let before = agent.report("p");
    tokio::time::sleep(100 * SECOND).await;
    agent.die().await;
    std::fs::remove_dir_all(agent.folder.path().join("root/pods").join(&before.uid)).unwrap();
    agent.runtime.vanish(&full("p"), "init");
    tokio::time::sleep(100 * SECOND).await;
    agent.start_next();
    agent.until_ready("p").await;
    let after = agent.report("p");
    assert_eq!(
        (after.phase.as_str(), after.reason.as_str()),
        ("Running", "")
    );
    let time = |report: &PodReport| report.seen.parse::<jiff::Timestamp>().unwrap();
    let apart = (time(&after) - time(&before)).get_seconds();
    assert!(apart.abs() <= 2, "{} {}", before.seen, after.seen);
    let init = agent.container("p", "init").unwrap();
    assert!(init.ready);
    assert_eq!(init.state.unwrap().terminated.unwrap().exit_code, 0);
    assert_eq!(agent.starts("p", "init").len(), 1);
    // It is a Pod like any other from here on.
    agent.die_and_start().await;
    agent.until_ready("p").await;
    assert_eq!(agent.report("p").seen, after.seen);
    agent.want(&[]);
    agent.until_gone().await;
}

const SECRET: &str = "env: [{name: A, valueFrom: {secretKeyRef: {name: late, key: k}}}]";

#[tokio::test(start_paused = true)]
async fn a_missing_secret_of_one_container_holds_up_that_container_alone() {
    let agent = Agent::start(Settings::containerd_2_1());
    let image = "image: 'busybox:1.36'";
    let whole =
        format!("containers: [{{name: a, {image}}}, {{name: b, {image}, {SECRET}}}], {GRACE}");
    agent.want(&[&pod(&whole)]);
    let runs = |agent: &Agent| agent.report("p").ready == 1;
    agent.until_told("the other container runs", runs).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(agent.running("p"), [("a".to_owned(), 0)]);
    let waits = || {
        agent
            .container("p", "b")
            .unwrap()
            .state
            .unwrap()
            .waiting
            .unwrap()
    };
    assert_eq!(
        waits().reason.as_deref(),
        Some("CreateContainerConfigError")
    );
    assert!(
        waits()
            .message
            .unwrap()
            .contains("no manifest has the Secret \"late\"")
    );
    assert_eq!(agent.report("p").reason, "CreateContainerConfigError");
    // An update that lacks it waits as a whole, and the old version runs on.
    let before = agent.report("p").uid;
    agent.want(&[&pod(&whole.replace("name: b", "name: c"))]);
    tokio::time::sleep(60 * SECOND).await;
    let report = agent.report("p");
    assert_eq!((report.uid, report.ready), (before, 1));
    assert_eq!(report.update.unwrap().reason, "CreateContainerConfigError");
}

#[tokio::test(start_paused = true)]
async fn a_missing_object_behind_a_volume_holds_up_the_whole_pod() {
    let agent = Agent::start(Settings::containerd_2_1());
    let image = "image: 'busybox:1.36'";
    let volume = "volumes: [{name: v, secret: {secretName: late}}]";
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let pod = pod(&format!(
        "containers: [{{name: a, {image}}}, {{name: b, {image}, {mount}}}], {volume}"
    ));
    agent.want(&[&pod]);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(agent.running("p"), []);
    assert!(agent.report("p").message.contains("\"late\""));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_all_containers_each_shows_how_it_ended_before() {
    let agent = Agent::start(Settings::containerd_2_1());
    agent
        .runtime
        .lives(|_, name, attempt| match (name, attempt) {
            ("init", _) => Life::ends(0),
            ("a", 0) => Life::ends_after(30 * SECOND, 1),
            ("a", 1) => Life::ends_after(30 * SECOND, 88),
            _ => Life::LONG,
        });
    let image = "image: 'busybox:1.36'";
    let rule = "restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}]";
    agent.want(&[&pod(&format!(
        "initContainers: [{{name: init, {image}}}], \
         containers: [{{name: a, {image}, restartPolicy: Always, {rule}}}, {{name: b, {image}}}]"
    ))]);
    let restarted =
        |agent: &Agent| agent.running("p") == [("a".to_owned(), 2), ("b".to_owned(), 1)];
    agent.until_told("all are restarted", restarted).await;
    agent.until_ready("p").await;
    tokio::time::sleep(60 * SECOND).await;
    for (name, code) in [("init", 0), ("a", 88), ("b", 143)] {
        let status = agent.container("p", name).unwrap();
        let last = status.last_state.unwrap().terminated;
        assert_eq!(last.unwrap().exit_code, code, "{name}");
    }
    let (a, b) = (agent.starts("p", "a"), agent.starts("p", "b"));
    assert!(
        a[2] - a[1] < 32.0,
        "without its crash back-off: {a:?}, {b:?}"
    );
}

const DAMAGED: &str = "failed to create containerd container: error unpacking image: failed to extract layer \
                       sha256:541a: failed to get reader from content store: content digest sha256:541a: not found";

/// The calls about images and a container's creation, in order.
fn image_calls(agent: &Agent) -> Vec<&'static str> {
    let calls = agent.runtime.calls().into_iter().map(|call| call.method);
    let about = ["PullImage", "RemoveImage", "CreateContainer"];
    calls.filter(|method| about.contains(method)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_damaged_image_is_pulled_anew_and_removed_first_where_that_does_not_help() {
    let agent = Agent::start(Settings::containerd_2_1());
    let fails = Fate::Fails(Status::not_found(DAMAGED));
    agent
        .runtime
        .rule(Rule::of("CreateContainer", fails).nth(1, 2));
    agent.want(&[&single("", GRACE)]);
    agent.until_ready("p").await;
    let expected = [
        "CreateContainer",
        "PullImage",
        "CreateContainer",
        "RemoveImage",
        "PullImage",
        "CreateContainer",
    ];
    assert_eq!(image_calls(&agent), expected);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_image_that_must_not_be_pulled_says_what_to_do() {
    let agent = Agent::start(Settings::containerd_2_1());
    let fails = Fate::Fails(Status::not_found(DAMAGED));
    agent.runtime.rule(Rule::of("CreateContainer", fails));
    agent.want(&[&single("imagePullPolicy: Never", GRACE)]);
    let waits =
        |agent: &Agent| agent.waits_for("p", "c").as_deref() == Some("CreateContainerError");
    agent.until_told("it fails", waits).await;
    let waiting = agent.container("p", "c").unwrap().state.unwrap().waiting;
    let message = waiting.unwrap().message.unwrap();
    let advice = "the image is damaged: remove it from the runtime and load it again";
    assert_eq!(message, format!("{DAMAGED}; {advice}"));
    tokio::time::sleep(100 * SECOND).await;
    assert!(
        image_calls(&agent)
            .iter()
            .all(|method| *method == "CreateContainer")
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_whose_pull_the_end_of_the_machine_cut_off_is_pulled_anew() {
    let mut agent = Agent::start(Settings {
        every_image: false,
        ..Settings::containerd_2_1()
    });
    agent.runtime.rule(Rule::of("PullImage", Fate::Hangs));
    agent.want(&[&single("", GRACE)]);
    let pulls = agent.facts.paths.root.join("pulls");
    let records = || std::fs::read_dir(&pulls).map_or(0, Iterator::count);
    let pulling = |_: &Agent| records() == 1;
    agent.until_told("the pull is recorded", pulling).await;
    agent.die().await;
    // The next agent is another boot's, on which the runtime has the image.
    let record = std::fs::read_dir(&pulls).unwrap().next().unwrap().unwrap();
    let mut text: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap();
    text["boot"] = "another".into();
    std::fs::write(record.path(), text.to_string()).unwrap();
    agent.runtime.image("busybox:1.36", Some(0), "");
    agent.runtime.clear_rules();
    agent.start_next();
    agent.until_ready("p").await;
    let calls = image_calls(&agent);
    assert_eq!(
        calls[calls.len() - 3..],
        ["RemoveImage", "PullImage", "CreateContainer"]
    );
    assert_eq!(records(), 0);
}

/// The reason of the last end of the Pod's container.
fn reason(agent: &Agent) -> Option<String> {
    let status = agent.container("p", "c")?;
    let ended = [status.state?.terminated, status.last_state?.terminated];
    ended.into_iter().flatten().next()?.reason
}

#[tokio::test(start_paused = true)]
async fn memory_that_ran_out_is_told_where_the_runtime_hears_of_it_after_the_end() {
    for policy in ["Never", "Always"] {
        let agent = Agent::start(Settings::containerd_2_1());
        agent.want(&[&single("", &format!("restartPolicy: {policy}"))]);
        agent.until_ready("p").await;
        agent.runtime.exit(&full("p"), "c", 137);
        let ended = |agent: &Agent| reason(agent).as_deref() == Some("Error");
        agent.until_told("it has ended", ended).await;
        agent.runtime.change(|state| {
            let ended = state.containers.iter_mut().find(|c| c.exit_code == 137);
            ended.unwrap().reason = "OOMKilled".to_owned();
        });
        let told = |agent: &Agent| reason(agent).as_deref() == Some("OOMKilled");
        agent.until_told("its memory ran out", told).await;
    }
}
