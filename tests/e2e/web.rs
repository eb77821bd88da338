//! S4: the Pods of the document at the manifest URL run and follow its changes, and nothing that happens to its
//! server stops them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use podkeeper::cri::v1;
use podkeeper::pod::report::PodReport;
use podkeeper::server::fetch_status;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::node::{FOREVER, Node, pod};
use super::ports::free;
use super::web_server::{Reply, Web, faults};

super::on_each_containerd!(
    a_document_is_followed_from_its_first_pod_to_its_last,
    without_the_server_the_pods_of_the_copy_run_after_a_boot,
    a_pod_of_both_sources_stays_with_the_first,
);
mod on_one {
    super::super::on_containerd!(
        "2.1": no_fault_restarts_a_container,
        certificates_and_passwords_are_renewed_while_the_pods_run,
        what_came_from_a_lost_copy_runs_on
    );
}

/// A real nginx on 127.0.0.1, whose folder `www` it serves.
struct Nginx {
    dir: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Nginx {
    /// `tls` is more of its server's configuration, beside `listen`.
    fn new(node: &Node) -> Self {
        let dir = node.path("nginx");
        fs::create_dir_all(dir.join("www")).unwrap();
        Self {
            dir,
            port: free().port(),
            server: None,
        }
    }

    fn start(&mut self, listen: &str, more: &str) {
        self.stop();
        let Self { dir, port, .. } = self;
        let at = dir.display();
        let config = format!(
            "pid {at}/pid; error_log {at}/error.log; daemon off; master_process off;\n\
             events {{}}\n\
             http {{ access_log {at}/access.log; client_body_temp_path {at}/tmp; \
             proxy_temp_path {at}/tmp; fastcgi_temp_path {at}/tmp; uwsgi_temp_path {at}/tmp; \
             scgi_temp_path {at}/tmp; gzip on; gzip_types *; gzip_min_length 1;\n\
             server {{ listen 127.0.0.1:{port} {listen}; root {at}/www; {more} }} }}\n"
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let error = fs::File::create(dir.join("start.log")).unwrap();
        let server = Command::new("nginx")
            .args(["-c", &format!("{at}/nginx.conf"), "-p", &at.to_string()])
            .stdin(Stdio::null())
            .stderr(error)
            .spawn();
        self.server = Some(server.expect("nginx is there: run hack/test"));
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", *port)).is_err() {
            assert!(Instant::now() < end, "nginx does not come up, look at {at}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It may have ended by itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    fn put(&self, document: &str) {
        let aside = self.dir.join("incoming");
        fs::write(&aside, document).unwrap();
        fs::rename(aside, self.dir.join("www/pods.yaml")).unwrap();
    }

    /// How many requests it has answered.
    fn answered(&self) -> usize {
        let log = fs::read_to_string(self.dir.join("access.log"));
        log.unwrap_or_default().lines().count()
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/pods.yaml", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

const NO_PODS: &str = "apiVersion: v1\nkind: PodList\nitems: []\n";

/// A stream of Pods that run for ever, with a label to tell versions apart.
fn document(pods: &[(&str, &str)]) -> String {
    let one = |(name, version): &(&str, &str)| {
        let labelled = format!("  name: {name}\n  labels: {{version: {version}}}\n");
        pod(name, FOREVER).replace(&format!("  name: {name}\n"), &labelled)
    };
    pods.iter().map(one).collect::<Vec<_>>().join("---\n")
}

fn follow(node: &mut Node, url: &str) {
    node.flag("manifest-url", url);
    node.flag("http-check-frequency", "200ms");
}

async fn wait_unreadable(node: &Node, said: &str) {
    node.wait_until(&format!("it is said that {said:?}"), async || {
        let status = node.status().await;
        status.unreadable.iter().any(|why| why.contains(said))
    })
    .await;
}

/// Waits until the running agent has nothing against the document any more, for which it has asked from
/// now on, and its Pods are ready.
async fn wait_readable(node: &Node, asked: impl Fn() -> usize) {
    let before = asked();
    node.wait_until("the document can be read", async || {
        let Ok(status) = fetch_status(&node.path("run")).await else {
            return false;
        };
        let is_ready = |pod: &PodReport| pod.ready == 1;
        // Who asks the second time knows the first answer.
        asked() >= before + 2
            && status.unreadable.is_empty()
            && !status.pods.is_empty()
            && status.pods.iter().all(is_ready)
    })
    .await;
}

/// Lets the source forget how long it waits after failures.
fn restart(node: &mut Node) {
    node.kill_agent();
    node.start_agent();
}

async fn still_runs(node: &Node, name: &str, container: &v1::Container) {
    let now = node.running_one(name, "c").await;
    assert_eq!(
        now.map(|c| c.id).as_ref(),
        Some(&container.id),
        "{name} was restarted"
    );
}

async fn a_document_is_followed_from_its_first_pod_to_its_last(mut node: Node) {
    let mut nginx = Nginx::new(&node);
    nginx.put(&document(&[("one", "a"), ("two", "a")]));
    nginx.start("", "");
    node.without_manifests = true;
    follow(&mut node, &nginx.url("http"));
    node.start_agent();
    let one = node.wait_running("one").await;
    let two = node.wait_running("two").await;
    let source = &one.annotations;
    assert_eq!(
        node.report("one").await.unwrap().path,
        nginx.url("http"),
        "{source:?}"
    );

    nginx.put(&document(&[
        ("one", "a"),
        ("two", "longer"),
        ("three", "a"),
    ]));
    let two = node.wait_after("two", &two).await;
    let three = node.wait_running("three").await;
    still_runs(&node, "one", &one).await;

    // One bad Pod stops neither itself nor the others.
    let bad = document(&[("two", "longer"), ("three", "x")]).replace("version: x", "version: 1.5");
    nginx.put(&bad);
    node.wait_until("one is gone", async || {
        node.running_one("one", "c").await.is_none()
    })
    .await;
    node.wait_until("the bad one is refused and kept", async || {
        let refused = node.status().await.refused;
        refused
            .iter()
            .any(|r| r.keeps.as_deref() == Some(&format!("default/{}", node.full_name("three"))))
    })
    .await;
    still_runs(&node, "two", &two).await;
    still_runs(&node, "three", &three).await;

    nginx.put(NO_PODS);
    node.wait_gone().await;
}

async fn without_the_server_the_pods_of_the_copy_run_after_a_boot(mut node: Node) {
    let mut nginx = Nginx::new(&node);
    nginx.put(&document(&[("one", "a")]));
    nginx.start("", "");
    node.without_manifests = true;
    follow(&mut node, &nginx.url("http"));
    node.start_agent();
    let before = node.wait_running("one").await;
    nginx.stop();
    wait_unreadable(&node, "cannot connect").await;
    node.kill_agent();
    // What a boot does: every process is gone, and the runtime knows that.
    for sandbox in node.sandboxes().await {
        node.stop_sandbox(&sandbox.id).await;
    }
    node.start_agent();
    let after = node.wait_after("one", &before).await;
    wait_unreadable(&node, "cannot connect").await;
    nginx.put(&document(&[("one", "a"), ("two", "a")]));
    nginx.start("", "");
    restart(&mut node);
    node.wait_running("two").await;
    still_runs(&node, "one", &after).await;
    // Only the URL's being dropped, or a document without the Pods, takes them away.
    node.kill_agent();
    node.extra_flags.clear();
    node.without_manifests = false;
    node.start_agent();
    node.wait_gone().await;
    assert!(
        !node.path("root/url").exists(),
        "nothing is kept of a URL that is not followed"
    );
}

async fn a_pod_of_both_sources_stays_with_the_first(mut node: Node) {
    let mut nginx = Nginx::new(&node);
    nginx.put(&document(&[("web", "url"), ("other", "url")]));
    nginx.start("", "");
    node.put("file.yaml", &pod("file", FOREVER));
    follow(&mut node, &nginx.url("http"));
    node.start_agent();
    let file = node.wait_running("file").await;
    let web = node.wait_running("web").await;
    node.wait_running("other").await;

    // The file comes second for web, the URL for file.
    node.put("web.yaml", &pod("web", FOREVER));
    let both = document(&[("web", "url"), ("other", "url"), ("file", "url")]);
    nginx.put(&both);
    let conflicts = async |node: &Node| {
        node.wait_until("both conflicts are told", async || {
            let refused = node.status().await.refused;
            let by = |path: &str, winner: &str| {
                refused
                    .iter()
                    .any(|r| r.path == path && r.problems[0].contains(winner))
            };
            by(
                &node.manifest("web.yaml").display().to_string(),
                &nginx.url("http"),
            ) && by(
                &nginx.url("http"),
                &node.manifest("file.yaml").display().to_string(),
            )
        })
        .await;
    };
    conflicts(&node).await;
    for _ in 0..2 {
        still_runs(&node, "web", &web).await;
        still_runs(&node, "file", &file).await;
        restart(&mut node);
        conflicts(&node).await;
    }
    // Who was second takes over when the first lets go.
    nginx.put(&document(&[("file", "url")]));
    node.wait_after("web", &web).await;
    node.remove("file.yaml");
    node.wait_after("file", &file).await;
    nginx.put(NO_PODS);
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn no_fault_restarts_a_container(mut node: Node) {
    let good = Reply::ok(document(&[("one", "a")]));
    let web = Web::start(good.clone());
    node.without_manifests = true;
    follow(&mut node, &web.url("/pods.yaml"));
    node.start_agent();
    let one = node.wait_running("one").await;
    let slow = [
        "a slow body",
        "a slow head",
        "a body that stalls",
        "silence",
        "endless headers",
    ];
    for (what, reply, said) in faults() {
        // Those that only the agent's patience ends are shown by the source's own tests.
        if slow.contains(&what) {
            continue;
        }
        web.say(reply);
        restart(&mut node);
        wait_unreadable(&node, said).await;
        still_runs(&node, "one", &one).await;
        web.say(good.clone());
        restart(&mut node);
        wait_readable(&node, || web.requests().len()).await;
    }
    web.hang_up(true);
    restart(&mut node);
    wait_unreadable(&node, "").await;
    still_runs(&node, "one", &one).await;
    web.say(Reply::ok(NO_PODS));
    web.hang_up(false);
    restart(&mut node);
    node.wait_gone().await;
}

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            dir: dir.to_owned(),
        }
    }

    /// Writes NAME.pem and NAME.key for 127.0.0.1, good until the beginning of a year.
    fn sign(&self, name: &str, until: i32) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        fs::write(self.dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    }
}

async fn certificates_and_passwords_are_renewed_while_the_pods_run(mut node: Node) {
    let mut nginx = Nginx::new(&node);
    let dir = nginx.dir.clone();
    let authority = Authority::new(&dir);
    authority.sign("server", 2100);
    authority.sign("client", 2100);
    let at = dir.display();
    let tls = format!(
        "ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.key; \
         ssl_client_certificate {at}/ca.pem; ssl_verify_client on; \
         auth_basic pods; auth_basic_user_file {at}/passwords;"
    );
    fs::write(dir.join("passwords"), "node:{PLAIN}secret\n").unwrap();
    nginx.put(&document(&[("one", "a")]));
    nginx.start("ssl", &tls);
    let url = nginx.url("https");
    let header = |value: &str| {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             staticPodURL: {url}\nhttpCheckFrequency: 200ms\n\
             staticPodURLHeader: {{Authorization: [\"Basic {value}\"]}}\n"
        )
    };
    // node:secret
    fs::write(node.path("config.yaml"), header("bm9kZTpzZWNyZXQ=")).unwrap();
    node.without_manifests = true;
    let config = node.path("config.yaml").display().to_string();
    node.flag("config", &config);
    for (flag, file) in [
        ("ca", "ca.pem"),
        ("client-cert", "client.pem"),
        ("client-key", "client.key"),
    ] {
        node.flag(
            &format!("manifest-url-{flag}-file"),
            &format!("{at}/{file}"),
        );
    }
    node.start_agent();
    let one = node.wait_running("one").await;

    // The server's certificate expires, and is renewed.
    authority.sign("server", 2021);
    nginx.start("ssl", &tls);
    wait_unreadable(&node, "certificate").await;
    restart(&mut node);
    wait_unreadable(&node, "certificate").await;
    still_runs(&node, "one", &one).await;
    authority.sign("server", 2100);
    nginx.put(&document(&[("one", "a"), ("two", "a")]));
    nginx.start("ssl", &tls);
    restart(&mut node);
    node.wait_running("two").await;

    // The client's expires, and is renewed under the running agent.
    authority.sign("client", 2021);
    wait_unreadable(&node, "answered 400").await;
    still_runs(&node, "one", &one).await;
    authority.sign("client", 2100);
    wait_readable(&node, || nginx.answered()).await;

    // The password changes; the agent is told by a reload.
    fs::write(dir.join("passwords"), "node:{PLAIN}changed\n").unwrap();
    wait_unreadable(&node, "answered 401").await;
    still_runs(&node, "one", &one).await;
    fs::write(node.path("config.yaml"), header("bm9kZTpjaGFuZ2Vk")).unwrap();
    node.signal_agent("HUP");
    wait_readable(&node, || nginx.answered()).await;

    // Another authority is none.
    Authority::new(&dir).sign("server", 2100);
    fs::copy(dir.join("ca.pem"), dir.join("other-ca.pem")).unwrap();
    still_runs(&node, "one", &one).await;
    assert!(
        !node.log().contains("c2VjcmV0") && !node.log().contains("secret"),
        "no secret in the log"
    );
    nginx.stop();
    node.kill_agent();
    node.extra_flags.clear();
    node.without_manifests = false;
    node.start_agent();
    node.wait_gone().await;
}

async fn what_came_from_a_lost_copy_runs_on(mut node: Node) {
    let web = Web::start(Reply::ok(document(&[("one", "a")])));
    node.put("file.yaml", &pod("file", FOREVER));
    follow(&mut node, &web.url("/pods.yaml"));
    node.start_agent();
    let one = node.wait_running("one").await;
    node.kill_agent();
    fs::remove_dir_all(node.path("root/url")).unwrap();
    web.hang_up(true);
    node.start_agent();
    node.wait_known(2).await;
    still_runs(&node, "one", &one).await;
    // It is looked after as well.
    node.kill_container(&one.id).await;
    let restarted = node.wait_after("one", &one).await;
    web.say(Reply::ok(NO_PODS));
    web.hang_up(false);
    restart(&mut node);
    node.wait_until("the document's word counts", async || {
        node.running_one("one", "c")
            .await
            .is_none_or(|c| c.id != restarted.id)
    })
    .await;
    node.remove("file.yaml");
    node.wait_gone().await;
}
