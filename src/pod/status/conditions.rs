//! A Pod's conditions, and since when they hold.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::time;
use crate::manifest::StaticPod;
use crate::pod::moment::Moment;
use crate::pod::plan::View;
use crate::pod::rules::{Role, role};

/// What is said of a condition.
struct Finding {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Finding {
    fn plain(holds: bool) -> Self {
        Self {
            holds,
            reason: None,
            message: None,
        }
    }

    fn because(holds: bool, reason: &'static str, message: Option<String>) -> Self {
        Self {
            holds,
            reason: Some(reason),
            message,
        }
    }
}

/// The conditions of a status that is complete but for them. One that is as it was keeps its time.
pub(super) fn conditions(
    view: View<'_>,
    version: &StaticPod,
    status: &PodStatus,
) -> Vec<PodCondition> {
    let ready_to_start = view.observed.ready_sandbox(&version.uid).is_some();
    let containers_ready = containers_ready(version, status);
    let all = [
        ("PodReadyToStartContainers", Finding::plain(ready_to_start)),
        ("Initialized", initialized(version, status)),
        ("Ready", ready(version, status)),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Finding::plain(true)),
    ];
    let condition = |(kind, finding): (&str, Finding)| {
        let word = if finding.holds { "True" } else { "False" };
        PodCondition {
            type_: kind.to_owned(),
            status: word.to_owned(),
            reason: finding.reason.map(str::to_owned),
            message: finding.message,
            last_transition_time: since(view, version, kind, word).and_then(time),
            ..PodCondition::default()
        }
    };
    all.map(condition).into()
}

/// Since when a condition holds, in nanoseconds since the epoch: as long as remembered, else from now.
fn since(view: View<'_>, version: &StaticPod, kind: &str, word: &str) -> Option<i64> {
    let history = view.memory.histories.get(&version.uid);
    let mut known = history.into_iter().flat_map(|h| &h.conditions);
    let same = known.find(|c| c.kind == kind && c.status == word);
    let (seen, moment) = view.memory.seen.get(&version.uid)?;
    same.map(|c| c.since)
        .or_else(|| Some(wall_of(view.now, *seen, *moment)))
}

/// The machine's time at this moment, from a moment whose time is known.
fn wall_of(now: Moment, nanos: i64, at: Moment) -> i64 {
    let since = i64::try_from(now.since(at).as_nanos()).unwrap_or(i64::MAX);
    nanos.saturating_add(since)
}

fn is_over(status: &PodStatus) -> Option<&'static str> {
    match status.phase.as_deref()? {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    }
}

fn initialized(version: &StaticPod, status: &PodStatus) -> Finding {
    if status.phase.as_deref() == Some("Succeeded") {
        return Finding::because(true, "PodCompleted", None);
    }
    let inits = status
        .init_container_statuses
        .as_deref()
        .unwrap_or_default();
    let open = |s: &&ContainerStatus| match role(version, &s.name) {
        Role::Sidecar => s.started != Some(true),
        _ => !s.ready,
    };
    // Once one of the Pod's own containers ran, whatever came before was done.
    let mains = status.container_statuses.iter().flatten();
    let begun = mains.into_iter().any(|s| s.container_id.is_some());
    let open: Vec<&str> = inits.iter().filter(open).map(|s| s.name.as_str()).collect();
    if open.is_empty() || begun {
        return Finding::plain(true);
    }
    let message = format!("containers with incomplete status: [{}]", open.join(" "));
    Finding::because(false, "ContainersNotInitialized", Some(message))
}

fn containers_ready(version: &StaticPod, status: &PodStatus) -> Finding {
    if let Some(reason) = is_over(status) {
        return Finding::because(false, reason, None);
    }
    let inits = status.init_container_statuses.iter().flatten();
    let sidecars = inits.filter(|s| role(version, &s.name) == Role::Sidecar);
    let all = sidecars.chain(status.container_statuses.iter().flatten());
    let unready: Vec<&str> = all.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Finding::plain(true);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Finding::because(false, "ContainersNotReady", Some(message))
}

/// Ready is what the containers are, and what gates there are; nobody opens those of a static Pod.
fn ready(version: &StaticPod, status: &PodStatus) -> Finding {
    let containers = containers_ready(version, status);
    let spec = version.pod.spec.as_ref();
    let gates = spec.and_then(|s| s.readiness_gates.as_deref());
    match gates.and_then(|gates| gates.first()) {
        Some(gate) if containers.holds => {
            let message = format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            );
            Finding::because(false, "ReadinessGatesNotReady", Some(message))
        }
        _ => containers,
    }
}
