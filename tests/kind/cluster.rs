//! A kind cluster for tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::program;

const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster of `hack/kind`, which ends with the test.
pub(crate) struct Kind {
    pub(crate) dir: PathBuf,
    folder: TempDir,
}

impl Kind {
    /// Brings up the cluster of the document, with more at the end of its configuration.
    pub(crate) fn documented(more: &str) -> Self {
        let text = std::fs::read_to_string(project("docs/kind/cluster.yaml")).unwrap();
        Self::up(&(text + more))
    }

    /// Brings up a cluster with our images on its nodes.
    pub(crate) fn up(configuration: &str) -> Self {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix("podkeeper-kind-").tempdir().unwrap();
        let kind = Self {
            dir: folder.path().join("kind"),
            folder,
        };
        let config = kind.folder.path().join("cluster.yaml");
        std::fs::write(&config, configuration).unwrap();
        let config = config.to_str().unwrap();
        kind.does("up", &["--podkeeper", program::PROGRAM, "--config", config]);
        kind.does("load", &[]);
        kind
    }

    /// Runs a shell command on a node; gives what it prints.
    pub(crate) fn on(&self, node: &str, command: &str) -> String {
        self.run(&on(node, command))
    }

    fn script(&self, action: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(project("hack/kind"));
        command.args([action, "--dir"]).arg(&self.dir);
        command.args(arguments).output().unwrap()
    }

    pub(crate) fn does(&self, action: &str, arguments: &[&str]) -> String {
        let output = self.script(action, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "hack/kind {action} {arguments:?}: {said}"
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs a shell command that has docker and kubectl; gives what it prints.
    pub(crate) fn run(&self, command: &str) -> String {
        self.does("run", &["bash", "-euc", command])
    }

    /// Runs a command until it succeeds; gives what it prints.
    pub(crate) fn wait(&self, what: &str, command: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = self.script("run", &["bash", "-euc", command]);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap().trim().to_owned();
            }
            assert!(
                Instant::now() < end,
                "timed out waiting for {what}: {}\n{}",
                String::from_utf8_lossy(&output.stderr),
                self.state()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Nodes, Pods and logs, to see where something went wrong.
    fn state(&self) -> String {
        let command = "kubectl get nodes,pods -A -o wide 2>&1 || true; for node in $(kind get nodes); do \
             docker exec $node podkeeper ps; docker exec $node journalctl -u kubelet -n 30 --no-pager; done 2>&1 || true";
        let output = self.script("run", &["bash", "-c", command]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.run(&format!("kubectl get {what} -o json"))).unwrap()
    }

    /// Waits until a Pod's containers are ready, as kubectl shows it.
    pub(crate) fn wait_running(&self, namespace: &str, pod: &str) {
        let get = format!("kubectl -n {namespace} get pod {pod} --no-headers");
        self.wait(pod, &format!("{get} | grep -q ' 1/1 .* Running '"));
    }

    /// Puts a manifest on a node, as a user does.
    pub(crate) fn put(&self, node: &str, name: &str, manifest: &str) {
        let file = self.folder.path().join(name);
        std::fs::write(&file, manifest).unwrap();
        let file = file.display();
        self.run(&format!(
            "docker cp -q {file} {node}:/etc/kubernetes/manifests/{name}"
        ));
    }

    /// The ids of a node's containers of that name.
    pub(crate) fn containers(&self, node: &str, name: &str) -> String {
        self.run(&format!(
            "docker exec {node} ctr -n k8s.io containers ls -q 'labels.\"io.kubernetes.container.name\"=={name}' | sort"
        ))
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        self.script("down", &[]);
    }
}

/// The command that runs a shell command on a node.
pub(crate) fn on(node: &str, command: &str) -> String {
    let command = command.replace('\'', r"'\''");
    format!("docker exec {node} bash -euc '{command}'")
}

pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
