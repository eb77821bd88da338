//! Keeps the mirror Pods: compares reports with what the API server has, plans, and executes the steps, one
//! at a
//! time for each Pod.

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
use super::bounded::MAX_ITEMS;
use super::error::{ApiError, ErrorKind};
use super::object::{NodeIdentity, SeenPod, mirror};
use super::others;
use super::patch::status_patch;
use super::plan::{MirrorPlan, MirrorStep, MirrorView, RequestState, plan};
use super::refusals::Refusals;
use super::watch::ObjectUpdate;
use super::{Local, Numbers};
use crate::manifest::PodKey;
use crate::pod::events::{About, EventKind};
use crate::pod::report::PodSnapshot;
use crate::units::time::{Later, scaled};

/// Time that a status rests before it is sent, so that changes in quick succession are sent together.
const SETTLE: Duration = Duration::from_millis(150);
/// Steps under way at a time.
const STEPS: usize = 8;
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
    /// All Pods of this node that the API server has; `None` until they were listed.
    seen: Option<BTreeMap<PodKey, SeenPod>>,
    /// The API server's UIDs of Pods that were deleted and that late changes may still be about.
    deleted: BTreeSet<String>,
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
        retained.state.current.clear();
        retained.refusals.reset();
        Self {
            local,
            api,
            identity,
            retained,
            numbers,
            seen: None,
            deleted: BTreeSet::new(),
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
        let mut changes = self.local.context.reports.changes();
        let mut desired = self.local.desired.clone();
        let mut synced = self.local.synced.clone();
        loop {
            let wake = self.go_on();
            self.count(*changes.borrow());
            tokio::select! {
                Some(seen) = updates.recv() => self.see(seen),
                Ok(()) = changes.changed() => {
                    self.unsettled.get_or_insert_with(Instant::now);
                }
                Ok(()) = desired.changed() => {}
                Ok(()) = synced.changed() => {}
                Ok(()) = self.identity.changed() => {}
                Some(done) = self.running.next() => self.finish(done)?,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Starts the steps that are due, and returns the time of the next plan.
    fn go_on(&mut self) -> Instant {
        let now = Instant::now();
        let later = now.later(Duration::from_secs(60));
        if let Some(until) = self.busy_until.filter(|until| *until > now) {
            return until;
        }
        let settles = self.unsettled.map(|since| since.later(SETTLE));
        let settled = settles.is_none_or(|at| at <= now);
        let MirrorPlan { steps, wake, .. } = self.plan(settled, now);
        if settled {
            self.unsettled = None;
        }
        for (key, step) in steps {
            if self.running.len() >= STEPS {
                break;
            }
            self.start(key, step);
        }
        let settles = settles.filter(|_| !settled);
        wake.into_iter().chain(settles).min().unwrap_or(later)
    }

    fn plan(&mut self, settled: bool, now: Instant) -> MirrorPlan {
        let snapshots: BTreeMap<PodKey, Arc<PodSnapshot>> =
            self.local.context.reports.snapshots().into_iter().collect();
        let Some(seen) = &self.seen else {
            return MirrorPlan::default();
        };
        let known = |key: &PodKey| snapshots.contains_key(key) || seen.contains_key(key);
        self.retained.forget_all_but(known);
        let Some(identity) = self.identity.borrow_and_update().clone() else {
            return MirrorPlan::default();
        };
        let desired = self.local.desired.borrow();
        let wanted = desired.iter().flat_map(|d| d.pods.keys().cloned());
        let plan = plan(&MirrorView {
            snapshots: &snapshots,
            wanted: &wanted.collect(),
            complete: desired.is_some() && self.local.synced.borrow().is_some(),
            seen,
            node: &identity,
            state: &self.retained.state,
            settled,
            now,
        });
        let current = plan.current.iter();
        let current = current.filter_map(|key| Some((key.clone(), snapshots.get(key)?.clone())));
        self.retained.state.current.extend(current);
        plan
    }

    fn start(&mut self, key: PodKey, step: MirrorStep) {
        let Some(identity) = self.identity.borrow().clone() else {
            return;
        };
        let snapshot = self.snapshot(&key);
        let mirror = snapshot.and_then(|snapshot| mirror(&snapshot, &identity));
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
                let uid = pod.as_ref().map(SeenPod::uid).unwrap_or_default();
                info!(pod = %key, uid, "Created mirror Pod");
            }
            MirrorStep::Patch(patch) => {
                state.patched.insert(key.clone(), now);
                self.record_no_op(key, &patch, pod.as_ref());
            }
            MirrorStep::Answer(_) => self.say_answered(key, pod.as_ref()),
            MirrorStep::Delete(uid) => {
                let seen = self.seen.as_mut();
                if let Some(seen) = seen.filter(|s| s.get(key).is_some_and(|p| p.uid() == uid)) {
                    seen.remove(key);
                }
                self.deleted.insert(uid);
            }
        }
        for other in self.retained.refusals.like(key) {
            self.retained.state.not_before.remove(&other);
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
            status_patch(pod.uid(), &snapshot.status.decode(), &pod.status)
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
            uid: pod.map_or("", SeenPod::uid),
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
                self.deleted.clear();
                self.retained.state.current.clear();
                let pods = pods.into_iter().map(SeenPod::shrink);
                self.seen = Some(pods.map(|p| (p.key(), p)).collect());
            }
            ObjectUpdate::There(pod) => {
                let Some(all) = &mut self.seen else {
                    return;
                };
                let key = pod.key();
                let is_late = self.deleted.contains(pod.uid())
                    || all.get(&key).is_some_and(|known| pod.is_older_than(known));
                // A server that lists ever more Pods is not believed for ever.
                let fits = all.len() < MAX_ITEMS || all.contains_key(&key);
                if !is_late && fits {
                    self.retained.state.current.remove(&key);
                    all.insert(key, pod.shrink());
                }
            }
            ObjectUpdate::Gone(pod) => {
                self.deleted.remove(pod.uid());
                let key = pod.key();
                let all = self.seen.as_mut();
                if let Some(all) = all.filter(|a| a.get(&key).is_some_and(|p| p.uid() == pod.uid()))
                {
                    all.remove(&key);
                    // Whatever kept ours from being made may have gone with it.
                    self.retained.state.not_before.remove(&key);
                }
            }
        }
    }

    /// Counts for metrics; `newest` is the change of reports that the last plan knew.
    fn count(&self, newest: u64) {
        let name = self.identity.borrow().as_ref().map(|i| i.name.clone());
        let seen = self.seen.iter().flat_map(BTreeMap::values);
        let ours = seen.filter(|pod| {
            let name = name.as_deref().unwrap_or_default();
            pod.mirrors().is_some() && pod.controlled_by(name).is_some()
        });
        let (mirrors, refused) = (ours.count(), self.retained.refusals.logged());
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
                || numbers.refused != refused;
            (numbers.mirrors, numbers.reported) = (mirrors, reported);
            numbers.refused = refused;
            changed
        });
    }

    /// Returns true if every mirror Pod shows what was last reported, or is not to be had for now.
    fn is_reported(&self) -> bool {
        let state = &self.retained.state;
        let is_told = |(key, snapshot): &(PodKey, Arc<PodSnapshot>)| {
            snapshot.version.is_none()
                || state.not_before.contains_key(key)
                || state.no_op.contains_key(key)
                || state
                    .current
                    .get(key)
                    .is_some_and(|known| Arc::ptr_eq(known, snapshot))
        };
        let is_idle = self.seen.is_some() && self.unsettled.is_none() && self.running.is_empty();
        is_idle && self.local.context.reports.snapshots().iter().all(is_told)
    }
}

impl RetainedPods {
    fn forget_all_but(&mut self, known: impl Fn(&PodKey) -> bool) {
        self.refusals.keep(&known);
        let state = &mut self.state;
        state.not_before.retain(|key, _| known(key));
        state.created.retain(|key, _| known(key));
        state.patched.retain(|key, _| known(key));
        state.no_op.retain(|key, _| known(key));
        state.current.retain(|key, _| known(key));
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
