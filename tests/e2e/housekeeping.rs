//! Logs are rotated and linked to, images make room: what a node needs to run for years.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use podkeeper::cri::v1;

use super::chaos::Own;
use super::node::{BUSYBOX, FOREVER, Node, pod, pod_with};

super::on_each_containerd!(
    no_line_is_lost_when_logs_are_rotated_under_a_busy_container_and_the_agent_is_killed,
    a_log_has_no_more_files_than_are_to_be_kept,
    a_rotation_that_was_cut_off_is_finished,
    a_log_that_was_rotated_in_a_time_to_come_goes_as_the_oldest,
    every_container_that_is_there_has_a_link_to_its_log,
    links_without_a_log_go_when_the_agent_starts_and_those_of_others_stay,
    images_that_nothing_uses_or_wants_make_room,
    logs_of_a_pod_that_is_known_by_its_uid_alone_go_and_those_of_others_stay,
);

/// The folder of the logs of the Pod's container `c`.
async fn log_folder(node: &Node, pod: &str) -> PathBuf {
    let uid = node.report(pod).await.unwrap().uid;
    let name = format!("default_{}_{uid}", node.full_name(pod));
    node.path("logs").join(name).join("c")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.collect()
}

/// The rotated parts of `0.log` by their times, each with the names of its files.
fn parts(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for name in names(folder) {
        if let Some(rest) = name.strip_prefix("0.log.") {
            let time = rest.split('.').next().unwrap().to_owned();
            parts.entry(time).or_default().push(name);
        }
    }
    parts
}

fn is_compressed(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "gz")
}

/// What the container wrote, by all of its log's files, in order.
fn written(folder: &Path) -> String {
    let parts = parts(folder).into_values().map(|files| {
        assert_eq!(files.len(), 1, "a part is there once: {files:?}");
        files[0].clone()
    });
    let mut text = String::new();
    for name in parts.chain(["0.log".to_owned()]) {
        let mut log = vec![];
        let mut file = fs::File::open(folder.join(&name)).unwrap();
        if is_compressed(&name) {
            GzDecoder::new(file).read_to_end(&mut log).unwrap();
        } else {
            file.read_to_end(&mut log).unwrap();
        }
        for line in String::from_utf8(log).unwrap().lines() {
            // TIME STREAM TAG TEXT; where the runtime changes files, a line may go on in the next.
            text += line.splitn(4, ' ').nth(3).unwrap_or_default();
        }
    }
    text
}

async fn no_line_is_lost_when_logs_are_rotated_under_a_busy_container_and_the_agent_is_killed(
    mut node: Node,
) {
    const LINES: usize = 500_000;
    const AFTERWARDS: &str = "trap 'exit 0' TERM; while :; do echo .; sleep 0.1; done";
    node.flag("container-log-max-size", "1Mi");
    node.flag("container-log-max-files", "1000");
    node.flag("container-log-monitor-interval", "100ms");
    node.make_out();
    // 100 bytes a line, 50 MB in all.
    let script = format!(
        "busybox awk 'BEGIN {{ for (i = 1; i <= {LINES}; i++) printf \"<%098d\\n\", i }}'; touch /out/done; {AFTERWARDS}"
    );
    let volumes = node.with_out("    $MOUNT\n  volumes: $OUT\n");
    node.put("busy.yaml", &pod_with("busy", BUSYBOX, &script, &volumes));
    node.start_agent();
    node.wait_running("busy").await;
    let folder = log_folder(&node, "busy").await;
    for rotations in 1..3 {
        node.wait_until("it is rotated", async || parts(&folder).len() > rotations)
            .await;
        node.kill_agent();
        node.start_agent();
    }
    node.wait_written("done").await;
    let expected: Vec<String> = (1..=LINES).map(|i| format!("<{i:098}")).collect();
    let expected = expected.concat();
    node.wait_until(
        "all is in the log, and no more is to be rotated",
        async || {
            let log = fs::read_to_string(folder.join("0.log")).unwrap_or_default();
            log.ends_with(" .\n") && log.len() < 1 << 20
        },
    )
    .await;
    node.kill_agent();
    let found = written(&folder);
    let found = found.trim_end_matches('.');
    let same = found
        .bytes()
        .zip(expected.bytes())
        .take_while(|(a, b)| a == b);
    let same = same.count();
    assert!(
        found == expected,
        "{} of {} bytes, the same up to {same}: {:?}",
        found.len(),
        expected.len(),
        found.get(same.saturating_sub(100)..(same + 100).min(found.len()))
    );
    let parts = parts(&folder);
    let plain = parts.values().flatten().filter(|name| !is_compressed(name));
    let plain: Vec<_> = plain.collect();
    assert_eq!(plain, [parts.values().last().unwrap().last().unwrap()]);
    node.start_agent();
    node.remove("busy.yaml");
    node.wait_gone().await;
}

async fn a_log_has_no_more_files_than_are_to_be_kept(mut node: Node) {
    node.flag("container-log-max-size", "4Ki");
    node.flag("container-log-max-files", "3");
    node.flag("container-log-monitor-interval", "50ms");
    let script =
        "trap 'exit 0' TERM; while :; do echo some words to fill the log with; sleep 0.01; done";
    node.put("web.yaml", &pod("web", script));
    node.start_agent();
    node.wait_running("web").await;
    let folder = log_folder(&node, "web").await;
    let mut seen = BTreeSet::new();
    node.wait_until("it was rotated often", async || {
        let now = parts(&folder);
        // Those before, and the one that a rotation just made.
        assert!(now.len() <= 2, "{now:?}");
        seen.extend(now.into_keys());
        seen.len() > 4
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_rotation_that_was_cut_off_is_finished(mut node: Node) {
    let script = "trap 'exit 0' TERM; i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done";
    node.put("web.yaml", &pod("web", script));
    node.flag("container-log-monitor-interval", "100ms");
    node.start_agent();
    let container = node.wait_running("web").await;
    let folder = log_folder(&node, "web").await;
    let link = link(&node, &container);
    wait_for_words(&node, &link, "1").await;
    node.kill_agent();
    // The log was renamed, and the runtime was not told; the link went as well.
    fs::rename(folder.join("0.log"), folder.join("0.log.20260101-000000")).unwrap();
    fs::remove_file(&link).unwrap();
    node.start_agent();
    node.wait_until("the log goes on, and the link leads to it", async || {
        fs::read_to_string(&link).is_ok_and(|log| log.lines().count() > 2)
    })
    .await;
    let lines = written(&folder);
    let expected: String = (1..=lines.len()).map(|i| i.to_string()).collect();
    assert!(expected.starts_with(&lines), "{lines}");
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_log_that_was_rotated_in_a_time_to_come_goes_as_the_oldest(mut node: Node) {
    const AHEAD: &str = "0.log.20991231-235959";
    node.flag("container-log-max-size", "2Ki");
    node.flag("container-log-max-files", "3");
    node.flag("container-log-monitor-interval", "50ms");
    let script = "trap 'exit 0' TERM; i=0; while :; do i=$((i + 1)); echo $i; sleep 0.01; done";
    node.put("web.yaml", &pod("web", script));
    node.start_agent();
    node.wait_running("web").await;
    let folder = log_folder(&node, "web").await;
    // The machine's clock was years ahead at the first rotation.
    node.kill_agent();
    for part in parts(&folder).into_values().flatten() {
        fs::remove_file(folder.join(part)).unwrap();
    }
    let id = node.newest("web", "c").await.unwrap().id;
    fs::rename(folder.join("0.log"), folder.join(AHEAD)).unwrap();
    let first = fs::read_to_string(folder.join(AHEAD)).unwrap();
    node.client
        .reopen_container_log(v1::ReopenContainerLogRequest { container_id: id })
        .await
        .unwrap();
    node.start_agent();
    let mut rotations = BTreeSet::new();
    node.wait_until("it was rotated often", async || {
        rotations.extend(parts(&folder).into_keys());
        rotations.len() > 5
    })
    .await;
    node.kill_agent();
    // One that is killed within a rotation leaves the rest of it to the next.
    while !folder.join("0.log").exists() {
        node.start_agent();
        node.wait_until("the log is written again", async || {
            folder.join("0.log").exists()
        })
        .await;
        node.kill_agent();
    }
    let left = parts(&folder);
    assert!(left.len() == 2, "{left:?}");
    assert!(!left.contains_key(&AHEAD["0.log.".len()..]), "{left:?}");
    // The parts that are there are the newest, one after the other.
    let numbers =
        |text: &str| -> Vec<u64> { text.split('|').filter_map(|n| n.parse().ok()).collect() };
    let last_of_first = first
        .lines()
        .last()
        .and_then(|l| l.rsplit(' ').next()?.parse().ok());
    let text = written_lines(&folder);
    let found = numbers(&text);
    let expected: Vec<u64> = (found[0]..).take(found.len()).collect();
    assert_eq!(found, expected);
    assert!(found[0] > last_of_first.unwrap_or(0));
    node.start_agent();
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// The lines that the container wrote, each with a bar behind it.
fn written_lines(folder: &Path) -> String {
    let parts = parts(folder).into_values().flatten();
    let mut text = String::new();
    for name in parts.chain(["0.log".to_owned()]) {
        let mut log = String::new();
        let mut file = fs::File::open(folder.join(&name)).unwrap();
        if is_compressed(&name) {
            GzDecoder::new(file).read_to_string(&mut log).unwrap();
        } else {
            file.read_to_string(&mut log).unwrap();
        }
        for line in log.lines() {
            text += line.splitn(4, ' ').nth(3).unwrap_or_default();
            text += "|";
        }
    }
    text
}

async fn wait_for_words(node: &Node, log: &Path, words: &str) {
    node.wait_until(&format!("{words:?} is in the log"), async || {
        fs::read_to_string(log).is_ok_and(|log| log.contains(words))
    })
    .await;
}

/// Where the link to a container's log is.
fn link(node: &Node, container: &v1::Container) -> PathBuf {
    let label = |name: &str| &container.labels[&format!("io.kubernetes.{name}")];
    let pod = format!("{}_{}", label("pod.name"), label("pod.namespace"));
    let name = format!("{pod}_{}-{}.log", label("container.name"), container.id);
    node.path("container-logs").join(name)
}

async fn every_container_that_is_there_has_a_link_to_its_log(mut node: Node) {
    // Links are there by then only if nobody has to come by first.
    node.flag("container-log-monitor-interval", "1h");
    let script = format!("echo it is me; {FOREVER}");
    node.put("web.yaml", &pod("web", &script));
    node.start_agent();
    let mut containers = vec![node.wait_running("web").await];
    for restarts in 0..3 {
        let last = containers.last().unwrap();
        wait_for_words(&node, &link(&node, last), "it is me").await;
        if restarts < 2 {
            node.kill_container(&last.id).await;
            let next = node.wait_after("web", last).await;
            containers.push(next);
        }
    }
    node.wait_until("each has its link", async || {
        let there = node.containers().await;
        let expected: BTreeSet<PathBuf> = there.iter().map(|c| link(&node, c)).collect();
        let folder = node.path("container-logs");
        let links: BTreeSet<PathBuf> = names(&folder).iter().map(|n| folder.join(n)).collect();
        there.len() == 2 && links == expected
    })
    .await;
    assert!(!link(&node, &containers[0]).is_symlink());
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn links_without_a_log_go_when_the_agent_starts_and_those_of_others_stay(mut node: Node) {
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let container = node.wait_running("web").await;
    let own = link(&node, &container);
    node.wait_until("it has a link", async || own.exists())
        .await;
    node.kill_agent();
    let links = node.path("container-logs");
    let at = |name: &str| links.join(name);
    let gone = node.path("logs/default_gone_1/c/0.log");
    symlink(gone, at("gone_default_c-1.log")).unwrap();
    symlink(node.path("elsewhere"), at("others_default_c-2.log")).unwrap();
    fs::write(at("others_default_c-3.log"), "a file").unwrap();
    node.start_agent();
    node.wait_until("the dead link is gone", async || {
        !at("gone_default_c-1.log").is_symlink()
    })
    .await;
    assert!(own.exists());
    for others in ["others_default_c-2.log", "others_default_c-3.log"] {
        fs::remove_file(at(others)).expect(others);
    }
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn image_tags(node: &Node) -> BTreeSet<String> {
    let request = v1::ListImagesRequest::default();
    let images = node.client.list_images(request).await.unwrap().images;
    let tags = images.into_iter().flat_map(|image| image.repo_tags);
    tags.map(|tag| tag.replace("localhost/podkeeper/", ""))
        .collect()
}

/// A container of somebody else's that was made and never started; gives its sandbox.
async fn container_of_others(node: &Node, image: &str) -> String {
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: node.full_name("others"),
            uid: "1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        labels: HashMap::new(),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..v1::PodSandboxConfig::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    let sandbox = node.client.run_pod_sandbox(request).await.unwrap();
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..v1::ImageSpec::default()
        }),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..v1::ContainerConfig::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.pod_sandbox_id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    node.client.create_container(request).await.unwrap();
    sandbox.pod_sandbox_id
}

async fn images_that_nothing_uses_or_wants_make_room(mut node: Node) {
    const TOO_FULL: &str = "Image file system is too full";
    let own = Own::start(&mut node);
    // Beside others, which nothing uses.
    let used = ["busybox:1", "busybox:2", "pause:1", "web:1"].map(str::to_owned);
    let used = BTreeSet::from(used);
    node.wait_until("the runtime has all images", async || {
        image_tags(&node).await.is_superset(&used)
    })
    .await;
    // Whatever the disk is like, it is too full for this.
    node.flag("image-gc-high-threshold", "1");
    node.flag("image-gc-low-threshold", "0");
    node.put("runs.yaml", &pod("runs", FOREVER));
    // This one waits for its folder, and has no container yet.
    let folder = node.path("later");
    let waits = format!(
        "    volumeMounts: [{{name: v, mountPath: /v}}]\n  volumes: [{{name: v, hostPath: {{path: {}, type: Directory}}}}]\n",
        folder.display()
    );
    let waits = pod_with("waits", "localhost/podkeeper/web:1", FOREVER, &waits);
    node.put("waits.yaml", &waits);
    let others = container_of_others(&node, "localhost/podkeeper/busybox:2").await;

    node.start_agent();
    node.wait_until("no other image can go", async || {
        node.log_lines_with(TOO_FULL) > 0
    })
    .await;
    assert_eq!(image_tags(&node).await, used);
    let first = node.wait_running("runs").await;

    node.remove_sandbox(&others).await;
    node.kill_agent();
    node.start_agent();
    node.wait_until("it is said again", async || {
        node.log_lines_with(TOO_FULL) > 1
    })
    .await;
    let left = ["busybox:1", "pause:1", "web:1"].map(str::to_owned);
    assert_eq!(image_tags(&node).await, left.into());
    let removed = "Removed unused images images=\"localhost/podkeeper/busybox:2\"";
    assert_eq!(node.log_lines_with(removed), 1, "{}", node.log());
    assert_eq!(node.running_one("runs", "c").await.unwrap().id, first.id);

    // The runtime can still make sandboxes and start what waited.
    fs::create_dir(&folder).unwrap();
    node.wait_running("waits").await;
    node.remove("runs.yaml");
    node.remove("waits.yaml");
    node.wait_gone().await;
    node.kill_agent();
    drop(own);
}

async fn logs_of_a_pod_that_is_known_by_its_uid_alone_go_and_those_of_others_stay(mut node: Node) {
    let uid = "0123456789abcdef".repeat(2);
    let logs = node.path("logs");
    let log = |uid: &str| logs.join(format!("default_lost_{uid}/c/0.log"));
    let others = uid.replace('0', "f");
    for uid in [&uid, &others] {
        fs::create_dir_all(log(uid).parent().unwrap()).unwrap();
        fs::write(log(uid), "").unwrap();
    }
    // What a Pod's folder is like whose record was lost, beside the lock that every agent leaves.
    let folder = node.path("root/pods").join(&uid);
    fs::create_dir_all(folder.join("volumes")).unwrap();
    fs::write(node.path("root/lock"), "").unwrap();
    node.start_agent();
    node.wait_until("it is gone", async || !folder.exists())
        .await;
    assert_eq!(names(&logs), [format!("default_lost_{others}")].into());
    assert!(log(&others).exists());
}
