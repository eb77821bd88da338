//! podkeeper in the kubelet's place, on the nodes of a kind cluster that `hack/kind` brings up: a control plane
//! made by kubeadm and a worker that joins it, as docs/kind.md has them.

mod cluster;
mod kubeadm;
#[path = "../support/program.rs"]
mod program;
mod takeover;

use std::path::Path;
use std::process::Command;

use cluster::{Kind, project};

pub(crate) const WEB: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: localhost/podkeeper/web:1
    ports: [{containerPort: 8080, hostPort: 8081}]
    env: [{name: GREETING, value: hello}]
";

/// The manifests of the control plane.
pub(crate) const CONTROL_PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

#[test]
#[ignore = "needs docker and kind: run hack/test"]
fn in_kind_podkeeper_runs_a_control_plane_and_a_worker() {
    // What the user sets in the cluster's configuration comes as flags.
    let kind = Kind::documented("  labels: {example.com/place: edge}\n");
    nodes_are_ready_with_what_kind_gives_them(&kind);
    kubectl_reaches_into_pods(&kind);
    a_manifest_is_edited_broken_fixed_and_removed(&kind);
    nodes_come_back_with_their_pods(&kind);
    if std::env::var_os("PODKEEPER_TEST_LONG").is_some() {
        an_image_with_podkeeper_in_it_makes_a_cluster(&kind);
    }
    nothing_is_left(&kind);
}

fn nodes_are_ready_with_what_kind_gives_them(kind: &Kind) {
    for pod in CONTROL_PLANE {
        kind.wait_running("kube-system", &format!("{pod}-kind-control-plane"));
    }
    kind.put("kind-worker", "web.yaml", WEB);
    kind.wait_running("default", "web-kind-worker");
    for node in ["kind-control-plane", "kind-worker"] {
        kind.run(&format!(
            "kubectl wait --for condition=Ready --timeout 60s node/{node}"
        ));
        let object = kind.get(&format!("node {node}"));
        assert_eq!(
            object["spec"]["providerID"],
            format!("kind://docker/kind/{node}")
        );
        assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], node);
        let taints = object["spec"]["taints"].to_string();
        assert!(taints.contains("podkeeper.io/static-only"), "{taints}");
    }
    let labels = |node: &str| kind.get(&format!("node {node}"))["metadata"]["labels"].clone();
    assert_eq!(
        labels("kind-control-plane")["node-role.kubernetes.io/control-plane"],
        ""
    );
    assert_eq!(labels("kind-worker")["example.com/place"], "edge");
}

fn kubectl_reaches_into_pods(kind: &Kind) {
    let said = kind.run("kubectl -n kube-system logs etcd-kind-control-plane --tail 500");
    assert!(
        said.contains("starting etcd") || said.contains("etcd"),
        "{said}"
    );
    let said = kind.run("kubectl exec web-kind-worker -- sh -c 'echo $GREETING'");
    assert_eq!(said, "hello");
    let page = kind.run(
        "kubectl port-forward pod/web-kind-worker 18080:8080 >/dev/null & \
         trap \"kill $!\" EXIT; \
         for _ in $(seq 100); do curl -fsS http://127.0.0.1:18080/ 2>/dev/null && break; sleep 0.1; done",
    );
    assert!(page.contains("This page comes from a static Pod"), "{page}");
    // A host port is the way from elsewhere to a Pod behind the node's address.
    let page = kind.wait("a page", "curl -fsS http://$(docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' kind-worker):8081/");
    assert!(page.contains("This page comes from a static Pod"), "{page}");
}

fn a_manifest_is_edited_broken_fixed_and_removed(kind: &Kind) {
    kind.put("kind-worker", "web.yaml", &WEB.replace("hello", "good day"));
    let greeting = |value: &str| {
        kind.wait(
            value,
            &format!("kubectl exec web-kind-worker -- sh -c 'echo $GREETING' | grep -qx '{value}'"),
        );
        kind.wait_running("default", "web-kind-worker");
    };
    greeting("good day");

    let before = kind.containers("kind-worker", "web");
    kind.put(
        "kind-worker",
        "web.yaml",
        &WEB.replace("env:", "enviroment:"),
    );
    let said = kind.wait(
        "the refusal",
        "docker exec kind-worker podkeeper ps | grep enviroment",
    );
    assert!(said.contains("web.yaml"), "{said}");
    greeting("good day");
    assert_eq!(kind.containers("kind-worker", "web"), before);

    kind.put("kind-worker", "web.yaml", &WEB.replace("hello", "welcome"));
    greeting("welcome");
    kind.run("docker exec kind-worker rm /etc/kubernetes/manifests/web.yaml");
    kind.run("kubectl wait --for delete --timeout 60s pod/web-kind-worker");
    assert_eq!(kind.containers("kind-worker", "web"), "");
}

fn nodes_come_back_with_their_pods(kind: &Kind) {
    kind.put("kind-worker", "web.yaml", WEB);
    kind.wait_running("default", "web-kind-worker");
    let web = kind.containers("kind-worker", "web");
    kind.run("docker restart kind-control-plane");
    kind.wait("the API server", "kubectl get --raw /readyz");
    assert_eq!(kind.containers("kind-worker", "web"), web, "it ran on");
    kind.run("docker restart kind-worker");
    for pod in CONTROL_PLANE {
        kind.wait_running("kube-system", &format!("{pod}-kind-control-plane"));
    }
    kind.wait("another container", &format!("new=$(docker exec kind-worker ctr -n k8s.io tasks ls -q) && [[ -n $new && $new != *{web}* ]]"));
    kind.wait_running("default", "web-kind-worker");
    kind.run("kubectl wait --for condition=Ready --timeout 60s node --all");
}

fn an_image_with_podkeeper_in_it_makes_a_cluster(kind: &Kind) {
    let folder = kind.dir.join("cluster");
    let (folder, docker) = (folder.display(), project("docs/kind/Dockerfile"));
    let stock = "$(sed -n 's/^FROM //p' Dockerfile)";
    kind.run(&format!(
        "cd {folder}; cp {} .; docker tag $(docker inspect -f '{{{{.Image}}}}' kind-worker) {stock}; \
         DOCKER_BUILDKIT=0 docker build -q -t podkeeper-node .; \
         echo '{{kind: Cluster, apiVersion: kind.x-k8s.io/v1alpha4, networking: {{disableDefaultCNI: true}}}}' >own.yaml; \
         kind create cluster --name own --image podkeeper-node --config own.yaml --wait 2m --quiet",
        docker.display()
    ));
    for pod in CONTROL_PLANE {
        let get =
            format!("kubectl --context kind-own -n kube-system get pod {pod}-own-control-plane");
        kind.wait(
            pod,
            &format!("{get} --no-headers | grep -q ' 1/1 .* Running '"),
        );
    }
}

fn nothing_is_left(kind: &Kind) {
    let dir = kind.dir.clone();
    let name = std::fs::read_to_string(dir.join("name")).unwrap();
    let name = name.trim();
    kind.does("down", &[]);
    assert!(!dir.exists());
    assert!(!Path::new("/run/netns").join(name).exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
    let groups = Command::new("find")
        .args(["/sys/fs/cgroup", "-name", name])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&groups.stdout), "");
    let processes = Command::new("grep")
        .args(["-lzF", "--", dir.to_str().unwrap()])
        .args(
            std::fs::read_dir("/proc")
                .unwrap()
                .map(|entry| entry.unwrap().path().join("cmdline")),
        )
        .output()
        .unwrap();
    let processes = String::from_utf8_lossy(&processes.stdout);
    let left: Vec<_> = processes
        .lines()
        .filter(|path| !path.contains("self"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn the_document_shows_the_files_of_the_cluster() {
    let document = std::fs::read_to_string(project("docs/kind.md")).unwrap();
    let files = [
        "docs/kind/cluster.yaml",
        "docs/kind/10-podkeeper.conflist",
        "docs/kind/Dockerfile",
        "docs/kind/workflow.yaml",
        "hack/kubelet.service.d/20-podkeeper.conf",
    ];
    for file in files {
        let text = std::fs::read_to_string(project(file)).unwrap();
        let text = format!("    {}", text.replace('\n', "\n    ")).replace("    \n", "\n");
        assert!(document.contains(text.trim_end()), "{file}");
    }
}
