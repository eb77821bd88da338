//! Boots: what runs then, and what the machine had before.

use crate::machine::{Machine, RUNS_ON, kubelet};

/// One that has ended for good, one that fails again and again, and one with an init container.
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: done}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: localhost/podkeeper/busybox:1, command: [sh, -c, date +%s%N >>/srv/done], volumeMounts: [{name: srv, mountPath: /srv}]}
  volumes: [{name: srv, hostPath: {path: /srv}}]
---
apiVersion: v1
kind: Pod
metadata: {name: failing}
spec:
  restartPolicy: OnFailure
  containers:
  - {name: c, image: localhost/podkeeper/busybox:1, command: [sh, -c, exit 3]}
---
apiVersion: v1
kind: Pod
metadata: {name: prepared}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: localhost/podkeeper/busybox:1, command: [sh, -c, echo init >>/srv/order], volumeMounts: [{name: srv, mountPath: /srv}]}
  containers:
  - {name: c, image: localhost/podkeeper/busybox:1, command: [sh, -c, echo main >>/srv/order; exec sleep infinity], volumeMounts: [{name: srv, mountPath: /srv}]}
  volumes: [{name: srv, hostPath: {path: /srv}}]
";

/// A network that comes once a Pod runs, or very late.
const NO_NETWORK: &str = "[Unit]\nConditionPathExists=!/etc/network-comes-later\n";
const LATER: &str = r#"[Service]
ExecStart=/bin/sh -c 'for i in $(seq 200); do \
    podkeeper ps | grep -q "web-.* 1/1 .* Running" && touch /run/ran-without-network && break; sleep 1; done; \
    rm /etc/network-comes-later; systemctl start systemd-networkd'
[Install]
WantedBy=multi-user.target
"#;

/// Returns a column of a Pod's line, of those after the name: readiness, state, restarts.
fn shown(machine: &Machine, pod: &str, column: usize) -> String {
    let column = column + 2;
    machine.does(&format!(
        "podkeeper ps | awk '$2 == \"{pod}-podkeeper-machine\" {{print ${column}}}'"
    ))
}

fn restarts(machine: &Machine, pod: &str) -> u32 {
    shown(machine, pod, 3).parse().unwrap()
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_every_pod_comes_back_with_a_boot() {
    let machine = Machine::own(&["--disk", "64M", "--memory", "1024"]);
    machine
        .does("mkfs.ext4 -q /dev/vdb && mkdir -p /srv/manifests && mount /dev/vdb /srv/manifests");
    let config = kubelet("staticPodPath: /srv/manifests\n");
    machine.put("/etc/podkeeper/config.yaml", &config);
    machine.put_manifests("/srv/manifests", &format!("{RUNS_ON}---\n{PODS}"));
    machine.does("systemctl enable --quiet --now podkeeper");
    machine.wait_running("web");
    machine.wait_running("prepared");
    let completed = "podkeeper ps | grep -q 'done-.* Completed'";
    machine.wait("its end", completed);
    machine.wait(
        "a failure",
        "podkeeper ps | awk '$2 ~ /^failing-/ {exit !($5 > 0)}'",
    );
    let failures = restarts(&machine, "failing");
    let ran = machine.does("cat /srv/done");

    // The manifests' file system is mounted by hand, and there is no network at first.
    machine.put(
        "/etc/systemd/system/systemd-networkd.service.d/later.conf",
        NO_NETWORK,
    );
    machine.put("/etc/systemd/system/network-later.service", LATER);
    machine.does("touch /etc/network-comes-later && systemctl enable --quiet network-later");
    machine.does("rm /srv/order");
    machine.boots_again("systemctl reboot");
    machine.does("test -e /run/ran-without-network");

    machine.wait_running("web");
    machine.wait_running("prepared");
    assert_eq!(machine.does("cat /srv/order"), "init\nmain");
    machine.does(completed);
    assert_eq!(machine.does("cat /srv/done"), ran, "it ran once");
    machine.wait(
        "a failure after the boot",
        &format!("podkeeper ps | awk '$2 ~ /^failing-/ {{exit !($5 > {failures})}}'"),
    );
    let sandboxes = |pod: &str| {
        machine.does(&format!(
            "for id in $(ctr -n k8s.io containers ls -q 'labels.\"io.cri-containerd.kind\"==sandbox,\
             labels.\"io.kubernetes.pod.name\"=={pod}-podkeeper-machine'); do \
             ctr -n k8s.io tasks ls | grep -c \"^$id .*RUNNING\"; done | grep -c 1"
        ))
    };
    for pod in ["web", "prepared", "failing"] {
        assert_eq!(sandboxes(pod), "1", "{pod}");
    }

    a_mount_comes_and_goes(&machine);
}

/// A file system with the manifests that is mounted later, or unmounted, stops nothing.
fn a_mount_comes_and_goes(machine: &Machine) {
    let of = |pod: &str| {
        machine.does(&format!(
            "ctr -n k8s.io containers ls -q 'labels.\"io.cri-containerd.kind\"==container,\
             labels.\"io.kubernetes.pod.name\"=={pod}-podkeeper-machine' | sort"
        ))
    };
    let before = [of("web"), of("prepared")];
    machine.does("mount /dev/vdb /srv/manifests");
    machine.put("/srv/manifests/new.yaml", &RUNS_ON.replace("web", "new"));
    machine.wait_running("new");
    assert_eq!([of("web"), of("prepared")], before, "mounted");
    machine.does("umount /srv/manifests && sleep 15");
    machine.does("podkeeper ps | grep -q 'web-.* 1/1 .* Running'");
    assert_eq!([of("web"), of("prepared")], before, "unmounted");
    machine.does("mount /dev/vdb /srv/manifests && rm /srv/manifests/*.yaml");
    machine.wait_gone();
}
