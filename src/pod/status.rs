//! A Pod's status as the API has it: a pure function of what is wanted, what is there, what is
//! remembered and the time (Kubernetes, Pod Lifecycle).

mod conditions;
mod containers;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::admission::Rejection;
use super::plan::rules::is_finished;
use super::shutdown;
use super::state::history::Condition;
use super::state::observed::{Container, ContainerId};
use super::state::{Phase, View};
use crate::manifest::StaticPod;
use crate::translate::{NodeFacts, pod_amounts, qos_class};

use conditions::conditions;
use containers::{container_status, of_containers, of_init_containers};
pub(super) use containers::{last_code, last_exit};

/// As much counts of what all containers of a Pod have to say of their ends, in bytes.
const MESSAGE_BYTES: usize = 12 * 1024;

/// The status of a version of a Pod.
#[must_use]
pub fn status(view: View<'_>, facts: &NodeFacts, version: &StaticPod) -> PodStatus {
    let spec = &version.spec;
    let seen = view.state.first_seen(&version.uid).map(|seen| seen.nanos);
    let status = PodStatus {
        qos_class: Some(format!("{:?}", qos_class(spec))),
        start_time: seen.and_then(time),
        ..PodStatus::default()
    };
    // A Pod that may not run here has neither containers nor conditions nor addresses, as with the kubelet.
    let rejected = |reason: &str, message: String| PodStatus {
        phase: Some(Phase::Failed.as_str().to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        ..status.clone()
    };
    if let Some(Rejection { reason, message }) = view.state.rejection(&version.uid) {
        return rejected(reason, format!("Pod was rejected: {message}"));
    }
    if view.state.is_shut_down(&version.uid) && view.observed.has_none_of(&version.uid) {
        return rejected(
            shutdown::NOT_ADMITTED,
            shutdown::NOT_ADMITTED_MESSAGE.to_owned(),
        );
    }
    let (requests, resources) = pod_amounts(spec);
    let inits = of_init_containers(view, facts, version);
    let mut status = PodStatus {
        host_ip: facts.identity.ips.first(),
        host_ips: Some(
            facts
                .identity
                .ips
                .all()
                .into_iter()
                .map(|ip| HostIP { ip })
                .collect(),
        ),
        allocated_resources: Some(requests).filter(|r| !r.is_empty()),
        resources: Some(resources),
        container_statuses: Some(of_containers(view, facts, version)),
        init_container_statuses: Some(inits).filter(|inits| !inits.is_empty()),
        ..status
    };
    status.phase = Some(phase(view, version, &status).as_str().to_owned());
    let finished = view.state.finished(&version.uid);
    if let Some(finished) = finished.filter(|f| !f.reason.is_empty()) {
        status.reason = Some(finished.reason.clone());
        status.message = Some(finished.message.clone());
    }
    if is_terminated(view, version) {
        status.reason = Some(shutdown::TERMINATED.to_owned());
        status.message = Some(shutdown::TERMINATED_MESSAGE.to_owned());
    }
    let ips = pod_ips(view, facts, version);
    status.pod_ip = ips.first().cloned();
    let ips: Vec<PodIP> = ips.into_iter().map(|ip| PodIP { ip }).collect();
    status.pod_ips = Some(ips).filter(|ips| !ips.is_empty());
    status.conditions = Some(conditions(view, version, &status));
    cut_messages(version, &mut status);
    status
}

/// Returns true if a version has been stopped before the machine shuts down. As with the kubelet it is as before
/// while one of its containers runs.
fn is_terminated(view: View<'_>, version: &StaticPod) -> bool {
    let mut containers = view.observed.containers_of(&version.uid);
    view.state.is_shut_down(&version.uid) && !containers.any(Container::is_live)
}

/// Cuts what the containers had to say of their ends to what the Pod as a whole may say, each to the same
/// share (Kubernetes, Determine the Reason for Pod Failure).
fn cut_messages(version: &StaticPod, status: &mut PodStatus) {
    let share = MESSAGE_BYTES
        .checked_div(version.all_containers().count())
        .unwrap_or(MESSAGE_BYTES);
    let inits = status.init_container_statuses.iter_mut().flatten();
    let all = inits.chain(status.container_statuses.iter_mut().flatten());
    let now_and_before = all.flat_map(|s| [&mut s.state, &mut s.last_state]);
    let ended = now_and_before
        .flatten()
        .filter_map(|state| state.terminated.as_mut());
    for message in ended.filter_map(|ended| ended.message.as_mut()) {
        let mut cuts = (0..=share.min(message.len())).rev();
        let fits = cuts.find(|at| message.is_char_boundary(*at));
        message.truncate(fits.unwrap_or(0));
    }
}

/// A time of the machine as the API has it, in whole seconds; `None` for one that is not known.
fn time(nanos: i64) -> Option<Time> {
    let seconds = nanos.div_euclid(1_000_000_000);
    let time = jiff::Timestamp::from_second(seconds).ok();
    time.filter(|_| nanos > 0).map(Time)
}

/// The Pod's addresses: those of its sandbox, which a Pod that is over keeps, or the host's.
fn pod_ips(view: View<'_>, facts: &NodeFacts, version: &StaticPod) -> Vec<String> {
    let sandbox = view.observed.ready_sandbox(&version.uid);
    let sandbox = sandbox.or_else(|| view.observed.newest_sandbox(&version.uid));
    let history = view.state.history(&version.uid);
    if version.is_on_host_network() {
        let there = sandbox.is_some() || history.is_some_and(|h| h.finished.is_some());
        return if there {
            facts.identity.ips.all()
        } else {
            vec![]
        };
    }
    let own = sandbox.map(|s| s.ips.clone()).filter(|ips| !ips.is_empty());
    own.or_else(|| history.map(|h| h.ips.clone()))
        .unwrap_or_default()
}

/// The Pod's phase (Kubernetes, Pod Lifecycle, "Pod phase"). One that is over still is Running while a
/// sidecar of it runs, unless it failed before its own containers came or was cut short.
fn phase(view: View<'_>, version: &StaticPod, status: &PodStatus) -> Phase {
    if is_terminated(view, version) {
        return Phase::Failed;
    }
    let finished = view.state.finished(&version.uid);
    let end = match finished {
        Some(finished) => Some(finished.phase),
        None => is_finished(view, version).then(|| end_phase(version, status)),
    };
    if let Some(end) = end {
        let cut_short = finished.is_some_and(|f| !f.reason.is_empty());
        let lingers = containers::has_running_sidecar(version, status);
        let runs_out = lingers && !cut_short && !containers::has_failed_init(version, status);
        return if runs_out { Phase::Running } else { end };
    }
    let mut statuses = status.container_statuses.iter().flatten();
    let never_ran = statuses.any(containers::never_ran);
    if never_ran || containers::is_initializing(view, version, status) {
        return Phase::Pending;
    }
    Phase::Running
}

/// The phase of a Pod whose containers are over for good, except sidecars.
#[must_use]
pub fn end_phase(version: &StaticPod, status: &PodStatus) -> Phase {
    let mut statuses = status.container_statuses.iter().flatten();
    let all_good = statuses.all(|s| last_code(s) == Some(0));
    if all_good && !containers::has_failed_init(version, status) {
        Phase::Succeeded
    } else {
        Phase::Failed
    }
}

/// The conditions of a status, as they are kept.
#[must_use]
pub fn kept_conditions(status: &PodStatus) -> Vec<Condition> {
    let conditions = status.conditions.iter().flatten();
    let kept = conditions.map(|c| Condition {
        kind: c.type_.clone(),
        status: c.status.clone(),
        since: c
            .last_transition_time
            .as_ref()
            .map_or(0, |t| t.0.as_second().saturating_mul(1_000_000_000)),
    });
    kept.collect()
}

/// The ids of the containers that a status calls ready, and of those it calls started.
#[must_use]
pub fn ready_and_started(status: &PodStatus) -> (Vec<ContainerId>, Vec<ContainerId>) {
    let inits = status.init_container_statuses.iter().flatten();
    let all = inits.chain(status.container_statuses.iter().flatten());
    let (mut ready, mut started) = (vec![], vec![]);
    for status in all {
        let id = status.container_id.as_deref().unwrap_or_default();
        let id = id.split_once("://").map_or(id, |(_, id)| id);
        if id.is_empty() {
            continue;
        }
        if status.ready {
            ready.push(id.into());
        }
        if status.started == Some(true) {
            started.push(id.into());
        }
    }
    (ready, started)
}

/// The status of one container of a version.
#[must_use]
pub fn of_container(
    view: View<'_>,
    facts: &NodeFacts,
    version: &StaticPod,
    name: &str,
) -> Option<ContainerStatus> {
    let spec = version.container(name)?;
    Some(container_status(view, facts, version, spec))
}

#[cfg(test)]
mod tests;
