//! Objects of a node's containerd, read and changed behind the agent's back.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use podkeeper::cri::{Client, Error, v1};
use podkeeper::pod::report::PodReport;
use podkeeper::translate::labels;

use super::{Node, PATIENCE};

impl Node {
    pub(super) fn selector(&self) -> HashMap<String, String> {
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

    /// Stops a sandbox. The agent may stop it as well meanwhile, and a network plugin that is asked
    /// twice at once fails one of the two.
    pub(crate) async fn stop_sandbox(&self, id: &str) {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.ask(async || self.client.stop_pod_sandbox(request.clone()).await)
            .await;
    }

    /// Stops a sandbox and removes it.
    pub(crate) async fn remove_sandbox(&self, id: &str) {
        self.stop_sandbox(id).await;
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.client.remove_pod_sandbox(request).await.unwrap();
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

    /// Time of the end of a Pod's first container of this name, once the runtime reports it.
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

    /// Output of a command in the container.
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

    /// Output of a script in the container, without the blanks around it.
    pub(crate) async fn sh(&self, id: &str, script: &str) -> String {
        let said = self.exec(id, &["sh", "-c", script]).await;
        said.trim().to_owned()
    }
}

/// Removes every sandbox with these labels, without grace for its containers. What cannot be removed is
/// told only: the test has its result already.
pub(super) async fn remove_all(client: &Client, selector: HashMap<String, String>) {
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

/// Which start of its name in its Pod a container is, from 0 on.
fn attempt(container: &v1::Container) -> u32 {
    container.metadata.as_ref().map_or(0, |m| m.attempt)
}

pub(crate) fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    // It may have ended by itself.
    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
}

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
