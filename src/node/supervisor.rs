//! Supervisor of the Pods' tasks: one task for every Pod that is desired or exists.
//!
//! It never changes the runtime itself. It gives each task the desired Pod, and has it observe the runtime when
//! a relist differs from the state that the task last observed. The first list comes before any task, so that
//! whatever an earlier agent left is adopted before anything starts.

mod paused;
mod shutdown;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use self::shutdown::NodeStop;
use super::events::{self, Connected, Hint};
use super::first_list::first_list;
use super::relist::{RuntimeList, by_owner};
use crate::cri::Error;
use crate::manifest::{PodKey, SourceKind, Uid};
use crate::pod::folder;
use crate::pod::identity::ValidUid;
use crate::pod::observe::Listed;
use crate::pod::state::time::Wall;
use crate::pod::task::{
    Context, Message, MessageSender, PodTask, ShutdownOrder, TaskStart, mailbox,
};
use crate::source::{Desired, DesiredPod, Origin};
use crate::units::time::Later;

/// Time between two relists while no events come in, and while they do.
const RELIST: Duration = Duration::from_secs(1);
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(10);
/// Time of the next relist while one is under way.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Time between two checks if every Pod was observed once.
const OBSERVED_CHECK: Duration = Duration::from_millis(20);

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

/// Runs the node until the desired set has no more sender, or until all Pods are stopped since the machine shuts
/// down: then it returns `true`.
pub async fn supervise(
    context: Arc<Context>,
    mut desired: watch::Receiver<Option<Desired>>,
    heartbeat: Heartbeat,
) -> bool {
    let (hint_sender, hints) = mpsc::channel(256);
    let connected = Connected::default();
    let client = context.client.clone();
    let owner_label = context.owner_label.clone();
    let source = events::follow(client, owner_label, hint_sender, connected.clone());
    let source = tokio::spawn(source);

    let addresses = context.facts.identity.ips.changes();
    let listed = first_list(&context).await;
    if desired.wait_for(Option::is_some).await.is_err() {
        return false;
    }
    let mut supervisor = Supervisor::new(context, connected);
    supervisor.adopt(
        listed,
        desired.borrow_and_update().clone().unwrap_or_default(),
    );
    let all_stopped = supervisor.run(desired, hints, addresses, heartbeat).await;
    source.abort();
    all_stopped
}

/// Lists the sandboxes and containers that carry our owner label.
async fn list(context: Arc<Context>) -> Result<RuntimeList, Error> {
    context.facts.identity.ips.refresh();
    RuntimeList::fetch(&context.client, &context.owner_label).await
}

/// State of the supervisor's loop.
struct Supervisor {
    context: Arc<Context>,
    desired: Desired,
    pods: BTreeMap<PodKey, MessageSender>,
    tasks: JoinSet<PodKey>,
    runtime_unreachable: bool,
    relist_at: Instant,
    /// Time at which the last relist began.
    relist_began: Option<Instant>,
    connected: Connected,
    /// The machine's clock as it was at the last relist.
    wall: Wall,
    /// Pods that came from the manifest URL before this start, while its document is not read yet.
    restored: BTreeMap<PodKey, DesiredPod>,
    /// Pods that may not have been observed once.
    unobserved: Vec<PodKey>,
    /// The stop of all Pods, once the machine shuts down.
    stop: Option<NodeStop>,
    /// The last order to stop, which goes to Pods that come after it too.
    order: Option<ShutdownOrder>,
}

impl Supervisor {
    fn new(context: Arc<Context>, connected: Connected) -> Self {
        Self {
            context,
            desired: Desired::default(),
            pods: BTreeMap::new(),
            tasks: JoinSet::new(),
            runtime_unreachable: false,
            relist_at: Instant::now().later(RELIST),
            relist_began: None,
            connected,
            wall: Wall::default(),
            restored: BTreeMap::new(),
            unobserved: vec![],
            stop: None,
            order: None,
        }
    }

    /// Passes on what changes and relists, until the desired set has no more sender or all Pods are stopped. Returns
    /// `true` for the latter.
    async fn run(
        &mut self,
        mut desired: watch::Receiver<Option<Desired>>,
        mut hints: mpsc::Receiver<Hint>,
        mut addresses: watch::Receiver<Vec<String>>,
        heartbeat: Heartbeat,
    ) -> bool {
        let mut observed_all = false;
        let context = Arc::clone(&self.context);
        let mut requests = context.requests.receiver();
        // A list that is not answered blocks only the next one.
        let mut lists = FuturesUnordered::new();
        loop {
            observed_all = observed_all || self.has_observed_all();
            if observed_all {
                heartbeat.send_replace(Some(Instant::now()));
            }
            tokio::select! {
                () = tokio::time::sleep(OBSERVED_CHECK), if !observed_all => {}
                changed = desired.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let new = desired.borrow_and_update().clone();
                    self.update_desired(new.unwrap_or_default());
                }
                Some(hint) = hints.recv() => match hint {
                    Hint::Changed(key, id) => self.notify(&key, Message::Changed(id)),
                    Hint::Relist => self.relist_at = Instant::now(),
                },
                Ok(()) = addresses.changed() => {
                    let addresses = addresses.borrow_and_update().clone();
                    self.notify_addresses(&addresses);
                }
                Some(request) = requests.recv() => self.notify(&request.key, request.message),
                Some(ended) = self.tasks.join_next() => self.task_ended(ended),
                periods = context.shutdown.requested(), if self.stop.is_none() => {
                    if !self.begin_shutdown(&periods) {
                        return true;
                    }
                }
                Some(()) = NodeStop::group_over(&mut self.stop, &context) => {
                    if !self.stop_next_group() {
                        return true;
                    }
                }
                () = tokio::time::sleep_until(self.relist_at), if lists.is_empty() => {
                    self.relist_at = Instant::now().later(NEVER);
                    let before = self.relist_began.replace(Instant::now());
                    self.context.metrics.relist_began(before.map(|before| before.elapsed()));
                    lists.push(list(Arc::clone(&self.context)));
                }
                Some(listed) = lists.next() => self.relisted(listed),
            }
        }
    }

    /// Starts a task for every Pod that is desired or that an earlier agent left.
    fn adopt(&mut self, listed: Listed, desired: Desired) {
        let mut starts: BTreeMap<PodKey, TaskStart> = BTreeMap::new();
        for (key, listed) in by_owner(&self.context.owner_label, listed) {
            starts.entry(key).or_default().listed = listed;
        }
        for (key, uid) in self.folders(&starts) {
            self.restore(&key, &uid);
            starts.entry(key).or_default().folders.insert(uid);
        }
        let desired = self.with_restored(desired);
        self.add_paused(&mut starts, &desired);
        for (key, pod) in desired.pods.iter() {
            starts.entry(key.clone()).or_default().wanted = Some(pod.clone());
        }
        info!(
            wanted = desired.pods.len(),
            known = starts.len(),
            "Relisted pods"
        );
        self.desired = desired;
        self.warn_of_kubelet_pods();
        self.unobserved = starts.keys().cloned().collect();
        // Every Pod that runs reserves what it has before a new one is admitted.
        let mut adopted = vec![];
        for (key, start) in starts {
            let (sender, inbox) = mailbox();
            self.pods.insert(key.clone(), sender);
            let context = Arc::clone(&self.context);
            let pod = key.clone();
            let adopt = || PodTask::adopt(key, context, inbox, start);
            if let Ok(task) = catch_unwind(AssertUnwindSafe(adopt)) {
                adopted.push(task);
            } else {
                // Like any other panic of a task it leaves the other Pods alone.
                error!(%pod, "Pod task panicked");
            }
        }
        for task in adopted {
            self.tasks.spawn(task.run());
        }
    }

    /// Warns of static Pods of a kubelet that no manifest names: they run on, and nobody manages them.
    fn warn_of_kubelet_pods(&self) {
        let mut left = self.context.kubelet_pods.keys();
        left.retain(|key| !self.desired.pods.contains_key(key));
        if !left.is_empty() {
            let pods: Vec<String> = left.iter().map(ToString::to_string).collect();
            warn!(
                pods = pods.join(", "),
                "Found static Pods of a kubelet that no manifest here names, leaving them alone"
            );
        }
    }

    /// Returns `true` once every Pod that is desired, or was left by an earlier agent, was observed. However many
    /// there are, each is looked up about once.
    fn has_observed_all(&mut self) -> bool {
        while let Some(key) = self.unobserved.last() {
            let is_known = self.desired.pods.contains_key(key) || self.pods.contains_key(key);
            if is_known && !self.context.reports.contains(key) {
                return false;
            }
            self.unobserved.pop();
        }
        true
    }

    /// Lists the Pods' folders with their owners. Folders without a record of their owner that belong to nothing
    /// that runs are removed.
    fn folders(&self, starts: &BTreeMap<PodKey, TaskStart>) -> Vec<(PodKey, Uid)> {
        let paths = &self.context.facts.paths;
        let uids = folder::list(paths).unwrap_or_else(|error| {
            error!(%error, "Failed to read the Pods' folders");
            vec![]
        });
        let mut running = BTreeMap::new();
        for (key, start) in starts {
            let sandboxes = start.listed.sandboxes.iter().flat_map(|s| &s.metadata);
            running.extend(sandboxes.map(|m| (m.uid.clone(), key.clone())));
        }
        let mut owned = vec![];
        for uid in uids {
            let valid = match ValidUid::parse(&uid) {
                Ok(valid) => valid,
                Err(error) => {
                    warn!(folder = uid, %error, "Left a folder alone that is not a static Pod's");
                    continue;
                }
            };
            let record = folder::read_record(paths, &uid).map(|r| r.key());
            if let Some(key) = record.or_else(|| running.get(&uid).cloned()) {
                owned.push((key, uid.into()));
            } else if let Err(error) = folder::remove_nameless(paths, &valid) {
                warn!(uid, %error, "Failed to remove a folder without a Pod");
            }
        }
        owned
    }

    /// Restores a Pod that came from the manifest URL and is not terminating, as it was last accepted.
    fn restore(&mut self, key: &PodKey, uid: &Uid) {
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
                pod: pod.into(),
                origin,
                warnings,
            };
            self.restored.insert(key.clone(), wanted);
        }
    }

    /// Adds the Pods that came from the manifest URL before, while its document is not read yet.
    fn with_restored(&mut self, mut desired: Desired) -> Desired {
        if !desired.web_unknown {
            self.restored.clear();
        }
        if !self.restored.is_empty() {
            let pods = Arc::make_mut(&mut desired.pods);
            for (key, wanted) in &self.restored {
                let entry = pods.entry(key.clone());
                entry.or_insert_with(|| wanted.clone());
            }
        }
        desired
    }

    /// Gives each task its Pod as it is desired now, and starts the tasks of new Pods. Once the machine shuts down no
    /// Pod changes any more, and new ones only say that they are not started.
    fn update_desired(&mut self, desired: Desired) {
        let desired = self.with_restored(desired);
        let before = std::mem::replace(&mut self.desired, desired);
        for key in changed_pods(&before, &self.desired) {
            let wanted = self.desired.pods.get(&key).cloned();
            let has_task = self.pods.get(&key).is_some_and(|task| !task.is_closed());
            if has_task && self.stop.is_some() {
                continue;
            }
            let message = Message::Desired(wanted.clone().map(Box::new));
            if !self.try_notify(&key, message) && wanted.is_some() {
                let start = TaskStart {
                    wanted,
                    ..TaskStart::default()
                };
                self.spawn(key, start);
            }
        }
    }

    fn spawn(&mut self, key: PodKey, start: TaskStart) {
        if !self.unobserved.is_empty() {
            self.unobserved.push(key.clone());
        }
        let (sender, inbox) = mailbox();
        if let Some(order) = self.order.clone() {
            // The inbox is here, so that it does not fail.
            let _ = sender.send(Message::ShutDown(order));
        }
        self.pods.insert(key.clone(), sender);
        let context = Arc::clone(&self.context);
        self.tasks
            .spawn(async move { PodTask::adopt(key, context, inbox, start).run().await });
    }

    fn try_notify(&self, key: &PodKey, message: Message) -> bool {
        let task = self.pods.get(key);
        task.is_some_and(|task| task.send(message))
    }

    fn notify(&self, key: &PodKey, message: Message) {
        // A Pod without a task is gone, and nothing is left to notify.
        let _ = self.try_notify(key, message);
    }

    /// Starts a task again that ended because nothing of its Pod was left, if the Pod became desired at the same
    /// time.
    fn task_ended(&mut self, ended: Result<PodKey, tokio::task::JoinError>) {
        let key = match ended {
            Ok(key) => key,
            Err(error) => {
                error!(%error, "Pod task panicked");
                return;
            }
        };
        if self.pods.get(&key).is_some_and(|task| !task.is_closed()) {
            return;
        }
        self.pods.remove(&key);
        if let Some(wanted) = self.desired.pods.get(&key).cloned() {
            let start = TaskStart {
                wanted: Some(wanted),
                ..TaskStart::default()
            };
            self.spawn(key, start);
        }
    }

    /// Has every Pod's status show the node's addresses.
    fn notify_addresses(&mut self, addresses: &[String]) {
        let addresses = addresses.join(", ");
        info!(addresses, "Node addresses changed");
        for key in self.context.reports.keys() {
            self.notify(&key, Message::Resync);
        }
    }

    /// Has every Pod's times follow the machine's clock, where that was set.
    fn follow_clock(&mut self) {
        if !self.wall.follow(&self.context.clock) {
            return;
        }
        info!("The machine's clock was set");
        for key in self.context.reports.keys() {
            self.notify(&key, Message::Resync);
        }
    }

    /// Compares a relist with the state that each task observed.
    fn relisted(&mut self, listed: Result<RuntimeList, Error>) {
        if let Some(began) = self.relist_began {
            self.context.metrics.relisted(began.elapsed());
        }
        self.follow_clock();
        match listed.and_then(|listed| self.compare(listed)) {
            Ok(()) => {
                if std::mem::take(&mut self.runtime_unreachable) {
                    info!("Container runtime is reachable again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.runtime_unreachable, true) {
                    warn!(%error, "Container runtime is unreachable, Pods are left as they are");
                }
            }
        }
        let pause = if self.connected.get() {
            RELIST_WITH_EVENTS
        } else {
            RELIST
        };
        // Unless another relist was requested while this one was under way.
        self.relist_at = self.relist_at.min(Instant::now().later(pause));
    }

    fn compare(&mut self, listed: RuntimeList) -> Result<(), Error> {
        // Usually nothing has changed, and then the list need not be sorted by Pods.
        if self.context.reports.are_current(listed.states()) {
            return Ok(());
        }
        let known = self.context.reports.owners();
        let mut listed = listed.by_owner(&self.context.owner_label, &known)?;
        for key in self.context.reports.keys() {
            listed.entry(key).or_default();
        }
        for (key, listed) in listed {
            if self.context.reports.is_current(&key, &listed.digest()) {
                continue;
            }
            if !self.try_notify(&key, Message::Resync) {
                let start = TaskStart {
                    listed: listed.decode()?,
                    ..TaskStart::default()
                };
                self.spawn(key, start);
            }
        }
        Ok(())
    }
}

/// The Pods that are wanted by one of two desired sets alone, or not in the same way by both.
fn changed_pods(before: &Desired, now: &Desired) -> BTreeSet<PodKey> {
    let new = now.pods.iter();
    let new = new.filter(|(key, wanted)| before.pods.get(key) != Some(wanted));
    let old = before.pods.iter();
    let old = old.filter(|(key, _)| !now.pods.contains_key(key));
    new.chain(old).map(|(key, _)| key.clone()).collect()
}
