//! Images are pulled by policy, once for all who want them, and what cannot be had backs off.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};

use podkeeper::cri::v1;

use super::node::{FOREVER, Node, PATIENCE, pod_with};

super::on_each_containerd!(
    an_image_is_pulled_and_one_that_comes_later_too,
    several_pods_that_want_one_image_share_one_pull,
    a_pod_removed_while_its_image_is_pulled_is_gone,
    an_image_whose_content_is_gone_is_pulled_anew,
    what_a_power_cut_tore_of_images_is_pulled_anew,
    with_the_policy_always_a_restart_takes_the_newest_image_and_survives_the_registry,
    what_cannot_be_pulled_says_why,
    the_error_of_a_pull_is_shown_while_the_next_one_hangs,
    a_private_image_is_pulled_once_its_credentials_are_there,
    credentials_that_the_registry_refuses_give_way_to_the_next,
);

pub(super) fn registry() -> String {
    std::env::var("PODKEEPER_TEST_REGISTRY").expect("run this through hack/test")
}

/// A registry that serves only those who log in.
pub(super) struct PrivateRegistry {
    pub(super) address: String,
    /// `USER:PASSWORD`
    pub(super) login: String,
}

impl PrivateRegistry {
    pub(super) fn new() -> Self {
        let both = std::env::var("PODKEEPER_TEST_PRIVATE_REGISTRY");
        let both = both.expect("run this through hack/test");
        let (login, address) = both.rsplit_once('@').unwrap();
        Self {
            address: address.to_owned(),
            login: login.to_owned(),
        }
    }

    pub(super) fn password(&self) -> &str {
        self.login.split_once(':').unwrap().1
    }

    /// The login as files for credentials have it.
    fn auth(&self) -> String {
        STANDARD.encode(&self.login)
    }
}

/// Puts one of the test images into the registry.
pub(super) fn push(archive: &str, reference: &str) {
    push_with(archive, reference, &[]);
}

pub(super) fn push_with(archive: &str, reference: &str, flags: &[&str]) {
    let images = std::env::var("PODKEEPER_TEST_IMAGES").expect("run this through hack/test");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("hack/registry");
    let pushed = Command::new(script)
        .arg("push")
        .arg(PathBuf::from(images).join(archive))
        .arg(reference)
        .args(flags)
        .status();
    assert!(pushed.unwrap().success());
}

/// A name that no other test and no earlier run uses.
pub(super) fn image(node: &Node, registry: &str, tag: &str) -> String {
    format!("{registry}/{}:{tag}", node.name)
}

/// A way to the registry that is shut at first; what comes in waits.
struct Gate {
    address: String,
    open: Arc<AtomicBool>,
}

impl Gate {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(AtomicBool::new(false));
        let is_open = Arc::clone(&open);
        tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let is_open = Arc::clone(&is_open);
                tokio::spawn(async move {
                    while !is_open.load(Ordering::Relaxed) {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    let mut to = TcpStream::connect(registry()).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { address, open }
    }

    fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }
}

async fn an_image_is_pulled_and_one_that_comes_later_too(mut node: Node) {
    let there = image(&node, &registry(), "there");
    let later = image(&node, &registry(), "later");
    push("busybox-1.tar", &there);
    node.put("there.yaml", &pod_with("there", &there, FOREVER, ""));
    node.put("later.yaml", &pod_with("later", &later, FOREVER, ""));
    node.start_agent();
    node.wait_running("there").await;
    node.wait_until("the other waits", async || {
        node.report("later")
            .await
            .is_some_and(|r| r.reason == "ErrImagePull")
    })
    .await;
    push("busybox-1.tar", &later);
    node.wait_running("later").await;
    assert!(node.log_lines_with("retry_in=10") >= 1, "{}", node.log());
    node.remove("there.yaml");
    node.remove("later.yaml");
    node.wait_gone().await;
}

async fn several_pods_that_want_one_image_share_one_pull(mut node: Node) {
    let gate = Gate::new().await;
    let name = image(&node, &gate.address, "shared");
    push("busybox-1.tar", &image(&node, &registry(), "shared"));
    let pods: Vec<String> = (0..5).map(|i| format!("p{i}")).collect();
    for pod in &pods {
        node.put(&format!("{pod}.yaml"), &pod_with(pod, &name, FOREVER, ""));
    }
    node.start_agent();
    for pod in &pods {
        node.wait_until("it waits for the pull", async || {
            node.report(pod)
                .await
                .is_some_and(|r| r.reason == "Pulling")
        })
        .await;
    }
    gate.open();
    for pod in &pods {
        node.wait_running(pod).await;
    }
    assert_eq!(node.log_lines_with("Pulling image"), 1, "{}", node.log());
    for pod in &pods {
        node.remove(&format!("{pod}.yaml"));
    }
    node.wait_gone().await;
}

async fn a_pod_removed_while_its_image_is_pulled_is_gone(mut node: Node) {
    let gate = Gate::new().await;
    let name = image(&node, &gate.address, "slow");
    node.put("slow.yaml", &pod_with("slow", &name, FOREVER, ""));
    node.start_agent();
    node.wait_until("it is being pulled", async || {
        node.report("slow")
            .await
            .is_some_and(|r| r.reason == "Pulling")
    })
    .await;
    node.remove("slow.yaml");
    node.wait_gone().await;
    node.wait_until("nothing is said of it any more", async || {
        node.status().await.pods.is_empty()
    })
    .await;
}

/// Pushes an image that no other test has any part of.
fn push_own(node: &Node, tag: &str) -> String {
    let name = image(node, &registry(), tag);
    let archive = node.path("own.tar");
    let made = Command::new("python3")
        .args(["hack/images.py", "--own", &name, "/bin/busybox"])
        .arg(&archive)
        .status();
    assert!(made.unwrap().success());
    push(archive.to_str().unwrap(), &name);
    name
}

/// Does something to an image in the runtime's store, behind the agent's back.
fn damage(node: &Node, image: &str, script: &str) {
    let done = Command::new("bash")
        .args(["-euc", &[STORE, script].concat()])
        .env("VERSION", node.version)
        .env("DIR", &node.runtime_dir)
        .env("IMAGE", image)
        .status();
    assert!(done.unwrap().success());
}

/// Finds the layer of an image in the runtime's store, unpacked and as it was pulled.
const STORE: &str = r#"
ctr() { "$(hack/containerd fetch --version $VERSION)/ctr" -a $DIR/run/containerd.sock -n k8s.io "$@"; }
digests() { ctr content get $1 | grep -o 'sha256:[0-9a-f]*'; }
manifest=$(ctr images ls | awk -v image=$IMAGE '$1 == image {print $3}')
unpacked=$(digests $(digests $manifest | head -1) | head -1)
pulled=$(digests $manifest | tail -1)
"#;

const REMOVE: &str = "ctr snapshots rm $unpacked; ctr content rm $pulled";

/// As a power cut leaves what was not on disk yet.
const EMPTY: &str = r"
layer=$(ctr snapshots view --target /mnt view-$$ $unpacked | grep -o '/[^ ,=]*snapshots/[0-9]*/fs')
ctr snapshots rm view-$$ || true
test -s $layer/bin/busybox
find $layer -type f -exec truncate -s 0 {} +
find $DIR -path *blobs/sha256/${pulled#sha256:} -exec truncate -s 0 {} +
";

async fn an_image_whose_content_is_gone_is_pulled_anew(mut node: Node) {
    let name = push_own(&node, "damaged");
    node.put("a.yaml", &pod_with("a", &name, FOREVER, ""));
    node.start_agent();
    node.wait_running("a").await;
    node.remove("a.yaml");
    node.wait_gone().await;
    damage(&node, &name, REMOVE);
    node.put("b.yaml", &pod_with("b", &name, FOREVER, ""));
    node.wait_running("b").await;
    assert_eq!(
        node.log_lines_with("Found a damaged image, pulling it again"),
        1
    );
}

/// Two names of one image: what the runtime has of one is taken for the other.
async fn what_a_power_cut_tore_of_images_is_pulled_anew(mut node: Node) {
    let first = push_own(&node, "first");
    let second = image(&node, &registry(), "second");
    push(node.path("own.tar").to_str().unwrap(), &second);
    let names = [("a", &first), ("b", &second)];
    for (pod, name) in names {
        node.put(&format!("{pod}.yaml"), &pod_with(pod, name, FOREVER, ""));
    }
    node.start_agent();
    let mut before = vec![];
    for (pod, _) in names {
        before.push(node.wait_running(pod).await);
    }
    // What a cut does: nothing runs any more, and the pulls were not on disk yet.
    node.kill_agent();
    for container in &before {
        node.kill_container(&container.id).await;
    }
    damage(&node, &first, EMPTY);
    let records = node.path("root/pulls");
    for name in [&first, &second] {
        let record = json!({"image": name, "boot": "an earlier one"});
        fs::write(records.join(hex(name)), record.to_string()).unwrap();
    }
    node.start_agent();
    for ((pod, _), before) in names.iter().zip(&before) {
        let after = node.wait_after(pod, before).await;
        let restarts = after.metadata.unwrap().attempt;
        assert_eq!(restarts, 1, "{}", node.log());
        let listed = node.exec(&after.id, &["sh", "-c", "test -s /own && echo whole"]);
        assert_eq!(listed.await, "whole\n");
    }
    assert_eq!(fs::read_dir(records).unwrap().count(), 0);
    for (pod, _) in names {
        node.remove(&format!("{pod}.yaml"));
    }
    node.wait_gone().await;
}

/// The name of an image's record.
fn hex(name: &str) -> String {
    let mut name_of_file = String::new();
    for byte in Sha256::digest(name) {
        write!(name_of_file, "{byte:02x}").unwrap();
    }
    name_of_file
}

async fn with_the_policy_always_a_restart_takes_the_newest_image_and_survives_the_registry(
    mut node: Node,
) {
    let gate = Gate::new().await;
    gate.open();
    let name = image(&node, &gate.address, "moving");
    let pushed = image(&node, &registry(), "moving");
    push("busybox-1.tar", &pushed);
    let manifest = pod_with("web", &name, FOREVER, "    imagePullPolicy: Always\n");
    node.put("web.yaml", &manifest);
    node.start_agent();
    let first = node.wait_running("web").await;
    push("busybox-2.tar", &pushed);
    // A restart does not wait long for the newest image: the runtime has its parts already.
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec {
            image: pushed,
            ..v1::ImageSpec::default()
        }),
        ..v1::PullImageRequest::default()
    };
    node.client.pull_image(request, PATIENCE).await.unwrap();
    node.kill_container(&first.id).await;
    let second = node.wait_after("web", &first).await;
    assert_eq!(
        node.exec(&second.id, &["cat", "/etc/image-version"]).await,
        "2\n"
    );
    gate.open.store(false, Ordering::Relaxed);
    node.kill_container(&second.id).await;
    node.wait_after("web", &second).await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn what_cannot_be_pulled_says_why(mut node: Node) {
    let never = "    imagePullPolicy: Never\n";
    let nowhere = "localhost/podkeeper/nowhere:1";
    node.put("never.yaml", &pod_with("never", nowhere, FOREVER, never));
    node.put(
        "name.yaml",
        &pod_with("name", "busybox:UPPER:bad", FOREVER, ""),
    );
    node.start_agent();
    for (pod, reason) in [("never", "ErrImageNeverPull"), ("name", "InvalidImageName")] {
        let report = node
            .wait("it says why", async || {
                let report = node.report(pod).await;
                report
                    .filter(|r| !["", "Pulling", "ContainerCreating"].contains(&r.reason.as_str()))
            })
            .await;
        assert_eq!(report.reason, reason, "{report:#?}");
    }
    node.remove("never.yaml");
    node.remove("name.yaml");
    node.wait_gone().await;
}

async fn a_private_image_is_pulled_once_its_credentials_are_there(mut node: Node) {
    let registry = PrivateRegistry::new();
    let name = image(&node, &registry.address, "private");
    push_with("busybox-1.tar", &name, &["--login", &registry.login]);
    node.put("private.yaml", &pod_with("private", &name, FOREVER, ""));
    let home = node.path("home").display().to_string();
    node.env.push(("HOME".to_owned(), home));
    node.start_agent();
    let report = node
        .wait("the image is refused", async || {
            let report = node.report("private").await;
            report.filter(|r| r.reason == "ErrImagePull")
        })
        .await;
    let file = node.path("root/config.json");
    for words in ["no credentials for it", &file.display().to_string()] {
        assert!(report.message.contains(words), "{report:#?}");
    }

    let auth = registry.auth();
    let entry = format!(
        r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#,
        registry.address
    );
    fs::write(&file, entry).unwrap();
    node.wait_running("private").await;
    for secret in [registry.password(), &auth] {
        assert_eq!(node.log_lines_with(secret), 0, "{}", node.log());
    }
    node.remove("private.yaml");
    node.wait_gone().await;
}

async fn credentials_that_the_registry_refuses_give_way_to_the_next(mut node: Node) {
    let registry = PrivateRegistry::new();
    let name = image(&node, &registry.address, "several");
    push_with("busybox-1.tar", &name, &["--login", &registry.login]);
    let (user, password) = registry.login.split_once(':').unwrap();
    let auths = serde_json::json!({
        format!("{}/{}", registry.address, node.name): {"username": user, "password": "outdated"},
        format!("http://{}", registry.address): {"username": user, "password": password},
    });
    let home = node.path("home");
    fs::create_dir_all(home.join(".docker")).unwrap();
    let file = home.join(".docker/config.json");
    fs::write(&file, serde_json::json!({"auths": auths}).to_string()).unwrap();
    node.env
        .push(("HOME".to_owned(), home.display().to_string()));
    node.put("several.yaml", &pod_with("several", &name, FOREVER, ""));
    node.start_agent();
    node.wait_running("several").await;
    assert_eq!(
        node.log_lines_with("Failed to get image"),
        0,
        "{}",
        node.log()
    );
    node.remove("several.yaml");
    node.wait_gone().await;
}

/// A registry that closes its connections at first, and does not answer once it is to hang.
async fn broken_registry() -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hangs = Arc::new(AtomicBool::new(false));
    let is_to_hang = Arc::clone(&hangs);
    tokio::spawn(async move {
        let mut kept = vec![];
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            if is_to_hang.load(Ordering::Relaxed) {
                kept.push(connection);
            }
        }
    });
    (address, hangs)
}

async fn the_error_of_a_pull_is_shown_while_the_next_one_hangs(mut node: Node) {
    let (address, hangs) = broken_registry().await;
    let name = image(&node, &address, "broken");
    node.put("broken.yaml", &pod_with("broken", &name, FOREVER, ""));
    node.start_agent();
    node.wait_until("the pull fails", async || {
        let report = node.report("broken").await.unwrap_or_default();
        report.reason == "ErrImagePull" && report.steps.is_empty()
    })
    .await;
    hangs.store(true, Ordering::Relaxed);
    let again = format!("; the image \"{name}\" is being pulled again since 20");
    node.wait_until("the next pull hangs", async || {
        let ps = node.ps();
        ps.contains("ErrImagePull for ")
            && ps.contains("failed to do request")
            && ps.contains(&again)
    })
    .await;
    node.remove("broken.yaml");
    node.wait_gone().await;
}
