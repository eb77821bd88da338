//! One Pod's task: plan, execute, observe, and again.
//!
//! The task is the only one that changes the runtime for its Pod, and takes one step at a time. It
//! changes its own view of the runtime after each step, and reads it again when it is asked to, or when
//! a step failed. It ends when the Pod is neither wanted nor there. The loop stands here, and each verb
//! in a file of its own.

mod adopt;
mod background;
mod clean_up;
mod container;
mod context;
mod effects;
mod error;
mod events;
mod execute;
mod first_sync;
mod history;
mod image;
mod inbox;
mod mailbox;
mod order;
mod pause;
mod post_start;
mod prepare;
mod probes;
mod relist;
mod requests;
mod reserved_names;
mod restart;
mod sandbox;
mod shut_down;
mod stop;
mod stop_container;
mod take_over;
mod termination_message;
mod trial;

pub use context::Context;
pub use first_sync::FirstSyncs;
pub use mailbox::{Inbox, MessageSender, mailbox};
pub use requests::{PauseRequest, PodRequest, PodRequests, RequestRefused, RestartRequest};
pub use shut_down::ShutdownOrder;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use self::background::Job;
use self::effects::Effects;
use self::error::StepError;
use self::image::Pull;
use self::order::FollowedPods;
use self::post_start::PostStartHook;
use crate::host::log_once::LogOnce;
use crate::manifest::{PackedPod, PodKey, StaticPod, Uid};
use crate::pod::events::{About, EventKind};
use crate::pod::limiter::Lease;
use crate::pod::observe;
use crate::pod::observe::Listed;
use crate::pod::pause::Pause;
use crate::pod::plan::{plan, waiting};
use crate::pod::report::{UpdateReport, report};
use crate::pod::rollback::Rollback;
use crate::pod::state::observed::Observed;
use crate::pod::state::progress::{UnderWay, rfc3339};
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{FirstSeen, PodState, View};
use crate::probe::Probes;
use crate::source::DesiredPod;

/// A message to a Pod's task.
#[derive(Debug)]
pub enum Message {
    /// The Pod is wanted like this, or not any more.
    Desired(Option<Box<DesiredPod>>),
    /// The runtime may have something else of the Pod than the task last observed.
    Resync,
    /// This container or sandbox changed.
    Changed(String),
    /// The machine shuts down, and it is the Pod's turn to stop.
    ShutDown(ShutdownOrder),
    /// Containers of the Pod are to be restarted.
    Restart(RestartRequest),
    /// The Pod is to be paused or resumed.
    Pause(PauseRequest),
}

/// The state that a Pod's task starts from.
#[derive(Debug, Default)]
pub struct TaskStart {
    /// The Pod that the manifests want.
    pub wanted: Option<DesiredPod>,
    /// The sandboxes and containers that the runtime listed.
    pub listed: Listed,
    /// UIDs that have a folder on the node.
    pub folders: BTreeSet<Uid>,
    /// All manifests are known: unless one wants the Pod, its pause is over.
    pub forgets_pause: bool,
}

/// Wait before what only the runtime's list shows is inspected again.
const ASSUMED: Duration = Duration::from_secs(10);

/// The task of one Pod.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is about something of its own"
)]
pub struct PodTask {
    key: PodKey,
    context: Arc<Context>,
    inbox: Inbox,
    /// The Pod that the manifests want.
    asked: Option<DesiredPod>,
    /// The version to run: the one asked for, or the one before an update that was rolled back; none while the Pod is
    /// paused.
    wanted: Option<DesiredPod>,
    /// The update that is on trial or was taken back.
    rollback: Option<Rollback>,
    /// The pause of the Pod, during which no version is wanted.
    pause: Option<Pause>,
    /// The pause ends with the Pod: a manifest named it, or all manifests are known.
    forgets_pause: bool,
    /// True while it is being written that the Pod is paused, or is not.
    is_pausing: bool,
    observed: Observed,
    state: PodState,
    effects: Effects,
    pulls: FuturesUnordered<Pull>,
    post_starts: FuturesUnordered<PostStartHook>,
    /// Jobs that run beside the steps.
    jobs: FuturesUnordered<Job>,
    /// The Pods that this one is started after.
    followed: FollowedPods,
    /// The turn among the node's updates that a version has.
    turn: Option<(Uid, Lease)>,
    probes: Probes,
    /// Failed writes, each logged once.
    complaints: LogOnce,
    /// Ids to inspect before the next plan.
    changed: BTreeSet<String>,
    /// Changes of what the node has to allocate.
    given_back: watch::Receiver<u64>,
    /// True if the runtime has to be asked about everything before the next plan.
    stale: bool,
    /// True if the runtime may hold something of the Pod that the task does not know of: a call of it failed,
    /// was dropped, or was an earlier agent's.
    is_uncertain: bool,
    /// True if something was taken in since the last round of the task began.
    has_pending_events: bool,
    /// Time at which the newest list of the whole Pod was asked for.
    listed_at: MonotonicTime,
    /// The supervisor's list of the Pod, for the task's first sync.
    listed: Option<Listed>,
    /// Ids of which only the runtime's list is known.
    assumed: BTreeSet<String>,
    /// True if the runtime's state was read; nothing is reported before.
    has_synced: bool,
    /// Held while a container may run that is to stop before the machine shuts down.
    shutdown_order: Option<ShutdownOrder>,
}

impl PodTask {
    /// Builds the task of a Pod from what an earlier agent left, and reserves what the Pod has if it runs.
    pub fn adopt(key: PodKey, context: Arc<Context>, inbox: Inbox, start: TaskStart) -> Box<Self> {
        let is_uncertain = !start.folders.is_empty();
        let mut task = Box::new(Self {
            given_back: context.allocations.changes(),
            probes: Probes::new(
                context.client.clone(),
                key.clone(),
                context.metrics.probes.clone(),
            ),
            listed_at: context.clock.now(),
            key,
            context,
            inbox,
            asked: None,
            wanted: None,
            rollback: None,
            pause: None,
            forgets_pause: false,
            is_pausing: false,
            observed: Observed::default(),
            state: PodState::default(),
            effects: Effects::default(),
            pulls: FuturesUnordered::new(),
            post_starts: FuturesUnordered::new(),
            jobs: FuturesUnordered::new(),
            turn: None,
            followed: FollowedPods::default(),
            complaints: LogOnce::default(),
            changed: BTreeSet::new(),
            stale: true,
            is_uncertain,
            has_pending_events: false,
            listed: None,
            assumed: BTreeSet::new(),
            has_synced: false,
            shutdown_order: None,
        });
        task.take_over(start);
        task
    }

    /// Runs the task to its end; returns the Pod's key.
    pub async fn run(mut self: Box<Self>) -> PodKey {
        if self.state.has_admitted() {
            Box::pin(self.update_cpu_shares()).await;
        }
        Box::pin(self.first_sync()).await;
        self.reconcile().await;
        self.context.reports.remove(&self.key);
        self.key
    }

    /// Carries out the plan until the Pod is over. What is awaited for a short while only is boxed: a task that
    /// waits, as most do most of the time, has no room for it.
    async fn reconcile(&mut self) {
        loop {
            self.has_pending_events = false;
            while let Some(message) = self.inbox.try_recv() {
                self.take(message);
            }
            if !self.sync().await {
                return;
            }
            let trial_ends = Box::pin(self.update_state()).await;
            let plan = plan(self.view());
            self.publish();
            self.confirm_shutdown();
            match plan.step {
                Some(step) if self.is_no_op(&step) => {}
                Some(step) => Box::pin(self.execute(step)).await,
                // Or the next task would begin with what is left.
                None if self.is_over() && self.is_uncertain => {
                    (self.stale, self.is_uncertain) = (true, false);
                }
                None if self.is_over() => {
                    Box::pin(self.save_rollback(None)).await;
                    Box::pin(self.end_pause()).await;
                    return;
                }
                // It came while files were written, after it would have been handled.
                None if self.has_pending_events => {}
                None => {
                    let inspect =
                        (!self.assumed.is_empty()).then(|| self.context.clock.now().after(ASSUMED));
                    let wake = [plan.wake, trial_ends, inspect].into_iter().flatten().min();
                    let alarm = wake.map(|at| self.context.clock.instant_of(at));
                    if !self.wait(alarm).await {
                        return;
                    }
                    self.stale |= inspect.is_some_and(|at| at <= self.context.clock.now());
                }
            }
        }
    }

    /// Brings the state up to date with what was observed. Returns the time when a trial ends.
    async fn update_state(&mut self) -> Option<MonotonicTime> {
        let before = self.state.wall;
        if self.state.wall.follow(&self.context.clock) {
            self.correct_first_seen(before).await;
            self.correct_hold();
        }
        self.restore_record().await;
        self.update_record().await;
        self.resume_post_starts();
        self.sync_probes();
        self.forget_outdated_failures();
        self.record_histories().await;
        let mut trial_ends = None;
        // No update is to blame for what the shutdown stops.
        if self.state.shutdown.is_none() {
            self.begin_trials().await;
            trial_ends = self.judge_trial().await;
        }
        self.give_back();
        self.follow_takeover();
        self.follow_order().await;
        trial_ends
    }

    /// Returns the planner's view of the Pod.
    fn view(&self) -> View<'_> {
        View {
            wanted: self.wanted.as_ref().map(|w| w.pod.get()),
            observed: &self.observed,
            state: &self.state,
            now: self.context.clock.now(),
            longest_backoff: self.context.longest_backoff,
        }
    }

    /// Takes over the first time that a version was seen.
    fn seen_at(&mut self, uid: &Uid, nanos: i64) {
        let seen = FirstSeen::at(nanos, &self.context.clock);
        self.state.version_mut(uid).seen = Some(seen);
    }

    /// Records a step that begins now; it is under way until what this returns is dropped.
    fn under_way(&self, uid: &Uid, container: Option<&str>, name: &str) -> UnderWay {
        let now = self.context.clock.wall_now();
        self.state.progress.begin(uid, container, name, now)
    }

    /// Records an event of a version; `container` is the container that it is about.
    fn event(
        &self,
        uid: &Uid,
        container: Option<&str>,
        kind: EventKind,
        reason: &str,
        message: &str,
    ) {
        let version = self.state.pod(uid);
        let field = container.map_or(String::new(), |name| {
            let inits = version.map_or(&[][..], |v| v.init_containers());
            let list = if inits.iter().any(|c| c.name == name) {
                "initContainers"
            } else {
                "containers"
            };
            format!("spec.{list}{{{name}}}")
        });
        let about = About {
            pod: &self.key,
            uid,
            field: &field,
        };
        self.context.events.record(about, kind, reason, message);
    }

    fn is_over(&self) -> bool {
        let nothing_there = self.observed == Observed::default();
        let nothing_on_disk = self.state.uids_on_disk().next().is_none();
        self.asked.is_none() && !self.is_pausing && nothing_there && nothing_on_disk
    }

    fn publish(&self) {
        if !self.has_synced {
            return;
        }
        let wanted = self.wanted.as_ref();
        let facts = &self.context.facts;
        let paused = self.paused_snapshot();
        let mut snapshot = paused.unwrap_or_else(|| report(self.view(), facts, &self.key, wanted));
        snapshot.report.paused = self.pause.is_some() && self.asked.is_some();
        let failed = self.rollback.as_ref().zip(self.asked.as_ref());
        if let Some((rollback, asked)) = failed.filter(|(r, a)| r.has_failed(&a.pod.uid)) {
            let message = rollback.failed.clone().unwrap_or_default();
            let since = waiting::first_seen(self.view(), &asked.pod.uid);
            let since = since.map_or_else(String::new, rfc3339);
            snapshot.report.update = Some(UpdateReport {
                uid: asked.pod.uid.to_string(),
                reason: "RolledBack".to_owned(),
                message,
                since,
            });
        }
        let digest = observe::digest(&self.observed);
        self.context.reports.set(&self.key, snapshot, digest);
    }

    fn version(&self, uid: &Uid) -> Option<Arc<StaticPod>> {
        self.state.pod(uid).cloned()
    }

    /// The version; the planner only names versions that are known.
    fn known_version(&self, uid: &Uid) -> Result<Arc<StaticPod>, StepError> {
        self.packed_version(uid).map(|version| version.unpack())
    }

    /// The same, packed.
    fn packed_version(&self, uid: &Uid) -> Result<PackedPod, StepError> {
        let known = self.state.packed(uid).cloned();
        known.ok_or_else(|| StepError::Node {
            reason: "Unknown",
            message: format!("there is no manifest of {uid}"),
        })
    }
}
