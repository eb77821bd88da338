//! Containers that mean harm to the node that they run on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, mknodat};
use serde_json::json;

use super::node::{BUSYBOX, FOREVER, Node, command, pod, pod_with};

super::on_each_containerd!(a_link_swapped_into_a_volume_shows_nothing_of_the_host);

mod on_one {
    super::super::on_containerd!(
        "2.1": what_a_container_makes_of_its_hosts_file_costs_nothing,
        what_stands_in_the_place_of_a_log_is_neither_shown_nor_waited_for,
        what_stands_in_the_place_of_parts_keeps_no_log_from_being_rotated,
        a_new_instance_never_writes_its_log_through_a_link
    );
}

/// A Pod's folder of the logs of its container `c`.
async fn log_folder(node: &Node, pod: &str) -> PathBuf {
    let uid = node.report(pod).await.unwrap().uid;
    let name = format!("default_{}_{uid}", node.full_name(pod));
    node.path("logs").join(name).join("c")
}

/// What `podkeeper logs` gives, within a time in which it ends if nothing holds it up.
fn logs(node: &Node, words: &[&str]) -> Output {
    let run_dir = format!("--run-dir={}", node.path("run").display());
    let logs = command(&["logs", &run_dir]).get_program().to_owned();
    let mut limited = std::process::Command::new("timeout");
    limited.arg("30").arg(logs).args(["logs", &run_dir]);
    limited.args(words).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

async fn what_a_container_makes_of_its_hosts_file_costs_nothing(mut node: Node) {
    let script =
        "grep -q localhost /etc/hosts && touch /out/whole; truncate -s 1G /etc/hosts; exit 1";
    let volumes = node.with_out("    $MOUNT\n  volumes: $OUT\n");
    node.make_out();
    node.put("web.yaml", &pod_with("web", BUSYBOX, script, &volumes));
    node.start_agent();
    for restarts in 1..3 {
        node.wait_until("it was started again", async || {
            let report = node.report("web").await;
            report.is_some_and(|r| r.restarts >= restarts)
        })
        .await;
        node.wait_written("whole").await;
        fs::remove_file(node.path("out/whole")).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", node.agent_id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < 200 << 10, "{peak} KiB");
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn what_stands_in_the_place_of_a_log_is_neither_shown_nor_waited_for(mut node: Node) {
    let secret = node.path("secret");
    fs::write(&secret, "the host's secret\n").unwrap();
    node.put("web.yaml", &pod("web", &format!("echo mine; {FOREVER}")));
    node.put(
        "other.yaml",
        &pod("other", &format!("echo theirs; {FOREVER}")),
    );
    node.start_agent();
    node.wait_running("web").await;
    node.wait_running("other").await;
    let folder = log_folder(&node, "web").await;
    let log = folder.join("0.log");
    let is_whole = async || said(&logs(&node, &["web"])).contains("up");
    node.wait_until("it has said all", is_whole).await;
    let own = fs::read(&log).unwrap();
    let linked = folder.with_file_name("linked");
    for (found, put) in [
        (
            "a symlink",
            Box::new(|| symlink(&secret, &log).unwrap()) as Box<dyn Fn()>,
        ),
        (
            "several names",
            Box::new(|| fs::hard_link(&secret, &log).unwrap()),
        ),
        (
            "a named pipe",
            Box::new(|| mknodat(CWD, &log, FileType::Fifo, 0o600.into(), 0).unwrap()),
        ),
        ("a folder", Box::new(|| fs::create_dir(&log).unwrap())),
    ] {
        fs::rename(&log, &linked).unwrap();
        put();
        for words in [&["web"][..], &["web", "--tail=3"], &["web", "--follow"]] {
            let output = logs(&node, words);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{found} {words:?}: {said}");
            assert!(said.contains(found), "{words:?}: {said}");
            assert!(!said.contains("secret\n"), "{words:?}: {said}");
        }
        if found == "a folder" {
            fs::remove_dir(&log).unwrap();
        } else {
            fs::remove_file(&log).unwrap();
        }
        fs::rename(&linked, &log).unwrap();
    }
    assert_eq!(fs::read(&log).unwrap(), own);
    // Parts that are none are left out.
    for (time, target) in [("20200101-000000", "link"), ("20200101-000001", "pipe")] {
        let part = folder.join(format!("0.log.{time}"));
        match target {
            "link" => symlink(&secret, part).unwrap(),
            _ => mknodat(CWD, part, FileType::Fifo, 0o600.into(), 0).unwrap(),
        }
    }
    let broken = folder.join("0.log.20200101-000002.gz");
    fs::write(broken, "no gzip").unwrap();
    for words in [&["web"][..], &["web", "--tail=9"]] {
        assert_eq!(said(&logs(&node, words)), "mine\nup\n", "{words:?}");
    }
    assert_eq!(said(&logs(&node, &["other"])), "theirs\nup\n");
    node.remove("web.yaml");
    node.remove("other.yaml");
    node.wait_gone().await;
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's secret\n");
}

async fn what_stands_in_the_place_of_parts_keeps_no_log_from_being_rotated(mut node: Node) {
    let secret = node.path("secret");
    fs::write(&secret, "secret").unwrap();
    node.flag("container-log-max-size", "4Ki");
    node.flag("container-log-max-files", "9");
    node.flag("container-log-monitor-interval", "50ms");
    let busy = "trap 'exit 0' TERM; while :; do echo some words to fill the log; sleep 0.01; done";
    node.put("a.yaml", &pod("a", busy));
    node.put("b.yaml", &pod("b", busy));
    node.start_agent();
    for name in ["a", "b"] {
        node.wait_running(name).await;
    }
    let folder = log_folder(&node, "a").await;
    let at = |name: &str| folder.join(name);
    symlink(&secret, at("0.log.20200101-000000")).unwrap();
    mknodat(
        CWD,
        at("0.log.20200101-000001"),
        FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    fs::create_dir(at("0.log.20200101-000002")).unwrap();
    fs::hard_link(&secret, at("0.log.20200101-000003")).unwrap();
    symlink(&secret, at("0.log.20200101-000004.tmp")).unwrap();
    for name in ["a", "b"] {
        let folder = log_folder(&node, name).await;
        node.wait_until("its parts are compressed", async || {
            let parts = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
            let packed = parts.filter(|p| p.extension().is_some_and(|end| end == "gz"));
            packed.count() > 1
        })
        .await;
    }
    for time in ["000000", "000001", "000003"] {
        assert!(!at(&format!("0.log.20200101-{time}.gz")).exists(), "{time}");
    }
    node.remove("a.yaml");
    node.remove("b.yaml");
    node.wait_gone().await;
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
}

async fn a_new_instance_never_writes_its_log_through_a_link(mut node: Node) {
    let outside = node.path("outside");
    fs::create_dir(&outside).unwrap();
    node.make_out();
    let script = "while [ ! -e /out/end ]; do sleep 0.05; done; rm /out/end; exit 1";
    let volumes = node.with_out("    $MOUNT\n  volumes: $OUT\n");
    node.put("web.yaml", &pod_with("web", BUSYBOX, script, &volumes));
    node.start_agent();
    node.wait_running("web").await;
    let folder = log_folder(&node, "web").await;
    symlink(outside.join("log"), folder.join("1.log")).unwrap();
    fs::write(node.path("out/end"), "").unwrap();
    node.wait_until("it runs again", async || {
        let report = node.report("web").await.unwrap();
        report.restarts == 1 && report.ready == 1
    })
    .await;
    assert!(
        fs::symlink_metadata(folder.join("1.log"))
            .unwrap()
            .is_file()
    );
    // The whole folder is led elsewhere.
    fs::rename(&folder, folder.with_file_name("moved")).unwrap();
    symlink(&outside, &folder).unwrap();
    fs::write(node.path("out/end"), "").unwrap();
    node.wait_until("it runs again", async || {
        let report = node.report("web").await.unwrap();
        report.restarts == 2 && report.ready == 1
    })
    .await;
    assert!(folder.join("2.log").is_file());
    assert!(!folder.is_symlink());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    node.remove("web.yaml");
    node.wait_gone().await;
}

/// Containers that each have parts of the volume mounted, besides the one that swaps.
const READERS: usize = 6;
/// Versions of the Pod that are tried at most.
const ROUNDS: usize = 20;

/// How long a round waits for a reader that runs or is refused.
const ROUND: Duration = Duration::from_secs(8);

/// A Pod whose first container makes `a` a folder and a link out of the volume in turns, as fast as it
/// can, while others have parts of `a` mounted.
fn swapping_pod(outside: &Path, round: usize) -> String {
    let out = outside.display();
    let up = "../".repeat(20);
    // Between the renames there is no `a`, and the agent may make one, which is taken away again.
    let script = format!(
        "cd /v; mkdir -p a/sub; ln -s {out} absolute; ln -s {up}{out} relative; while :; do \
         for link in absolute relative; do mv -T a held; mv -T $link a || rm -rf a; \
         mv -T a $link || rm -rf a; mv -T held a || {{ rm -rf a; mv -T held a; }}; done; done"
    );
    let swapper = json!({
        "name": "swapper", "image": BUSYBOX, "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    });
    let reader = |number| {
        json!({
            "name": format!("reader{number}"), "image": BUSYBOX,
            "command": ["sh", "-c", "while :; do sleep 1; done"],
            "volumeMounts": [
                {"name": "v", "mountPath": "/m/whole", "subPath": "a"},
                {"name": "v", "mountPath": "/m/part", "subPath": "a/sub"},
                {"name": "v", "mountPath": "/m/new", "subPath": format!("a/new/{number}")},
            ],
        })
    };
    let containers = [swapper].into_iter().chain((0..READERS).map(reader));
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "race", "annotations": {"round": round.to_string()}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": containers.collect::<Vec<_>>(),
        },
    });
    pod.to_string()
}

/// Everything below a folder, by path.
fn everything(folder: &Path) -> Vec<String> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(everything(&path));
        }
    }
    found.sort();
    found
}

async fn a_link_swapped_into_a_volume_shows_nothing_of_the_host(mut node: Node) {
    let outside = node.path("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    for file in ["secret", "sub/secret"] {
        fs::write(outside.join(file), "secret").unwrap();
    }
    let before = everything(&outside);
    node.start_agent();
    let (mut refused, mut looked) = (0, 0);
    for round in 0..ROUNDS {
        node.put("race.yaml", &swapping_pod(&outside, round));
        let refused_before = node.log_lines_with("leads out of the volume");
        // Most starts fail, since what a reader is to mount is renamed or removed meanwhile. A round in
        // which each of them backs off shows nothing, and the next one is as good.
        let end = Instant::now() + ROUND;
        let mut running = vec![];
        while running.is_empty()
            && node.log_lines_with("leads out of the volume") == refused_before
            && Instant::now() < end
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
            running = readers(&node, round).await;
        }
        for id in running {
            let shown = node
                .exec(&id, &["sh", "-c", "cat /m/*/secret /m/*/*/secret; true"])
                .await;
            assert_eq!(shown, "", "the container sees what lies outside");
            looked += 1;
        }
        refused += node.log_lines_with("leads out of the volume") - refused_before;
        assert_eq!(everything(&outside), before, "something was made outside");
        if looked >= READERS && refused >= READERS {
            break;
        }
    }
    assert!(looked > 0, "no reader ever ran: {}", node.log());
    assert!(refused > 0, "the link was never met: {}", node.log());
    node.remove("race.yaml");
    node.wait_gone().await;
    assert_eq!(everything(&outside), before, "the removal followed a link");
}

/// The readers that run of this version.
async fn readers(node: &Node, round: usize) -> Vec<String> {
    let mut found = vec![];
    for sandbox in node.sandboxes().await {
        if sandbox.annotations.get("round") != Some(&round.to_string()) {
            continue;
        }
        let running = node.running().await.into_values().flatten();
        let own = running.filter(|c| c.pod_sandbox_id == sandbox.id);
        let readers = own.filter(|c| {
            c.metadata
                .as_ref()
                .is_some_and(|m| m.name.starts_with("reader"))
        });
        found.extend(readers.map(|c| c.id));
    }
    found
}
