//! A runtime and a node that exist only here, and do what they are told unless they are to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::NAMES;
use super::events::End;
use crate::manifest::{PackedPod, StaticPod, WrittenDocument};
use crate::pod::backoff;
use crate::pod::plan::rules::has_ended;
use crate::pod::plan::{Outcome, Plan, Step, plan};
use crate::pod::state::history::{FailedInstance, Finished, StopReason};
use crate::pod::state::observed::{Container, Exit, Observed, Sandbox, State};
use crate::pod::state::record::Record;
use crate::pod::state::time::{MonotonicTime, Timestamp};
use crate::pod::state::{FirstSeen, Image, Phase, PodState, PostStart, Terminating, View};
use crate::probe::Health;
use crate::translate::ImageUser;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

/// The planner's view, and the events still to come.
#[derive(Debug, Clone)]
pub(in crate::pod) struct World {
    pub(in crate::pod) wanted: Option<Arc<StaticPod>>,
    pub(in crate::pod) observed: Observed,
    pub(in crate::pod) state: PodState,
    pub(in crate::pod) now: MonotonicTime,
    next_id: u32,
    /// Versions whose images cannot be had.
    pub(super) no_image: BTreeSet<String>,
    /// Number of pulls that fail, before the others succeed.
    pub(super) failed_pulls: u32,
    /// True for each step that fails, the next one last.
    pub(super) faults: Vec<bool>,
    /// Ends of instances, by the container's name, the next one last. After these init containers
    /// succeed, and the others run on.
    pub(super) ends: BTreeMap<String, Vec<End>>,
    /// Exit code of containers that are stopped.
    pub(super) stop_code: i32,
    pub(in crate::pod) steps: Vec<Step>,
}

impl World {
    pub(in crate::pod) fn new(wanted: Option<Arc<StaticPod>>) -> Self {
        let mut world = Self {
            wanted: None,
            observed: Observed::default(),
            state: PodState::default(),
            now: MonotonicTime(1_000_000),
            next_id: 0,
            no_image: BTreeSet::new(),
            failed_pulls: 0,
            faults: vec![],
            ends: BTreeMap::new(),
            stop_code: 0,
            steps: vec![],
        };
        world.want(wanted);
        world
    }

    pub(in crate::pod) fn want(&mut self, wanted: Option<Arc<StaticPod>>) {
        if let Some(pod) = &wanted {
            let seen = self.first_seen();
            let version = self.state.version_mut(&pod.uid);
            version.pod = Some(PackedPod::from(pod));
            version.seen.get_or_insert(seen);
        }
        self.wanted = wanted;
    }

    pub(in crate::pod) fn view(&self) -> View<'_> {
        View {
            wanted: self.wanted.as_ref(),
            observed: &self.observed,
            state: &self.state,
            now: self.now,
            longest_backoff: backoff::MAXIMUM,
        }
    }

    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("id{}", self.next_id)
    }

    pub(super) fn sandbox(&mut self, uid: &str, attempt: u32, ready: bool) -> String {
        let id = self.id();
        self.state.version_mut(&uid.into()).on_disk = true;
        self.observed.sandboxes.push(Sandbox {
            id: id.clone().into(),
            uid: uid.into(),
            attempt,
            ready,
            created: self.now,
            ips: vec![],
        });
        id
    }

    pub(super) fn container(
        &mut self,
        uid: &str,
        sandbox: &str,
        name: &str,
        attempt: u32,
        state: State,
    ) -> String {
        let id = self.id();
        self.observed.containers.push(Container {
            id: id.clone().into(),
            sandbox: sandbox.into(),
            uid: uid.into(),
            name: name.into(),
            attempt,
            state,
            ..Container::default()
        });
        id
    }

    pub(in crate::pod) fn exit(&self, code: i32) -> State {
        State::Exited(Exit {
            code,
            ended: self.now,
            ..Exit::default()
        })
    }

    /// The end of a container that was started, unlike [`World::exit`].
    pub(super) fn ended(&self, code: i32) -> State {
        State::Exited(Exit {
            code,
            started_at: 1,
            finished_at: 1,
            ended: self.now,
            ..Exit::default()
        })
    }

    pub(in crate::pod) fn set_state(&mut self, id: &str, state: State) {
        let container = self.observed.containers.iter_mut().find(|c| c.id == id);
        container.unwrap().state = state;
    }

    pub(in crate::pod) fn live(&self) -> Vec<&Container> {
        self.observed
            .containers
            .iter()
            .filter(|c| c.is_live())
            .collect()
    }

    /// Has the runtime execute a step, and applies its outcomes as the Pod's task does.
    pub(in crate::pod) fn apply(&mut self, step: Step) {
        self.begin(&step);
        let reason = step.reason();
        let reason = reason.filter(|_| self.faults.pop() == Some(true));
        let outcome = if let Some(reason) = reason {
            Outcome::Failed {
                reason,
                message: "it failed".into(),
                at: self.now,
            }
        } else {
            self.execute(&step);
            Outcome::Succeeded
        };
        self.outcome(&step, outcome);
        self.steps.push(step);
        self.record_histories();
    }

    fn outcome(&mut self, step: &Step, outcome: Outcome) {
        self.state.apply(step, outcome, &self.observed);
    }

    /// Applies the outcomes that come before anything is done in the runtime.
    fn begin(&mut self, step: &Step) {
        match step {
            Step::RunSandbox { .. } => self.outcome(step, Outcome::Begun),
            Step::RunContainer { uid, container, .. } => {
                let image = self.state.image(uid, container);
                assert!(
                    matches!(image, Some(Image::Ready { .. })),
                    "there is no image"
                );
                self.outcome(step, Outcome::Begun);
            }
            Step::Terminate { .. } => {
                let terminating = Terminating {
                    since: Timestamp::from(0),
                    grace_period: 30,
                };
                self.outcome(step, Outcome::Terminating(terminating));
            }
            Step::StopContainers { ids, reason, .. } => {
                let is_for_itself = match reason {
                    StopReason::Liveness | StopReason::Startup | StopReason::PostStart => {
                        ids.len() == 1
                    }
                    reason => *reason == StopReason::Requested,
                };
                for id in ids.iter().filter(|_| is_for_itself) {
                    let failed = FailedInstance {
                        reason: *reason,
                        message: String::new(),
                        since: Timestamp::from(0),
                        grace_period: 30,
                    };
                    self.outcome(step, Outcome::FailedInstance(id.clone(), failed));
                }
            }
            _ => {}
        }
    }

    fn execute(&mut self, step: &Step) {
        match step {
            Step::Admit { uid } => {
                assert!(!self.state.is_admitted(uid));
                self.outcome(step, Outcome::Admission(Ok(())));
            }
            Step::EnsureImage { uid, .. } => {
                let image = self.pull(uid);
                self.outcome(step, Outcome::Image(Some(image)));
            }
            Step::RunSandbox { uid, attempt } => {
                let is_same = |s: &Sandbox| s.attempt == *attempt;
                let taken = self.observed.sandboxes_of(uid).any(is_same);
                assert!(!taken, "the runtime has sandbox {attempt} already");
                self.sandbox(uid, *attempt, true);
                let record = self.record(uid);
                self.outcome(step, Outcome::Recorded(record));
                self.outcome(step, Outcome::Started(self.now));
            }
            Step::RunContainer { .. } => self.run_container(step),
            Step::StartContainer { id, .. } => self.start(step, id),
            Step::Terminate { uid } => self.stop(|c| c.uid == *uid),
            Step::StopContainers { ids, .. } => self.stop(|c| ids.contains(&c.id)),
            Step::Fail { uid, reason, .. } => {
                let finished = Finished {
                    phase: Phase::Failed,
                    reason: (*reason).into(),
                    ..Finished::default()
                };
                let record = self.record(uid);
                self.outcome(step, Outcome::Finished(finished, Some(record)));
            }
            Step::StartAgain { .. } => {
                let seen = self.first_seen();
                self.outcome(step, Outcome::StartedAgain(seen));
            }
            Step::RemoveSandbox { id } => {
                let live = self.live().into_iter().any(|c| c.sandbox == *id);
                assert!(!live, "removed with live containers");
                self.done(step);
            }
            Step::CleanUp { .. } => {
                self.done(step);
                self.want(self.wanted.clone());
            }
            Step::CheckVolumes { .. }
            | Step::TakeTurn { .. }
            | Step::TakeOverKubeletPod { .. }
            | Step::RestartAll { .. }
            | Step::StopSandbox { .. }
            | Step::RemoveContainer { .. } => self.done(step),
        }
    }

    fn done(&mut self, step: &Step) {
        self.outcome(step, Outcome::Done);
        self.observed.apply_done(step);
    }

    fn first_seen(&self) -> FirstSeen {
        FirstSeen {
            nanos: 1,
            monotonic: self.now,
        }
    }

    /// A record of a version, with nothing in it.
    fn record(&self, uid: &str) -> Arc<Record> {
        let pod = self.state.pod(&uid.into()).unwrap();
        Arc::new(Record {
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            node: String::new(),
            path: String::new(),
            seen: String::new(),
            source: pod.source(),
            document: WrittenDocument::default(),
            objects: Arc::default(),
        })
    }

    fn pull(&mut self, uid: &str) -> Image {
        let is_missing = self.no_image.contains(uid) || self.failed_pulls > 0;
        self.failed_pulls = self.failed_pulls.saturating_sub(1);
        if is_missing {
            return Image::Failed {
                reason: "ErrImagePull",
                message: "no".into(),
                retry: self.now.after(Duration::from_secs(10)),
                delay: Duration::from_secs(10),
            };
        }
        Image::Ready {
            reference: "id".into(),
            user: ImageUser::default(),
            pulled: false,
        }
    }

    fn run_container(&mut self, step: &Step) {
        let Step::RunContainer {
            uid,
            sandbox,
            container,
            attempt,
            backoff,
        } = step
        else {
            panic!("no container is to be run");
        };
        let history = self.observed.history_of(uid, container);
        let taken = history.iter().any(|c| c.attempt == *attempt);
        assert!(
            !taken,
            "the runtime has container {container} {attempt} already"
        );
        let id = self.container(uid, sandbox, container, *attempt, State::Created);
        let new = self.observed.containers.iter_mut().find(|c| c.id == id);
        new.unwrap().backoff = *backoff;
        self.start(step, &id);
    }

    fn start(&mut self, step: &Step, id: &str) {
        let container = self.observed.containers.iter().find(|c| c.id == id);
        let spec = self.spec(container.unwrap()).unwrap();
        let has_hook = spec.lifecycle.is_some_and(|l| l.post_start.is_some());
        if has_hook {
            self.outcome(step, Outcome::PostStart(id.into()));
        }
        self.outcome(step, Outcome::Started(self.now));
        self.set_state(id, State::Running { started_at: 1 });
        if spec.startup_probe.is_some() {
            let health = Health {
                started: false,
                ready: false,
                failed: None,
            };
            self.state.probes.insert(id.into(), health);
        }
        if has_hook {
            let hooks = &mut self.state.post_starts;
            hooks.insert(id.into(), PostStart::Running);
        }
    }

    pub(super) fn spec(&self, container: &Container) -> Option<ContainerSpec> {
        let pod = self.state.pod(&container.uid)?;
        let mut all = pod.all_containers();
        all.find(|spec| spec.name == container.name).cloned()
    }

    fn stop(&mut self, test: impl Fn(&Container) -> bool) {
        let exit = self.ended(self.stop_code);
        let stopped = self.observed.containers.iter_mut();
        for container in stopped.filter(|c| c.is_live() && test(c)) {
            container.state = exit.clone();
            self.state.probes.remove(&container.id);
        }
    }

    /// Brings the histories up to date, as far as the planner looks at them.
    pub(super) fn record_histories(&mut self) {
        let uids: Vec<_> = self.state.pods().map(|pod| pod.uid.clone()).collect();
        for uid in uids {
            if self.state.is_terminating(&uid) || !self.state.is_on_disk(&uid) {
                continue;
            }
            let pod = self.state.pod(&uid).unwrap();
            let is_there = !self.observed.has_none_of(&uid);
            let has_ended = is_there && has_ended(self.view(), pod);
            let history = self.state.version_mut(&uid).history_mut();
            history.update(&self.observed, &uid);
            if has_ended && history.finished.is_none() {
                history.end(Finished::default());
            }
        }
    }

    /// Plans and executes until there is nothing to do at this moment.
    pub(in crate::pod) fn settle(&mut self) -> Plan {
        for _ in 0..200 {
            let next = plan(self.view());
            match next.step.clone() {
                Some(step) => self.apply(step),
                None => return next,
            }
        }
        panic!("200 steps were not enough: {:#?}", self.steps);
    }

    /// Settles, and lets time pass, until nothing is left to wait for.
    pub(in crate::pod) fn settle_for_good(&mut self) {
        for _ in 0..100 {
            match self.settle().wake {
                Some(wake) => {
                    assert!(wake > self.now, "an alarm in the past");
                    self.now = wake;
                }
                None => return,
            }
        }
        panic!("it never ends: {:#?}", self.steps);
    }

    /// Returns true if exactly one container of each of [`NAMES`] runs, in the ready sandbox.
    pub(super) fn runs(&self, version: &StaticPod) -> bool {
        let Some(sandbox) = self.observed.ready_sandbox(&version.uid) else {
            return false;
        };
        NAMES.iter().all(|name| {
            let named = |c: &&Container| c.name == *name;
            let live = self.live();
            let mut live = live.into_iter().filter(named);
            let one = live.next();
            one.is_some_and(|c| c.sandbox == sandbox.id && c.uid == version.uid)
                && live.next().is_none()
        })
    }
}
