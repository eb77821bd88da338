//! The status of single containers.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, PodSpec, PodStatus, VolumeMount,
    VolumeMountStatus,
};

use super::time;
use crate::manifest::{ContainerRole, StaticPod};
use crate::pod::go_duration::in_go;
use crate::pod::plan::rules::{Restart, is_finished, is_restarting_all, restart};
use crate::pod::plan::waiting;
use crate::pod::plan::waiting::Waiting;
use crate::pod::state::View;
use crate::pod::state::observed::{Container, ContainerId, Exit, State};
use crate::translate::{NodeFacts, container_amounts};

pub(super) fn of_containers(
    view: View<'_>,
    facts: &NodeFacts,
    version: &StaticPod,
) -> Vec<ContainerStatus> {
    let specs = version.containers().iter();
    let mut statuses: Vec<_> = specs
        .map(|spec| container_status(view, facts, version, spec))
        .collect();
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

/// In the order of their start.
pub(super) fn of_init_containers(
    view: View<'_>,
    facts: &NodeFacts,
    version: &StaticPod,
) -> Vec<ContainerStatus> {
    let specs = version.init_containers().iter();
    specs
        .map(|spec| container_status(view, facts, version, spec))
        .collect()
}

pub(super) fn container_status(
    view: View<'_>,
    facts: &NodeFacts,
    version: &StaticPod,
    spec: &ContainerSpec,
) -> ContainerStatus {
    let history = view.observed.history_of(&version.uid, &spec.name);
    let Some((newest, older)) = history.split_first() else {
        return match version.role(&spec.name) {
            ContainerRole::Init if has_begun(view, version) => removed_init(facts, version, spec),
            _ => never_made(view, facts, version, spec),
        };
    };
    let pod_spec = &version.spec;
    let (allocated, resources) = container_amounts(pod_spec, spec);
    let before = older
        .iter()
        .find_map(|c| Some((c.id.clone(), c.exit()?.clone())));
    let before = before.or_else(|| remembered_end(view, newest));
    let state = state(view, facts, version, newest);
    let mut last_state = before.map(|(id, exit)| terminated(facts, &id, &exit));
    if let (State::Exited(exit), None) = (&newest.state, &state.terminated) {
        last_state = Some(terminated(facts, &newest.id, exit));
    }
    let last_state = last_state.map(|terminated| ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    });
    let started = state.running.is_some() && is_started(view, newest);
    ContainerStatus {
        name: spec.name.clone(),
        image: newest.image.clone(),
        image_id: newest.image_ref.clone(),
        container_id: Some(facts.container_id(&newest.id)),
        ready: is_ready(view, version, newest, &state, started),
        started: Some(started),
        restart_count: i32::try_from(newest.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        allocated_resources: Some(allocated).filter(|a| !a.is_empty()),
        resources: Some(resources),
        user: newest
            .user
            .clone()
            .map(|linux| ContainerUser { linux: Some(linux) }),
        volume_mounts: volume_mounts(facts, pod_spec, spec),
        ..ContainerStatus::default()
    }
}

/// Returns the status of a container that was never created; its resources come with its first instance.
fn never_made(
    view: View<'_>,
    facts: &NodeFacts,
    version: &StaticPod,
    spec: &ContainerSpec,
) -> ContainerStatus {
    ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: Some(false),
        state: Some(waiting_state(waiting::first_start(
            view, version, &spec.name,
        ))),
        last_state: Some(ContainerState::default()),
        volume_mounts: volume_mounts(facts, &version.spec, spec),
        ..ContainerStatus::default()
    }
}

/// Returns the status of an init container that somebody removed, and that nothing is remembered of: the
/// Pod's own containers came after it, so it was done (the kubelet's words).
fn removed_init(facts: &NodeFacts, version: &StaticPod, spec: &ContainerSpec) -> ContainerStatus {
    let terminated = ContainerStateTerminated {
        reason: Some("Completed".to_owned()),
        message: Some(
            "Unable to get init container status from container runtime and pod has been initialized"
                .to_owned(),
        ),
        ..ContainerStateTerminated::default()
    };
    ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        ready: true,
        started: Some(false),
        state: Some(ContainerState {
            terminated: Some(terminated),
            ..ContainerState::default()
        }),
        last_state: Some(ContainerState::default()),
        volume_mounts: volume_mounts(facts, &version.spec, spec),
        ..ContainerStatus::default()
    }
}

/// Returns true if a container that runs has started in full: its startup probe passed, and the hook after its
/// start is done.
fn is_started(view: View<'_>, container: &Container) -> bool {
    let hook = view.state.post_starts.get(&container.id);
    hook.is_none() && view.state.health(&container.id).started
}

fn is_ready(
    view: View<'_>,
    version: &StaticPod,
    container: &Container,
    state: &ContainerState,
    started: bool,
) -> bool {
    if version.role(&container.name) == ContainerRole::Init {
        let ended = state.terminated.as_ref();
        return ended.is_some_and(|ended| ended.exit_code == 0);
    }
    started && view.state.health(&container.id).ready
}

fn state(
    view: View<'_>,
    facts: &NodeFacts,
    version: &StaticPod,
    container: &Container,
) -> ContainerState {
    match &container.state {
        State::Running { started_at } => match waiting::failed_hook(view.state, &container.id) {
            Some(waiting) => waiting_state(waiting),
            None => ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: time(*started_at),
                }),
                ..ContainerState::default()
            },
        },
        State::Created | State::Unknown => {
            waiting_state(waiting::first_start(view, version, &container.name))
        }
        State::Exited(exit) => match pause(view, version, container, exit) {
            Some(waiting) => waiting_state(waiting),
            None => ContainerState {
                terminated: Some(terminated(facts, &container.id, exit)),
                ..ContainerState::default()
            },
        },
    }
}

/// Returns the reason for which a container that is over and runs again waits.
fn pause(
    view: View<'_>,
    version: &StaticPod,
    container: &Container,
    exit: &Exit,
) -> Option<Waiting> {
    let Restart::At(due, delay) = restart(view, version, container, exit) else {
        return None;
    };
    if is_finished(view, version) || view.state.is_shut_down(&version.uid) {
        return None;
    }
    let (uid, name) = (&version.uid, &container.name);
    // The kubelet shows how a sidecar ended that ended well, although it starts it again.
    if exit.code == 0 && version.role(name) == ContainerRole::Sidecar {
        return None;
    }
    let retry = waiting::retry(view, version, name);
    if due <= view.now || retry.is_some() {
        let start_error = waiting::start_error(view, version, name);
        let restarting = || restarting_all(view, version, container);
        let held = || waiting::held(view, version);
        return start_error.or_else(restarting).or_else(held);
    }
    let key = &version.key;
    let message = format!(
        "back-off {} restarting failed container={name} pod={}_{}({uid}), next start at {}",
        in_go(delay),
        key.name,
        key.namespace,
        next_start(view, exit, delay)
    );
    Some(Waiting::new("CrashLoopBackOff", message))
}

/// Returns the waiting state of a container that restarts because all do. The kubelet has removed it by then.
fn restarting_all(view: View<'_>, version: &StaticPod, container: &Container) -> Option<Waiting> {
    let waits = is_restarting_all(view, version) && view.state.is_replaced(container);
    let message = "The container is removed because RestartAllContainers in place";
    waits.then(|| Waiting::new("RestartingAllContainers", message))
}

/// Time at which a container that ended so starts again, RFC 3339.
fn next_start(view: View<'_>, exit: &Exit, delay: Duration) -> String {
    let nanos = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
    let due = exit.finished_at.saturating_add(nanos);
    let due = time(view.state.wall.corrected(due, exit.ended.after(delay)));
    due.map_or_else(String::new, |due| due.0.to_string())
}

fn waiting_state(waiting: Waiting) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.reason),
            message: Some(waiting.message).filter(|m| !m.is_empty()),
        }),
        ..ContainerState::default()
    }
}

/// Returns the ID and the end of the instance before this newest one, which the runtime no longer has.
fn remembered_end(view: View<'_>, newest: &Container) -> Option<(ContainerId, Exit)> {
    let history = view.state.history(&newest.uid)?;
    let known = history.containers.get(&newest.name)?;
    let previous = known
        .previous
        .as_ref()
        .filter(|_| known.attempt == newest.attempt)?;
    Some((
        previous.id.clone(),
        previous.ended.exit(previous.started_at),
    ))
}

fn terminated(facts: &NodeFacts, id: &ContainerId, exit: &Exit) -> ContainerStateTerminated {
    let word = if exit.code == 0 { "Completed" } else { "Error" };
    let reason = Some(exit.reason.as_str()).filter(|r| !r.is_empty());
    ContainerStateTerminated {
        container_id: Some(facts.container_id(id)),
        exit_code: exit.code,
        reason: Some(reason.unwrap_or(word).to_owned()),
        message: Some(exit.message.clone()).filter(|m| !m.is_empty()),
        started_at: time(exit.started_at),
        finished_at: time(exit.finished_at),
        ..ContainerStateTerminated::default()
    }
}

/// The mounts that a container asks for, as they are.
fn volume_mounts(
    facts: &NodeFacts,
    pod: &PodSpec,
    spec: &ContainerSpec,
) -> Option<Vec<VolumeMountStatus>> {
    let recursive = facts.handler_features(pod).recursive_read_only_mounts;
    let mount = |mount: &VolumeMount| {
        let read_only = mount.read_only == Some(true);
        let asked = mount.recursive_read_only.as_deref().unwrap_or_default();
        let enabled = asked == "Enabled" || asked == "IfPossible" && recursive;
        let word = if enabled { "Enabled" } else { "Disabled" };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| word.to_owned()),
            ..VolumeMountStatus::default()
        }
    };
    let mounts: Vec<_> = spec.volume_mounts.iter().flatten().map(mount).collect();
    Some(mounts).filter(|mounts| !mounts.is_empty())
}

/// The exit code of the last instance that is over.
pub(in crate::pod) fn last_code(status: &ContainerStatus) -> Option<i32> {
    last_exit(status).map(|terminated| terminated.exit_code)
}

/// The end of the last instance that is over.
pub(in crate::pod) fn last_exit(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now_and_before = [&status.state, &status.last_state];
    let mut ended = now_and_before.into_iter().flatten();
    ended.find_map(|state| state.terminated.as_ref())
}

/// Returns true if no instance of it ever ran.
pub(super) fn never_ran(status: &ContainerStatus) -> bool {
    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
    // One whose hook after its start failed ran.
    let waits = waiting.is_some_and(|w| w.reason.as_deref() != Some("PostStartHookError"));
    waits && last_code(status).is_none()
}

fn runs(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn of_role<'a>(
    version: &'a StaticPod,
    status: &'a PodStatus,
    of: ContainerRole,
) -> impl Iterator<Item = &'a ContainerStatus> {
    let inits = status.init_container_statuses.iter().flatten();
    inits.filter(move |s| version.role(&s.name) == of)
}

/// Returns true if a container that comes before the Pod's own still runs, or has not run yet. A sidecar that is
/// still to start counts only until one of the Pod's own was made in this sandbox.
pub(super) fn is_initializing(view: View<'_>, version: &StaticPod, status: &PodStatus) -> bool {
    if of_role(version, status, ContainerRole::Init).any(|s| never_ran(s) || runs(s)) {
        return true;
    }
    let begun = has_begun(view, version);
    of_role(version, status, ContainerRole::Sidecar)
        .any(|s| never_ran(s) || runs(s) && s.started != Some(true) && !begun)
}

/// Returns true if one of the Pod's own containers was made in its sandbox: all that come before them were done.
fn has_begun(view: View<'_>, version: &StaticPod) -> bool {
    let sandbox = view.observed.ready_sandbox(&version.uid);
    version.containers().iter().any(|spec| {
        let history = view.observed.history_of(&version.uid, &spec.name);
        let mut here = history.iter();
        here.any(|c| sandbox.is_some_and(|s| s.id == c.sandbox))
    })
}

/// Returns true if an init container ended badly the last time.
pub(super) fn has_failed_init(version: &StaticPod, status: &PodStatus) -> bool {
    of_role(version, status, ContainerRole::Init)
        .any(|s| last_code(s).is_some_and(|code| code != 0))
}

/// Returns true if a sidecar runs.
pub(super) fn has_running_sidecar(version: &StaticPod, status: &PodStatus) -> bool {
    of_role(version, status, ContainerRole::Sidecar).any(runs)
}
