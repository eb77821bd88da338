//! Asking the runtime what it has of one Pod.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::LinuxContainerUser;

use super::identity::{check_key, is_valid_container, is_valid_sandbox};
use super::state::observed::{Container, ContainerId, Exit, Observed, Sandbox, SandboxId, State};
use super::state::time::Clock;
use crate::cri::{Client, Error, if_found, v1};
use crate::manifest::{PodKey, Uid};
use crate::translate::labels;
use crate::units::time::bounded;

/// The sandboxes and containers of one Pod, as lists give them.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Sandboxes with our owner label.
    pub sandboxes: Vec<v1::PodSandbox>,
    /// Containers with our owner label.
    pub containers: Vec<v1::Container>,
}

/// Pod of a sandbox or container with these labels; `None` where its owner label is another one or
/// its names are no Pod's.
#[must_use]
#[allow(
    clippy::implicit_hasher,
    reason = "the generated messages have this very type"
)]
pub fn owner(owner_label: &str, labels: &HashMap<String, String>) -> Option<PodKey> {
    labels.get(labels::ROOT_DIR).filter(|m| *m == owner_label)?;
    let key = PodKey {
        namespace: labels.get(labels::POD_NAMESPACE)?.clone(),
        name: labels.get(labels::POD_NAME)?.clone(),
    };
    check_key(&key).ok().map(|()| key)
}

/// Requests of the lists of everything that carries this owner label, of one Pod or of all.
#[must_use]
pub fn list_requests(
    owner_label: &str,
    key: Option<&PodKey>,
) -> (v1::ListPodSandboxRequest, v1::ListContainersRequest) {
    let mut selector = HashMap::from([(labels::ROOT_DIR.to_owned(), owner_label.to_owned())]);
    if let Some(key) = key {
        selector.insert(labels::POD_NAMESPACE.into(), key.namespace.clone());
        selector.insert(labels::POD_NAME.into(), key.name.clone());
    }
    let sandboxes = v1::ListPodSandboxRequest {
        filter: Some(v1::PodSandboxFilter {
            label_selector: selector.clone(),
            ..v1::PodSandboxFilter::default()
        }),
    };
    let containers = v1::ListContainersRequest {
        filter: Some(v1::ContainerFilter {
            label_selector: selector,
            ..v1::ContainerFilter::default()
        }),
    };
    (sandboxes, containers)
}

/// The states of sandboxes and containers by ID, as numbers that change when anything worth an inspection
/// does. The supervisor compares what it lists with what each task last observed by it.
pub type StateDigest = Vec<(Arc<str>, i32)>;

/// Time limit for the status of what the list shows well enough.
const INSPECTION: Duration = Duration::from_secs(5);

/// Role of a version, by which the list alone is enough where the runtime gives no status in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The wanted version: the list is enough for what runs.
    Wanted,
    /// A version that gives way to another one: what has ended may have ended in any way.
    Replaced,
    /// A version that is on its way out: how it ended does not matter any more.
    Leaving,
}

/// The observed state, and the ids of what only the list shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inspected {
    /// The Pod's state.
    pub observed: Observed,
    /// Ids to inspect again.
    pub assumed: BTreeSet<String>,
}

impl Listed {
    /// Everything that carries this owner label, of one Pod or of all, with a valid identity.
    ///
    /// # Errors
    /// Any failure of the two calls.
    pub async fn fetch(
        client: &Client,
        owner_label: &str,
        key: Option<&PodKey>,
    ) -> Result<Self, Error> {
        let (sandboxes, containers) = list_requests(owner_label, key);
        let sandboxes = client.list_pod_sandbox(sandboxes).await?.items;
        let containers = client.list_containers(containers).await?.containers;
        Ok(Self::valid(sandboxes, containers))
    }

    /// Returns true if there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    /// Leaves out what has an invalid identity.
    #[must_use]
    pub fn valid(mut sandboxes: Vec<v1::PodSandbox>, mut containers: Vec<v1::Container>) -> Self {
        sandboxes.retain(is_valid_sandbox);
        containers.retain(is_valid_container);
        Self {
            sandboxes,
            containers,
        }
    }

    /// The Pod's state in full, with details asked for where `before` does not have them already. Where they
    /// do not come in time, what the list shows is enough as far as the version's role allows that.
    ///
    /// # Errors
    /// Any failure of a call; what vanishes meanwhile is none.
    pub async fn inspect(
        &self,
        client: &Client,
        clock: &Clock,
        before: &Observed,
        role: impl Fn(&Uid) -> Role,
    ) -> Result<Inspected, Error> {
        let mut inspected = Inspected {
            observed: Observed {
                // No more than needed is kept for as long as the Pod is there.
                sandboxes: Vec::with_capacity(self.sandboxes.len()),
                containers: Vec::with_capacity(self.containers.len()),
            },
            ..Inspected::default()
        };
        for item in &self.sandboxes {
            let ready = item.state == v1::PodSandboxState::SandboxReady as i32;
            let known = before.sandbox(&item.id.as_str().into());
            if let Some(known) = known.filter(|s| s.ready == ready) {
                inspected.observed.sandboxes.push(known.clone());
                continue;
            }
            let listed = listed_sandbox(clock, item);
            // The identity is the one that was checked.
            let (id, uid, attempt) = (listed.id.clone(), listed.uid.clone(), listed.attempt);
            let assumed = || (!ready || role(&uid) != Role::Wanted).then_some(listed);
            let call = inspect_sandbox(client, clock, &id);
            let sandbox = inspected.within(&id, call, assumed).await?;
            let sandbox = sandbox.map(|s| Sandbox {
                id,
                uid,
                attempt,
                ..s
            });
            inspected.observed.sandboxes.extend(sandbox);
        }
        for item in &self.containers {
            let id = ContainerId::from(item.id.as_str());
            let known = before.container(&id);
            if let Some(known) = known.filter(|c| state_number(&c.state) == item.state) {
                inspected.observed.containers.push(known.clone());
                continue;
            }
            let uid = uid_label(&item.labels);
            let assumed = || listed_container(clock, item, role(&uid));
            let call = inspect_container(client, clock, &id);
            let container = inspected.within(&id, call, assumed).await?;
            let metadata = item.metadata.clone().unwrap_or_default();
            let container = container.map(|c| Container {
                id,
                sandbox: item.pod_sandbox_id.as_str().into(),
                uid,
                name: metadata.name,
                attempt: metadata.attempt,
                ..c
            });
            inspected.observed.containers.extend(container);
        }
        Ok(inspected)
    }
}

impl Inspected {
    /// Waits for a status; after a while for nothing that can be assumed.
    async fn within<T>(
        &mut self,
        id: &str,
        call: impl Future<Output = Result<Option<T>, Error>>,
        assumed: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(assumed) = assumed() else {
            return call.await;
        };
        // Where one status does not come, the others of the Pod are not waited for either.
        if self.assumed.is_empty()
            && let Ok(found) = tokio::time::timeout(INSPECTION, call).await
        {
            return found;
        }
        self.assumed.insert(id.to_owned());
        Ok(Some(assumed))
    }
}

/// A sandbox as the list has it.
#[must_use]
pub fn listed_sandbox(clock: &Clock, item: &v1::PodSandbox) -> Sandbox {
    let metadata = item.metadata.clone().unwrap_or_default();
    Sandbox {
        id: item.id.as_str().into(),
        uid: metadata.uid.into(),
        attempt: metadata.attempt,
        ready: item.state == v1::PodSandboxState::SandboxReady as i32,
        created: clock.monotonic_of(item.created_at),
        ips: vec![],
    }
}

/// A container as the list has it, if that is enough for one of this role.
#[must_use]
pub fn listed_container(clock: &Clock, item: &v1::Container, role: Role) -> Option<Container> {
    let state = match item.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running {
            started_at: item.created_at,
        },
        v1::ContainerState::ContainerExited => match role {
            Role::Wanted => return None,
            Role::Replaced => State::Unknown,
            Role::Leaving => State::Exited(unseen_end(clock)),
        },
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let metadata = item.metadata.clone().unwrap_or_default();
    Some(Container {
        id: item.id.as_str().into(),
        sandbox: item.pod_sandbox_id.as_str().into(),
        uid: uid_label(&item.labels),
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        image: item.image.clone().unwrap_or_default().image,
        image_ref: item.image_ref.clone(),
        user: None,
        backoff: backoff(&item.annotations),
        grace_period: grace_period(&item.annotations),
        gone: false,
    })
}

/// The end of a container that nobody saw, as the kubelet reports it.
#[must_use]
pub fn unseen_end(clock: &Clock) -> Exit {
    Exit {
        code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when the pod was terminated".to_owned(),
        started_at: 0,
        finished_at: clock.wall_now(),
        ended: clock.now(),
    }
}

/// Returns the digest of the observed state.
#[must_use]
pub fn digest(observed: &Observed) -> StateDigest {
    let sandbox = |s: &Sandbox| {
        let state = if s.ready {
            v1::PodSandboxState::SandboxReady
        } else {
            v1::PodSandboxState::SandboxNotready
        };
        (s.id.shared(), state as i32)
    };
    let container = |c: &Container| (c.id.shared(), state_number(&c.state));
    let sandboxes = observed.sandboxes.iter().map(sandbox);
    let there = observed.containers.iter().filter(|c| !c.gone);
    digest_of(sandboxes.chain(there.map(container)))
}

/// Returns the digest of these states.
pub fn digest_of(digest: impl Iterator<Item = (Arc<str>, i32)>) -> StateDigest {
    let mut digest: StateDigest = digest.collect();
    digest.sort_unstable();
    digest
}

fn state_number(state: &State) -> i32 {
    let state = match state {
        State::Created => v1::ContainerState::ContainerCreated,
        State::Running { .. } => v1::ContainerState::ContainerRunning,
        State::Exited(_) => v1::ContainerState::ContainerExited,
        State::Unknown => v1::ContainerState::ContainerUnknown,
    };
    state as i32
}

/// One sandbox; `None` if it is gone.
///
/// # Errors
/// Any failure of the call.
pub async fn inspect_sandbox(
    client: &Client,
    clock: &Clock,
    id: &SandboxId,
) -> Result<Option<Sandbox>, Error> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_string(),
        verbose: false,
    };
    let answer = if_found(client.pod_sandbox_status(request).await)?;
    let status = answer.and_then(|answer| answer.status);
    Ok(status.map(|status| sandbox(clock, status)))
}

/// A sandbox as its status has it.
#[must_use]
pub fn sandbox(clock: &Clock, status: v1::PodSandboxStatus) -> Sandbox {
    let network = status.network.unwrap_or_default();
    let metadata = status.metadata.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    let ips = std::iter::once(network.ip).chain(more);
    Sandbox {
        id: status.id.into(),
        uid: metadata.uid.into(),
        attempt: metadata.attempt,
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        created: clock.monotonic_of(status.created_at),
        ips: ips.filter(|ip| !ip.is_empty()).collect(),
    }
}

/// One container, without the sandbox it lives in, which its status does not have; `None` if it is
/// gone.
///
/// # Errors
/// Any failure of the call.
pub async fn inspect_container(
    client: &Client,
    clock: &Clock,
    id: &ContainerId,
) -> Result<Option<Container>, Error> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_string(),
        verbose: false,
    };
    let answer = if_found(client.container_status(request).await)?;
    let status = answer.and_then(|answer| answer.status);
    Ok(status.map(|status| container(clock, &status)))
}

/// A container as its status has it, without the sandbox it lives in.
#[must_use]
pub fn container(clock: &Clock, status: &v1::ContainerStatus) -> Container {
    let metadata = status.metadata.clone().unwrap_or_default();
    Container {
        id: status.id.as_str().into(),
        sandbox: SandboxId::default(),
        uid: uid_label(&status.labels),
        name: metadata.name,
        attempt: metadata.attempt,
        state: state(clock, status),
        image: status.image.clone().unwrap_or_default().image,
        image_ref: status.image_ref.clone(),
        user: status.user.clone().and_then(|user| user.linux).map(user),
        backoff: backoff(&status.annotations),
        grace_period: grace_period(&status.annotations),
        gone: false,
    }
}

/// The UID that the labels of a container name.
fn uid_label(labels: &HashMap<String, String>) -> Uid {
    let uid = labels.get(labels::POD_UID);
    uid.map(|uid| Uid::from(uid.as_str())).unwrap_or_default()
}

fn backoff(annotations: &HashMap<String, String>) -> Option<Duration> {
    let seconds = annotations.get(labels::RESTART_BACKOFF)?.parse().ok()?;
    Some(bounded(Duration::from_secs(seconds)))
}

fn grace_period(annotations: &HashMap<String, String>) -> Option<i64> {
    let seconds: u64 = annotations
        .get(labels::TERMINATION_GRACE_PERIOD)?
        .parse()
        .ok()?;
    seconds.try_into().ok()
}

/// The stop signal that the runtime reports of a container, where it supports such signals.
///
/// # Errors
/// Any failure of the call.
pub async fn stop_signal(client: &Client, id: &ContainerId) -> Result<Option<v1::Signal>, Error> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_string(),
        verbose: false,
    };
    let answer = if_found(client.container_status(request).await)?;
    let status = answer.and_then(|answer| answer.status);
    let signal = status.map(|status| status.stop_signal());
    Ok(signal.filter(|signal| *signal != v1::Signal::RuntimeDefault))
}

fn user(user: v1::LinuxContainerUser) -> LinuxContainerUser {
    LinuxContainerUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_groups: Some(user.supplemental_groups).filter(|groups| !groups.is_empty()),
    }
}

fn state(clock: &Clock, status: &v1::ContainerStatus) -> State {
    match status.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running {
            started_at: status.started_at,
        },
        v1::ContainerState::ContainerExited => State::Exited(Exit {
            code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            started_at: status.started_at,
            finished_at: status.finished_at,
            ended: match status.finished_at {
                // A runtime that does not know when it ended makes it end as it is seen to have.
                ..=0 => clock.now(),
                known => clock.monotonic_of(known),
            },
        }),
        v1::ContainerState::ContainerUnknown => State::Unknown,
    }
}
