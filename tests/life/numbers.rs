//! Numbers at the ends of their types, in manifests, in what the runtime answers and on disk: the agent
//! lives on, the Pod can be edited and removed, and the next agent takes over what is left.

use podkeeper::cri::v1;
use podkeeper::manifest::{SourceKind, parse};
use podkeeper::translate::labels;
use serde_json::{Value, json};

use crate::agent::{Agent, HOUR, NODE, SECOND, full, single};
use crate::number_paths::number_paths;
use crate::runtime::{Executed, Life, Settings, State};

const FIXTURE: &str = include_str!("numbers.yaml");

/// What is put in place of a number, or of a text that begins as one: 0, -1 and the most of every type.
fn extremes(of: &Value) -> Vec<Value> {
    if of.is_string() {
        let texts = ["0", "-1", "1n", "9223372036854775807", "1e24"];
        return texts.map(Value::from).into();
    }
    let numbers = [0, -1, i64::from(i32::MAX), i64::MAX];
    numbers.map(Value::from).into()
}

fn fixture() -> (Value, Vec<String>) {
    let document: Value = serde_yaml::from_str(FIXTURE).unwrap();
    let paths = number_paths(&document);
    (document, paths)
}

/// Those of a place's extremes that are no reason to refuse the manifest.
fn accepted(document: &Value, place: &str) -> Vec<String> {
    let extremes = extremes(document.pointer(place).unwrap());
    let changed = extremes.into_iter().map(|extreme| {
        let mut changed = document.clone();
        *changed.pointer_mut(place).unwrap() = extreme;
        changed.to_string()
    });
    let accepted = |text: &String| parse(text.as_bytes(), NODE, SourceKind::File).is_ok();
    changed.filter(accepted).collect()
}

fn start() -> Agent {
    let agent = Agent::start(Settings::containerd_2_1());
    agent.runtime.lives(|_, name, _| match name {
        "init" => Life::ends(0),
        _ => Life::LONG,
    });
    agent
}

/// Whether commands in containers succeed from now on.
fn commands_succeed(agent: &Agent, succeed: bool) {
    agent.runtime.commands(move |_, _| Executed {
        code: i32::from(!succeed),
        ..Executed::default()
    });
}

/// A Pod of this manifest starts, fails its probes, is found by another agent and is edited.
async fn live_through(agent: &mut Agent, manifest: &str) {
    commands_succeed(agent, true);
    agent.want(&[manifest]);
    tokio::time::sleep(6 * SECOND).await;
    commands_succeed(agent, false);
    tokio::time::sleep(12 * SECOND).await;
    agent.die_and_start().await;
    tokio::time::sleep(3 * SECOND).await;
    agent.want(&[&single("env: [{name: EDITED, value: a}]", "")]);
    let edited = |agent: &Agent| {
        let report = agent.report("p");
        report.total == 1 && report.ready == 1 && report.update.is_none()
    };
    agent.until_told(manifest, edited).await;
}

#[test]
fn the_fixture_is_accepted_as_it_is() {
    let (document, _) = fixture();
    let text = document.to_string();
    if let Err(problems) = parse(text.as_bytes(), NODE, SourceKind::File) {
        panic!("{problems:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_number_of_a_manifest_does_any_harm() {
    let (document, places) = fixture();
    let mut tried = 0;
    for place in places {
        let mut agent = start();
        for manifest in accepted(&document, &place) {
            live_through(&mut agent, &manifest).await;
            tried += 1;
        }
        agent.want(&[]);
        agent.until_gone().await;
    }
    assert!(tried > 100, "{tried} manifests were accepted");
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_may_be_as_long_as_it_can_be_written() {
    let probe = "livenessProbe: {exec: {command: [live]}, periodSeconds: 1, failureThreshold: 1, \
         terminationGracePeriodSeconds: 999999999999}";
    for grace in ["360000000000", "9223372036854775807"] {
        let mut agent = start();
        let spec = format!("terminationGracePeriodSeconds: {grace}");
        let manifest = single(probe, &spec);
        agent.want(&[&manifest]);
        agent.until_ready("p").await;
        commands_succeed(&agent, false);
        let restarted = |agent: &Agent| agent.report("p").restarts > 0;
        agent.until_told("it is restarted", restarted).await;
        commands_succeed(&agent, true);
        agent.until_ready("p").await;
        agent.want(&[&single("", &spec)]);
        let edited =
            |agent: &Agent| agent.report("p").restarts == 0 && agent.report("p").ready == 1;
        agent.until_told("the edited one runs", edited).await;
        // One that does not hear its signal is still waited for, by the next agent too.
        agent.runtime.lives(|_, _, _| Life::DEAF);
        agent.runtime.exit(&full("p"), "c", 1);
        let deaf = |agent: &Agent| agent.report("p").restarts == 1 && agent.report("p").ready == 1;
        agent.until_told("it runs again", deaf).await;
        agent.want(&[]);
        tokio::time::sleep(HOUR).await;
        agent.die_and_start().await;
        tokio::time::sleep(HOUR).await;
        assert_eq!(agent.running("p").len(), 1, "{grace}");
        agent.runtime.exit(&full("p"), "c", 0);
        agent.until_gone().await;
    }
}

/// Something of the runtime's answers that is otherwise.
type Change = (&'static str, fn(&mut State));

fn annotate(state: &mut State, key: &str, value: &str) {
    for container in &mut state.containers {
        let annotations = &mut container.config.annotations;
        annotations.insert(key.to_owned(), value.to_owned());
    }
}

fn attempts(state: &mut State, attempt: u32) {
    for container in &mut state.containers {
        container.config.metadata.as_mut().unwrap().attempt = attempt;
    }
    for sandbox in &mut state.sandboxes {
        sandbox.config.metadata.as_mut().unwrap().attempt = attempt;
    }
}

fn times(state: &mut State, nanos: i64) {
    for container in &mut state.containers {
        container.created_at = nanos;
        container.started_at = nanos;
    }
    state
        .sandboxes
        .iter_mut()
        .for_each(|s| s.created_at = nanos);
}

const ANSWERS: [Change; 15] = [
    ("backoff u64::MAX", |s| {
        annotate(s, labels::RESTART_BACKOFF, "18446744073709551615");
    }),
    ("backoff i64::MAX", |s| {
        annotate(s, labels::RESTART_BACKOFF, "9223372036854775807");
    }),
    ("backoff -1", |s| annotate(s, labels::RESTART_BACKOFF, "-1")),
    ("grace u64::MAX", |s| {
        annotate(s, labels::TERMINATION_GRACE_PERIOD, "18446744073709551615");
    }),
    ("grace i64::MAX", |s| {
        annotate(s, labels::TERMINATION_GRACE_PERIOD, "9223372036854775807");
    }),
    ("grace -1", |s| {
        annotate(s, labels::TERMINATION_GRACE_PERIOD, "-1");
    }),
    ("attempt 0", |s| attempts(s, 0)),
    ("attempt u32::MAX", |s| attempts(s, u32::MAX)),
    ("times 0", |s| times(s, 0)),
    ("times -1", |s| times(s, -1)),
    ("times i64::MAX", |s| times(s, i64::MAX)),
    ("times i64::MIN", |s| times(s, i64::MIN)),
    ("restart count", |s| {
        annotate(s, labels::RESTART_COUNT, "18446744073709551615");
    }),
    ("ids -1", |s| {
        s.images
            .values_mut()
            .for_each(|i| i.uid = Some(v1::Int64Value { value: -1 }));
    }),
    ("ids MAX", |s| {
        s.images.values_mut().for_each(|i| {
            i.uid = Some(v1::Int64Value { value: i64::MAX });
            i.size = u64::MAX;
        });
    }),
];

#[tokio::test(start_paused = true)]
async fn no_number_that_the_runtime_answers_does_any_harm() {
    let manifest = single("", "terminationGracePeriodSeconds: 5");
    for (what, change) in ANSWERS {
        for code in [-1, i32::MAX] {
            let mut agent = start();
            agent.want(&[&manifest]);
            agent.until_ready("p").await;
            agent.runtime.change(change);
            agent.die_and_start().await;
            agent.until_ready("p").await;
            for _ in 0..3 {
                agent.runtime.exit(&full("p"), "c", code);
                tokio::time::sleep(SECOND).await;
                agent.until_ready("p").await;
            }
            agent.runtime.end_sandboxes(&full("p"));
            tokio::time::sleep(SECOND).await;
            agent.until_ready("p").await;
            agent.want(&[&single("env: [{name: A, value: a}]", "")]);
            tokio::time::sleep(60 * SECOND).await;
            assert_eq!(agent.running("p").len(), 1, "{what}");
            agent.want(&[]);
            agent.until_gone().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_cannot_be_counted_further_does_not_begin_at_0_again() {
    let mut agent = start();
    agent.want(&[&single("", "")]);
    agent.until_ready("p").await;
    agent.runtime.change(|state| attempts(state, u32::MAX));
    agent.die_and_start().await;
    agent.until_ready("p").await;
    for _ in 0..3 {
        agent.runtime.exit(&full("p"), "c", 1);
        tokio::time::sleep(SECOND).await;
        agent.until_ready("p").await;
        assert_eq!(agent.running("p"), [("c".to_owned(), u32::MAX)]);
    }
}

/// The folder of the only Pod that there is.
fn pod_folder(agent: &Agent) -> std::path::PathBuf {
    let pods = std::fs::read_dir(agent.folder.path().join("root/pods")).unwrap();
    let mut folders = pods.map(|entry| entry.unwrap().path());
    folders.next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn no_number_on_disk_does_any_harm() {
    for number in [
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
    ] {
        let mut agent = start();
        agent.want(&[&single("", "terminationGracePeriodSeconds: 5")]);
        agent.until_ready("p").await;
        let file = pod_folder(&agent).join("history.json");
        let mut history: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let mut paths = number_paths(&history);
        let id = history["containers"]["c"]["id"].clone();
        paths.push("/containers/c/backoff".to_owned());
        for place in &paths {
            if let Some(value) = history.pointer_mut(place) {
                *value = number.clone();
            }
        }
        history["given_up"] = json!({id.as_str().unwrap(): {
            "why": "Liveness", "message": "", "since": number, "grace_period": number}});
        std::fs::write(&file, history.to_string()).unwrap();
        // The runtime has the container no more: what is remembered of it counts.
        agent.runtime.vanish(&full("p"), "c");
        agent.die_and_start().await;
        agent.until_ready("p").await;
        agent.runtime.exit(&full("p"), "c", 1);
        tokio::time::sleep(SECOND).await;
        agent.until_ready("p").await;
        let end = json!({"since": number, "grace_period": number});
        std::fs::write(pod_folder(&agent).join("terminating.json"), end.to_string()).unwrap();
        agent.die_and_start().await;
        tokio::time::sleep(60 * SECOND).await;
        agent.until_ready("p").await;
        agent.want(&[]);
        agent.until_gone().await;
    }
}
