//! Containers that mean harm to the node that they run on.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::node::{BUSYBOX, Node};

super::on_each_containerd!(a_link_swapped_into_a_volume_shows_nothing_of_the_host);

/// Containers that each have parts of the volume mounted, besides the one that swaps.
const READERS: usize = 6;
/// Versions of the Pod that are tried at most.
const ROUNDS: usize = 20;

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
        let reader = node
            .wait("a reader of this version runs or is refused", async || {
                let now_refused = node.log_lines_with("leads out of the volume");
                let running = readers(&node, round).await;
                (!running.is_empty() || now_refused > refused_before).then_some(running)
            })
            .await;
        for id in reader {
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
