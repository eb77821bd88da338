//! What people ask a running agent to do with a Pod, on the command line: restart it, pause it, resume it.

use std::process::{Output, Stdio};

use podkeeper::translate::labels;

use super::node::{BUSYBOX, FOREVER, Node, command, pod, pod_with};

super::on_each_containerd!(
    a_pod_is_restarted_on_request_with_its_hook,
    a_pod_is_paused_and_resumed,
);

mod on_one {
    super::super::on_containerd!(
        "2.1": a_pod_that_is_over_runs_again_on_request
    );
}

/// Runs a command that asks this node's agent.
pub(super) fn ask(node: &Node, words: &[&str]) -> Output {
    let run_dir = format!("--run-dir={}", node.path("run").display());
    let mut command = command(&[words[0], &run_dir]);
    command.args(&words[1..]).stdin(Stdio::null());
    command.output().unwrap()
}

/// The same, which succeeds; returns what it says.
pub(super) fn said(node: &Node, words: &[&str]) -> String {
    let output = ask(node, words);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{words:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same, which fails; returns its error.
pub(super) fn refused(node: &Node, words: &[&str]) -> String {
    let output = ask(node, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

async fn a_pod_is_restarted_on_request_with_its_hook(mut node: Node) {
    node.make_out();
    node.put_with_out(
        "web",
        "
  restartPolicy: Never
  containers:
  - name: a
    image: $BUSYBOX
    command: $FOREVER
    $MOUNT
    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo bye >>/out/hooks']}}}
    readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}
  - {name: b, image: $BUSYBOX, command: $FOREVER}
  volumes: $OUT
",
    );
    node.start_agent();
    let name = node.full_name("web");
    node.wait_until("the agent knows of it", async || {
        node.report("web").await.is_some()
    })
    .await;
    said(&node, &["wait", "web", "--timeout=60s"]);
    let a = node.running_one("web", "a").await.unwrap();
    let b = node.running_one("web", "b").await.unwrap();
    let restarted = said(&node, &["restart", "web", "-c", "a", "--wait"]);
    let expected = format!("default/{name}: restarting a\ndefault/{name} is ready\n");
    assert_eq!(restarted, expected);
    let again = node.running_one("web", "a").await.unwrap();
    assert_ne!(again.id, a.id);
    assert_eq!(again.annotations[labels::RESTART_COUNT], "1");
    assert_eq!(node.running_one("web", "b").await.unwrap().id, b.id);
    assert_eq!(node.lines("hooks"), ["bye"]);
    // All of them, over the agent's end, and `wait` waits for that.
    let restarted = said(&node, &["restart", &name]);
    assert_eq!(restarted, format!("default/{name}: restarting a, b\n"));
    said(&node, &["wait", "web", "--timeout=60s"]);
    for container in ["a", "b"] {
        let now = node.running_one("web", container).await.unwrap();
        assert!(now.id != b.id && now.id != again.id);
    }
    assert_eq!(node.report("web").await.unwrap().restarts, 3);
    assert_eq!(node.lines("hooks").len(), 2);
    let events = said(&node, &["events", "web"]);
    let told = "RestartRequested";
    assert!(events.contains(told) && events.contains("Container b is restarted on request"));
    for (words, expected) in [
        (
            &["restart", "web", "-c", "x"][..],
            format!("podkeeper: Pod default/{name} has no container \"x\"; it has a, b\n"),
        ),
        (
            &["restart", "no"],
            format!("podkeeper: there is no Pod no; there are default/{name}\n"),
        ),
    ] {
        assert_eq!(refused(&node, words), expected);
    }
    node.remove("web.yaml");
    node.wait_gone().await;
}

async fn a_pod_that_is_over_runs_again_on_request(mut node: Node) {
    let never = "  restartPolicy: Never\n";
    node.put("job.yaml", &pod_with("job", BUSYBOX, "echo done", never));
    node.put("loop.yaml", &pod("loop", "exit 3"));
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    node.wait_until("it is over", async || {
        let report = node.report("job").await;
        report.is_some_and(|report| report.phase == "Succeeded")
    })
    .await;
    said(&node, &["restart", "job"]);
    node.wait_until("it is over again", async || {
        let report = node.report("job").await;
        report.is_some_and(|report| report.phase == "Succeeded" && report.restarts == 1)
    })
    .await;
    // The fourth instance would come after 40 s.
    node.wait_until("it backs off", async || {
        let report = node.report("loop").await.unwrap_or_default();
        report.restarts == 2 && report.reason == "CrashLoopBackOff"
    })
    .await;
    let before = std::time::Instant::now();
    said(&node, &["restart", "loop"]);
    node.wait_until("it is tried again", async || {
        node.report("loop").await.unwrap().restarts == 3
    })
    .await;
    assert!(before.elapsed().as_secs() < 10);
    for file in ["job.yaml", "loop.yaml", "web.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

async fn a_pod_is_paused_and_resumed(mut node: Node) {
    node.make_out();
    let hook = "    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo bye >>/out/hooks']}}}\n";
    let spec = node.with_out(&format!("{hook}    $MOUNT\n  volumes: $OUT\n"));
    node.put("web.yaml", &pod_with("web", BUSYBOX, FOREVER, &spec));
    node.start_agent();
    node.wait_running("web").await;
    node.wait_known(1).await;
    let name = node.full_name("web");
    let paused = said(&node, &["pause", "web", "--wait"]);
    let expected = format!("default/{name} paused\ndefault/{name} is stopped\n");
    assert_eq!(paused, expected);
    assert_eq!(node.lines("hooks"), ["bye"]);
    assert_eq!(node.leftovers().await, [""; 0]);
    for _ in 0..2 {
        let ps = said(&node, &["ps"]);
        let row = |line: &str| line.contains(&name) && line.contains("   0/1     Paused   0 ");
        assert!(ps.lines().any(row), "{ps}");
        assert!(said(&node, &["describe", "web"]).contains("Paused"));
        let error = refused(&node, &["wait", "web"]);
        let expected = format!(
            "podkeeper: Pod default/{name} is paused, `podkeeper resume default/{name}` starts it\n"
        );
        assert_eq!(error, expected);
        let error = refused(&node, &["restart", "web"]);
        assert!(
            error.ends_with("cannot be restarted: it is paused\n"),
            "{error}"
        );
        node.kill_agent();
        node.start_agent();
        node.wait_until("the next agent knows of it", async || {
            node.report("web").await.is_some()
        })
        .await;
    }
    assert_eq!(node.leftovers().await, [""; 0]);
    // Meanwhile its manifest changes.
    node.put("web.yaml", &pod("web", &format!("echo new; {FOREVER}")));
    let resumed = said(&node, &["resume", "web", "--wait"]);
    let expected = format!("default/{name} resumed\ndefault/{name} is ready\n");
    assert_eq!(resumed, expected);
    node.wait_until("it is the new one", async || {
        said(&node, &["logs", "web"]).starts_with("new\n")
    })
    .await;
    // The pause goes with the manifest.
    said(&node, &["pause", "web"]);
    node.remove("web.yaml");
    node.wait_gone().await;
    node.wait_until("the agent does not know it any more", async || {
        node.report("web").await.is_none()
    })
    .await;
    node.put("web.yaml", &pod("web", FOREVER));
    node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_gone().await;
}
