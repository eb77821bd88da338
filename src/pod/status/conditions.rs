//! A Pod's conditions, and since when they hold.

use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerStatus, PodCondition, PodStatus,
};

use super::time;
use crate::manifest::{ContainerRole, StaticPod};
use crate::pod::plan::rules::{can_restart_all, is_restarting_all};
use crate::pod::shutdown;
use crate::pod::state::View;
use crate::pod::state::time::MonotonicTime;

/// The reason and message of a condition.
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

    fn word(&self) -> &'static str {
        if self.holds { "True" } else { "False" }
    }

    fn because(holds: bool, reason: &'static str, message: Option<String>) -> Self {
        Self {
            holds,
            reason: Some(reason),
            message,
        }
    }
}

/// The conditions of a status that is complete but for them, in the kubelet's order. One that is as it was
/// keeps its time.
pub(super) fn conditions(
    view: View<'_>,
    version: &StaticPod,
    status: &PodStatus,
) -> Vec<PodCondition> {
    let ready_to_start = view.observed.ready_sandbox(&version.uid).is_some();
    let mut all = vec![
        ("PodReadyToStartContainers", Finding::plain(ready_to_start)),
        ("Initialized", initialized(view, version, status)),
    ];
    // A readiness gate sees those that were found before Ready is.
    all.push(("Ready", ready(version, status, &all)));
    all.push(("ContainersReady", containers_ready(version, status)));
    all.push(("PodScheduled", Finding::plain(true)));
    if can_restart_all(version) {
        let restarting = all_containers_restarting(view, version, status);
        all.push(("AllContainersRestarting", restarting));
    }
    if status.reason.as_deref() == Some(shutdown::TERMINATED) {
        let message = Some(shutdown::TERMINATED_MESSAGE.to_owned());
        let disrupted = Finding::because(true, shutdown::TERMINATED_BY, message);
        all.push(("DisruptionTarget", disrupted));
    }
    let condition = |(kind, finding): (&str, Finding)| {
        let word = finding.word();
        PodCondition {
            type_: kind.to_owned(),
            status: word.to_owned(),
            reason: finding.reason.map(str::to_owned),
            message: finding.message,
            last_transition_time: since(view, version, kind, word).and_then(time),
            ..PodCondition::default()
        }
    };
    all.into_iter().map(condition).collect()
}

/// Time since which a condition holds, in nanoseconds since the epoch: from the history, else now.
fn since(view: View<'_>, version: &StaticPod, kind: &str, word: &str) -> Option<i64> {
    let history = view.state.history(&version.uid);
    let mut known = history.into_iter().flat_map(|h| &h.conditions);
    let same = known.find(|c| c.kind == kind && c.status == word);
    let seen = view.state.first_seen(&version.uid)?;
    same.map(|c| c.since)
        .or_else(|| Some(wall_of(view.now, seen.nanos, seen.monotonic)))
}

/// The machine's time `now`, from a monotonic time whose wall-clock time is known.
fn wall_of(now: MonotonicTime, nanos: i64, at: MonotonicTime) -> i64 {
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

/// The statuses of these containers, in the order of the manifest, which is the one that messages name them
/// in.
fn in_order<'a>(
    specs: &'a [ContainerSpec],
    statuses: Option<&'a Vec<ContainerStatus>>,
) -> impl Iterator<Item = &'a ContainerStatus> {
    let of = move |spec: &ContainerSpec| statuses?.iter().find(|s| s.name == spec.name);
    specs.iter().filter_map(of)
}

fn initialized(view: View<'_>, version: &StaticPod, status: &PodStatus) -> Finding {
    if status.phase.as_deref() == Some("Succeeded") {
        return Finding::because(true, "PodCompleted", None);
    }
    let open = |s: &&ContainerStatus| match version.role(&s.name) {
        ContainerRole::Sidecar => s.started != Some(true),
        _ => !s.ready,
    };
    // Once one of the Pod's own containers ran, whatever came before was done.
    let mut mains = status.container_statuses.iter().flatten();
    let begun = mains.any(|s| {
        let state = s.state.as_ref();
        state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    });
    // Nor does it become undone: init containers run once more where all containers restart.
    let history = view.state.history(&version.uid);
    let mut known = history.into_iter().flat_map(|h| &h.conditions);
    let before = known.any(|c| c.kind == "Initialized" && c.status == "True");
    let inits = in_order(
        version.init_containers(),
        status.init_container_statuses.as_ref(),
    );
    let open: Vec<&str> = inits.filter(open).map(|s| s.name.as_str()).collect();
    if open.is_empty() || begun || before {
        return Finding::plain(true);
    }
    let message = format!("containers with incomplete status: [{}]", open.join(" "));
    Finding::because(false, "ContainersNotInitialized", Some(message))
}

fn containers_ready(version: &StaticPod, status: &PodStatus) -> Finding {
    if let Some(reason) = is_over(status) {
        return Finding::because(false, reason, None);
    }
    let inits = in_order(
        version.init_containers(),
        status.init_container_statuses.as_ref(),
    );
    let sidecars = inits.filter(|s| version.role(&s.name) == ContainerRole::Sidecar);
    let mains = in_order(version.containers(), status.container_statuses.as_ref());
    let unready = sidecars.chain(mains).filter(|s| !s.ready);
    let unready: Vec<&str> = unready.map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Finding::plain(true);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Finding::because(false, "ContainersNotReady", Some(message))
}

/// Ready is what the containers are, and what gates there are. Of the conditions that gates can be about
/// only those found so far are there; nobody sets others on a static Pod.
fn ready(version: &StaticPod, status: &PodStatus, found: &[(&str, Finding)]) -> Finding {
    let containers = containers_ready(version, status);
    if !containers.holds {
        return containers;
    }
    let gates = version.spec.readiness_gates.as_ref();
    let closed = gates.into_iter().flatten().filter_map(|gate| {
        let gate = gate.condition_type.as_str();
        match found.iter().find(|(kind, _)| *kind == gate) {
            None => Some(format!(
                "corresponding condition of pod readiness gate {gate:?} does not exist."
            )),
            Some((_, finding)) if !finding.holds => Some(format!(
                "the status of pod readiness gate {gate:?} is not \"True\", but {}",
                finding.word()
            )),
            Some(_) => None,
        }
    });
    let closed: Vec<String> = closed.collect();
    if closed.is_empty() {
        return containers;
    }
    Finding::because(false, "ReadinessGatesNotReady", Some(closed.join(", ")))
}

/// Returns true if all containers are on their way to restart (Kubernetes, Pod Lifecycle, "Restart All
/// Containers").
fn all_containers_restarting(view: View<'_>, version: &StaticPod, status: &PodStatus) -> Finding {
    if let Some(reason) = is_over(status) {
        return Finding::because(false, reason, None);
    }
    if !is_restarting_all(view, version) {
        return Finding::plain(false);
    }
    let message = "container exited with restart policy rule".to_owned();
    Finding::because(true, "RestartAllContainersStarted", Some(message))
}
