//! The mirror Pods are the reference agent's: what the API server makes of each is compared field by
//! field.

use std::fs;
use std::path::Path;

use podkeeper::manifest::{PackedPod, SourceKind, parse};
use podkeeper::mirror::{NodeIdentity, mirror};
use podkeeper::pod::report::{PodReport, PodSnapshot};
use serde_json::Value;

use crate::cluster::{Cluster, uid};
use crate::node::Node;
use crate::placeholders::without_digests;

mod shared {
    crate::with_apiserver!(shared: mirrors_are_those_of_the_reference_agent,);
}

/// The mirror of a manifest.
fn ours(manifest: &Path, node: &NodeIdentity) -> Value {
    let bytes = fs::read(manifest).unwrap();
    let accepted = parse(&bytes, &node.name, SourceKind::File);
    let accepted = accepted.unwrap_or_else(|found| panic!("{}: {found:#?}", manifest.display()));
    let told = PodSnapshot {
        version: Some(PackedPod::from(&accepted.pod)),
        report: PodReport {
            seen: "$TIME".to_owned(),
            ..PodReport::default()
        },
        ..PodSnapshot::default()
    };
    serde_json::to_value(mirror(&told, node).unwrap()).unwrap()
}

/// A Pod with the reference's placeholders. Its status is told by its own requests, and shown
/// elsewhere; who wrote which field is not recorded.
fn with_placeholders(pod: &Value, node: &NodeIdentity) -> Value {
    let mut pod = pod.clone();
    let hash = pod["metadata"]["annotations"]["kubernetes.io/config.hash"].clone();
    pod["metadata"]["creationTimestamp"] = "$TIME".into();
    pod["metadata"]["uid"] = "$API_UID".into();
    pod["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    pod.as_object_mut().unwrap().remove("status");
    let text = pod.to_string().replace(hash.as_str().unwrap(), "$UID");
    let text = text.replace(&node.uid, "$API_UID");
    serde_json::from_str(&without_digests(&text, "$ID")).unwrap()
}

async fn mirrors_are_those_of_the_reference_agent(mut node: Node, cluster: Cluster) {
    node.name = "my-node1".into();
    let kubeconfig = cluster.node_kubeconfig(&node.name);
    let name = &node.name;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"
    ));
    let identity = NodeIdentity {
        name: name.clone(),
        uid: uid(&cluster.get(&format!("node {name}")).unwrap()).to_owned(),
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut compared = 0;
    for entry in fs::read_dir(golden.join("mirror")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_str().unwrap();
        let (_, pod) = file.split_once('_').unwrap();
        let manifest = format!("manifests/{}.yaml", pod.strip_suffix("-my-node1").unwrap());
        let made = cluster.try_out(&kubeconfig, &ours(&golden.join(manifest), &identity));
        let mut expected: Value =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        expected.as_object_mut().unwrap().remove("status");
        assert_eq!(with_placeholders(&made, &identity), expected, "{pod}");
        compared += 1;
    }
    assert_eq!(compared, 34);
}
