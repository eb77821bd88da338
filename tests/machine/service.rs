//! The unit: starts, reloads, the watchdog, and a boot without a network.

use crate::machine::{Machine, kubelet};

pub(crate) const MANIFEST: &str = "\
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

const NO_PODS: &str = "{apiVersion: v1, kind: PodList, items: []}";

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
    machine.boots_again("sync; echo b >/proc/sysrq-trigger");
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
