//! The supervisor: one task for every Pod that is wanted or there.
//!
//! It never changes the runtime itself. It hands each task what the manifests want, and sends it to
//! look when the runtime has something else of its Pod than the task believes. The first look at the
//! runtime comes before any task, so that what an earlier agent left is found before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::events::{self, Connected, Hint};
use crate::cri::{Error, v1};
use crate::host::blocking::limited;
use crate::host::log_once::LogOnce;
use crate::manifest::{PodKey, SourceKind};
use crate::pod::folder;
use crate::pod::identity::Uid;
use crate::pod::observe::{Listed, owner};
use crate::pod::task::{Context, Message, PodTask, Start};
use crate::source::{Desired, DesiredPod, Origin};
use crate::translate::labels;
use crate::units::time::Later;

/// How often to look around while no events come in, and while they do.
const RELIST: Duration = Duration::from_secs(1);
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(10);
/// The time of the next look while one is under way.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// How long a runtime that does not answer is left alone at most.
const RELIST_MAX: Duration = Duration::from_secs(5);
/// Time to find out if another agent runs.
const LOCK_LOOK: Duration = Duration::from_secs(1);

/// How often to see whether every Pod was looked at for the first time.
const FIRST_PASS: Duration = Duration::from_millis(20);

/// A supervisor without a heartbeat for this long is stuck. Each round of its loop waits for the runtime twice
/// at most, half a minute each.
const STUCK: Duration = Duration::from_secs(120);

/// Time of the last round of the supervisor's loop; none before every Pod was observed once.
pub type Heartbeat = watch::Sender<Option<Instant>>;
/// Receiver of [`Heartbeat`].
pub type HeartbeatReceiver = watch::Receiver<Option<Instant>>;

/// Returns `true` if the supervisor is not stuck.
#[must_use]
pub fn is_alive(heartbeat: &HeartbeatReceiver) -> bool {
    heartbeat
        .borrow()
        .is_some_and(|last| last.elapsed() < STUCK)
}

/// Runs the node until the desired set has no more sender.
pub async fn supervise(
    context: Arc<Context>,
    mut desired: watch::Receiver<Option<Desired>>,
    heartbeat: Heartbeat,
) {
    let (hint_sender, mut hints) = mpsc::channel(256);
    let connected = Connected::default();
    let client = context.client.clone();
    let mark = context.mark.clone();
    let source = events::cri::container_events(client, mark, hint_sender, connected.clone());
    let source = tokio::spawn(source);

    let mut addresses = context.facts.identity.ips.changes();
    let listed = first_look(&context).await;
    if desired.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut supervisor = Supervisor {
        context,
        desired: Desired::default(),
        pods: BTreeMap::new(),
        tasks: JoinSet::new(),
        runtime_away: false,
        relist_at: Instant::now().later(RELIST),
        connected,
        remembered: BTreeMap::new(),
    };
    supervisor.adopt(
        listed,
        desired.borrow_and_update().clone().unwrap_or_default(),
    );
    let mut passed = false;
    // A list that does not come holds up nothing but the next one.
    let mut lists = FuturesUnordered::new();
    loop {
        passed = passed || supervisor.has_passed();
        if passed {
            heartbeat.send_replace(Some(Instant::now()));
        }
        tokio::select! {
            () = tokio::time::sleep(FIRST_PASS), if !passed => {}
            changed = desired.changed() => {
                if changed.is_err() {
                    break;
                }
                let new = desired.borrow_and_update().clone();
                supervisor.want(new.unwrap_or_default());
            }
            Some(hint) = hints.recv() => match hint {
                Hint::Changed(key, id) => supervisor.tell(&key, Message::Changed(id)),
                Hint::LookAround => supervisor.relist_at = Instant::now(),
            },
            Ok(()) = addresses.changed() => {
                let addresses = addresses.borrow_and_update().clone();
                supervisor.tell_addresses(&addresses);
            }
            Some(ended) = supervisor.tasks.join_next() => supervisor.task_ended(ended),
            () = tokio::time::sleep_until(supervisor.relist_at), if lists.is_empty() => {
                supervisor.relist_at = Instant::now().later(NEVER);
                lists.push(list_all(Arc::clone(&supervisor.context)));
            }
            Some(listed) = lists.next() => supervisor.look_around(listed),
        }
    }
    source.abort();
}

/// What the runtime has, however long it takes to answer.
async fn first_look(context: &Context) -> Listed {
    warn_of_others(context).await;
    let mut delay = Duration::from_millis(200);
    let mut problems = LogOnce::default();
    loop {
        match Listed::fetch(&context.client, &context.mark, None).await {
            Ok(listed) => return listed,
            Err(error) => {
                if problems.should_log("list", Some(&error.to_string())) {
                    warn!(%error, "Failed to list what the container runtime has, trying again");
                }
            }
        }
        tokio::time::sleep(delay).await;
        delay = delay.saturating_mul(2).min(RELIST_MAX);
    }
}

/// Everything of ours that the runtime has.
async fn list_all(context: Arc<Context>) -> Result<Listed, Error> {
    context.facts.identity.ips.look();
    Listed::fetch(&context.client, &context.mark, None).await
}

/// Says that Pods of an agent with another root directory are there: they are left alone, which is
/// right for two agents, and a surprise to who gave this one another root directory.
async fn warn_of_others(context: &Context) {
    let everything = v1::ListPodSandboxRequest::default();
    let Ok(everything) = context.client.list_pod_sandbox(everything).await else {
        return;
    };
    let marks = everything
        .items
        .iter()
        .filter_map(|s| s.labels.get(labels::ROOT_DIR));
    let others: BTreeSet<&String> = marks.filter(|m| **m != context.mark).collect();
    // An agent that runs looks after its own; several on one node are no surprise to anybody.
    let mut left = vec![];
    for root_dir in others {
        // A label says where that is, so it may be anywhere.
        let root = PathBuf::from(root_dir);
        let is_locked = limited(root_dir.as_str(), LOCK_LOOK, move || {
            folder::is_locked(&root)
        });
        if !is_locked.await.unwrap_or_default() {
            left.push(root_dir.as_str());
        }
    }
    if !left.is_empty() {
        warn!(
            root_dirs = left.join(", "),
            "There are Pods of agents with other root directories that do not run, they are left alone"
        );
    }
}

struct Supervisor {
    context: Arc<Context>,
    desired: Desired,
    pods: BTreeMap<PodKey, mpsc::UnboundedSender<Message>>,
    tasks: JoinSet<PodKey>,
    runtime_away: bool,
    relist_at: Instant,
    connected: Connected,
    /// The Pods that came from the web before this start, while it is unknown what it wants now.
    remembered: BTreeMap<PodKey, DesiredPod>,
}

impl Supervisor {
    /// Starts a task for every Pod that is wanted or that an earlier agent left.
    fn adopt(&mut self, listed: Listed, desired: Desired) {
        let mut starts: BTreeMap<PodKey, Start> = BTreeMap::new();
        for (key, listed) in by_owner(&self.context.mark, listed) {
            starts.entry(key).or_default().listed = listed;
        }
        for (key, uid) in self.folders(&starts) {
            self.remember(&key, &uid);
            starts.entry(key).or_default().folders.insert(uid);
        }
        let desired = self.with_remembered(desired);
        for (key, pod) in &desired.pods {
            starts.entry(key.clone()).or_default().wanted = Some(pod.clone());
        }
        info!(
            wanted = desired.pods.len(),
            known = starts.len(),
            "looked around"
        );
        self.desired = desired;
        // Every Pod that runs reserves what it has before a new one is admitted.
        let mut adopted = vec![];
        for (key, start) in starts {
            let (sender, inbox) = mpsc::unbounded_channel();
            self.pods.insert(key.clone(), sender);
            let context = Arc::clone(&self.context);
            adopted.push(PodTask::adopt(key, context, inbox, start));
        }
        for task in adopted {
            self.tasks.spawn(task.run());
        }
    }

    /// Every Pod that is wanted, or was left by an earlier agent, was looked at.
    fn has_passed(&self) -> bool {
        let known: BTreeSet<PodKey> = self.context.reports.keys().into_iter().collect();
        let wanted = self.desired.pods.keys();
        let mut all = wanted.chain(self.pods.keys());
        all.all(|key| known.contains(key))
    }

    /// The Pods' folders with their owners. Folders that do not tell whose they are and belong to
    /// nothing that runs are cleared away.
    fn folders(&self, starts: &BTreeMap<PodKey, Start>) -> Vec<(PodKey, String)> {
        let paths = &self.context.facts.paths;
        let uids = folder::list(paths).unwrap_or_else(|error| {
            error!(%error, "cannot read the Pods' folders");
            vec![]
        });
        let mut running = BTreeMap::new();
        for (key, start) in starts {
            let sandboxes = start.listed.sandboxes.iter().flat_map(|s| &s.metadata);
            running.extend(sandboxes.map(|m| (m.uid.clone(), key.clone())));
        }
        let mut owned = vec![];
        for uid in uids {
            let valid = match Uid::parse(&uid) {
                Ok(valid) => valid,
                Err(error) => {
                    warn!(folder = uid, %error, "Left a folder alone that is not a static Pod's");
                    continue;
                }
            };
            let record = folder::read_record(paths, &uid).map(|r| r.key());
            if let Some(key) = record.or_else(|| running.get(&uid).cloned()) {
                owned.push((key, uid));
            } else if let Err(error) = folder::remove_nameless(paths, &valid) {
                warn!(uid, %error, "cannot clear away a folder without a Pod");
            }
        }
        owned
    }

    /// Remembers a Pod that came from the web and is not on its way out, as it was last carried out.
    fn remember(&mut self, key: &PodKey, uid: &str) {
        let paths = &self.context.facts.paths;
        let Some(record) = folder::read_record(paths, uid) else {
            return;
        };
        if record.source == SourceKind::Http
            && folder::read_terminating(paths, uid).is_none()
            && let Some(pod) = record.version()
        {
            let origin = Origin::Url(record.path);
            let warnings = vec![];
            let wanted = DesiredPod {
                pod,
                origin,
                warnings,
            };
            self.remembered.insert(key.clone(), wanted);
        }
    }

    /// While it is unknown what the web wants, what came from there before runs on.
    fn with_remembered(&mut self, mut desired: Desired) -> Desired {
        if !desired.web_unknown {
            self.remembered.clear();
        }
        for (key, wanted) in &self.remembered {
            let entry = desired.pods.entry(key.clone());
            entry.or_insert_with(|| wanted.clone());
        }
        desired
    }

    fn want(&mut self, desired: Desired) {
        let desired = self.with_remembered(desired);
        let before = std::mem::replace(&mut self.desired, desired);
        let keys: BTreeSet<PodKey> = before
            .pods
            .keys()
            .chain(self.desired.pods.keys())
            .cloned()
            .collect();
        for key in keys {
            let wanted = self.desired.pods.get(&key);
            if wanted == before.pods.get(&key) {
                continue;
            }
            let wanted = wanted.cloned();
            if !self.try_tell(&key, Message::Desired(wanted.clone())) && wanted.is_some() {
                let start = Start {
                    wanted,
                    ..Start::default()
                };
                self.spawn(key, start);
            }
        }
    }

    fn spawn(&mut self, key: PodKey, start: Start) {
        let (sender, inbox) = mpsc::unbounded_channel();
        self.pods.insert(key.clone(), sender);
        let context = Arc::clone(&self.context);
        self.tasks
            .spawn(async move { PodTask::adopt(key, context, inbox, start).run().await });
    }

    fn try_tell(&self, key: &PodKey, message: Message) -> bool {
        let task = self.pods.get(key);
        task.is_some_and(|task| task.send(message).is_ok())
    }

    fn tell(&self, key: &PodKey, message: Message) {
        // A Pod without a task is gone, and there is nothing left to tell about it.
        let _ = self.try_tell(key, message);
    }

    /// A task that ended because nothing of its Pod was left is started again if the Pod came to be
    /// wanted in that very moment.
    fn task_ended(&mut self, ended: Result<PodKey, tokio::task::JoinError>) {
        let key = match ended {
            Ok(key) => key,
            Err(error) => {
                error!(%error, "a Pod's task died");
                return;
            }
        };
        if self.pods.get(&key).is_some_and(|task| !task.is_closed()) {
            return;
        }
        self.pods.remove(&key);
        if let Some(wanted) = self.desired.pods.get(&key).cloned() {
            let start = Start {
                wanted: Some(wanted),
                ..Start::default()
            };
            self.spawn(key, start);
        }
    }

    /// Every Pod's status tells the node's addresses.
    fn tell_addresses(&mut self, addresses: &[String]) {
        let addresses = addresses.join(", ");
        info!(addresses, "the node's addresses are others now");
        for key in self.context.reports.keys() {
            self.tell(&key, Message::Look);
        }
    }

    /// Compares what the runtime has with what each task believes.
    fn look_around(&mut self, listed: Result<Listed, Error>) {
        match listed {
            Ok(listed) => {
                if std::mem::take(&mut self.runtime_away) {
                    info!("the container runtime is back");
                }
                self.compare(listed);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.runtime_away, true) {
                    warn!(%error, "the container runtime does not answer, Pods are left as they are");
                }
            }
        }
        let pause = if self.connected.get() {
            RELIST_WITH_EVENTS
        } else {
            RELIST
        };
        // Unless one was asked for while this one was under way.
        self.relist_at = self.relist_at.min(Instant::now().later(pause));
    }

    fn compare(&mut self, listed: Listed) {
        let mut listed = by_owner(&self.context.mark, listed);
        for key in self.context.reports.keys() {
            listed.entry(key).or_default();
        }
        for (key, listed) in listed {
            if self.context.reports.agrees(&key, &listed.belief()) {
                continue;
            }
            if !self.try_tell(&key, Message::Look) {
                let start = Start {
                    listed,
                    ..Start::default()
                };
                self.spawn(key, start);
            }
        }
    }
}

fn by_owner(mark: &str, listed: Listed) -> BTreeMap<PodKey, Listed> {
    let mut owners: BTreeMap<PodKey, Listed> = BTreeMap::new();
    for sandbox in listed.sandboxes {
        if let Some(key) = owner(mark, &sandbox.labels) {
            owners.entry(key).or_default().sandboxes.push(sandbox);
        }
    }
    for container in listed.containers {
        if let Some(key) = owner(mark, &container.labels) {
            owners.entry(key).or_default().containers.push(container);
        }
    }
    owners
}
