//! Bytes to Pods to CRI requests, for any bytes at all. Nothing may panic, hang or take more memory than
//! `hack/fuzz` grants; and whatever a Pod asks for, the agent's own paths stay below its own folders, and
//! the Pod can be made again from what is kept of it.

#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use podkeeper::cri::v1::{ContainerConfig, PodSandboxConfig};
use podkeeper::host::cgroup::CgroupDriver;
use podkeeper::manifest::objects::{Object, ObjectSet, attach, start_errors};
use podkeeper::manifest::{Accepted, Problem, SourceKind, StaticPod, parse, parse_all, parse_file};
use podkeeper::pod::admission::Allocations;
use podkeeper::translate::{
    Addresses, ContainerInstance, Identity, KernelFeatures, NodeCapacity, NodeFacts, Paths,
    ResolvConf, SandboxInstance, UserNamespaceRange, container_config, hosts_file, sandbox_config,
    sub_paths,
};
use prost::Message;

const NODE: &str = "my-node1";
const ROOT: &str = "/ROOT";
const LOGS: &str = "/LOGS";

/// A node with cgroup v1, and one with cgroup v2 under systemd.
static NODES: LazyLock<[NodeFacts; 2]> = LazyLock::new(|| {
    let first = NodeFacts {
        paths: Paths {
            root: ROOT.into(),
            logs: LOGS.into(),
            ..Paths::default()
        },
        cluster_dns: vec!["10.254.0.10".into()],
        cluster_domain: "kube.local".into(),
        kernel: KernelFeatures {
            hugepage_sizes: vec!["2MB".into(), "1GB".into()],
            swap_controller: true,
            ..KernelFeatures::default()
        },
        capacity: NodeCapacity {
            memory: 24 << 30,
            cpus: 2,
            ephemeral_storage: 100 << 30,
            ..NodeCapacity::default()
        },
        identity: Identity {
            ips: vec!["192.0.2.2".to_owned()].into(),
            name: NODE.into(),
            ..Identity::default()
        },
        ..NodeFacts::default()
    };
    let second = NodeFacts {
        cgroup_driver: CgroupDriver::Systemd,
        seccomp_default: true,
        kernel: KernelFeatures {
            cgroup_unified: true,
            apparmor: true,
            ..first.kernel.clone()
        },
        ..first.clone()
    };
    [first, second]
});

fuzz_target!(|bytes: &[u8]| {
    match parse_file(bytes, NODE) {
        Ok(manifest) => {
            let pods = manifest.pod.into_iter().collect();
            run(pods, manifest.objects, SourceKind::File);
        }
        Err(problems) => show(&problems),
    }
    match parse_all(bytes, NODE, SourceKind::Http) {
        Ok(parsed) => {
            let pods = parsed.pods.into_iter();
            let pods = pods.filter_map(|e| e.result.inspect_err(|p| show(p)).ok());
            let objects = parsed.objects.into_iter();
            let objects = objects.filter_map(|e| e.result.inspect_err(|p| show(p)).ok());
            run(pods.collect(), objects.collect(), SourceKind::Http);
        }
        Err(problems) => show(&problems),
    }
});

fn show(problems: &[Problem]) {
    for problem in problems {
        assert!(!problem.to_string().is_empty());
    }
}

/// What the agent does with the Pods and objects of a source, but for touching the node.
fn run(pods: Vec<Accepted>, objects: Vec<Object>, source: SourceKind) {
    let mut set = ObjectSet::new();
    for object in objects {
        show(&object.warnings);
        set.insert(object.key, object.content);
    }
    for accepted in pods {
        show(&accepted.warnings);
        check_kept(&accepted.pod, source);
        let pod = attach(&accepted.pod, &set);
        assert!(start_errors(&pod).iter().all(|reason| !reason.is_empty()));
        for facts in &*NODES {
            // Whether the Pod may run here or not, asking must do no harm.
            let _ = Allocations::default().admit(facts, &pod);
            check_requests(facts, &pod);
        }
    }
}

/// What is kept of a Pod over a restart is its document as JSON.
fn check_kept(pod: &Arc<StaticPod>, source: SourceKind) {
    let kept = pod.document.as_str();
    let again = parse(kept.as_bytes(), NODE, source);
    let again = again.unwrap_or_else(|p| panic!("accepted once only: {kept}: {p:?}"));
    assert_eq!(again.pod, *pod, "{kept}");
}

fn check_requests(facts: &NodeFacts, pod: &StaticPod) {
    let spec = &pod.spec;
    let range = UserNamespaceRange {
        host_id: 65_536,
        length: 65_536,
    };
    let user_namespace = (spec.host_users == Some(false)).then_some(range);
    let instance = SandboxInstance {
        user_namespace,
        ..SandboxInstance::default()
    };
    let host = ResolvConf::parse("nameserver 10.255.255.53\n");
    check_sandbox(pod, &sandbox_config(facts, &host, pod, &instance));
    let hosts = hosts_file(facts, pod, &["10.0.0.7".into()], "127.0.0.1 localhost\n");
    assert!(hosts.starts_with('#'));
    let volumes = spec.volumes.iter().flatten();
    let instance = ContainerInstance {
        attempt: 7,
        image: "sha256:0".into(),
        addresses: Addresses {
            pod: vec!["10.0.0.7".into()],
            ..Addresses::default()
        },
        volume_images: volumes
            .map(|v| (v.name.clone(), "sha256:1".into()))
            .collect(),
        user_namespace,
        ..ContainerInstance::default()
    };
    let inits = spec.init_containers.iter().flatten();
    for container in inits.chain(&spec.containers) {
        if let Ok(config) = container_config(facts, pod, container, &instance) {
            check_container(pod, &config);
        }
        for part in sub_paths(facts, pod, container, &instance).unwrap_or_default() {
            assert!(stays_below(Path::new(&part.path)), "{part:?}");
            let paths = &facts.paths;
            check_own(
                &paths.sub_path(&pod.uid, &part.volume, &container.name, part.index),
                pod,
            );
        }
    }
}

fn check_sandbox(pod: &StaticPod, config: &PodSandboxConfig) {
    let logs = Path::new(&config.log_directory).strip_prefix(LOGS);
    assert_eq!(
        logs.expect("below the logs' folder").components().count(),
        1
    );
    let linux = config.linux.as_ref().expect("a sandbox is Linux's");
    let group = Path::new(&linux.cgroup_parent);
    assert!(!linux.cgroup_parent.contains("..") && group.components().count() <= 4);
    assert!(
        linux.cgroup_parent.contains(&pod.uid.replace('-', "_")),
        "{group:?}"
    );
    assert!(config.encoded_len() > 0);
}

fn check_container(pod: &StaticPod, config: &ContainerConfig) {
    let log = Path::new(&config.log_path);
    assert!(stays_below(log) && log.components().count() == 2, "{log:?}");
    let given: Vec<_> = (pod.volumes().iter())
        .filter_map(|v| Some(v.host_path.as_ref()?.path.as_str()))
        .collect();
    for mount in config.mounts.iter().filter(|m| m.image.is_none()) {
        if !given.contains(&mount.host_path.as_str()) {
            check_own(Path::new(&mount.host_path), pod);
        }
    }
    let linux = config.linux.as_ref().expect("a container is Linux's");
    let context = linux
        .security_context
        .as_ref()
        .expect("it has a security context");
    let profile = context
        .seccomp
        .as_ref()
        .map(|s| s.localhost_ref.as_str())
        .unwrap_or_default();
    if !profile.is_empty() {
        let below = Path::new(profile).strip_prefix(Path::new(ROOT).join("seccomp"));
        assert!(below.is_ok_and(stays_below), "{profile}");
    }
    assert!(config.encoded_len() > 0);
}

/// A path is one of the Pod's own.
fn check_own(path: &Path, pod: &StaticPod) {
    let folder = Path::new(ROOT).join("pods").join(pod.uid.as_str());
    let below = path.strip_prefix(folder);
    assert!(below.is_ok_and(stays_below), "{}", path.display());
}

fn stays_below(path: &Path) -> bool {
    let normal = |part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    };
    path.components().all(normal)
}
