//! What manifests would change is said before they are put in force, and nothing is touched.

use serde_json::Value;

use super::node::{FOREVER, Node, pod, pod_with};
use super::requests::ask;

super::on_each_containerd!(manifests_are_tried_without_touching_what_runs);

async fn manifests_are_tried_without_touching_what_runs(mut node: Node) {
    node.put("same.yaml", &pod("same", FOREVER));
    node.put("edited.yaml", &pod("edited", FOREVER));
    node.put("gone.yaml", &pod("gone", FOREVER));
    node.put("bad.yaml", &pod("bad", FOREVER));
    node.start_agent();
    let mut before = vec![];
    for name in ["same", "edited", "gone", "bad"] {
        before.push(node.wait_running(name).await.id);
    }
    let planned = |arguments: &[&str]| {
        let output = ask(&node, &[&["plan"], arguments].concat());
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    // The agent's own manifests, unless others are named.
    let (code, text) = planned(&[]);
    let summary = "Plan: 0 new, 0 replaced, 0 gone, 4 unchanged, 0 refused\n";
    assert_eq!((code, text.as_str()), (Some(0), summary));

    let folder = node.path("next");
    std::fs::create_dir(&folder).unwrap();
    let put = |file: &str, text: String| std::fs::write(folder.join(file), text).unwrap();
    put("same.yaml", pod("same", FOREVER));
    put("edited.yaml", pod("edited", "exec sleep 7"));
    let never = "    imagePullPolicy: Never\n";
    put(
        "new.yaml",
        pod_with("new", "localhost/none:1", FOREVER, never),
    );
    let name = |pod: &str| format!("default/{}", node.full_name(pod));
    let path = folder.display().to_string();
    let (code, text) = planned(&[&path]);
    assert_eq!(code, Some(1), "{text}");
    for expected in [
        format!("- Pod {}: gone\n", name("bad")),
        format!("~ Pod {}: replaced ({path}/edited.yaml)\n", name("edited")),
        "spec.containers[0].command[2]: ".to_owned(),
        "error: image localhost/none:1 is not there, and its policy is Never\n".to_owned(),
        "Plan: 1 new, 1 replaced, 2 gone, 1 unchanged, 0 refused\n".to_owned(),
    ] {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
    std::fs::remove_file(folder.join("new.yaml")).unwrap();
    put("bad.yaml", "kind: [".to_owned());
    let (code, text) = planned(&["-o", "json", &path]);
    assert_eq!(code, Some(1), "{text}");
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["refused"][0]["keeps"], name("bad"));
    let changes: Vec<&Value> = plan["pods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| &pod["change"])
        .collect();
    assert_eq!(changes, ["kept", "replaced", "gone", "unchanged"]);
    std::fs::remove_file(folder.join("bad.yaml")).unwrap();
    assert_eq!(planned(&[&path]).0, Some(2));

    for (name, id) in ["same", "edited", "gone", "bad"].iter().zip(&before) {
        assert_eq!(node.wait_running(name).await.id, *id, "nothing is touched");
    }
    for name in ["same", "edited", "gone", "bad"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
}
