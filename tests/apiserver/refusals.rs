//! S12: where the API server does not want a mirror Pod, the Pod runs all the same, the refusal is told
//! once, and the mirror comes when nothing is in its way any more.

use crate::cluster::Cluster;
use crate::node::{FOREVER, Node, pod};

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

/// The Pod runs, the refusal with these words is told once, in the log and as an event; once `remedy`
/// is taken, the mirror comes.
async fn refused_until(node: Node, cluster: &Cluster, words: &str, remedy: impl FnOnce()) {
    let refused = "the API server does not make the mirror Pod";
    node.wait_until("the refusal is told", async || {
        node.log_lines_with(refused) > 0
    })
    .await;
    node.wait_until("it is tried again", async || {
        node.log_lines_with("the API server did not do it") > 1
    })
    .await;
    let log = node.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(refused)).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(node.log_lines_with("the API server is away"), 0);
    assert!(told[0].contains(words), "{told:#?}");
    let before = node.running_one("web", "c").await.unwrap();
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
        node.log_lines_with("the API server takes the mirror Pod again"),
        1
    );
}

async fn a_namespace_that_is_not_there(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod_in_own_namespace(&node));
    node.start_agent();
    node.wait_running("web").await;
    let words = format!("namespaces \\\"{}\\\" not found", node.name);
    let create = format!("create namespace {}", node.name);
    refused_until(node, &cluster, &words.replace('\\', ""), || {
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
    node.put("web.yaml", &pod_in_own_namespace(&node));
    node.start_agent();
    node.wait_running("web").await;
    refused_until(node, &cluster, "quota", || {
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
    node.put("web.yaml", &pod_in_own_namespace(&node));
    node.start_agent();
    node.wait_running("web").await;
    refused_until(node, &cluster, "violates PodSecurity", || {
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
    node.put("web.yaml", &pod_in_own_namespace(&node));
    node.start_agent();
    node.wait_running("web").await;
    refused_until(node, &cluster, "failed calling webhook", || {
        cluster.kubectl(&format!(
            "delete validatingwebhookconfiguration {namespace}"
        ));
    })
    .await;
}
