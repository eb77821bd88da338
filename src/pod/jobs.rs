//! Work that goes on beside a Pod's steps: what prepares the next version, and what cleans up. Supervision
//! never waits for it. Its outcome comes to the task, which alone changes its state.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::{debug, info};

use super::act::{Failure, NEVER_PULL, image_container, node_failure, pull_or_local};
use super::folder;
use super::identity::Uid;
use super::image::{self, ImageError, LocalImage};
use super::limiter::{Class, Kind, Place};
use super::memory::{Image, Subject};
use super::observed::Container;
use super::plan::{Step, wanted_images};
use super::progress::UnderWay;
use super::task::{Context, PodTask, Pulled};
use super::tell;
use crate::cri::{if_found, v1};
use crate::host::blocking::{self, TimedOut, pooled};
use crate::host::cgroup;
use crate::manifest::{PodKey, StaticPod};
use crate::translate::{pod_cgroup_paths, qos_cpu_shares};
use crate::volume;

/// How long file work on the paths that a manifest names may take before it counts as failed.
pub(super) const FILES: Duration = Duration::from_secs(10);
/// The same for the removal of what a Pod left, which may be much.
const REMOVAL: Duration = Duration::from_secs(120);

/// Work beside the task's steps.
pub(super) type Job = BoxFuture<'static, Done>;

/// The outcome of such work.
pub(super) enum Done {
    /// A step of the planner's.
    Step {
        step: Step,
        subject: Subject,
        reason: &'static str,
        result: Result<(), Failure>,
    },
    /// The runtime was asked for an image.
    Image {
        uid: String,
        holder: String,
        result: Result<Option<LocalImage>, ImageError>,
    },
    /// It is this version's turn among the node's updates.
    Turn { uid: String, place: Place },
}

type Work = BoxFuture<'static, Result<(), Failure>>;

/// Subject of file work for a version, named with its host paths. Work for another version does not wait
/// for it, however many of a Pod's versions hang.
pub(super) fn file_subject(what: &str, version: &StaticPod) -> blocking::Subject {
    let spec = version.pod.spec.as_ref();
    let volumes = spec.and_then(|s| s.volumes.as_ref()).into_iter().flatten();
    let paths = volumes.filter_map(|v| v.host_path.as_ref().map(|p| p.path.as_str()));
    let paths: Vec<&str> = paths.collect();
    let name = match paths.as_slice() {
        [] => format!("{what} of {}", version.key),
        paths => format!("{what} of {} ({})", version.key, paths.join(", ")),
    };
    blocking::Subject::of(&version.key, &version.uid, name)
}

/// A failure of file work that hangs.
pub(super) fn timed_out(reason: &'static str) -> impl Fn(TimedOut) -> Failure {
    move |e| Failure::Node {
        reason,
        message: e.to_string(),
    }
}

impl PodTask {
    /// Begins a step that goes on beside the others.
    pub(super) fn begin(&mut self, step: Step) {
        let context = Arc::clone(&self.context);
        let (subject, reason, work): (Subject, &'static str, Work) = match &step {
            Step::CheckVolumes { uid } => {
                let version = self.known_version(uid);
                let checked = version.and_then(|v| self.check_objects(&v).map(|()| v));
                let work = match checked {
                    Ok(version) => check_volumes(context, version).boxed(),
                    Err(failure) => std::future::ready(Err(failure)).boxed(),
                };
                (Subject::Volumes(uid.clone()), "FailedMount", work)
            }
            Step::StopSandbox { id } => {
                let work = stop_sandbox(context, id.clone()).boxed();
                (Subject::Removal(id.clone()), "FailedKillPod", work)
            }
            Step::RemoveSandbox { id } => {
                let work = remove_sandbox(context, id.clone()).boxed();
                (Subject::Removal(id.clone()), "FailedRemoval", work)
            }
            Step::RemoveContainer { id } => {
                let known = self.observed.containers.iter().find(|c| c.id == *id);
                let work = remove_container(context, self.key.clone(), id.clone(), known.cloned());
                (Subject::Removal(id.clone()), "FailedRemoval", work.boxed())
            }
            Step::ClearTraces { uid } => {
                let work = clear_traces(context, self.key.clone(), uid.clone()).boxed();
                (Subject::Traces(uid.clone()), "FailedRemoval", work)
            }
            _ => return,
        };
        let now = self.context.clock.now();
        self.memory.under_way.insert(subject.clone(), now);
        let shown = self.show(&step);
        let job = async move {
            let _shown = shown;
            let result = work.await;
            Done::Step {
                step,
                subject,
                reason,
                result,
            }
        };
        self.jobs.push(job.boxed());
    }

    /// Shows a step that is under way, for people.
    fn show(&self, step: &Step) -> UnderWay {
        let observed = &self.observed;
        let sandbox = |id: &String| observed.sandboxes.iter().find(|s| s.id == *id);
        let uid_of = |id: &String| sandbox(id).map_or("", |s| s.uid.as_str());
        match step {
            Step::StopSandbox { id } => self.under_way(uid_of(id), None, "StopPodSandbox"),
            Step::RemoveSandbox { id } => self.under_way(uid_of(id), None, "RemovePodSandbox"),
            Step::RemoveContainer { id } => {
                let known = observed.containers.iter().find(|c| c.id == *id);
                let (uid, name) = known.map_or(("", ""), |c| (c.uid.as_str(), c.name.as_str()));
                self.under_way(uid, Some(name), "RemoveContainer")
            }
            Step::CheckVolumes { uid } => self.under_way(uid, None, "CheckVolumes"),
            Step::ClearTraces { uid } => self.under_way(uid, None, "CleanUp"),
            _ => self.under_way("", None, "Step"),
        }
    }

    /// Waits for this version's turn among the node's updates, so that its old version is not stopped before
    /// the new one can start.
    pub(super) fn take_turn(&mut self, uid: String) {
        let now = self.context.clock.now();
        let subject = Subject::Turn(uid.clone());
        self.memory.under_way.insert(subject, now);
        let limiter = self.context.limiter.clone();
        let shown = self.under_way(&uid, None, "WaitForTurn");
        let job = async move {
            let _shown = shown;
            let place = limiter.place(Class::Update).await;
            Done::Turn { uid, place }
        };
        self.jobs.push(job.boxed());
    }

    /// Takes in the outcome of a job.
    pub(super) fn job_done(&mut self, done: Done) {
        match done {
            Done::Step {
                step,
                subject,
                reason,
                result,
            } => {
                self.memory.under_way.remove(&subject);
                self.apply(&step, &result);
                let now = self.context.clock.now();
                if result.is_ok() && !self.effects.succeeded(step, now) {
                    return;
                }
                self.note(subject, reason, result);
            }
            Done::Image {
                uid,
                holder,
                result,
            } => self.image_checked(uid, holder, result),
            Done::Turn { uid, place } => {
                self.memory.under_way.remove(&Subject::Turn(uid.clone()));
                if self.wanted.as_ref().is_some_and(|w| w.pod.uid == uid) {
                    self.memory.turns.insert(uid.clone());
                    self.turn = Some((uid, place.lease()));
                }
            }
        }
    }

    /// Takes over what a step beside the others brought about.
    pub(super) fn apply(&mut self, step: &Step, result: &Result<(), Failure>) {
        let is_done = result.is_ok();
        match step {
            // One that was forgotten meanwhile is checked again.
            Step::CheckVolumes { uid } if is_done && self.memory.versions.contains_key(uid) => {
                self.memory.checked.insert(uid.clone());
            }
            Step::StopSandbox { id } if is_done => {
                self.memory.stopped_sandboxes.insert(id.clone());
                if let Some(known) = self.observed.sandboxes.iter_mut().find(|s| s.id == *id) {
                    known.ready = false;
                }
            }
            Step::RemoveSandbox { id } if is_done => {
                self.observed.forget(id);
                self.observed.containers.retain(|c| c.sandbox != *id);
            }
            // Where only its files are left, the runtime does not have it any more.
            Step::RemoveContainer { id }
                if is_done || matches!(result, Err(Failure::Node { .. })) =>
            {
                let histories = self.memory.histories.values_mut();
                histories.for_each(|history| history.forget(id));
                self.observed.forget(id);
            }
            Step::ClearTraces { uid } if is_done => self.cleared(uid),
            _ => {}
        }
    }

    fn cleared(&mut self, uid: &str) {
        info!(pod = %self.key, uid, "the Pod is gone");
        self.memory.forget_version(uid);
        self.effects.forget(uid);
        self.records.remove(uid);
        self.kept.remove(uid);
        if let Some(wanted) = self.wanted.as_ref().filter(|w| w.pod.uid == uid) {
            let version = Arc::clone(&wanted.pod);
            self.memory.versions.insert(uid.to_owned(), version);
            self.seen_at(uid, self.context.clock.wall_now());
        }
    }

    /// Finds out whether a container's image is there, by its pull policy, and begins a pull if it
    /// is not (Kubernetes, Images, "Image pull policy").
    pub(super) fn want_image(&mut self, uid: String, holder: String) {
        let Some(version) = self.version(&uid) else {
            return;
        };
        let Some(wanted) = wanted_images(&version).find(|image| image.holder == holder) else {
            return;
        };
        if wanted.policy == Some("Always") {
            return self.begin_pull(uid, holder, wanted.image);
        }
        let key = (uid.clone(), holder.clone());
        let before = self.memory.images.remove(&key).map(Box::new);
        self.memory.images.insert(key, Image::Checking(before));
        let (client, image) = (self.context.client.clone(), wanted.image.to_owned());
        let shown = self.under_way(&uid, image_container(&holder), "ImageStatus");
        let job = async move {
            let _shown = shown;
            let result = image::local(&client, &image).await;
            Done::Image {
                uid,
                holder,
                result,
            }
        };
        self.jobs.push(job.boxed());
    }

    fn image_checked(
        &mut self,
        uid: String,
        holder: String,
        result: Result<Option<LocalImage>, ImageError>,
    ) {
        let key = (uid.clone(), holder.clone());
        match self.memory.images.remove(&key) {
            Some(Image::Checking(before)) => {
                let before = before.map(|before| (key, *before));
                self.memory.images.extend(before);
            }
            // Its version was forgotten meanwhile, or has found it another way.
            other => return self.memory.images.extend(other.map(|other| (key, other))),
        }
        let Some(version) = self.version(&uid) else {
            return;
        };
        let wanted = wanted_images(&version).find(|image| image.holder == holder);
        match (result, wanted) {
            (Ok(Some(local)), _) => self.image_arrived(uid, holder, Ok(local)),
            (Err(error), _) => self.image_arrived(uid, holder, Err(error)),
            (Ok(None), Some(wanted)) if wanted.policy == Some("Never") => {
                let error = ImageError {
                    reason: NEVER_PULL,
                    message: tell::never_pulled(wanted.image),
                };
                self.image_arrived(uid, holder, Err(error));
            }
            (Ok(None), Some(wanted)) => self.begin_pull(uid, holder, wanted.image),
            (Ok(None), None) => {}
        }
    }

    fn begin_pull(&mut self, uid: String, container: String, image: &str) {
        let (after, error) = self.failed_before(&uid, &container);
        self.tell_pulling(&uid, &container, image);
        let began = Instant::now();
        let pull = self.context.images.pull(&self.context.client, image);
        let of_uid = self.observed.containers_of(&uid);
        let ran_before = of_uid.into_iter().any(|c| c.name == container);
        let (client, image) = (self.context.client.clone(), image.to_owned());
        let key = (uid.clone(), container.clone());
        let shown = self.under_way(&uid, image_container(&container), "PullImage");
        let result = async move {
            let _shown = shown;
            let result = if ran_before {
                pull_or_local(pull, &client, &image).await
            } else {
                pull.await
            };
            Pulled {
                uid,
                holder: container,
                result,
                took: began.elapsed(),
            }
        };
        let pulling = Image::Pulling { after, error };
        self.memory.images.insert(key, pulling);
        self.pulls.push(result.boxed());
    }
}

async fn check_volumes(context: Arc<Context>, version: Arc<StaticPod>) -> Result<(), Failure> {
    let subject = file_subject("volume check", &version);
    let check = move || volume::check(&context.facts, &version);
    let checked = pooled(subject, FILES, check).await;
    let checked = checked.map_err(timed_out("FailedMount"))?;
    checked.map_err(|message| Failure::Node {
        reason: "FailedMount",
        message,
    })
}

async fn stop_sandbox(context: Arc<Context>, id: String) -> Result<(), Failure> {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id };
    let stop = context.client.stop_pod_sandbox(request);
    let limiter = &context.limiter;
    let stopped = limiter.run(Class::Running, Kind::StopSandbox, stop).await;
    if_found(stopped)?;
    Ok(())
}

pub(super) async fn remove_sandbox(context: Arc<Context>, id: String) -> Result<(), Failure> {
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
    let remove = context.client.remove_pod_sandbox(request);
    let limiter = &context.limiter;
    if_found(limiter.run(Class::Cleanup, Kind::Remove, remove).await)?;
    Ok(())
}

/// Removes a container, and its files where it is `known` whose they are.
pub(super) async fn remove_container(
    context: Arc<Context>,
    key: PodKey,
    id: String,
    known: Option<Container>,
) -> Result<(), Failure> {
    let request = v1::RemoveContainerRequest {
        container_id: id.clone(),
    };
    let remove = context.client.remove_container(request);
    let limiter = &context.limiter;
    if_found(limiter.run(Class::Cleanup, Kind::Remove, remove).await)?;
    let Some(known) = known else {
        return Ok(());
    };
    let paths = context.facts.paths.clone();
    let owner = key.clone();
    let remove = move || {
        let Container {
            uid, name, attempt, ..
        } = &known;
        let uid = Uid::parse(uid)?;
        folder::remove_container(&paths, &key, &uid, name, *attempt)
    };
    let subject = blocking::Subject::of(&owner, &id, format!("removal of container {id}"));
    let removed = pooled(subject, REMOVAL, remove).await;
    let removed = removed.map_err(timed_out("FailedRemoval"))?;
    removed.map_err(node_failure("FailedRemoval"))
}

/// Takes away all that a version has on the node, and gives back what it took of the node.
async fn clear_traces(context: Arc<Context>, key: PodKey, uid: String) -> Result<(), Failure> {
    let subject = blocking::Subject::of(&key, &uid, format!("clean-up of {uid}"));
    let valid = Uid::parse(&uid).map_err(io::Error::from);
    let valid = valid.map_err(node_failure("FailedRemoval"))?;
    let clear = move || {
        let Context { facts, ledger, .. } = &*context;
        for path in pod_cgroup_paths(facts.cgroup_driver, valid.as_str()) {
            cgroup::remove(&facts.paths.cgroups, &path)?;
        }
        folder::remove(&facts.paths, &key, &valid)?;
        ledger.release(&key, &uid);
        if let Err(error) = share_out(&context) {
            // The next Pod that starts or goes tells of it.
            debug!(pod = %key, %error, "Failed to update QoS CPU shares");
        }
        Ok(())
    };
    let cleared = pooled(subject, REMOVAL, clear).await;
    let cleared = cleared.map_err(timed_out("FailedRemoval"))?;
    cleared.map_err(node_failure("FailedRemoval"))
}

/// Gives the classes of service what the Pods that are left ask for.
pub(super) fn share_out(context: &Context) -> io::Result<()> {
    let facts = &context.facts;
    let driver = facts.cgroup_driver;
    cgroup::update_shares(&facts.paths.cgroups, driver, || {
        qos_cpu_shares(driver, context.ledger.burstable_cpu())
    })
}
