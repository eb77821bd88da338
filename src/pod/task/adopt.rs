//! Adoption: a task takes over the versions that an earlier agent left, from what the runtime lists and
//! from the Pods' folders.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};

use super::order::FollowedPods;
use super::{PodTask, TaskStart};
use crate::host::blocking::blocking;
use crate::manifest::{PackedPod, StaticPod, Uid};
use crate::pod::state::history::StopReason;
use crate::pod::state::observed::ContainerId;
use crate::pod::state::order::Hold;
use crate::pod::state::record::Record;
use crate::pod::state::time::{Timestamp, Wall};
use crate::pod::state::{Admission, FirstSeen, PostStart, Termination};
use crate::pod::{folder, order, pause, rollback};

/// Subject of complaints about records.
const RECORD: &str = "record";

impl PodTask {
    /// Takes over what an earlier agent left.
    pub(super) fn take_over(&mut self, start: TaskStart) {
        self.state.kubelet_pod = self.context.kubelet_pods.has(&self.key);
        self.rollback = rollback::read(&self.context.facts.paths, &self.key);
        self.pause = pause::read(&self.context.facts.paths, &self.key);
        self.forgets_pause = start.forgets_pause;
        let hold = order::read(&self.context.facts.paths, &self.key).unwrap_or_default();
        let fixed = |time: Timestamp| time.fixed(&self.context.clock);
        self.state.order.hold = Hold {
            since: hold.since.map(fixed),
            ended: hold.ended.map(fixed),
            ..hold
        };
        self.followed = FollowedPods::new(self.state.order.hold);
        self.set_wanted(start.wanted);
        let here = start.listed.sandboxes.iter().flat_map(|s| &s.metadata);
        let here_too: BTreeSet<Uid> = here.map(|m| m.uid.as_str().into()).collect();
        let mut uids = here_too.clone();
        uids.extend(start.folders.iter().cloned());
        for uid in &uids {
            self.load_version(uid);
        }
        for uid in here_too {
            if let Some(version) = self.state.pod(&uid) {
                self.context.allocations.reserve(version);
                self.state.version_mut(&uid).admission = Admission::Admitted;
            }
        }
        self.listed = Some(start.listed);
    }

    pub(super) fn log_adopted(&self) {
        let running = self.observed.containers.iter();
        let running = running.filter(|c| c.is_live()).count();
        if running > 0 {
            info!(pod = %self.key, containers = running, "Adopted running Pod");
        }
    }

    /// Writes the record of the wanted version again where its Secrets for pulls have changed.
    pub(super) async fn update_record(&mut self) {
        let Some(version) = self.wanted.as_ref().map(|w| w.pod.clone()) else {
            return;
        };
        let uid = version.uid.clone();
        let secrets = &version.objects.pull_secrets;
        let is_outdated = |record: &Arc<Record>| record.objects.pull_secrets != *secrets;
        let known = self.state.record(&uid).filter(|record| is_outdated(record));
        let Some(known) = known.filter(|_| self.state.is_on_disk(&uid)) else {
            return;
        };
        let record = Arc::new(Record {
            objects: Arc::clone(&version.objects),
            ..Record::clone(known)
        });
        self.state.version_mut(&uid).record = Some(Arc::clone(&record));
        let (paths, key) = (self.context.facts.paths.clone(), self.key.clone());
        let write = move || folder::create(&paths, &key, &uid, &record);
        let written = self.own_files(blocking(write)).await;
        if let Some(error) = self.complaints.record(RECORD, &written) {
            warn!(pod = %self.key, error, "Failed to write the Pod's record after its Secrets changed");
        }
    }

    /// Writes the record of a Pod that runs and whose folder was lost: with it go its age, and what is kept
    /// of it from here on.
    pub(super) async fn restore_record(&mut self) {
        let Some(version) = self.wanted.as_ref().map(|w| w.pod.clone()) else {
            return;
        };
        let uid = version.uid.clone();
        let lost = self.state.record(&uid).is_none() && !self.state.is_terminating(&uid);
        let lost = lost && self.observed.ready_sandbox(&uid).is_some();
        let oldest = self.observed.sandboxes_of(&uid).map(|s| s.created).min();
        let Some(oldest) = oldest.filter(|_| lost) else {
            return;
        };
        let clock = &self.context.clock;
        let age = i64::try_from(clock.now().since(oldest).as_nanos()).unwrap_or(i64::MAX);
        self.seen_at(&uid, clock.wall_now().saturating_sub(age));
        let record = Arc::new(self.record(&version.unpack()));
        self.state.version_mut(&uid).on_disk = true;
        let (paths, written) = (self.context.facts.paths.clone(), Arc::clone(&record));
        let write = move || folder::create(&paths, &version.key, &version.uid, &written);
        if let Err(error) = self.own_files(blocking(write)).await {
            warn!(pod = %self.key, %error, "Failed to write the record of a Pod whose folder was lost");
        }
        self.state.version_mut(&uid).record = Some(record);
    }

    /// The machine's clock was set: the time when each version was first seen moves with it, on disk too. The next
    /// agent, which knows the machine's time alone, then finds the Pod as old as it is. `before` is the clock as it
    /// was: a time of another clock than that, as before a boot with a clock that stood, is left alone.
    pub(super) async fn correct_first_seen(&mut self, before: Wall) {
        let uids: Vec<Uid> = self.state.pods().map(|pod| pod.uid.clone()).collect();
        for uid in uids {
            let Some(seen) = self.state.first_seen(&uid) else {
                continue;
            };
            let is_of_before = before.agrees(seen.nanos, seen.monotonic);
            let Some(nanos) = self.state.wall.at(seen.monotonic).filter(|_| is_of_before) else {
                continue;
            };
            self.state.version_mut(&uid).seen = Some(FirstSeen { nanos, ..seen });
            let Some(record) = self.state.record(&uid) else {
                continue;
            };
            let record = Arc::new(Record {
                seen: self.seen(&uid),
                ..Record::clone(record)
            });
            self.state.version_mut(&uid).record = Some(Arc::clone(&record));
            let (paths, key, owner) = (self.context.facts.paths.clone(), self.key.clone(), uid);
            let write = move || folder::create(&paths, &key, &owner, &record);
            let written = self.own_files(blocking(write)).await;
            if let Some(error) = self.complaints.record(RECORD, &written) {
                warn!(pod = %self.key, error, "Failed to write the Pod's record after the clock was set");
            }
        }
    }

    /// Loads the state of a version from its folder.
    fn load_version(&mut self, uid: &Uid) {
        let paths = &self.context.facts.paths;
        let is_terminating = folder::read_terminating(paths, uid).is_some();
        let version = self.state.version_mut(uid);
        version.on_disk = true;
        version.termination = is_terminating.then_some(Termination::Adopted);
        if let Some(history) = folder::read_history(paths, uid) {
            let failed_instance = history.failed_instances.iter();
            let hooks = failed_instance
                .filter(|(_, failed_instance)| failed_instance.reason == StopReason::PostStart);
            let hooks = hooks.map(|(id, g)| (id.clone(), PostStart::Failed(g.message.clone())));
            self.state.post_starts.extend(hooks);
            let failed_instance = |id: &ContainerId| history.failed_instances.contains_key(id);
            let open = history.post_starts.iter().filter(|id| !failed_instance(id));
            let open = open.map(|id| (id.clone(), PostStart::Interrupted));
            self.state.post_starts.extend(open);
            let version = self.state.version_mut(uid);
            version.history = Arc::new(history);
            version.written_history = Some(Arc::clone(&version.history));
        }
        if let Some(record) = folder::read_record(paths, uid) {
            if let Ok(seen) = record.seen.parse::<jiff::Timestamp>() {
                let nanos = i64::try_from(seen.as_nanosecond()).unwrap_or(0);
                self.seen_at(uid, nanos);
            }
            let version = self.state.version_mut(uid);
            // The one that is wanted has the same UID, and is the same.
            if version.pod.is_none() {
                let pod = record.version().filter(|v| v.uid == *uid);
                version.pod = pod.map(PackedPod::from);
            }
            version.record = Some(Arc::new(record));
        }
    }

    pub(super) fn record(&self, version: &StaticPod) -> Record {
        let known = self.state.record(&version.uid);
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
            objects: Arc::clone(&version.objects),
        }
    }

    /// First time that a version was seen, RFC 3339.
    pub(super) fn seen(&self, uid: &Uid) -> String {
        let seen = self.state.first_seen(uid);
        let now = || self.context.clock.wall_now();
        let nanos = seen.map_or_else(now, |seen| seen.nanos);
        let time = jiff::Timestamp::from_nanosecond(nanos.into());
        time.unwrap_or_else(|_| jiff::Timestamp::now()).to_string()
    }
}
