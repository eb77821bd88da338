//! What the runtime is asked for is what the reference agent asks for.

use std::path::{Path, PathBuf};

use podkeeper::manifest::{SourceKind, StaticPod, parse};
use podkeeper::translate::{
    ContainerInstance, NodeFacts, Paths, ResolvConf, container_config, hosts_file, sandbox_config,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};

const NODE: &str = "my-node1";

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
        },
        cluster_dns: vec!["10.254.0.10".into()],
        cluster_domain: "kube.local".into(),
        hugepage_sizes: vec!["2MB".into(), "1GB".into()],
        ..NodeFacts::default()
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
        let path = mount["host_path"].as_str().unwrap().to_owned();
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

#[test]
fn requests_equal_those_of_the_reference_agent() {
    let mut compared = vec![];
    for entry in std::fs::read_dir(golden("manifests")).unwrap() {
        let file = entry.unwrap().path();
        let manifest = std::fs::read(&file).unwrap();
        let Ok(accepted) = parse(&manifest, NODE, SourceKind::File) else {
            continue;
        };
        let pod = accepted.pod;
        let record = golden(&format!("cri/{}_{}.json", pod.key.namespace, pod.key.name));
        let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();

        let sandbox = sandbox_config(&facts(), &host(), &pod, 0, "now");
        let sandbox = as_json(&sandbox, "PodSandboxConfig");
        let expected = masked(&record["sandbox"]["config"]);
        assert_eq!(
            normalized("sandbox", sandbox, &pod),
            expected,
            "{}",
            file.display()
        );

        let specs = pod.pod.spec.as_ref().unwrap().containers.iter();
        let mut containers: Vec<Value> = specs
            .map(|spec| {
                let instance = ContainerInstance {
                    image: "sha256:$ID".into(),
                    ..ContainerInstance::default()
                };
                let config = container_config(&facts(), &pod, spec, &instance);
                masked(&normalized(
                    "container",
                    as_json(&config, "ContainerConfig"),
                    &pod,
                ))
            })
            .collect();
        containers.sort_by_key(|c| c["metadata"]["name"].as_str().unwrap().to_owned());
        let expected = masked(&record["containers"]);
        assert_eq!(Value::Array(containers), expected, "{}", file.display());
        compared.push(file);
    }
    assert!(
        compared.len() >= 14,
        "only these were compared: {compared:?}"
    );
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
    let config = container_config(&facts(), &pod, spec, &instance);
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
