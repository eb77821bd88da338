//! The probes of one Pod, kept going.
//!
//! [`Probes::sync`] is level-triggered: it is given the running containers, and starts, keeps and ends
//! probes accordingly. Each probe is a small task that sleeps between its rounds. What the tasks find
//! comes in through [`Probes::next`], and only then changes what [`Probes::health`] says, so that
//! the owner never sees a result that was not reported to it.

mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Probe};
use litemap::LiteMap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::exec::OpenCall;
use super::schedule::ProbeSchedule;
use super::state::{ProbeKind, ProbeResult, ProbeState};
use super::task::Task;
use super::{ProbeCounter, ProbeMetrics, ProbeOutcome, ProbeTarget};
use crate::cri::Client;
use crate::manifest::PodKey;
use worker::{Worker, event, words};

/// Capacity of the channel of reports; more than a Pod has at a time.
const WAITING: usize = 32;

/// A container that exists.
#[derive(Debug, Clone, Copy)]
pub struct ProbedContainer<'a> {
    /// The runtime's id.
    pub container_id: &'a str,
    /// The UID of the Pod's version that it is of.
    pub uid: &'a str,
    /// Spec that the container was created from. Does not change under one ID.
    pub spec: &'a Container,
    /// The Pod's address; the node's on the host's network.
    pub ip: &'a str,
    /// Time since the container started.
    pub age: Duration,
    /// Which of its probes are to run.
    pub which: Which,
    /// Results known from before, for example from an earlier agent. Used for a new ID only.
    pub known: Option<&'a Health>,
}

/// Which of a container's probes are to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that it has.
    All,
    /// Readiness alone: the Pod is being ended.
    Readiness,
    /// None: it exists, but does not run.
    None,
}

impl Which {
    fn includes(self, kind: ProbeKind) -> bool {
        match self {
            Self::All => true,
            Self::Readiness => kind == ProbeKind::Readiness,
            Self::None => false,
        }
    }
}

/// Probe results of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Its startup probe passed, or it has none.
    pub started: bool,
    /// It has started, and its readiness probe succeeds, if it has one.
    pub ready: bool,
    /// The probe for whose failure it must be restarted.
    pub failed: Option<Failed>,
}

/// A startup or liveness probe that failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Which of the two.
    pub kind: ProbeKind,
    /// Output of the last probe.
    pub message: String,
}

impl Health {
    /// A container of which its probes have said nothing.
    #[must_use]
    pub fn unknown(spec: &Container) -> Self {
        let started = spec.startup_probe.is_none();
        Self {
            started,
            ready: started && spec.readiness_probe.is_none(),
            failed: None,
        }
    }

    /// A container of which `known` was known. What needs no probe to be known stands whatever that says.
    fn begin(spec: &Container, known: Option<&Self>) -> Self {
        let known = known.cloned().unwrap_or_else(|| Self::unknown(spec));
        let started = known.started || spec.startup_probe.is_none();
        Self {
            started,
            ready: started && (known.ready || spec.readiness_probe.is_none()),
            failed: known.failed,
        }
    }

    /// Result of the probe of this kind, if it has one.
    fn result(&self, kind: ProbeKind) -> Option<ProbeResult> {
        let has_failed = self.failed.as_ref().is_some_and(|f| f.kind == kind);
        let has_passed = match kind {
            ProbeKind::Startup => self.started,
            ProbeKind::Liveness => false,
            ProbeKind::Readiness => self.ready,
        };
        match (has_failed, has_passed) {
            (true, _) => Some(ProbeResult::Failure),
            (_, true) => Some(ProbeResult::Success),
            _ => None,
        }
    }

    /// Takes what a probe said: a new result, and the words for it.
    fn take(&mut self, kind: ProbeKind, result: ProbeResult, message: &str, has_readiness: bool) {
        match (kind, result) {
            (ProbeKind::Readiness, result) => self.ready = result == ProbeResult::Success,
            (ProbeKind::Startup, ProbeResult::Success) => {
                self.started = true;
                self.ready = !has_readiness;
            }
            (ProbeKind::Liveness, ProbeResult::Success) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, ProbeResult::Failure) => {
                let message = message.to_owned();
                self.failed = Some(Failed { kind, message });
            }
        }
    }
}

/// Something that a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeUpdate {
    /// The runtime's id of the container.
    pub container_id: String,
    /// Its name.
    pub container: String,
    /// Which of its probes.
    pub kind: ProbeKind,
    /// New result, if it differs from the one before.
    pub result: Option<ProbeResult>,
    /// Event to record for the Pod.
    pub event: Option<ProbeEvent>,
}

/// An event about a container, of the type Warning, as the reference agent has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeEvent {
    /// `Unhealthy` or `ProbeWarning`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Function that runs one probe.
pub(super) type Run =
    Arc<dyn Fn(Arc<ProbeSubject>) -> BoxFuture<'static, ProbeOutcome> + Send + Sync>;

/// One probe and its address.
#[derive(Debug)]
pub(super) struct ProbeSubject {
    pub(super) probe: Probe,
    pub(super) target: ProbeTarget,
    /// The call of a command that an earlier round did not see the end of.
    pub(super) open: OpenCall,
}

/// Outcome of one probe.
struct ProbeReport {
    container_id: String,
    kind: ProbeKind,
    result: Option<ProbeResult>,
    outcome: ProbeOutcome,
}

/// Sender of probe results.
type Reporter = mpsc::Sender<Box<ProbeReport>>;

/// All probes of one Pod.
pub struct Probes {
    client: Client,
    run: Run,
    // Boxed here and below, so that the memory kept for more is small.
    containers: LiteMap<String, Box<Probed>>,
    counters: ProbeCounters,
    /// Channel of probe results, made with the first probe. The sender is cloned for the tasks and kept here, so that
    /// the receiver never ends.
    reports: Option<(Reporter, mpsc::Receiver<Box<ProbeReport>>)>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.containers.iter().map(|(id, c)| (id, &c.health)))
            .finish()
    }
}

impl Probes {
    /// No probes of this Pod yet. Commands are run by `client`'s runtime.
    #[must_use]
    pub fn new(client: Client, pod: PodKey, metrics: ProbeMetrics) -> Self {
        let run = |subject: Arc<ProbeSubject>| {
            async move { super::run_round(&subject.probe, &subject.target, &subject.open).await }
                .boxed()
        };
        Self {
            counters: ProbeCounters {
                metrics,
                pod,
                ..ProbeCounters::default()
            },
            ..Self::with(client, Arc::new(run))
        }
    }

    /// Probes that are run by `run`.
    pub(super) fn with(client: Client, run: Run) -> Self {
        Self {
            client,
            run,
            containers: LiteMap::new(),
            counters: ProbeCounters::default(),
            reports: None,
        }
    }

    /// Starts the probes of containers that are new, keeps those that go on, and ends the others. What
    /// is known of a container stays as long as it is among `wanted`.
    pub fn sync(&mut self, wanted: &[ProbedContainer<'_>]) {
        let there = |id: &str| wanted.iter().any(|w| w.container_id == id);
        self.containers.retain(|id, _| there(id));
        self.counters.keep(wanted);
        for container in wanted {
            let id = container.container_id;
            if let Some(probed) = self.containers.get_mut(id) {
                probed.update(container);
            } else {
                let probed = Probed::new(&self.client, container);
                self.containers.insert(id.to_owned(), Box::new(probed));
            }
            self.tend(id, false);
        }
    }

    /// The next thing that a probe finds; waits for it as long as it takes. Nothing is lost where the
    /// wait is abandoned.
    pub async fn next(&mut self) -> ProbeUpdate {
        loop {
            let report = match &mut self.reports {
                Some((_, reports)) => reports.recv().await,
                None => None,
            };
            let Some(report) = report else {
                // There is no probe: the channel has a sender here, and does not end.
                std::future::pending::<()>().await;
                continue;
            };
            if let Some(update) = self.take(*report) {
                return update;
            }
        }
    }

    /// Returns the probe results of a container, if it is among the wanted ones.
    #[must_use]
    pub fn health(&self, container_id: &str) -> Option<&Health> {
        self.containers.get(container_id).map(|c| &c.health)
    }

    /// Returns the probe results of every wanted container, by its ID.
    pub fn results(&self) -> impl Iterator<Item = (&str, &Health)> {
        self.containers
            .iter()
            .map(|(id, c)| (id.as_str(), &c.health))
    }

    /// Takes what a task found, unless its probe was ended meanwhile.
    fn take(&mut self, report: ProbeReport) -> Option<ProbeUpdate> {
        let ProbeReport {
            container_id,
            kind,
            result,
            outcome,
        } = report;
        let probed = self.containers.get_mut(&container_id)?;
        probed.tasks.get(&kind)?;
        if let Some(result) = result {
            let has_readiness = probed.subjects.contains_key(&ProbeKind::Readiness);
            let message = words(&outcome);
            probed.health.take(kind, result, message, has_readiness);
        }
        let update = ProbeUpdate {
            container: probed.name.clone(),
            kind,
            result,
            event: event(kind, &outcome),
            container_id,
        };
        let came_up = (kind, result) == (ProbeKind::Startup, Some(ProbeResult::Success));
        self.tend(&update.container_id, came_up);
        Some(update)
    }

    /// Starts and ends a container's tasks as it stands. `came_up` is whether its startup probe has just
    /// passed.
    fn tend(&mut self, container_id: &str, came_up: bool) {
        let Some(probed) = self.containers.get_mut(container_id) else {
            return;
        };
        for (kind, subject) in &probed.subjects {
            let kind = *kind;
            if !probed.is_due(kind) {
                probed.tasks.remove(&kind);
            } else if !probed.tasks.contains_key(&kind) {
                let known = probed.health.result(kind);
                let counter = self.counters.get(&probed.uid, &probed.name, kind);
                let (reporter, _) = self.reports.get_or_insert_with(|| mpsc::channel(WAITING));
                let worker = Worker {
                    kind,
                    counter,
                    subject: Arc::clone(subject),
                    state: ProbeState::new(kind, &subject.probe, known),
                    schedule: ProbeSchedule::new(kind, &subject.probe),
                    age: probed.age,
                    run: Arc::clone(&self.run),
                    reports: reporter.clone(),
                };
                probed.tasks.insert(kind, Task::spawn(worker.work(came_up)));
            }
        }
    }
}

/// Counters of one Pod's probes.
#[derive(Default)]
struct ProbeCounters {
    metrics: ProbeMetrics,
    pod: PodKey,
    /// By UID of the version, container and kind.
    all: BTreeMap<(String, String, ProbeKind), Arc<ProbeCounter>>,
}

impl ProbeCounters {
    /// Forgets other versions of the Pod, once containers of a new one run.
    fn keep(&mut self, wanted: &[ProbedContainer<'_>]) {
        if !wanted.is_empty() {
            let there = |uid: &str| wanted.iter().any(|w| w.uid == uid);
            self.all.retain(|(uid, ..), _| there(uid));
        }
    }

    fn get(&mut self, uid: &str, container: &str, kind: ProbeKind) -> Arc<ProbeCounter> {
        let key = (uid.to_owned(), container.to_owned(), kind);
        let counter = self.all.entry(key);
        let counter = counter.or_insert_with(|| self.metrics.add(&self.pod, uid, container, kind));
        Arc::clone(counter)
    }
}

/// One container under probes.
struct Probed {
    name: String,
    uid: String,
    age: Age,
    which: Which,
    subjects: BTreeMap<ProbeKind, Arc<ProbeSubject>>,
    tasks: BTreeMap<ProbeKind, Task>,
    health: Health,
}

impl Probed {
    fn new(client: &Client, wanted: &ProbedContainer<'_>) -> Self {
        let ProbedContainer { spec, .. } = wanted;
        let target = ProbeTarget::new(client, wanted.container_id, spec, wanted.ip);
        let probes = ProbeKind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, kind.of(spec)?)));
        let subjects = probes.map(|(kind, probe)| {
            let (probe, target) = (probe.clone(), target.clone());
            let open = OpenCall::default();
            let subject = ProbeSubject {
                probe,
                target,
                open,
            };
            (kind, Arc::new(subject))
        });
        Self {
            name: spec.name.clone(),
            uid: wanted.uid.to_owned(),
            age: Age::of(wanted),
            which: wanted.which,
            subjects: subjects.collect(),
            tasks: BTreeMap::new(),
            health: Health::begin(spec, wanted.known),
        }
    }

    /// Takes what may change about a container. Where it is reached elsewhere, its probes start again
    /// with what is known.
    fn update(&mut self, wanted: &ProbedContainer<'_>) {
        if self.which == Which::None {
            // It may have been started only now.
            self.age = Age::of(wanted);
        }
        self.which = wanted.which;
        for (kind, subject) in &mut self.subjects {
            if subject.target.ip != wanted.ip {
                let (probe, mut target) = (subject.probe.clone(), subject.target.clone());
                wanted.ip.clone_into(&mut target.ip);
                let open = OpenCall::default();
                *subject = Arc::new(ProbeSubject {
                    probe,
                    target,
                    open,
                });
                self.tasks.remove(kind);
            }
        }
    }

    /// True if the probe of this kind can change a result now.
    fn is_due(&self, kind: ProbeKind) -> bool {
        let Health {
            started, failed, ..
        } = &self.health;
        self.which.includes(kind)
            && match kind {
                ProbeKind::Startup => !started && failed.is_none(),
                ProbeKind::Liveness => *started && failed.is_none(),
                ProbeKind::Readiness => *started,
            }
    }
}

/// Age of a container, by the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Age {
    at: Instant,
    then: Duration,
}

impl Age {
    fn of(wanted: &ProbedContainer<'_>) -> Self {
        Self {
            at: Instant::now(),
            then: wanted.age,
        }
    }

    fn now(self) -> Duration {
        self.then.saturating_add(self.at.elapsed())
    }
}

#[cfg(test)]
mod tests;
