//! Objects of the runtime that carry the agent's owner label and an identity that is not of its making:
//! nothing is done about them, and nothing outside of the agent's own folders is touched.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use podkeeper::cri::v1;
use podkeeper::translate::labels;

use crate::agent::{Agent, SECOND, full, single};
use crate::runtime::{Container, Life, Sandbox, Settings, State};

/// What stands in place of a UID, a namespace or a name.
fn wrong() -> Vec<String> {
    let wrong = [
        "",
        ".",
        "..",
        "../victim",
        "../../victim",
        "/victim",
        "a/b",
        "a\0b",
        "a\nb",
        "..\u{202e}victim",
        "A",
    ];
    let long = "a".repeat(300);
    wrong.into_iter().map(str::to_owned).chain([long]).collect()
}

const UID: &str = "0123456789abcdef0123456789abcdef";

/// The identity that an object claims.
#[derive(Clone)]
struct Claim {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
}

/// Every claim of which one part is wrong.
fn claims() -> Vec<Claim> {
    let good = Claim {
        namespace: "default".into(),
        pod: "foreign-my-node1".into(),
        uid: UID.into(),
        container: "c".into(),
    };
    let mut claims = vec![];
    for wrong in wrong() {
        for part in 0..4 {
            let mut claim = good.clone();
            let into = [
                &mut claim.namespace,
                &mut claim.pod,
                &mut claim.uid,
                &mut claim.container,
            ];
            into.into_iter().nth(part).unwrap().clone_from(&wrong);
            claims.push(claim);
        }
    }
    claims
}

/// A sandbox with a container that ended, as somebody else made them.
fn make(state: &mut State, mark: &str, number: usize, claim: &Claim) {
    let labels = [
        (labels::ROOT_DIR, mark),
        (labels::POD_NAMESPACE, &claim.namespace),
        (labels::POD_NAME, &claim.pod),
        (labels::POD_UID, &claim.uid),
        (labels::CONTAINER_NAME, &claim.container),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let labels: HashMap<_, _> = labels.into();
    let sandbox = format!("foreignsandbox{number}");
    let metadata = v1::PodSandboxMetadata {
        name: claim.pod.clone(),
        namespace: claim.namespace.clone(),
        uid: claim.uid.clone(),
        attempt: 0,
    };
    // A sandbox says nothing of containers: one with nothing wrong would count as an old one of ours.
    if claim.container == "c" {
        state.sandboxes.push(Sandbox {
            id: sandbox.clone(),
            config: v1::PodSandboxConfig {
                metadata: Some(metadata),
                labels: labels.clone(),
                ..v1::PodSandboxConfig::default()
            },
            handler: String::new(),
            ready: number.is_multiple_of(2),
            created_at: state.now(),
            ip: String::new(),
        });
    }
    state.containers.push(Container {
        id: format!("foreigncontainer{number}"),
        sandbox,
        pod: claim.pod.clone(),
        config: v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: claim.container.clone(),
                attempt: 0,
            }),
            labels,
            ..v1::ContainerConfig::default()
        },
        life: Life::LONG,
        state: v1::ContainerState::ContainerExited,
        created_at: state.now(),
        started_at: state.now(),
        finished_at: state.now(),
        exit_code: 1,
        reason: "Error".to_owned(),
    });
}

/// Files and folders below a folder, with what is in them.
fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
            all.push((path, vec![]));
        } else {
            all.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn an_object_with_an_invalid_identity_is_left_alone() {
    let mut agent = Agent::start(Settings::containerd_1_6());
    agent.want(&[&single("", "")]);
    agent.until_ready("p").await;
    let victims = [
        "victim",
        "root/victim",
        "root/pods/victim",
        "logs/victim",
        "cgroups/victim",
    ];
    for victim in victims {
        let folder = agent.folder.path().join(victim);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("kept"), "kept").unwrap();
    }
    let seen = |agent: &Agent| victims.map(|victim| tree(&agent.folder.path().join(victim)));
    let before = (seen(&agent), tree(&agent.folder.path().join("logs")));
    let mark = agent.context.owner_label.clone();
    let claims = claims();
    agent.runtime.change(|state| {
        let claims = claims.iter().enumerate();
        claims.for_each(|(number, claim)| make(state, &mark, number, claim));
    });
    let foreign = |state: &State| {
        let sandboxes = state.sandboxes.iter().map(|s| (s.id.clone(), s.ready));
        let containers = state
            .containers
            .iter()
            .map(|c| (c.id.clone(), c.is_running()));
        let mut all: Vec<_> = sandboxes.chain(containers).collect();
        all.retain(|(id, _)| id.starts_with("foreign"));
        all
    };
    let made = agent.runtime.look(foreign);
    let own = agent.runtime.calls_for(&full("p")).len();
    // Seen by the agent that runs, and found by one that starts.
    tokio::time::sleep(30 * SECOND).await;
    agent.die_and_start().await;
    agent.until_ready("p").await;
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(made, agent.runtime.look(foreign));
    assert_eq!(agent.context.reports.all().len(), 1, "Pods");
    assert_eq!(before.0, seen(&agent), "something else's files");
    assert_eq!(before.1, tree(&agent.folder.path().join("logs")));
    let calls = agent.runtime.calls_for(&full("p"));
    let changes = calls
        .iter()
        .skip(own)
        .filter(|c| c.method != "ContainerStatus" && c.method != "PodSandboxStatus");
    assert_eq!(changes.count(), 0, "nothing was done to the Pod that runs");
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_pod_that_cannot_be_names_nothing_to_clean_up() {
    let mut agent = Agent::start(Settings::containerd_1_6());
    agent.want(&[&single("", "")]);
    agent.until_ready("p").await;
    let pods = agent.folder.path().join("root/pods");
    let victim = agent.folder.path().join(format!("victim_x_{UID}"));
    fs::create_dir_all(victim.join("c")).unwrap();
    let record = serde_json::json!({"namespace": "../victim", "name": "x", "node": "my-node1",
        "path": "", "seen": "", "document": {}});
    // A folder with a UID's name, and others.
    for name in [UID, "victim", "lost+found", "ABCDEF"] {
        fs::create_dir_all(pods.join(name)).unwrap();
        fs::write(pods.join(name).join("pod.json"), record.to_string()).unwrap();
    }
    agent.die_and_start().await;
    agent.until_ready("p").await;
    tokio::time::sleep(30 * SECOND).await;
    assert!(victim.join("c").exists());
    assert!(!pods.join(UID).exists(), "a Pod's folder without a Pod");
    for name in ["victim", "lost+found", "ABCDEF"] {
        assert!(pods.join(name).join("pod.json").exists(), "{name}");
    }
}
