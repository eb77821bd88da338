//! Orderly shutdowns of the machine: Pods stop before containerd does, ordinary ones first.

use crate::machine::{Machine, kubelet};

/// Each writes down what it does: one with a hook, one whose hook hangs, and a critical one.
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sh, -c, \"trap 'sleep 1; echo plain >>/srv/order; sync; exit' TERM; while :; do sleep 1; done\"]
    lifecycle: {preStop: {exec: {command: [sh, -c, echo hook >>/srv/order]}}}
    volumeMounts: [{name: srv, mountPath: /srv}]
  volumes: [{name: srv, hostPath: {path: /srv}}]
---
apiVersion: v1
kind: Pod
metadata: {name: hangs}
spec:
  terminationGracePeriodSeconds: 60
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sleep, infinity]
    lifecycle: {preStop: {exec: {command: [sleep, infinity]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: critical}
spec:
  priorityClassName: system-node-critical
  containers:
  - name: c
    image: localhost/podkeeper/busybox:1
    command: [sh, -c, \"trap 'echo critical >>/srv/order; sync; exit' TERM; while :; do sleep 1; done\"]
    volumeMounts: [{name: srv, mountPath: /srv}]
  volumes: [{name: srv, hostPath: {path: /srv}}]
";

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_pods_stop_in_order_before_it_does() {
    let machine = Machine::take();
    let config = kubelet(
        "staticPodPath: /etc/podkeeper/manifests\nshutdownGracePeriod: 40s\n\
         shutdownGracePeriodCriticalPods: 15s\n",
    );
    machine.put("/etc/podkeeper/config.yaml", &config);
    machine.put_manifests("/etc/podkeeper/manifests", PODS);
    machine.does("rm -f /srv/order; systemctl enable --quiet --now podkeeper");
    let pods = ["plain", "hangs", "critical"];
    for pod in pods {
        machine.wait_running(pod);
    }
    let tasks = machine.tasks();
    machine.does("systemctl restart podkeeper");
    machine.wait_running("plain");
    assert_eq!(
        machine.tasks(),
        tasks,
        "a restart of the service stops nothing"
    );

    machine.boots_again("systemctl reboot");
    assert_eq!(machine.does("cat /srv/order"), "hook\nplain\ncritical");
    let seconds = |unit: &str, words: &str| -> f64 {
        let lines = format!(
            "journalctl -b -1 -o short-monotonic --no-pager -u {unit} | grep '{words}' | tail -1 | sed 's/^\\[ *//; s/\\].*//'"
        );
        let text = machine.does(&lines);
        text.parse()
            .unwrap_or_else(|_| panic!("{unit}: {words}: {text}\n{}", last_boot(&machine)))
    };
    let asked = seconds("podkeeper", "Stopping podkeeper.service");
    let ended = seconds("podkeeper", "podkeeper.service: Deactivated");
    let runtime = seconds("containerd", "Stopping containerd.service");
    assert!(ended <= runtime, "{}", last_boot(&machine));
    // The hook that hangs has the time of the ordinary Pods, and the critical one its own.
    assert!(
        (20.0..90.0).contains(&(ended - asked)),
        "{}",
        last_boot(&machine)
    );

    for pod in pods {
        machine.wait_running(pod);
    }
    machine.does("rm /etc/podkeeper/manifests/*");
    machine.wait_gone();
    machine.does("systemctl disable --quiet --now podkeeper");
}

fn last_boot(machine: &Machine) -> String {
    machine.does(
        "journalctl -b -1 -o short-monotonic --no-pager -u podkeeper -u containerd | tail -60",
    )
}
