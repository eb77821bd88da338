//! A node in trouble: its clock, its memory, its files of this boot, and another containerd under running Pods.

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

/// One whose time is limited, to far less than a clock is set.
const LIMITED: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  activeDeadlineSeconds: 7200
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: localhost/podkeeper/busybox:1, command: [sleep, infinity]}
";

/// One that takes all the memory that it gets.
const EATER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: eater}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: localhost/podkeeper/busybox:1, command: [tail, /dev/zero]}
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

/// The id of the process of a Pod's container.
fn process(machine: &Machine, pod: &str) -> String {
    machine.does(&format!(
        "id=$(ctr -n k8s.io containers ls -q 'labels.\"io.kubernetes.container.name\"==c,labels.\"io.kubernetes.pod.name\"=={pod}-podkeeper-machine' | head -1); \
         ctr -n k8s.io tasks ls | awk -v id=$id '$1 == id && $3 == \"RUNNING\" {{print $2}}'",
    ))
}

fn web(machine: &Machine) -> String {
    process(machine, "web")
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
    let limited = "/etc/podkeeper/manifests/limited.yaml";
    for (boot, right) in [
        ("2036-05-01T00:00:00", "2026-11-29 12:00:00"),
        ("2001-01-01T00:00:00", "2026-11-29 13:00:00"),
    ] {
        machine.does("sync");
        machine.control("cut", &[]);
        machine.control("start", &["--clock", boot]);
        machine.wait_running("web");
        machine.put(limited, LIMITED);
        machine.wait_running("limited");
        let processes = || [web(&machine), process(&machine, "limited")];
        let before = processes();
        goes_on(&machine, "early");
        machine.does(&format!("date -s '{right}'"));
        goes_on(&machine, "late");
        assert_eq!(processes(), before, "{boot}\n{}", machine.journal());
        machine.does("systemctl restart podkeeper");
        machine.wait_running("web");
        machine.wait_running("limited");
        assert_eq!(processes(), before, "{boot}\n{}", machine.journal());
        machine.does(&format!("rm {limited}"));
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

/// The process of the agent and that of containerd.
fn daemons(machine: &Machine) -> String {
    machine.does("systemctl show --property MainPID --value podkeeper containerd")
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_memory_is_out() {
    let machine = Machine::take();
    start(&machine);
    let before = (web(&machine), daemons(&machine));
    machine.put("/etc/podkeeper/manifests/eater.yaml", EATER);
    // The kernel ends what the Pod runs, and it is tried again.
    machine.wait(
        "another try",
        "podkeeper ps | awk '$2 == \"eater-podkeeper-machine\" {exit !($5 > 0)}'",
    );
    // containerd may miss why: it stops looking at a container's memory once that has ended.
    machine.wait(
        "the reason",
        "podkeeper describe eater | grep -qE '(OOMKilled|Error), exit code 137'",
    );
    machine.does("journalctl -k | grep -q 'Out of memory: Killed process .*(tail)'");
    goes_on(&machine, "new");
    let after = (web(&machine), daemons(&machine));
    assert_eq!(after, before, "{}", machine.journal());
    machine.does("rm /etc/podkeeper/manifests/*");
    machine.wait_gone();
}

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_the_files_of_this_boot_are_full() {
    let machine = Machine::take();
    start(&machine);
    let before = web(&machine);
    machine.does("dd if=/dev/zero of=/run/fill bs=64k 2>/dev/null; test $(df --output=avail /run | tail -1) = 0");
    machine.put(
        "/etc/podkeeper/manifests/new.yaml",
        &RUNS_ON.replace("web", "new"),
    );
    let tells = "podkeeper ps | grep '^default/new-.*no space left on device'";
    machine.wait("what the new Pod waits for", tells);
    // The agent itself needs nothing there.
    machine.does("systemctl restart podkeeper");
    machine.wait_running("web");
    machine.wait("what the new Pod waits for", tells);
    assert_eq!(web(&machine), before, "{}", machine.journal());
    machine.does("rm /run/fill");
    machine.wait_running("new");
    assert_eq!(web(&machine), before, "{}", machine.journal());
    machine.does("rm /etc/podkeeper/manifests/*");
    machine.wait_gone();
}
