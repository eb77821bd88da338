//! A Pod as it is shown is the reference agent's: from the same containers in the same states, the same
//! metadata, spec and status, word for word.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use podkeeper::cri::HandlerFeatures;
use podkeeper::manifest::{SourceKind, StaticPod, parse};
use podkeeper::pod::encoded_status::EncodedStatus;
use podkeeper::pod::report::{PodReport, PodSnapshot};
use podkeeper::pod::state::observed::{Container, Exit, Observed, Sandbox, State};
use podkeeper::pod::state::{FirstSeen, PodState, View};

use podkeeper::pod::state::time::MonotonicTime;
use podkeeper::pod::status::status;
use podkeeper::translate::Identity;
use podkeeper::translate::NodeFacts;
use serde_json::{Value, json};

#[path = "support/placeholders.rs"]
mod placeholders;

use placeholders::{without_digests, without_times};

const NODE: &str = "my-node1";
/// A time, in nanoseconds since the epoch.
const THEN: i64 = 1_700_000_000_000_000_000;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn facts() -> NodeFacts {
    let features = HandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: true,
    };
    NodeFacts {
        runtime_name: "containerd".into(),
        runtime: [(String::new(), features)].into(),
        identity: Identity {
            ips: vec!["$HOST_IP".to_owned()].into(),
            ..Identity::default()
        },
        ..NodeFacts::default()
    }
}

/// What the runtime has where the reference saw this status: each container in the state told.
fn observed(pod: &StaticPod, reference: &Value) -> Observed {
    let over = reference["phase"] == "Succeeded";
    let sandbox = Sandbox {
        id: "s".into(),
        uid: pod.uid.clone(),
        attempt: 0,
        ready: !over,
        created: MonotonicTime(0),
        ips: vec!["$POD_IP".into()],
    };
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.iter().filter_map(|list| reference[*list].as_array());
    let container = |told: &Value| {
        let state = match &told["state"]["terminated"] {
            Value::Null => State::Running { started_at: THEN },
            ended => State::Exited(Exit {
                code: ended["exitCode"].as_i64().unwrap().try_into().unwrap(),
                started_at: THEN,
                finished_at: THEN,
                ..Exit::default()
            }),
        };
        Container {
            id: "$CID".into(),
            sandbox: "s".into(),
            uid: pod.uid.clone(),
            name: told["name"].as_str().unwrap().into(),
            state,
            image: "sha256:$ID".into(),
            image_ref: "sha256:$ID".into(),
            ..Container::default()
        }
    };
    Observed {
        sandboxes: vec![sandbox],
        containers: statuses.flatten().map(container).collect(),
    }
}

/// The Pod as it is shown, with the record's placeholders.
fn shown(pod: &Arc<StaticPod>, status: &PodStatus) -> Value {
    let told = PodSnapshot {
        version: Some(pod.into()),
        status: EncodedStatus::from(status),
        report: PodReport {
            seen: "2026-01-01T00:00:00Z".into(),
            ..PodReport::default()
        },
        ..PodSnapshot::default()
    };
    let text = serde_json::to_string(&told.pod()).unwrap();
    let text = without_digests(&text.replace(pod.uid.as_str(), "$UID"), "$ID");
    let mut ours: Value = serde_json::from_str(&text).unwrap();
    without_times(&mut ours);
    ours["metadata"]["annotations"]["kubernetes.io/config.seen"] = json!("$TIME");
    // A list's items do not say what they are.
    let fields = ours.as_object_mut().unwrap();
    assert_eq!(fields.remove("kind"), Some(json!("Pod")));
    assert_eq!(fields.remove("apiVersion"), Some(json!("v1")));
    ours
}

#[test]
fn pods_are_shown_as_the_reference_agent_shows_them() {
    let (mut compared, mut wrong) = (0, vec![]);
    for entry in std::fs::read_dir(golden("manifests")).unwrap() {
        let file = entry.unwrap().path();
        let manifest = std::fs::read(&file).unwrap();
        let pod = parse(&manifest, NODE, SourceKind::File).unwrap().pod;
        let record = golden(&format!("pods/{}_{}.json", pod.key.namespace, pod.key.name));
        let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        let observed = observed(&pod, &record["status"]);
        let mut state = PodState::default();
        state.version_mut(&pod.uid).seen = Some(FirstSeen {
            nanos: THEN,
            monotonic: MonotonicTime(0),
        });
        let view = View {
            wanted: Some(&pod),
            observed: &observed,
            state: &state,
            now: MonotonicTime(5000),
            longest_backoff: Duration::from_secs(300),
        };
        let ours = shown(&pod, &status(view, &facts(), &pod));
        compared += 1;
        if ours != record {
            wrong.push(format!("{}:\n{ours}\nreference:\n{record}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(compared, 36);
}
