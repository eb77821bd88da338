//! The same work without an agent: the calls, and the few files that the containers mount.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use podkeeper::cri::{Client, v1};
use podkeeper::host::cgroup;
use podkeeper::manifest::{SourceKind, StaticPod, parse};
use podkeeper::translate::{
    ContainerInstance, NodeFacts, Paths, ResolvConf, SandboxInstance, container_config,
    pod_cgroup_paths, sandbox_config,
};
use tokio::sync::mpsc;

use crate::node::{NAME, Node};
use crate::pods::IMAGE;

/// Longest wait for an event before the runtime is asked.
const EVENT: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_millis(1);

/// A Pod that was started.
struct Running {
    pod: Arc<StaticPod>,
    sandbox: String,
    container: String,
}

/// Calls to one runtime, and the Pods that were started with them.
#[derive(Clone)]
pub(crate) struct BareCalls {
    client: Client,
    facts: Arc<NodeFacts>,
    /// The node's cgroup, below which the Pods' are.
    group: String,
    running: Arc<Mutex<HashMap<String, Running>>>,
}

impl BareCalls {
    pub(crate) fn new(node: &Node) -> Self {
        let paths = Paths {
            root: node.dir.join("root"),
            logs: node.dir.join("logs"),
            ..Paths::default()
        };
        let facts = NodeFacts {
            paths,
            ..NodeFacts::default()
        };
        Self {
            client: node.client.clone(),
            facts: Arc::new(facts),
            group: node.group.clone(),
            running: Arc::default(),
        }
    }

    /// Starts a Pod.
    pub(crate) async fn start(&self, name: &str, manifest: &str) -> Result<()> {
        let accepted = parse(manifest.as_bytes(), NAME, SourceKind::File);
        let pod = accepted.map_err(|problems| anyhow!("{problems:?}"))?.pod;
        let paths = &self.facts.paths;
        fs::create_dir_all(paths.pod(&pod.uid))?;
        fs::write(paths.hosts_file(&pod.uid), "127.0.0.1 localhost\n")?;
        let request = v1::RunPodSandboxRequest {
            config: Some(self.sandbox_config(&pod)),
            runtime_handler: String::new(),
        };
        let sandbox = self.client.run_pod_sandbox(request).await?.pod_sandbox_id;
        let container = self.start_container(&pod, &sandbox, 0).await?;
        let running = Running {
            pod,
            sandbox,
            container,
        };
        self.running().insert(name.to_owned(), running);
        Ok(())
    }

    /// Waits for the end of a Pod's container and starts it again.
    pub(crate) async fn restart(&self, name: &str, ends: &mut Ends) -> Result<()> {
        let (pod, sandbox, container) = self.parts(name)?;
        self.wait_exit(&container, ends).await?;
        let container = self.start_container(&pod, &sandbox, 1).await?;
        if let Some(running) = self.running().get_mut(name) {
            running.container = container;
        }
        Ok(())
    }

    /// Stops a Pod and removes what is left of it.
    pub(crate) async fn stop(&self, name: &str) -> Result<()> {
        let (pod, pod_sandbox_id, container) = self.parts(name)?;
        let grace = pod.spec.termination_grace_period_seconds.unwrap_or(30);
        self.client.stop_container(&container, grace).await?;
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        self.client.stop_pod_sandbox(request).await?;
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        self.client.remove_pod_sandbox(request).await?;
        // Nobody else removes these.
        for path in pod_cgroup_paths(self.facts.cgroup_driver, &self.facts.cgroup_root, &pod.uid) {
            let path = format!("/{}{path}", self.group);
            cgroup::remove(&self.facts.paths.cgroups, &path)?;
        }
        fs::remove_dir_all(self.facts.paths.pod(&pod.uid))?;
        fs::remove_dir_all(self.facts.paths.pod_logs(&pod.key, &pod.uid))?;
        self.running().remove(name);
        Ok(())
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self, name: &str) -> Result<(Arc<StaticPod>, String, String)> {
        let running = self.running();
        let running = running.get(name).context("the Pod was not started")?;
        Ok((
            Arc::clone(&running.pod),
            running.sandbox.clone(),
            running.container.clone(),
        ))
    }

    fn sandbox_config(&self, pod: &StaticPod) -> v1::PodSandboxConfig {
        let (host, instance) = (ResolvConf::default(), SandboxInstance::default());
        sandbox_config(&self.facts, &host, pod, &instance)
    }

    async fn start_container(
        &self,
        pod: &StaticPod,
        sandbox: &str,
        attempt: u32,
    ) -> Result<String> {
        let image = v1::ImageSpec {
            image: IMAGE.to_owned(),
            ..v1::ImageSpec::default()
        };
        let request = v1::ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        let image = self.client.image_status(request).await?.image;
        let image = image.context("the image is not there")?.id;
        let spec = &pod.containers()[0];
        let instance = ContainerInstance {
            attempt,
            image,
            ..ContainerInstance::default()
        };
        let paths = &self.facts.paths;
        fs::create_dir_all(paths.pod_logs(&pod.key, &pod.uid).join("c"))?;
        fs::create_dir_all(paths.container(&pod.uid, "c"))?;
        fs::write(paths.termination_log(&pod.uid, "c", attempt), "")?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container_config(&self.facts, pod, spec, &instance)?),
            sandbox_config: Some(self.sandbox_config(pod)),
        };
        let container_id = self.client.create_container(request).await?.container_id;
        let request = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        self.client.start_container(request).await?;
        Ok(container_id)
    }

    /// Waits until the runtime knows of a container's end: until an event reports it, and where none comes, by
    /// asking.
    async fn wait_exit(&self, id: &str, ends: &mut Ends) -> Result<()> {
        loop {
            let pause = match tokio::time::timeout(EVENT, ends.0.recv()).await {
                Ok(Some(ended)) if ended == id => return Ok(()),
                Ok(Some(_)) => continue,
                Err(_) => Duration::ZERO,
                // This runtime has no events.
                Ok(None) => POLL,
            };
            let request = v1::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            let status = self.client.container_status(request).await?.status;
            if status.unwrap_or_default().state() == v1::ContainerState::ContainerExited {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Follows the runtime's events.
    pub(crate) fn ends(&self) -> Ends {
        let (sender, ends) = mpsc::channel(1024);
        tokio::spawn(listen(self.client.clone(), sender));
        Ends(ends)
    }
}

/// Ids of containers that ended, as the runtime's events report them. No more come once this is dropped.
pub(crate) struct Ends(mpsc::Receiver<String>);

async fn listen(client: Client, sender: mpsc::Sender<String>) {
    let Ok(mut events) = client.container_events().await else {
        return;
    };
    let stopped = v1::ContainerEventType::ContainerStoppedEvent;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            event = events.message() => {
                let Ok(Some(event)) = event else { return };
                if event.container_event_type() == stopped {
                    let _ = sender.send(event.container_id).await;
                }
            }
        }
    }
}
