//! What the runtime is asked for is what the reference agent asks for.

use std::path::{Path, PathBuf};

use podkeeper::manifest::{SourceKind, StaticPod, parse};
use podkeeper::translate::{
    Addresses, CgroupDriver, ContainerInstance, NodeFacts, Paths, ResolvConf, SandboxInstance,
    container_config, hosts_file, sandbox_config,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};

const NODE: &str = "my-node1";

/// Where a Pod asks for something that only we hand on.
const ADDITIONS: [(&str, &str, &str); 1] = [(
    "container",
    "stop_signal",
    "lifecycle.stopSignal is behind a feature gate in the reference; a field is honoured or refused here",
)];

/// Where our requests differ from the reference's, on purpose.
const DIFFERENCES: [(&str, &str, &str); 3] = [
    (
        "sandbox",
        "/labels/podkeeper.io~1root-dir",
        "our mark: what does not carry it is never touched",
    ),
    (
        "container",
        "/labels/podkeeper.io~1root-dir",
        "our mark, by which containers are listed",
    ),
    (
        "sandbox",
        "/annotations/kubernetes.io~1config.seen",
        "a time, which the reference's record leaves out",
    ),
];

/// The node on which the reference's requests were taken.
fn facts() -> NodeFacts {
    NodeFacts {
        paths: Paths {
            root: "/ROOT".into(),
            logs: "/LOGS".into(),
            ..Paths::default()
        },
        cluster_dns: vec!["10.254.0.10".into()],
        cluster_domain: "kube.local".into(),
        hugepage_sizes: vec!["2MB".into(), "1GB".into()],
        swap_controller: true,
        memory_capacity: 24_684_084 << 10,
        cpus: 2,
        host_ips: vec!["192.0.2.2".into()],
        ..NodeFacts::default()
    }
}

/// The same node with the unified hierarchy, under systemd.
fn unified_facts() -> NodeFacts {
    NodeFacts {
        cgroup_driver: CgroupDriver::Systemd,
        cgroup_unified: true,
        ..facts()
    }
}

fn host() -> ResolvConf {
    ResolvConf::parse("nameserver 10.255.255.53\n")
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Protobuf's JSON form with the contract's own field names, defaults left out.
fn as_json(message: &impl Message, name: &str) -> Value {
    let descriptor = include_bytes!(concat!(env!("OUT_DIR"), "/cri_v1.descriptor"));
    let pool = DescriptorPool::decode(descriptor.as_slice()).unwrap();
    let kind = pool
        .get_message_by_name(&format!("runtime.v1.{name}"))
        .unwrap();
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(kind, bytes.as_slice()).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap()
}

/// Ours in the record's terms: placeholders put in, the wanted differences taken out.
fn normalized(kind: &str, mut request: Value, pod: &StaticPod) -> Value {
    for (_, pointer, _) in DIFFERENCES.iter().filter(|(k, ..)| *k == kind) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = request.pointer_mut(parent).and_then(Value::as_object_mut);
        let removed = parent.and_then(|p| p.remove(&key.replace("~1", "/")));
        assert!(removed.is_some(), "{kind} {pointer} is no difference");
    }
    for (_, field, _) in ADDITIONS.iter().filter(|(k, ..)| *k == kind) {
        request.as_object_mut().unwrap().remove(*field);
    }
    let text = request.to_string();
    let text = text.replace("/ROOT", "$ROOT").replace("/LOGS", "$LOGS");
    let text = text.replace(
        &format!("\"kubernetes.io/config.hash\":\"{}\"", pod.uid),
        "\"kubernetes.io/config.hash\":\"$HASH\"",
    );
    let mut request: Value = serde_json::from_str(&text.replace(&pod.uid, "$UID")).unwrap();
    for mount in request
        .get_mut("mounts")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let path = mount["host_path"].as_str().unwrap_or_default().to_owned();
        if let Some((folder, _)) = path
            .rsplit_once('/')
            .filter(|(f, _)| f.contains("/containers/"))
        {
            mount["host_path"] = json!(format!("{folder}/$N"));
        }
    }
    if let Some(envs) = request.get_mut("envs").and_then(Value::as_array_mut) {
        envs.sort_by_key(|e| e["key"].as_str().unwrap().to_owned());
    }
    request
}

/// The Pod's requests in the record's terms: the sandbox, and the containers by name.
fn requests(facts: &NodeFacts, pod: &StaticPod) -> (Value, Result<Vec<Value>, String>) {
    let instance = SandboxInstance {
        seen: "now".into(),
        ..SandboxInstance::default()
    };
    let sandbox = sandbox_config(facts, &host(), pod, &instance);
    let sandbox = normalized("sandbox", as_json(&sandbox, "PodSandboxConfig"), pod);
    let spec = pod.pod.spec.as_ref().unwrap();
    let volumes = spec.volumes.iter().flatten();
    let images = volumes.filter(|v| v.image.is_some());
    let instance = ContainerInstance {
        image: "sha256:$ID".into(),
        addresses: Addresses {
            pod: vec!["$POD_IP".into()],
        },
        volume_images: images
            .map(|v| (v.name.clone(), "sha256:$ID".into()))
            .collect(),
        ..ContainerInstance::default()
    };
    let inits = spec.init_containers.iter().flatten();
    let containers = inits.chain(&spec.containers).map(|spec| {
        let config = container_config(facts, pod, spec, &instance)?;
        let json = as_json(&config, "ContainerConfig");
        Ok(masked(&normalized("container", json, pod)))
    });
    let containers = containers.collect::<Result<Vec<_>, String>>();
    let sorted = containers.map(|mut containers| {
        containers.sort_by_key(|c| c["metadata"]["name"].as_str().unwrap().to_owned());
        containers
    });
    (sandbox, sorted)
}

/// Holds our requests against all records of a folder.
fn compare(facts: &NodeFacts, folder: &str) -> usize {
    let mut compared = 0;
    for entry in std::fs::read_dir(golden("manifests")).unwrap() {
        let file = entry.unwrap().path();
        let manifest = std::fs::read(&file).unwrap();
        let Ok(accepted) = parse(&manifest, NODE, SourceKind::File) else {
            continue;
        };
        let pod = accepted.pod;
        let record = format!("{folder}/{}_{}.json", pod.key.namespace, pod.key.name);
        let Ok(record) = std::fs::read(golden(&record)) else {
            continue;
        };
        let record: Value = serde_json::from_slice(&record).unwrap();
        let (sandbox, containers) = requests(facts, &pod);
        let expected = masked(&record["sandbox"]["config"]);
        let file = file.display();
        assert_eq!(sandbox, expected, "{file}");
        match record["containers"].as_array() {
            Some(expected) if !expected.is_empty() => {
                let expected: Vec<Value> = expected.iter().map(masked).collect();
                assert_eq!(containers.as_ref(), Ok(&expected), "{file}");
            }
            _ => assert!(containers.is_err(), "{file}"),
        }
        compared += 1;
    }
    compared
}

#[test]
fn requests_equal_those_of_the_reference_agent() {
    assert!(compare(&facts(), "cri") >= 14);
}

#[test]
fn on_a_unified_hierarchy_under_systemd_they_equal_them_too() {
    assert!(compare(&unified_facts(), "cri-v2") >= 14);
}

/// Digests in image names are a placeholder in the record.
fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.split_once("@sha256:") {
            Some((name, _)) => json!(format!("{name}@sha256:$ID")),
            None => value.clone(),
        },
        Value::Array(list) => list.iter().map(masked).collect(),
        Value::Object(map) => {
            let fields = map.iter().map(|(k, v)| (k.clone(), masked(v)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

#[test]
fn a_restarted_container_carries_its_attempt_and_back_off() {
    let manifest = std::fs::read(golden("manifests/o-minimal.yaml")).unwrap();
    let pod = parse(&manifest, NODE, SourceKind::File).unwrap().pod;
    let spec = &pod.pod.spec.as_ref().unwrap().containers[0];
    let instance = ContainerInstance {
        attempt: 3,
        backoff: Some(std::time::Duration::from_secs(20)),
        ..ContainerInstance::default()
    };
    let config = container_config(&facts(), &pod, spec, &instance).unwrap();
    assert_eq!(config.metadata.unwrap().attempt, 3);
    assert_eq!(config.log_path, "web/3.log");
    assert_eq!(
        config.annotations["io.kubernetes.container.restartCount"],
        "3"
    );
    assert_eq!(config.annotations["podkeeper.io/restart-backoff"], "20");
}

#[test]
fn the_hosts_file_has_the_pods_address_and_its_aliases() {
    let manifest = std::fs::read(golden("manifests/o-hostaliases.yaml")).unwrap();
    let pod = parse(&manifest, NODE, SourceKind::File).unwrap().pod;
    let text = hosts_file(&facts(), &pod, &["10.0.0.7".to_owned()], "1.2.3.4 host\n");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"127.0.0.1\tlocalhost"), "{text}");
    assert!(
        lines.contains(&"10.0.0.7\tmyhost.sub.default.svc.kube.local\tmyhost"),
        "{text}"
    );
    assert!(lines.contains(&"127.0.0.1\tfoo.local\tbar.local"), "{text}");
    assert!(!text.contains("1.2.3.4"), "{text}");

    let manifest = std::fs::read(golden("manifests/o-dns-hostnet.yaml")).unwrap();
    let pod = parse(&manifest, NODE, SourceKind::File).unwrap().pod;
    let text = hosts_file(&facts(), &pod, &["10.0.0.7".to_owned()], "1.2.3.4 host\n");
    assert!(text.contains("1.2.3.4 host\n"), "{text}");
}
