//! The status as tables: each row is a rule of Kubernetes' documentation (Pod Lifecycle, Init Containers,
//! Sidecar Containers, Liveness, Readiness and Startup Probes) or, where that is silent, of the kubelet's.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, LinuxContainerUser, PodCondition,
    PodStatus,
};
use serde_json::{Value, json};

use crate::cri::HandlerFeatures;
use crate::manifest::StaticPod;
use crate::pod::admission::Rejection;
use crate::pod::backoff;
use crate::pod::plan::rules::tests as rules_tests;
use crate::pod::plan::volume_holder;
use crate::pod::report::report;
use crate::pod::state::history::{Condition, Finished};
use crate::pod::state::observed::{Container, Exit, Observed, Sandbox, State};
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{
    Admission, Failure, FirstSeen, Image, Phase, PodState, PostStart, Subject, View,
};
use crate::pod::status::{end_phase, status};
use crate::probe::Health;
use crate::source::{DesiredPod, Origin};
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
    state.version_mut("u").seen = Some(FirstSeen {
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

/// A Pod in which `b` has all start anew by ending with 88.
fn restarting_all() -> Scene {
    let rule = "{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}";
    pod(&format!(
        "{{restartPolicy: Never, initContainers: [init], containers: [a, {{name: b, restartPolicy: Never, \
         restartPolicyRules: [{rule}]}}]}}"
    ))
}

impl Scene {
    fn instance(mut self, name: &str, backoff: Option<u64>, state: State) -> Self {
        let known = self.observed.history_of("u", name).len();
        self.observed.containers.push(Container {
            id: format!("{name}{known}"),
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
        let images = &mut self.state.version_mut("u").images;
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
        };
        self.image(holder, image)
    }

    fn probe(mut self, name: &str, started: bool, ready: bool) -> Self {
        let id = self.observed.history_of("u", name)[0].id.clone();
        let health = Health {
            started,
            ready,
            failed: None,
        };
        self.state.probes.insert(id, health);
        self
    }

    fn hook(mut self, name: &str, hook: PostStart) -> Self {
        let id = self.observed.history_of("u", name)[0].id.clone();
        self.state.post_starts.insert(id, hook);
        self
    }

    fn finished(mut self, reason: &str, message: &str) -> Self {
        let history = &mut self.state.version_mut("u").history;
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
        let history = &mut self.state.version_mut("u").history;
        for container in &self.observed.containers {
            history.replace(container);
        }
        self
    }

    fn was_initialized(mut self) -> Self {
        let history = &mut self.state.version_mut("u").history;
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

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_phase_is_what_the_containers_and_the_restart_policy_make_of_it() {
    let two = |policy: &str| pod(&format!("{{restartPolicy: {policy}, containers: [z, a]}}"));
    let with_rule = || {
        let rule = "{action: Restart, exitCodes: {operator: In, values: [3]}}";
        pod(&format!(
            "{{restartPolicy: Never, containers: [{{name: a, restartPolicy: Never, \
             restartPolicyRules: [{rule}]}}]}}"
        ))
    };
    compare(vec![
        (
            "nothing of it is there",
            single("Always").without_sandbox(),
            vec![
                "Pending",
                "PodReadyToStartContainers: False",
                UNREADY,
                CREATING,
            ],
        ),
        (
            "its sandbox is there",
            single("Always"),
            vec!["Pending", UNREADY, CREATING],
        ),
        (
            "its container was made and not started",
            single("Always").made("a"),
            vec!["Pending", UNREADY, CREATING],
        ),
        (
            "the runtime lost track of its container",
            single("Always").lost("a"),
            vec!["Pending", UNREADY, CREATING],
        ),
        (
            "it runs",
            single("Always").runs("a"),
            vec!["Running", "a: running, started, ready"],
        ),
        (
            "one of two was never started",
            two("Always").runs("z"),
            vec!["Pending", UNREADY, CREATING, "z: running, started, ready"],
        ),
        (
            "those that are not ready are named in the manifest's order, the statuses in that of names",
            two("Always"),
            vec![
                "Pending",
                "ContainersReady: False ContainersNotReady: containers with unready status: [z a]",
                CREATING,
                "z: waiting ContainerCreating",
            ],
        ),
        (
            "Always: a container that ended well runs again",
            single("Always").ended("a", 0),
            vec!["Running", UNREADY, "a: exit 0 Completed"],
        ),
        (
            "OnFailure: one that failed runs again",
            single("OnFailure").ended("a", 1),
            vec!["Running", UNREADY, "a: exit 1 Error"],
        ),
        (
            "OnFailure: one that ended well does not",
            single("OnFailure").ended("a", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "a: exit 0 Completed",
            ],
        ),
        (
            "Never: all ended well",
            two("Never").ended("a", 0).ended("z", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "a: exit 0 Completed",
                "z: exit 0 Completed",
            ],
        ),
        (
            "Never: one of two failed",
            two("Never").ended("a", 1).ended("z", 0),
            vec!["Failed", FAILED, "a: exit 1 Error", "z: exit 0 Completed"],
        ),
        (
            "Never: one failed and the other runs",
            two("Never").ended("a", 1).runs("z"),
            vec![
                "Running",
                UNREADY,
                "a: exit 1 Error",
                "z: running, started, ready",
            ],
        ),
        (
            "a container's own policy goes before the Pod's",
            pod("{restartPolicy: Never, containers: [{name: a, restartPolicy: OnFailure}]}")
                .ended("a", 1),
            vec!["Running", UNREADY, "a: exit 1 Error"],
        ),
        (
            "a container's rule goes before its own policy",
            with_rule().ended("a", 3),
            vec!["Running", UNREADY, "a: exit 3 Error"],
        ),
        (
            "a rule that is about another exit code does not count",
            with_rule().ended("a", 4),
            vec!["Failed", FAILED, "a: exit 4 Error"],
        ),
        (
            "it ran for longer than it may",
            single("Always")
                .runs("a")
                .finished("DeadlineExceeded", "too long"),
            vec![
                "Failed DeadlineExceeded: too long",
                FAILED,
                "a: running, started, ready",
            ],
        ),
    ]);
}

#[test]
fn a_container_that_keeps_ending_waits_ever_longer() {
    let line = |wait: &str, until: &str| {
        format!(
            "a: waiting CrashLoopBackOff: back-off {wait} restarting failed container=a \
             pod=p-n1_default(u), next start at 2023-11-14T{until}Z, last exit 1 Error"
        )
    };
    for (waited, wait, until) in [
        (0, "10s", "22:13:30"),
        (10, "20s", "22:13:40"),
        (40, "1m20s", "22:14:40"),
        (80, "2m40s", "22:16:00"),
        (160, "5m0s", "22:18:20"),
        (300, "5m0s", "22:18:20"),
    ] {
        let scene = single("Always").ended_after("a", 1, Some(waited));
        let line = line(wait, until);
        compare(vec![("back-off", scene, vec!["Running", UNREADY, &line])]);
    }
    let two = pod("{containers: [a, b]}").ended_after("a", 1, Some(0));
    let two = two.runs("b");
    let line = line("10s", "22:13:30");
    let expected = vec!["Running", UNREADY, &line, "b: running, started, ready"];
    compare(vec![("a crash loop beside one that runs", two, expected)]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn init_containers_come_first_and_one_by_one() {
    const BOTH: &str = "Initialized: False ContainersNotInitialized: containers with incomplete status: [init late]";
    const LATE: &str =
        "Initialized: False ContainersNotInitialized: containers with incomplete status: [late]";
    const LATE_WAITS: &str = "late: waiting PodInitializing";
    let pending = |init| {
        vec![
            "Pending",
            BOTH,
            UNREADY_MAIN,
            init,
            LATE_WAITS,
            INITIALIZING,
        ]
    };
    let done = |init| {
        vec![
            "Pending",
            LATE,
            UNREADY_MAIN,
            init,
            LATE_WAITS,
            INITIALIZING,
        ]
    };
    let failed = |init| vec!["Failed", BOTH, FAILED, init, LATE_WAITS, INITIALIZING];
    let own = |policy: &str| {
        pod(&format!(
            "{{initContainers: [{{name: init, {policy}}}, late], containers: [main]}}"
        ))
    };
    let not_in = "restartPolicy: Never, restartPolicyRules: [{action: Restart, \
                  exitCodes: {operator: NotIn, values: [5]}}]";
    compare(vec![
        (
            "none ran yet",
            with_inits("Always"),
            pending("init: waiting PodInitializing"),
        ),
        (
            "the first runs",
            with_inits("Always").runs("init"),
            pending("init: running, started"),
        ),
        (
            "the first is done, which makes it ready",
            with_inits("Always").ended("init", 0),
            done("init: exit 0 Completed, ready"),
        ),
        (
            "Always: one that failed runs again",
            with_inits("Always").ended("init", 1),
            pending("init: exit 1 Error"),
        ),
        (
            "OnFailure: one that failed runs again",
            with_inits("OnFailure").ended("init", 1),
            pending("init: exit 1 Error"),
        ),
        (
            "one that keeps failing waits",
            with_inits("Always")
                .ended("init", 1)
                .ended_after("init", 1, Some(0)),
            pending(
                "init: waiting CrashLoopBackOff: back-off 10s restarting failed container=init \
                 pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 1 Error, restarts 1",
            ),
        ),
        (
            "it is done once it succeeds",
            with_inits("Always")
                .ended("init", 1)
                .ended_after("init", 0, Some(0)),
            done("init: exit 0 Completed, last exit 1 Error, restarts 1, ready"),
        ),
        (
            "Never: one that failed fails the Pod",
            with_inits("Never").ended("init", 1),
            failed("init: exit 1 Error"),
        ),
        (
            "its own policy goes before the Pod's",
            own("restartPolicy: Never").ended("init", 1),
            failed("init: exit 1 Error"),
        ),
        (
            "a rule has it run again after a failure",
            own(not_in).ended("init", 1),
            pending("init: exit 1 Error"),
        ),
        (
            "it is done once it succeeds, whatever a rule says of 0",
            own(not_in).ended("init", 1).ended_after("init", 0, Some(0)),
            done("init: exit 0 Completed, last exit 1 Error, restarts 1, ready"),
        ),
        (
            "all are done",
            with_inits("Always")
                .ended("init", 0)
                .ended("late", 0)
                .runs("main"),
            vec![
                "Running",
                "init: exit 0 Completed, ready",
                "late: exit 0 Completed, ready",
                RUNS,
            ],
        ),
        (
            "all are done, and the Pod is",
            with_inits("Never")
                .ended("init", 0)
                .ended("late", 0)
                .ended("main", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "init: exit 0 Completed, ready",
                "late: exit 0 Completed, ready",
                "main: exit 0 Completed",
            ],
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn sidecars_start_before_and_run_beside_the_pods_own_containers() {
    const OPEN: &str =
        "Initialized: False ContainersNotInitialized: containers with incomplete status: [side]";
    const BOTH: &str =
        "ContainersReady: False ContainersNotReady: containers with unready status: [side main]";
    const SIDE: &str = "side: running, started, ready";
    let init_fails = || {
        pod(
            "{restartPolicy: Never, initContainers: [{name: side, restartPolicy: Always}, init], \
             containers: [main]}",
        )
    };
    compare(vec![
        (
            "it has not started in full",
            with_sidecar("Always")
                .runs("side")
                .probe("side", false, false),
            vec!["Pending", OPEN, BOTH, "side: running", INITIALIZING],
        ),
        (
            "that it started is enough for what comes after it",
            with_sidecar("Always")
                .runs("side")
                .probe("side", true, false),
            vec!["Pending", BOTH, "side: running, started", INITIALIZING],
        ),
        (
            "its readiness counts for the Pod's",
            with_sidecar("Always")
                .runs("side")
                .probe("side", true, false)
                .runs("main"),
            vec!["Running", UNREADY_SIDE, "side: running, started", RUNS],
        ),
        (
            "all is well",
            with_sidecar("Always").runs("side").runs("main"),
            vec!["Running", SIDE, RUNS],
        ),
        (
            "it starts once more beside what runs: the Pod stays initialized",
            with_sidecar("Always")
                .ended("side", 1)
                .runs("side")
                .probe("side", false, false)
                .runs("main"),
            vec![
                "Running",
                UNREADY_SIDE,
                "side: running, last exit 1 Error, restarts 1",
                RUNS,
            ],
        ),
        (
            "one that fails runs again, whatever the Pod's policy",
            with_sidecar("Never")
                .ended_after("side", 1, Some(0))
                .runs("main"),
            vec![
                "Running",
                UNREADY_SIDE,
                "side: waiting CrashLoopBackOff: back-off 10s restarting failed container=side \
                 pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 1 Error",
                RUNS,
            ],
        ),
        (
            "of one that ended well its end is shown, although it runs again",
            with_sidecar("Always")
                .ended_after("side", 0, Some(0))
                .runs("main"),
            vec!["Running", UNREADY_SIDE, "side: exit 0 Completed", RUNS],
        ),
        (
            "it runs on for a while after the Pod's own",
            with_sidecar("Never").runs("side").ended("main", 0),
            vec!["Running", UNREADY_MAIN, SIDE, "main: exit 0 Completed"],
        ),
        (
            "and so where those failed",
            with_sidecar("Never").runs("side").ended("main", 1),
            vec!["Running", UNREADY_MAIN, SIDE, "main: exit 1 Error"],
        ),
        (
            "how it ends says nothing of the Pod",
            with_sidecar("Never").ended("side", 137).ended("main", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "side: exit 137 Error",
                "main: exit 0 Completed",
            ],
        ),
        (
            "an init container that failed fails the Pod at once",
            init_fails().runs("side").ended("init", 1),
            vec![
                "Failed",
                "Initialized: False ContainersNotInitialized: containers with incomplete status: [init]",
                FAILED,
                SIDE,
                "init: exit 1 Error",
                INITIALIZING,
            ],
        ),
        (
            "so does running for longer than it may",
            with_sidecar("Always")
                .runs("side")
                .runs("main")
                .finished("DeadlineExceeded", "too long"),
            vec!["Failed DeadlineExceeded: too long", FAILED, SIDE, RUNS],
        ),
    ]);
}

#[test]
fn a_pod_is_over_with_its_own_containers_whatever_its_sidecars_do() {
    for (code, phase) in [(0, Phase::Succeeded), (1, Phase::Failed)] {
        let scene = with_sidecar("Never").runs("side").ended("main", code);
        assert_eq!(end_phase(&scene.version, &scene.status()), phase);
    }
}

#[test]
fn probes_and_hooks_make_a_container_started_and_ready() {
    let hook_failed = PostStart::Failed("no".into());
    compare(vec![
        (
            "its startup probe has not passed",
            single("Always").runs("a").probe("a", false, false),
            vec!["Running", UNREADY, "a: running"],
        ),
        (
            "its readiness probe fails",
            single("Always").runs("a").probe("a", true, false),
            vec!["Running", UNREADY, "a: running, started"],
        ),
        (
            "both pass",
            single("Always").runs("a").probe("a", true, true),
            vec!["Running", "a: running, started, ready"],
        ),
        (
            "the hook after its start runs",
            single("Always").runs("a").hook("a", PostStart::Running),
            vec!["Running", UNREADY, "a: running"],
        ),
        (
            "the hook after its start failed",
            single("Always").runs("a").hook("a", hook_failed),
            vec!["Running", UNREADY, "a: waiting PostStartHookError: no"],
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_container_that_cannot_be_started_says_why() {
    let second = Duration::from_secs(1);
    let (first, again) = (backoff::INITIAL, 2 * backoff::INITIAL);
    let of_sandbox = || Subject::Sandbox("u".into());
    let of_volumes = || Subject::Volumes("u".into());
    let pending = |line| vec!["Pending", UNREADY, line];
    let crashed = || single("Always").ended_after("a", 128, Some(0));
    let subject = || Subject::Container("u".into(), "a".into());
    compare(vec![
        (
            "its configuration cannot be had",
            single("Always").not_started("a", "CreateContainerConfigError"),
            pending("a: waiting CreateContainerConfigError: no"),
        ),
        (
            "the runtime cannot make it",
            single("Always").not_started("a", "CreateContainerError"),
            pending("a: waiting CreateContainerError: no"),
        ),
        (
            "the runtime cannot start it",
            single("Always")
                .made("a")
                .not_started("a", "RunContainerError"),
            pending("a: waiting RunContainerError: no"),
        ),
        (
            "that it was not started goes before its pause until it would be tried again",
            crashed().not_started("a", "RunContainerError"),
            vec![
                "Running",
                UNREADY,
                "a: waiting RunContainerError: no, last exit 128 Error",
            ],
        ),
        (
            "and then the pause is what it waits for",
            crashed().failed(subject(), "RunContainerError", NOW),
            vec![
                "Running",
                UNREADY,
                "a: waiting CrashLoopBackOff: back-off 10s restarting failed container=a \
                 pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 128 Error",
            ],
        ),
        (
            "its image cannot be pulled",
            single("Always").no_image("a", "ErrImagePull", first),
            pending("a: waiting ErrImagePull: no"),
        ),
        (
            "nor the next time",
            single("Always").no_image("a", "ErrImagePull", again),
            pending("a: waiting ImagePullBackOff: Back-off pulling image \"i\": ErrImagePull: no"),
        ),
        (
            "it is being pulled once more",
            single("Always").pulls("a", "no"),
            pending("a: waiting ImagePullBackOff: Back-off pulling image \"i\": ErrImagePull: no"),
        ),
        (
            "its image has no proper name",
            single("Always").no_image("a", "InvalidImageName", again),
            pending("a: waiting InvalidImageName: no"),
        ),
        (
            "its image is not there and never pulled",
            single("Always").no_image("a", "ErrImageNeverPull", again),
            pending("a: waiting ErrImageNeverPull: no"),
        ),
        (
            "one that ran before and whose image cannot be had any more",
            single("Always")
                .ended("a", 1)
                .no_image("a", "ErrImagePull", first),
            vec![
                "Running",
                UNREADY,
                "a: waiting ErrImagePull: no, last exit 1 Error",
            ],
        ),
        (
            "an image behind a volume concerns those that have it mounted",
            pod("{volumes: [{name: v, image: {reference: w}}], \
                 containers: [{name: a, volumeMounts: [{name: v, mountPath: /v}]}, b]}")
            .no_image(&volume_holder("v"), "ErrImagePull", again),
            vec![
                "Pending",
                "ContainersReady: False ContainersNotReady: containers with unready status: [a b]",
                "a: waiting ImagePullBackOff: Back-off pulling image \"w\": ErrImagePull: no",
                "b: waiting ContainerCreating",
            ],
        ),
        (
            "its image is being pulled",
            single("Always").pulls("a", ""),
            pending(CREATING),
        ),
        (
            "the Pod's sandbox cannot be made",
            single("Always").failed(of_sandbox(), "FailedCreatePodSandBox", NOW.after(second)),
            pending(CREATING),
        ),
        (
            "the Pod's volumes are not in order",
            single("Always").failed(of_volumes(), "FailedMount", NOW.after(second)),
            pending(CREATING),
        ),
    ]);
}

#[test]
fn the_agents_own_report_tells_what_a_status_has_no_room_for() {
    let second = NOW.after(Duration::from_secs(1));
    let (sandbox, volumes) = (Subject::Sandbox("u".into()), Subject::Volumes("u".into()));
    for (scene, reason, message) in [
        (
            single("Always").pulls("a", ""),
            "Pulling",
            "the image is being pulled",
        ),
        (
            single("Always").failed(sandbox, "FailedCreatePodSandBox", second),
            "FailedCreatePodSandBox",
            "no",
        ),
        (
            single("Always").failed(volumes, "FailedMount", second),
            "FailedMount",
            "no",
        ),
        (
            single("Always").not_started("a", "CreateContainerError"),
            "CreateContainerError",
            "no",
        ),
    ] {
        let key = &scene.version.key;
        let snapshot = report(scene.view(), &facts(), key, None).report;
        let container = &snapshot.containers[0];
        assert_eq!(container.state, "waiting", "{container:#?}");
        let said = (container.reason.as_str(), container.message.as_str());
        assert_eq!(said, (reason, message));
    }
}

#[test]
fn the_agents_own_report_tells_what_a_running_pod_waits_for() {
    let snapshot = |scene: &Scene| {
        let wanted = DesiredPod {
            pod: Arc::clone(&scene.version),
            origin: Origin::File("/m/p.yaml".into()),
            warnings: vec![],
        };
        let key = &scene.version.key;
        report(scene.view(), &facts(), key, Some(&wanted)).report
    };
    let probes = "{name: a, image: i, startupProbe: {exec: {command: [a]}}, readinessProbe: {exec: {command: [a]}}}";
    let pod = |gates: &str| pod(&format!("{{{gates} containers: [{probes}]}}"));
    for (scene, expected) in [
        (
            pod("").runs("a").probe("a", false, false),
            Some("container a: the startup probe has not succeeded yet"),
        ),
        (
            pod("").runs("a").probe("a", true, false),
            Some("container a: the readiness probe does not succeed"),
        ),
        (
            pod("readinessGates: [{conditionType: x}],")
                .runs("a")
                .probe("a", true, true),
            Some("corresponding condition of pod readiness gate \"x\" does not exist."),
        ),
        (pod("").runs("a").probe("a", true, true), None),
    ] {
        let waits_for = snapshot(&scene).waits_for;
        let first = waits_for.first().map(String::as_str);
        let same = expected.is_none_or(|words| first.is_some_and(|first| first.starts_with(words)));
        assert!(
            same && first.is_some() == expected.is_some(),
            "{waits_for:?}"
        );
    }
}

#[test]
fn readiness_gates_hold_a_pod_back_until_each_is_open() {
    let gates = |gates: &str| pod(&format!("{{readinessGates: [{gates}], containers: [a]}}"));
    let (x, y) = ("{conditionType: example.com/x}", "{conditionType: y}");
    let runs = "a: running, started, ready";
    compare(vec![
        (
            "nobody sets conditions on a static Pod: all of them are named",
            gates(&format!("{x}, {y}")).runs("a"),
            vec![
                "Running",
                "Ready: False ReadinessGatesNotReady: corresponding condition of pod readiness gate \
                 \"example.com/x\" does not exist., corresponding condition of pod readiness gate \"y\" \
                 does not exist.",
                runs,
            ],
        ),
        (
            "one of the agent's own conditions may be a gate",
            gates("{conditionType: Initialized}").runs("a"),
            vec!["Running", runs],
        ),
        (
            "and may be shut",
            gates("{conditionType: PodReadyToStartContainers}")
                .runs("a")
                .without_sandbox(),
            vec![
                "Running",
                "PodReadyToStartContainers: False",
                "Ready: False ReadinessGatesNotReady: the status of pod readiness gate \
                 \"PodReadyToStartContainers\" is not \"True\", but False",
                runs,
            ],
        ),
        (
            "first the containers have to be ready",
            gates(x),
            vec!["Pending", UNREADY, CREATING],
        ),
    ]);
}

#[test]
fn a_pod_whose_containers_can_all_start_anew_says_whether_they_do() {
    const SETTLED: &str = "AllContainersRestarting: False";
    const UNDER_WAY: &str = "AllContainersRestarting: True RestartAllContainersStarted: container \
                             exited with restart policy rule";
    const UNREADY: &str =
        "ContainersReady: False ContainersNotReady: containers with unready status:";
    const INIT: &str = "init: exit 0 Completed, ready";
    const ANEW: &str = "waiting RestartingAllContainers: The container is removed because \
                        RestartAllContainers in place";
    let running = || {
        restarting_all()
            .ended("init", 0)
            .runs("a")
            .was_initialized()
    };
    let up = running().runs("b");
    let asked = running().ended("b", 88);
    let stopped = restarting_all()
        .ended("init", 0)
        .ended("a", 137)
        .ended("b", 88);
    let stopped = stopped.was_initialized().all_replaced();
    let again = stopped.clone().runs("init");
    let over = restarting_all().ended("init", 0).ended("a", 0);
    let unready = |names: &str| format!("{UNREADY} [{names}]");
    let (of_b, of_both) = (unready("b"), unready("a b"));
    let anew = |name: &str, last: &str| format!("{name}: {ANEW}, last exit {last}");
    let of_init = anew("init", "0 Completed");
    let (of_a, b_anew) = (anew("a", "137 Error"), anew("b", "88 Error"));
    let runs = |name: &str| format!("{name}: running, started, ready");
    let (a_runs, b_runs) = (runs("a"), runs("b"));
    compare(vec![
        (
            "all is well",
            up,
            vec!["Running", SETTLED, INIT, &a_runs, &b_runs],
        ),
        (
            "one ended in such a way",
            asked,
            vec![
                "Running",
                &of_b,
                UNDER_WAY,
                INIT,
                &a_runs,
                "b: exit 88 Error",
            ],
        ),
        (
            "all were stopped; that the Pod was initialized stays so",
            stopped,
            vec!["Running", &of_both, UNDER_WAY, &of_init, &of_a, &b_anew],
        ),
        (
            "the first one runs again",
            again,
            vec![
                "Pending",
                &of_both,
                SETTLED,
                "init: running, last exit 0 Completed, restarts 1, started",
                "a: exit 137 Error",
                "b: exit 88 Error",
            ],
        ),
        (
            "it succeeded",
            over.clone().ended("b", 0),
            vec![
                "Succeeded",
                COMPLETED[0],
                COMPLETED[1],
                "AllContainersRestarting: False PodCompleted",
                INIT,
                "a: exit 0 Completed",
                "b: exit 0 Completed",
            ],
        ),
        (
            "it failed",
            over.ended("b", 1),
            vec![
                "Failed",
                FAILED,
                "AllContainersRestarting: False PodFailed",
                INIT,
                "a: exit 0 Completed",
                "b: exit 1 Error",
            ],
        ),
    ]);
}

/// Checks what is shown otherwise than by the kubelet, and why.
#[test]
fn differences_from_the_kubelet_that_are_meant() {
    let crashed = single("Always").ended_after("a", 1, Some(0));
    let hook_failed = PostStart::Failed("no".into());
    let replaced = restarting_all()
        .ended("init", 0)
        .ended("a", 137)
        .ended("b", 88)
        .was_initialized()
        .all_replaced();
    for (reason, scene, line) in [
        (
            "images are looked for before the sandbox is made, so that an update is short: a Pod that \
             waits for one has neither sandbox nor address",
            single("Always")
                .without_sandbox()
                .no_image("a", "ErrImagePull", backoff::INITIAL),
            "PodReadyToStartContainers: False",
        ),
        (
            "the end of a pause is told, not only its length",
            crashed,
            "a: waiting CrashLoopBackOff: back-off 10s restarting failed container=a \
             pod=p-n1_default(u), next start at 2023-11-14T22:13:30Z, last exit 1 Error",
        ),
        (
            "a container that was made and not started has a reason to wait; the kubelet gives none",
            single("Always").made("a"),
            CREATING,
        ),
        (
            "so has one that the runtime lost track of",
            single("Always").lost("a"),
            CREATING,
        ),
        (
            "a failed hook is told while its container is being stopped, for that may take long",
            single("Always").runs("a").hook("a", hook_failed),
            "a: waiting PostStartHookError: no",
        ),
        (
            "containers that start anew with all others are kept until then, so that how they really \
             ended is known; the kubelet tells 137 of each",
            replaced,
            "b: waiting RestartingAllContainers: The container is removed because RestartAllContainers \
             in place, last exit 88 Error",
        ),
    ] {
        let found = lines(&scene.status());
        assert!(found.iter().any(|l| l == line), "{reason}: {found:#?}");
    }
}

#[test]
fn a_pod_that_may_not_run_here_has_nothing_but_its_end() {
    let mut scene = single("Always").without_sandbox();
    let rejection = Rejection {
        reason: "NodePorts".into(),
        message: "taken".into(),
    };
    scene.state.version_mut("u").admission = Admission::Rejected(rejection);
    let shown = serde_json::to_value(scene.status()).unwrap();
    let expected = json!({
        "phase": "Failed",
        "reason": "NodePorts",
        "message": "Pod was rejected: taken",
        "qosClass": "BestEffort",
        "startTime": "2023-11-14T22:13:20Z",
    });
    assert_eq!(shown, expected);
}

#[test]
fn a_container_that_was_never_made_has_its_mounts_and_no_resources() {
    let scene = pod(
        "{volumes: [{name: v, hostPath: {path: /v}}], containers: [{name: a, \
         resources: {limits: {cpu: 1}}, volumeMounts: [{name: v, mountPath: /v, readOnly: true, \
         recursiveReadOnly: Enabled}]}]}",
    );
    let shown = serde_json::to_value(scene.container("a")).unwrap();
    let mounts = json!([
        {"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled"}
    ]);
    assert_eq!(shown["volumeMounts"], mounts);
    assert_eq!(shown["resources"], Value::Null);
    assert_eq!(shown["allocatedResources"], Value::Null);
}

#[test]
fn a_container_shows_whom_it_runs_as_where_the_runtime_tells() {
    let mut scene = single("Always").runs("a");
    assert_eq!(scene.container("a").user, None);
    scene.observed.containers[0].user = Some(LinuxContainerUser {
        uid: 1000,
        gid: 1001,
        supplemental_groups: Some(vec![1001, 4242]),
    });
    let shown = serde_json::to_value(scene.container("a").user).unwrap();
    let expected = json!({"linux": {"uid": 1000, "gid": 1001, "supplementalGroups": [1001, 4242]}});
    assert_eq!(shown, expected);
}

#[test]
fn the_containers_of_a_pod_share_what_it_may_say_of_their_ends() {
    for (containers, bytes) in [
        ("[a]", 12288),
        ("[a, b, c]", 4096),
        ("[a, b, c, d, e]", 2457),
    ] {
        let mut scene = pod(&format!(
            "{{restartPolicy: Never, containers: {containers}}}"
        ));
        scene = scene.ended("a", 1);
        let said = "x".repeat(20_000);
        if let State::Exited(exit) = &mut scene.observed.containers[0].state {
            exit.message.clone_from(&said);
        }
        let ended = scene.container("a").state.unwrap().terminated.unwrap();
        assert_eq!(ended.message.unwrap(), said[..bytes], "{containers}");
    }
    let mut scene = single("Never").ended("a", 1);
    if let State::Exited(exit) = &mut scene.observed.containers[0].state {
        exit.message = format!("x{}", "ä".repeat(10_000));
    }
    let ended = scene.container("a").state.unwrap().terminated.unwrap();
    assert_eq!(ended.message.unwrap().len(), 12287, "no character is cut");
}
