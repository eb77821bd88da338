//! `ConfigMap`s and `Secret`s that stand in manifests, as the containers see them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::node::{Node, manifest};

super::on_each_containerd!(
    objects_in_the_same_and_in_other_files_serve_a_pod,
    a_changed_object_is_a_change_of_the_pod,
    what_is_missing_is_waited_for_and_ends_nothing_that_runs,
    the_content_of_a_secret_is_nowhere_for_others_to_read,
);

fn config_map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n")
}

fn secret(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {data}\n")
}

const USER: &str = r"
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: ABSENT, valueFrom: {secretKeyRef: {name: keys, key: none, optional: true}}}
    envFrom:
    - {prefix: SET_, configMapRef: {name: settings}}
    - {secretRef: {name: keys}}
    - {configMapRef: {name: nothing, optional: true}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys}
    - {name: all, mountPath: /all}
    - {name: nothing, mountPath: /nothing}
    - {name: settings, mountPath: /one/colour, subPath: deep/colour}
  volumes:
  - name: settings
    configMap: {name: settings, items: [{key: colour, path: deep/colour, mode: 0444}]}
  - name: keys
    secret: {secretName: keys, defaultMode: 0400}
  - name: nothing
    secret: {secretName: nothing, optional: true}
  - name: all
    projected:
      defaultMode: 0440
      sources:
      - configMap: {name: settings}
      - secret: {name: keys, items: [{key: password, path: secret/password}]}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
";

async fn objects_in_the_same_and_in_other_files_serve_a_pod(mut node: Node) {
    let pod = manifest("user", USER);
    let settings = config_map("settings", "{colour: blue}");
    node.put("a-keys.yaml", &secret("keys", "{password: \"pa ss\"}"));
    node.put("user.yaml", &format!("{pod}---\n{settings}"));
    node.start_agent();
    let id = node.wait_running("user").await.id;
    for (script, expected) in [
        (
            "echo $COLOUR/$SET_colour/$PASSWORD/$password",
            "blue/blue/pa ss/pa ss",
        ),
        ("echo ${ABSENT-none}", "none"),
        ("cat /settings/deep/colour", "blue"),
        ("cat /one/colour", "blue"),
        (
            "cat /all/colour /all/secret/password /all/name",
            &format!("bluepa ss{}", node.full_name("user")),
        ),
        ("stat -L -c %a.%g /settings/deep/colour", "444.2000"),
        // The group of the Pod's volumes may read them too.
        ("stat -L -c %a.%g /keys/password", "440.2000"),
        ("cat /keys/password", "pa ss"),
        ("stat -L -c %a /all/colour", "440"),
        ("ls /nothing", ""),
        ("touch /keys/x || echo refused", "refused"),
        ("grep -c ' /keys tmpfs ro' /proc/mounts", "1"),
        ("grep -c ' /all tmpfs ro' /proc/mounts", "1"),
        ("grep -c ' /nothing tmpfs ro' /proc/mounts", "1"),
    ] {
        let script = format!("{{ {script}; }} 2>/dev/null");
        assert_eq!(node.sh(&id, &script).await, expected, "{script}");
    }
    node.remove("user.yaml");
    node.wait_gone().await;
}

async fn a_changed_object_is_a_change_of_the_pod(mut node: Node) {
    let spec = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts: [{name: settings, mountPath: /settings}]
  volumes: [{name: settings, configMap: {name: settings}}]
";
    node.put("settings.yaml", &config_map("settings", "{colour: blue}"));
    node.put("web.yaml", &manifest("web", spec));
    node.put(
        "other.yaml",
        &super::node::pod("other", super::node::FOREVER),
    );
    node.start_agent();
    let first = node.wait_running("web").await;
    let other = node.wait_running("other").await;
    let before = node.report("web").await.unwrap();
    node.put("settings.yaml", &config_map("settings", "{colour: green}"));
    let second = node.wait_after("web", &first).await;
    assert_eq!(
        node.exec(&second.id, &["cat", "/settings/colour"]).await,
        "green"
    );
    assert_ne!(node.report("web").await.unwrap().uid, before.uid);
    assert_eq!(node.running_one("other", "c").await.unwrap().id, other.id);
    // One whose content cannot be read is refused, and the Pod runs on with what it has.
    node.put(
        "settings.yaml",
        &config_map("settings", "{colour: [green]}"),
    );
    node.wait_until("it is refused", async || {
        !node.status().await.refused.is_empty()
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, second.id);
    node.remove("web.yaml");
    node.remove("other.yaml");
    node.wait_gone().await;
}

async fn what_is_missing_is_waited_for_and_ends_nothing_that_runs(mut node: Node) {
    let spec = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    env: [{name: KEY, valueFrom: {secretKeyRef: {name: late, key: password}}}]
";
    node.put("web.yaml", &manifest("web", spec));
    node.start_agent();
    let report = node.wait_reason("web", "CreateContainerConfigError").await;
    assert_eq!(report.phase, "Pending");
    let missing = "no manifest has the Secret \"late\"";
    let ps = node.ps();
    assert!(
        ps.contains(missing) && ps.contains("CreateContainerConfigError"),
        "{ps}"
    );
    let object = secret("late", "{password: x}");
    node.put("late.yaml", &object);
    let first = node.wait_running("web").await;
    let uid = node.report("web").await.unwrap().uid;
    node.remove("late.yaml");
    let waits = async |node: &Node| {
        node.wait_until("it is told that the Secret is missing", async || {
            let report = node.report("web").await.unwrap_or_default();
            report.ready == 1 && report.update.is_some_and(|u| u.message.contains(missing))
        })
        .await;
    };
    waits(&node).await;
    assert!(node.ps().contains(missing));
    node.kill_agent();
    node.start_agent();
    waits(&node).await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, first.id);
    // Its restarts go on with what it was started with.
    node.kill_container(&first.id).await;
    let second = node.wait_after("web", &first).await;
    assert_eq!(node.sh(&second.id, "echo $KEY").await, "x");
    node.put("late.yaml", &object);
    node.wait_until("nothing is missing any more", async || {
        let report = node.report("web").await.unwrap();
        report.uid == uid && report.update.is_none()
    })
    .await;
    assert_eq!(node.running_one("web", "c").await.unwrap().id, second.id);
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn the_content_of_a_secret_is_nowhere_for_others_to_read(mut node: Node) {
    let value = format!("sesame-{}", node.name);
    let spec = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    env: [{name: KEY, valueFrom: {secretKeyRef: {name: keys, key: key}}}]
    volumeMounts: [{name: keys, mountPath: /keys}]
  - name: broken
    image: $BUSYBOX
    command: [/no/such/program]
    envFrom: [{secretRef: {name: keys}}]
  volumes: [{name: keys, secret: {secretName: keys}}]
";
    node.put("web.yaml", &manifest("web", spec));
    node.put("keys.yaml", &secret("keys", &format!("{{key: {value}}}")));
    let bad =
        secret("bad", &format!("{{key: [{value}]}}")) + &format!("data: {{other: {value}!}}\n");
    node.put("bad.yaml", &bad);
    node.start_agent();
    let id = node.wait_running("web").await.id;
    assert_eq!(
        node.sh(&id, "echo $KEY; cat /keys/key").await,
        format!("{value}\n{value}")
    );
    node.wait_until(
        "the other container fails, the bad Secret is refused",
        async || {
            let status = node.status().await;
            let failed = |p: &podkeeper::pod::report::PodReport| {
                p.containers.iter().any(|c| c.reason == "RunContainerError")
            };
            status.pods.iter().any(failed) && !status.refused.is_empty()
        },
    )
    .await;
    let status = format!("{:?}", node.status().await);
    for (place, text) in [
        ("the log", node.log()),
        ("ps", node.ps()),
        ("the status", status),
    ] {
        assert!(!text.contains(&value), "{place} shows it: {text}");
    }
    for folder in ["root", "run", "logs"] {
        assert_eq!(
            open_to_others(&node.path(folder), &value),
            Vec::<String>::new()
        );
    }
    // On disk it stands in none but the agent's own files, and is gone with the Pod.
    let root = node.path("root");
    let disk = fs::metadata(&root).unwrap().dev();
    let files = files_with(&root, &value);
    assert!(!files.is_empty(), "it is in the volume, in memory");
    for file in files {
        let found = fs::metadata(&file).unwrap();
        let private = found.permissions().mode() & 0o7777 == 0o600;
        assert!(
            found.dev() != disk || private,
            "{file} is on disk, with {:o}",
            found.mode()
        );
    }
    node.remove("web.yaml");
    node.wait_gone().await;
    for folder in ["root", "run", "logs"] {
        assert_eq!(files_with(&node.path(folder), &value), Vec::<String>::new());
    }
}

/// Files below a folder that have these words, as they are or in base64.
fn files_with(folder: &Path, words: &str) -> Vec<String> {
    walk(folder, words, 0)
}

/// The same, as far as somebody else than the owner gets.
fn open_to_others(folder: &Path, words: &str) -> Vec<String> {
    walk(folder, words, 0o005)
}

/// Files with these words in folders, and with a mode, that have the bits of `wanted` (which the
/// execute bit of files is not asked of).
fn walk(folder: &Path, words: &str, wanted: u32) -> Vec<String> {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(words);
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let mode = entry.metadata().unwrap().mode();
        let may = |bits: u32| mode & wanted & bits == wanted & bits;
        if kind.is_dir() && may(0o777) {
            found.extend(walk(&path, words, wanted));
        } else if kind.is_file() && may(0o666) {
            let text = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&text);
            if text.contains(words) || text.contains(&encoded) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}
