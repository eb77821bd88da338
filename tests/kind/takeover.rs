//! podkeeper takes a control plane over from a kubelet that ran until now, and gives it back.

use crate::CONTROL_PLANE;
use crate::cluster::{Kind, on, project};

const NODE: &str = "kind-control-plane";
const DROP_IN: &str = "/etc/systemd/system/kubelet.service.d/20-podkeeper.conf";

/// A control plane that a kubelet runs, with what podkeeper needs beside it. Settings of the machine's kernel that
/// a kubelet changes are covered by files of the node's own.
const CONFIGURATION: &str = r"kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {disableDefaultCNI: true}
kubeadmConfigPatches:
- |
  kind: KubeletConfiguration
  failCgroupV1: false
nodes:
- role: control-plane
  extraMounts:
  - {hostPath: podkeeper, containerPath: /usr/local/bin/podkeeper, readOnly: true}
  - {hostPath: 10-podkeeper.conflist, containerPath: /etc/cni/net.d/10-podkeeper.conflist, readOnly: true}
  - {hostPath: KUBELET, containerPath: /usr/bin/kubelet, readOnly: true}
  - {hostPath: COVER, containerPath: /etc/systemd/system/kubelet.service.d/15-cover.conf, readOnly: true}
";
const COVER: &str = r#"[Service]
ExecStartPre=/bin/sh -euc "\
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do \
    file=$${setting%%=*}; \
    mkdir -p /run/sysctl/$$(dirname $$file); \
    echo $${setting#*=} >/run/sysctl/$$file; \
    mountpoint -q /proc/sys/$$file || mount --bind /run/sysctl/$$file /proc/sys/$$file; \
done"
"#;

/// Says where two processes of one program run at a time, until it is ended. The names are those of processes,
/// which have 15 bytes.
const WATCH: &str = "for i in $(seq 100000); do \
    for name in etcd kube-apiserver kube-controller kube-scheduler; do \
    n=$(pgrep -cx -r R,S,D $name || true); test $n -lt 2 || echo $name >>/run/twice; done; \
    echo >>/run/watched; done";

#[test]
#[ignore = "needs docker and kind: run hack/test"]
fn in_kind_a_control_plane_is_taken_over_from_a_kubelet_and_given_back() {
    let Some(kubelet) = std::env::var_os("PODKEEPER_TEST_KUBELET") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cover = folder.path().join("15-cover.conf");
    std::fs::write(&cover, COVER).unwrap();
    let configuration = CONFIGURATION
        .replace("KUBELET,", &format!("{},", kubelet.display()))
        .replace("COVER", &cover.display().to_string());
    let kind = Kind::up(&configuration);
    wait_running(&kind, "kubelet");
    kind.run(&format!("docker exec -d {NODE} bash -euc '{WATCH}'"));

    let drop_in = project("hack/kubelet.service.d/20-podkeeper.conf");
    kind.run(&format!(
        "docker cp -q {} {NODE}:{DROP_IN}",
        drop_in.display()
    ));
    kind.on(NODE, "systemctl daemon-reload; systemctl restart kubelet");
    wait_running(&kind, "podkeeper");

    // The kubelet starts its Pods beside those that it does not know and kills, so these end before it comes.
    kind.on(
        NODE,
        "mkdir /root/moved; mv /etc/kubernetes/manifests/* /root/moved/",
    );
    let tasks = "! podkeeper ps | grep -q kind-control-plane";
    kind.wait("the Pods to end", &on(NODE, tasks));
    kind.on(
        NODE,
        &format!("rm {DROP_IN}; systemctl daemon-reload; systemctl restart kubelet"),
    );
    kind.on(NODE, "mv /root/moved/* /etc/kubernetes/manifests/");
    wait_running(&kind, "kubelet");
    assert_eq!(kind.on(NODE, "cat /run/twice 2>/dev/null || true"), "");
    let rounds = kind.on(NODE, "wc -l </run/watched");
    assert!(rounds.parse::<u32>().unwrap() > 50, "{rounds}");
}

/// Waits until this agent runs the control plane, and nothing of another's is left. What podkeeper runs has a label.
fn wait_running(kind: &Kind, agent: &str) {
    let comm = "cat /proc/$(systemctl show -P MainPID kubelet)/comm";
    kind.wait(agent, &on(NODE, &format!("[[ $({comm}) == {agent} ]]")));
    let expected = if agent == "podkeeper" { "1 1" } else { "1 0" };
    for name in CONTROL_PLANE {
        let filter = format!("labels.\"io.kubernetes.container.name\"=={name}");
        let command = format!(
            "running=$(ctr -n k8s.io tasks ls | grep RUNNING | cut -d' ' -f1); \
             count() {{ ctr -n k8s.io containers ls -q \"$1\" | grep -cxF \"$running\" || true; }}; \
             [[ \"$(count '{filter}') $(count '{filter},labels.\"podkeeper.io/root-dir\"')\" == '{expected}' ]]"
        );
        kind.wait(name, &on(NODE, &command));
        kind.wait_running("kube-system", &format!("{name}-{NODE}"));
    }
}
