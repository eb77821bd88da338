//! S5, an agent that starts restarts no Pod of an agent before it, over an upgrade: started on what an earlier
//! version left, it finds every Pod as it was and goes on with what was under way. The way back to the earlier
//! version is no promise.
//!
//! The earlier version is built from the commit that `hack/earlier` names and gives the reasons for.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use podkeeper::cri::v1;
use podkeeper::pod::report::PodReport;
use podkeeper::server::fetch;
use podkeeper::translate::labels;

use super::node::{BUSYBOX, FOREVER, Node, PATIENCE, manifest, on_trial, pod, pod_with};
use super::program::PROGRAM;
use super::web_server::{Reply, Web};

super::on_each_containerd!(
    a_killed_agent_of_an_earlier_version_is_upgraded_with_nothing_restarted,
    an_ended_agent_of_an_earlier_version_is_upgraded_with_nothing_restarted,
);
mod v2_4 {
    super::super::on_containerd!(
        "2.4": a_killed_agent_of_an_earlier_version_is_upgraded_with_nothing_restarted
    );
}

/// Pods that the upgrade leaves as they are, by name, with the phase in which it finds them.
const STEADY: [(&str, &str); 11] = [
    ("plain", "Running"),
    ("ordered", "Running"),
    ("probed", "Running"),
    ("several", "Running"),
    ("stored", "Running"),
    ("broken", "Running"),
    ("remote", "Running"),
    ("succeeded", "Succeeded"),
    ("failed", "Failed"),
    ("waiting", "Running"),
    ("rolled", "Running"),
];

const MISSING_IMAGE: &str = "localhost/podkeeper/nowhere:1";

/// An init container, a sidecar with a probe of its own, and a main container.
const ORDERED: &str = "
  initContainers:
  - {name: first, image: $BUSYBOX, command: [sh, -c, echo first]}
  - name: sidecar
    image: $BUSYBOX
    command: $FOREVER
    restartPolicy: Always
    startupProbe: {periodSeconds: 1, failureThreshold: 100, exec: {command: ['true']}}
  containers:
  - {name: c, image: $BUSYBOX, command: $FOREVER}
";

const PROBED: &str = "
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    startupProbe: {periodSeconds: 1, failureThreshold: 100, timeoutSeconds: 30, exec: {command: ['true']}}
    readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: ['true']}}
    livenessProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: ['true']}}
";

/// The second of them fails once, and has a restart to its name.
const SEVERAL: &str = "
  containers:
  - {name: c, image: $BUSYBOX, command: $FOREVER}
  - name: d
    image: $BUSYBOX
    command: [sh, -c, 'test -e /kept/once || { touch /kept/once; exit 4; }; sleep 100000']
    volumeMounts: [{name: kept, mountPath: /kept}]
  volumes: [{name: kept, emptyDir: {}}]
";

const STORED: &str = "
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: ram, mountPath: /ram}
    - {name: settings, mountPath: /settings}
    - {name: all, mountPath: /all}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory}}
  - {name: settings, configMap: {name: settings}}
  - name: all
    projected:
      sources:
      - secret: {name: keys}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: pass}
";

/// An update of such a Pod that fails, and is not Ready for a moment: an agent that is slow to see the end of a container
/// would take that for success.
fn failing_on_trial(name: &str, limit: &str) -> String {
    let never_ready = "    readinessProbe: {exec: {command: ['false']}}\n";
    on_trial(name, limit, "echo no database; exit 3") + never_ready
}

fn never(name: &str, script: &str) -> String {
    pod_with(name, BUSYBOX, script, "  restartPolicy: Never\n")
}

/// Everything that an upgrade must not change.
#[derive(Debug, PartialEq)]
struct State {
    /// Each Pod as the API shows it, status and times included.
    pods: BTreeMap<String, Pod>,
    /// Containers by id, each with its attempt, its state and its process if it runs.
    containers: BTreeMap<String, (String, u32, i32, Option<i32>)>,
    /// Ids of sandboxes with the time of their creation.
    sandboxes: BTreeMap<String, i64>,
}

async fn api_pods(node: &Node) -> BTreeMap<String, Pod> {
    let lists = fetch::<List<Pod>>(&node.path("run"), "/pods").await;
    let pods = lists.unwrap_or_default().into_iter().flat_map(|l| l.items);
    let named = |pod: Pod| Some((pod.metadata.name.clone()?, pod));
    let mut pods: BTreeMap<_, _> = pods.filter_map(named).collect();
    pods.retain(|name, _| is_steady(node, name));
    pods
}

fn is_steady(node: &Node, full_name: &str) -> bool {
    STEADY
        .iter()
        .any(|(name, _)| node.full_name(name) == full_name)
}

/// Reads the state of the steady Pods.
async fn state(node: &Node) -> State {
    let mut containers = BTreeMap::new();
    for container in node.containers().await {
        let label = |key: &str| container.labels[key].clone();
        if !is_steady(node, &label(labels::POD_NAME)) {
            continue;
        }
        let runs = container.state() == v1::ContainerState::ContainerRunning;
        let process = if runs {
            Some(node.process(&container.id).await)
        } else {
            None
        };
        let attempt = container.metadata.as_ref().unwrap().attempt;
        let name = label(labels::CONTAINER_NAME);
        containers.insert(container.id, (name, attempt, container.state, process));
    }
    let sandboxes = node.sandboxes().await.into_iter();
    let sandboxes = sandboxes
        .filter(|s| is_steady(node, &s.labels[labels::POD_NAME]))
        .map(|s| (s.id, s.created_at));
    State {
        pods: api_pods(node).await,
        containers,
        sandboxes: sandboxes.collect(),
    }
}

/// Starts the earlier agent with Pods of every kind, and waits until each has come to what it is to be found in.
async fn run_earlier(node: &mut Node, web: &Web) {
    let earlier = std::env::var("PODKEEPER_TEST_EARLIER").expect("run this through hack/test");
    node.program = earlier.into();
    node.flag("manifest-url", &web.url("/pods"));
    node.flag("http-check-frequency", "200ms");
    for (name, text) in [
        ("plain", pod("plain", FOREVER)),
        ("ordered", manifest("ordered", ORDERED)),
        ("probed", manifest("probed", PROBED)),
        ("several", manifest("several", SEVERAL)),
        ("stored", manifest("stored", STORED)),
        ("broken", pod("broken", FOREVER)),
        ("succeeded", never("succeeded", "echo done")),
        ("failed", never("failed", "echo broken; exit 3")),
        ("waiting", pod("waiting", FOREVER)),
        ("rolled", on_trial("rolled", "2s", FOREVER)),
        ("trial", on_trial("trial", "15s", FOREVER)),
        ("removed", pod("removed", FOREVER)),
    ] {
        node.put(&format!("{name}.yaml"), &text);
    }
    node.start_agent();
    for (name, phase) in STEADY {
        wait_report(node, name, phase, |r| {
            let up = r.ready == r.total;
            r.phase == phase && (phase != "Running" || up)
        })
        .await;
    }
    wait_report(node, "several", "restarted once", |r| r.restarts == 1).await;
    for name in ["trial", "removed"] {
        wait_report(node, name, "ready", |r| r.ready == 1).await;
    }
    let stored = node.wait_running("stored").await;
    node.sh(&stored.id, "echo kept >/disk/file; echo kept >/ram/file")
        .await;
}

async fn wait_report(
    node: &Node,
    pod: &str,
    what: &str,
    is: impl Fn(&PodReport) -> bool,
) -> PodReport {
    node.wait(&format!("{pod}: {what}"), async || {
        node.report(pod).await.filter(|report| is(report))
    })
    .await
}

/// Brings the Pods into the middle of things: an update that waits, one that was rolled back, one that is tried,
/// a manifest that cannot be read, a web server that does not respond.
async fn change_under_the_earlier(node: &Node, web: &Web) {
    let missing = pod_with("waiting", MISSING_IMAGE, FOREVER, "");
    node.put("waiting.yaml", &missing);
    wait_report(node, "waiting", "an update waits", |r| r.update.is_some()).await;
    node.put("rolled.yaml", &failing_on_trial("rolled", "2s"));
    wait_report(node, "rolled", "rolled back and ready", |r| {
        is_rolled_back(r) && r.ready == 1
    })
    .await;
    node.put("broken.yaml", "kind: [");
    node.wait_until("the edit is refused", async || {
        let refused = node.status().await.refused;
        refused.iter().any(|r| r.keeps.is_some())
    })
    .await;
    web.hang_up(true);
    node.wait_until("the document cannot be read", async || {
        !node.status().await.unreadable.is_empty()
    })
    .await;
    node.put("trial.yaml", &failing_on_trial("trial", "15s"));
    wait_report(node, "trial", "the update is tried", |r| {
        r.containers.first().and_then(|c| c.last_exit_code) == Some(3)
    })
    .await;
}

fn is_rolled_back(report: &PodReport) -> bool {
    let update = report.update.as_ref();
    update.is_some_and(|update| update.reason == "RolledBack")
}

/// Checks that the agent of today finds what the earlier one left, and goes on with it.
async fn upgraded(mut node: Node, end: impl FnOnce(&mut Node)) {
    let web = Web::start(Reply::ok(pod("remote", FOREVER)));
    run_earlier(&mut node, &web).await;
    let good = node.report("trial").await.unwrap().uid;
    change_under_the_earlier(&node, &web).await;
    // What is left of the update that was rolled back goes when nothing else is to be done.
    node.wait_until("each steady Pod has one sandbox", async || {
        let sandboxes = node.sandboxes().await.into_iter();
        let names = sandboxes.map(|s| s.labels[labels::POD_NAME].clone());
        let mut names: Vec<_> = names.filter(|name| is_steady(&node, name)).collect();
        names.sort();
        names.windows(2).all(|pair| pair[0] != pair[1])
    })
    .await;
    let before = state(&node).await;
    assert_eq!(before.pods.len(), STEADY.len());
    end(&mut node);
    node.remove("removed.yaml");
    node.program = PROGRAM.into();
    node.start_agent();

    node.wait_until("the agent knows all Pods again", async || {
        api_pods(&node).await.keys().eq(before.pods.keys())
    })
    .await;
    for (name, pod) in &before.pods {
        let is_same = async {
            while api_pods(&node).await.get(name) != Some(pod) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // What is not the same by then, is shown.
        let _ = tokio::time::timeout(PATIENCE, is_same).await;
        assert_eq!(api_pods(&node).await.get(name), Some(pod), "{name}");
    }
    assert_eq!(state(&node).await, before);
    // What was under way goes on.
    wait_report(&node, "trial", "rolled back and ready", |r| {
        r.uid == good && is_rolled_back(r) && r.ready == 1
    })
    .await;
    node.wait_until("what was removed meanwhile is gone", async || {
        node.report("removed").await.is_none()
    })
    .await;
    wait_report(&node, "waiting", "the update still waits", |r| {
        r.update.is_some()
    })
    .await;
    assert!(is_rolled_back(&node.report("rolled").await.unwrap()));
    assert!(
        node.status()
            .await
            .refused
            .iter()
            .any(|r| r.keeps.is_some())
    );
    assert_eq!(state(&node).await, before, "and so it stays");
    edits_and_removals_work(&node, &web).await;
}

async fn edits_and_removals_work(node: &Node, web: &Web) {
    let stored = node.wait_running("stored").await;
    let kept = "cat /disk/file /ram/file; echo $COLOUR; cat /settings/colour /all/password";
    assert_eq!(
        node.sh(&stored.id, kept).await,
        "kept\nkept\nblue\nbluepass"
    );
    let plain = node.wait_running("plain").await;
    let stopped = node.wait_running("probed").await;
    node.put("plain.yaml", &pod("plain", &format!("echo new; {FOREVER}")));
    node.kill_container(&stopped.id).await;
    let edited = node.wait_after("plain", &plain).await;
    assert_ne!(edited.pod_sandbox_id, plain.pod_sandbox_id);
    let restarted = node.wait_after("probed", &stopped).await;
    assert_eq!(restarted.pod_sandbox_id, stopped.pod_sandbox_id);
    assert_eq!(restarted.metadata.unwrap().attempt, 1);
    for entry in std::fs::read_dir(node.path("manifests")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    web.say(Reply::ok("apiVersion: v1\nkind: PodList\nitems: []\n"));
    web.hang_up(false);
    node.wait_gone().await;
    node.wait_until("nothing is kept of the updates", async || {
        let kept = std::fs::read_dir(node.path("root/rollbacks"));
        kept.unwrap().count() == 0
    })
    .await;
}

async fn a_killed_agent_of_an_earlier_version_is_upgraded_with_nothing_restarted(node: Node) {
    upgraded(node, Node::kill_agent).await;
}

async fn an_ended_agent_of_an_earlier_version_is_upgraded_with_nothing_restarted(node: Node) {
    let end = |node: &mut Node| assert_eq!(node.end_agent(), Some(0));
    upgraded(node, end).await;
}
