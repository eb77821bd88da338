use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::tree::tests::MemoryFilesystem;
use super::*;
use crate::manifest::objects::{self, Objects};
use crate::manifest::{SourceKind, parse};
use crate::translate::NodeCapacity;
use crate::translate::Paths;

/// A node with one Pod.
struct TestNode {
    /// It goes with all that is in it.
    _folder: MemoryFilesystem,
    facts: NodeFacts,
    pod: StaticPod,
}

impl TestNode {
    /// A Pod of these fields of its spec, and with these fields of its container.
    fn new(spec: &str, container: &str) -> Self {
        let folder = MemoryFilesystem::new();
        let host = folder.path().display();
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{{spec}, \
             containers: [{{name: c, image: i, {container}}}]}}}}"
        );
        let text = text.replace("HOST", &host.to_string());
        let accepted = parse(text.as_bytes(), "n1", SourceKind::File).unwrap();
        let mut objects = Objects::default();
        let entries = [("key".to_owned(), b"value".to_vec())];
        let entries = Some(Arc::new(entries.into()));
        objects.config_maps.insert("settings".to_owned(), entries);
        let pod = objects::with(&accepted.pod, objects.into());
        let paths = Paths {
            root: folder.path().join("root"),
            ..Paths::default()
        };
        let facts = NodeFacts {
            paths,
            capacity: NodeCapacity {
                memory: 1 << 30,
                ..NodeCapacity::default()
            },
            ..NodeFacts::default()
        };
        Self {
            _folder: folder,
            facts,
            pod: StaticPod::clone(&pod),
        }
    }

    fn prepare(&self) -> Result<(), VolumeError> {
        prepare(&self.facts, &self.pod, &Addresses::default())
    }

    fn volume(&self, name: &str) -> PathBuf {
        let spec = &self.pod.spec;
        let mut volumes = spec.volumes.iter().flatten();
        let volume = volumes.find(|v| v.name == name).unwrap();
        let source = volume_source(&self.facts.paths, &self.pod, volume);
        source.unwrap().path().to_owned()
    }

    /// The mode and the group of a path of a volume.
    fn found(&self, name: &str, path: &str) -> (u32, u32) {
        let found = fs::metadata(self.volume(name).join(path)).unwrap();
        (found.mode() & 0o7777, found.gid())
    }
}

const VOLUMES: &str = "volumes: [
    {name: disk, emptyDir: {}},
    {name: memory, emptyDir: {medium: Memory}},
    {name: settings, configMap: {name: settings}},
    {name: own, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]";
const MOUNTS: &str = "resources: {limits: {memory: 64Mi}}, volumeMounts: [
    {name: disk, mountPath: /a}, {name: memory, mountPath: /b},
    {name: settings, mountPath: /c}, {name: own, mountPath: /d}]";

#[test]
fn volumes_have_the_modes_of_the_reference_agents_and_the_pods_group() {
    let node = TestNode::new(VOLUMES, MOUNTS);
    node.prepare().unwrap();
    let modes = ["disk", "memory", "settings", "own"].map(|name| node.found(name, "").0);
    assert_eq!(modes, [0o777, 0o1777, 0o777, 0o1777]);
    for name in ["memory", "own"] {
        let size = rustix::fs::statvfs(node.volume(name)).unwrap();
        assert_eq!(size.f_blocks * size.f_frsize, 64 << 20, "{name}");
    }
    let with_group = format!("securityContext: {{fsGroup: 2000}}, {VOLUMES}");
    let node = TestNode::new(&with_group, MOUNTS);
    node.prepare().unwrap();
    let found = ["disk", "memory", "settings", "own"].map(|name| node.found(name, ""));
    let expected = [0o2777, 0o3777, 0o2777, 0o3777].map(|mode| (mode, 2000));
    assert_eq!(found, expected);
    assert_eq!(node.found("settings", "key"), (0o644, 2000));
}

#[test]
fn a_new_sandbox_leaves_volumes_as_containers_left_them() {
    for policy in ["Always", "OnRootMismatch"] {
        let context = format!("{{fsGroup: 2000, fsGroupChangePolicy: {policy}}}");
        let node = TestNode::new(&format!("securityContext: {context}, {VOLUMES}"), MOUNTS);
        node.prepare().unwrap();
        for name in ["disk", "memory"] {
            let (volume, file) = (node.volume(name), node.volume(name).join("file"));
            fs::write(&file, "").unwrap();
            for (path, mode) in [(&file, 0o600), (&volume, 0o700)] {
                fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
                chown(path, Some(70), Some(70)).unwrap();
            }
        }
        node.prepare().unwrap();
        refresh(&node.facts, &node.pod, &Addresses::default()).unwrap();
        for name in ["disk", "memory"] {
            let found = [node.found(name, "file"), node.found(name, "")];
            assert_eq!(found, [(0o600, 70), (0o700, 70)], "{policy} {name}");
        }
    }
}

#[test]
fn memory_that_a_boot_took_is_mounted_again() {
    let node = TestNode::new(VOLUMES, MOUNTS);
    node.prepare().unwrap();
    mounts::unmount_below(&node.facts.paths.root).unwrap();
    node.prepare().unwrap();
    assert!(mounts::is_mount_point(&node.volume("memory")).unwrap());
    assert_eq!(node.found("own", "name").0, 0o644);
}

#[test]
fn volumes_that_no_container_uses_are_left_out() {
    let volumes = "volumes: [{name: v, hostPath: {path: HOST/none, type: Directory}}]";
    let unused = TestNode::new(volumes, "env: []");
    check(&unused.facts, &unused.pod).unwrap();
    unused.prepare().unwrap();
    let used = TestNode::new(volumes, "volumeMounts: [{name: v, mountPath: /v}]");
    assert!(check(&used.facts, &used.pod).is_err());
    let init = "initContainers: [{name: i, image: i, volumeMounts: [{name: v, mountPath: /v}]}]";
    let used = TestNode::new(&format!("{volumes}, {init}"), "env: []");
    assert!(used.prepare().is_err());
    let env = "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: k}}}]";
    let read = TestNode::new("volumes: [{name: v, emptyDir: {}}]", env);
    read.prepare().unwrap();
    assert!(read.volume("v").is_dir());
}

#[test]
fn huge_pages_are_of_a_size_that_a_container_requests() {
    let pages = |medium: &str, requests: &[&str]| {
        let requests = requests.iter().map(|size| ((*size).to_owned(), "4Mi"));
        let requests: serde_json::Map<_, _> = requests.map(|(k, v)| (k, v.into())).collect();
        let containers = [serde_json::json!({"name": "c", "resources": {"requests": requests}})];
        let pod = serde_json::json!({"spec": {"containers": containers}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        page_size(
            &pod.spec.unwrap(),
            medium.strip_prefix("HugePages").unwrap(),
        )
        .map(Quantity::value)
    };
    let (small, large) = ("hugepages-2Mi", "hugepages-1Gi");
    assert_eq!(pages("HugePages", &["cpu", small]).unwrap(), 2 << 20);
    assert_eq!(pages("HugePages-2Mi", &[small, large]).unwrap(), 2 << 20);
    assert_eq!(pages("HugePages-2048Ki", &[small]).unwrap(), 2 << 20);
    for (medium, requests, expected) in [
        (
            "HugePages",
            &["cpu"][..],
            "no container requests huge pages",
        ),
        ("HugePages", &[small, large], "pages of several sizes"),
        (
            "HugePages-2Mi",
            &["cpu"],
            "no container requests huge pages of 2Mi",
        ),
        (
            "HugePages-2Mi",
            &[large],
            "no container requests huge pages of 2Mi",
        ),
    ] {
        let error = pages(medium, requests).unwrap_err().to_string();
        assert!(error.contains(expected), "{medium}: {error}");
    }
}

#[test]
fn a_pod_is_removed_however_deep_its_containers_dug() {
    let node = TestNode::new(VOLUMES, MOUNTS);
    node.prepare().unwrap();
    tree::tests::dig(&node.volume("disk"));
    let pod = node.facts.paths.pod(&node.pod.uid);
    remove(&node.facts.paths, &node.pod.uid).unwrap();
    assert_eq!(fs::read_dir(&pod).unwrap().count(), 0);
}
