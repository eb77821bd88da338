//! What the runtime holds: sandboxes, containers and images, with the states and the errors that
//! containerd gives them.

mod images;
mod names;
mod subject;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

use podkeeper::cri::v1;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tonic::Status;

use super::script::Script;
use super::settings::Settings;
use super::{Call, Life};

use names::sandbox_name;
pub(super) use subject::subject_of_container;

/// Exit codes by convention: ended by a stop signal, and killed.
pub(crate) const TERMINATED: i32 = 143;
pub(crate) const KILLED: i32 = 137;

/// A sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) handler: String,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
    /// Empty on the host's network.
    pub(crate) ip: String,
}

impl Sandbox {
    /// The Pod's full name.
    pub(crate) fn pod(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |m| &m.name)
    }
}

/// A container.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    /// The Pod's full name.
    pub(crate) pod: String,
    pub(crate) config: v1::ContainerConfig,
    pub(crate) life: Life,
    pub(crate) state: v1::ContainerState,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
}

impl Container {
    pub(crate) fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |m| &m.name)
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.config.metadata.as_ref().map_or(0, |m| m.attempt)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == v1::ContainerState::ContainerRunning
    }
}

/// All that the runtime holds, and every call so far.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) script: Script,
    pub(crate) calls: Vec<Call>,
    /// In the order of their making.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// In the order of their making.
    pub(crate) containers: Vec<Container>,
    /// Whether containers start only if what they mount is there, as with a real runtime.
    pub(crate) needs_mounts: bool,
    /// Names that are held for ids of nothing, by what is to be called so.
    reserved: Vec<(String, String)>,
    /// Whether ends have no time.
    pub(crate) no_end_times: bool,
    /// Containers that were started beside a running one of their name and Pod: never to be.
    pub(crate) doubles: Vec<String>,
    /// Calls of commands that are under way, and the most that were at a time.
    pub(crate) executing: usize,
    pub(crate) most_executing: usize,
    /// By the name they were asked for.
    pub(crate) images: BTreeMap<String, v1::Image>,
    pub(super) events: broadcast::Sender<v1::ContainerEventResponse>,
    /// Counts what was made, for ids and addresses.
    made: u32,
    /// The clock's start, by tokio's clock and by the wall: both stand still while time is paused.
    start: (Instant, i64),
}

type Answer<T> = Result<T, Status>;

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = i64::try_from(wall.unwrap().as_nanos()).unwrap();
        Self {
            settings,
            script: Script::default(),
            calls: vec![],
            sandboxes: vec![],
            containers: vec![],
            needs_mounts: false,
            reserved: vec![],
            no_end_times: false,
            doubles: vec![],
            executing: 0,
            most_executing: 0,
            images: BTreeMap::new(),
            events: broadcast::channel(4096).0,
            made: 0,
            start: (Instant::now(), wall),
        }
    }

    /// Nanoseconds since the epoch; they go on with tokio's clock.
    pub(crate) fn now(&self) -> i64 {
        let (start, wall) = self.start;
        wall + i64::try_from(start.elapsed().as_nanos()).unwrap()
    }

    /// The machine's clock is set: forward, or back.
    pub(crate) fn set_clock(&mut self, seconds: i64) {
        self.start.1 += seconds * 1_000_000_000;
    }

    pub(crate) fn sandbox(&self, id: &str) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|s| s.id == id)
    }

    pub(crate) fn container(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.id == id)
    }

    /// The newest container of this name of a Pod.
    pub(crate) fn newest(&self, pod: &str, name: &str) -> Option<&Container> {
        let named = |c: &&Container| c.pod == pod && c.name() == name;
        self.containers.iter().rev().find(named)
    }

    // --- sandboxes

    pub(super) fn run_sandbox(
        &mut self,
        request: &v1::RunPodSandboxRequest,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let config = request.config.clone().unwrap_or_default();
        let handler = &request.runtime_handler;
        if !handler.is_empty() && !self.settings.handlers.iter().any(|h| h.name == *handler) {
            let text = format!("no runtime for {handler:?} is configured");
            return Err(Status::unknown(text));
        }
        let same = |s: &&Sandbox| s.config.metadata == config.metadata;
        let holder = self.sandboxes.iter().find(same).map(|s| s.id.as_str());
        self.taken("sandbox", &sandbox_name(Some(&config)), holder)?;
        let linux = config.linux.clone().unwrap_or_default();
        let options = linux.security_context.unwrap_or_default().namespace_options;
        let on_host = options.unwrap_or_default().network() == v1::NamespaceMode::Node;
        let id = self.next_id("sandbox");
        let [.., high, low] = self.made.to_be_bytes();
        self.sandboxes.push(Sandbox {
            id: id.clone(),
            config,
            handler: handler.clone(),
            ready: true,
            created_at: self.now(),
            ip: if on_host {
                String::new()
            } else {
                format!("10.88.{high}.{low}")
            },
        });
        self.tell(&id, &id, v1::ContainerEventType::ContainerCreatedEvent);
        self.tell(&id, &id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    /// Ends all that runs in a sandbox, and the sandbox. One that is not there is no error.
    pub(crate) fn end_sandbox(&mut self, id: &str) {
        let inside = self.containers.iter().filter(|c| c.sandbox == id);
        let inside: Vec<String> = inside.map(|c| c.id.clone()).collect();
        for container in inside {
            self.exit(&container, KILLED);
        }
        if let Some(sandbox) = self.sandboxes.iter_mut().find(|s| s.id == id && s.ready) {
            sandbox.ready = false;
            self.tell(id, id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    pub(crate) fn remove_sandbox(&mut self, id: &str) {
        self.end_sandbox(id);
        let inside = self.containers.iter().filter(|c| c.sandbox == id);
        let inside: Vec<String> = inside.map(|c| c.id.clone()).collect();
        for container in inside {
            self.remove_container(&container);
        }
        if self.sandbox(id).is_some() {
            self.tell(id, id, v1::ContainerEventType::ContainerDeletedEvent);
        }
        self.sandboxes.retain(|s| s.id != id);
    }

    pub(super) fn sandbox_status(&self, id: &str) -> Answer<v1::PodSandboxStatus> {
        let sandbox = self.sandbox(id);
        let sandbox = sandbox.ok_or_else(|| not_found("sandbox", id))?;
        let linux = sandbox.config.linux.clone().unwrap_or_default();
        let options = linux.security_context.unwrap_or_default().namespace_options;
        Ok(v1::PodSandboxStatus {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox_state(sandbox).into(),
            created_at: sandbox.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: sandbox.ip.clone(),
                ..v1::PodSandboxNetworkStatus::default()
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options }),
            }),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.handler.clone(),
        })
    }

    pub(super) fn list_sandboxes(
        &self,
        filter: Option<&v1::PodSandboxFilter>,
    ) -> Vec<v1::PodSandbox> {
        let passes = |s: &&Sandbox| {
            filter.is_none_or(|f| {
                (f.id.is_empty() || f.id == s.id)
                    && f.state.is_none_or(|st| st.state() == sandbox_state(s))
                    && selected(&f.label_selector, &s.config.labels)
            })
        };
        let item = |s: &Sandbox| v1::PodSandbox {
            id: s.id.clone(),
            metadata: s.config.metadata.clone(),
            state: sandbox_state(s).into(),
            created_at: s.created_at,
            labels: s.config.labels.clone(),
            annotations: s.config.annotations.clone(),
            runtime_handler: s.handler.clone(),
        };
        self.sandboxes.iter().filter(passes).map(item).collect()
    }

    // --- containers

    pub(super) fn create_container(
        &mut self,
        request: &v1::CreateContainerRequest,
    ) -> Answer<v1::CreateContainerResponse> {
        let sandbox = self.sandbox(&request.pod_sandbox_id);
        let sandbox = sandbox.ok_or_else(|| not_found("sandbox", &request.pod_sandbox_id))?;
        let (sandbox, pod, ready) = (sandbox.id.clone(), sandbox.pod().to_owned(), sandbox.ready);
        if !ready {
            let text = format!("the sandbox {sandbox} is not ready");
            return Err(Status::unknown(text));
        }
        let config = request.config.clone().unwrap_or_default();
        let image = config.image.clone().unwrap_or_default().image;
        if self.image(&image).is_none() {
            return Err(not_found("image", &image));
        }
        let name = self.container_name(request);
        let same = |c: &&Container| self.name_of(c) == name;
        let holder = self.containers.iter().find(same).map(|c| c.id.as_str());
        self.taken("container", &name, holder)?;
        let id = self.next_id("container");
        self.containers.push(Container {
            id: id.clone(),
            sandbox: sandbox.clone(),
            life: self.script.life(&pod, &config),
            pod,
            config,
            state: v1::ContainerState::ContainerCreated,
            created_at: self.now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
        });
        self.tell(&sandbox, &id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(v1::CreateContainerResponse { container_id: id })
    }

    pub(super) fn start_container(
        &mut self,
        request: &v1::StartContainerRequest,
    ) -> Answer<v1::StartContainerResponse> {
        let id = &request.container_id;
        let now = self.now();
        let known = self.containers.iter_mut().find(|c| c.id == *id);
        let known = known.ok_or_else(|| not_found("container", id))?;
        if known.state != v1::ContainerState::ContainerCreated {
            let text = format!("the container {id} is in state {:?}", known.state);
            return Err(Status::unknown(text));
        }
        let mounts = known.config.mounts.iter().map(|m| Path::new(&m.host_path));
        let missing = mounts.into_iter().find(|path| !path.exists());
        if let Some(path) = missing.filter(|_| self.needs_mounts) {
            let text = format!("cannot mount {}: it is not there", path.display());
            return Err(Status::unknown(text));
        }
        known.state = v1::ContainerState::ContainerRunning;
        known.started_at = now;
        let (sandbox, started) = (known.sandbox.clone(), known.clone());
        let same = |c: &&Container| c.pod == started.pod && c.name() == started.name();
        let running = self.containers.iter().filter(same);
        if running.filter(|c| c.is_running()).count() > 1 {
            let double = format!("{} of {}", started.name(), started.pod);
            self.doubles.push(double);
        }
        self.tell(&sandbox, id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(v1::StartContainerResponse {})
    }

    /// A running container ends with this code; one that does not run stays as it is.
    pub(crate) fn exit(&mut self, id: &str, code: i32) {
        let now = self.now();
        let known = self.containers.iter_mut().find(|c| c.id == id);
        let Some(known) = known.filter(|c| c.is_running()) else {
            return;
        };
        known.state = v1::ContainerState::ContainerExited;
        known.finished_at = if self.no_end_times { 0 } else { now };
        known.exit_code = code;
        known.reason = match code {
            0 => "Completed".to_owned(),
            _ => "Error".to_owned(),
        };
        let sandbox = known.sandbox.clone();
        self.tell(&sandbox, id, v1::ContainerEventType::ContainerStoppedEvent);
    }

    pub(crate) fn remove_container(&mut self, id: &str) {
        self.exit(id, KILLED);
        if let Some(known) = self.container(id) {
            let sandbox = known.sandbox.clone();
            self.containers.retain(|c| c.id != id);
            self.tell(&sandbox, id, v1::ContainerEventType::ContainerDeletedEvent);
        }
    }

    pub(super) fn container_status(&self, id: &str) -> Answer<v1::ContainerStatus> {
        let known = self.container(id);
        let known = known.ok_or_else(|| not_found("container", id))?;
        let asked = known.config.image.clone().unwrap_or_default();
        Ok(v1::ContainerStatus {
            id: known.id.clone(),
            metadata: known.config.metadata.clone(),
            state: known.state.into(),
            created_at: known.created_at,
            started_at: known.started_at,
            finished_at: known.finished_at,
            exit_code: known.exit_code,
            image: Some(v1::ImageSpec {
                image: asked.image.clone(),
                ..v1::ImageSpec::default()
            }),
            image_ref: asked.image.clone(),
            image_id: asked.image,
            reason: known.reason.clone(),
            labels: known.config.labels.clone(),
            annotations: known.config.annotations.clone(),
            mounts: known.config.mounts.clone(),
            log_path: self.log_path(known),
            stop_signal: known.config.stop_signal,
            ..v1::ContainerStatus::default()
        })
    }

    fn log_path(&self, container: &Container) -> String {
        let folder = self.sandbox(&container.sandbox);
        let folder = folder.map_or("", |s| &s.config.log_directory);
        format!("{folder}/{}", container.config.log_path)
    }

    pub(super) fn list_containers(
        &self,
        filter: Option<&v1::ContainerFilter>,
    ) -> Vec<v1::Container> {
        let passes = |c: &&Container| {
            filter.is_none_or(|f| {
                (f.id.is_empty() || f.id == c.id)
                    && f.state.is_none_or(|st| st.state() == c.state)
                    && (f.pod_sandbox_id.is_empty() || f.pod_sandbox_id == c.sandbox)
                    && selected(&f.label_selector, &c.config.labels)
            })
        };
        let item = |c: &Container| v1::Container {
            id: c.id.clone(),
            pod_sandbox_id: c.sandbox.clone(),
            metadata: c.config.metadata.clone(),
            image: c.config.image.clone(),
            image_ref: c.config.image.clone().unwrap_or_default().image,
            state: c.state.into(),
            created_at: c.created_at,
            labels: c.config.labels.clone(),
            annotations: c.config.annotations.clone(),
            ..v1::Container::default()
        };
        self.containers.iter().filter(passes).map(item).collect()
    }

    // --- events

    fn tell(&self, sandbox: &str, id: &str, kind: v1::ContainerEventType) {
        let inside = self.containers.iter().filter(|c| c.sandbox == sandbox);
        let statuses = inside.filter_map(|c| self.container_status(&c.id).ok());
        // That nobody listens is no error.
        let _ = self.events.send(v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: self.now(),
            pod_sandbox_status: self.sandbox_status(sandbox).ok(),
            containers_statuses: statuses.collect(),
        });
    }
}

fn sandbox_state(sandbox: &Sandbox) -> v1::PodSandboxState {
    if sandbox.ready {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    }
}

fn selected(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn not_found(kind: &str, id: &str) -> Status {
    Status::not_found(format!("there is no {kind} {id:?}"))
}
