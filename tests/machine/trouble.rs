//! A node in trouble: its clock, and another containerd under running Pods.

use crate::machine::{Machine, RUNS_ON, kubelet};

/// One that fails again and again.
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: failing}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: localhost/podkeeper/busybox:1, command: [sh, -c, exit 3]}
";

fn start(machine: &Machine) {
    let config = kubelet(
        "staticPodPath: /etc/podkeeper/manifests\ncrashLoopBackOff: {maxContainerRestartPeriod: 2s}\n",
    );
    machine.put("/etc/podkeeper/config.yaml", &config);
    machine.put_manifests("/etc/podkeeper/manifests", &format!("{RUNS_ON}---\n{PODS}"));
    machine.does("systemctl enable --quiet --now podkeeper");
    machine.wait_running("web");
}

/// The id of the process of `web`'s container.
fn web(machine: &Machine) -> String {
    machine.does(
        "id=$(ctr -n k8s.io containers ls -q 'labels.\"io.kubernetes.container.name\"==c,labels.\"io.kubernetes.pod.name\"==web-podkeeper-machine' | head -1); \
         ctr -n k8s.io tasks ls | awk -v id=$id '$1 == id && $3 == \"RUNNING\" {print $2}'",
    )
}

fn restarts(machine: &Machine) -> u32 {
    let shown = "podkeeper ps | awk '$2 == \"failing-podkeeper-machine\" {print $5}'";
    machine.does(shown).parse().unwrap()
}

/// A new Pod starts, and the one that fails is tried again and again.
fn goes_on(machine: &Machine, new: &str) {
    let path = format!("/etc/podkeeper/manifests/{new}.yaml");
    machine.put(&path, &RUNS_ON.replace("web", new));
    machine.wait_running(new);
    let before = restarts(machine);
    machine.wait(
        "another try",
        &format!(
            "podkeeper ps | awk '$2 == \"failing-podkeeper-machine\" {{exit !($5 > {before})}}'"
        ),
    );
    machine.does(&format!("rm {path}"));
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_the_clock_is_years_off_and_set_right() {
    let machine = Machine::own(&["--memory", "1024"]);
    start(&machine);
    for (boot, right) in [
        ("2036-05-01T00:00:00", "2026-11-29 12:00:00"),
        ("2001-01-01T00:00:00", "2026-11-29 13:00:00"),
    ] {
        machine.does("sync");
        machine.control("cut", &[]);
        machine.control("start", &["--clock", boot]);
        machine.wait_running("web");
        let process = web(&machine);
        goes_on(&machine, "early");
        machine.does(&format!("date -s '{right}'"));
        goes_on(&machine, "late");
        machine.does("systemctl restart podkeeper");
        machine.wait_running("web");
        assert_eq!(web(&machine), process, "{boot}\n{}", machine.journal());
    }
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_another_containerd_comes_under_running_pods() {
    let machine = Machine::own(&["--release", "trixie", "--memory", "1024"]);
    start(&machine);
    let process = web(&machine);
    // The last one still knows what it has made.
    for version in ["2.1", "2.4", "1.7"] {
        machine.control("containerd", &[version]);
        machine.wait_running("web");
        goes_on(&machine, "new");
        assert_eq!(web(&machine), process, "{version}\n{}", machine.journal());
    }
    machine.does("rm /etc/podkeeper/manifests/*");
    machine.wait_gone();
}
