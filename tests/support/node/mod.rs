//! A node for one test: an agent with folders of its own on a shared, real containerd.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]

mod manifests;
mod runtime;

use std::fs;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use podkeeper::cri::Client;
use podkeeper::pod::report::PodReport;
use podkeeper::server::{NodeStatus, fetch_status};
use tempfile::TempDir;

pub(crate) use manifests::{FOREVER, manifest, on_trial, pod, pod_with};
use runtime::remove_all;
pub(crate) use runtime::{cgroups_with, kill};

use super::program::PROGRAM;

/// Time limit of most waits of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const BUSYBOX: &str = "localhost/podkeeper/busybox:1";

/// Runs an async test on a containerd of this version. Whatever it leaves there, also where it fails, is
/// removed after it, so that it does not run beside the tests that follow.
pub(crate) fn run<F: Future<Output = ()>>(version: &'static str, test: impl FnOnce(Node) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let node = runtime.block_on(async { Node::new(version) });
    // The folder stays until the Pods that may have it mounted are gone.
    let (client, selector, _dir) = (node.client.clone(), node.selector(), Arc::clone(&node.dir));
    let done = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { test(node).await });
    }));
    runtime.block_on(remove_all(&client, selector));
    if let Err(panic) = done {
        resume_unwind(panic);
    }
}

pub(crate) struct Node {
    dir: Arc<TempDir>,
    /// Folder of the containerd, for tests that kill it.
    pub(crate) runtime_dir: PathBuf,
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) version: &'static str,
    /// The agent that is started.
    pub(crate) program: PathBuf,
    pub(crate) extra_flags: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Without the folder of manifests.
    pub(crate) without_manifests: bool,
    /// Time limit of the test's waits.
    pub(crate) patience: Duration,
    agent: Option<Child>,
}

/// The folder of the containerd of this version that `hack/test` brought up.
fn runtime_dir(version: &str) -> PathBuf {
    let all = std::env::var("PODKEEPER_TEST_CONTAINERD_DIRS").expect("run this through hack/test");
    let mut all = all
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='));
    let dir = all.find(|(v, _)| *v == version);
    let (_, dir) = dir.unwrap_or_else(|| panic!("hack/test brought up no containerd {version}"));
    dir.into()
}

impl Node {
    pub(crate) fn new(version: &'static str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let runtime_dir = runtime_dir(version);
        let socket = runtime_dir.join("run/containerd.sock");
        let endpoint = format!("unix://{}", socket.display()).parse().unwrap();
        let dir = tempfile::Builder::new()
            .prefix("podkeeper-test-")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        Self {
            name: format!("n{}-{number}", std::process::id()),
            client: Client::new(endpoint),
            runtime_dir,
            version,
            program: PROGRAM.into(),
            extra_flags: vec![],
            env: vec![],
            without_manifests: false,
            patience: PATIENCE,
            agent: None,
            dir: Arc::new(dir),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn manifest(&self, file: &str) -> PathBuf {
        self.path("manifests").join(file)
    }

    // --- the agent

    pub(crate) fn start_agent(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("agent.log"));
        let endpoint = self.client.endpoint().to_string();
        let endpoint = ["--container-runtime-endpoint".to_owned(), endpoint];
        let given = self.extra_flags.contains(&endpoint[0]);
        // The containerd is shared, and the disk may be full: tests that remove images bring their own.
        let makes_room = self
            .extra_flags
            .iter()
            .any(|flag| flag.starts_with("--image-gc"));
        let makes_no_room = (!makes_room).then_some("--image-gc-high-threshold=100");
        let flag = |name: &str, folder: &str| format!("--{name}={}", self.path(folder).display());
        let manifests = flag("pod-manifest-path", "manifests");
        let agent = command_of(&self.program, &["run"])
            .args((!self.without_manifests).then_some(manifests))
            .envs(self.env.iter().cloned())
            .arg(flag("root-dir", "root"))
            .arg(flag("run-dir", "run"))
            .arg(flag("pod-logs-dir", "logs"))
            .arg(flag("container-logs-dir", "container-logs"))
            .args(["--hostname-override", &self.name, "--log-level", "debug"])
            // All agents would open the same ports else.
            .args((!self.has_flag("--healthz-port")).then_some("--healthz-port=0"))
            .args((!self.has_flag("--port")).then_some("--port=0"))
            .args(if given { &[] } else { endpoint.as_slice() })
            .args(makes_no_room)
            .args(&self.extra_flags)
            .stdin(Stdio::null())
            .stderr(log.unwrap())
            .spawn();
        self.agent = Some(agent.unwrap());
    }

    pub(crate) fn flag(&mut self, name: &str, value: &str) {
        self.extra_flags.push(format!("--{name}={value}"));
    }

    /// Returns true if the test gives the agent this flag itself.
    fn has_flag(&self, name: &str) -> bool {
        let mut flags = self.extra_flags.iter();
        flags.any(|flag| flag.split('=').next() == Some(name))
    }

    pub(crate) fn agent_id(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Sends the agent a signal by its name.
    pub(crate) fn signal_agent(&self, signal: &str) {
        let id = self.agent_id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Ends the agent as the system would; gives its exit code.
    pub(crate) fn end_agent(&mut self) -> Option<i32> {
        let mut agent = self.agent.take().unwrap();
        let id = agent.id().to_string();
        assert!(Command::new("kill").arg(&id).status().unwrap().success());
        agent.wait().unwrap().code()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// The agent's log about Pods, without debug lines.
    pub(crate) fn log_lines_with(&self, words: &str) -> usize {
        self.log().lines().filter(|l| l.contains(words)).count()
    }

    pub(crate) async fn status(&self) -> NodeStatus {
        fetch_status(&self.path("run")).await.unwrap_or_default()
    }

    pub(crate) async fn report(&self, pod: &str) -> Option<PodReport> {
        let name = self.full_name(pod);
        self.status()
            .await
            .pods
            .into_iter()
            .find(|p| p.name == name)
    }

    /// Output of `podkeeper ps`.
    pub(crate) fn ps(&self) -> String {
        let ps = command(&["ps", "--run-dir"]).arg(self.path("run")).output();
        String::from_utf8(ps.unwrap().stdout).unwrap()
    }

    // --- waiting

    /// Waits until there is an answer.
    pub(crate) async fn wait<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let end = Instant::now() + self.patience;
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            if Instant::now() > end {
                let status = self.status().await;
                panic!(
                    "timed out waiting until: {what}\n{status:#?}\n{}",
                    self.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn wait_until(&self, what: &str, mut ask: impl AsyncFnMut() -> bool) {
        self.wait(what, async || ask().await.then_some(())).await;
    }

    /// Waits until the agent has begun to stop a Pod.
    pub(crate) async fn wait_stopping(&self) {
        self.wait_until("a Pod is being stopped", async || {
            self.log_lines_with("Stopping Pod") > 0
        })
        .await;
    }

    /// Waits until the agent knows that this many Pods run.
    pub(crate) async fn wait_known(&self, count: usize) {
        self.wait_until("the agent knows what runs", async || {
            let pods = self.status().await.pods;
            pods.iter().filter(|p| p.ready == 1).count() == count
        })
        .await;
    }

    /// Waits until nothing is left of any Pod of this node, anywhere.
    pub(crate) async fn wait_gone(&self) {
        let end = Instant::now() + self.patience;
        loop {
            let left = self.leftovers().await;
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < end,
                "still there: {left:#?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All that is left of this node's Pods.
    pub(crate) async fn leftovers(&self) -> Vec<String> {
        let mut left = vec![];
        left.extend(
            self.sandboxes()
                .await
                .into_iter()
                .map(|s| format!("sandbox {}", s.id)),
        );
        left.extend(
            self.containers()
                .await
                .into_iter()
                .map(|c| format!("container {}", c.id)),
        );
        for folder in ["root/pods", "logs", "container-logs"] {
            let entries = fs::read_dir(self.path(folder))
                .into_iter()
                .flatten()
                .flatten();
            left.extend(entries.map(|e| e.path().display().to_string()));
        }
        left
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // It may have ended by itself.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let pods = self.path("manifests");
        if std::thread::panicking() && pods.exists() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// The program under test.
pub(crate) fn command(arguments: &[&str]) -> Command {
    command_of(Path::new(PROGRAM), arguments)
}

fn command_of(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    // The proxies of whoever runs the tests are not theirs.
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.args(arguments);
    command
}
