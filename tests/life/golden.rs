//! Each recorded Pod, brought up by the agent, is shown as the reference agent shows it, and its events are
//! the reference agent's.

use std::fs;
use std::path::{Path, PathBuf};

use podkeeper::cri::{HandlerFeatures, Reported};
use podkeeper::translate::NodeFacts;
use serde_json::{Value, json};

use crate::agent::{Agent, NODE, full};
use crate::placeholders::{without_digests, without_times};
use crate::records::{self, HOST_IP};
use crate::runtime::{Life, Settings};

/// The number of recorded Pods.
const PODS: usize = 36;

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    folder.join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

/// A recorded Pod.
struct Recorded {
    /// `NAMESPACE_NAME`, as its record is called.
    file: String,
    name: String,
    manifest: String,
}

/// All of them. What their manifests have made below `/tmp` is made in this folder.
fn recorded(folder: &Path) -> Vec<Recorded> {
    let mut all = vec![];
    for entry in fs::read_dir(golden("manifests")).unwrap() {
        let path = entry.unwrap().path();
        let manifest = fs::read_to_string(path).unwrap();
        let pod: Value = serde_yaml::from_str(&manifest).unwrap();
        let metadata = &pod["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default");
        let name = metadata["name"].as_str().unwrap().to_owned();
        all.push(Recorded {
            file: format!("{namespace}_{name}-{NODE}"),
            name,
            manifest: manifest.replace("path: /tmp/", &format!("path: {}/", folder.display())),
        });
    }
    assert_eq!(all.len(), PODS);
    all
}

/// The records' node, with a runtime that can do everything.
fn facts() -> NodeFacts {
    let features = HandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: true,
    };
    let facts = records::facts();
    facts.runtime.replace(Reported {
        features: facts.runtime.features(),
        handlers: [(String::new(), features)].into(),
        ..Reported::default()
    });
    facts
}

/// An agent on the records' node, whose runtime does as the records' did.
fn start(settings: Settings) -> Agent {
    let agent = Agent::start_on(settings, facts());
    agent.runtime.lives(|_, name, _| {
        if name.starts_with("init-") {
            Life::ends(0)
        } else {
            Life::LONG
        }
    });
    agent
}

/// Times, ids, digests and addresses are placeholders in the records.
fn masked(agent: &Agent, pod: &Recorded, shown: &Value) -> Value {
    let uid = agent.report(&pod.name).uid;
    let mut text = shown.to_string().replace(&uid, "$UID");
    let folder = format!("{}/", agent.folder.path().display());
    text = text.replace(&folder, "/tmp/");
    agent.runtime.look(|state| {
        let of = |name: &str| name == full(&pod.name);
        for sandbox in state.sandboxes.iter().filter(|s| of(s.pod())) {
            if !sandbox.ip.is_empty() {
                text = text.replace(&format!("\"{}\"", sandbox.ip), "\"$POD_IP\"");
            }
        }
        for container in state.containers.iter().filter(|c| of(&c.pod)) {
            text = text.replace(&container.id, "$CID");
        }
    });
    let text = text.replace(HOST_IP, "$HOST_IP");
    let mut shown: Value = serde_json::from_str(&without_digests(&text, "$ID")).unwrap();
    without_times(&mut shown);
    let fields = shown.as_object_mut().unwrap();
    for key in ["apiVersion", "kind"] {
        // A list's items do not say what they are.
        fields.remove(key);
    }
    shown["metadata"]["annotations"]["kubernetes.io/config.seen"] = json!("$TIME");
    shown
}

/// The Pod as it is shown, in the records' terms.
fn shown(agent: &Agent, pod: &Recorded) -> Value {
    let shown = agent.told(&pod.name).and_then(|told| told.pod());
    masked(agent, pod, &serde_json::to_value(shown).unwrap())
}

#[tokio::test(start_paused = true)]
#[ignore = "needs root: run hack/test"]
async fn each_pod_is_shown_as_the_reference_agent_shows_it() {
    let agent = start(Settings::containerd_2_1());
    let all = recorded(agent.folder.path());
    let manifests: Vec<&str> = all.iter().map(|pod| pod.manifest.as_str()).collect();
    agent.want(&manifests);
    for pod in &all {
        let record = read(&format!("pods/{}.json", pod.file));
        let done = |agent: &Agent| {
            let status = agent.status(&pod.name);
            status.phase.as_deref() == record["status"]["phase"].as_str()
        };
        agent.until_told("it is as far as it gets", done).await;
    }
    for pod in &all {
        let record = read(&format!("pods/{}.json", pod.file));
        assert_eq!(shown(&agent, pod), record, "{}", pod.file);
    }
    agent.want(&[]);
    agent.until_gone().await;
}

/// What an event says without its times.
fn in_their_words(message: &str) -> String {
    let message = without_digests(message, "$CID");
    let Some((before, rest)) = message.split_once("\" in ") else {
        return message;
    };
    let (_, rest) = rest.split_once(" including waiting)").unwrap();
    format!("{before}\" in $T ($T including waiting){rest}")
}

/// A Pod's events, as the records have them.
fn events(agent: &Agent, pod: &Recorded) -> Vec<Value> {
    let events = agent.events(&pod.name).into_iter();
    let event = |e: podkeeper::pod::events::Event| {
        assert_eq!(e.count, 1, "{e:#?}");
        json!({
            "field": e.field,
            "message": in_their_words(&e.message),
            "reason": e.reason,
            "type": format!("{:?}", e.kind),
        })
    };
    events.map(event).collect()
}

/// The image that was there already, where an event tells of one.
fn present(event: &Value) -> Option<&str> {
    let message = event["message"].as_str()?;
    let (image, _) = message.split_once("\" already present on machine")?;
    image.strip_prefix("Container image \"")
}

#[tokio::test(start_paused = true)]
#[ignore = "needs root: run hack/test"]
async fn each_pods_events_are_those_of_the_reference_agent() {
    let record = read("events.json");
    let record = record.as_object().unwrap();
    assert_eq!(record.len(), PODS);
    let folder = tempfile::tempdir().unwrap();
    for pod in recorded(folder.path()) {
        let expected = record[&pod.file].as_array().unwrap();
        let agent = start(Settings {
            every_image: false,
            ..Settings::containerd_2_1()
        });
        for image in expected.iter().filter_map(present) {
            agent.runtime.image(image, Some(0), "");
        }
        agent.want(&[&pod.manifest]);
        let enough = |agent: &Agent| agent.events(&pod.name).len() >= expected.len();
        agent.until_told(&pod.file, enough).await;
        compare_events(&pod.file, &events(&agent, &pod), expected);
        agent.want(&[]);
        agent.until_gone().await;
    }
}

/// All are the same, and in the same order. Only that the images of a Pod are pulled side by side may
/// move what is told of pulls.
fn compare_events(pod: &str, found: &[Value], expected: &[Value]) {
    let in_order = |events: &[Value]| -> Vec<Value> {
        let of_pull = |e: &&Value| {
            e["reason"] == "Pulling" || e["reason"] == "Pulled" && present(e).is_none()
        };
        events.iter().filter(|e| !of_pull(e)).cloned().collect()
    };
    assert_eq!(in_order(found), in_order(expected), "{pod}");
    let by_field = |events: &[Value]| {
        let mut events = events.to_vec();
        events.sort_by_key(|e| e["field"].to_string());
        events
    };
    assert_eq!(by_field(found), by_field(expected), "{pod}");
}
