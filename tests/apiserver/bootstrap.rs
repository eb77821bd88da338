//! A node that gets its certificate from the API server, and has it renewed.

use std::fs;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::{FOREVER, Node, pod};

mod shared {
    crate::with_apiserver!(
        shared:
        a_node_asks_for_its_certificate_and_has_it_renewed,
    );
}

/// The requests of this node that nobody has answered.
fn open_requests(cluster: &Cluster, node: &Node) -> Vec<Value> {
    let list = cluster.get("certificatesigningrequests").unwrap();
    let requests = list["items"].as_array().unwrap().iter();
    let ours = requests.filter(|request| {
        let pem = STANDARD
            .decode(request["spec"]["request"].as_str().unwrap())
            .unwrap();
        let request_of =
            CertificateSigningRequestParams::from_pem(&String::from_utf8(pem).unwrap());
        let subject = format!("{:?}", request_of.unwrap().params.distinguished_name);
        subject.contains(&format!("system:node:{}", node.name))
            && request["status"]["certificate"].is_null()
    });
    ours.cloned().collect()
}

/// Signs a request for these days from now, the past ones negative, as a cluster's signer does.
fn sign(cluster: &Cluster, request: &Value, from: i64, until: i64) {
    let name = request["metadata"]["name"].as_str().unwrap();
    assert_eq!(
        request["spec"]["signerName"],
        "kubernetes.io/kube-apiserver-client-kubelet"
    );
    assert_eq!(
        request["spec"]["usages"],
        json!(["digital signature", "client auth"])
    );
    cluster.kubectl(&format!("certificate approve {name}"));
    let pem = STANDARD
        .decode(request["spec"]["request"].as_str().unwrap())
        .unwrap();
    let mut asked =
        CertificateSigningRequestParams::from_pem(&String::from_utf8(pem).unwrap()).unwrap();
    let day = Duration::from_secs(86_400);
    let at = |days: i64| {
        let distance = day * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 {
            SystemTime::now() - distance
        } else {
            SystemTime::now() + distance
        }
    };
    asked.params.not_before = at(from).into();
    asked.params.not_after = at(until).into();
    asked.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let read = |name: &str| fs::read_to_string(cluster.path(name)).unwrap();
    let key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), key).unwrap();
    let certificate = asked.signed_by(&issuer).unwrap().pem();
    let mut signed = cluster
        .get(&format!("certificatesigningrequest {name}"))
        .unwrap();
    signed["status"]["certificate"] = STANDARD.encode(certificate).into();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), signed.to_string()).unwrap();
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/status");
    cluster.kubectl(&format!(
        "replace --raw {path} --filename {}",
        file.path().display()
    ));
}

async fn a_node_asks_for_its_certificate_and_has_it_renewed(mut node: Node, cluster: Cluster) {
    let account = format!("bootstrap-{}", node.name);
    cluster.kubectl(&format!("create serviceaccount {account}"));
    cluster.kubectl(&format!(
        "create clusterrolebinding {account} --clusterrole=system:node-bootstrapper \
         --serviceaccount=default:{account}"
    ));
    let token = cluster.kubectl(&format!("create token {account}"));
    let bootstrap = node.path("bootstrap");
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{token: '{}'}}}}]\ncurrent-context: x\n",
        cluster.url(),
        cluster.path("ca.crt").display(),
        token.trim()
    );
    fs::write(&bootstrap, text).unwrap();
    node.flag("bootstrap-kubeconfig", &bootstrap.display().to_string());
    node.flag("kubeconfig", &node.path("kubeconfig").display().to_string());
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    node.wait_running("web").await;
    let ask = async |what: &str| {
        node.wait(what, async || open_requests(&cluster, &node).pop())
            .await
    };
    let first = ask("a certificate is asked for").await;

    // An agent that is killed meanwhile is followed by one that waits for the same.
    node.kill_agent();
    node.start_agent();
    node.wait_until("it waits for it", async || {
        node.log_lines_with("waiting for the client certificate") == 2
    })
    .await;
    assert_eq!(open_requests(&cluster, &node).len(), 1);

    // Nine tenths of its life are over, so the next is asked for at once.
    sign(&cluster, &first, -18, 1);
    cluster.wait_running(&node, "web").await;
    let current = node.path("root/pki/kubelet-client-current.pem");
    let before = fs::read_to_string(&current).unwrap();
    let second = node
        .wait("the next is asked for", async || {
            open_requests(&cluster, &node).pop()
        })
        .await;
    assert_ne!(second["metadata"]["name"], first["metadata"]["name"]);
    sign(&cluster, &second, -1, 30);
    node.wait_until("the next is kept", async || {
        fs::read_to_string(&current).unwrap() != before
    })
    .await;
    node.put("second.yaml", &pod("second", FOREVER));
    cluster.wait_running(&node, "second").await;
    node.wait_until("it is shown", async || {
        node.log_lines_with("what tells the way to the API server changed") == 1
    })
    .await;
}
