//! What a node lacks is said, with what to do about it.

use super::node::{Node, command};

super::on_each_containerd!(a_node_is_checked_and_what_it_lacks_is_named);

fn doctor(node: &Node, endpoint: &str) -> (Option<i32>, String) {
    let root = format!("--root-dir={}", node.path("root").display());
    let logs = format!("--pod-logs-dir={}", node.path("logs").display());
    let endpoint = format!("--container-runtime-endpoint={endpoint}");
    let ports = "--healthz-port=0";
    let output = command(&["doctor", &root, &logs, &endpoint, ports]).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

async fn a_node_is_checked_and_what_it_lacks_is_named(node: Node) {
    let (code, text) = doctor(&node, &node.client.endpoint().to_string());
    let line = |subject: &str| {
        let mut lines = text.lines();
        let line = lines.find(|line| line.contains(subject));
        line.unwrap_or_else(|| panic!("{subject}: {text}"))
            .to_owned()
    };
    assert_eq!(code, Some(0), "{text}");
    let runtime = line(" container runtime ");
    let version = format!("containerd {}", node.version);
    assert!(
        runtime.starts_with("ok ") && runtime.contains(&version),
        "{runtime}"
    );
    assert!(line(" network ").starts_with("ok "), "{text}");
    let nowhere = node.path("none.sock").display().to_string();
    let (code, text) = doctor(&node, &nowhere);
    assert_eq!(code, Some(1), "{text}");
    let advice = "start it (systemctl enable --now containerd)";
    assert!(text.contains(&nowhere) && text.contains(advice), "{text}");
}
