//! Carrying out the planner's steps. Each ends with the task's view of the runtime brought up to
//! date: by what the step itself brought about, or, when it failed, by asking anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Volume};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::admission::Rejection;
use super::effects::stop_subject;
use super::events::EventKind;
use super::folder::{self, Record, Terminating};
use super::history::{Finished, GivenUp, History};
use super::identity::check_id;
use super::image::{self, ImageError, LocalImage};
use super::jobs::{self, FILES, file_subject, timed_out};
use super::limiter::{Class, Kind, Place};
use super::memory::{Image, PostStart, Subject};
use super::moment::Since;
use super::observed::{Container, Sandbox, State};
use super::plan::{Step, View, Why, image_volumes, is_urgent, volume_holder, wanted_images};
use super::rollback::{self, Rollback};
use super::rules::{all_containers, restarts_on_failure, stop_order};
use super::status::status;
use super::task::{Context, PodTask, Pulled};
use super::waiting::MISSING_OBJECT;
use super::{backoff, observe, tell};
use crate::cri::{Client, Error, if_found, v1};
use crate::host::blocking::{blocking, pooled};
use crate::host::cgroup;
use crate::host::untrusted::read_path;
use crate::manifest::objects::{self, Objects, User};
use crate::manifest::{PodKey, StaticPod};
use crate::probe::hook::{self, PRE_STOP_FAILED};
use crate::translate::{
    Addresses, ContainerInstance, ResolvConf, SandboxInstance, SubPath, UserNamespaceRange,
    container_config, dns_problems, hostname_problem, is_sidecar, pod_cgroup_limits,
    pod_cgroup_path, qos_class, qos_cpu_shares, sandbox_config, sub_paths,
};
use crate::units::time::{seconds, whole_seconds};
use crate::volume;

/// The least time a container gets between its stop signal and the kill, once its preStop hook used
/// up the grace period; the kubelet's.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);
/// The time that a preStop hook has beyond the grace period: until the kill, and a second for that.
const HOOK_OVERTIME: Duration = Duration::from_secs(3);
/// A grace period that is shorter than whole seconds by less than this is as good as whole.
const NEARLY_WHOLE: Duration = Duration::from_millis(100);
/// How long a container that ran before waits for a pull before it starts from the image at hand: a
/// registry that is away must not keep down what already ran here.
const RESTART_PULL: Duration = Duration::from_secs(3);

/// How long the status of a container is waited for that was stopped.
const INSPECTION: Duration = Duration::from_secs(5);

/// Kubernetes' word for an image that is not there and must not be pulled.
pub(super) const NEVER_PULL: &str = "ErrImageNeverPull";

/// Why a step failed: the runtime's error, or something of the node's.
pub(super) enum Failure {
    Runtime(Error),
    /// The runtime's error with a reason of its own, and what is known of its cause.
    Call {
        reason: &'static str,
        error: Error,
        hint: Option<String>,
    },
    /// Containers that were not stopped, each with the runtime's error.
    Stops(Vec<(String, Error)>),
    Node {
        reason: &'static str,
        message: String,
    },
    /// It was dropped, since something else of the Pod had to be done.
    Hangs {
        after: Duration,
    },
    /// It was dropped, since it is no longer wanted.
    Dropped,
}

impl Failure {
    /// Returns true if nothing failed on the Pod's or the node's side: the runtime is away, or the step is no
    /// longer wanted.
    fn is_away_or_dropped(&self) -> bool {
        let is_away = |error: &Error| matches!(error, Error::Unavailable { .. });
        match self {
            Self::Runtime(error) | Self::Call { error, .. } => is_away(error),
            Self::Stops(stops) => stops.iter().any(|(_, error)| is_away(error)),
            Self::Dropped => true,
            Self::Node { .. } | Self::Hangs { .. } => false,
        }
    }

    /// Returns the failure's own reason, where it has one.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Call { reason, .. } | Self::Node { reason, .. } => Some(reason),
            Self::Runtime(_) | Self::Stops(_) | Self::Hangs { .. } | Self::Dropped => None,
        }
    }

    /// Returns the message for statuses and logs.
    fn message(&self, subject: &Subject) -> String {
        let of_runtime = |error: &Error| match subject {
            // The kubelet shows the runtime's bare words there.
            Subject::Container(..) => error.message(),
            _ => error.to_string(),
        };
        match self {
            Self::Runtime(error) => of_runtime(error),
            Self::Call { error, hint, .. } => with_hint(of_runtime(error), hint.as_deref()),
            Self::Stops(stops) => {
                let messages = stops.iter().map(|(_, error)| of_runtime(error));
                messages.collect::<Vec<_>>().join(", ")
            }
            Self::Node { message, .. } => message.clone(),
            Self::Hangs { after } => hangs(*after),
            Self::Dropped => String::new(),
        }
    }

    /// Returns the message for events, in the kubelet's words where a call to the runtime failed. `uid` is the
    /// version's.
    pub(super) fn event_message(&self, subject: &Subject, reason: &str, uid: &str) -> String {
        let of_runtime = |error: &Error| match (subject, reason) {
            (Subject::Container(..), _) => error.rpc_message(),
            (_, "FailedCreatePodSandBox") => error.rpc_error(),
            (_, "FailedKillPod") => tell::failed_kill("PodSandbox", uid, error),
            _ => error.to_string(),
        };
        match self {
            Self::Runtime(error) => of_runtime(error),
            Self::Call { error, hint, .. } => with_hint(of_runtime(error), hint.as_deref()),
            Self::Stops(stops) => {
                let failed =
                    |(name, error): &(String, Error)| tell::failed_kill("Container", name, error);
                match stops.as_slice() {
                    [stop] => failed(stop),
                    stops => {
                        let all: Vec<String> = stops.iter().map(failed).collect();
                        format!("[{}]", all.join(", "))
                    }
                }
            }
            Self::Node { .. } | Self::Hangs { .. } | Self::Dropped => self.message(subject),
        }
    }
}

fn with_hint(message: String, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{message}; {hint}"),
        None => message,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Runtime(error)
    }
}

pub(super) fn node_failure(reason: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |e| Failure::Node {
        reason,
        message: e.to_string(),
    }
}

/// How containers are stopped.
#[derive(Debug, Clone, Copy)]
struct Stop {
    /// Seconds between the hook before the stop signal, or else the signal, and the kill.
    grace_period: i64,
    /// How much of that has gone by.
    spent: Duration,
    /// Whether their hook is run.
    with_hook: bool,
    /// Why, where it is not the end of all of them.
    why: Option<Why>,
}

impl Stop {
    /// How much of the grace period is left, this long after the stop began.
    fn left(&self, elapsed: Duration) -> Duration {
        let spent = self.spent.saturating_add(elapsed);
        seconds(self.grace_period).saturating_sub(spent)
    }
}

/// Containers that are stopped together, in groups: those of one get their stop signal once all of the
/// groups before have ended.
struct Turns {
    /// How many of each group have not ended yet.
    left: Vec<usize>,
    /// Whether one could not be stopped; those after it wait for another try.
    failed: bool,
}

impl Turns {
    /// Whether it is this group's turn, or will not be.
    fn is_decided(&self, group: usize) -> bool {
        self.failed || self.left[..group].iter().all(|left| *left == 0)
    }
}

/// A container that is stopped.
struct Stopping {
    id: String,
    name: String,
    spec: Option<ContainerSpec>,
    /// The place of its group among all.
    group: usize,
    turns: Arc<watch::Sender<Turns>>,
}

/// What came of it.
struct Stopped {
    id: String,
    name: String,
    /// Whether the hook before failed.
    hook_failed: bool,
    /// The runtime's answer; nothing where its turn did not come.
    result: Option<Result<(), Error>>,
}

/// Stops one container: its preStop hook, its signal when it is its turn, and the kill. Hooks do not wait
/// for turns, and nobody's turn is waited for once the grace period is over; as with the kubelet.
async fn stop_one(
    context: Arc<Context>,
    pod: PodKey,
    ip: String,
    container: Stopping,
    stop: Stop,
) -> Stopped {
    let Stopping {
        id,
        name,
        spec,
        group,
        turns,
    } = container;
    let began = Instant::now();
    let left = stop.left(Duration::ZERO);
    let spec = spec.filter(|_| stop.with_hook && !left.is_zero());
    // It is waited for during the grace period, and may run on until its container is killed.
    let hook = async {
        match &spec {
            Some(spec) => {
                let limit = left.saturating_add(HOOK_OVERTIME);
                hook::pre_stop(&context.client, spec, &id, &ip, limit).await
            }
            None => Ok(()),
        }
    };
    tokio::pin!(hook);
    let done = tokio::time::timeout(left, &mut hook).await;
    let overtime = done.is_err();
    let failure = match done {
        Ok(result) => result.err(),
        Err(_) => Some(format!("it was not done within {} s", left.as_secs())),
    };
    let hook_failed = failure.is_some();
    if let Some(error) = failure {
        warn!(%pod, container = name, error, "the preStop hook failed");
    }
    let ends = stop_in_turn(&context.client, &id, group, &turns, stop, began);
    tokio::pin!(ends);
    let result = tokio::select! {
        result = &mut ends => result,
        // What becomes of it now has been reported.
        _ = &mut hook, if overtime => ends.await,
    };
    Stopped {
        id: id.clone(),
        name,
        hook_failed,
        result,
    }
}

/// Sends a container its stop signal when it is its turn; nothing where its turn does not come.
async fn stop_in_turn(
    client: &Client,
    id: &str,
    group: usize,
    turns: &watch::Sender<Turns>,
    stop: Stop,
    began: Instant,
) -> Option<Result<(), Error>> {
    let mut seen = turns.subscribe();
    let turn = seen.wait_for(|turns| turns.is_decided(group));
    // That the time is over is no error, and the sender is here.
    let _ = tokio::time::timeout(stop.left(began.elapsed()), turn).await;
    if turns.borrow().failed && group > 0 {
        return None;
    }
    let left = match stop.grace_period {
        0 => Duration::ZERO,
        _ => stop.left(began.elapsed()).max(MINIMUM_GRACE),
    };
    let result = if_found(signal_and_kill(client, id, left).await);
    turns.send_modify(|turns| match result {
        Ok(_) => turns.left[group] = turns.left[group].saturating_sub(1),
        Err(_) => turns.failed = true,
    });
    Some(result.map(drop))
}

/// Sends a container its stop signal, and kills it `left` later. The runtime counts in whole seconds only:
/// where that would be too late, it is told to kill when the time has come.
async fn signal_and_kill(client: &Client, id: &str, left: Duration) -> Result<(), Error> {
    let whole = whole_seconds(left);
    let stop = client.stop_container(id, whole);
    if seconds(whole).saturating_sub(left) < NEARLY_WHOLE {
        return stop.await;
    }
    match tokio::time::timeout(left, stop).await {
        Ok(stopped) => stopped,
        Err(_) => client.stop_container(id, 0).await,
    }
}

impl PodTask {
    /// Carries out one step, and notes its outcome.
    pub(super) async fn act(&mut self, step: Step) {
        let done = step.clone();
        let (subject, reason, result) = match step {
            Step::Admit { uid } => return self.admit(uid),
            Step::WantImage { uid, container } => return self.want_image(uid, container),
            Step::TakeTurn { uid } => return self.take_turn(uid),
            Step::CheckVolumes { .. }
            | Step::StopSandbox { .. }
            | Step::RemoveSandbox { .. }
            | Step::RemoveContainer { .. }
            | Step::ClearTraces { .. } => return self.begin(step),
            Step::RunSandbox { uid, attempt } => {
                let result = self.run_sandbox(&uid, attempt).await;
                (Subject::Sandbox(uid), "FailedCreatePodSandBox", result)
            }
            Step::RunContainer {
                uid,
                sandbox,
                container,
                attempt,
                backoff,
            } => {
                let result = self
                    .run_container(&uid, &sandbox, &container, attempt, backoff)
                    .await;
                let subject = Subject::Container(uid, container);
                (subject, "CreateContainerError", result)
            }
            Step::StartContainer { uid, container, id } => {
                let result = self.start_container(&uid, &container, &id).await;
                let subject = Subject::Container(uid, container);
                (subject, "RunContainerError", result)
            }
            Step::Terminate { uid } => {
                let result = self.terminate(&uid).await;
                (Subject::Stop(uid), "FailedKillPod", result)
            }
            Step::StopContainers { uid, ids, why } => {
                let result = self.stop_containers(&uid, &ids, why).await;
                (stop_subject(&uid, &ids, why), "FailedKillPod", result)
            }
            Step::RestartAll { uid } => return self.restart_all(&uid),
            Step::Fail {
                uid,
                reason,
                message,
            } => return self.fail(&uid, reason, message).await,
            Step::StartAgain { uid } => {
                let result = self.start_again(&uid).await;
                (Subject::Sandbox(uid), "FailedCreatePodSandBox", result)
            }
        };
        // A stop that was given up for something more urgent is to come again.
        let now = self.context.clock.now();
        if result.is_ok() && !self.stale && !self.effects.succeeded(done, now) {
            return;
        }
        self.note(subject, reason, result);
    }

    /// Notes a step that succeeded a short while ago and is the next one again as failed: it changed
    /// nothing. Tells whether it was one.
    pub(super) fn has_changed_nothing(&mut self, step: &Step) -> bool {
        let now = self.context.clock.now();
        let Some((subject, reason, message)) = self.effects.take_repeated(step, now) else {
            return false;
        };
        self.note(subject, reason, Err(Failure::Node { reason, message }));
        true
    }

    pub(super) fn note(
        &mut self,
        subject: Subject,
        reason: &'static str,
        result: Result<(), Failure>,
    ) {
        let failure = match result {
            Ok(()) => {
                self.memory.failures.remove(&subject);
                return;
            }
            Err(failure) => failure,
        };
        self.stale = true;
        // The runtime is away: nobody's fault, and looking waits until it is back.
        if failure.is_away_or_dropped() {
            return;
        }
        self.tell_failure(&subject, reason, &failure);
        let reason = failure.reason().unwrap_or(reason);
        let message = failure.message(&subject);
        let now = self.context.clock.now();
        let news = self.memory.failed(subject, reason, message.clone(), now);
        if news {
            warn!(pod = %self.key, reason, error = message, "a step failed, it will be tried again");
        }
    }

    pub(super) fn version(&self, uid: &str) -> Option<Arc<StaticPod>> {
        self.memory.versions.get(uid).cloned()
    }

    /// The version; the planner only names versions that are known.
    pub(super) fn known_version(&self, uid: &str) -> Result<Arc<StaticPod>, Failure> {
        self.version(uid).ok_or_else(|| Failure::Node {
            reason: "Unknown",
            message: format!("there is no manifest of {uid}"),
        })
    }

    fn admit(&mut self, uid: String) {
        let Some(version) = self.version(&uid) else {
            return;
        };
        let Context { ledger, facts, .. } = &*self.context;
        match ledger.admit(facts, &version) {
            Ok(()) => {
                self.memory.admitted.insert(uid);
            }
            Err(rejection) => {
                let Rejection { reason, message } = &rejection;
                if self.memory.rejected_before.get(&uid) != Some(&rejection) {
                    warn!(pod = %self.key, reason = reason.as_ref(), message, "the Pod cannot run on this node");
                    self.event(&uid, None, EventKind::Warning, reason, message);
                    let before = &mut self.memory.rejected_before;
                    before.insert(uid.clone(), rejection.clone());
                }
                self.memory.rejections.insert(uid, rejection);
            }
        }
    }

    /// Fails where a `ConfigMap` or `Secret` is missing, with an event for each volume or container that
    /// needs it.
    pub(super) fn check_objects(&self, version: &StaticPod) -> Result<(), Failure> {
        let mut failure = None;
        for missing in objects::missing(version) {
            let message = missing.event_message(&version.key.namespace);
            let (container, reason, message) = match &missing.user {
                User::Volume(volume) => {
                    let message = tell::failed_mount(volume, &message);
                    (None, "FailedMount", message)
                }
                User::Container(name) => {
                    let message = format!("Error: {message}");
                    (Some(name.as_str()), "Failed", message)
                }
            };
            self.event(
                &version.uid,
                container,
                EventKind::Warning,
                reason,
                &message,
            );
            failure.get_or_insert(missing);
        }
        // The event has been recorded.
        failure.map_or(Ok(()), |missing| {
            Err(Failure::Node {
                reason: MISSING_OBJECT,
                message: missing.to_string(),
            })
        })
    }

    async fn run_sandbox(&mut self, uid: &str, attempt: u32) -> Result<(), Failure> {
        let version = self.known_version(uid)?;
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.event(uid, None, EventKind::Normal, "SandboxChanged", message);
        }
        let record = self.record(&version);
        self.memory.traces.insert(uid.to_owned());
        let (context, subject) = (Arc::clone(&self.context), Subject::Sandbox(uid.to_owned()));
        let step = self.under_way(uid, None, "PrepareVolumes");
        let prepared = prepare_node(&context, &version, record.clone());
        let host = self.part(&subject, prepared).await??;
        drop(step);
        let user_namespace = user_namespace(&context, &version);
        let instance = SandboxInstance {
            attempt,
            seen: record.seen.clone(),
            user_namespace: self.part(&subject, user_namespace).await??,
        };
        self.records.insert(uid.to_owned(), record);
        if let Some(problem) = hostname_problem(&context.facts, &version) {
            return Err(sandbox_failure(problem));
        }
        for problem in dns_problems(&context.facts, &host, &version) {
            let warning = EventKind::Warning;
            self.event(uid, None, warning, "DNSConfigForming", &problem);
        }
        let config = sandbox_config(&context.facts, &host, &version, &instance);
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: runtime_handler(&context, &version)?,
        };
        if attempt == u32::MAX {
            self.free_last_sandbox(uid).await?;
        }
        let class = self.sandbox_class(&version);
        let mut place = self.place(&subject, class).await?;
        let step = self.under_way(uid, None, "RunPodSandbox");
        let call = context.client.run_pod_sandbox(request);
        let call = place.run(Kind::RunSandbox, call);
        let answer = self.part(&subject, call).await?;
        drop((place, step));
        let id = match answer {
            Ok(answer) => answer.pod_sandbox_id,
            Err(error) => {
                self.pass_reserved_name(subject, attempt, &error).await;
                return Err(run_sandbox_failure(&version, error));
            }
        };
        self.memory
            .made
            .insert(subject.clone(), context.clock.now());
        check_id(&id).map_err(|e| sandbox_failure(format!("RunPodSandbox: {e}")))?;
        let status = observe::inspect_sandbox(&context.client, &context.clock, &id);
        let status = self.part(&subject, status).await??;
        let (ready, created, ips) = match status {
            Some(status) => (status.ready, status.created, status.ips),
            None => (false, context.clock.now(), vec![]),
        };
        let ip = ips.first().cloned().unwrap_or_default();
        let sandbox = Sandbox {
            id,
            uid: uid.to_owned(),
            attempt,
            ready,
            created,
            ips,
        };
        self.observed.sandboxes.push(sandbox);
        if !ready {
            let message = "the sandbox is not ready after RunPodSandbox succeeded";
            return Err(sandbox_failure(message.to_owned()));
        }
        info!(pod = %self.key, uid, attempt, ip, "sandbox runs");
        Ok(())
    }

    pub(super) fn record(&self, version: &StaticPod) -> Record {
        let known = self.records.get(&version.uid);
        let path = self.wanted.as_ref().filter(|w| w.pod.uid == version.uid);
        let path = path.map(|w| w.origin.to_string());
        Record {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            node: self.context.node_name.clone(),
            path: path.or(known.map(|r| r.path.clone())).unwrap_or_default(),
            seen: known.map_or_else(|| self.seen(&version.uid), |r| r.seen.clone()),
            source: version.source(),
            document: version.document.clone(),
            objects: Objects::clone(&version.objects),
        }
    }

    /// When a version was first seen, RFC 3339.
    fn seen(&self, uid: &str) -> String {
        let seen = self.memory.seen.get(uid);
        let now = || self.context.clock.wall_now();
        let nanos = seen.map_or_else(now, |(nanos, _)| *nanos);
        let time = jiff::Timestamp::from_nanosecond(nanos.into());
        time.unwrap_or_else(|_| jiff::Timestamp::now()).to_string()
    }

    /// Attempts end at [`u32::MAX`]: the last sandbox gives way to the next of that number.
    async fn free_last_sandbox(&mut self, uid: &str) -> Result<(), Failure> {
        let is_last = |s: &&Sandbox| s.attempt == u32::MAX && !s.ready;
        let last = self.observed.sandboxes_of(uid).find(is_last);
        match last.map(|s| s.id.clone()) {
            Some(id) => {
                let remove = jobs::remove_sandbox(Arc::clone(&self.context), id.clone());
                let removed = self.part(&Subject::Sandbox(uid.to_owned()), remove).await?;
                self.apply(&Step::RemoveSandbox { id }, &removed);
                removed
            }
            None => Ok(()),
        }
    }

    /// The same for an instance of a container.
    async fn free_last_container(&mut self, uid: &str, name: &str) -> Result<(), Failure> {
        let is_last = |c: &&Container| c.name == name && c.attempt == u32::MAX && !c.is_live();
        let last = self.observed.containers_of(uid).find(is_last);
        match last.map(|c| c.id.clone()) {
            Some(id) => {
                let (context, key) = (Arc::clone(&self.context), self.key.clone());
                let known = self.observed.containers.iter().find(|c| c.id == id);
                let remove = jobs::remove_container(context, key, id.clone(), known.cloned());
                let subject = Subject::Container(uid.to_owned(), name.to_owned());
                let removed = self.part(&subject, remove).await?;
                self.apply(&Step::RemoveContainer { id }, &removed);
                removed
            }
            None => Ok(()),
        }
    }

    async fn run_container(
        &mut self,
        uid: &str,
        sandbox: &str,
        container: &str,
        attempt: u32,
        backoff: Option<Duration>,
    ) -> Result<(), Failure> {
        let version = self.known_version(uid)?;
        let image_key = (uid.to_owned(), container.to_owned());
        // Used up whatever comes of it: the next start looks for the image again.
        let image = self.memory.images.remove(&image_key);
        let spec = all_containers(&version).find(|c| c.name == container);
        let (
            Some(Image::Ready {
                reference,
                user,
                pulled,
            }),
            Some(spec),
        ) = (image, spec)
        else {
            return Ok(());
        };
        self.tell_images(&version, spec, pulled);
        let context = Arc::clone(&self.context);
        let subject = Subject::Container(uid.to_owned(), container.to_owned());
        let user_namespace = user_namespace(&context, &version);
        let user_namespace = self.part(&subject, user_namespace).await??;
        // Its variables have the addresses that the node has now.
        context.facts.identity.ips.look();
        let ips = self.observed.sandboxes.iter().find(|s| s.id == sandbox);
        let mut instance = ContainerInstance {
            attempt,
            backoff,
            image: reference,
            user,
            addresses: Addresses {
                pod: ips.map(|s| s.ips.clone()).unwrap_or_default(),
                seen: self.record(&version).seen,
            },
            volume_images: self.volume_images(&version),
            user_namespace,
            ..ContainerInstance::default()
        };
        let step = self.under_way(uid, Some(container), "PrepareContainer");
        let prepared = prepare_container(&context, &version, spec, instance);
        let (prepared, host) = self.part(&subject, prepared).await??;
        drop(step);
        instance = prepared;
        let config = container_config(&context.facts, &version, spec, &instance);
        let config = config.map_err(config_failure)?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.sandbox_config(
                &version,
                sandbox,
                &host,
                instance.user_namespace,
            )),
        };
        if attempt == u32::MAX {
            self.free_last_container(uid, container).await?;
        }
        let class = self.container_class(&version, container);
        let mut place = self.place(&subject, class).await?;
        let step = self.under_way(uid, Some(container), "CreateContainer");
        let create = context.client.create_container(request);
        let create = place.run(Kind::CreateContainer, create);
        let created = self.part(&subject, create).await?;
        drop(step);
        let answer = match created {
            Ok(answer) => answer,
            Err(error) => {
                self.forget_volume_images(uid);
                self.pass_reserved_name(subject, attempt, &error).await;
                return Err(create_failure(&version, spec, error));
            }
        };
        check_id(&answer.container_id).map_err(|e| Failure::Node {
            reason: "CreateContainerError",
            message: format!("CreateContainer: {e}"),
        })?;
        let normal = EventKind::Normal;
        self.event(uid, Some(container), normal, "Created", "Container created");
        let pod_spec = version.pod.spec.as_ref();
        self.observed.containers.push(Container {
            id: answer.container_id.clone(),
            sandbox: sandbox.to_owned(),
            uid: uid.to_owned(),
            name: container.to_owned(),
            attempt,
            state: State::Created,
            image: instance.image.clone(),
            image_ref: instance.image,
            user: None,
            backoff,
            grace_period: pod_spec.and_then(|s| s.termination_grace_period_seconds),
            gone: false,
        });
        self.start_created(&version, spec, &answer.container_id, &mut place)
            .await?;
        drop(place);
        self.learn_late(uid, container, attempt).await;
        Ok(())
    }

    /// Waits for a place among the expensive calls.
    async fn place(&mut self, subject: &Subject, class: Class) -> Result<Place, Failure> {
        let uid = subject.uid().unwrap_or_default();
        let container = match subject {
            Subject::Container(_, name) => Some(name.as_str()),
            _ => None,
        };
        let _step = self.under_way(uid, container, "WaitForTurn");
        let limiter = self.context.limiter.clone();
        self.part(subject, limiter.place(class)).await
    }

    /// An image behind a volume may have gone; the next try looks for it again.
    fn forget_volume_images(&mut self, uid: &str) {
        let volumes = |holder: &String| holder.starts_with(&volume_holder(""));
        let images = &mut self.memory.images;
        images.retain(|(owner, holder), _| owner != uid || !volumes(holder));
    }

    /// Tells which of the images that a container is made with were there already.
    fn tell_images(&self, version: &StaticPod, spec: &ContainerSpec, pulled: bool) {
        let uid = &version.uid;
        let image = |holder: &str| wanted_images(version).find(|image| image.holder == holder);
        for holder in image_volumes(version, spec) {
            let key = (uid.clone(), holder.clone());
            let state = self.memory.images.get(&key);
            let there = matches!(state, Some(Image::Ready { pulled: false, .. }));
            if let Some(image) = image(&holder).filter(|_| there) {
                self.tell_present(uid, &holder, image.image);
            }
        }
        if let Some(image) = image(&spec.name).filter(|_| !pulled) {
            self.tell_present(uid, &spec.name, image.image);
        }
    }

    /// Asks once more about the instance before: that memory ran out the runtime may learn only after the
    /// container's end.
    async fn learn_late(&mut self, uid: &str, container: &str, attempt: u32) {
        let before = self.observed.history_of(uid, container);
        let before = before.into_iter().find(|c| c.attempt < attempt && !c.gone);
        let Some(before) = before.filter(|c| c.exit().is_some_and(|e| e.reason == "Error")) else {
            return;
        };
        let (id, context) = (before.id.clone(), Arc::clone(&self.context));
        let subject = Subject::Container(uid.to_owned(), container.to_owned());
        let now = observe::inspect_container(&context.client, &context.clock, &id);
        if let Ok(Ok(Some(now))) = self.part(&subject, now).await
            && let Some(now) = now.exit()
        {
            let known = self.observed.containers.iter_mut().find(|c| c.id == id);
            if let Some(State::Exited(exit)) = known.map(|c| &mut c.state) {
                exit.reason.clone_from(&now.reason);
            }
        }
    }

    /// The ids of the images behind the version's volumes, as far as they are at hand.
    fn volume_images(&self, version: &StaticPod) -> BTreeMap<String, String> {
        let volumes = version.pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
        let image = |volume: &Volume| {
            let key = (version.uid.clone(), volume_holder(&volume.name));
            match self.memory.images.get(&key)? {
                Image::Ready { reference, .. } => Some((volume.name.clone(), reference.clone())),
                _ => None,
            }
        };
        volumes.into_iter().flatten().filter_map(image).collect()
    }

    /// The configuration that a sandbox was made with, which the runtime wants to see again.
    fn sandbox_config(
        &self,
        version: &StaticPod,
        sandbox: &str,
        host: &ResolvConf,
        user_namespace: Option<UserNamespaceRange>,
    ) -> v1::PodSandboxConfig {
        let context = &self.context;
        let known = self.observed.sandboxes.iter().find(|s| s.id == sandbox);
        let record = self.records.get(&version.uid);
        let instance = SandboxInstance {
            attempt: known.map_or(0, |s| s.attempt),
            seen: record.map(|r| r.seen.clone()).unwrap_or_default(),
            user_namespace,
        };
        sandbox_config(&context.facts, host, version, &instance)
    }

    async fn start_container(
        &mut self,
        uid: &str,
        container: &str,
        id: &str,
    ) -> Result<(), Failure> {
        let version = self.known_version(uid)?;
        let Some(spec) = all_containers(&version).find(|c| c.name == container) else {
            return Ok(());
        };
        let subject = Subject::Container(uid.to_owned(), container.to_owned());
        let class = self.container_class(&version, container);
        let mut place = self.place(&subject, class).await?;
        self.start_created(&version, spec, id, &mut place).await
    }

    async fn start_created(
        &mut self,
        version: &StaticPod,
        spec: &ContainerSpec,
        id: &str,
        place: &mut Place,
    ) -> Result<(), Failure> {
        let container = &spec.name;
        self.expect_post_start(version, spec, id).await;
        let context = Arc::clone(&self.context);
        let subject = Subject::Container(version.uid.clone(), container.clone());
        let request = v1::StartContainerRequest {
            container_id: id.to_owned(),
        };
        let step = self.under_way(&version.uid, Some(container), "StartContainer");
        let start = context.client.start_container(request);
        let start = place.run(Kind::StartContainer, start);
        let started = self.part(&subject, start).await?;
        drop(step);
        started.map_err(|error| Failure::Call {
            reason: "RunContainerError",
            error,
            hint: None,
        })?;
        self.memory
            .made
            .insert(subject.clone(), context.clock.now());
        // The runtime tells what it calls the image only now.
        let now = observe::inspect_container(&context.client, &context.clock, id);
        let now = self.part(&subject, now).await.unwrap_or(Ok(None));
        if let Ok(Some(now)) = &now
            && now.state == State::Created
        {
            return Err(Failure::Node {
                reason: "RunContainerError",
                message: "the container is not started after StartContainer succeeded".to_owned(),
            });
        }
        let normal = EventKind::Normal;
        self.event(
            &version.uid,
            Some(container),
            normal,
            "Started",
            "Container started",
        );
        if let Some(known) = self.observed.containers.iter_mut().find(|c| c.id == id) {
            known.state = State::Running {
                started_at: self.context.clock.wall_now(),
            };
            info!(pod = %self.key, container, attempt = known.attempt, "container runs");
            let before = self.observed.clone();
            self.started(id, now.ok().flatten()).await;
            self.complete(&before).await;
            self.tell_ends(&before);
        }
        let metrics = &self.context.metrics;
        metrics.container_started(self.view(), version, id);
        self.check_stop_signal(version, spec, id).await;
        self.begin_post_start(version, spec, id);
        Ok(())
    }

    /// Takes over what the runtime tells of a container that was started just now; it may be over already.
    async fn started(&mut self, id: &str, now: Option<Container>) {
        let Some(known) = self.observed.containers.iter_mut().find(|c| c.id == id) else {
            return;
        };
        if let Some(now) = now {
            known.state = now.state;
            known.image = now.image;
            known.image_ref = now.image_ref;
            known.user = now.user;
        }
        let (context, key, known) = (Arc::clone(&self.context), self.key.clone(), known.clone());
        self.own_files(link_log(&context, &key, &known)).await;
    }

    /// Tells where a container's stop signal is not known to the runtime, which sends another one then.
    async fn check_stop_signal(&mut self, version: &StaticPod, spec: &ContainerSpec, id: &str) {
        let lifecycle = spec.lifecycle.as_ref();
        let Some(signal) = lifecycle.and_then(|l| l.stop_signal.as_deref()) else {
            return;
        };
        let context = Arc::clone(&self.context);
        let subject = Subject::Container(version.uid.clone(), spec.name.clone());
        let has = observe::stop_signal(&context.client, id);
        if !matches!(self.part(&subject, has).await, Ok(Ok(None))) {
            return;
        }
        let message = format!(
            "lifecycle.stopSignal is {signal}, which this container runtime does not know of: it sends \
             the image's stop signal, or SIGTERM; containerd 2.4 knows of it"
        );
        warn!(pod = %self.key, container = spec.name, "{message}");
        let (name, warning) = (Some(spec.name.as_str()), EventKind::Warning);
        self.event(
            &version.uid,
            name,
            warning,
            "StopSignalNotSupported",
            &message,
        );
    }

    /// Notes, on disk too, that the hook after a container's start is not done, if it has one.
    async fn expect_post_start(&mut self, version: &StaticPod, spec: &ContainerSpec, id: &str) {
        let lifecycle = spec.lifecycle.as_ref();
        if lifecycle.is_some_and(|l| l.post_start.is_some()) {
            let history = self
                .memory
                .histories
                .entry(version.uid.clone())
                .or_default();
            history.post_starts.insert(id.to_owned());
            self.remember().await;
        }
    }

    /// Runs the hooks again that ran when an earlier agent ended.
    pub(super) fn resume_post_starts(&mut self) {
        let hooks = self.memory.post_starts.iter();
        let interrupted = hooks.filter(|(_, hook)| **hook == PostStart::Interrupted);
        let ids: Vec<String> = interrupted.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let known = self.observed.containers.iter().find(|c| c.id == id);
            let running = known.filter(|c| matches!(c.state, State::Running { .. }));
            let version = running.and_then(|c| Some((self.version(&c.uid)?, c.name.clone())));
            let Some((version, name)) = version else {
                continue;
            };
            if let Some(spec) = all_containers(&version).find(|c| c.name == name) {
                info!(pod = %self.key, container = name, "Running the interrupted postStart hook again");
                self.begin_post_start(&version, spec, &id);
            }
        }
    }

    /// Begins the hook after a container's start, if it has one. The Pod's task goes on meanwhile.
    fn begin_post_start(&mut self, version: &StaticPod, spec: &ContainerSpec, id: &str) {
        let lifecycle = spec.lifecycle.as_ref();
        if lifecycle.is_none_or(|l| l.post_start.is_none()) {
            return;
        }
        let hooks = &mut self.memory.post_starts;
        hooks.insert(id.to_owned(), PostStart::Running);
        let client = self.context.client.clone();
        let (spec, id, ip) = (spec.clone(), id.to_owned(), self.pod_ip(&version.uid));
        let step = self.under_way(&version.uid, Some(&spec.name), "PostStartHook");
        let hook = async move {
            let _step = step;
            let result = hook::post_start(&client, &spec, &id, &ip, Duration::MAX).await;
            (id, result)
        };
        self.post_starts.push(hook.boxed());
    }

    /// Where a version's containers can be reached.
    fn pod_ip(&self, uid: &str) -> String {
        let sandbox = self.observed.ready_sandbox(uid);
        let ip = sandbox.and_then(|s| s.ips.first()).cloned();
        let of_host = || self.context.facts.identity.ips.first();
        ip.or_else(of_host)
            .unwrap_or_else(|| "127.0.0.1".to_owned())
    }

    /// The class of the calls that make a sandbox of a version.
    fn sandbox_class(&self, version: &StaticPod) -> Class {
        let spec = version.pod.spec.as_ref();
        if spec.is_some_and(|s| s.host_network == Some(true)) {
            Class::HostNetwork
        } else if self.has_run(&version.uid) {
            Class::Restart
        } else {
            Class::FirstStart
        }
    }

    /// The class of the calls that make and start a container of a version.
    fn container_class(&self, version: &StaticPod, name: &str) -> Class {
        let instances = self.observed.history_of(&version.uid, name);
        if instances.into_iter().any(has_started) {
            Class::Running
        } else {
            self.sandbox_class(version)
        }
    }

    /// Whether a version ran before, or follows one that was stopped for it.
    fn has_run(&self, uid: &str) -> bool {
        let mut instances = self.observed.containers_of(uid);
        self.memory.successors.contains(uid) || instances.any(has_started)
    }

    /// From now on every container of a version is to be replaced.
    fn restart_all(&mut self, uid: &str) {
        let history = self.memory.histories.entry(uid.to_owned()).or_default();
        for container in self.observed.containers_of(uid) {
            history.replace(container);
        }
        // Whatever was wrong with one of them, it ends with the others.
        history.given_up.clear();
        info!(pod = %self.key, "a container's end starts all of them anew");
        let message = "All containers are restarted, as a container's restart rule says";
        self.event(
            uid,
            None,
            EventKind::Normal,
            "RestartAllContainers",
            message,
        );
    }

    /// A version has failed for good. It stays so over restarts of the agent, even where nothing was made of
    /// it but its folder.
    async fn fail(&mut self, uid: &str, reason: &'static str, message: String) {
        warn!(pod = %self.key, reason, message, "the Pod has failed");
        self.event(uid, None, EventKind::Normal, reason, &message);
        let history = self.memory.histories.entry(uid.to_owned()).or_default();
        history.finished = Some(Finished {
            phase: "Failed".to_owned(),
            reason: reason.to_owned(),
            message,
            since: self.context.clock.wall_now(),
        });
        let Some(version) = self.version(uid) else {
            return;
        };
        let record = self.record(&version);
        self.memory.traces.insert(uid.to_owned());
        self.records.insert(uid.to_owned(), record.clone());
        let paths = self.context.facts.paths.clone();
        let create = move || folder::create(&paths, &version.key, &version.uid, &record);
        if let Err(error) = self.own_files(blocking(create)).await {
            warn!(pod = %self.key, %error, "it cannot be kept that the Pod has failed");
        }
    }

    /// Ends all containers of a version, which then is on its way out for good.
    async fn terminate(&mut self, uid: &str) -> Result<(), Failure> {
        let live = self.observed.containers_of(uid).filter(|c| c.is_live());
        let ids: Vec<String> = live.map(|c| c.id.clone()).collect();
        let mark = self.begin_end(uid).await?;
        self.publish();
        let stop = Stop {
            grace_period: mark.grace_period,
            spent: self.time_since(mark.since),
            with_hook: true,
            why: None,
        };
        self.stop_all(uid, &ids, stop).await
    }

    /// Marks a version as on its way out, on disk too; gives when that began.
    async fn begin_end(&mut self, uid: &str) -> Result<Terminating, Failure> {
        if let Some(known) = self.memory.ends.get(uid) {
            return Ok(*known);
        }
        let mark = Terminating {
            since: Since::now(&self.context.clock),
            grace_period: self.grace_period(uid),
        };
        let (paths, owned_uid) = (self.context.facts.paths.clone(), uid.to_owned());
        let marked = move || folder::mark_terminating(&paths, &owned_uid, mark);
        let marked = self.own_files(blocking(marked)).await;
        let mark = marked.map_err(node_failure("FailedKillPod"))?;
        let since = mark.since.fixed(&self.context.clock);
        let mark = Terminating { since, ..mark };
        self.memory.ends.insert(uid.to_owned(), mark);
        self.memory.traces.insert(uid.to_owned());
        if self.memory.terminating.insert(uid.to_owned()) {
            info!(pod = %self.key, uid, grace_period = mark.grace_period, "stopping the Pod");
        }
        Ok(mark)
    }

    fn time_since(&self, since: Since) -> Duration {
        let clock = &self.context.clock;
        clock.now().since(since.moment(clock))
    }

    /// Where a version that was good gives way to one that is taken back if it does not become so, notes
    /// what to go back to.
    pub(super) async fn begin_trial(&mut self, old: &str, new: &StaticPod) {
        let was_good = self.memory.histories.get(old).is_some_and(|h| h.was_good);
        let status = self
            .version(old)
            .map(|v| status(self.view(), &self.context.facts, &v));
        let was_good = was_good || status.is_some_and(|status| rollback::is_good(&status));
        let asked = rollback::limit(new, self.context.rollback_after).is_some();
        let stands_in = |r: &Rollback| r.failed.is_some() && r.uid == old;
        let begun = |r: &Rollback| r.is_trial(&new.uid);
        let settled = self.rollback.as_ref();
        let settled = settled.is_some_and(|r| stands_in(r) || begun(r));
        if !was_good || !asked || settled {
            return;
        }
        if let Some(good) = self.records.get(old).cloned() {
            let trial = Rollback {
                good,
                uid: new.uid.clone(),
                since: None,
                ready_since: None,
                failed: None,
            };
            self.keep_rollback(Some(trial)).await;
        }
    }

    async fn stop_containers(
        &mut self,
        uid: &str,
        ids: &[String],
        why: Why,
    ) -> Result<(), Failure> {
        let given_up = match ids {
            [id] if [Why::Liveness, Why::Startup, Why::PostStart].contains(&why) => {
                Some(self.give_up(uid, id, why).await)
            }
            _ => None,
        };
        let finished = self.memory.finished(uid).filter(|f| f.since > 0);
        let over_since = finished.filter(|_| why == Why::Over);
        let over_since = over_since.map(|f| Since::from(f.since));
        let since = given_up.as_ref().map(|g| g.since).or(over_since);
        let stop = Stop {
            grace_period: match (why, &given_up) {
                (Why::RestartAll, _) => 0,
                (_, Some(given_up)) => given_up.grace_period,
                _ => self.grace_period(uid),
            },
            spent: since.map_or(Duration::ZERO, |since| self.time_since(since)),
            with_hook: why != Why::RestartAll,
            why: Some(why),
        };
        self.stop_all(uid, ids, stop).await?;
        for id in ids.iter().filter(|_| given_up.is_some()) {
            let known = self.observed.containers.iter().find(|c| c.id == *id);
            if let Some((container, exit)) = known.and_then(|c| Some((c, c.exit()?))) {
                self.tell_pause(container, exit);
            }
        }
        Ok(())
    }

    /// Begins the stop of a container that does not work, or finds it begun. It stands on disk before
    /// anything is stopped: an agent that dies meanwhile is followed by one that goes on with it.
    async fn give_up(&mut self, uid: &str, id: &str, why: Why) -> GivenUp {
        let history = self.memory.histories.entry(uid.to_owned()).or_default();
        if let Some(begun) = history.given_up.get_mut(id) {
            begun.since = begun.since.fixed(&self.context.clock);
            return begun.clone();
        }
        let grace_period = self.probe_grace_period(uid, id, why);
        let message = match self.memory.post_starts.get(id) {
            Some(PostStart::Failed(message)) => message.clone(),
            _ => String::new(),
        };
        let given_up = GivenUp {
            why,
            message,
            since: Since::now(&self.context.clock),
            grace_period: grace_period.unwrap_or_else(|| self.grace_period(uid)),
        };
        let history = self.memory.histories.entry(uid.to_owned()).or_default();
        history.given_up.insert(id.to_owned(), given_up.clone());
        history.post_starts.remove(id);
        self.remember().await;
        self.tell_given_up(uid, id, why);
        given_up
    }

    fn tell_given_up(&self, uid: &str, id: &str, why: Why) {
        let known = self.observed.containers.iter().find(|c| c.id == id);
        let Some((version, container)) = self.version(uid).zip(known) else {
            return;
        };
        let name = &container.name;
        let what = match why {
            Why::Liveness => "failed its liveness probe",
            Why::Startup => "failed its startup probe",
            _ => "failed its postStart hook",
        };
        let again = restarts_on_failure(&version, name);
        let then = if again { ", it will be restarted" } else { "" };
        warn!(pod = %self.key, container = name, "the container {what}{then}");
    }

    /// The grace period that a probe gives the container it gives up, in seconds.
    fn probe_grace_period(&self, uid: &str, id: &str, why: Why) -> Option<i64> {
        let version = self.version(uid)?;
        let container = self.observed.containers.iter().find(|c| c.id == id)?;
        let spec = all_containers(&version).find(|c| c.name == container.name)?;
        let probe = match why {
            Why::Liveness => spec.liveness_probe.as_ref(),
            Why::Startup => spec.startup_probe.as_ref(),
            _ => None,
        };
        probe?.termination_grace_period_seconds
    }

    /// The grace period of a version, from its manifest or else from what its containers were made
    /// with, in seconds.
    fn grace_period(&self, uid: &str) -> i64 {
        let version = self.version(uid);
        let spec = version.as_ref().and_then(|v| v.pod.spec.as_ref());
        let own = spec.and_then(|s| s.termination_grace_period_seconds);
        let given = || {
            self.observed
                .containers_of(uid)
                .find_map(|c| c.grace_period)
        };
        own.or_else(given).unwrap_or(30).max(0)
    }

    /// Stops containers, sidecars after those that they accompany: preStop hook, signal, and a kill once
    /// the grace period is over, which is one for all of them. Given up where something more urgent comes
    /// up; what is stopped goes on without us then.
    async fn stop_all(&mut self, uid: &str, ids: &[String], stop: Stop) -> Result<(), Failure> {
        let mut stops = self.begin_stops(uid, ids, stop);
        let _step = self.under_way(uid, None, "StopContainers");
        // What has ended for good has its grace period already, and it is the Pod's.
        let patient = matches!(stop.why, None | Some(Why::Over));
        let urgent = |view: View<'_>| !patient && is_urgent(view, uid);
        let mut failed = vec![];
        while !stops.is_empty() {
            let Some(stopped) = self.meanwhile(stops.next(), urgent).await else {
                debug!(pod = %self.key, uid, "a stop is given up for something more urgent");
                self.stale = true;
                return Ok(());
            };
            let Some(stopped) = stopped else {
                break;
            };
            if stopped.hook_failed {
                let (name, kind) = (Some(stopped.name.as_str()), EventKind::Warning);
                self.event(uid, name, kind, "FailedPreStopHook", PRE_STOP_FAILED);
            }
            match stopped.result {
                Some(Ok(())) => {
                    self.has_ended(&stopped.id).await;
                    self.publish();
                }
                Some(Err(error)) => failed.push((stopped.name, error)),
                None => {}
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::Stops(failed))
    }

    /// Begins to stop containers side by side, and tells of each.
    fn begin_stops(
        &self,
        uid: &str,
        ids: &[String],
        stop: Stop,
    ) -> FuturesUnordered<impl Future<Output = Stopped> + use<>> {
        let version = self.version(uid);
        let groups = match &version {
            Some(version) => stop_order(version, &self.observed, ids),
            None => vec![ids.to_vec()],
        };
        let ip = self.pod_ip(uid);
        let turns = Turns {
            left: groups.iter().map(Vec::len).collect(),
            failed: false,
        };
        let turns = Arc::new(watch::Sender::new(turns));
        let stops = FuturesUnordered::new();
        for (group, id) in (groups.into_iter().enumerate())
            .flat_map(|(group, ids)| ids.into_iter().map(move |id| (group, id)))
        {
            let known = self.observed.containers.iter().find(|c| c.id == id);
            let name = known.map(|c| c.name.clone()).unwrap_or_default();
            let spec = version.as_ref().and_then(|v| {
                let spec = all_containers(v).find(|c| c.name == name);
                spec.cloned()
            });
            let sidecar = spec.as_ref().is_some_and(is_sidecar);
            let again = version.as_ref();
            let again = again.is_some_and(|v| restarts_on_failure(v, &name));
            let message = tell::killing(&name, stop.why, sidecar, again);
            self.event(uid, Some(&name), EventKind::Normal, "Killing", &message);
            let container = Stopping {
                id,
                name,
                spec,
                group,
                turns: Arc::clone(&turns),
            };
            let context = Arc::clone(&self.context);
            let (pod, ip) = (self.key.clone(), ip.clone());
            stops.push(stop_one(context, pod, ip, container, stop));
        }
        stops
    }

    /// What a container is taken for that was stopped well, is not to run again, and whose status the runtime
    /// does not give.
    fn assumed_end(&self, id: &str) -> Option<Container> {
        let known = self
            .observed
            .containers
            .iter()
            .find(|c| c.id == id)?
            .clone();
        let state = State::Exited(observe::unseen_end(&self.context.clock));
        Some(Container { state, ..known })
    }

    /// Learns how a container ended that was stopped.
    async fn has_ended(&mut self, id: &str) {
        let before = self.observed.clone();
        let context = Arc::clone(&self.context);
        let now = observe::inspect_container(&context.client, &context.clock, id);
        let known = self.observed.containers.iter().find(|c| c.id == id);
        let uid = known.map(|c| c.uid.clone()).unwrap_or_default();
        let ends = |task: &Self| !task.is_version_kept(&uid);
        let now = self.beside(now, |task, took| took >= INSPECTION && ends(task));
        let now = now.await.unwrap_or_else(|| Ok(self.assumed_end(id)));
        let Some(known) = self.observed.containers.iter_mut().find(|c| c.id == id) else {
            return;
        };
        match now {
            Ok(Some(now)) => {
                // A runtime that goes on to call it running was told of its end in vain, and one that
                // ended before is not stopped once more.
                let was_live = known.is_live();
                known.state = now.state;
                if was_live && known.exit().is_some() {
                    info!(pod = %self.key, container = known.name, "container stopped");
                }
            }
            Ok(None) => self.observed.forget(id),
            Err(error) => {
                debug!(pod = %self.key, container = known.name, %error, "cannot tell how it ended");
                self.stale = true;
            }
        }
        self.complete(&before).await;
    }

    /// Lets a version start that ended before its clean-up succeeded: nothing of the old instances counts
    /// for the new ones but their names.
    async fn start_again(&mut self, uid: &str) -> Result<(), Failure> {
        let (paths, owner) = (self.context.facts.paths.clone(), uid.to_owned());
        let unmark = move || folder::unmark_terminating(&paths, &owner);
        let unmarked = self.own_files(blocking(unmark)).await;
        unmarked.map_err(node_failure("FailedCreatePodSandBox"))?;
        info!(pod = %self.key, uid, "Starting the Pod again before its clean-up has succeeded");
        let mut history = History::default();
        for container in self.observed.containers_of(uid) {
            history.replace(container);
        }
        let memory = &mut self.memory;
        memory.histories.insert(uid.to_owned(), history);
        memory.terminating.remove(uid);
        memory.ends.remove(uid);
        memory.rejections.remove(uid);
        memory.failures.remove(&Subject::Traces(uid.to_owned()));
        self.effects.forget(uid);
        // It may have given back what it took when it was over.
        if let Some(version) = self.version(uid) {
            self.context.ledger.note(&version);
        }
        self.records.remove(uid);
        self.kept.remove(uid);
        self.seen_at(uid, self.context.clock.wall_now());
        Ok(())
    }

    /// Gives the classes of service what the Pods that are left ask for.
    pub(super) async fn share_out(&mut self) {
        let (context, key) = (Arc::clone(&self.context), self.key.clone());
        let share_out = move || jobs::share_out(&context);
        let shared = self.own_files(blocking(share_out)).await;
        let problem = shared.err().map(|error| error.to_string());
        if self.complaints.should_log("CPU shares", problem.as_deref()) {
            // It has more than it needs until the next Pod starts or goes.
            let error = problem.unwrap_or_default();
            warn!(pod = %key, error, "Failed to update QoS CPU shares");
        }
    }

    /// The wait that the last failure to get an image brought about, and why that failed.
    pub(super) fn failed_before(&self, uid: &str, container: &str) -> (Duration, String) {
        let key = (uid.to_owned(), container.to_owned());
        match self.memory.images.get(&key) {
            Some(Image::Pulling { after, error }) => (*after, error.clone()),
            Some(Image::Failed { delay, message, .. }) => (*delay, message.clone()),
            _ => (Duration::ZERO, String::new()),
        }
    }

    /// Notes what came of a pull.
    pub(super) fn pulled(&mut self, pulled: Pulled) {
        let Pulled {
            uid,
            holder,
            result,
            took,
        } = pulled;
        let image = self.version(&uid).and_then(|version| {
            let image = wanted_images(&version).find(|image| image.holder == holder);
            image.map(|image| image.image.to_owned())
        });
        if let (Some(image), Ok(local)) = (image, &result) {
            self.tell_pulled(&uid, &holder, &image, local, took);
        }
        self.image_arrived(uid, holder, result);
    }

    /// Notes what came of looking for an image.
    pub(super) fn image_arrived(
        &mut self,
        uid: String,
        container: String,
        result: Result<LocalImage, ImageError>,
    ) {
        let Some(version) = self.version(&uid) else {
            return;
        };
        let before = self.memory.images.get(&(uid.clone(), container.clone()));
        let before = match before {
            Some(Image::Failed { message, .. }) => Some(message.clone()),
            _ => None,
        };
        let image = match result {
            Ok(LocalImage {
                reference,
                user,
                pulled,
                ..
            }) => Image::Ready {
                reference,
                user,
                pulled: pulled.is_some(),
            },
            Err(error) => {
                let ImageError { reason, message } = match image_of(&version, &container) {
                    Some(image) => self.tell_no_image(&version, &container, image, error),
                    None => error,
                };
                let delay = match reason {
                    // Looking costs no registry anything, and whoever has the image brought does not say so.
                    NEVER_PULL => backoff::INITIAL,
                    _ => backoff::next(self.failed_before(&uid, &container).0),
                };
                let retry_in = delay.as_secs();
                if before.is_none_or(|before| before != message) {
                    warn!(pod = %self.key, container, reason, error = message, retry_in, "no image");
                }
                Image::Failed {
                    reason,
                    message,
                    retry: self.context.clock.now().after(delay),
                    delay,
                }
            }
        };
        self.memory.images.insert((uid, container), image);
    }
}

/// The container whose image this is; a volume's image is the Pod's.
pub(super) fn image_container(holder: &str) -> Option<&str> {
    let of_volume = holder.starts_with(&volume_holder(""));
    (!of_volume).then_some(holder)
}

/// The image that a container or a volume of this version needs.
fn image_of<'a>(version: &'a StaticPod, holder: &str) -> Option<&'a str> {
    let mut wanted = wanted_images(version);
    wanted.find_map(|image| (image.holder == holder).then_some(image.image))
}

fn has_started(container: &Container) -> bool {
    match &container.state {
        State::Created => false,
        State::Exited(exit) => exit.started_at > 0 || container.gone,
        State::Running { .. } | State::Unknown => true,
    }
}

/// What to say of a call that was dropped so that the task could do something else.
fn hangs(after: Duration) -> String {
    format!(
        "no answer within {}s, cancelled since another container or an update of the Pod needed attention",
        after.as_secs()
    )
}

fn config_failure(message: String) -> Failure {
    Failure::Node {
        reason: "CreateContainerConfigError",
        message,
    }
}

fn sandbox_failure(message: String) -> Failure {
    Failure::Node {
        reason: "FailedCreatePodSandBox",
        message,
    }
}

/// Returns the failure to run a sandbox. A call without an answer has no cause of its own: what takes long
/// in it is the network.
fn run_sandbox_failure(version: &StaticPod, error: Error) -> Failure {
    let spec = version.pod.spec.as_ref();
    let on_host = spec.is_some_and(|s| s.host_network == Some(true));
    match error {
        Error::Deadline { ref message, .. } if message.is_empty() && !on_host => Failure::Call {
            reason: "FailedCreatePodSandBox",
            error,
            hint: Some("the network plugin (CNI) may not answer".to_owned()),
        },
        error => error.into(),
    }
}

/// Returns the failure to make a container. A call without an answer has no cause of its own: what the
/// runtime does first with the container is look at its mounts.
fn create_failure(version: &StaticPod, spec: &ContainerSpec, error: Error) -> Failure {
    if !matches!(error, Error::Deadline { .. }) {
        return error.into();
    }
    let volumes = version.pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let mounts = spec.volume_mounts.iter().flatten();
    let mounted: Vec<&str> = mounts.map(|m| m.name.as_str()).collect();
    let volumes = volumes.into_iter().flatten();
    let volumes = volumes.filter(|v| mounted.contains(&v.name.as_str()));
    let paths = volumes.filter_map(|v| Some(v.host_path.as_ref()?.path.as_str()));
    let paths: Vec<&str> = paths.collect();
    if paths.is_empty() {
        return error.into();
    }
    let paths = paths.join(", ");
    Failure::Call {
        reason: "CreateContainerError",
        error,
        hint: Some(format!(
            "one of its hostPath volumes may not answer: {paths}"
        )),
    }
}

/// The runtime handler that the Pod's runtime class names.
fn runtime_handler(context: &Context, version: &StaticPod) -> Result<String, Failure> {
    let Some(spec) = &version.pod.spec else {
        return Ok(String::new());
    };
    let handler = context.facts.runtime_handler(spec);
    handler.map(str::to_owned).map_err(sandbox_failure)
}

/// The Pod's own range of ids on the host, where it has a user namespace.
async fn user_namespace(
    context: &Arc<Context>,
    version: &StaticPod,
) -> Result<Option<UserNamespaceRange>, Failure> {
    let spec = version.pod.spec.as_ref();
    let Some(spec) = spec.filter(|s| s.host_users == Some(false)) else {
        return Ok(None);
    };
    let supported = context.facts.handler_features(spec).user_namespaces;
    if !supported && context.facts.runtime.is_incomplete() {
        return Err(sandbox_failure(
            "spec.hostUsers is false, and the container runtime has not reported yet whether it supports \
             user namespaces"
                .to_owned(),
        ));
    }
    if !supported {
        return Err(sandbox_failure(
            "spec.hostUsers is false, but the container runtime does not support user namespaces here"
                .to_owned(),
        ));
    }
    let (context, uid) = (Arc::clone(context), version.uid.clone());
    let range = move || folder::user_namespace(&context.facts.paths, &uid);
    let range = blocking(range).await;
    range
        .map(Some)
        .map_err(node_failure("FailedCreatePodSandBox"))
}

/// Makes what one instance of a container needs on the node; gives the host's resolver configuration too.
async fn prepare_container(
    context: &Arc<Context>,
    version: &Arc<StaticPod>,
    spec: &ContainerSpec,
    instance: ContainerInstance,
) -> Result<(ContainerInstance, ResolvConf), Failure> {
    let (context, version, spec) = (Arc::clone(context), Arc::clone(version), spec.clone());
    let subject = file_subject("container set-up", &version);
    let prepare = move || {
        let facts = &context.facts;
        let mut instance = instance;
        folder::prepare_container(&facts.paths, &version, &spec, instance.attempt)
            .map_err(|e| e.to_string())?;
        folder::write_hosts_file(facts, &version, &instance.addresses.pod)
            .map_err(|e| e.to_string())?;
        volume::refresh(facts, &version, &instance.addresses)?;
        instance.env_files = volume::env_files(&facts.paths, &version, &spec)?;
        for part in sub_paths(facts, &version, &spec, &instance)? {
            let SubPath {
                index,
                volume,
                root,
                path,
            } = part;
            let target = facts
                .paths
                .sub_path(&version.uid, &volume, &spec.name, index);
            volume::prepare_sub_path(&root, &path, &target)
                .map_err(|e| format!("volume {volume:?}: {e}"))?;
        }
        // That it cannot be read any more is no reason to keep a container from starting again.
        let host = host_resolver(&context).unwrap_or_default();
        Ok((instance, host))
    };
    let prepared = pooled(subject, FILES, prepare).await;
    let prepared = prepared.map_err(timed_out("CreateContainerConfigError"))?;
    prepared.map_err(config_failure)
}

/// Makes the Pod's folders and volumes; gives the host's resolver configuration.
async fn prepare_node(
    context: &Arc<Context>,
    version: &Arc<StaticPod>,
    record: Record,
) -> Result<ResolvConf, Failure> {
    let context = Arc::clone(context);
    let version = Arc::clone(version);
    let subject = file_subject("volume set-up", &version);
    let prepare = move || {
        let paths = &context.facts.paths;
        folder::create(paths, &version.key, &version.uid, &record)
            .map_err(node_failure("FailedMount"))?;
        create_cgroup(&context, &version).map_err(node_failure("FailedCreatePodContainer"))?;
        let addresses = Addresses {
            seen: record.seen.clone(),
            ..Addresses::default()
        };
        volume::prepare(&context.facts, &version, &addresses).map_err(|message| Failure::Node {
            reason: "FailedMount",
            message,
        })?;
        host_resolver(&context).map_err(sandbox_failure)
    };
    let prepared = pooled(subject, FILES, prepare).await;
    prepared.map_err(timed_out("FailedMount"))?
}

fn create_cgroup(context: &Context, version: &StaticPod) -> std::io::Result<()> {
    let facts = &context.facts;
    let Some(spec) = &version.pod.spec else {
        return Ok(());
    };
    let path = pod_cgroup_path(facts.cgroup_driver, qos_class(spec), &version.uid);
    let limits = pod_cgroup_limits(facts, spec);
    let (root, driver) = (&facts.paths.cgroups, facts.cgroup_driver);
    cgroup::create(root, driver, &path, &limits)?;
    cgroup::update_shares(root, driver, || {
        qos_cpu_shares(driver, context.ledger.burstable_cpu())
    })
}

pub(super) async fn pull_or_local(
    pull: impl Future<Output = Result<LocalImage, ImageError>>,
    client: &crate::cri::Client,
    image: &str,
) -> Result<LocalImage, ImageError> {
    let late = || ImageError {
        reason: "ErrImagePull",
        message: format!(
            "the registry did not answer within {} s",
            RESTART_PULL.as_secs()
        ),
    };
    let pulled = tokio::time::timeout(RESTART_PULL, pull).await;
    let error = match pulled.unwrap_or_else(|_| Err(late())) {
        Ok(local) => return Ok(local),
        Err(error) => error,
    };
    match image::local(client, image).await {
        Ok(Some(local)) => {
            warn!(
                image,
                error = error.message,
                "cannot pull, restarting from the image at hand"
            );
            Ok(local)
        }
        _ => Err(error),
    }
}

/// The most bytes of a resolver configuration that are read.
const MAX_RESOLVER: u64 = 1 << 20;

/// The host's resolver configuration, as it is now.
///
/// # Errors
/// It cannot be read.
fn host_resolver(context: &Context) -> Result<ResolvConf, String> {
    let Some(path) = &context.resolv_conf else {
        return Ok(ResolvConf::none());
    };
    let text = read_path(path, MAX_RESOLVER).map_err(|e| format!("--resolv-conf: {e}"))?;
    Ok(ResolvConf::parse(&String::from_utf8_lossy(&text)))
}

/// Links to a container's log from where log shippers look.
async fn link_log(context: &Context, key: &PodKey, container: &Container) {
    let (paths, key, container) = (context.facts.paths.clone(), key.clone(), container.clone());
    let link = move || {
        let log = paths.container_log(&key, &container.uid, &container.name, container.attempt);
        let links = paths.log_links();
        links.create(
            &key.namespace,
            &key.name,
            &container.name,
            &container.id,
            &log,
        )
    };
    if let Err(error) = blocking(link).await {
        // The log keeper makes it later, and tells if that fails too.
        debug!(%error, "no link to a container's log");
    }
}
