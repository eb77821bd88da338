//! What the runtime is asked for is what the reference agent asks for.

mod records;

use std::collections::BTreeMap;

use podkeeper::manifest::{SourceKind, StaticPod, parse};
use podkeeper::translate::{
    Addresses, ContainerInstance, NodeFacts, SandboxInstance, container_config, hosts_file,
    sandbox_config,
};
use records::{Kind, NODE, Places, facts, golden, host, in_their_terms, recorded, unified_facts};
use serde_json::{Value, json};

/// The Pod's requests in the record's terms: the sandbox, and the containers by name.
fn requests(facts: &NodeFacts, pod: &StaticPod) -> (Value, Result<Value, String>) {
    let places = Places {
        root: "/ROOT".into(),
        logs: "/LOGS".into(),
        pod_ip: "10.0.0.7".into(),
    };
    let sandbox = sandbox_config(facts, &host(), pod, &SandboxInstance::default());
    let sandbox = in_their_terms(Kind::Sandbox, &sandbox, &pod.uid, &places);
    let spec = pod.pod.spec.as_ref().unwrap();
    let volumes = spec.volumes.iter().flatten();
    let images = volumes.filter(|v| v.image.is_some());
    let instance = ContainerInstance {
        image: "sha256:1".into(),
        addresses: Addresses {
            pod: vec![places.pod_ip.clone()],
            ..Addresses::default()
        },
        volume_images: images
            .map(|v| (v.name.clone(), "sha256:1".into()))
            .collect(),
        ..ContainerInstance::default()
    };
    let inits = spec.init_containers.iter().flatten();
    let containers = inits.chain(&spec.containers).map(|spec| {
        let config = container_config(facts, pod, spec, &instance);
        let config = config.map_err(|error| error.to_string())?;
        let config = in_their_terms(Kind::Container, &config, &pod.uid, &places);
        Ok((spec.name.clone(), config))
    });
    let containers = containers.collect::<Result<BTreeMap<_, _>, String>>();
    let by_name = containers.map(|all| all.into_values().collect::<Value>());
    (sandbox, by_name)
}

/// Holds our requests against all records of a folder.
fn compare(facts: &NodeFacts, folder: &str) {
    for recorded in recorded(folder) {
        let (sandbox, containers) = requests(facts, &recorded.pod);
        let file = recorded.manifest.display();
        assert_eq!(sandbox, recorded.sandbox(), "{file}");
        match recorded.containers() {
            none if none.is_empty() => assert!(containers.is_err(), "{file}"),
            expected => assert_eq!(containers, Ok(json!(expected)), "{file}"),
        }
    }
}

#[test]
fn requests_equal_those_of_the_reference_agent() {
    compare(&facts(), "cri");
}

#[test]
fn on_a_unified_hierarchy_under_systemd_they_equal_them_too() {
    compare(&unified_facts(), "cri-v2");
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
