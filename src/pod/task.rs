//! One Pod's task: plan, act, observe, and again.
//!
//! The task is the only one that changes the runtime for its Pod, and takes one step at a time. What
//! it believes of the runtime it changes itself after each step of its own, and learns anew when it is
//! told to look, or when a step failed. It ends when the Pod is neither wanted nor there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::admission::Ledger;
use super::effects::{self, Effects};
use super::events::{About, EventKind, Events};
use super::history::{Finished, History};
use super::image::{ImageError, Images, LocalImage};
use super::jobs::{FILES, Job};
use super::last_words::last_words;
use super::limiter::{Lease, Limiter};
use super::memory::{Memory, PostStart, Subject};
use super::metrics::Metrics;
use super::moment::{Clock, Moment, Since};
use super::observe::{self, Inspected, Listed, Role};
use super::observed::{Container, Exit, Observed, Sandbox, State};
use super::plan::{View, Why, kept_version, plan};
use super::progress::{UnderWay, rfc3339};
use super::report::{UpdateReport, report};
use super::reports::Reports;
use super::rollback::{self, Rollback};
use super::rules::{
    Restart, all_containers, containers, has_ended, init_containers, is_finished, restart,
};
use super::{folder, status, waiting};
use crate::cri::{Client, Error};
use crate::host::blocking::{self, blocking, pooled};
use crate::host::log_once::LogOnce;
use crate::manifest::PodKey;
use crate::probe::hook::POST_START_FAILED;
use crate::probe::{
    Health, ProbeResult, ProbeUpdate as News, ProbedContainer as Wanted, Probes, Which,
};
use crate::source::DesiredPod;
use crate::translate::NodeFacts;
use crate::units::time::Later;

/// How long a runtime that does not answer is left alone, at first and at most.
const RUNTIME_RETRY: Duration = Duration::from_millis(100);
const RUNTIME_RETRY_MAX: Duration = Duration::from_secs(5);

/// Subject of complaints about histories.
const HISTORY: &str = "history";

/// How long what only the runtime's list tells of is left at that.
const ASSUMED: Duration = Duration::from_secs(10);

/// What all Pods' tasks share.
#[derive(Debug)]
pub struct Context {
    /// The runtime.
    pub client: Client,
    /// What the node is like.
    pub facts: NodeFacts,
    /// What our sandboxes and containers are known by.
    pub mark: String,
    /// The node's name.
    pub node_name: String,
    /// The host's resolv.conf, if it is to have one.
    pub resolv_conf: Option<std::path::PathBuf>,
    /// Pulls.
    pub images: Images,
    /// What Pods take of the node.
    pub ledger: Ledger,
    /// Expensive calls at a time.
    pub limiter: Limiter,
    /// The time.
    pub clock: Clock,
    /// Where each task tells what it knows.
    pub reports: Reports,
    /// What happened to Pods.
    pub events: Events,
    /// How long starts and restarts took.
    pub metrics: Metrics,
    /// The longest wait before a container that keeps stopping is started again.
    pub longest_backoff: Duration,
    /// How long an update has to become Ready before it is taken back, where its Pod does not say.
    pub rollback_after: Option<Duration>,
}

/// What a Pod's task is told.
#[derive(Debug)]
pub enum Message {
    /// The Pod is wanted like this, or not any more.
    Desired(Option<DesiredPod>),
    /// The runtime may have something else of the Pod than the task believes.
    Look,
    /// This container or sandbox changed.
    Changed(String),
}

/// What a Pod's task starts from.
#[derive(Debug, Default)]
pub struct Start {
    /// What the manifests want.
    pub wanted: Option<DesiredPod>,
    /// What the runtime was seen to have.
    pub listed: Listed,
    /// UIDs that have a folder on the node.
    pub folders: BTreeSet<String>,
}

/// What came of a pull.
pub(super) struct Pulled {
    /// The version.
    pub(super) uid: String,
    /// What needs the image, as [`wanted_images`](super::plan::wanted_images) has it.
    pub(super) holder: String,
    /// The image, or why it cannot be had.
    pub(super) result: Result<LocalImage, ImageError>,
    /// How long that took.
    pub(super) took: Duration,
}

type Pull = BoxFuture<'static, Pulled>;
/// A hook after the start of a container; gives the container's id and what came of it.
type PostStartHook = BoxFuture<'static, (String, Result<(), String>)>;

/// The task of one Pod.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is about something of its own"
)]
pub struct PodTask {
    pub(super) key: PodKey,
    pub(super) context: Arc<Context>,
    inbox: mpsc::UnboundedReceiver<Message>,
    /// What the manifests want.
    asked: Option<DesiredPod>,
    /// What is carried out: the same, or the version before an update that was taken back.
    pub(super) wanted: Option<DesiredPod>,
    /// The update that is on trial or was taken back.
    pub(super) rollback: Option<Rollback>,
    pub(super) observed: Observed,
    pub(super) memory: Memory,
    pub(super) effects: Effects,
    /// Where and when each version was first seen.
    pub(super) records: std::collections::BTreeMap<String, folder::Record>,
    pub(super) pulls: FuturesUnordered<Pull>,
    pub(super) post_starts: FuturesUnordered<PostStartHook>,
    /// What goes on beside the steps.
    pub(super) jobs: FuturesUnordered<Job>,
    /// The turn among the node's updates that a version has.
    pub(super) turn: Option<(String, Lease)>,
    probes: Probes,
    /// The histories as they stand on disk.
    pub(super) kept: std::collections::BTreeMap<String, History>,
    /// What could not be written, so that it is logged once.
    pub(super) complaints: LogOnce,
    /// Ids to look at before the next plan.
    pub(super) changed: BTreeSet<String>,
    /// When something of the node was given back.
    given_back: watch::Receiver<u64>,
    /// Whether the runtime has to be asked about everything before the next plan.
    pub(super) stale: bool,
    /// Whether the runtime was asked about everything since the last step.
    end_is_verified: bool,
    /// Whether something was taken in since the task last began to look.
    heard: bool,
    /// What the supervisor saw of the Pod before the task's first look.
    listed: Option<Listed>,
    /// Ids of which only the runtime's list is known.
    assumed: BTreeSet<String>,
    /// Whether the runtime's state was read; nothing is reported before.
    looked: bool,
}

impl PodTask {
    /// Builds the task of a Pod from what an earlier agent left, and reserves what the Pod has if it runs.
    pub fn adopt(
        key: PodKey,
        context: Arc<Context>,
        inbox: mpsc::UnboundedReceiver<Message>,
        start: Start,
    ) -> Self {
        let mut task = Self {
            given_back: context.ledger.changes(),
            probes: Probes::new(context.client.clone()),
            key,
            context,
            inbox,
            asked: None,
            wanted: None,
            rollback: None,
            observed: Observed::default(),
            memory: Memory::default(),
            effects: Effects::default(),
            records: std::collections::BTreeMap::default(),
            pulls: FuturesUnordered::new(),
            post_starts: FuturesUnordered::new(),
            jobs: FuturesUnordered::new(),
            turn: None,
            kept: std::collections::BTreeMap::default(),
            complaints: LogOnce::default(),
            changed: BTreeSet::new(),
            stale: true,
            end_is_verified: false,
            heard: false,
            listed: None,
            assumed: BTreeSet::new(),
            looked: false,
        };
        task.take_over(start);
        task
    }

    /// Runs the task to its end; returns the Pod's key.
    pub async fn run(mut self) -> PodKey {
        if !self.memory.admitted.is_empty() {
            self.share_out().await;
        }
        self.keep().await;
        self.context.reports.remove(&self.key);
        self.key
    }

    /// Takes over what an earlier agent left.
    fn take_over(&mut self, start: Start) {
        self.rollback = rollback::read(&self.context.facts.paths, &self.key);
        self.set_wanted(start.wanted);
        let here = start.listed.sandboxes.iter().flat_map(|s| &s.metadata);
        let here_too: BTreeSet<String> = here.map(|m| m.uid.clone()).collect();
        let mut uids = here_too.clone();
        uids.extend(start.folders.iter().cloned());
        for uid in &uids {
            self.recall(uid);
        }
        for uid in here_too {
            if let Some(version) = self.memory.versions.get(&uid) {
                self.context.ledger.note(version);
                self.memory.admitted.insert(uid);
            }
        }
        self.listed = Some(start.listed);
    }

    fn tell_adopted(&self) {
        let running = self.observed.containers.iter();
        let running = running.filter(|c| c.is_live()).count();
        if running > 0 {
            info!(pod = %self.key, containers = running, "found the Pod running");
        }
    }

    /// Writes the record of a Pod that runs and whose folder was lost: with it go its age, and what is kept
    /// of it from here on.
    async fn restore_record(&mut self) {
        let Some(version) = self.wanted.as_ref().map(|w| Arc::clone(&w.pod)) else {
            return;
        };
        let uid = version.uid.clone();
        let lost = !self.records.contains_key(&uid) && !self.memory.terminating.contains(&uid);
        let lost = lost && self.observed.ready_sandbox(&uid).is_some();
        let oldest = self.observed.sandboxes_of(&uid).map(|s| s.created).min();
        let Some(oldest) = oldest.filter(|_| lost) else {
            return;
        };
        let clock = &self.context.clock;
        let age = i64::try_from(clock.now().since(oldest).as_nanos()).unwrap_or(i64::MAX);
        self.seen_at(&uid, clock.wall_now().saturating_sub(age));
        let record = self.record(&version);
        self.memory.traces.insert(uid.clone());
        let (paths, written) = (self.context.facts.paths.clone(), record.clone());
        let write = move || folder::create(&paths, &version.key, &version.uid, &written);
        if let Err(error) = self.own_files(blocking(write)).await {
            warn!(pod = %self.key, %error, "Failed to write the record of a Pod whose folder was lost");
        }
        self.records.insert(uid, record);
    }

    /// Remembers what the folder of a version tells of it.
    fn recall(&mut self, uid: &str) {
        let paths = &self.context.facts.paths;
        self.memory.traces.insert(uid.to_owned());
        if folder::read_terminating(paths, uid).is_some() {
            self.memory.terminating.insert(uid.to_owned());
        }
        if let Some(history) = folder::read_history(paths, uid) {
            let given_up = history.given_up.iter();
            let hooks = given_up.filter(|(_, given_up)| given_up.why == Why::PostStart);
            let hooks = hooks.map(|(id, g)| (id.clone(), PostStart::Failed(g.message.clone())));
            self.memory.post_starts.extend(hooks);
            let given_up = |id: &&String| history.given_up.contains_key(*id);
            let open = history.post_starts.iter().filter(|id| !given_up(id));
            let open = open.map(|id| (id.clone(), PostStart::Interrupted));
            self.memory.post_starts.extend(open);
            self.kept.insert(uid.to_owned(), history.clone());
            self.memory.histories.insert(uid.to_owned(), history);
        }
        if let Some(record) = folder::read_record(paths, uid) {
            if let Ok(seen) = record.seen.parse::<jiff::Timestamp>() {
                let nanos = i64::try_from(seen.as_nanosecond()).unwrap_or(0);
                self.seen_at(uid, nanos);
            }
            if let Some(version) = record.version().filter(|v| v.uid == uid) {
                self.memory.versions.insert(uid.to_owned(), version);
            }
            self.records.insert(uid.to_owned(), record);
        }
    }

    async fn keep(&mut self) {
        loop {
            self.heard = false;
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
            if !self.look().await {
                return;
            }
            self.memory.wall.follow(&self.context.clock);
            self.restore_record().await;
            self.resume_post_starts();
            self.sync_probes();
            self.forget_outdated_failures();
            self.remember().await;
            self.begin_trials().await;
            let trial_ends = self.judge().await;
            self.give_back();
            self.follow_takeover();
            let plan = plan(self.view());
            self.publish();
            match plan.step {
                Some(step) if self.has_changed_nothing(&step) => {}
                Some(step) => {
                    self.end_is_verified = false;
                    self.act(step).await;
                }
                // What was removed is looked for once more, or the next task would begin with it anew.
                None if self.is_over() && !self.end_is_verified => {
                    (self.stale, self.end_is_verified) = (true, true);
                }
                None if self.is_over() => {
                    self.keep_rollback(None).await;
                    return;
                }
                // It came while files were written, after it would have been looked at.
                None if self.heard => {}
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

    /// Gives back what a Pod that is over took of the node, once nothing of it runs any more: until then a
    /// sidecar may hold its port, and what it uses is not free.
    fn give_back(&self) {
        let Some(wanted) = &self.wanted else {
            return;
        };
        let uid = &wanted.pod.uid;
        let runs = self.observed.containers_of(uid).any(Container::is_live)
            || self.observed.ready_sandbox(uid).is_some();
        if is_finished(self.view(), &wanted.pod) && !runs {
            self.context.ledger.release(&self.key, uid);
        }
    }

    /// Notes which version follows one that is being stopped, and gives the turn among the node's updates back
    /// once that version is up or not wanted any more.
    fn follow_takeover(&mut self) {
        let wanted = self.wanted.as_ref().map(|w| Arc::clone(&w.pod));
        let uid = wanted.as_ref().map(|w| w.uid.as_str());
        let mut leaving = self.memory.terminating.iter();
        if let Some(uid) = uid.filter(|uid| leaving.any(|other| other != uid)) {
            self.memory.successors.insert(uid.to_owned());
        }
        self.memory.turns.retain(|turn| Some(turn.as_str()) == uid);
        let Some((turn, _)) = &self.turn else {
            return;
        };
        let there = |name: &str| !self.observed.history_of(turn, name).is_empty();
        let is_coming = wanted.is_some_and(|version| {
            let mut own = containers(&version).iter();
            version.uid == *turn
                && !is_finished(self.view(), &version)
                && !own.all(|c| there(&c.name))
        });
        if !is_coming {
            self.turn = None;
        }
    }

    /// What the planner looks at.
    pub(super) fn view(&self) -> View<'_> {
        View {
            wanted: self.wanted.as_ref().map(|w| &w.pod),
            observed: &self.observed,
            memory: &self.memory,
            now: self.context.clock.now(),
            longest_backoff: self.context.longest_backoff,
        }
    }

    /// When a version was first seen, as far as that is known.
    pub(super) fn seen_at(&mut self, uid: &str, nanos: i64) {
        let moment = self.context.clock.moment_of(nanos);
        self.memory.seen.insert(uid.to_owned(), (nanos, moment));
    }

    /// Records a step that begins now; it is under way until what this returns is dropped.
    pub(super) fn under_way(&self, uid: &str, container: Option<&str>, name: &str) -> UnderWay {
        let now = self.context.clock.wall_now();
        self.memory.progress.begin(uid, container, name, now)
    }

    /// Tells of something that happened to a version; `container` is the container that it is about.
    pub(super) fn event(
        &self,
        uid: &str,
        container: Option<&str>,
        kind: EventKind,
        reason: &str,
        message: &str,
    ) {
        let version = self.memory.versions.get(uid);
        let field = container.map_or(String::new(), |name| {
            let inits = version.map_or(&[][..], |v| init_containers(v));
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
        self.wanted.is_none() && nothing_there && self.memory.traces.is_empty()
    }

    pub(super) fn publish(&self) {
        if !self.looked {
            return;
        }
        let wanted = self.wanted.as_ref();
        let facts = &self.context.facts;
        let mut told = report(self.view(), facts, &self.key, wanted, &self.records);
        let failed = self.rollback.as_ref().zip(self.asked.as_ref());
        if let Some((rollback, asked)) = failed.filter(|(r, a)| r.has_failed(&a.pod.uid)) {
            let message = rollback.failed.clone().unwrap_or_default();
            let since = waiting::first_seen(self.view(), &asked.pod.uid);
            let since = since.map_or_else(String::new, rfc3339);
            told.report.update = Some(UpdateReport {
                uid: asked.pod.uid.clone(),
                reason: "RolledBack".to_owned(),
                message,
                since,
            });
        }
        let belief = observe::belief(&self.observed);
        self.context.reports.set(&self.key, told, belief);
    }

    /// Brings each version's history up to date, on disk too.
    pub(super) async fn remember(&mut self) {
        let uids: Vec<String> = self.memory.versions.keys().cloned().collect();
        for uid in uids {
            if self.memory.terminating.contains(&uid) || !self.memory.traces.contains(&uid) {
                continue;
            }
            let history = self.history_now(&uid);
            if self.kept.get(&uid) == Some(&history) {
                continue;
            }
            let before = self.kept.get(&uid).cloned().unwrap_or_default();
            self.memory.histories.insert(uid.clone(), history.clone());
            let lasting = history.is_weightier_than(&before);
            let (paths, owner) = (self.context.facts.paths.clone(), uid.clone());
            let written = history.clone();
            let write = move || folder::write_history(&paths, &owner, &written, lasting);
            match self.own_files(blocking(write)).await {
                Ok(()) => {
                    self.complaints.should_log(HISTORY, None);
                    self.kept.insert(uid, history);
                }
                Err(error) => {
                    if self
                        .complaints
                        .should_log(HISTORY, Some(&error.to_string()))
                    {
                        warn!(pod = %self.key, %error, "Failed to write the Pod's history");
                    }
                }
            }
        }
    }

    /// Begins the trial of a version that is about to take over, whether or not anything of the old one
    /// still runs.
    async fn begin_trials(&mut self) {
        let Some(new) = self.wanted.as_ref().map(|w| Arc::clone(&w.pod)) else {
            return;
        };
        if !self.observed.has_none_of(&new.uid) || kept_version(self.view()).is_some() {
            return;
        }
        let others = self.memory.versions.keys().filter(|uid| **uid != new.uid);
        let there =
            |uid: &&String| self.memory.traces.contains(*uid) || !self.observed.has_none_of(uid);
        for old in others.filter(there).cloned().collect::<Vec<_>>() {
            self.begin_trial(&old, &new).await;
        }
    }

    /// Judges the version that is on trial, if one is: one that is Ready has passed, one that was not in
    /// time is taken back. Tells when to judge again.
    async fn judge(&mut self) -> Option<Moment> {
        let mut trial = self.rollback.clone()?;
        let version = Arc::clone(&self.wanted.as_ref()?.pod);
        let status = status::status(self.view(), &self.context.facts, &version);
        if !trial.is_trial(&version.uid) {
            // Neither the update nor what stands in for it: the manifest changed once more.
            let stands_in = trial.failed.is_some() && trial.good.version()? == version;
            if !stands_in && self.observed.has_none_of(&trial.uid) && rollback::is_good(&status) {
                self.keep_rollback(None).await;
            }
            return None;
        }
        let limit = rollback::limit(&version, self.context.rollback_after)?;
        if trial.since.is_none() && self.observed.has_none_of(&version.uid) {
            return None;
        }
        let clock = self.context.clock;
        let now = Since::now(&clock);
        let since = trial.since.unwrap_or(now).fixed(&clock);
        let good = rollback::is_good(&status);
        let ready = trial.ready_since.filter(|_| good).or(good.then_some(now));
        let ready = ready.map(|ready| ready.fixed(&clock));
        (trial.since, trial.ready_since) = (Some(since), ready);
        let (from, wait) = match ready {
            Some(ready) => (ready, rollback::settled(limit)),
            None => (since, limit),
        };
        let due = from.moment(&clock).after(wait);
        if due > clock.now() {
            self.keep_rollback(Some(trial)).await;
            return Some(due);
        }
        if good {
            self.keep_rollback(None).await;
            return None;
        }
        let mut said = vec![rollback::complaint(&status)];
        said.extend(waiting::all_held_up(self.view(), &version));
        let said = said.join("; ");
        let (uid, seconds) = (version.uid.clone(), limit.as_secs());
        warn!(pod = %self.key, uid, said, "the update was not Ready within {seconds} s, it is taken back");
        let message = format!("not Ready within {seconds} s: {said}");
        self.event(&uid, None, EventKind::Warning, "RolledBack", &message);
        trial.failed = Some(message);
        self.keep_rollback(Some(trial)).await;
        self.set_wanted(self.asked.clone());
        None
    }

    /// Keeps what is known of an update, in memory and on disk.
    pub(super) async fn keep_rollback(&mut self, rollback: Option<Rollback>) {
        if self.rollback == rollback {
            return;
        }
        self.rollback = rollback;
        let (paths, key) = (self.context.facts.paths.clone(), self.key.clone());
        let kept = self.rollback.clone();
        let write = move || rollback::write(&paths, &key, kept.as_ref());
        let written = self.own_files(blocking(write)).await;
        let problem = written.err().map(|error| error.to_string());
        if self.complaints.should_log("update", problem.as_deref()) {
            let error = problem.unwrap_or_default();
            warn!(pod = %self.key, error, "Failed to write what is known of the update");
        }
    }

    /// A version's history as things stand.
    fn history_now(&mut self, uid: &str) -> History {
        let mut history = self.memory.histories.get(uid).cloned().unwrap_or_default();
        let Some(version) = self.memory.versions.get(uid).cloned() else {
            return history;
        };
        history.note(&self.observed, uid);
        let ended = history.finished.is_none()
            && !self.observed.has_none_of(uid)
            && has_ended(self.view(), &version);
        let status = status::status(self.view(), &self.context.facts, &version);
        if ended {
            history.finished = Some(Finished {
                phase: status::end_phase(&version, &status).to_owned(),
                since: self.context.clock.wall_now(),
                ..Finished::default()
            });
        }
        let sandbox = self.observed.ready_sandbox(uid);
        if let Some(sandbox) = sandbox.filter(|s| !s.ips.is_empty()) {
            history.ips.clone_from(&sandbox.ips);
        }
        let now = self.context.clock.wall_now();
        history.was_good |= history.was_ready_for(rollback::SETTLED, now);
        history.conditions = status::kept_conditions(&status);
        let (ready, started) = status::ready_and_started(&status);
        history.ready = ready.into_iter().collect();
        history.started = started.into_iter().collect();
        history
    }

    /// Adds to what was observed what the runtime does not tell: the last words of containers that
    /// ended since `before`, and containers that somebody removed.
    pub(super) async fn complete(&mut self, before: &Observed) {
        let ended = self
            .observed
            .containers
            .iter()
            .filter(|c| c.exit().is_some());
        let ended = ended.filter(|c| {
            let known = before.containers.iter().find(|b| b.id == c.id);
            known.is_none_or(|known| known.exit().is_none())
        });
        for container in ended.cloned().collect::<Vec<_>>() {
            self.hear_last_words(container).await;
        }
        let uids: Vec<String> = self.memory.histories.keys().cloned().collect();
        for uid in uids {
            let history = self.memory.histories.get(&uid);
            let known = self.memory.versions.contains_key(&uid);
            if let Some(history) =
                history.filter(|_| known && !self.memory.terminating.contains(&uid))
            {
                let gone = history.gone(&self.observed, &uid, &self.context.clock);
                self.observed.containers.extend(gone);
            }
        }
    }

    async fn hear_last_words(&mut self, container: Container) {
        let version = self.memory.versions.get(&container.uid);
        let spec = version.and_then(|v| all_containers(v).find(|c| c.name == container.name));
        let (Some(spec), State::Exited(exit)) = (spec.cloned(), container.state.clone()) else {
            return;
        };
        let (paths, key) = (self.context.facts.paths.clone(), self.key.clone());
        let id = container.id.clone();
        let read = move || last_words(&paths, &key, &spec, &container, &exit);
        let subject = blocking::Subject::of(&self.key, &id, format!("termination message of {id}"));
        let read = pooled(subject, FILES, read);
        let words = self.own_files(read).await.unwrap_or_else(|error| {
            warn!(pod = %self.key, %error, "Failed to read the termination message");
            String::new()
        });
        let known = self.observed.containers.iter_mut().find(|c| c.id == id);
        if let Some(State::Exited(exit)) = known.map(|c| &mut c.state).filter(|_| !words.is_empty())
        {
            if !exit.message.is_empty() {
                exit.message.push_str(": ");
            }
            exit.message.push_str(&words);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Desired(wanted) => self.set_wanted(wanted),
            Message::Look => self.stale = true,
            Message::Changed(id) => {
                self.changed.insert(id);
            }
        }
    }

    /// Takes over what the manifests want. A version that was taken back stays so.
    pub(super) fn set_wanted(&mut self, asked: Option<DesiredPod>) {
        let taken_back = asked.as_ref().zip(self.rollback.as_ref());
        let taken_back = taken_back.filter(|(asked, rollback)| rollback.has_failed(&asked.pod.uid));
        let before = taken_back.and_then(|(asked, rollback)| {
            Some(DesiredPod {
                pod: rollback.good.version()?,
                origin: asked.origin.clone(),
                warnings: vec![],
            })
        });
        let wanted = before.or_else(|| asked.clone());
        self.asked = asked;
        self.carry_out(wanted);
    }

    fn carry_out(&mut self, wanted: Option<DesiredPod>) {
        let uid = |w: &Option<DesiredPod>| w.as_ref().map(|w| w.pod.uid.clone());
        if let Some(new) = &wanted {
            let version = Arc::clone(&new.pod);
            self.memory.versions.insert(new.pod.uid.clone(), version);
            if !self.memory.seen.contains_key(&new.pod.uid) {
                self.seen_at(&new.pod.uid, self.context.clock.wall_now());
            }
        }
        if let Some(old) = uid(&self.wanted).filter(|old| Some(old) != uid(&wanted).as_ref()) {
            let started = self.memory.traces.contains(&old) || !self.observed.has_none_of(&old);
            if !started {
                self.memory.forget_version(&old);
                self.context.ledger.release(&self.key, &old);
            }
        }
        self.wanted = wanted;
    }

    /// Waits until something happens, or for an alarm. Tells whether the task goes on.
    async fn wait(&mut self, alarm: Option<Instant>) -> bool {
        let sleep = async {
            match alarm {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            goes_on = self.next() => goes_on,
            () = sleep => true,
        }
    }

    /// Waits for work that takes its time, such as a container's end within its grace period. What happens
    /// meanwhile is taken in and told: readiness above all. Gives nothing where the work is given up because
    /// of that.
    pub(super) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        is_given_up: impl Fn(View<'_>) -> bool,
    ) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                goes_on = self.next() => {
                    if !goes_on {
                        return Some(work.await);
                    }
                }
            }
            self.sync_probes();
            self.publish();
            if is_given_up(self.view()) {
                return None;
            }
        }
    }

    /// Waits until something happens, and takes it in. Nothing is lost where the wait is given up. Tells
    /// whether the task goes on.
    pub(super) async fn next(&mut self) -> bool {
        let given_back = &mut self.given_back;
        tokio::select! {
            message = self.inbox.recv() => match message {
                Some(message) => self.take(message),
                None => return false,
            },
            Some(pulled) = self.pulls.next() => self.pulled(pulled),
            Some((id, result)) = self.post_starts.next() => self.post_started(&id, result),
            Some(done) = self.jobs.next() => self.job_done(done),
            news = self.probes.next() => self.tell_of_probe(&news),
            Ok(()) = given_back.changed(), if !self.memory.rejections.is_empty() => {
                self.memory.rejections.clear();
            }
        }
        self.heard = true;
        true
    }

    /// Asks the runtime about what may have changed, and waits for the runtime if it is away. Tells
    /// whether the task goes on.
    async fn look(&mut self) -> bool {
        let mut delay = RUNTIME_RETRY;
        loop {
            match self.try_look().await {
                Ok(true) => return true,
                // Something else matters now.
                Ok(false) => continue,
                Err(e) => debug!(pod = %self.key, error = %e, "cannot look at the Pod"),
            }
            if !self.wait(Some(Instant::now().later(delay))).await {
                return false;
            }
            delay = delay.saturating_mul(2).min(RUNTIME_RETRY_MAX);
        }
    }

    /// Tells whether all that was to be read was read.
    async fn try_look(&mut self) -> Result<bool, Error> {
        if self.stale {
            // What changes from now on is read again.
            self.stale = false;
            self.changed.clear();
            let looked = self.look_at_all().await;
            self.stale |= !matches!(looked, Ok(true));
            return looked;
        }
        while let Some(id) = self.changed.pop_first() {
            let looked = self.look_at(&id).await;
            self.stale |= !matches!(looked, Ok(true));
            if self.stale {
                return looked;
            }
        }
        Ok(true)
    }

    /// Reads the Pod's whole state. Given up where the wanted version changes meanwhile, which changes what of
    /// the state matters.
    async fn look_at_all(&mut self) -> Result<bool, Error> {
        let context = Arc::clone(&self.context);
        let wanted = self.wanted.as_ref().map(|w| w.pod.uid.clone());
        let is_other = |task: &Self, _| task.wanted.as_ref().map(|w| &w.pod.uid) != wanted.as_ref();
        let listed = if let Some(listed) = self.listed.take() {
            listed
        } else {
            let key = self.key.clone();
            let fetch = Listed::fetch(&context.client, &context.mark, Some(&key));
            match self.beside(fetch, is_other).await {
                Some(listed) => listed?,
                None => return Ok(false),
            }
        };
        let before = self.observed.clone();
        let mut known = before.clone();
        self.assumed.iter().for_each(|id| known.forget(id));
        let terminating = self.memory.terminating.clone();
        let role = |uid: &str| match &wanted {
            None => Role::Leaving,
            Some(_) if terminating.contains(uid) => Role::Leaving,
            Some(wanted) if wanted == uid => Role::Wanted,
            Some(_) => Role::Replaced,
        };
        let inspect = listed
            .clone()
            .inspect(&context.client, &context.clock, &known, role);
        let Some(inspected) = self.beside(inspect, is_other).await else {
            self.listed = (!self.looked).then_some(listed);
            return Ok(false);
        };
        let Inspected { observed, assumed } = inspected?;
        (self.observed, self.assumed) = (observed, assumed);
        self.complete(&before).await;
        self.tell_ends(&before);
        self.prune();
        if !std::mem::replace(&mut self.looked, true) {
            self.tell_adopted();
        }
        Ok(true)
    }

    /// Reads the state of one container or sandbox. Tells whether it could be had.
    async fn look_at(&mut self, id: &str) -> Result<bool, Error> {
        let context = Arc::clone(&self.context);
        let before = self.observed.clone();
        if let Some(known) = before.containers.iter().find(|c| c.id == id) {
            if known.exit().is_some() {
                return Ok(true);
            }
            let inspect = observe::inspect_container(&context.client, &context.clock, id);
            let Some(now) = self.look_within(&known.uid, inspect).await? else {
                return Ok(false);
            };
            match (
                now,
                self.observed.containers.iter_mut().find(|c| c.id == id),
            ) {
                (Some(now), Some(known)) => known.state = now.state,
                (None, _) => self.observed.forget(id),
                (Some(_), None) => {}
            }
            self.complete(&before).await;
            self.tell_ends(&before);
        } else if let Some(known) = before.sandboxes.iter().find(|s| s.id == id) {
            let inspect = observe::inspect_sandbox(&context.client, &context.clock, id);
            let Some(now) = self.look_within(&known.uid, inspect).await? else {
                return Ok(false);
            };
            match (now, self.observed.sandboxes.iter_mut().find(|s| s.id == id)) {
                // Who it is does not change.
                (Some(now), Some(known)) => {
                    let (id, uid) = (known.id.clone(), known.uid.clone());
                    let attempt = known.attempt;
                    *known = Sandbox {
                        id,
                        uid,
                        attempt,
                        ..now
                    };
                }
                (None, _) => self.observed.forget(id),
                (Some(_), None) => {}
            }
            self.tell_ends(&before);
        }
        Ok(true)
    }

    /// Waits for a status. Where it does not come and its version is not to run on, the list has to be enough,
    /// and nothing is given.
    async fn look_within<T>(
        &mut self,
        uid: &str,
        inspect: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        let is_wanted = |task: &Self| task.wanted.as_ref().is_some_and(|w| w.pod.uid == uid);
        let done = self.beside(inspect, |task, _| !is_wanted(task)).await;
        done.transpose()
    }

    /// Logs what ended without our doing.
    pub(super) fn tell_ends(&self, before: &Observed) {
        for old in before.containers.iter().filter(|c| c.exit().is_none()) {
            let now = self.observed.containers.iter().find(|c| c.id == old.id);
            let pod = &self.key;
            match now.map(|c| c.exit()) {
                Some(Some(_)) if now.is_some_and(|c| c.gone) => {
                    info!(%pod, container = old.name, "container was removed by somebody else");
                }
                Some(Some(exit)) => {
                    let reason = &exit.reason;
                    info!(%pod, container = old.name, exit_code = exit.code, reason, "container ended");
                    self.tell_pause(old, exit);
                }
                None => info!(%pod, container = old.name, "container was removed by somebody else"),
                Some(None) => {}
            }
        }
        // The runtime tells of the end before it answers, and one whose stop failed has ended all the same.
        let memory = &self.memory;
        let is_stopped = |s: &Sandbox| {
            let removal = Subject::Removal(s.id.clone());
            memory.under_way.contains_key(&removal)
                || memory.failures.contains_key(&removal)
                || memory.stopped_sandboxes.contains(&s.id)
        };
        for old in before
            .sandboxes
            .iter()
            .filter(|s| s.ready && !is_stopped(s))
        {
            let ready = |s: &Sandbox| s.id == old.id && s.ready;
            if !self.observed.sandboxes.iter().any(ready) {
                warn!(pod = %self.key, attempt = old.attempt, "the Pod's sandbox died");
            }
        }
    }

    /// Tells that a container which ended so is not started again at once.
    pub(super) fn tell_pause(&self, container: &Container, exit: &Exit) {
        let Some(version) = self.memory.versions.get(&container.uid) else {
            return;
        };
        let again = restart(self.view(), version, container, exit);
        if matches!(again, Restart::At(_, delay) if !delay.is_zero()) {
            let (uid, name) = (&container.uid, &container.name);
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({uid})",
                self.key.name, self.key.namespace
            );
            self.event(uid, Some(name), EventKind::Warning, "BackOff", &message);
        }
    }

    /// Tells of what a probe found.
    fn tell_of_probe(&self, news: &News) {
        let News {
            container,
            kind,
            result,
            event,
            ..
        } = news;
        let known = self
            .observed
            .containers
            .iter()
            .find(|c| c.id == news.container_id);
        if let (Some(event), Some(known)) = (event, known) {
            let (uid, warning) = (&known.uid, EventKind::Warning);
            self.event(uid, Some(container), warning, event.reason, &event.message);
        }
        let said = event.as_ref().map_or("", |event| event.message.as_str());
        match result {
            Some(ProbeResult::Failure) => {
                info!(pod = %self.key, container, ?kind, said, "a probe has failed");
            }
            Some(ProbeResult::Success) => {
                info!(pod = %self.key, container, ?kind, "a probe succeeds");
            }
            None => {}
        }
    }

    /// Keeps the probes of what runs going, and takes over what they say.
    pub(super) fn sync_probes(&mut self) {
        let (context, memory) = (&self.context, &self.memory);
        let of_host = context.facts.identity.ips.first();
        let of_host = of_host.as_deref().unwrap_or("127.0.0.1");
        let mut known = vec![];
        for container in self.observed.containers.iter().filter(|c| !c.gone) {
            let State::Running { started_at } = container.state else {
                continue;
            };
            let Some(version) = memory.versions.get(&container.uid) else {
                continue;
            };
            let spec = all_containers(version).find(|c| c.name == container.name);
            let sandbox = self
                .observed
                .sandboxes
                .iter()
                .find(|s| s.id == container.sandbox);
            let (Some(spec), Some(sandbox)) = (spec, sandbox) else {
                continue;
            };
            let history = memory.histories.get(&container.uid);
            let before = history
                .filter(|h| h.started.contains(&container.id))
                .map(|h| Health {
                    started: true,
                    ready: h.ready.contains(&container.id),
                    failed: None,
                });
            let clock = &context.clock;
            let age = clock.now().since(clock.moment_of(started_at));
            let ends = memory.terminating.contains(&container.uid);
            let which = if ends { Which::Readiness } else { Which::All };
            let ip = sandbox.ips.first().map_or(of_host, String::as_str);
            known.push((container, spec, ip, age, which, before));
        }
        let wanted: Vec<Wanted<'_>> = known
            .iter()
            .map(|(container, spec, ip, age, which, before)| Wanted {
                container_id: &container.id,
                spec,
                ip,
                age: *age,
                which: *which,
                known: before.as_ref(),
            })
            .collect();
        self.probes.sync(&wanted);
        let results = self.probes.results();
        self.memory.probes = results
            .map(|(id, health)| (id.to_owned(), health.clone()))
            .collect();
    }

    /// Notes what came of the hook after a container's start.
    fn post_started(&mut self, id: &str, result: Result<(), String>) {
        let known = self.observed.containers.iter().find(|c| c.id == id);
        let Some((uid, name)) = known.map(|c| (c.uid.clone(), c.name.clone())) else {
            self.memory.post_starts.remove(id);
            return;
        };
        match result {
            Ok(()) => {
                self.memory.post_starts.remove(id);
                if let Some(history) = self.memory.histories.get_mut(&uid) {
                    history.post_starts.remove(id);
                }
            }
            Err(message) => {
                warn!(pod = %self.key, container = name, error = message, "the postStart hook failed");
                let (kind, said) = (EventKind::Warning, POST_START_FAILED);
                self.event(&uid, Some(&name), kind, "FailedPostStartHook", said);
                let hooks = &mut self.memory.post_starts;
                hooks.insert(id.to_owned(), PostStart::Failed(message));
            }
        }
    }

    fn forget_outdated_failures(&mut self) {
        for subject in effects::outdated(self.view()) {
            self.memory.failures.remove(&subject);
        }
    }

    /// Forgets what concerns sandboxes and containers that are gone.
    fn prune(&mut self) {
        let observed = &self.observed;
        let there = |id: &String| {
            observed.sandboxes.iter().any(|s| &s.id == id)
                || observed.containers.iter().any(|c| &c.id == id)
        };
        self.memory.stopped_sandboxes.retain(there);
        self.memory.post_starts.retain(|id, _| there(id));
        self.memory.failures.retain(|subject, _| match subject {
            Subject::Removal(id) => there(id),
            _ => true,
        });
    }
}
