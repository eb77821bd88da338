//! Report about one Pod: a pure function of what the planner sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::encoded_status::EncodedStatus;
use super::plan::waiting::Waiting;
use super::plan::{kept_version, waiting};
use super::shutdown;
use super::state::View;
use super::state::observed::Container;
use super::state::order::Readiness;
use super::state::progress::{Progress, StepReport, rfc3339};
use super::state::time::MonotonicTime;
use super::status::{last_code, last_exit, status};
use crate::manifest::{ContainerRole, PackedPod, PodKey, StaticPod, Uid};
use crate::source::DesiredPod;
use crate::translate::{NodeFacts, labels};

/// A Pod, as `podkeeper ps` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodReport {
    /// Namespace.
    pub namespace: String,
    /// Full name, which ends in the node's name.
    pub name: String,
    /// The UID of the version that runs, or comes to run.
    pub uid: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Terminating`.
    pub phase: String,
    /// Reason for which it is not all up, in Kubernetes' words (`CrashLoopBackOff`, …); empty if it is.
    pub reason: String,
    /// Details for people.
    pub message: String,
    /// Start of its wait for the reason's end, RFC 3339; empty where that is not known.
    #[serde(default)]
    pub since: String,
    /// Conditions that a running Pod lacks to be Ready: its probes, its readiness gates.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// Steps that are under way.
    #[serde(default)]
    pub steps: Vec<StepReport>,
    /// Warnings about the manifest, each as `line:column: field: message`.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Containers that run.
    pub ready: usize,
    /// Containers in all.
    pub total: usize,
    /// Restarts of all containers.
    pub restarts: u32,
    /// First time that the version was seen, RFC 3339; empty until it was started.
    pub seen: String,
    /// The manifest.
    pub path: String,
    /// Addresses of the Pod.
    pub ips: Vec<String>,
    /// Each container.
    pub containers: Vec<ContainerReport>,
    /// A newer version that waits to take over.
    pub update: Option<UpdateReport>,
    /// True if the Pod is paused: it is stopped, or being stopped, and not started before it is resumed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// True if a restart was requested and is not done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarting: bool,
    /// Failure that keeps an old version of a running Pod from being cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<CleanupReport>,
}

/// A clean-up that fails, and is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanupReport {
    /// `FailedKillPod` or `FailedRemoval`.
    pub reason: String,
    /// The runtime's or the node's error.
    pub message: String,
}

/// A container of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// Its name.
    pub name: String,
    /// The runtime's id of the newest instance; empty if there is none.
    pub id: String,
    /// `running`, `waiting` or `terminated`.
    pub state: String,
    /// Reason for that state.
    pub reason: String,
    /// Details for people.
    pub message: String,
    /// Time since which it runs, has ended or waits, RFC 3339; empty where that is not known.
    #[serde(default)]
    pub since: String,
    /// Number of restarts.
    pub restarts: u32,
    /// The exit code of the last instance that is over.
    pub last_exit_code: Option<i32>,
    /// The runtime's word for that end, `OOMKilled` and the like; empty where there is none.
    #[serde(default)]
    pub last_exit_reason: String,
}

/// A version of a Pod that waits to take over from the one that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    /// Its UID.
    pub uid: String,
    /// Reason for which it waits.
    pub reason: String,
    /// Details for people.
    pub message: String,
    /// First time that it was seen, RFC 3339; empty where that is not known.
    #[serde(default)]
    pub since: String,
}

/// All that a Pod's task reports of its Pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodSnapshot {
    /// In short.
    pub report: PodReport,
    /// The version that this is about: the one that runs, or comes to run.
    pub version: Option<PackedPod>,
    /// The Pod's status as the API has it.
    pub status: EncodedStatus,
    /// True if it is on its way out.
    pub terminating: bool,
    /// Next try of each container that waits, by its name.
    pub until: BTreeMap<String, MonotonicTime>,
    /// The steps that are under way.
    pub progress: Progress,
}

impl PodSnapshot {
    /// The Pod as the API has it, with its status.
    #[must_use]
    pub fn pod(&self) -> Option<Pod> {
        let mut pod = self.version.as_ref()?.unpack().to_pod();
        if !self.report.seen.is_empty() {
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(labels::CONFIG_SEEN.to_owned(), self.report.seen.clone());
        }
        pod.status = Some(self.status.decode());
        Some(pod)
    }

    /// The report with the steps that are under way now.
    #[must_use]
    pub fn current_report(&self) -> PodReport {
        PodReport {
            steps: self.progress.steps(),
            ..self.report.clone()
        }
    }

    /// Returns the state of the Pod for those that are started after it.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let report = &self.report;
        // One that the node rejects has none, and may run once there is room.
        let has_run = !report.containers.is_empty();
        match report.phase.as_str() {
            _ if report.paused => Readiness::Paused,
            _ if self.terminating => Readiness::Terminating,
            _ if self.status.is_ready() => Readiness::Ready,
            "Succeeded" | "Failed" if has_run => Readiness::Over,
            _ => Readiness::NotReady,
        }
    }
}

/// Returns the snapshot of the Pod.
#[must_use]
pub fn report(
    view: View<'_>,
    facts: &NodeFacts,
    key: &PodKey,
    wanted: Option<&DesiredPod>,
) -> PodSnapshot {
    let kept = kept_version(view);
    let shown = kept.or_else(|| ending_version(view)).or(view.wanted);
    let uid = shown.map_or_else(|| left(view), |v| v.uid.clone());
    let mut report = PodReport {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: uid.to_string(),
        ..PodReport::default()
    };
    let known = view.state.pod(&uid);
    report.total = known.map_or(0, |version| version.containers().len());
    let record = view.state.record(&uid);
    let path = wanted.map(|w| w.origin.to_string());
    report.path = path.or(record.map(|r| r.path.clone())).unwrap_or_default();
    report.seen = record.map(|r| r.seen.clone()).unwrap_or_default();
    let status = shown.map(|version| status(view, facts, version));
    let status = status.unwrap_or_default();
    if let Some(version) = shown {
        describe(&mut report, &status, view, version);
    }
    let stays = |uid: &Uid| wanted.is_some() && !view.state.is_terminating(uid);
    let stays = shown.is_some_and(|v| stays(&v.uid));
    if !stays {
        "Terminating".clone_into(&mut report.phase);
        report.since.clear();
        report.waits_for.clear();
        let failure = waiting::cleanup_of_others(view, &Uid::default()).unwrap_or_default();
        (report.reason, report.message) = (failure.reason, failure.message);
    } else if view.wanted.is_some_and(|w| w.uid == uid) {
        let failure = waiting::cleanup_of_others(view, &uid);
        report.cleanup =
            failure.map(|Waiting { reason, message }| CleanupReport { reason, message });
    }
    if stays && view.state.is_shut_down(&uid) && status.reason.is_none() {
        shutdown::TERMINATED.clone_into(&mut report.reason);
        shutdown::TERMINATED_MESSAGE.clone_into(&mut report.message);
        report.since.clear();
    }
    report.restarting = shown.is_some_and(|version| is_restarting(view, version));
    let newer = view.wanted.filter(|w| w.uid != uid);
    report.update = newer.map(|version| update_report(view, version));
    let warnings = wanted.into_iter().flat_map(|w| &w.warnings);
    report.warnings = warnings.map(ToString::to_string).collect();
    let until = shown.filter(|_| stays);
    let until = until.map(|version| until_when(view, version, &status));
    PodSnapshot {
        report,
        version: shown.map(|version| packed(view, version)),
        status: EncodedStatus::from(&status),
        terminating: !stays,
        until: until.unwrap_or_default(),
        progress: view.state.progress.clone(),
    }
}

fn packed(view: View<'_>, version: &StaticPod) -> PackedPod {
    let known = view.state.packed(&version.uid).cloned();
    known.unwrap_or_else(|| PackedPod::from(version))
}

/// Returns true if the newest instance of a container is one whose restart was requested.
fn is_restarting(view: View<'_>, version: &StaticPod) -> bool {
    // An init container that is over is not started again where its sandbox stayed.
    let is_init = |name: &str| version.role(name) == ContainerRole::Init;
    let mut specs = version.all_containers().filter(|spec| !is_init(&spec.name));
    specs.any(|spec| {
        let history = view.observed.history_of(&version.uid, &spec.name);
        let newest = history.into_iter().next();
        newest.is_some_and(|c| view.state.is_restart_requested(c))
    })
}

/// Returns the reason for which a version does not take over yet.
fn update_report(view: View<'_>, version: &StaticPod) -> UpdateReport {
    let Waiting { reason, message } = waiting::update(view, version);
    UpdateReport {
        uid: version.uid.to_string(),
        reason,
        message,
        since: text(waiting::first_seen(view, &version.uid)),
    }
}

/// Returns the next try of each container that waits.
fn until_when(
    view: View<'_>,
    version: &StaticPod,
    status: &PodStatus,
) -> BTreeMap<String, MonotonicTime> {
    let inits = status.init_container_statuses.iter().flatten();
    let all = inits.chain(status.container_statuses.iter().flatten());
    let waiting = all.filter(|s| s.state.as_ref().is_some_and(|s| s.waiting.is_some()));
    let until = waiting.filter_map(|s| {
        let due = waiting::until(view, version, &s.name)?;
        Some((s.name.clone(), due))
    });
    until.collect()
}

/// The UID of what is left of the Pod, where there is no version to show; empty if nothing is.
fn left(view: View<'_>) -> Uid {
    let sandbox = view.observed.sandboxes.iter().map(|s| &s.uid);
    let mut left = sandbox
        .chain(view.state.uids_terminating())
        .chain(view.state.uids_on_disk());
    left.next().cloned().unwrap_or_default()
}

/// The version that has not ended yet and gives way to another one or to none: it is the Pod until nothing of
/// it runs any more.
fn ending_version(view: View<'_>) -> Option<&Arc<StaticPod>> {
    let (observed, state) = (view.observed, view.state);
    let wanted = view.wanted.map(|w| &w.uid);
    let live = |uid: &Uid| observed.containers_of(uid).any(Container::is_live);
    let ends = |uid: &Uid| Some(uid) != wanted || state.is_terminating(uid);
    let runs = |uid: &Uid| live(uid) || observed.ready_sandbox(uid).is_some();
    let ending = observed.uids().filter(|uid| ends(uid) && runs(uid));
    let ending = ending.filter_map(|uid| state.pod(uid));
    ending.max_by_key(|version| {
        let uid = &version.uid;
        let newest = observed.sandboxes_of(uid).map(|s| s.created).max();
        (live(uid), newest, uid)
    })
}

fn describe(report: &mut PodReport, status: &PodStatus, view: View<'_>, version: &StaticPod) {
    let ips = status.pod_ips.iter().flatten();
    report.ips = ips.map(|ip| ip.ip.clone()).collect();
    let statuses = status.container_statuses.iter().flatten();
    // No more room than needed is kept for as long as the Pod is there.
    report.containers = Vec::with_capacity(statuses.clone().count());
    let statuses = statuses.map(|s| container_report(s, view, version));
    report.containers.extend(statuses);
    let sidecars = status.init_container_statuses.iter().flatten();
    let sidecars = sidecars.filter(|s| version.role(&s.name) == ContainerRole::Sidecar);
    let counted = sidecars.chain(status.container_statuses.iter().flatten());
    let counted: Vec<&ContainerStatus> = counted.collect();
    report.total = version.containers().len().max(counted.len());
    report.ready = counted.iter().filter(|s| s.ready).count();
    report.restarts = counted
        .iter()
        .map(|s| restarts(s))
        .fold(0, u32::saturating_add);
    report.phase = status.phase.clone().unwrap_or_default();
    if report.phase == "Running" {
        report.waits_for = unready(version, status);
    }
    if let Some(reason) = &status.reason {
        report.reason.clone_from(reason);
        report.message = status.message.clone().unwrap_or_default();
        report.since = text(waiting::first_seen(view, &version.uid));
        return;
    }
    let troubled = report.containers.iter().find(|c| c.state != "running");
    let waiting = init_waiting(view, version, status).filter(|_| report.phase == "Pending");
    let troubled = troubled.map(|c| (Waiting::new(&c.reason, &c.message), c.since.clone()));
    if let Some((Waiting { reason, message }, since)) = waiting.or(troubled) {
        report.reason = reason;
        report.message = message;
        report.since = since;
    }
}

/// Returns the conditions that a running Pod lacks to be Ready.
fn unready(version: &StaticPod, status: &PodStatus) -> Vec<String> {
    let mut waits_for = vec![];
    let conditions = status.conditions.iter().flatten();
    let condition = |kind: &str| conditions.clone().find(|c| c.type_ == kind);
    let since = condition("ContainersReady").filter(|c| c.status == "False");
    let since = since.and_then(|c| c.last_transition_time.as_ref());
    let since = since.map_or(String::new(), |time| format!(", since {}", time.0));
    let inits = status.init_container_statuses.iter().flatten();
    let inits = inits.filter(|s| version.role(&s.name) == ContainerRole::Sidecar);
    for container in inits.chain(status.container_statuses.iter().flatten()) {
        let state = container.state.as_ref();
        let runs = state.is_some_and(|s| s.running.is_some());
        let spec = version.container(&container.name);
        let startup = spec.is_some_and(|s| s.startup_probe.is_some());
        let probe = match container.started {
            Some(true) => "the readiness probe does not succeed",
            _ if startup => "the startup probe has not succeeded yet",
            // The hook after its start is a step that is under way.
            _ => continue,
        };
        if runs && !container.ready {
            waits_for.push(format!("container {}: {probe}{since}", container.name));
        }
    }
    let gates =
        condition("Ready").filter(|c| c.reason.as_deref() == Some("ReadinessGatesNotReady"));
    waits_for.extend(gates.and_then(|ready| ready.message.clone()));
    waits_for
}

fn restarts(status: &ContainerStatus) -> u32 {
    status.restart_count.try_into().unwrap_or(0)
}

/// A time in nanoseconds since the epoch as RFC 3339.
fn text(nanos: Option<i64>) -> String {
    nanos.map_or_else(String::new, rfc3339)
}

/// Returns the progress of the init containers, as kubectl writes it, and since when.
fn init_waiting(
    view: View<'_>,
    version: &StaticPod,
    status: &PodStatus,
) -> Option<(Waiting, String)> {
    let inits = status.init_container_statuses.as_deref()?;
    let done = |status: &ContainerStatus| match version.role(&status.name) {
        ContainerRole::Sidecar => status.started == Some(true),
        _ => status.ready,
    };
    let (index, open) = inits.iter().enumerate().find(|(_, status)| !done(status))?;
    let report = container_report(open, view, version);
    let progress = || format!("Init:{index}/{}", inits.len());
    let reason = match report.state.as_str() {
        "running" => progress(),
        _ if ["", "PodInitializing"].contains(&report.reason.as_str()) => progress(),
        _ => format!("Init:{}", report.reason),
    };
    Some((Waiting::new(&reason, report.message), report.since))
}

/// A container's status in short, with what blocks it where the status does not say.
fn container_report(
    status: &ContainerStatus,
    view: View<'_>,
    version: &StaticPod,
) -> ContainerReport {
    let id = status.container_id.as_deref().unwrap_or_default();
    let last_exit = last_exit(status);
    let mut report = ContainerReport {
        name: status.name.clone(),
        id: id.split_once("://").map_or(id, |(_, id)| id).to_owned(),
        restarts: restarts(status),
        last_exit_code: last_code(status),
        last_exit_reason: last_exit.and_then(|t| t.reason.clone()).unwrap_or_default(),
        ..ContainerReport::default()
    };
    if let Some(Waiting { reason, message }) = waiting::blocked_by(view, version, &status.name) {
        "waiting".clone_into(&mut report.state);
        (report.reason, report.message) = (reason, message);
        report.since = text(waiting::since(view, version, &status.name));
        return report;
    }
    let Some(state) = &status.state else {
        return report;
    };
    let at = |time: &Option<Time>| time.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
    let (word, reason, message) = if let Some(waiting) = &state.waiting {
        report.since = text(waiting::since(view, version, &status.name));
        ("waiting", &waiting.reason, &waiting.message)
    } else if let Some(terminated) = &state.terminated {
        report.since = at(&terminated.finished_at);
        ("terminated", &terminated.reason, &terminated.message)
    } else {
        let running = state.running.as_ref();
        report.since = running.map(|r| at(&r.started_at)).unwrap_or_default();
        ("running", &None, &None)
    };
    word.clone_into(&mut report.state);
    report.reason = reason.clone().unwrap_or_default();
    report.message = message.clone().unwrap_or_default();
    report
}
