//! The Node, and who the agent is at the API server: a node, or a service account with the least
//! rights.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::cluster::{Cluster, is_running, uid};
use crate::node::{FOREVER, Node, pod};

mod shared {
    crate::with_apiserver!(
        shared:
        the_node_is_registered_and_its_lease_renewed,
        a_deleted_node_comes_back_with_its_mirrors,
        a_service_account_with_the_least_rights_is_enough,
        rights_that_are_taken_away_are_missed_and_used_again,
        credentials_that_change_are_read_again,
        a_node_that_is_not_to_be_registered_is_used_when_it_is_there,
    );
}

fn node_object(node: &Node, cluster: &Cluster) -> Option<Value> {
    cluster.get(&format!("node {}", node.name))
}

async fn wait_node(node: &Node, cluster: &Cluster) -> Value {
    node.wait("the Node is there", async || node_object(node, cluster))
        .await
}

async fn the_node_is_registered_and_its_lease_renewed(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.flag("node-labels", "example.com/rack=7");
    node.flag("node-ip", "192.0.2.7");
    node.start_agent();
    let found = wait_node(&node, &cluster).await;
    node.wait_until("kubectl shows it as ready", async || {
        let shown = cluster.kubectl(&format!("get node {} --no-headers", node.name));
        // NAME STATUS ROLES AGE VERSION
        let words: Vec<&str> = shown.split_whitespace().collect();
        words[1] == "Ready" && words[4].contains("podkeeper")
    })
    .await;
    assert_eq!(found["metadata"]["labels"]["example.com/rack"], "7");
    assert_eq!(found["status"]["addresses"][0]["address"], "192.0.2.7");
    let taints = found["spec"]["taints"].as_array().unwrap();
    assert!(
        taints
            .iter()
            .any(|t| t["key"] == "podkeeper.io/static-only"),
        "{taints:#?}"
    );
    let lease = || {
        let lease = cluster.get(&format!("lease --namespace kube-node-lease {}", node.name))?;
        lease["spec"]["renewTime"].as_str().map(str::to_owned)
    };
    let first = node.wait("the lease is there", async || lease()).await;
    node.wait_until("the lease is renewed", async || {
        lease() > Some(first.clone())
    })
    .await;
}

async fn a_deleted_node_comes_back_with_its_mirrors(mut node: Node, cluster: Cluster) {
    cluster.admit(&mut node);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    let before = wait_node(&node, &cluster).await;
    cluster.kubectl(&format!("delete node {} --wait=false", node.name));
    let after = node
        .wait("the Node is back", async || {
            let found = node_object(&node, &cluster)?;
            (uid(&found) != uid(&before)).then_some(found)
        })
        .await;
    let is_owned = |mirror: &Value| {
        is_running(mirror) && mirror["metadata"]["ownerReferences"][0]["uid"] == uid(&after)
    };
    cluster.wait_mirror(&node, "web", is_owned).await;
}

/// Gives the node's agent the identity of a service account by the manifest that is there for it, with
/// its token in a file.
fn admit_service_account(node: &mut Node, cluster: &Cluster) {
    let rights = include_str!("../../hack/rbac.yaml").replace("NODE", &node.name);
    cluster.apply(&rights);
    write_token(node, cluster);
    let kubeconfig = node.path("kubeconfig");
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{tokenFile: token}}}}]\ncurrent-context: x\n",
        cluster.url(),
        cluster.path("ca.crt").display()
    );
    fs::write(&kubeconfig, text).unwrap();
    node.flag("kubeconfig", &kubeconfig.display().to_string());
}

fn write_token(node: &Node, cluster: &Cluster) {
    let account = format!("node-{}", node.name);
    let token = cluster.kubectl(&format!("create token {account} --namespace podkeeper"));
    fs::write(node.path("token"), token.trim()).unwrap();
}

async fn a_service_account_with_the_least_rights_is_enough(mut node: Node, cluster: Cluster) {
    admit_service_account(&mut node, &cluster);
    node.put("web.yaml", &pod("web", FOREVER));
    node.put("goes.yaml", &pod("goes", FOREVER));
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    cluster.wait_running(&node, "goes").await;
    node.remove("goes.yaml");
    cluster.wait_no_mirror(&node, "goes").await;
    let events = format!(
        "events --field-selector involvedObject.name={}",
        node.full_name("web")
    );
    node.wait_until("there are events", async || {
        let events = cluster.get(&events);
        events.is_some_and(|e| !e["items"].as_array().unwrap().is_empty())
    })
    .await;
    node.wait_until("there is a lease", async || {
        cluster
            .get(&format!("lease --namespace kube-node-lease {}", node.name))
            .is_some()
    })
    .await;
    assert_eq!(node.log_lines_with("API server refuses"), 0);
    assert_eq!(node.log_lines_with("the static Pod keeps running"), 0);
}

async fn rights_that_are_taken_away_are_missed_and_used_again(mut node: Node, cluster: Cluster) {
    admit_service_account(&mut node, &cluster);
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    cluster.wait_running(&node, "web").await;
    let binding = format!("clusterrolebinding podkeeper:node:{}", node.name);
    cluster.kubectl(&format!("delete {binding}"));
    // The API server's authorizer hears of it a little later.
    let user = format!("system:serviceaccount:podkeeper:node-{}", node.name);
    node.wait_until("the right is taken away", async || {
        cluster
            .ask(&format!("auth can-i create pods --as={user}"))
            .is_none()
    })
    .await;
    for name in ["second", "third"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
        node.wait_running(name).await;
    }
    let refused = "Failed to create mirror Pod";
    node.wait_until("the refusals are told", async || {
        node.log_lines_with(refused) == 2
    })
    .await;
    let rights = include_str!("../../hack/rbac.yaml").replace("NODE", &node.name);
    cluster.apply(&rights);
    for name in ["second", "third"] {
        cluster.wait_running(&node, name).await;
    }
    assert_eq!(node.log_lines_with(refused), 2);
}

async fn credentials_that_change_are_read_again(mut node: Node, cluster: Cluster) {
    admit_service_account(&mut node, &cluster);
    let good = fs::read_to_string(node.path("token")).unwrap();
    fs::write(node.path("token"), "of no use").unwrap();
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    // An answer that is slow, or comes not at all, is another thing.
    let refused = || {
        let log = node.log();
        let away = log
            .lines()
            .filter(|l| l.contains("API server is unreachable"));
        away.filter(|l| l.contains("Unauthorized")).count()
    };
    node.wait_until("nobody is let in", async || refused() == 1)
        .await;
    fs::write(node.path("token"), good).unwrap();
    cluster.wait_running(&node, "web").await;
    // Exec plugins are programs that print a credential.
    let plugin = node.path("plugin");
    let token = fs::read_to_string(node.path("token")).unwrap();
    let answer = serde_json::json!({"apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential", "status": {"token": token}});
    fs::write(&plugin, format!("#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let kubeconfig = node.path("kubeconfig");
    let text = fs::read_to_string(&kubeconfig).unwrap();
    let exec = format!(
        "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: '{}', interactiveMode: Never}}}}",
        plugin.display()
    );
    fs::write(&kubeconfig, text.replace("{tokenFile: token}", &exec)).unwrap();
    fs::remove_file(node.path("token")).unwrap();
    node.put("second.yaml", &pod("second", FOREVER));
    cluster.wait_running(&node, "second").await;
    assert_eq!(refused(), 1);
}

async fn a_node_that_is_not_to_be_registered_is_used_when_it_is_there(
    mut node: Node,
    cluster: Cluster,
) {
    cluster.admit(&mut node);
    node.flag("register-node", "false");
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    node.wait_until("it asks", async || {
        node.log_lines_with("API server is reachable") == 1
    })
    .await;
    assert!(node_object(&node, &cluster).is_none());
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\n",
        node.name
    ));
    cluster.wait_running(&node, "web").await;
}
