//! Credentials for registries come from a Pod's Secrets, from docker's credential helpers and from the kubelet's
//! credential providers. Wrong ones are followed by right ones without a restart, and none is ever shown.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::images::{PrivateRegistry, image, push, push_with, registry};
use super::mounts::{Mounted, folder};
use super::node::{BUSYBOX, FOREVER, Node, command, pod_with};

super::on_each_containerd!(
    a_pod_pulls_with_its_own_secret_and_a_changed_one_counts_at_once,
    an_update_waits_for_a_secret_that_is_missing_or_wrong,
    a_new_pod_without_its_secret_starts_with_what_it_can_pull,
    a_credential_helper_is_asked_and_one_that_hangs_holds_up_no_other_pod,
    a_credential_provider_is_asked_and_one_that_fails_is_asked_again,
    docker_config_files_that_hang_keep_no_image_from_being_pulled,
);

mod v2_1_image_volumes {
    super::super::on_containerd!("2.1": a_volume_of_a_private_image_is_pulled_with_the_secret);
}

/// An image in the private registry.
fn private_image(node: &Node, registry: &PrivateRegistry) -> String {
    let name = image(node, &registry.address, "private");
    push_with("busybox-1.tar", &name, &["--login", &registry.login]);
    name
}

/// The spec's field that names a Secret.
const WITH_SECRET: &str = "  imagePullSecrets: [{name: login}]\n";

/// A Secret with a login for the registry.
fn secret(registry: &PrivateRegistry, password: &str) -> String {
    let (user, _) = registry.login.split_once(':').unwrap();
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let config = json!({"auths": {&registry.address: {"auth": auth}}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": STANDARD.encode(config.to_string())},
    });
    secret.to_string()
}

/// A program of the node.
fn write_program(node: &Node, name: &str, script: &str) {
    let bin = node.path("bin");
    fs::create_dir_all(&bin).unwrap();
    // Written beside and renamed: one that is open for writing cannot be run.
    let new = bin.join(format!(".{name}"));
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, bin.join(name)).unwrap();
}

/// Files below a folder that anybody may read and that hold one of these texts.
fn readable_with(folder: &Path, texts: &[String], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(known) = path.symlink_metadata() else {
            continue;
        };
        if known.is_dir() && known.mode() & 0o005 != 0 {
            readable_with(&path, texts, found);
        } else if known.is_file() && known.mode() & 0o044 != 0 {
            let content = fs::read(&path).unwrap_or_default();
            let content = String::from_utf8_lossy(&content).into_owned();
            if texts.iter().any(|text| content.contains(text)) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// Nothing that the agent writes or says shows a credential in any form.
async fn assert_hidden(node: &Node, registry: &PrivateRegistry, wrong: &str) {
    let (user, password) = registry.login.split_once(':').unwrap();
    let mut texts = vec![];
    for password in [password, wrong] {
        texts.push(password.to_owned());
        texts.push(STANDARD.encode(format!("{user}:{password}")));
    }
    let (run, pod) = (node.path("run"), node.full_name("web"));
    let mut shown = vec![("log".to_owned(), node.log())];
    for arguments in [
        &["ps", "-o", "json"][..],
        &["get", &pod, "-o", "yaml"],
        &["describe", &pod],
        &["events"],
        &["config"],
    ] {
        let mut command = command(arguments);
        if arguments[0] != "config" {
            command.arg("--run-dir").arg(&run);
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        shown.push((
            arguments.join(" "),
            String::from_utf8_lossy(&text).into_owned(),
        ));
    }
    shown.push(("status".to_owned(), format!("{:?}", node.status().await)));
    for (what, shown) in shown {
        for text in &texts {
            assert!(!shown.contains(text), "{what} shows {text}: {shown}");
        }
    }
    let mut found = vec![];
    for folder in ["root", "run", "logs", "container-logs"] {
        readable_with(&node.path(folder), &texts, &mut found);
    }
    assert_eq!(found, [""; 0]);
}

async fn a_pod_pulls_with_its_own_secret_and_a_changed_one_counts_at_once(mut node: Node) {
    let registry = PrivateRegistry::new();
    let name = private_image(&node, &registry);
    let init = format!(
        "{WITH_SECRET}  initContainers:\n  - {{name: init, image: '{name}', command: ['true']}}\n"
    );
    let manifest = pod_with("web", &name, FOREVER, &init);
    node.put("web.yaml", &manifest);
    node.put("login.yaml", &secret(&registry, "outdated-1"));
    node.env
        .push(("HOME".to_owned(), node.path("home").display().to_string()));
    node.start_agent();
    let report = node
        .wait("the registry refuses the login", async || {
            let report = node.report("web").await;
            report.filter(|r| r.message.contains("Secret default/login"))
        })
        .await;
    assert!(
        report.reason.starts_with("Init:") || report.reason.contains("ImagePull"),
        "{report:#?}"
    );
    node.put("login.yaml", &secret(&registry, registry.password()));
    let container = node.wait_running("web").await;
    assert_hidden(&node, &registry, "outdated-1").await;

    // What runs is not restarted for a login that changes, and keeps the new one over a restart of the agent.
    node.put("login.yaml", &secret(&registry, "outdated-2"));
    node.wait_until("the record has the new login", async || {
        records_with(&node, "outdated-2", &registry)
    })
    .await;
    node.kill_agent();
    node.start_agent();
    node.wait_known(1).await;
    assert_eq!(node.wait_running("web").await.id, container.id);
    assert_hidden(&node, &registry, "outdated-2").await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// Returns true if the record of a Pod has this password in its Secret.
fn records_with(node: &Node, password: &str, registry: &PrivateRegistry) -> bool {
    let document: Value = serde_json::from_str(&secret(registry, password)).unwrap();
    let text = document["data"][".dockerconfigjson"].as_str().unwrap();
    let pods = fs::read_dir(node.path("root/pods")).into_iter().flatten();
    let mut files = pods
        .flatten()
        .flat_map(|pod| fs::read_dir(pod.path()).into_iter().flatten());
    files.any(|file| {
        let content = file.map(|file| fs::read_to_string(file.path()).unwrap_or_default());
        content.is_ok_and(|content| content.contains(text))
    })
}

async fn an_update_waits_for_a_secret_that_is_missing_or_wrong(mut node: Node) {
    let registry = PrivateRegistry::new();
    let name = private_image(&node, &registry);
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, ""));
    node.env
        .push(("HOME".to_owned(), node.path("home").display().to_string()));
    node.start_agent();
    let before = node.wait_running("web").await;
    node.put("web.yaml", &pod_with("web", &name, FOREVER, WITH_SECRET));
    let waits_for = async |words: &str| {
        node.wait_until(words, async || {
            let update = node.report("web").await.and_then(|report| report.update);
            update.is_some_and(|update| update.message.contains(words))
        })
        .await;
    };
    waits_for("spec.imagePullSecrets[0]: no manifest has the Secret \"login\"").await;
    let other = secret(&registry, "x").replace("kubernetes.io/dockerconfigjson", "Opaque");
    node.put("login.yaml", &other);
    waits_for("the Secret \"login\" has the type \"Opaque\", expected").await;
    node.put("login.yaml", &secret(&registry, "outdated-1"));
    waits_for("with the credentials of").await;
    assert_eq!(node.wait_running("web").await.id, before.id);
    node.put("login.yaml", &secret(&registry, registry.password()));
    node.wait_after("web", &before).await;
    assert_hidden(&node, &registry, "outdated-1").await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_new_pod_without_its_secret_starts_with_what_it_can_pull(mut node: Node) {
    let manifest = pod_with("web", BUSYBOX, FOREVER, WITH_SECRET);
    node.put("web.yaml", &manifest);
    node.start_agent();
    let container = node.wait_running("web").await;
    let event = "Unable to retrieve some image pull secrets (login)";
    node.wait_until("an event reports the Secret", async || {
        let mut events = command(&["events"]);
        let output = events.arg("--run-dir").arg(node.path("run")).output();
        let events = String::from_utf8(output.unwrap().stdout).unwrap();
        events.contains("FailedToRetrieveImagePullSecret") && events.contains(event)
    })
    .await;
    let registry = PrivateRegistry::new();
    node.put("login.yaml", &secret(&registry, "outdated-1"));
    node.wait_until("the record has the Secret", async || {
        records_with(&node, "outdated-1", &registry)
    })
    .await;
    assert_eq!(node.wait_running("web").await.id, container.id);
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_volume_of_a_private_image_is_pulled_with_the_secret(mut node: Node) {
    let registry = PrivateRegistry::new();
    let name = private_image(&node, &registry);
    let mount = "    volumeMounts: [{name: data, mountPath: /data}]\n";
    let volume = format!("  volumes: [{{name: data, image: {{reference: '{name}'}}}}]\n");
    let spec = [mount, &volume, WITH_SECRET].concat();
    node.put("login.yaml", &secret(&registry, registry.password()));
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, &spec));
    node.start_agent();
    let container = node.wait_running("web").await;
    let version = node.exec(&container.id, &["cat", "/data/etc/image-version"]);
    assert_eq!(version.await, "1\n");
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// Has the agent look for programs in the node's folder first.
fn with_programs(node: &mut Node) {
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", node.path("bin").display());
    node.env.push(("PATH".to_owned(), path));
    node.env
        .push(("HOME".to_owned(), node.path("home").display().to_string()));
}

async fn a_credential_helper_is_asked_and_one_that_hangs_holds_up_no_other_pod(mut node: Node) {
    let registry = PrivateRegistry::new();
    let name = private_image(&node, &registry);
    let (user, password) = registry.login.split_once(':').unwrap();
    let answer = |password: &str| {
        format!(
            "test \"$1\" = get && read server && test \"$server\" = {} && echo '{{\"Username\": \"{user}\", \"Secret\": \"{password}\"}}'",
            registry.address
        )
    };
    let pids = node.path("pids");
    let hangs = format!(
        "echo outdated-1 >&2; sleep 1000 & echo $$ $! > {}; wait",
        pids.display()
    );
    write_program(&node, "docker-credential-keeper", &hangs);
    let root = node.path("root");
    fs::create_dir_all(&root).unwrap();
    let config = json!({"auths": {}, "credHelpers": {&registry.address: "keeper"}});
    fs::write(root.join("config.json"), config.to_string()).unwrap();
    node.put("web.yaml", &pod_with("web", &name, FOREVER, ""));
    with_programs(&mut node);
    node.start_agent();
    node.wait_until("the helper hangs", async || pids.exists())
        .await;
    node.put("other.yaml", &pod_with("other", BUSYBOX, FOREVER, ""));
    node.wait_running("other").await;
    node.wait_until("the helper is killed", async || {
        let report = node.report("web").await;
        report.is_some_and(|r| {
            r.message.contains("docker-credential-keeper of")
                && r.message.contains("has not ended within 30s")
        })
    })
    .await;
    let runs = |pid: &str| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    let ids = fs::read_to_string(&pids).unwrap();
    assert!(!ids.split_whitespace().any(runs), "{ids}");

    write_program(&node, "docker-credential-keeper", &answer("outdated-1"));
    node.wait_until("the registry refuses the login", async || {
        let report = node.report("web").await;
        report.is_some_and(|r| r.message.contains("with the credentials of"))
    })
    .await;
    write_program(&node, "docker-credential-keeper", &answer(password));
    node.wait_running("web").await;
    assert_eq!(
        node.log_lines_with("has not ended within 30s"),
        2,
        "{}",
        node.log()
    );
    assert_hidden(&node, &registry, "outdated-1").await;
    node.remove("web.yaml");
    node.remove("other.yaml");
    node.wait_gone().await;
}

async fn a_credential_provider_is_asked_and_one_that_fails_is_asked_again(mut node: Node) {
    let registry = PrivateRegistry::new();
    let name = private_image(&node, &registry);
    let (user, password) = registry.login.split_once(':').unwrap();
    let version = "credentialprovider.kubelet.k8s.io/v1";
    let answer = |password: &str| {
        let auth = json!({&registry.address: {"username": user, "password": password}});
        let answer = json!({
            "apiVersion": version, "kind": "CredentialProviderResponse",
            "cacheKeyType": "Registry", "cacheDuration": "0s", "auth": auth,
        });
        format!(
            "test \"$1 $STAGE\" = \"get test\" || exit 3\nread request\ncase \"$request\" in *'\"image\":\"{}\"'*) echo '{answer}';; *) exit 4;; esac",
            name.rsplit_once(':').unwrap().0
        )
    };
    write_program(&node, "keeper", "echo outdated-1 >&2; exit 5");
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "keeper", "apiVersion": version, "matchImages": [&registry.address],
            "defaultCacheDuration": "1h", "args": ["get"], "env": [{"name": "STAGE", "value": "test"}],
        }],
    });
    let file = node.path("providers.json");
    fs::write(&file, config.to_string()).unwrap();
    node.flag(
        "image-credential-provider-config",
        &file.display().to_string(),
    );
    let bin = node.path("bin").display().to_string();
    node.flag("image-credential-provider-bin-dir", &bin);
    node.env
        .push(("HOME".to_owned(), node.path("home").display().to_string()));
    node.put("web.yaml", &pod_with("web", &name, FOREVER, ""));
    node.start_agent();
    let says = async |words: &str| {
        node.wait_until(words, async || {
            let report = node.report("web").await;
            report.is_some_and(|report| report.message.contains(words))
        })
        .await;
    };
    says("credential provider keeper: ").await;
    write_program(&node, "keeper", &answer("outdated-1"));
    says("in credential provider keeper: ").await;
    write_program(&node, "keeper", &answer(password));
    node.wait_running("web").await;
    assert_hidden(&node, &registry, "outdated-1").await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn docker_config_files_that_hang_keep_no_image_from_being_pulled(mut node: Node) {
    let home = folder(node.path("home"));
    let mut hanging = Mounted::hanging(&home);
    node.env
        .push(("HOME".to_owned(), home.display().to_string()));
    let name = image(&node, &registry(), "open");
    push("busybox-1.tar", &name);
    node.put("web.yaml", &pod_with("web", &name, FOREVER, ""));
    node.start_agent();
    node.wait_running("web").await;
    let words = "docker config files were not read within 5s";
    assert_eq!(node.log_lines_with(words), 1, "{}", node.log());
    node.remove("web.yaml");
    node.wait_gone().await;
    hanging.release();
}
