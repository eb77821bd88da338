//! Keeps the mirror Pods: compares reports with what the API server has, plans, and executes the steps, one
//! at a time for each Pod. A change costs a look at the Pod that it is about, however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::api::{Api, PatchType};
use super::error::{ApiError, ErrorKind};
use super::object::{NodeIdentity, SeenPod, mirror};
use super::others;
use super::patch::status_patch;
use super::plan::{MirrorStep, Next, PodView, RequestState, plan};
use super::refusals::Refusals;
use super::seen_pods::SeenPods;
use super::watch::ObjectUpdate;
use super::{Local, Numbers};
use crate::manifest::PodKey;
use crate::pod::events::{About, EventKind};
use crate::pod::report::PodSnapshot;
use crate::pod::reports::ChangedPods;
use crate::units::time::{Later, scaled};

/// Time that a status rests before it is sent, so that changes in quick succession are sent together.
const SETTLE: Duration = Duration::from_millis(150);
/// Steps under way at a time.
const STEPS: usize = 8;
/// Pods looked at before what else happens is taken in.
const LOOKS: usize = 64;
/// API path of Pods.
pub(super) const PODS: &str = "/api/v1/pods";
type PendingRequest = BoxFuture<'static, (PodKey, MirrorStep, Result<Option<SeenPod>, ApiError>)>;

/// State that outlives a connection.
#[derive(Debug, Default)]
pub(super) struct RetainedPods {
    state: RequestState,
    refusals: Refusals,
}

/// The controller of the mirror Pods on one connection.
pub(super) struct Pods<'a> {
    local: &'a Local,
    api: Api,
    identity: watch::Receiver<Option<NodeIdentity>>,
    retained: &'a mut RetainedPods,
    numbers: &'a watch::Sender<Numbers>,
    changed: Arc<ChangedPods>,
    seen: SeenPods,
    /// Pods to look at.
    due: BTreeSet<PodKey>,
    /// Pods to look at once statuses have settled.
    settling: BTreeSet<PodKey>,
    /// Pods to look at when the manifests change.
    staying: BTreeSet<PodKey>,
    /// Pods to look at later.
    later: BTreeSet<(Instant, PodKey)>,
    /// Time when a change of a status began to rest before it is sent.
    unsettled: Option<Instant>,
    /// The server wants to be left alone until then.
    busy_until: Option<Instant>,
    running: FuturesUnordered<PendingRequest>,
}

impl<'a> Pods<'a> {
    pub(super) fn new(
        local: &'a Local,
        api: Api,
        identity: watch::Receiver<Option<NodeIdentity>>,
        retained: &'a mut RetainedPods,
        numbers: &'a watch::Sender<Numbers>,
    ) -> Self {
        // What was under way ended with the connection before.
        retained.state.busy.clear();
        retained.state.not_before.clear();
        retained.refusals.reset();
        Self {
            local,
            api,
            identity,
            retained,
            numbers,
            changed: local.context.reports.changed_pods(),
            seen: SeenPods::new(&local.context.node_name),
            due: BTreeSet::new(),
            settling: BTreeSet::new(),
            staying: BTreeSet::new(),
            later: BTreeSet::new(),
            unsettled: None,
            busy_until: None,
            running: FuturesUnordered::new(),
        }
    }

    /// Keeps the mirror Pods until the API server is unreachable.
    pub(super) async fn keep(
        mut self,
        mut updates: mpsc::Receiver<ObjectUpdate<SeenPod>>,
    ) -> Result<Infallible, ApiError> {
        let count = self.local.context.reports.changes();
        let changed = Arc::clone(&self.changed);
        let mut desired = self.local.desired.clone();
        let mut synced = self.local.synced.clone();
        loop {
            let newest = *count.borrow();
            self.take_changes();
            let wake = self.go_on();
            self.count(newest);
            tokio::select! {
                Some(seen) = updates.recv() => self.see(seen),
                () = changed.changed() => {}
                Ok(()) = desired.changed() => self.due.append(&mut self.staying),
                Ok(()) = synced.changed() => self.due.append(&mut self.staying),
                Ok(()) = self.identity.changed() => self.look_at_all(),
                Some(done) = self.running.next() => self.finish(done)?,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Takes in which reports changed.
    fn take_changes(&mut self) {
        let mut changed = self.changed.take();
        if !changed.is_empty() {
            self.unsettled.get_or_insert_with(Instant::now);
            self.due.append(&mut changed);
        }
    }

    fn look_at_all(&mut self) {
        self.due.extend(self.local.context.reports.keys());
        self.due.extend(self.seen.keys().cloned());
    }

    /// Starts the steps that are due, and returns the time of the next look.
    fn go_on(&mut self) -> Instant {
        let now = Instant::now();
        let later = now.later(Duration::from_secs(60));
        if let Some(until) = self.busy_until.filter(|until| *until > now) {
            return until;
        }
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, key)) = self.later.pop_first()
        {
            self.due.insert(key);
        }
        let settles = self.unsettled.map(|since| since.later(SETTLE));
        let settled = settles.is_none_or(|at| at <= now);
        if settled {
            self.unsettled = None;
            self.due.append(&mut self.settling);
        }
        let Some(identity) = self
            .identity
            .borrow()
            .clone()
            .filter(|_| self.seen.is_listed())
        else {
            return later;
        };
        for _ in 0..LOOKS {
            if self.running.len() >= STEPS {
                break;
            }
            let Some(key) = self.due.pop_first() else {
                break;
            };
            self.look(key, &identity, settled, now);
        }
        if !self.due.is_empty() && self.running.len() < STEPS {
            return now;
        }
        let settles = settles.filter(|_| !settled);
        let wake = self.later.first().map(|(at, _)| *at);
        wake.into_iter().chain(settles).min().unwrap_or(later)
    }

    /// Looks at a Pod, and starts the step that is due.
    fn look(&mut self, key: PodKey, node: &NodeIdentity, settled: bool, now: Instant) {
        let snapshot = self.snapshot(&key);
        let seen = self.seen.get(&key);
        if snapshot.is_none() && seen.is_none() {
            self.retained.forget(&key);
            return;
        }
        // It is looked at again when its step is over.
        if self.retained.state.busy.contains(&key) {
            return;
        }
        let desired = self.local.desired.borrow();
        let is_complete = desired.is_some() && self.local.synced.borrow().is_some();
        let is_wanted = desired.as_ref().is_some_and(|d| d.pods.contains_key(&key));
        drop(desired);
        let next = plan(&PodView {
            snapshot: snapshot.as_deref(),
            seen,
            may_start: is_wanted || !is_complete,
            node,
            no_op: self.retained.state.no_op.get(&key),
            settled,
        });
        match next {
            Next::Nothing => {}
            Next::Settle => drop(self.settling.insert(key)),
            Next::Stay => drop(self.staying.insert(key)),
            Next::Step(step) => match self.retained.state.earliest(&key, &step) {
                Some(at) if at > now => drop(self.later.insert((at, key))),
                _ => self.start(key, step, snapshot.as_deref(), node),
            },
        }
    }

    fn start(
        &mut self,
        key: PodKey,
        step: MirrorStep,
        snapshot: Option<&PodSnapshot>,
        node: &NodeIdentity,
    ) {
        let snapshot = snapshot.filter(|_| step == MirrorStep::Create);
        let mirror = snapshot.and_then(|snapshot| mirror(snapshot, node));
        self.retained.state.busy.insert(key.clone());
        let api = self.api.clone();
        self.running.push(Box::pin(async move {
            let result = take(&api, &key, &step, mirror).await;
            (key, step, result)
        }));
    }

    /// Takes in what came of a step.
    ///
    /// # Errors
    /// The API server is unreachable.
    fn finish(
        &mut self,
        (key, step, result): (PodKey, MirrorStep, Result<Option<SeenPod>, ApiError>),
    ) -> Result<(), ApiError> {
        self.retained.state.busy.remove(&key);
        self.due.insert(key.clone());
        let now = Instant::now();
        match result {
            Ok(pod) => self.succeeded(&key, step, pod, now),
            Err(error) if error.kind == ErrorKind::Unreachable => return Err(error),
            Err(error) => {
                if let ErrorKind::Busy(after) = error.kind {
                    self.busy_until = Some(now.later(scaled(after, 0.75 + fastrand::f64() / 2.0)));
                }
                self.failed(&key, &step, &error, now);
            }
        }
        Ok(())
    }

    fn succeeded(&mut self, key: &PodKey, step: MirrorStep, pod: Option<SeenPod>, now: Instant) {
        debug!(pod = %key, ?step, "API server accepted request for mirror Pod");
        let state = &mut self.retained.state;
        state.not_before.remove(key);
        match step {
            MirrorStep::Create => {
                state.created.insert(key.clone(), now);
                state.no_op.remove(key);
                // It has no status yet, and every one is a change.
                state.patched.remove(key);
                let uid = pod.as_ref().map(|pod| pod.uid.as_str()).unwrap_or_default();
                info!(pod = %key, uid, "Created mirror Pod");
            }
            MirrorStep::Patch(patch) => {
                state.patched.insert(key.clone(), now);
                self.record_no_op(key, &patch, pod.as_ref());
            }
            MirrorStep::Answer(_) => self.say_answered(key, pod.as_ref()),
            MirrorStep::Delete(uid) => {
                self.seen.deleted(key, uid);
            }
        }
        for other in self.retained.refusals.like(key) {
            self.retained.state.not_before.remove(&other);
            self.due.insert(other);
        }
        if self.retained.refusals.succeeded(key) {
            info!(pod = %key, "API server accepts the mirror Pod again");
        }
        if let Some(pod) = pod {
            self.see(ObjectUpdate::There(pod));
        }
    }

    /// Notes a patch that left the status as it was, so that it is not sent for ever.
    fn record_no_op(&mut self, key: &PodKey, patch: &Value, pod: Option<&SeenPod>) {
        let snapshot = self.snapshot(key);
        let again = snapshot.zip(pod).and_then(|(snapshot, pod)| {
            let theirs = pod.status.decode();
            status_patch(&pod.uid, &snapshot.status.decode(), &theirs)
        });
        let no_op = &mut self.retained.state.no_op;
        if again.as_ref() == Some(patch) {
            no_op.insert(key.clone(), patch.clone());
        } else {
            no_op.remove(key);
        }
    }

    fn failed(&mut self, key: &PodKey, step: &MirrorStep, error: &ApiError, now: Instant) {
        debug!(pod = %key, ?step, %error, "API server rejected request for mirror Pod");
        let error = match error.kind {
            ErrorKind::AlreadyExists => ApiError {
                message: format!(
                    "found another Pod {key} there, which is not the mirror Pod of this node; \
                     expected none: delete or rename it"
                ),
                ..error.clone()
            },
            _ => error.clone(),
        };
        let chance = fastrand::f64();
        let retained = &mut *self.retained;
        let verdict = retained.refusals.failed(key, &error, now, chance);
        retained.state.not_before.insert(key.clone(), verdict.at);
        if verdict.should_log {
            self.say(key, step, &error);
        }
    }

    /// Says once that the API server does not do something for a Pod.
    fn say(&self, key: &PodKey, step: &MirrorStep, error: &ApiError) {
        let (what, reason) = match step {
            MirrorStep::Create => ("create mirror Pod", "FailedCreate"),
            MirrorStep::Patch(_) => ("update status of mirror Pod", "FailedUpdate"),
            MirrorStep::Answer(_) => ("update status of Pod", "FailedUpdate"),
            MirrorStep::Delete(_) => ("delete mirror Pod", "FailedDelete"),
        };
        warn!(pod = %key, %error, "Failed to {what}, the static Pod keeps running");
        let snapshot = self.snapshot(key);
        let about = About {
            pod: key,
            uid: snapshot
                .as_ref()
                .map_or("", |snapshot| &snapshot.report.uid),
            field: "",
        };
        let message = format!("Failed to {what}: {error}");
        let events = &self.local.context.events;
        events.record(about, EventKind::Warning, reason, &message);
    }

    /// Says once that a Pod which another bound to this node does not start.
    fn say_answered(&self, key: &PodKey, pod: Option<&SeenPod>) {
        let context = &self.local.context;
        let message = others::message(&context.node_name);
        info!(pod = %key, "Pod is bound to this node, which runs static Pods only");
        let about = About {
            pod: key,
            uid: pod.map_or("", |pod| &pod.uid),
            field: "",
        };
        let events = &context.events;
        events.record(about, EventKind::Warning, others::REASON, &message);
    }

    fn snapshot(&self, key: &PodKey) -> Option<Arc<PodSnapshot>> {
        self.local.context.reports.get(key)
    }

    /// Takes in what was seen.
    fn see(&mut self, seen: ObjectUpdate<SeenPod>) {
        match seen {
            ObjectUpdate::All(pods) => {
                self.due.extend(self.seen.listed(pods));
                self.due.extend(self.retained.keys());
                self.look_at_all();
            }
            ObjectUpdate::There(pod) => {
                let key = pod.key.clone();
                if self.seen.changed(pod) {
                    self.due.insert(key);
                }
            }
            ObjectUpdate::Gone(pod) => {
                if self.seen.gone(&pod.key, &pod.uid) {
                    // Whatever kept ours from being made may have gone with it.
                    self.retained.state.not_before.remove(&pod.key);
                    self.due.insert(pod.key);
                }
            }
        }
    }

    /// Counts for metrics; `newest` is the change of reports that the last looks knew.
    fn count(&mut self, newest: u64) {
        let mirrors = self.seen.mirrors();
        let refused = self.retained.refusals.changed();
        // Only the end of the agent waits for it.
        let is_reported = self.local.context.shutdown.is_requested() && self.is_reported();
        self.numbers.send_if_modified(|numbers| {
            let reported = if is_reported {
                newest
            } else {
                numbers.reported
            };
            let changed = numbers.mirrors != mirrors
                || numbers.reported != reported
                || refused
                    .as_ref()
                    .is_some_and(|refused| numbers.refused != *refused);
            (numbers.mirrors, numbers.reported) = (mirrors, reported);
            if let Some(refused) = refused {
                numbers.refused = refused;
            }
            changed
        });
    }

    /// Returns true if every mirror Pod shows what was last reported, or is not to be had for now.
    fn is_reported(&self) -> bool {
        let is_refused = |key| self.retained.state.not_before.contains_key(key);
        self.seen.is_listed()
            && self.identity.borrow().is_some()
            && self.running.is_empty()
            && [&self.due, &self.settling]
                .into_iter()
                .all(BTreeSet::is_empty)
            && self.later.iter().all(|(_, key)| is_refused(key))
    }
}

impl RetainedPods {
    fn forget(&mut self, key: &PodKey) {
        self.refusals.forget(key);
        self.state.forget(key);
    }

    /// The Pods of which anything is known.
    fn keys(&self) -> BTreeSet<PodKey> {
        let state = &self.state;
        let times = [&state.not_before, &state.created, &state.patched];
        let times = times.into_iter().flat_map(BTreeMap::keys);
        let keys = times.chain(state.no_op.keys()).chain(self.refusals.keys());
        keys.cloned().collect()
    }
}

/// Takes a step; gives the Pod as the API server then has it.
async fn take(
    api: &Api,
    key: &PodKey,
    step: &MirrorStep,
    mirror: Option<Pod>,
) -> Result<Option<SeenPod>, ApiError> {
    let path = path(key);
    let result = match step {
        MirrorStep::Create => {
            let pods = format!("/api/v1/namespaces/{}/pods", key.namespace);
            return api.create(&pods, &mirror).await.map(Some);
        }
        MirrorStep::Patch(change) | MirrorStep::Answer(change) => {
            let status = format!("{path}/status");
            let patched = api.patch(&status, PatchType::Strategic, change).await;
            patched.map(Some)
        }
        MirrorStep::Delete(uid) => api.delete_now(&path, uid).await.map(|()| None),
    };
    result.map_err(|error| match error.kind {
        // Its deletion comes with the watch. Alone this proves nothing: an API server that has
        // just started finds no Pod at first, since its admission does not know them yet.
        ErrorKind::NotFound => ApiError {
            kind: ErrorKind::Conflict,
            ..error
        },
        _ => error,
    })
}

fn path(key: &PodKey) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", key.namespace, key.name)
}
