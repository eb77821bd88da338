//! A node is set up from nothing: the files that are written, and an agent that runs with them.

use std::fs;
use std::process::Stdio;

use super::cli::{get, text};
use super::node::{Node, command};
use super::ports::free;

super::on_each_containerd!(a_node_is_set_up_and_the_sample_runs);

/// Writes the node's files below its folder; returns the exit code and what was said.
fn init(node: &Node, more: &[&str]) -> (Option<i32>, String) {
    let dir = format!("--dir={}", node.path("etc").display());
    let units = format!("--unit-dir={}", node.path("units").display());
    let endpoint = format!("--container-runtime-endpoint={}", node.client.endpoint());
    let mut command = command(&["init", &dir, &units, &endpoint]);
    let output = command.args(more).stdin(Stdio::null()).output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    (output.status.code(), said)
}

async fn a_node_is_set_up_and_the_sample_runs(mut node: Node) {
    let (code, said) = init(&node, &["--dry-run"]);
    let etc = node.path("etc");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("# ---- {}/config.yaml\n", etc.display())),
        "{said}"
    );
    assert!(
        !etc.exists() && !node.path("units").exists(),
        "nothing is written"
    );

    // Another test may be about to take the first free one.
    let port = free().port();
    let given = format!("--port={port}");
    let (code, said) = init(&node, &[&given]);
    assert_eq!(code, Some(0), "{said}");
    for file in [
        "etc/config.yaml",
        "etc/sample.yaml",
        "units/podkeeper.service",
    ] {
        let line = format!("created {}\n", node.path(file).display());
        assert!(said.contains(&line), "no {line:?} in\n{said}");
    }
    let sample = fs::read_to_string(etc.join("sample.yaml")).unwrap();
    assert!(
        sample.contains("# The container runtime has the image.\n"),
        "{sample}"
    );
    // What is there stays.
    fs::write(etc.join("config.yaml"), "mine").unwrap();
    let (code, said) = init(&node, &[&given]);
    assert_eq!(code, Some(0), "{said}");
    let kept = "exists, not overwritten without --force: ";
    assert!(said.contains(kept), "{said}");
    assert_eq!(fs::read_to_string(etc.join("config.yaml")).unwrap(), "mine");
    let (_, said) = init(&node, &[&given, "--force"]);
    assert!(said.contains("overwritten "), "{said}");
    let curl = format!("  curl http://127.0.0.1:{port}/\n");
    assert!(said.ends_with(&curl), "{said}");

    let config = fs::read_to_string(etc.join("config.yaml")).unwrap();
    let endpoint = format!("containerRuntimeEndpoint: {}", node.client.endpoint());
    assert!(config.lines().any(|line| line == endpoint), "{config}");
    node.without_manifests = true;
    node.flag("config", &etc.join("config.yaml").display().to_string());
    node.start_agent();
    fs::copy(etc.join("sample.yaml"), etc.join("manifests/sample.yaml")).unwrap();
    node.wait_until("the sample is ready", async || {
        let report = node.report("hello").await.unwrap_or_default();
        report.ready == 1
    })
    .await;
    let page = get(([127, 0, 0, 1], port).into(), "/");
    assert_eq!(page, Some((200, "Hello from podkeeper.\n".to_owned())));
    fs::remove_file(etc.join("manifests/sample.yaml")).unwrap();
    node.wait_gone().await;
}
