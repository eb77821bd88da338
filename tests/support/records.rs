//! The reference agent's records: what it asked a CRI runtime for, Pod by Pod, and our requests in
//! the same terms.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use podkeeper::cri::RuntimeFeatures;
use podkeeper::host::cgroup::CgroupDriver;
use podkeeper::manifest::{SourceKind, StaticPod, parse};
use podkeeper::translate::{Identity, KernelFeatures, NodeCapacity, NodeFacts, Paths, ResolvConf};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};

/// The node on which the records were taken.
pub(crate) const NODE: &str = "my-node1";
/// Its memory in KiB.
pub(crate) const MEMORY: u64 = 24_684_084;
/// The address that it has as far as the tests go.
pub(crate) const HOST_IP: &str = "192.0.2.2";

/// Where our requests differ from the reference's on purpose: in what, where, and why. Containers have their
/// stop signal besides.
const DIFFERENCES: [(Kind, &str, &str); 3] = [
    (
        Kind::Sandbox,
        "/labels/podkeeper.io~1root-dir",
        "our mark: what does not carry it is never touched",
    ),
    (
        Kind::Container,
        "/labels/podkeeper.io~1root-dir",
        "our mark, by which containers are listed",
    ),
    (
        Kind::Sandbox,
        "/annotations/kubernetes.io~1config.seen",
        "a time, which the record leaves out",
    ),
];

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sandbox,
    Container,
}

/// What stands in our requests where the records have placeholders.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) root: String,
    pub(crate) logs: String,
    pub(crate) pod_ip: String,
}

/// One Pod with its record.
pub(crate) struct Recorded {
    pub(crate) manifest: PathBuf,
    pub(crate) pod: Arc<StaticPod>,
    pub(crate) record: Value,
}

impl Recorded {
    /// The sandbox's configuration.
    pub(crate) fn sandbox(&self) -> Value {
        masked(&self.record["sandbox"]["config"])
    }

    /// The runtime handler that the sandbox was asked of.
    pub(crate) fn handler(&self) -> &str {
        let handler = &self.record["sandbox"]["runtime_handler"];
        handler.as_str().unwrap_or_default()
    }

    /// Each container's first configuration, by name, with the stop signal of the manifest: the reference has
    /// it behind a feature gate, and here a field is honoured or refused.
    pub(crate) fn containers(&self) -> Vec<Value> {
        let containers = self.record["containers"].as_array();
        let containers = containers.into_iter().flatten();
        let with_signal = |container: &Value| {
            let mut container = masked(container);
            if let Some(signal) = self.stop_signal(&container["metadata"]["name"]) {
                container["stop_signal"] = json!(signal);
            }
            container
        };
        containers.map(with_signal).collect()
    }

    fn stop_signal(&self, container: &Value) -> Option<String> {
        let container = self.pod.container(container.as_str()?)?;
        container.lifecycle.as_ref()?.stop_signal.clone()
    }

    /// What was asked for, in order: `RunPodSandbox`, `CreateContainer NAME`.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = self.record["calls"].as_array().unwrap().iter();
        calls.map(|c| c.as_str().unwrap().to_owned()).collect()
    }
}

/// All manifests that have a record in this folder.
pub(crate) fn recorded(folder: &str) -> Vec<Recorded> {
    let mut all = vec![];
    for entry in std::fs::read_dir(golden("manifests")).unwrap() {
        let manifest = entry.unwrap().path();
        let text = std::fs::read(&manifest).unwrap();
        let accepted = parse(&text, NODE, SourceKind::File);
        let accepted = accepted.unwrap_or_else(|e| panic!("{}: {e:?}", manifest.display()));
        let pod = accepted.pod;
        let record = format!("{folder}/{}_{}.json", pod.key.namespace, pod.key.name);
        let Ok(record) = std::fs::read(golden(&record)) else {
            continue;
        };
        let record = serde_json::from_slice(&record).unwrap();
        all.push(Recorded {
            manifest,
            pod,
            record,
        });
    }
    let records = std::fs::read_dir(golden(folder)).unwrap().count();
    assert_eq!(all.len(), records, "every record has its manifest");
    all
}

/// The node on which the reference's requests were taken.
pub(crate) fn facts() -> NodeFacts {
    NodeFacts {
        paths: Paths {
            root: "/ROOT".into(),
            logs: "/LOGS".into(),
            ..Paths::default()
        },
        cluster_dns: vec!["10.254.0.10".into()],
        cluster_domain: "kube.local".into(),
        runtime: RuntimeFeatures {
            supplemental_groups_policy: true,
            image_volumes: true,
        }
        .into(),
        kernel: KernelFeatures {
            hugepage_sizes: vec!["2MB".into(), "1GB".into()],
            swap_controller: true,
            ..KernelFeatures::default()
        },
        capacity: NodeCapacity {
            memory: MEMORY << 10,
            cpus: 2,
            ..NodeCapacity::default()
        },
        identity: Identity {
            ips: vec![HOST_IP.to_owned()].into(),
            ..Identity::default()
        },
        ..NodeFacts::default()
    }
}

/// The same node with the unified hierarchy, under systemd.
pub(crate) fn unified_facts() -> NodeFacts {
    NodeFacts {
        cgroup_driver: CgroupDriver::Systemd,
        kernel: KernelFeatures {
            cgroup_unified: true,
            ..facts().kernel
        },
        ..facts()
    }
}

/// Its resolver configuration.
pub(crate) fn host() -> ResolvConf {
    ResolvConf::parse("nameserver 10.255.255.53\n")
}

/// A file of the records.
pub(crate) fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    folder.join(name)
}

/// Our request in the records' terms: protobuf's JSON form with the contract's own field names,
/// defaults left out, placeholders put in, the wanted differences taken out.
pub(crate) fn in_their_terms(
    kind: Kind,
    message: &impl Message,
    uid: &str,
    places: &Places,
) -> Value {
    let name = match kind {
        Kind::Sandbox => "PodSandboxConfig",
        Kind::Container => "ContainerConfig",
    };
    let mut request = as_json(message, name);
    for (_, pointer, _) in DIFFERENCES.iter().filter(|(k, ..)| *k == kind) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = request.pointer_mut(parent).and_then(Value::as_object_mut);
        let removed = parent.and_then(|p| p.remove(&key.replace("~1", "/")));
        assert!(removed.is_some(), "{pointer} is no difference");
    }
    let text = request.to_string();
    let text = text.replace(&places.root, "$ROOT");
    let text = text.replace(&places.logs, "$LOGS");
    let hash = |value: &str| format!("\"kubernetes.io/config.hash\":\"{value}\"");
    let text = text.replace(&hash(uid), &hash("$HASH"));
    let mut request: Value = serde_json::from_str(&text.replace(uid, "$UID")).unwrap();
    hide_own_files(&mut request);
    hide_addresses(&mut request, &places.pod_ip);
    masked(&request)
}

fn as_json(message: &impl Message, name: &str) -> Value {
    let descriptor = include_bytes!(concat!(env!("OUT_DIR"), "/cri_v1.descriptor"));
    let pool = DescriptorPool::decode(descriptor.as_slice()).unwrap();
    let kind = pool.get_message_by_name(&format!("runtime.v1.{name}"));
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(kind.unwrap(), bytes.as_slice()).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options);
    json.unwrap()
}

/// The name of a container's own file is a placeholder.
fn hide_own_files(request: &mut Value) {
    let mounts = request.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten() {
        let path = mount["host_path"].as_str().unwrap_or_default();
        let (folder, _) = path.rsplit_once('/').unwrap_or_default();
        if folder.contains("/containers/") {
            mount["host_path"] = json!(format!("{folder}/$N"));
        }
    }
}

/// Variables stand by name, and a Pod's address in them is a placeholder.
fn hide_addresses(request: &mut Value, pod_ip: &str) {
    let Some(envs) = request.get_mut("envs").and_then(Value::as_array_mut) else {
        return;
    };
    for env in envs.iter_mut() {
        let value = env["value"].as_str().unwrap_or_default();
        if !pod_ip.is_empty() && STANDARD.decode(value).unwrap() == pod_ip.as_bytes() {
            env["value"] = json!(STANDARD.encode("$POD_IP"));
        }
    }
    envs.sort_by_key(|e| e["key"].as_str().unwrap().to_owned());
}

/// Images' ids, and digests in their names, are placeholders.
pub(crate) fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.split_once("sha256:") {
            Some((name, _)) if name.is_empty() || name.ends_with('@') => {
                json!(format!("{name}sha256:$ID"))
            }
            _ => value.clone(),
        },
        Value::Array(list) => list.iter().map(masked).collect(),
        Value::Object(map) => {
            let fields = map.iter().map(|(k, v)| (k.clone(), masked(v)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}
