//! An API server for tests, and kubectl to ask it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::node::Node;

/// An API server that `hack/apiserver` brought up.
pub(crate) struct Cluster {
    dir: PathBuf,
    /// It is this test's own, and goes with it.
    own: Option<TempDir>,
}

impl Cluster {
    /// The one that all tests share: nothing of it may be stopped.
    pub(crate) fn shared() -> Self {
        let dir = std::env::var("PODKEEPER_TEST_APISERVER").expect("run this through hack/test");
        Self {
            dir: dir.into(),
            own: None,
        }
    }

    /// One of its own, to be stopped and wiped at will.
    pub(crate) fn own() -> Self {
        let mut builder = tempfile::Builder::new();
        let own = builder.prefix("podkeeper-apiserver-").tempdir().unwrap();
        let cluster = Self {
            dir: own.path().join("apiserver"),
            own: Some(own),
        };
        cluster.hack("up");
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs a command of `hack/apiserver`.
    pub(crate) fn hack(&self, command: &str) {
        self.hack_with(command, &[]);
    }

    fn hack_with(&self, command: &str, more: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/apiserver");
        let done = Command::new(script)
            .args([command, "--dir"])
            .arg(&self.dir)
            .args(more)
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success(), "hack/apiserver {command}");
    }

    /// The kubeconfig of `system:node:NAME`. Tests that share the API server and the name share it too.
    pub(crate) fn node_kubeconfig(&self, name: &str) -> PathBuf {
        static ISSUING: Mutex<()> = Mutex::new(());
        let _issuing = ISSUING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(&format!("{name}.kubeconfig"));
        if !path.exists() {
            self.hack_with("node-kubeconfig", &[name]);
        }
        path
    }

    pub(crate) fn url(&self) -> String {
        let url = std::fs::read_to_string(self.path("url")).unwrap();
        url.trim().to_owned()
    }

    /// Gives the node's agent its identity at this API server.
    pub(crate) fn admit(&self, node: &mut Node) {
        let kubeconfig = self.node_kubeconfig(&node.name);
        node.flag("kubeconfig", &kubeconfig.display().to_string());
    }

    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(self.path("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.path("admin.kubeconfig"));
        command.args(words.split_whitespace());
        command
    }

    /// What kubectl prints; nothing if it fails.
    pub(crate) fn ask(&self, words: &str) -> Option<String> {
        let done = self.command(words).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        done.status.success().then_some(text)
    }

    /// What kubectl prints.
    pub(crate) fn kubectl(&self, words: &str) -> String {
        let done = self.command(words).output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "kubectl {words}: {error}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Hands kubectl objects.
    pub(crate) fn apply(&self, objects: &str) {
        use std::io::Write;
        let mut command = self.command("apply -f -");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(objects.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success(), "kubectl apply: {objects}");
    }

    /// What the API server would make of an object, for the identity of a kubeconfig.
    pub(crate) fn try_out(&self, kubeconfig: &Path, object: &Value) -> Value {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        let done = Command::new(self.path("kubectl"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args([
                "create",
                "--dry-run=server",
                "--validate=false",
                "--output=json",
                "--filename",
            ])
            .arg(file.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{object:#}: {error}");
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// An object, as `kubectl get WORDS` has it; `None` if it is not there.
    pub(crate) fn get(&self, words: &str) -> Option<Value> {
        let text = self.ask(&format!("get {words} --output json"))?;
        serde_json::from_str(&text).ok()
    }

    /// The mirror Pod of a static Pod.
    pub(crate) fn mirror(&self, node: &Node, pod: &str) -> Option<Value> {
        self.get(&format!("pod {}", node.full_name(pod)))
    }

    /// Waits until the mirror of a Pod is as asked, and gives it.
    pub(crate) async fn wait_mirror(
        &self,
        node: &Node,
        pod: &str,
        is_right: impl Fn(&Value) -> bool,
    ) -> Value {
        let what = format!("the mirror of {pod} is right");
        node.wait(&what, async || {
            let mirror = self.mirror(node, pod)?;
            is_right(&mirror).then_some(mirror)
        })
        .await
    }

    /// Waits until a Pod has a mirror that says that it runs, and gives that.
    pub(crate) async fn wait_running(&self, node: &Node, pod: &str) -> Value {
        self.wait_mirror(node, pod, is_running).await
    }

    /// Waits until a Pod has no mirror.
    pub(crate) async fn wait_no_mirror(&self, node: &Node, pod: &str) {
        node.wait_until(&format!("{pod} has no mirror"), async || {
            self.ask("get --raw /readyz").is_some() && self.mirror(node, pod).is_none()
        })
        .await;
    }
}

/// A watch of the Pods of the namespace `default` that have one name.
pub(crate) struct Watch {
    kubectl: Child,
    written: NamedTempFile,
}

impl Watch {
    /// Watches what happens to a Pod after this state of it. Without one, an etcd of the 3.4 series keeps
    /// the API server from starting the watch.
    pub(crate) fn start(cluster: &Cluster, pod: &Value) -> Self {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let version = pod["metadata"]["resourceVersion"].as_str().unwrap();
        let written = NamedTempFile::new().unwrap();
        let kubectl = cluster
            .command(&format!(
                "get --raw /api/v1/namespaces/default/pods?watch=1&timeoutSeconds=600\
                 &resourceVersion={version}&fieldSelector=metadata.name%3D{name}"
            ))
            .stdin(Stdio::null())
            .stdout(written.reopen().unwrap())
            .spawn();
        Self {
            kubectl: kubectl.unwrap(),
            written,
        }
    }

    /// The events so far, in order: type and Pod.
    pub(crate) fn events(&self) -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(self.written.path()).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let event = |line| {
            let mut event: Value = serde_json::from_str(line).unwrap();
            let kind = event["type"].as_str().unwrap().to_owned();
            (kind, event["object"].take())
        };
        whole.lines().map(event).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.own.is_some() {
            self.hack("down");
        }
    }
}

pub(crate) fn is_running(mirror: &Value) -> bool {
    mirror["status"]["phase"] == "Running"
        && mirror["status"]["containerStatuses"][0]["ready"] == true
}

pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap()
}
