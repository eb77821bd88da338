//! A control plane of kubeadm's with podkeeper in the kubelet's place, on systemd and cgroup v2.

use std::process::Command;

use crate::machine::{Machine, kubelet, project};

const PODS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// The unit and its drop-in, as the packages of Kubernetes have them.
const UNIT: &str = "\
[Unit]
Description=kubelet
[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10
[Install]
WantedBy=multi-user.target
";
const VARIABLES: &str = r#"[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"#;

/// An emulated machine takes minutes for what others do in seconds.
const CLUSTER: &str = "\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {imagePullPolicy: Never}
localAPIEndpoint: {advertiseAddress: 10.0.2.15}
timeouts: {controlPlaneComponentHealthCheck: 20m, kubeletHealthCheck: 10m, kubernetesAPICall: 10m, etcdAPICall: 10m}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: VERSION
---
";

#[test]
#[ignore = "needs a machine: run hack/test"]
fn on_a_machine_a_control_plane_runs_in_the_kubelets_place() {
    if std::env::var_os("PODKEEPER_TEST_LONG").is_none() {
        return;
    }
    let machine = Machine::own(&["--memory", "4096"]);
    assert_eq!(machine.does("stat -fc %T /sys/fs/cgroup"), "cgroup2fs");
    install(&machine);
    machine.does(
        "kubeadm init --config /root/cluster.yaml --ignore-preflight-errors all --skip-phases addon >/root/init.log 2>&1 \
         || { tail -30 /root/init.log; podkeeper ps; journalctl -u kubelet -n 30 --no-pager; false; }",
    );
    wait_ready(&machine);
    for pod in PODS {
        // With systemd's driver each Pod is a slice, with the requests of kubeadm's manifests.
        let slice = format!(
            "id=$(ctr -n k8s.io containers ls -q 'labels.\"io.kubernetes.container.name\"=={pod}' | head -1); \
             cat /proc/$(ctr -n k8s.io tasks ls | awk -v id=$id '$1 == id {{print $2}}')/cgroup"
        );
        let group = machine.does(&slice);
        assert!(
            group.starts_with("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod")
                && group.contains(".slice/cri-containerd-"),
            "{pod}: {group}"
        );
    }

    let before = machine.tasks();
    machine.does("systemctl restart kubelet");
    wait_ready(&machine);
    assert_eq!(
        machine.tasks(),
        before,
        "a restart of the agent stops nothing"
    );

    machine.boots_again("systemctl reboot");
    wait_ready(&machine);
    has_certificates_again(&machine);
    machine.does("kubeadm reset --force");
    assert_eq!(machine.tasks(), "");
    assert_eq!(machine.does("ls /etc/kubernetes/manifests"), "");
}

/// Boots with a clock by which no certificate is valid yet, and with one by which all but those of the authorities are
/// over: Pods run, and once the clock is right, the node is as it was.
fn has_certificates_again(machine: &Machine) {
    // Of an earlier clock systemd makes that of its own build.
    for clock in ["2001-01-01T00:00:00", "2030-01-01T00:00:00"] {
        let right = machine.does("date --utc '+%F %T'; sync");
        machine.control("cut", &[]);
        machine.control("start", &["--clock", clock]);
        machine.wait("etcd", "podkeeper ps | grep -q ' etcd-.* Running '");
        let newest =
            "ls -t /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log | head -1";
        let says = "certificate has expired or is not yet valid";
        machine.wait("certificates", &format!("grep -q '{says}' $({newest})"));
        machine.does(&format!("date --utc --set '{right}'"));
        wait_ready(machine);
    }
}

fn install(machine: &Machine) {
    let output = Command::new(project("hack/kubernetes/control-plane"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let folder = String::from_utf8(output.stdout).unwrap();
    let folder = std::path::Path::new(folder.trim());
    let version = std::fs::read_to_string(folder.join("version")).unwrap();
    machine.put(
        "/root/cluster.yaml",
        &(CLUSTER.replace("VERSION", version.trim()) + &kubelet("cgroupDriver: systemd\n")),
    );
    machine.put("/etc/systemd/system/kubelet.service", UNIT);
    let drop_ins = "/etc/systemd/system/kubelet.service.d";
    machine.put(&format!("{drop_ins}/10-kubeadm.conf"), VARIABLES);
    let ours = "hack/kubelet.service.d/20-podkeeper.conf";
    machine.copy(&project(ours), &format!("{drop_ins}/"));
    for program in ["kubeadm", "kubectl"] {
        machine.copy(&folder.join(program), "/usr/local/bin/");
    }
    machine.copy(&folder.join("images"), "/root/");
    machine.does(
        "for image in /root/images/*; do ctr -n k8s.io images import --digests $image && rm $image; done >/dev/null; \
         echo 1 >/proc/sys/net/ipv4/ip_forward; systemctl daemon-reload; systemctl enable --quiet kubelet",
    );
}

/// Waits until the node and the mirror Pods are ready, as kubectl shows them.
fn wait_ready(machine: &Machine) {
    let kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf";
    machine.wait(
        "the node",
        &format!("{kubectl} get node podkeeper-machine --no-headers | grep -q ' Ready '"),
    );
    for pod in PODS {
        let get = format!("{kubectl} -n kube-system get pod {pod}-podkeeper-machine --no-headers");
        machine.wait(pod, &format!("{get} | grep -q ' 1/1 .* Running '"));
    }
}
