//! A node that gets its certificate from the API server, and has it renewed.

use std::fs;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, Issuer, KeyPair,
};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::{FOREVER, Node, pod};

mod shared {
    crate::with_apiserver!(
        shared:
        a_node_asks_for_its_certificate_and_has_it_renewed,
        a_renewed_certificate_is_shown_in_place_of_one_in_the_kubeconfig,
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

/// Makes a client certificate last these days from now, the past ones negative.
fn lasts(params: &mut CertificateParams, from: i64, until: i64) {
    let day = Duration::from_secs(86_400);
    let at = |days: i64| {
        let distance = day * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 {
            SystemTime::now() - distance
        } else {
            SystemTime::now() + distance
        }
    };
    params.not_before = at(from).into();
    params.not_after = at(until).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

/// The cluster's authority.
fn issuer(cluster: &Cluster) -> Issuer<'static, KeyPair> {
    let read = |name: &str| fs::read_to_string(cluster.path(name)).unwrap();
    let key = KeyPair::from_pem(&read("ca.key")).unwrap();
    Issuer::from_ca_cert_pem(&read("ca.crt"), key).unwrap()
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
    lasts(&mut asked.params, from, until);
    let certificate = asked.signed_by(&issuer(cluster)).unwrap().pem();
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
    // Its folder is made too.
    let kubeconfig = node.path("kubernetes/kubelet.conf");
    node.flag("kubeconfig", &kubeconfig.display().to_string());
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
    // One that waits for long says so again.
    node.wait_until("it waits for it", async || {
        node.log_lines_with("Starting podkeeper") == 2
            && node.log_lines_with("Waiting for client certificate") >= 2
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
        node.log_lines_with("API server connection settings changed") == 1
    })
    .await;
}

async fn a_renewed_certificate_is_shown_in_place_of_one_in_the_kubeconfig(
    mut node: Node,
    cluster: Cluster,
) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{}", node.name));
    // Nine tenths of its life are over, so the next is asked for at once.
    lasts(&mut params, -18, 1);
    let certificate = params.signed_by(&key, &issuer(&cluster)).unwrap().pem();
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n\
         users: [{{name: u, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n",
        cluster.url(),
        cluster.path("ca.crt").display(),
        STANDARD.encode(certificate),
        STANDARD.encode(key.serialize_pem()),
    );
    let kubeconfig = node.path("kubeconfig");
    fs::write(&kubeconfig, text).unwrap();
    node.flag("kubeconfig", &kubeconfig.display().to_string());
    node.flag("rotate-certificates", "true");
    node.start_agent();
    let request = node
        .wait("the next is asked for", async || {
            open_requests(&cluster, &node).pop()
        })
        .await;
    sign(&cluster, &request, -1, 30);
    node.wait_until("it is shown", async || {
        node.log_lines_with("API server connection settings changed") == 1
    })
    .await;
    node.put("web.yaml", &pod("web", FOREVER));
    cluster.wait_running(&node, "web").await;
    assert_eq!(node.log_lines_with("API server is unreachable"), 0);
}
