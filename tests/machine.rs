//! What only a whole machine shows: systemd as process 1, cgroup v2, a real boot. `hack/test` boots one
//! in an emulator; these tests share it, one after the other.

#[path = "support/program.rs"]
mod program;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The machine is emulated.
const PATIENCE: Duration = Duration::from_secs(180);

const MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: web
    image: localhost/podkeeper/web:1
    volumeMounts:
    - {name: made, mountPath: /made}
    - {name: memory, mountPath: /memory}
    - {name: own, mountPath: /own}
    - {name: made, mountPath: /part, subPath: part}
  volumes:
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: own, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - name: made
    hostPath: {path: /srv/podkeeper/made, type: DirectoryOrCreate}
";

/// A Pod of each class of service, and one with resources as a whole.
const CLASSES: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/podkeeper/web:1
    resources: {limits: {cpu: 300m, memory: 64Mi}}
  - name: d
    image: localhost/podkeeper/busybox:1
    command: [sleep, infinity]
    resources: {limits: {cpu: 200m, memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: burstable}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sleep, infinity]
    resources: {requests: {cpu: 100m}, limits: {memory: 128Mi}}
  - name: d
    image: localhost/podkeeper/busybox:1
    command: [sleep, infinity]
    resources: {requests: {cpu: 400m}}
---
apiVersion: v1
kind: Pod
metadata: {name: effort}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sleep, infinity]
---
apiVersion: v1
kind: Pod
metadata: {name: whole}
spec:
  terminationGracePeriodSeconds: 1
  resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {cpu: 400m, memory: 80Mi}}
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sleep, infinity]
";

/// The machine, installed once as the README says, with nothing running.
struct Machine {
    dir: String,
    _mine: MutexGuard<'static, bool>,
}

impl Machine {
    fn take() -> Self {
        static INSTALLED: Mutex<bool> = Mutex::new(false);
        let dir = std::env::var("PODKEEPER_TEST_MACHINE").expect("run this through hack/test");
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !std::mem::replace(&mut *installed, true);
        let machine = Self {
            dir,
            _mine: installed,
        };
        if first {
            machine.install();
        }
        // A test that failed has left what it changed.
        machine.does(
            "systemctl disable --now podkeeper nginx; \
             rm -rf /etc/systemd/system/podkeeper.service.d /etc/podkeeper /etc/kubelet.d; \
             systemctl daemon-reload && mkdir -p /etc/podkeeper/manifests",
        );
        machine
    }

    fn script(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/machine");
        let mut command = Command::new(script);
        let (action, rest) = arguments.split_first().unwrap();
        command
            .args([action, "--dir", &self.dir])
            .args(rest)
            .output()
            .unwrap()
    }

    fn install(&self) {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("podkeeper");
        std::fs::copy(program::PROGRAM, &binary).unwrap();
        // A third of it is enough for a slow machine.
        assert!(
            Command::new("strip")
                .arg(&binary)
                .status()
                .unwrap()
                .success()
        );
        let unit = project.join("hack/podkeeper.service");
        for (file, path) in [(binary, "/usr/local/bin/"), (unit, "/etc/systemd/system/")] {
            let put = self.script(&["put", file.to_str().unwrap(), path]);
            assert!(
                put.status.success(),
                "{}",
                String::from_utf8_lossy(&put.stderr)
            );
        }
        self.does("systemctl daemon-reload");
    }

    /// What a shell command says there, and whether it succeeded.
    fn runs(&self, command: &str) -> (bool, String) {
        let output = self.script(&["run", "sh", "-c", command]);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).trim().to_owned(),
        )
    }

    fn does(&self, command: &str) -> String {
        let (good, said) = self.runs(command);
        assert!(good, "{command}\n{said}\n{}", self.journal());
        said
    }

    fn journal(&self) -> String {
        self.runs("systemctl status podkeeper; journalctl -u podkeeper -n 60 --no-pager")
            .1
    }

    fn put(&self, path: &str, text: &str) {
        let quoted = text.replace('\'', "'\\''");
        self.does(&format!(
            "mkdir -p $(dirname {path}) && printf %s '{quoted}' >{path}"
        ));
    }

    fn wait(&self, what: &str, command: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let (good, said) = self.runs(command);
            if good {
                return said;
            }
            assert!(
                Instant::now() < end,
                "timed out waiting for {what}: {said}\n{}",
                self.journal()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until the Pod runs; gives its containers' ids.
    fn wait_running(&self, pod: &str) -> String {
        self.wait(
            pod,
            &format!(r"podkeeper ps | grep -q '{pod}-.* \([0-9]\)/\1 .* Running'"),
        );
        self.tasks()
    }

    /// The processes of all containers, with their ids.
    fn tasks(&self) -> String {
        self.does("ctr -n k8s.io tasks ls -q | sort")
    }

    fn wait_gone(&self) {
        self.wait(
            "all Pods to be gone",
            "! podkeeper ps | grep -q podkeeper-machine",
        );
        assert_eq!(self.tasks(), "");
        let left = "ls /var/lib/podkeeper/pods /var/log/pods; \
                    ls -d /sys/fs/cgroup/kubepods*/*-pod* /sys/fs/cgroup/kubepods*/*/*-pod* \
                    /sys/fs/cgroup/kubepods/pod* /sys/fs/cgroup/kubepods/*/pod* 2>/dev/null; true";
        let left = self.does(left);
        let left: Vec<_> = left
            .lines()
            .filter(|l| !l.is_empty() && !l.ends_with(':'))
            .collect();
        assert_eq!(left, [""; 0]);
    }
}

const NO_PODS: &str = "{apiVersion: v1, kind: PodList, items: []}";

fn kubelet(fields: &str) -> String {
    format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}")
}

/// nginx with a document.
fn serve(machine: &Machine, document: &str) {
    machine.put("/var/www/html/pods.yaml.new", document);
    machine.does("mv /var/www/html/pods.yaml.new /var/www/html/pods.yaml && systemctl start nginx");
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_the_service_starts_stops_reloads_and_is_watched() {
    let machine = Machine::take();
    assert_eq!(machine.does("stat -fc %T /sys/fs/cgroup"), "cgroup2fs");
    let config = kubelet("staticPodPath: /etc/podkeeper/manifests\ncgroupDriver: systemd\n");
    machine.put("/etc/podkeeper/config.yaml", &config);
    machine.put("/etc/podkeeper/manifests/web.yaml", MANIFEST);
    machine.put(
        "/etc/systemd/system/podkeeper.service.d/test.conf",
        "[Service]\nWatchdogSec=5\n",
    );
    machine.does("systemctl daemon-reload && systemctl enable --now podkeeper");
    assert_eq!(machine.does("systemctl is-active podkeeper"), "active");
    let tasks = machine.wait_running("web");
    machine.does("test -d /srv/podkeeper/made/part");
    let mounts = "grep -c ' /var/lib/podkeeper/pods/' /proc/1/mountinfo";
    assert_eq!(
        machine.does(mounts),
        "3",
        "the host has the volumes mounted"
    );
    assert_eq!(machine.does("systemd-analyze verify podkeeper.service"), "");

    // An agent that hangs is killed and started again, and the Pod does not notice.
    let id = machine.does("systemctl show -P MainPID podkeeper");
    machine.does(&format!("kill -STOP {id}"));
    machine.wait(
        "another agent",
        &format!(
            "test $(systemctl show -P MainPID podkeeper) != {id} && systemctl is-active podkeeper"
        ),
    );
    machine.wait(
        "why, in the journal",
        "journalctl -u podkeeper --no-pager | grep -q 'Watchdog timeout'",
    );
    assert_eq!(machine.wait_running("web"), tasks);
    machine.does("systemctl restart podkeeper");
    assert_eq!(machine.wait_running("web"), tasks);
    machine.does("systemctl stop podkeeper");
    assert_eq!(
        machine.tasks(),
        tasks,
        "without the agent, Pods keep running"
    );
    machine.does("systemctl start podkeeper");

    // A reload adds a URL.
    serve(
        &machine,
        &MANIFEST.replace("name: web\nspec", "name: far\nspec"),
    );
    machine.put(
        "/etc/podkeeper/config.yaml",
        &(config + "staticPodURL: http://127.0.0.1/pods.yaml\n"),
    );
    machine.does("systemctl reload podkeeper");
    machine.wait_running("far");
    machine.does("rm /etc/podkeeper/manifests/web.yaml");
    serve(&machine, NO_PODS);
    machine.does("systemctl reload podkeeper && systemctl restart podkeeper");
    machine.wait_gone();
    machine.does("systemctl disable --now podkeeper nginx && rm -r /etc/systemd/system/podkeeper.service.d && systemctl daemon-reload");
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_the_promised_command_line_works_to_the_letter_and_over_a_boot_without_a_network() {
    let machine = Machine::take();
    serve(
        &machine,
        &MANIFEST.replace("name: web\nspec", "name: far\nspec"),
    );
    machine.put("/etc/kubelet.d/web.yaml", MANIFEST);
    let line = "/usr/local/bin/podkeeper run --cluster-dns=10.254.0.10 --cluster-domain=kube.local \
                --pod-manifest-path=/etc/kubelet.d/ --manifest-url=http://127.0.0.1/pods.yaml";
    let unit = format!("[Service]\nExecStart=\nExecStart={line}\n");
    machine.put("/etc/systemd/system/podkeeper.service.d/test.conf", &unit);
    machine.does("systemctl daemon-reload && systemctl enable --now podkeeper");
    machine.wait_running("web");
    let before = machine.wait_running("far");
    let container = machine.does(
        "ctr -n k8s.io containers ls -q 'labels.\"io.kubernetes.container.name\"==web' | head -1",
    );
    let resolver = machine.does(&format!(
        "ctr -n k8s.io tasks exec --exec-id r {container} cat /etc/resolv.conf"
    ));
    assert!(
        resolver.contains("10.254.0.10") && resolver.contains("svc.kube.local"),
        "{resolver}"
    );

    // nginx is not enabled: after the boot there is no server.
    let boot = machine.does("cat /proc/sys/kernel/random/boot_id");
    machine.runs("sync; echo b >/proc/sysrq-trigger");
    machine.wait(
        "another boot",
        &format!("test $(cat /proc/sys/kernel/random/boot_id) != {boot}"),
    );
    machine.wait(
        "the containers",
        "test $(ctr -n k8s.io tasks ls -q | wc -l) = 4",
    );
    machine.wait_running("web");
    assert_ne!(machine.wait_running("far"), before);
    machine.wait(
        "the complaint",
        "podkeeper ps | grep -q 'http://127.0.0.1/pods.yaml: cannot connect'",
    );

    machine.does("rm /etc/kubelet.d/web.yaml");
    serve(&machine, NO_PODS);
    machine.does("systemctl restart podkeeper");
    machine.wait_gone();
    machine.does("systemctl disable --now podkeeper nginx && rm -r /etc/systemd/system/podkeeper.service.d && systemctl daemon-reload");
}

/// What a setting of a cgroup below `/sys/fs/cgroup` is; of several cgroups, all that differ, in order.
fn setting(machine: &Machine, group: &str, file: &str) -> String {
    let read = machine.does(&format!("cat /sys/fs/cgroup/{group}/{file} | sort -u"));
    read.lines().collect::<Vec<_>>().join(", ")
}

/// Where a cgroup driver puts the classes of service, their Pods and these's containers.
struct Layout {
    burstable: &'static str,
    effort: &'static str,
    /// Pods of each class.
    guaranteed_pods: &'static str,
    burstable_pods: &'static str,
    effort_pods: &'static str,
    /// Below a Pod.
    containers: &'static str,
}

const SLICES: Layout = Layout {
    burstable: "kubepods.slice/kubepods-burstable.slice",
    effort: "kubepods.slice/kubepods-besteffort.slice",
    guaranteed_pods: "kubepods.slice/kubepods-pod*.slice",
    burstable_pods: "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod*.slice",
    effort_pods: "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod*.slice",
    containers: "cri-containerd-*.scope",
};

const FOLDERS: Layout = Layout {
    burstable: "kubepods/burstable",
    effort: "kubepods/besteffort",
    guaranteed_pods: "kubepods/pod*",
    burstable_pods: "kubepods/burstable/pod*",
    effort_pods: "kubepods/besteffort/pod*",
    containers: "*",
};

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_pods_and_containers_have_the_cgroups_of_their_requests() {
    let machine = Machine::take();
    let config = kubelet("staticPodPath: /etc/podkeeper/manifests\n");
    machine.put("/etc/podkeeper/config.yaml", &config);
    check_classes(&machine, &SLICES);
    let switch = |from: &str, to: &str| {
        machine.does(&format!(
            "sed -i 's/SystemdCgroup = {from}/SystemdCgroup = {to}/' /etc/containerd/config.toml && \
             systemctl restart containerd"
        ));
    };
    switch("true", "false");
    check_classes(&machine, &FOLDERS);
    switch("false", "true");
}

fn check_classes(machine: &Machine, layout: &Layout) {
    for (number, manifest) in CLASSES.split("---\n").enumerate() {
        let path = format!("/etc/podkeeper/manifests/{number}.yaml");
        machine.put(&path, manifest);
    }
    machine.does("systemctl start podkeeper");
    for pod in ["guaranteed", "burstable", "effort", "whole"] {
        machine.wait_running(pod);
    }
    let Layout {
        burstable,
        effort,
        guaranteed_pods,
        burstable_pods,
        effort_pods,
        containers,
    } = layout;
    let check = |group: &str, file: &str, expected: &str| {
        let found = setting(machine, group, file);
        let all = || machine.does("systemd-cgls --no-pager; podkeeper ps");
        assert_eq!(found, expected, "{group}/{file}\n{}", all());
    };
    // The weights of half a CPU, of that and a twentieth, and of nothing.
    check(guaranteed_pods, "cpu.weight", "20");
    check(burstable, "cpu.weight", "22");
    check(burstable_pods, "cpu.weight", "2, 20");
    check(effort, "cpu.weight", "1");
    check(effort_pods, "cpu.weight", "1");
    check(guaranteed_pods, "cpu.max", "50000 100000");
    check(guaranteed_pods, "memory.max", "100663296");
    check(burstable_pods, "cpu.max", "40000 100000, max 100000");
    check(burstable_pods, "memory.max", "83886080, max");
    check(effort_pods, "memory.max", "max");
    for pods in [guaranteed_pods, burstable_pods, effort_pods] {
        check(pods, "hugetlb.2MB.max", "0");
    }
    // The sandbox has a container too, with no limits of its own.
    let guaranteed = format!("{guaranteed_pods}/{containers}");
    let cpu = "20000 100000, 30000 100000, max 100000";
    check(&guaranteed, "cpu.max", cpu);
    check(&guaranteed, "memory.max", "33554432, 67108864, max");
    check(&guaranteed, "memory.oom.group", "0, 1");
    check(&guaranteed, "memory.swap.max", "0, max");
    let bursting = format!("{burstable_pods}/{containers}");
    check(&bursting, "memory.max", "134217728, 83886080, max");
    let scores =
        "for p in $(pidof sleep); do cat /proc/$p/oom_score_adj; done | sort -nu | sed -n '1p;$p'";
    assert_eq!(machine.does(scores), "-997\n1000");

    // What is left of a class has what it asks for, over a reload of systemd too.
    machine.does("rm /etc/podkeeper/manifests/1.yaml");
    machine.wait(
        "a smaller class",
        &format!("test $(cat /sys/fs/cgroup/{burstable}/cpu.weight) = 2"),
    );
    machine.does("systemctl daemon-reload");
    check(burstable, "cpu.weight", "2");
    check(effort, "cpu.weight", "1");
    machine.does("rm /etc/podkeeper/manifests/*");
    machine.wait_gone();
    machine.does("systemctl stop podkeeper");
}
