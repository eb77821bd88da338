//! What there is to say about one Pod: a pure function of what the planner sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Container as ContainerSpec;
use serde::{Deserialize, Serialize};

use super::admission::Rejection;
use super::folder::Record;
use super::memory::{Image, Memory, Subject};
use super::observed::{Container, State};
use super::plan::{
    Restart, View, containers, init_containers, is_finished, kept_version, restart, wanted_images,
};
use crate::manifest::objects::unmet;
use crate::manifest::{PodKey, StaticPod};
use crate::source::DesiredPod;
use crate::translate::is_sidecar;

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
    /// Why it is not all up, in Kubernetes' words (`CrashLoopBackOff`, …); empty if it is.
    pub reason: String,
    /// What there is to say about the reason.
    pub message: String,
    /// Containers that run.
    pub ready: usize,
    /// Containers in all.
    pub total: usize,
    /// Restarts of all containers.
    pub restarts: u32,
    /// When the version was first seen, RFC 3339; empty until it was started.
    pub seen: String,
    /// The manifest.
    pub path: String,
    /// Addresses of the Pod.
    pub ips: Vec<String>,
    /// Each container.
    pub containers: Vec<ContainerReport>,
    /// A newer version that waits to take over.
    pub update: Option<UpdateReport>,
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
    /// Why it is in that state.
    pub reason: String,
    /// What there is to say about the reason.
    pub message: String,
    /// How often it was restarted.
    pub restarts: u32,
    /// The exit code of the last instance that is over.
    pub last_exit_code: Option<i32>,
}

/// A version of a Pod that waits to take over from the one that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    /// Its UID.
    pub uid: String,
    /// What it waits for.
    pub reason: String,
    /// What there is to say about that.
    pub message: String,
}

/// Why something waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Waiting {
    reason: String,
    message: String,
}

impl Waiting {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// The Pod's report.
#[must_use]
pub fn report(
    view: View<'_>,
    key: &PodKey,
    wanted: Option<&DesiredPod>,
    records: &BTreeMap<String, Record>,
) -> PodReport {
    let kept = kept_version(view);
    let shown = kept.or_else(|| leaving_version(view)).or(view.wanted);
    let mut report = PodReport {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: shown.map(|v| v.uid.clone()).unwrap_or_default(),
        ..PodReport::default()
    };
    let record = records.get(&report.uid);
    let path = wanted.map(|w| w.origin.to_string());
    report.path = path.or(record.map(|r| r.path.clone())).unwrap_or_default();
    report.seen = record.map(|r| r.seen.clone()).unwrap_or_default();
    if let Some(version) = shown {
        describe(&mut report, view, version);
    }
    let stays = |uid: &String| wanted.is_some() && !view.memory.terminating.contains(uid);
    let stays = shown.is_some_and(|v| stays(&v.uid));
    if !stays {
        "Terminating".clone_into(&mut report.phase);
        report.reason.clear();
        report.message.clear();
    }
    let newer = view.wanted.filter(|w| w.uid != report.uid);
    report.update = newer.map(|version| {
        let Waiting { reason, message } = update_waits_for(view, version);
        UpdateReport {
            uid: version.uid.clone(),
            reason,
            message,
        }
    });
    report
}

/// The version that is on its way out while its containers still run.
fn leaving_version(view: View<'_>) -> Option<&Arc<StaticPod>> {
    let mut leaving = view.memory.terminating.iter();
    let live = |uid: &&String| view.observed.containers_of(uid).any(Container::is_live);
    let uid = leaving.find(live)?;
    view.memory.versions.get(uid)
}

fn describe(report: &mut PodReport, view: View<'_>, version: &StaticPod) {
    let sandbox = view.observed.ready_sandbox(&version.uid);
    report.ips = sandbox.map(|s| s.ips.clone()).unwrap_or_default();
    let specs = containers(version).iter();
    report.containers = specs
        .map(|s| container_report(view, version, &s.name))
        .collect();
    report.total = report.containers.len();
    let running = report.containers.iter().filter(|c| c.state == "running");
    report.ready = running.count();
    report.restarts = report.containers.iter().map(|c| c.restarts).sum();
    report.phase = phase(report, view, version).to_owned();
    if let Some(Rejection { reason, message }) = view.memory.rejections.get(&version.uid) {
        "Failed".clone_into(&mut report.phase);
        (*reason).clone_into(&mut report.reason);
        report.message.clone_from(message);
        return;
    }
    if let Some(waiting) = missing_objects(version).filter(|_| report.phase == "Pending") {
        let unmade = report.containers.iter_mut().filter(|c| c.id.is_empty());
        unmade.for_each(|c| {
            c.reason.clone_from(&waiting.reason);
            c.message.clone_from(&waiting.message);
        });
    }
    let troubled = report.containers.iter().find(|c| c.state != "running");
    let waiting = init_waiting(view, version).filter(|_| report.phase == "Pending");
    let waiting = waiting.or_else(|| troubled.map(|c| Waiting::new(&c.reason, &c.message)));
    if let Some(Waiting { reason, message }) = waiting {
        report.reason = reason;
        report.message = message;
    }
}

/// The `ConfigMap`s and `Secret`s that the version waits for.
fn missing_objects(version: &StaticPod) -> Option<Waiting> {
    let unmet = unmet(version);
    (!unmet.is_empty()).then(|| Waiting::new("CreateContainerConfigError", unmet.join("; ")))
}

/// What the containers wait for that must come first, as kubectl writes it.
fn init_waiting(view: View<'_>, version: &StaticPod) -> Option<Waiting> {
    let inits = init_containers(version);
    let reports = inits
        .iter()
        .map(|c| (c, container_report(view, version, &c.name)));
    let done = |spec: &ContainerSpec, report: &ContainerReport| {
        if is_sidecar(spec) {
            report.state == "running"
        } else {
            report.state == "terminated" && report.last_exit_code == Some(0)
        }
    };
    let mut open = reports
        .enumerate()
        .skip_while(|(_, (c, report))| done(c, report));
    let (index, (_, report)) = open.next()?;
    let progress = || format!("Init:{index}/{}", inits.len());
    let reason = match report.state.as_str() {
        "running" => progress(),
        _ if report.reason.is_empty() => progress(),
        _ => format!("Init:{}", report.reason),
    };
    Some(Waiting::new(&reason, report.message))
}

/// The Pod's phase (Kubernetes, Pod Lifecycle, "Pod phase").
fn phase(report: &PodReport, view: View<'_>, version: &StaticPod) -> &'static str {
    if is_finished(version, view.observed) {
        let failed = report
            .containers
            .iter()
            .any(|c| c.last_exit_code != Some(0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    let never_started = |c: &ContainerReport| c.id.is_empty();
    if report.containers.iter().any(never_started) {
        return "Pending";
    }
    "Running"
}

fn container_report(view: View<'_>, version: &StaticPod, name: &str) -> ContainerReport {
    let history = view.observed.history_of(&version.uid, name);
    let mut report = ContainerReport {
        name: name.to_owned(),
        last_exit_code: history.iter().find_map(|c| c.exit()).map(|e| e.code),
        ..ContainerReport::default()
    };
    let Some(last) = history.first() else {
        return waiting(
            report,
            first_start_waits_for(view.memory, &version.uid, name),
        );
    };
    report.id.clone_from(&last.id);
    report.restarts = last.attempt;
    match &last.state {
        State::Running { .. } => {
            "running".clone_into(&mut report.state);
            report
        }
        State::Created | State::Unknown => waiting(
            report,
            first_start_waits_for(view.memory, &version.uid, name),
        ),
        State::Exited(exit) => match restart(version, last, exit) {
            Restart::Never => {
                "terminated".clone_into(&mut report.state);
                report.reason.clone_from(&exit.reason);
                if report.reason.is_empty() {
                    let word = if exit.code == 0 { "Completed" } else { "Error" };
                    word.clone_into(&mut report.reason);
                }
                report.message.clone_from(&exit.message);
                report
            }
            Restart::At(due, delay) => {
                let obstacle = obstacle(view.memory, &version.uid, name);
                let left = due.since(view.now).as_secs();
                let pause = || {
                    let code = exit.code;
                    let message = format!(
                        "ended with exit code {code}; back-off {} s, next start in {left} s",
                        delay.as_secs()
                    );
                    Waiting::new("CrashLoopBackOff", message)
                };
                waiting(report, obstacle.unwrap_or_else(pause))
            }
        },
    }
}

fn waiting(mut report: ContainerReport, waiting: Waiting) -> ContainerReport {
    "waiting".clone_into(&mut report.state);
    report.reason = waiting.reason;
    report.message = waiting.message;
    report
}

fn first_start_waits_for(memory: &Memory, uid: &str, container: &str) -> Waiting {
    obstacle(memory, uid, container).unwrap_or_else(|| Waiting::new("ContainerCreating", ""))
}

/// What failed or is not there, if anything.
fn obstacle(memory: &Memory, uid: &str, container: &str) -> Option<Waiting> {
    let subjects = [
        Subject::Container(uid.to_owned(), container.to_owned()),
        Subject::Sandbox(uid.to_owned()),
        Subject::Volumes(uid.to_owned()),
    ];
    let failure = subjects.iter().find_map(|s| memory.failures.get(s));
    if let Some(failure) = failure {
        return Some(Waiting::new(failure.reason, failure.message.clone()));
    }
    image_obstacle(memory, uid, container)
}

fn image_obstacle(memory: &Memory, uid: &str, container: &str) -> Option<Waiting> {
    match memory.images.get(&(uid.to_owned(), container.to_owned()))? {
        Image::Ready { .. } => None,
        Image::Pulling { .. } => Some(Waiting::new("Pulling", "the image is being pulled")),
        Image::Failed {
            reason,
            message,
            delay,
            ..
        } => {
            // After the first failure Kubernetes calls the waiting by another name.
            let backing_off = *reason == "ErrImagePull" && *delay > super::backoff::INITIAL;
            let reason = if backing_off {
                "ImagePullBackOff"
            } else {
                reason
            };
            Some(Waiting::new(reason, message.clone()))
        }
    }
}

fn update_waits_for(view: View<'_>, version: &StaticPod) -> Waiting {
    let uid = &version.uid;
    if let Some(Rejection { reason, message }) = view.memory.rejections.get(uid) {
        return Waiting::new(reason, message.clone());
    }
    if let Some(waiting) = missing_objects(version) {
        return waiting;
    }
    let mut obstacles =
        wanted_images(version).filter_map(|image| obstacle(view.memory, uid, &image.holder));
    let stopping = || Waiting::new("Terminating", "the old version is being stopped");
    obstacles.next().unwrap_or_else(stopping)
}
