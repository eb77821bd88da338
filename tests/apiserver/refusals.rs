//! S12: where the API server refuses a mirror Pod, the static Pod runs, the refusal is reported once, and the
//! mirror Pod is created when nothing is in its way any more.

use std::process::Command;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::node::{FOREVER, Node, pod};
use crate::ports::free;

mod shared {
    crate::with_apiserver!(
        shared:
        a_namespace_that_is_not_there,
        a_quota_that_is_used_up,
        an_admission_rule_that_says_no,
        a_webhook_that_does_not_answer,
    );
}

/// A Pod in a namespace named after the node.
fn pod_in_own_namespace(node: &Node) -> String {
    let namespace = format!("  namespace: {}\nspec:", node.name);
    pod("web", FOREVER).replacen("spec:", &namespace, 1)
}

/// Runs the Pod in a namespace named after the node; gives the port of the agent's metrics.
async fn run(node: &mut Node) -> u16 {
    let port = free().port();
    node.flag("read-only-port", &port.to_string());
    node.put("web.yaml", &pod_in_own_namespace(node));
    node.start_agent();
    node.wait_running("web").await;
    port
}

/// For how many Pods the API server does not do something, as the agent's metrics tell.
fn refused_pods(port: u16) -> Option<String> {
    let page = format!("http://127.0.0.1:{port}/metrics");
    let done = Command::new("curl").args(["--silent", &page]).output();
    let page = String::from_utf8(done.unwrap().stdout).unwrap();
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix("podkeeper_mirror_pods_refused "));
    value.map(str::to_owned)
}

/// The events that tell of the refusal: what each says, and how often it was so.
fn events(node: &Node, cluster: &Cluster) -> Vec<(String, u64)> {
    let named = format!("involvedObject.name={}", node.full_name("web"));
    let words = format!(
        "events --namespace {} --field-selector reason=FailedCreate,{named}",
        node.name
    );
    let found = cluster.get(&words).unwrap_or_default();
    let items = found["items"].as_array().cloned().unwrap_or_default();
    let event = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        (message.to_owned(), event["count"].as_u64().unwrap_or(0))
    };
    items.iter().map(event).collect()
}

/// The Pod runs, the refusal with these words is told once, in the log, as an event and as a number;
/// once `remedy` is taken, the mirror comes.
async fn refused_until(
    node: Node,
    cluster: &Cluster,
    metrics: u16,
    words: &str,
    remedy: impl FnOnce(),
) {
    node.wait_until("the refusal is counted", async || {
        refused_pods(metrics).as_deref() == Some("1")
    })
    .await;
    let refused = "Failed to create mirror Pod";
    node.wait_until("the refusal is told", async || {
        node.log_lines_with(refused) > 0
    })
    .await;
    node.wait_until("it is tried again", async || {
        node.log_lines_with("API server rejected request for mirror Pod") > 1
    })
    .await;
    let log = node.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(refused)).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(node.log_lines_with("API server is unreachable"), 0);
    assert!(told[0].contains(words), "{told:#?}");
    let before = node.running_one("web", "c").await.unwrap();
    // Where its namespace is not there, an event has no place either.
    if cluster.get(&format!("namespace {}", node.name)).is_some() {
        node.wait_until("the refusal is an event", async || {
            !events(&node, cluster).is_empty()
        })
        .await;
        let found = events(&node, cluster);
        assert!(found.len() == 1 && found[0].1 == 1, "{found:#?}");
        assert!(found[0].0.contains(words), "{found:#?}");
    }
    remedy();
    let words = format!("pod --namespace {} {}", node.name, node.full_name("web"));
    node.wait_until("the mirror is there", async || {
        cluster
            .get(&words)
            .is_some_and(|mirror| crate::cluster::is_running(&mirror))
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, before.id);
    assert_eq!(
        node.log_lines_with("API server accepts the mirror Pod again"),
        1
    );
    node.wait_until("nothing is refused any more", async || {
        refused_pods(metrics).as_deref() == Some("0")
    })
    .await;
}

async fn a_namespace_that_is_not_there(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    let metrics = run(&mut node).await;
    let words = format!("namespaces \\\"{}\\\" not found", node.name);
    let create = format!("create namespace {}", node.name);
    refused_until(node, &cluster, metrics, &words.replace('\\', ""), || {
        cluster.kubectl(&create);
    })
    .await;
}

async fn a_quota_that_is_used_up(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    let namespace = node.name.clone();
    cluster.kubectl(&format!("create namespace {namespace}"));
    cluster.kubectl(&format!(
        "create quota none --namespace {namespace} --hard=pods=0"
    ));
    // Without the controller that counts, a quota's status has to be given.
    let status = r#"{"status":{"hard":{"pods":"0"},"used":{"pods":"0"}}}"#;
    let patch = "patch quota none --subresource=status --type=merge --patch";
    cluster.kubectl(&format!("{patch} {status} --namespace {namespace}"));
    let metrics = run(&mut node).await;
    refused_until(node, &cluster, metrics, "quota", || {
        cluster.kubectl(&format!("delete quota none --namespace {namespace}"));
    })
    .await;
}

async fn an_admission_rule_that_says_no(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    let namespace = node.name.clone();
    cluster.kubectl(&format!("create namespace {namespace}"));
    let enforce = "pod-security.kubernetes.io/enforce";
    cluster.kubectl(&format!("label namespace {namespace} {enforce}=restricted"));
    let metrics = run(&mut node).await;
    refused_until(node, &cluster, metrics, "violates PodSecurity", || {
        cluster.kubectl(&format!("label namespace {namespace} {enforce}-"));
    })
    .await;
}

async fn a_webhook_that_does_not_answer(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    let namespace = node.name.clone();
    cluster.kubectl(&format!("create namespace {namespace}"));
    // It takes calls, and says nothing for longer than an API server that is there needs to answer.
    let webhook = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = webhook.local_addr().unwrap().port();
    cluster.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\n\
         metadata: {{name: {namespace}}}\nwebhooks:\n- name: no.podkeeper.io\n  \
         admissionReviewVersions: [v1]\n  sideEffects: None\n  failurePolicy: Fail\n  \
         timeoutSeconds: 12\n  clientConfig: {{url: 'https://127.0.0.1:{port}/'}}\n  \
         namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}\n  \
         rules: [{{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}}]\n"
    ));
    let metrics = run(&mut node).await;
    refused_until(node, &cluster, metrics, "failed calling webhook", || {
        cluster.kubectl(&format!(
            "delete validatingwebhookconfiguration {namespace}"
        ));
    })
    .await;
}
