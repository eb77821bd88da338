//! What people and programs read of a running agent in kubectl's forms: Pods by namespace and labels, objects with
//! their status, versions, logs of several containers, events, and usage.

use std::fs;

use serde_json::Value;

use super::node::{BUSYBOX, FOREVER, Node, manifest, pod_with};
use super::requests::{ask, refused, said};

super::on_each_containerd!(
    pods_are_listed_by_namespace_and_labels,
    logs_of_several_containers_are_printed_together,
    usage_is_shown_of_the_node_and_its_pods,
);

mod on_one {
    super::super::on_containerd!(
        "2.1": versions_are_shown_with_and_without_an_agent
    );
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Two Pods with labels, in two namespaces, that run.
async fn start_two(node: &mut Node) {
    for (name, namespace, tier) in [("web", "default", "front"), ("db", "data", "back")] {
        let metadata = format!(
            "metadata:\n  namespace: {namespace}\n  labels: {{app: {name}, tier: {tier}}}\n"
        );
        let text = pod_with(name, BUSYBOX, FOREVER, "");
        node.put(
            &format!("{name}.yaml"),
            &text.replace("metadata:\n", &metadata),
        );
    }
    node.start_agent();
    node.wait_known(2).await;
}

async fn remove_two(node: &Node) {
    for file in ["web.yaml", "db.yaml"] {
        node.remove(file);
    }
    node.wait_gone().await;
}

async fn pods_are_listed_by_namespace_and_labels(mut node: Node) {
    start_two(&mut node).await;
    let (web, db) = (node.full_name("web"), node.full_name("db"));
    let names =
        |pods: &[&String]| -> String { pods.iter().flat_map(|pod| ["pod/", pod, "\n"]).collect() };
    for (words, expected) in [
        (&[][..], vec![&db, &web]),
        (&["-n", "data"], vec![&db]),
        (&["-n", "none"], vec![]),
        (&["-l", "tier=front"], vec![&web]),
        (&["-l", "tier in (front, back),app!=web"], vec![&db]),
        (&["-l", "!tier"], vec![]),
        (&["-n", "data", "-l", "app=web"], vec![]),
    ] {
        for command in ["ps", "get"] {
            let all = [&[command, "-o", "name"], words].concat();
            assert_eq!(said(&node, &all), names(&expected), "{all:?}");
        }
    }
    let error = ask(&node, &["ps", "-l", "a b"]);
    assert_eq!(error.status.code(), Some(2));

    let wide = said(&node, &["ps", "-o", "wide", "-l", "app=web"]);
    let report = node.report("web").await.unwrap();
    assert!(wide.lines().next().unwrap().contains("   IP   "), "{wide}");
    assert!(
        wide.contains(&report.ips[0]) && !wide.contains(&db),
        "{wide}"
    );
    let yaml = said(&node, &["ps", "-o", "yaml", "-n", "data"]);
    assert!(yaml.contains(&format!("name: {db}\n")), "{yaml}");

    // One Pod is an object, more are a list.
    let one = json(&said(&node, &["get", "web", "-o", "json"]));
    assert_eq!(
        (&one["kind"], &one["metadata"]["name"]),
        (&"Pod".into(), &web.as_str().into())
    );
    assert_eq!(one["status"]["phase"], "Running");
    assert_eq!(one["status"]["podIP"], report.ips[0].as_str());
    let yaml = said(&node, &["get", "pod", "web"]);
    assert!(
        yaml.starts_with("apiVersion: v1\n") && yaml.contains("\nkind: Pod\n"),
        "{yaml}"
    );
    let list = json(&said(
        &node,
        &["get", &format!("data/{db}"), "web", "-o", "json"],
    ));
    assert_eq!(list["kind"], "List");
    let names: Vec<&Value> = (list["items"].as_array().unwrap().iter())
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, [db.as_str(), &web]);
    assert!(
        refused(&node, &["get", "no"]).starts_with("podkeeper: there is no Pod no; there are ")
    );

    let events = json(&said(&node, &["events", "-n", "data", "-o", "json"]));
    let events = events["items"].as_array().unwrap();
    let started = events
        .iter()
        .find(|event| event["reason"] == "Started")
        .unwrap();
    assert_eq!(started["involvedObject"]["name"], db.as_str());
    assert_eq!(started["involvedObject"]["fieldPath"], "spec.containers{c}");
    assert!(
        events
            .iter()
            .all(|event| event["involvedObject"]["namespace"] == "data")
    );
    remove_two(&node).await;
}

async fn logs_of_several_containers_are_printed_together(mut node: Node) {
    let says = |text: &str| format!("[sh, -c, \"echo {text}; {FOREVER}\"]");
    let (a, b) = (says("of a"), says("of b"));
    let spec = format!(
        "
  initContainers:
  - {{name: first, image: $BUSYBOX, command: [echo, of first]}}
  containers:
  - {{name: a, image: $BUSYBOX, command: {a}}}
  - {{name: b, image: $BUSYBOX, command: {b}}}
"
    );
    let text = manifest("web", &spec);
    node.put(
        "web.yaml",
        &text.replace("metadata:\n", "metadata:\n  labels: {app: web}\n"),
    );
    node.start_agent();
    node.wait_until("both run", async || {
        let report = node.report("web").await;
        report.is_some_and(|report| report.ready == 2)
    })
    .await;
    let name = node.full_name("web");
    let all = ["logs", "web", "--all-containers"];
    node.wait_until("all has been written", async || {
        said(&node, &all) == "of first\nof a\nup\nof b\nup\n"
    })
    .await;
    let prefixed = said(&node, &[&all[..], &["--prefix", "--tail=1"]].concat());
    let line = |container: &str, text: &str| format!("[pod/{name}/{container}] {text}\n");
    let expected = [line("first", "of first"), line("a", "up"), line("b", "up")].concat();
    assert_eq!(prefixed, expected);
    let limited = said(&node, &[&all[..], &["--limit-bytes=4"]].concat());
    assert_eq!(limited, "of f\nof a\nof b");
    let selected = said(&node, &["logs", "-l", "app=web", "-c", "b"]);
    assert_eq!(selected, "of b\nup\n");
    let timed = said(&node, &["logs", "web", "-c", "a", "--timestamps"]);
    for line in timed.lines() {
        let (time, text) = line.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert!(["of a", "up"].contains(&text), "{line}");
    }
    assert_eq!(timed.lines().count(), 2);
    let error = refused(&node, &["logs", "-l", "app=no"]);
    assert_eq!(error, "podkeeper: no Pod has matching labels\n");

    // Followed side by side, until all have ended.
    let out = fs::File::create(node.path("followed")).unwrap();
    let run_dir = format!("--run-dir={}", node.path("run").display());
    let words = [
        "logs",
        &run_dir,
        "-l",
        "app=web",
        "--all-containers",
        "--prefix",
        "-f",
    ];
    let mut followed = super::node::command(&words).stdout(out).spawn().unwrap();
    let seen = || fs::read_to_string(node.path("followed")).unwrap();
    node.wait_until("all are followed", async || {
        ["first", "a", "b"]
            .iter()
            .all(|c| seen().contains(&format!("/{c}] of {c}\n")))
    })
    .await;
    node.remove("web.yaml");
    node.wait_gone().await;
    node.wait_until("they have ended", async || {
        followed.try_wait().unwrap().is_some()
    })
    .await;
    assert!(followed.wait().unwrap().success());
}

async fn usage_is_shown_of_the_node_and_its_pods(mut node: Node) {
    start_two(&mut node).await;
    let web = node.full_name("web");
    let top = said(&node, &["top"]);
    let of_node = top.lines().nth(1).unwrap();
    assert!(
        of_node.starts_with(&node.name) && !of_node.contains("unknown"),
        "{top}"
    );
    let row = |line: &&str| line.contains(&web);
    let of_web = top.lines().find(row).unwrap();
    assert!(
        !of_web.contains("unknown") && of_web.contains("Mi"),
        "{top}"
    );
    let containers = said(&node, &["top", "pod", "web", "--containers"]);
    let lines: Vec<&str> = containers.lines().collect();
    assert_eq!(lines.len(), 2, "{containers}");
    assert!(
        lines[1].contains(&web) && lines[1].contains("   c "),
        "{containers}"
    );
    let selected = said(&node, &["top", "pod", "-l", "app=db", "--sort-by=memory"]);
    assert!(
        !selected.contains(&web) && selected.lines().count() == 2,
        "{selected}"
    );
    let report = json(&said(&node, &["top", "-o", "json"]));
    assert!(report["in_use"]["memory"].as_u64().unwrap() > 0);
    remove_two(&node).await;
}

async fn versions_are_shown_with_and_without_an_agent(mut node: Node) {
    let client = concat!("Client Version: v", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(said(&node, &["version", "--client"]), client);
    let without = said(&node, &["version"]);
    let expected = format!("{client}Agent Version: unknown: no podkeeper runs here: ");
    assert!(without.starts_with(&expected), "{without}");
    node.start_agent();
    node.wait_until("the agent knows the runtime", async || {
        let shown = said(&node, &["version"]);
        shown.contains("\nRuntime Version: containerd://")
    })
    .await;
    let version = json(&said(&node, &["version", "-o", "json"]));
    let own = concat!("v", env!("CARGO_PKG_VERSION"));
    assert_eq!(version["clientVersion"]["gitVersion"], own);
    assert_eq!(version["agentVersion"]["gitVersion"], own);
    assert_eq!(version["runtimeVersion"]["apiVersion"], "v1");
}
