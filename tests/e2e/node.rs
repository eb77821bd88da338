//! A node for one test: an agent with folders of its own on a shared, real containerd.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use podkeeper::cri::{Client, Error, v1};
use podkeeper::pod::report::PodReport;
use podkeeper::server::{NodeStatus, fetch_status};
use podkeeper::translate::labels;
use tempfile::TempDir;

/// How long most things may take before a test gives up on them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Path of the program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_podkeeper");

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

/// Removes every sandbox with these labels, without grace for its containers. What cannot be removed is
/// told only: the test has its result already.
async fn remove_all(client: &Client, selector: HashMap<String, String>) {
    let sandboxes = match list_sandboxes(client, selector).await {
        Ok(sandboxes) => sandboxes,
        Err(error) => return eprintln!("cannot tell what the test left: {error}"),
    };
    for sandbox in sandboxes {
        let pod_sandbox_id = sandbox.id;
        let stop = v1::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id };
        let removed = match client.stop_pod_sandbox(stop).await {
            Ok(_) => client.remove_pod_sandbox(remove).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            eprintln!("the test left a sandbox: {error}");
        }
    }
}

async fn list_sandboxes(
    client: &Client,
    label_selector: HashMap<String, String>,
) -> Result<Vec<v1::PodSandbox>, Error> {
    let request = v1::ListPodSandboxRequest {
        filter: Some(v1::PodSandboxFilter {
            label_selector,
            ..v1::PodSandboxFilter::default()
        }),
    };
    Ok(client.list_pod_sandbox(request).await?.items)
}

pub(crate) struct Node {
    dir: Arc<TempDir>,
    /// Where the containerd is, for those who kill it.
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
    /// How long anything may take before the test gives up on it.
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

    /// Whether the test gives the agent this flag itself.
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

    /// What the agent did for Pods, without its debugging.
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

    // --- manifests

    /// Renames a manifest into the folder.
    pub(crate) fn put(&self, file: &str, text: &str) {
        let temporary = self.path(&format!("incoming-{file}"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.manifest(file)).unwrap();
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.manifest(file)).unwrap();
    }

    pub(crate) fn full_name(&self, pod: &str) -> String {
        format!("{pod}-{}", self.name)
    }

    // --- a folder that this node shares with containers

    /// Makes the folder that manifests call `$OUT`, mounted on `/out`.
    pub(crate) fn make_out(&self) {
        fs::create_dir(self.path("out")).unwrap();
    }

    /// Empties it, for Pods that start over.
    pub(crate) fn clear_out(&self) {
        fs::remove_dir_all(self.path("out")).unwrap();
        self.make_out();
    }

    /// Puts a manifest of a Pod with this spec, in which the folder is named as [`Node::with_out`] says.
    pub(crate) fn put_with_out(&self, name: &str, spec: &str) {
        let spec = self.with_out(spec);
        self.put(&format!("{name}.yaml"), &manifest(name, &spec));
    }

    /// A text in which `$OUT` is a volume of the shared folder, and `$MOUNT` its mount.
    pub(crate) fn with_out(&self, text: &str) -> String {
        let volume = format!(
            "[{{name: out, hostPath: {{path: {}}}}}]",
            self.path("out").display()
        );
        let text = text.replace("$OUT", &volume);
        text.replace("$MOUNT", "volumeMounts: [{name: out, mountPath: /out}]")
    }

    /// The lines of a file in the shared folder.
    pub(crate) fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("out").join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// When a file in the shared folder was last written, once it is there.
    pub(crate) async fn wait_written(&self, file: &str) -> SystemTime {
        let path = self.path("out").join(file);
        self.wait(&format!("{file} is written"), async || {
            fs::metadata(&path).ok()?.modified().ok()
        })
        .await
    }

    // --- the runtime

    fn selector(&self) -> HashMap<String, String> {
        let root = self.path("root").display().to_string();
        HashMap::from([(labels::ROOT_DIR.to_owned(), root)])
    }

    /// Asks until the runtime answers: one that has just been started may not be ready for it.
    async fn ask<T>(&self, mut call: impl AsyncFnMut() -> Result<T, Error>) -> T {
        let end = Instant::now() + self.patience;
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every sandbox of this node's Pods.
    pub(crate) async fn sandboxes(&self) -> Vec<v1::PodSandbox> {
        let list = async || list_sandboxes(&self.client, self.selector()).await;
        self.ask(list).await
    }

    /// Every container of this node's Pods.
    pub(crate) async fn containers(&self) -> Vec<v1::Container> {
        let request = v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter {
                label_selector: self.selector(),
                ..v1::ContainerFilter::default()
            }),
        };
        let list = async || self.client.list_containers(request.clone()).await;
        self.ask(list).await.containers
    }

    /// The running containers, by Pod and container name.
    pub(crate) async fn running(&self) -> BTreeMap<(String, String), Vec<v1::Container>> {
        let mut running: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for container in self.containers().await {
            if container.state() == v1::ContainerState::ContainerRunning {
                let label = |key: &str| container.labels[key].clone();
                let pod = label(labels::POD_NAME);
                let pod = pod
                    .strip_suffix(&format!("-{}", self.name))
                    .unwrap()
                    .to_owned();
                let key = (pod, label(labels::CONTAINER_NAME));
                running.entry(key).or_default().push(container);
            }
        }
        running
    }

    /// The one running container of this name in this Pod.
    pub(crate) async fn running_one(&self, pod: &str, container: &str) -> Option<v1::Container> {
        let key = (pod.to_owned(), container.to_owned());
        let mut all = self.running().await.remove(&key).unwrap_or_default();
        assert!(all.len() < 2, "{pod} {container} runs twice: {all:#?}");
        all.pop()
    }

    pub(crate) async fn wait_running(&self, pod: &str) -> v1::Container {
        self.wait(&format!("{pod} runs"), async || {
            self.running_one(pod, "c").await
        })
        .await
    }

    /// Waits until this container of a Pod runs.
    pub(crate) async fn wait_container(&self, pod: &str, name: &str) -> v1::Container {
        self.wait(&format!("{name} of {pod} runs"), async || {
            self.running_one(pod, name).await
        })
        .await
    }

    /// Waits until the Pod's report gives this reason.
    pub(crate) async fn wait_reason(&self, pod: &str, reason: &str) -> PodReport {
        self.wait(&format!("{pod} says {reason}"), async || {
            self.report(pod).await.filter(|r| r.reason == reason)
        })
        .await
    }

    /// Waits until another container than this one runs in its place.
    pub(crate) async fn wait_after(&self, pod: &str, old: &v1::Container) -> v1::Container {
        self.wait(&format!("{pod} runs anew"), async || {
            self.running_one(pod, "c").await.filter(|c| c.id != old.id)
        })
        .await
    }

    /// The main process of a container.
    pub(crate) async fn process(&self, id: &str) -> i32 {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = self.client.container_status(request).await.unwrap();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        info["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// The newest container of this name of a Pod, however it is.
    pub(crate) async fn newest(&self, pod: &str, name: &str) -> Option<v1::Container> {
        let all = self.instances(pod, name).await;
        all.into_iter().max_by_key(attempt)
    }

    /// The containers of this name of a Pod, however they are.
    async fn instances(&self, pod: &str, name: &str) -> Vec<v1::Container> {
        let mut all = self.containers().await;
        all.retain(|c| {
            c.labels[labels::POD_NAME] == self.full_name(pod)
                && c.labels[labels::CONTAINER_NAME] == name
        });
        all
    }

    /// When the first container of this name of a Pod ended, once it has, as the runtime tells.
    pub(crate) async fn wait_finished(&self, pod: &str, name: &str) -> SystemTime {
        self.wait(&format!("{name} of {pod} has ended"), async || {
            let mut all = self.instances(pod, name).await.into_iter();
            let id = all.find(|c| attempt(c) == 0)?.id;
            let request = v1::ContainerStatusRequest {
                container_id: id,
                verbose: false,
            };
            let status = self.client.container_status(request).await.ok()?.status?;
            let nanos = u64::try_from(status.finished_at).ok().filter(|n| *n > 0)?;
            Some(UNIX_EPOCH + Duration::from_nanos(nanos))
        })
        .await
    }

    /// Removes a container behind the agent's back.
    pub(crate) async fn remove_container(&self, id: &str) {
        let request = v1::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.client.remove_container(request).await.unwrap();
    }

    pub(crate) async fn kill_container(&self, id: &str) {
        kill(self.process(id).await);
    }

    /// Kills what holds the namespaces of a sandbox.
    pub(crate) async fn kill_sandbox(&self, id: &str) {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let answer = self.client.pod_sandbox_status(request).await.unwrap();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        kill(info["pid"].as_i64().unwrap().try_into().unwrap());
    }

    /// What a command in the container says.
    pub(crate) async fn exec(&self, id: &str, command: &[&str]) -> String {
        let command: Vec<String> = command.iter().map(|s| (*s).to_owned()).collect();
        let done = self.client.exec_sync(id, &command, PATIENCE).await.unwrap();
        assert_eq!(
            done.exit_code,
            0,
            "{command:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).unwrap()
    }

    /// What a script in the container says, without the blanks around it.
    pub(crate) async fn sh(&self, id: &str, script: &str) -> String {
        let said = self.exec(id, &["sh", "-c", script]).await;
        said.trim().to_owned()
    }

    /// What `podkeeper ps` shows.
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
                panic!("waited in vain for: {what}\n{status:#?}\n{}", self.log());
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
            self.log_lines_with("stopping the Pod") > 0
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

/// Which start of its name in its Pod a container is, from 0 on.
fn attempt(container: &v1::Container) -> u32 {
    container.metadata.as_ref().map_or(0, |m| m.attempt)
}

pub(crate) fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    // It may have ended by itself.
    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
}

/// A manifest with one container `c` that runs a shell script.
pub(crate) fn pod(name: &str, script: &str) -> String {
    pod_with(name, BUSYBOX, script, "")
}

/// The same with another image, and more lines of the Pod's spec.
pub(crate) fn pod_with(name: &str, image: &str, script: &str, spec: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: c\n    \
         image: {image}\n    command: [sh, -c, {script}]\n{spec}"
    )
}

/// A manifest of a Pod with this spec, each line of it indented by two blanks at least. In it `$BUSYBOX`
/// stands for an image, and `$FOREVER` for a command that ends at once when told to, and runs for ever
/// else. What does not hear the signal, such as a shell before it has set its trap, has two seconds, where
/// the spec does not say otherwise.
pub(crate) fn manifest(name: &str, spec: &str) -> String {
    let command = serde_json::json!(["sh", "-c", FOREVER]).to_string();
    let spec = spec.replace("$BUSYBOX", BUSYBOX);
    let spec = spec.replace("$FOREVER", &command);
    let spec = spec.trim_start_matches('\n');
    let own = spec
        .lines()
        .any(|line| line.starts_with("  terminationGracePeriodSeconds:"));
    let grace = if own {
        ""
    } else {
        "  terminationGracePeriodSeconds: 2\n"
    };
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n{grace}{spec}")
}

/// A script that ends at once when told to, and runs for ever else.
pub(crate) const FOREVER: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done";

/// All cgroups whose path contains these words, in any hierarchy.
pub(crate) fn cgroups_with(words: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, words: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                if path.display().to_string().contains(words) {
                    found.push(path.clone());
                }
                walk(&path, words, found);
            }
        }
    }
    let mut found = vec![];
    walk(Path::new("/sys/fs/cgroup"), words, &mut found);
    found
}
