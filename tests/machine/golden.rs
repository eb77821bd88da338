//! Requests to a runtime on a real systemd and cgroup v2: those of the reference agent.
//!
//! The runtime is the scripted one, here; the agent on the machine reaches it over a forwarded socket.

use std::path::Path;
use std::time::{Duration, Instant};

use podkeeper::cri::v1;

use crate::machine::Machine;
use crate::records::{HOST_IP, MEMORY, NODE, Places, Recorded, golden, recorded};
use crate::requests::{compare, sandbox_request};
use crate::runtime::{Life, Runtime, Settings, handler};

/// The machine is emulated, and may have half a processor.
const PATIENCE: Duration = Duration::from_secs(300);

/// Folder of the agent on the machine.
const FOLDER: &str = "/var/lib/golden";

/// Start of the agent, with the memory, the processors and the page sizes of the records' node.
const ENTER: &str = "\
mount --bind meminfo /proc/meminfo
mount --bind online /sys/devices/system/cpu/online
mount --bind hugepages /sys/kernel/mm/hugepages
exec podkeeper run \"$@\"
";

/// Starts the agent as a unit of systemd's, with a mount namespace of its own.
fn start_agent(machine: &Machine) {
    let at = |name: &str| format!("{FOLDER}/{name}");
    machine.does(&format!(
        "mkdir -p {FOLDER}/hugepages/hugepages-2048kB {FOLDER}/hugepages/hugepages-1048576kB"
    ));
    machine.put(&at("meminfo"), &format!("MemTotal: {MEMORY} kB\n"));
    machine.put(&at("online"), "0-1\n");
    machine.put(&at("resolv.conf"), "nameserver 10.255.255.53\n");
    machine.put(&at("enter"), ENTER);
    machine.copy(&golden("manifests"), FOLDER);
    let flags = [
        ("cluster-dns", "10.254.0.10".to_owned()),
        ("cluster-domain", "kube.local".to_owned()),
        ("hostname-override", NODE.to_owned()),
        ("node-ip", HOST_IP.to_owned()),
        ("pod-manifest-path", at("manifests")),
        ("container-runtime-endpoint", at("cri.sock")),
        ("root-dir", at("root")),
        ("pod-logs-dir", at("logs")),
        ("container-logs-dir", at("container-logs")),
        ("image-gc-high-threshold", "100".to_owned()),
        ("run-dir", at("run")),
        ("resolv-conf", at("resolv.conf")),
        ("healthz-port", "0".to_owned()),
    ];
    let flags = flags.map(|(name, value)| format!("--{name}={value}"));
    machine.does(&format!(
        "systemd-run --quiet --unit=golden --working-directory={FOLDER} \
         unshare --mount --propagation private sh -e {FOLDER}/enter {}",
        flags.join(" ")
    ));
}

/// Waits until every Pod has all of its containers, or the agent tells why it has not.
fn wait_settled(machine: &Machine, runtime: &Runtime, pods: &[Recorded]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let waiting = format!(
            "podkeeper ps --run-dir {FOLDER}/run | awk '$4 == \"CreateContainerConfigError\" {{print $2}}'"
        );
        let waiting = machine.runs(&waiting).1;
        let is_settled = |pod: &&Recorded| {
            let name = pod.pod.key.name.as_str();
            let calls = runtime.calls_for(name);
            let started = calls.iter().filter(|c| c.method == "StartContainer");
            let expected = pod.containers().len();
            (expected > 0 && started.count() >= expected) || waiting.lines().any(|w| w == name)
        };
        let left: Vec<_> = pods.iter().filter(|pod| !is_settled(pod)).collect();
        if left.is_empty() {
            return;
        }
        let names: Vec<_> = left.iter().map(|pod| pod.pod.key.name.as_str()).collect();
        assert!(
            Instant::now() < end,
            "timed out waiting for {names:?}:\n{}",
            machine.does("journalctl -u golden -n 200 --no-pager")
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn places(runtime: &Runtime, pod: &Recorded) -> Places {
    let name = pod.pod.key.name.as_str();
    Places {
        root: format!("{FOLDER}/root"),
        logs: format!("{FOLDER}/logs"),
        pod_ip: runtime.look(|state| {
            let sandbox = state.sandboxes.iter().find(|s| s.pod() == name);
            sandbox.unwrap().ip.clone()
        }),
    }
}

#[tokio::test]
#[ignore = "needs a machine: run hack/test"]
async fn on_a_machine_with_systemd_and_cgroup_v2_the_requests_are_the_reference_agents() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        cgroup_driver: Some(v1::CgroupDriver::Systemd),
        // As that of the records.
        handlers: vec![handler("", false, true)],
        ..Settings::containerd_2_1()
    };
    let socket = folder.path().join("cri.sock");
    let runtime = Runtime::start(&socket, settings);
    runtime.lives(|_, name, _| {
        if name.starts_with("init-") {
            Life::ends(0)
        } else {
            Life::LONG
        }
    });
    // The runtime answers on this thread.
    let compared = tokio::task::spawn_blocking(move || compare_on_machine(&runtime, &socket));
    compared.await.unwrap();
}

fn compare_on_machine(runtime: &Runtime, socket: &Path) {
    let machine = Machine::take();
    machine.does(&format!("rm -rf {FOLDER}; mkdir -p {FOLDER}"));
    let at = format!("{FOLDER}/cri.sock");
    machine.control("forward", &[socket.to_str().unwrap(), &at]);
    start_agent(&machine);

    let pods = recorded("cri-v2");
    assert_eq!(pods.len(), 35);
    wait_settled(&machine, runtime, &pods);
    for pod in &pods {
        let calls = runtime.calls_for(&pod.pod.key.name);
        compare(&calls, pod, &places(runtime, pod));
        // The slice that the runtime is told of is there, with systemd and with the kernel.
        let config = sandbox_request(&calls).config.clone().unwrap();
        let cgroup = config.linux.unwrap().cgroup_parent;
        let slice = cgroup.rsplit('/').next().unwrap();
        machine.does(&format!(
            "systemctl is-active -q {slice} && test -d /sys/fs/cgroup{cgroup}"
        ));
    }

    machine.does(&format!("rm -rf {FOLDER}/manifests/*"));
    machine.wait(
        "no slice of a Pod to be left",
        "test -z \"$(find /sys/fs/cgroup/kubepods.slice -name '*-pod*')\"",
    );
    machine.does(&format!("systemctl stop golden; rm -rf {FOLDER}"));
}
