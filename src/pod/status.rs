//! A Pod's status as the API has it: a pure function of what is wanted, what is there, what is
//! remembered and the time (Kubernetes, Pod Lifecycle).

mod conditions;
mod containers;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::admission::Rejection;
use super::history::Condition;
use super::plan::View;
use super::rules::{Role, all_containers, is_finished, role};
use crate::manifest::StaticPod;
use crate::translate::{NodeFacts, pod_amounts, qos_class};

use conditions::conditions;
pub(super) use containers::last_code;
use containers::{container_status, of_containers, of_init_containers};

/// The status of a version of a Pod.
#[must_use]
pub fn status(view: View<'_>, facts: &NodeFacts, version: &StaticPod) -> PodStatus {
    let Some(spec) = &version.pod.spec else {
        return PodStatus::default();
    };
    let seen = view.memory.seen.get(&version.uid).map(|(nanos, _)| *nanos);
    let mut status = PodStatus {
        host_ip: facts.host_ips.first(),
        host_ips: Some(
            facts
                .host_ips
                .all()
                .into_iter()
                .map(|ip| HostIP { ip })
                .collect(),
        ),
        qos_class: Some(format!("{:?}", qos_class(spec))),
        start_time: seen.and_then(time),
        ..PodStatus::default()
    };
    if let Some(Rejection { reason, message }) = view.memory.rejections.get(&version.uid) {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(reason.to_string());
        status.message = Some(format!("Pod was rejected: {message}"));
    } else {
        let (requests, resources) = pod_amounts(spec);
        status.allocated_resources = Some(requests).filter(|r| !r.is_empty());
        status.resources = Some(resources);
        status.container_statuses = Some(of_containers(view, facts, version));
        let inits = of_init_containers(view, facts, version);
        status.init_container_statuses = Some(inits).filter(|inits| !inits.is_empty());
        status.phase = Some(phase(view, version, &status).to_owned());
        let finished = view.memory.finished(&version.uid);
        if let Some(finished) = finished.filter(|f| !f.reason.is_empty()) {
            status.reason = Some(finished.reason.clone());
            status.message = Some(finished.message.clone());
        }
        let ips = pod_ips(view, facts, version);
        status.pod_ip = ips.first().cloned();
        let ips: Vec<PodIP> = ips.into_iter().map(|ip| PodIP { ip }).collect();
        status.pod_ips = Some(ips).filter(|ips| !ips.is_empty());
    }
    status.conditions = Some(conditions(view, version, &status));
    status
}

/// A time of the machine as the API has it, in whole seconds; `None` for one that is not known.
fn time(nanos: i64) -> Option<Time> {
    let seconds = nanos.div_euclid(1_000_000_000);
    let time = jiff::Timestamp::from_second(seconds).ok();
    time.filter(|_| nanos > 0).map(Time)
}

/// The Pod's addresses: those of its sandbox, which a Pod that is over keeps, or the host's.
fn pod_ips(view: View<'_>, facts: &NodeFacts, version: &StaticPod) -> Vec<String> {
    let spec = version.pod.spec.as_ref();
    let sandbox = view.observed.ready_sandbox(&version.uid);
    let sandbox = sandbox.or_else(|| view.observed.newest_sandbox(&version.uid));
    let history = view.memory.histories.get(&version.uid);
    if spec.is_some_and(|s| s.host_network == Some(true)) {
        let there = sandbox.is_some() || history.is_some_and(|h| h.finished.is_some());
        return if there { facts.host_ips.all() } else { vec![] };
    }
    let own = sandbox.map(|s| s.ips.clone()).filter(|ips| !ips.is_empty());
    own.or_else(|| history.map(|h| h.ips.clone()))
        .unwrap_or_default()
}

/// The Pod's phase (Kubernetes, Pod Lifecycle, "Pod phase").
fn phase(view: View<'_>, version: &StaticPod, status: &PodStatus) -> &'static str {
    if let Some(finished) = view.memory.finished(&version.uid) {
        return if finished.phase == "Succeeded" {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    if is_finished(view, version) {
        let inits = status
            .init_container_statuses
            .as_deref()
            .unwrap_or_default();
        let failed = |code: i32| code != 0;
        let codes = statuses.iter().map(last_code);
        let broken = inits
            .iter()
            .filter(|s| role(version, &s.name) == Role::Init)
            .any(|s| last_code(s).is_some_and(failed));
        let all_good = codes.into_iter().all(|code| code == Some(0));
        return if all_good && !broken {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    let never_ran = statuses.iter().any(containers::never_ran);
    if never_ran || containers::is_initializing(version, status) {
        return "Pending";
    }
    "Running"
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
pub fn ready_and_started(status: &PodStatus) -> (Vec<String>, Vec<String>) {
    let inits = status.init_container_statuses.iter().flatten();
    let all = inits.chain(status.container_statuses.iter().flatten());
    let (mut ready, mut started) = (vec![], vec![]);
    for status in all {
        let id = status.container_id.as_deref().unwrap_or_default();
        let id = id.split_once("://").map_or(id, |(_, id)| id);
        if status.ready {
            ready.push(id.to_owned());
        }
        if status.started == Some(true) {
            started.push(id.to_owned());
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
    let spec = all_containers(version).find(|c| c.name == name)?;
    Some(container_status(view, facts, version, spec))
}
