//! Later commands of kubeadm on control planes: a join, upgrades, new certificates, a reset.

use crate::cluster::Kind;
use crate::{CONTROL_PLANE, WEB};

const FIRST: &str = "kind-control-plane";
const SECOND: &str = "kind-worker2";

/// The programs are those of one version: what an upgrade changes are the names of their images.
const NEXT: &str = "v1.36.4";
const MISSING: &str = "v1.36.5";

impl Kind {
    fn wait_control_plane(&self, node: &str) {
        for pod in CONTROL_PLANE {
            self.wait_running("kube-system", &format!("{pod}-{node}"));
        }
    }

    /// Gives images of the control plane's programs another version.
    fn tag(&self, node: &str, programs: &[&str], version: &str) {
        for program in programs {
            let image = format!("registry.k8s.io/{program}");
            self.on(
                node,
                &format!(
                    "old=$(ctr -n k8s.io images ls -q | grep -m 1 ^{image}:v); \
                     ctr -n k8s.io images tag $old {image}:{version}"
                ),
            );
        }
    }

    /// The ids of the sandboxes of the control plane: a Pod that is swapped gets another.
    fn sandboxes(&self, node: &str) -> Vec<String> {
        let sandbox = |program| {
            let filter = format!(
                "labels.\"io.cri-containerd.kind\"==sandbox,labels.\"io.kubernetes.pod.name\"=={program}-{node}"
            );
            self.on(node, &format!("ctr -n k8s.io containers ls -q '{filter}'"))
        };
        CONTROL_PLANE.map(sandbox).to_vec()
    }
}

#[test]
#[ignore = "needs docker and kind: run hack/test"]
fn in_kind_kubeadm_joins_upgrades_renews_and_resets() {
    if std::env::var_os("PODKEEPER_TEST_LONG").is_none() {
        return;
    }
    let kind = Kind::documented("- role: worker\n  extraMounts: *podkeeper\n");
    kind.wait_control_plane(FIRST);
    a_worker_is_reset(&kind);
    it_joins_as_a_control_plane(&kind);
    the_control_plane_is_upgraded(&kind);
    a_failed_upgrade_is_taken_back(&kind);
    certificates_are_renewed(&kind);
    a_control_plane_is_reset(&kind);
}

fn assert_reset(kind: &Kind) {
    assert_eq!(kind.on(SECOND, "ctr -n k8s.io tasks ls -q"), "");
    assert_eq!(kind.on(SECOND, "ls /etc/kubernetes/manifests"), "");
    let state = kind.on(SECOND, "systemctl is-active kubelet || true");
    assert_eq!(state, "inactive");
}

fn a_worker_is_reset(kind: &Kind) {
    kind.put(SECOND, "web.yaml", WEB);
    kind.wait_running("default", &format!("web-{SECOND}"));
    kind.on(SECOND, "kubeadm reset --force");
    assert_reset(kind);
    kind.run(&format!("kubectl delete node {SECOND}"));
}

fn it_joins_as_a_control_plane(kind: &Kind) {
    let key = kind.on(
        FIRST,
        "kubeadm init phase upload-certs --upload-certs | tail -1",
    );
    let join = kind.on(
        FIRST,
        &format!("kubeadm token create --print-join-command --certificate-key {key}"),
    );
    // kubeadm asks the kubelet for its version; the kernel's configuration and some images are not to be had.
    for node in [FIRST, SECOND] {
        kind.on(node, "ln -s /usr/local/bin/podkeeper /usr/bin/kubelet");
    }
    kind.on(SECOND, &format!("{join} --ignore-preflight-errors all"));
    kind.wait_control_plane(SECOND);
    kind.run(&format!(
        "kubectl wait --for condition=Ready --timeout 60s node/{SECOND}"
    ));
}

fn the_control_plane_is_upgraded(kind: &Kind) {
    // No Pod can be had that tries whether workloads run, and kubeadm goes without where no node takes one.
    kind.run("kubectl cordon -l kubernetes.io/os=linux");
    let before = [kind.sandboxes(FIRST), kind.sandboxes(SECOND)];
    for node in [FIRST, SECOND] {
        kind.tag(node, &CONTROL_PLANE[1..], NEXT);
    }
    let apply = format!("kubeadm upgrade apply {NEXT} --yes --force --ignore-preflight-errors all");
    let said = kind.on(FIRST, &apply);
    assert!(said.contains("upgraded"), "{said}");
    kind.on(SECOND, "kubeadm upgrade node --ignore-preflight-errors all");
    for (node, before) in [FIRST, SECOND].into_iter().zip(before) {
        kind.wait_control_plane(node);
        let after = kind.sandboxes(node);
        for ((program, old), new) in CONTROL_PLANE.iter().zip(before).zip(after).skip(1) {
            assert_ne!(old, new, "{program} of {node}");
            let pod = kind.get(&format!("-n kube-system pod {program}-{node}"));
            let image = format!("registry.k8s.io/{program}:{NEXT}");
            assert_eq!(pod["spec"]["containers"][0]["image"], image);
        }
    }
}

fn a_failed_upgrade_is_taken_back(kind: &Kind) {
    // The last two of the images cannot be had.
    kind.tag(FIRST, &CONTROL_PLANE[1..2], MISSING);
    let manifests = "cd /etc/kubernetes/manifests && sha256sum *";
    let before = kind.sandboxes(FIRST);
    let files = kind.on(FIRST, manifests);
    let configuration = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: UpgradeConfiguration\ntimeouts: {{upgradeManifests: 40s}}\n\
         apply:\n  kubernetesVersion: {MISSING}\n  forceUpgrade: true\n  ignorePreflightErrors: [all]\n"
    );
    kind.on(
        FIRST,
        &format!("printf '{configuration}' >/root/upgrade.yaml"),
    );
    let said = kind.on(
        FIRST,
        "! kubeadm upgrade apply --config /root/upgrade.yaml 2>&1",
    );
    assert!(said.contains("kube-controller-manager"), "{said}");
    assert_eq!(kind.on(FIRST, manifests), files);
    kind.wait_control_plane(FIRST);
    let after = kind.sandboxes(FIRST);
    for program in [0, 2, 3] {
        assert_eq!(
            before[program], after[program],
            "{}",
            CONTROL_PLANE[program]
        );
    }
}

fn certificates_are_renewed(kind: &Kind) {
    let serial = "openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null | openssl x509 -noout -serial";
    let address =
        "docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' kind-control-plane";
    let serial = serial.replace("127.0.0.1", &kind.run(address));
    let before = kind.run(&serial);
    kind.on(FIRST, "kubeadm certs renew all");
    kind.on(
        FIRST,
        "mkdir /root/moved && mv /etc/kubernetes/manifests/* /root/moved/",
    );
    kind.wait(
        "the control plane to end",
        &format!("[[ -z $(docker exec {FIRST} ctr -n k8s.io tasks ls -q) ]]"),
    );
    kind.on(FIRST, "mv /root/moved/* /etc/kubernetes/manifests/");
    kind.wait("the API server", "kubectl get --raw /readyz");
    kind.wait_control_plane(FIRST);
    assert_ne!(kind.run(&serial), before);
}

fn a_control_plane_is_reset(kind: &Kind) {
    kind.on(SECOND, "kubeadm reset --force");
    assert_reset(kind);
    // etcd takes what is written only while most of its members are there; one that led it has left.
    kind.wait("a write", "kubectl create configmap written");
}
