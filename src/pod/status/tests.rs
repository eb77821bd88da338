//! The status as tables: each row is a rule of Kubernetes' documentation (Pod Lifecycle, Init Containers,
//! Sidecar Containers, Liveness, Readiness and Startup Probes) or, where that is silent, of the kubelet's.

mod conditions;
mod containers;
mod order;
mod phase;
mod report;
mod shutdown;
mod start;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, PodCondition, PodStatus,
};
use serde_json::{Value, json};

use crate::cri::HandlerFeatures;
use crate::manifest::StaticPod;
use crate::pod::backoff;
use crate::pod::plan::rules::tests as rules_tests;
use crate::pod::state::history::{Condition, Finished};
use crate::pod::state::observed::{Container, Exit, Observed, Sandbox, State};
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{Failure, FirstSeen, Image, Phase, PodState, PostStart, Subject, View};
use crate::pod::status::status;
use crate::probe::Health;
use crate::translate::NodeFacts;

/// The time, in nanoseconds since the epoch: 2023-11-14T22:13:20Z.
const THEN: i64 = 1_700_000_000_000_000_000;
const NOW: MonotonicTime = MonotonicTime(1_000_000);

/// A Pod and what there is of it.
#[derive(Clone)]
struct Scene {
    version: Arc<StaticPod>,
    observed: Observed,
    state: PodState,
}

/// A Pod whose sandbox is ready. Containers need no image here.
fn pod(spec: &str) -> Scene {
    let mut spec: Value = serde_yaml::from_str(spec).unwrap();
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            if container.is_string() {
                *container = json!({"name": container});
            }
            container["image"] = json!("i");
        }
    }
    let sandbox = Sandbox {
        id: "s".into(),
        uid: "u".into(),
        attempt: 0,
        ready: true,
        created: NOW,
        ips: vec![],
    };
    let mut state = PodState::default();
    state.version_mut(&"u".into()).seen = Some(FirstSeen {
        nanos: THEN,
        monotonic: NOW,
    });
    Scene {
        version: rules_tests::pod(spec),
        observed: Observed {
            sandboxes: vec![sandbox],
            containers: vec![],
        },
        state,
    }
}

/// A Pod of one container `a`.
fn single(policy: &str) -> Scene {
    pod(&format!("{{restartPolicy: {policy}, containers: [a]}}"))
}

/// A Pod of an init container `init`, one more, `late`, and `main`.
fn with_inits(policy: &str) -> Scene {
    pod(&format!(
        "{{restartPolicy: {policy}, initContainers: [init, late], containers: [main]}}"
    ))
}

/// A Pod of a sidecar `side` and `main`.
fn with_sidecar(policy: &str) -> Scene {
    pod(&format!(
        "{{restartPolicy: {policy}, initContainers: [{{name: side, restartPolicy: Always}}], \
         containers: [main]}}"
    ))
}

/// A Pod in which `b` has all restart by ending with 88.
fn restarting_all() -> Scene {
    let rule = "{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}";
    pod(&format!(
        "{{restartPolicy: Never, initContainers: [init], containers: [a, {{name: b, restartPolicy: Never, \
         restartPolicyRules: [{rule}]}}]}}"
    ))
}

impl Scene {
    fn instance(mut self, name: &str, backoff: Option<u64>, state: State) -> Self {
        let known = self.observed.history_of(&"u".into(), name).len();
        self.observed.containers.push(Container {
            id: format!("{name}{known}").into(),
            sandbox: "s".into(),
            uid: "u".into(),
            name: name.into(),
            attempt: known.try_into().unwrap(),
            state,
            backoff: backoff.map(Duration::from_secs),
            ..Container::default()
        });
        self
    }

    fn runs(self, name: &str) -> Self {
        self.instance(name, None, State::Running { started_at: THEN })
    }

    fn made(self, name: &str) -> Self {
        self.instance(name, None, State::Created)
    }

    fn lost(self, name: &str) -> Self {
        self.instance(name, None, State::Unknown)
    }

    /// It ended just now, for the first time.
    fn ended(self, name: &str, code: i32) -> Self {
        self.ended_after(name, code, None)
    }

    /// It ended just now, after it had waited this many seconds for its start.
    fn ended_after(self, name: &str, code: i32, waited: Option<u64>) -> Self {
        let exit = Exit {
            code,
            started_at: THEN,
            finished_at: THEN,
            ended: NOW,
            ..Exit::default()
        };
        self.instance(name, waited, State::Exited(exit))
    }

    fn without_sandbox(mut self) -> Self {
        self.observed.sandboxes.clear();
        self
    }

    fn failed(mut self, subject: Subject, reason: &'static str, retry: MonotonicTime) -> Self {
        let failure = Failure {
            reason,
            message: "no".into(),
            tries: 1,
            since: NOW,
            retry,
        };
        self.state.failures.insert(subject, failure);
        self
    }

    fn not_started(self, name: &str, reason: &'static str) -> Self {
        let subject = Subject::Container("u".into(), name.into());
        self.failed(subject, reason, NOW.after(Duration::from_secs(1)))
    }

    fn image(mut self, holder: &str, image: Image) -> Self {
        let images = &mut self.state.version_mut(&"u".into()).images;
        images.insert(holder.into(), image);
        self
    }

    fn no_image(self, holder: &str, reason: &'static str, delay: Duration) -> Self {
        let image = Image::Failed {
            reason,
            message: "no".into(),
            retry: NOW.after(delay),
            delay,
        };
        self.image(holder, image)
    }

    fn pulls(self, holder: &str, error: &str) -> Self {
        let image = Image::Pulling {
            after: Duration::ZERO,
            error: error.into(),
            since: NOW,
        };
        self.image(holder, image)
    }

    fn probe(mut self, name: &str, started: bool, ready: bool) -> Self {
        let id = self.observed.history_of(&"u".into(), name)[0].id.clone();
        let health = Health {
            started,
            ready,
            failed: None,
        };
        self.state.probes.insert(id, health);
        self
    }

    fn hook(mut self, name: &str, hook: PostStart) -> Self {
        let id = self.observed.history_of(&"u".into(), name)[0].id.clone();
        self.state.post_starts.insert(id, hook);
        self
    }

    fn finished(mut self, reason: &str, message: &str) -> Self {
        let history = self.state.version_mut(&"u".into()).history_mut();
        history.finished = Some(Finished {
            phase: Phase::Failed,
            reason: reason.into(),
            message: message.into(),
            since: THEN,
        });
        self
    }

    /// All its containers are to be replaced.
    fn all_replaced(mut self) -> Self {
        let history = self.state.version_mut(&"u".into()).history_mut();
        for container in &self.observed.containers {
            history.replace(container);
        }
        self
    }

    fn was_initialized(mut self) -> Self {
        let history = self.state.version_mut(&"u".into()).history_mut();
        history.conditions.push(Condition {
            kind: "Initialized".into(),
            status: "True".into(),
            since: THEN,
        });
        self
    }

    fn view(&self) -> View<'_> {
        View {
            wanted: Some(&self.version),
            observed: &self.observed,
            state: &self.state,
            now: NOW,
            longest_backoff: backoff::MAXIMUM,
        }
    }

    fn status(&self) -> PodStatus {
        status(self.view(), &facts(), &self.version)
    }

    fn container(&self, name: &str) -> ContainerStatus {
        let status = self.status();
        let inits = status.init_container_statuses.into_iter().flatten();
        let mut all = inits.chain(status.container_statuses.into_iter().flatten());
        all.find(|s| s.name == name).unwrap()
    }
}

fn facts() -> NodeFacts {
    let features = HandlerFeatures {
        recursive_read_only_mounts: true,
        ..HandlerFeatures::default()
    };
    NodeFacts {
        runtime_name: "containerd".into(),
        runtime: [(String::new(), features)].into(),
        ..NodeFacts::default()
    }
}

fn text(reason: Option<&String>, message: Option<&String>) -> String {
    let parts = [reason, message].into_iter().flatten();
    let parts: Vec<String> = parts.map(|part| format!(" {part}")).collect();
    parts.join(":")
}

fn ended(ended: &ContainerStateTerminated) -> String {
    let reason = text(ended.reason.as_ref(), ended.message.as_ref());
    format!("exit {}{reason}", ended.exit_code)
}

fn state(state: &ContainerState) -> String {
    if let Some(waiting) = &state.waiting {
        let reason = text(waiting.reason.as_ref(), waiting.message.as_ref());
        return format!("waiting{reason}");
    }
    let terminated = state.terminated.as_ref().map(ended);
    terminated.unwrap_or_else(|| "running".into())
}

fn container(status: &ContainerStatus) -> String {
    let mut said = vec![state(status.state.as_ref().unwrap())];
    let last = status.last_state.as_ref();
    let last = last.and_then(|s| s.terminated.as_ref());
    said.extend(last.map(|last| format!("last {}", ended(last))));
    if status.restart_count > 0 {
        said.push(format!("restarts {}", status.restart_count));
    }
    for (word, is_so) in [
        ("started", status.started == Some(true)),
        ("ready", status.ready),
    ] {
        said.extend(is_so.then(|| word.to_owned()));
    }
    format!("{}: {}", status.name, said.join(", "))
}

fn condition(condition: &PodCondition) -> String {
    let reason = text(condition.reason.as_ref(), condition.message.as_ref());
    format!("{}{reason}", condition.status)
}

/// A status in lines: its phase, each condition that is not just True, and each container. Ready is left
/// out where it is as `ContainersReady`.
fn lines(status: &PodStatus) -> Vec<String> {
    let reason = text(status.reason.as_ref(), status.message.as_ref());
    let mut lines = vec![format!("{}{reason}", status.phase.as_deref().unwrap())];
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let snapshot = |kind: &str| conditions.iter().find(|c| c.type_ == kind).map(condition);
    let same = snapshot("Ready") == snapshot("ContainersReady");
    for found in conditions {
        let said = condition(found);
        if said != "True" && !(same && found.type_ == "Ready") {
            lines.push(format!("{}: {said}", found.type_));
        }
    }
    let inits = status.init_container_statuses.iter().flatten();
    let all = inits.chain(status.container_statuses.iter().flatten());
    lines.extend(all.map(container));
    lines
}

/// Compares each Pod's status, and says by its row's words where it differs.
fn compare(rows: Vec<(&str, Scene, Vec<&str>)>) {
    for (rule, scene, expected) in rows {
        assert_eq!(lines(&scene.status()), expected, "{rule}");
    }
}

const UNREADY: &str =
    "ContainersReady: False ContainersNotReady: containers with unready status: [a]";
const UNREADY_MAIN: &str =
    "ContainersReady: False ContainersNotReady: containers with unready status: [main]";
const UNREADY_SIDE: &str =
    "ContainersReady: False ContainersNotReady: containers with unready status: [side]";
const CREATING: &str = "a: waiting ContainerCreating";
const INITIALIZING: &str = "main: waiting PodInitializing";
const RUNS: &str = "main: running, started, ready";
const FAILED: &str = "ContainersReady: False PodFailed";
const COMPLETED: [&str; 2] = [
    "Initialized: True PodCompleted",
    "ContainersReady: False PodCompleted",
];
