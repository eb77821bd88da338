//! Starting the Pod after others: which these are, and when the hold of its first start begins and ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Notify;
use tracing::{info, warn};

use super::PodTask;
use crate::host::blocking::blocking;
use crate::manifest::{PodKey, StaticPod};
use crate::pod::events::EventKind;
use crate::pod::order;
use crate::pod::plan::rules::is_finished;
use crate::pod::plan::{held_by, kept_version, waiting};
use crate::pod::state::observed::{Container, State};
use crate::pod::state::order::Hold;
use crate::pod::state::time::Timestamp;

/// The Pods that this one is started after, while it is held.
#[derive(Debug, Default)]
pub(super) struct FollowedPods {
    keys: BTreeSet<PodKey>,
    /// Notified when one of them becomes Ready, or is so no longer; `None` where there are none.
    changes: Option<Arc<Notify>>,
    /// The hold as it was last written.
    written: Hold,
}

impl FollowedPods {
    /// The state of an agent that read this hold.
    pub(super) fn new(written: Hold) -> Self {
        Self {
            written,
            ..Self::default()
        }
    }

    /// Waits until one of the Pods has changed.
    pub(super) async fn changed(&self) {
        match &self.changes {
            Some(changes) => changes.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl PodTask {
    /// Looks at the Pods that this one is started after, and begins or ends the hold of its first start. A Pod that
    /// runs is not held again, whichever version of it does.
    pub(super) async fn follow_order(&mut self) {
        let view = self.view();
        let versions = [view.wanted, kept_version(view)];
        let versions: Vec<Arc<StaticPod>> = versions.into_iter().flatten().cloned().collect();
        let named = versions
            .iter()
            .filter_map(|version| version.start_after.as_ref());
        let named: BTreeSet<PodKey> = named.flat_map(|order| order.pods.clone()).collect();
        let is_running = |c: &Container| matches!(c.state, State::Running { .. });
        let runs = self.observed.sandboxes.iter().any(|s| s.ready)
            || self.observed.containers.iter().any(is_running);
        let hold = &mut self.state.order.hold;
        if self.asked.is_none() {
            *hold = Hold::default();
        } else if named.is_empty() {
            hold.since = None;
        } else if runs && !hold.is_over {
            *hold = Hold {
                since: None,
                is_over: true,
                ended: None,
            };
        }
        let is_over = hold.is_over;
        self.look_at(if is_over { BTreeSet::new() } else { named });
        // Of two versions, the one before runs until the new one can take over.
        if let Some(version) = versions.last().filter(|_| !is_over) {
            self.update_hold(version);
        }
        self.write_hold().await;
    }

    /// The machine's clock was set: the times of the hold move with it.
    pub(super) fn correct_hold(&mut self) {
        let wall = self.state.wall;
        let hold = &mut self.state.order.hold;
        for time in [&mut hold.since, &mut hold.ended].into_iter().flatten() {
            *time = time.corrected(wall);
        }
    }

    /// Takes over which of these Pods are Ready, and follows them.
    fn look_at(&mut self, keys: BTreeSet<PodKey>) {
        let reports = &self.context.reports;
        if self.followed.keys != keys {
            let changes = (!keys.is_empty()).then(Arc::default);
            if let Some(changes) = &changes {
                reports.notify(&keys, changes);
            }
            self.followed.changes = changes;
            self.followed.keys = keys;
        }
        let keys = self.followed.keys.iter();
        let readiness = keys.map(|key| (key.clone(), reports.readiness(key)));
        self.state.order.readiness = readiness.collect();
    }

    /// Begins or ends the hold of a version that is to start.
    fn update_hold(&mut self, version: &StaticPod) {
        let uid = &version.uid;
        let is_admitted = self.state.is_admitted(uid);
        let Some(order) = version.start_after.as_ref() else {
            return;
        };
        if !is_admitted || is_finished(self.view(), version) {
            return;
        }
        let since = self.state.order.hold.since;
        let held = held_by(self.view(), version).is_some();
        if held && since.is_none() {
            self.state.order.hold.since = Some(Timestamp::now(&self.context.clock));
            let pods = waiting::named(order.pods.iter().map(ToString::to_string));
            info!(pod = %self.key, pods, "Holding the first start of the Pod until other Pods are Ready");
            let message =
                format!("Waiting for Pods to become Ready before the first start: {pods}");
            self.event(uid, None, EventKind::Normal, waiting::FOR_PODS, &message);
        }
        if held {
            return;
        }
        let late = waiting::not_ready(self.view(), version);
        self.state.order.hold = Hold {
            since: None,
            is_over: true,
            ended: since.map(|_| Timestamp::now(&self.context.clock)),
        };
        if since.is_none() {
            return;
        }
        if late.is_empty() {
            info!(pod = %self.key, "Starting the Pod, the Pods that it is started after are Ready");
            let message = "Pods that this one is started after are Ready";
            self.event(uid, None, EventKind::Normal, "PodsReady", message);
        } else {
            let limit = order.timeout.unwrap_or_default().as_secs();
            warn!(pod = %self.key, pods = late, "Starting the Pod though others are not Ready within {limit} s");
            let message = format!("Starting though Pods are not Ready within {limit} s: {late}");
            self.event(uid, None, EventKind::Warning, "StartAfterTimeout", &message);
        }
    }

    /// Keeps the hold on disk.
    async fn write_hold(&mut self) {
        let hold = self.state.order.hold;
        if self.followed.written == hold {
            return;
        }
        let (paths, key) = (self.context.facts.paths.clone(), self.key.clone());
        let kept = Some(hold).filter(|hold| *hold != Hold::default());
        let write = move || order::write(&paths, &key, kept);
        let written = self.own_files(blocking(write)).await;
        if let Some(error) = self.complaints.record("hold", &written) {
            warn!(pod = %self.key, error, "Failed to write how long the Pod's first start is held");
        }
        if written.is_ok() {
            self.followed.written = hold;
        }
    }
}
