//! Limits as the kernel's files show them.

use crate::machine::{Machine, kubelet};

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

/// Returns a setting of a cgroup below `/sys/fs/cgroup`; of several cgroups, all that differ, in order.
fn setting(machine: &Machine, group: &str, file: &str) -> String {
    let read = machine.does(&format!("cat /sys/fs/cgroup/{group}/{file} | sort -u"));
    read.lines().collect::<Vec<_>>().join(", ")
}

/// Places where a cgroup driver puts the classes of service, their Pods and these's containers.
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
    machine.put_manifests("/etc/podkeeper/manifests", CLASSES);
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

/// A container whose child takes more memory than there is for it; the container itself lives on, unless it is ended
/// with its child.
const GREEDY: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sh, -c, tail /dev/zero; sleep 1; echo child ended with $?; exec sleep infinity]
    resources: {limits: {memory: 16Mi}}
";

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_out_of_memory_ends_the_container_or_one_process_of_it() {
    let machine = Machine::take();
    // containerd may miss why: it stops looking at a container's memory once that has ended.
    let ended = "podkeeper describe greedy | grep -qE '(OOMKilled|Error), exit code 137'";
    let config = kubelet("staticPodPath: /etc/podkeeper/manifests\n");
    machine.put("/etc/podkeeper/config.yaml", &config);
    machine.put("/etc/podkeeper/manifests/greedy.yaml", GREEDY);
    machine.does("systemctl start podkeeper");
    machine.wait("its end", ended);
    machine.does("rm /etc/podkeeper/manifests/greedy.yaml");
    machine.wait_gone();

    let config = config + "singleProcessOOMKill: true\n";
    machine.put("/etc/podkeeper/config.yaml", &config);
    machine.does("systemctl restart podkeeper");
    machine.put("/etc/podkeeper/manifests/greedy.yaml", GREEDY);
    machine.wait(
        "the end of one process",
        "podkeeper logs greedy | grep -q 'child ended'",
    );
    machine.wait_running("greedy");
    machine.does("rm /etc/podkeeper/manifests/greedy.yaml");
    machine.wait_gone();
    machine.does("systemctl stop podkeeper");
}
