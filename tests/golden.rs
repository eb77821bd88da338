//! Through the whole agent, over a runtime's socket: it asks for what the reference agent asked for.
//!
//! The agent runs in a mount namespace of its own, in which the node looks like the one on which the
//! records were taken.

#[path = "support/program.rs"]
mod program;
#[path = "support/records.rs"]
mod records;
#[path = "support/requests.rs"]
mod requests;
#[path = "support/runtime/mod.rs"]
mod runtime;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podkeeper::cri::v1;
use podkeeper::server::{fetch, fetch_status};
use podkeeper::translate::{QosClass, cpu_shares, qos_class, requested};
use records::{HOST_IP, MEMORY, NODE, Places, Recorded, masked, recorded};
use requests::sandbox_request;
use runtime::{Life, Runtime, Settings, handler};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Time limit of the test's waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts the node together in a new mount namespace, then becomes the agent. `/tmp` is the namespace's
/// own, for what manifests have made there; the test's folder, which may lie below it, shows again.
const ENTER: &str = r#"
cd "$WORK"
mount --bind "$AGENT" podkeeper
mount -t tmpfs tmpfs /tmp
mkdir -p "$WORK"
mount --no-canonicalize --rbind . "$WORK"
cd "$WORK/node"
mount --bind cgroup /sys/fs/cgroup
mount --bind hugepages /sys/kernel/mm/hugepages
mount --bind meminfo /proc/meminfo
mount --bind online /sys/devices/system/cpu/online
[ ! -e /sys/fs/selinux ] || mount -t tmpfs tmpfs /sys/fs/selinux
cd "$WORK"
exec ./podkeeper run "$@"
"#;

/// What stands in for systemd: it notes what it is asked for, makes the cgroup of a slice that it is to
/// start, with the controller that systemd leaves alone, and removes that of one that it is to stop. While there
/// is a file `busy`, it holds the slice all the same.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>"$WORK/systemctl.log"
[ -e /sys/fs/cgroup/cgroup.controllers ] || exit 0
for slice; do :; done
folder=/sys/fs/cgroup name= rest=${slice%.slice}-
while [ -n "$rest" ]; do
    name=$name${rest%%-*} rest=${rest#*-}
    folder=$folder/$name.slice
    name=$name-
    [ "$1" != start ] || mkdir -p "$folder"
    [ "$1" != start ] || echo hugetlb >"$folder/cgroup.controllers"
done
held=$WORK/held/$slice
case $1 in
start)
    echo 4096 >"$folder/hugetlb.2MB.max"
    mkdir -p "$held"
    ;;
stop)
    # The kernel's files go with their folder, and are none of the agent's.
    rm -rf "$folder"
    [ ! -e "$WORK/busy" ] || exit 1
    rm -rf "$held"
    ;;
show) if [ -e "$held" ]; then echo active; else echo inactive; fi ;;
esac
"#;

/// A node like the one of the records, with the agent on it.
struct Node {
    runtime: Runtime,
    agent: Child,
    folder: TempDir,
}

impl Node {
    /// `manifests` is a part of their names.
    fn start(settings: Settings, cgroups: &[&str], manifests: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_node(folder.path(), cgroups);
        let runtime = Runtime::start(&folder.path().join("cri.sock"), settings);
        // The records' runtime had these end at once.
        runtime.lives(|_, name, _| {
            if name.starts_with("init-") {
                Life::ends(0)
            } else {
                Life::LONG
            }
        });
        let own = folder.path().join("manifests");
        fs::create_dir(&own).unwrap();
        for entry in fs::read_dir(records::golden("manifests")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.contains(manifests) {
                fs::copy(entry.path(), own.join(name)).unwrap();
            }
        }
        let agent = start_agent(folder.path(), &runtime.endpoint());
        Self {
            runtime,
            agent,
            folder,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("agent.log")).unwrap()
    }

    /// What systemd was asked for, in order.
    fn systemctl(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("systemctl.log")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until every Pod is as far as it gets: all of its containers were made, or the agent tells
    /// why one is not.
    async fn settled(&self, pods: &[Recorded]) {
        let run = self.folder.path().join("run");
        let settled = async {
            loop {
                let status = fetch_status(&run).await.unwrap_or_default();
                let waits = |name: &str| {
                    let report = status.pods.iter().find(|p| p.name == name);
                    report.is_some_and(|r| r.reason == "CreateContainerConfigError")
                };
                let done = |pod: &&Recorded| {
                    let name = &pod.pod.key.name;
                    let expected = pod.containers().len();
                    let started = self.runtime.calls_for(name);
                    let started = started.iter().filter(|c| c.method == "StartContainer");
                    (expected > 0 && started.count() >= expected) || waits(name)
                };
                if pods.iter().all(|pod| done(&pod)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        assert!(
            settled.is_ok(),
            "timed out waiting for the Pods: {}",
            self.log()
        );
    }

    fn places(&self, pod: &Recorded) -> Places {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let name = &pod.pod.key.name;
        let ip = |state: &runtime::State| {
            let sandbox = state.sandboxes.iter().find(|s| s.pod() == name);
            sandbox.unwrap().ip.clone()
        };
        Places {
            root: at("root"),
            logs: at("logs"),
            pod_ip: self.runtime.look(ip),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// What the agent finds out about the machine, as the records' node had it.
fn make_node(folder: &Path, cgroups: &[&str]) {
    let at = |name: &str| folder.join(name);
    for size in ["hugepages-2048kB", "hugepages-1048576kB"] {
        fs::create_dir_all(at("node/hugepages").join(size)).unwrap();
    }
    for file in cgroups {
        let file = at("node/cgroup").join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    let controllers = at("node/cgroup/cgroup.controllers");
    if controllers.exists() {
        fs::write(controllers, "cpu memory hugetlb\n").unwrap();
    }
    let memory = format!("MemTotal: {MEMORY} kB\n");
    fs::write(at("node/meminfo"), memory).unwrap();
    fs::write(at("node/online"), "0-1\n").unwrap();
    fs::write(at("resolv.conf"), "nameserver 10.255.255.53\n").unwrap();
    // The agent is mounted over this one.
    fs::write(at("podkeeper"), "").unwrap();
    let systemctl = at("bin/systemctl");
    fs::create_dir(at("bin")).unwrap();
    fs::write(&systemctl, SYSTEMCTL).unwrap();
    fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("systemctl.log"), "").unwrap();
}

fn start_agent(folder: &Path, endpoint: &str) -> Child {
    let at = |name: &str| folder.join(name).display().to_string();
    let path = std::env::var("PATH").unwrap();
    let log = fs::File::create(at("agent.log")).unwrap();
    let flags = [
        ("cluster-dns", "10.254.0.10".to_owned()),
        ("cluster-domain", "kube.local".to_owned()),
        ("hostname-override", NODE.to_owned()),
        ("node-ip", HOST_IP.to_owned()),
        ("pod-manifest-path", at("manifests")),
        ("container-runtime-endpoint", endpoint.to_owned()),
        ("root-dir", at("root")),
        ("pod-logs-dir", at("logs")),
        ("container-logs-dir", at("container-logs")),
        ("image-gc-high-threshold", "100".to_owned()),
        ("run-dir", at("run")),
        ("resolv-conf", at("resolv.conf")),
        ("healthz-port", "0".to_owned()),
    ];
    let unshare = [
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        ENTER,
        "sh",
    ];
    Command::new("unshare")
        .args(unshare)
        .args(flags.map(|(name, value)| format!("--{name}={value}")))
        .env("WORK", folder)
        .env("AGENT", program::PROGRAM)
        .env("PATH", format!("{}:{path}", at("bin")))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The runtime of the records: it has user namespaces, but no mounts that are read-only with all below.
fn settings() -> Settings {
    Settings {
        handlers: vec![handler("", false, true)],
        ..Settings::containerd_2_1()
    }
}

/// cgroup v1, with the unified hierarchy beside it.
const HYBRID: [&str; 6] = [
    "cpu/cgroup.procs",
    "memory/cgroup.procs",
    "memory/memory.memsw.limit_in_bytes",
    "hugetlb/cgroup.procs",
    "systemd/cgroup.procs",
    "unified/cgroup.procs",
];

/// cgroup v2.
const UNIFIED: [&str; 4] = [
    "cgroup.controllers",
    "cgroup.procs",
    "cgroup.subtree_control",
    "system.slice/memory.swap.max",
];

/// What is made is started before the next is made, and nothing of a new Pod is stopped or removed.
fn check_the_rest(node: &Node, recorded: &Recorded) {
    let file = recorded.manifest.display();
    let calls = node.runtime.calls_for(&recorded.pod.key.name);
    let names = |method: &str| {
        let calls = calls.iter().filter(move |c| c.method == method);
        calls
            .map(|c| c.subject.container.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("StartContainer"), names("CreateContainer"), "{file}");
    let methods: Vec<&str> = calls.iter().map(|c| c.method).collect();
    for pair in methods.windows(2) {
        let started = pair[0] != "CreateContainer" || pair[1] == "StartContainer";
        assert!(started, "{file}: {methods:?}");
    }
    let unheard = ["StopContainer", "RemoveContainer", "RemovePodSandbox"];
    let methods: BTreeSet<&str> = methods.into_iter().collect();
    assert!(
        unheard.iter().all(|m| !methods.contains(m)),
        "{file}: {methods:?}"
    );
}

/// The agent's Pods, once each is as far as it gets, are those of the records.
async fn compare_all(node: &Node, pods: &[Recorded]) {
    node.settled(pods).await;
    for pod in pods {
        let calls = node.runtime.calls_for(&pod.pod.key.name);
        requests::compare(&calls, pod, &node.places(pod));
        check_the_rest(node, pod);
    }
}

/// A Pod of the agent's list in the records' terms.
fn shown(node: &Node, recorded: &Recorded, pod: &Value) -> Value {
    let ip = node.places(recorded).pod_ip;
    let text = pod.to_string().replace(recorded.pod.uid.as_str(), "$UID");
    let text = text.replace(&format!("\"{ip}\""), "\"$POD_IP\"");
    let text = text.replace(&format!("\"{HOST_IP}\""), "\"$HOST_IP\"");
    let mut pod: Value = serde_json::from_str(&text).unwrap();
    pod["metadata"]["annotations"]["kubernetes.io/config.seen"] = json!("$TIME");
    for list in ["containerStatuses", "initContainerStatuses"] {
        let statuses = pod["status"].get_mut(list).and_then(Value::as_array_mut);
        for status in statuses.into_iter().flatten() {
            // What it tells of an image is the runtime's to say; that of the records told its id.
            status["image"] = json!("sha256:$ID");
        }
    }
    hide(&mut pod);
    masked(&pod)
}

/// Times and containers' ids are placeholders.
fn hide(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if key.ends_with("Time") || key.ends_with("At") {
                    *inner = json!("$TIME");
                } else if key == "containerID" {
                    *inner = json!("containerd://$CID");
                } else {
                    hide(inner);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(hide),
        _ => {}
    }
}

/// The Pod whose status was recorded on a runtime with mounts that are read-only with all below.
const ELSEWHERE: &str = "o-recursive-ro-my-node1";

/// The agent's list of Pods comes to be that of the records.
async fn compare_shown(node: &Node, pods: &[Recorded]) {
    let run = node.folder.path().join("run");
    let record = |pod: &Recorded| -> Value {
        let key = &pod.pod.key;
        let file = format!("pods/{}_{}.json", key.namespace, key.name);
        serde_json::from_slice(&fs::read(records::golden(&file)).unwrap()).unwrap()
    };
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let list: Value = fetch(&run, "/pods").await.unwrap().remove(0);
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), pods.len());
        let find = |pod: &Recorded| {
            let named = |item: &&Value| item["metadata"]["name"] == pod.pod.key.name.as_str();
            items.iter().find(named).unwrap()
        };
        let here = pods.iter().filter(|pod| pod.pod.key.name != ELSEWHERE);
        let pairs = here.map(|pod| (shown(node, pod, find(pod)), masked(&record(pod))));
        let differ: Vec<_> = pairs.filter(|(ours, theirs)| ours != theirs).collect();
        if differ.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < end, "{differ:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The Pod's cgroup, as its sandbox was asked for.
fn cgroup_of(node: &Node, pod: &Recorded) -> String {
    let calls = node.runtime.calls_for(&pod.pod.key.name);
    let config = sandbox_request(&calls).config.clone().unwrap();
    config.linux.unwrap().cgroup_parent
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn the_agent_asks_for_what_the_reference_agent_asked_for() {
    let node = Node::start(settings(), &HYBRID, "");
    let pods = recorded("cri");
    assert_eq!(pods.len(), 36);
    compare_all(&node, &pods).await;
    compare_shown(&node, &pods).await;
    for pod in &pods {
        let cgroup = cgroup_of(&node, pod);
        for hierarchy in ["cpu", "memory", "hugetlb"] {
            let folder = node.folder.path().join("node/cgroup").join(hierarchy);
            let made = folder.join(cgroup.trim_start_matches('/')).is_dir();
            assert!(made, "{hierarchy} has no {cgroup}");
        }
    }
    assert_eq!(node.systemctl(), [""; 0], "systemd has no part in it");
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn on_a_unified_hierarchy_under_systemd_it_does_so_too() {
    let settings = Settings {
        cgroup_driver: Some(v1::CgroupDriver::Systemd),
        ..settings()
    };
    let node = Node::start(settings, &UNIFIED, "");
    let pods = recorded("cri-v2");
    assert_eq!(pods.len(), 35);
    compare_all(&node, &pods).await;
    let asked = node.systemctl();
    for pod in &pods {
        let cgroup = cgroup_of(&node, pod);
        let slice = cgroup.rsplit('/').next().unwrap();
        let set = format!("set-property --runtime -- {slice} ");
        let set = asked.iter().position(|line| line.starts_with(&set));
        let start = format!("start -- {slice}");
        let start = asked.iter().position(|line| *line == start);
        assert!(set.is_some() && set < start, "{slice}: {asked:?}");
    }
    // 100m and 150m of CPU, 256Mi and 1Gi of memory.
    let expected = "CPUWeight=10 CPUQuota=25% MemoryMax=1342177280";
    let guaranteed = asked.iter().filter(|line| line.ends_with(expected));
    assert_eq!(guaranteed.count(), 1, "{asked:?}");

    // systemd knows nothing of huge pages: what was there is overwritten, and none are allowed.
    let root = node.folder.path().join("node/cgroup");
    for pod in &pods {
        let folder = root.join(cgroup_of(&node, pod).trim_start_matches('/'));
        let limit = fs::read_to_string(folder.join("hugetlb.2MB.max")).unwrap();
        assert_eq!(limit, "0", "{}", folder.display());
        let handed = folder.parent().unwrap().join("cgroup.subtree_control");
        assert_eq!(fs::read_to_string(handed).unwrap(), "+hugetlb");
    }

    // A best-effort Pod has the least of the CPU, and burstable Pods what they ask for together.
    let last = |class: &str| {
        let slice = format!("set-property --runtime -- kubepods-{class}.slice ");
        let asked = node.systemctl();
        let mut properties = asked.iter().rev().filter_map(|l| l.strip_prefix(&slice));
        properties.next().unwrap().to_owned()
    };
    assert_eq!(last("besteffort"), "CPUWeight=1");
    let of_class = pods.iter().map(|pod| &pod.pod.spec);
    let burstable = of_class.filter(|spec| qos_class(spec) == QosClass::Burstable);
    let shares = cpu_shares(burstable.map(|spec| requested(spec).cpu).sum());
    let weight = 1 + (shares - 2) * 9999 / 262_142;
    assert!(weight > 1, "the records have burstable Pods");
    assert_eq!(last("burstable"), format!("CPUWeight={weight}"));

    // When Pods go, the others have what they ask for, and systemd holds nothing of those that went.
    let busy = node.folder.path().join("busy");
    fs::write(&busy, "").unwrap();
    let manifests = node.folder.path().join("manifests");
    for entry in fs::read_dir(manifests).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let end = std::time::Instant::now() + PATIENCE;
    let wait = async |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(std::time::Instant::now() < end, "{:?}", node.systemctl());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let is_asked = |pod: &Recorded| {
        let cgroup = cgroup_of(&node, pod);
        let stop = format!("stop --quiet -- {}", cgroup.rsplit('/').next().unwrap());
        node.systemctl().contains(&stop)
    };
    wait(&|| pods.iter().all(is_asked)).await;
    fs::remove_file(busy).unwrap();
    let held = node.folder.path().join("held");
    let is_held = |pod: &Recorded| {
        let cgroup = cgroup_of(&node, pod);
        held.join(cgroup.rsplit('/').next().unwrap()).exists()
    };
    wait(&|| last("burstable") == "CPUWeight=1" && !pods.iter().any(is_held)).await;
}

#[tokio::test]
#[ignore = "needs root: run hack/test"]
async fn the_driver_is_the_runtimes_and_the_hierarchy_the_nodes() {
    // cgroup v1, and a runtime that tells its driver only in its verbose status.
    let settings = Settings {
        systemd_in_status: Some(true),
        ..Settings::containerd_1_6()
    };
    let name = "o-qos-guaranteed";
    let node = Node::start(settings, &HYBRID, name);
    let named = |pods: Vec<Recorded>| {
        let mut pods = pods.into_iter();
        pods.find(|pod| pod.pod.key.name.starts_with(name)).unwrap()
    };
    let mut expected = named(recorded("cri"));
    let place = "/sandbox/config/linux/cgroup_parent";
    let slice = named(recorded("cri-v2")).record.pointer(place).cloned();
    assert_ne!(slice.as_ref(), expected.record.pointer(place));
    *expected.record.pointer_mut(place).unwrap() = slice.unwrap();
    compare_all(&node, &[expected]).await;
    // There systemd has shares, and would make others of a weight.
    let asked = node.systemctl();
    assert!(asked[0].contains(" CPUShares="), "{asked:?}");
}
