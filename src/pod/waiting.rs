//! Why a container or an update waits, in Kubernetes' words: a pure function of what the planner sees.

use super::admission::Rejection;
use super::backoff;
use super::memory::{Failure, Image, Memory, PostStart, Subject};
use super::moment::Moment;
use super::observed::Container;
use super::plan::{View, WantedImage, image_volumes, wanted_images};
use super::rules::{Restart, all_containers, init_containers, is_finished, restart};
use crate::manifest::StaticPod;
use crate::manifest::objects::{
    container_start_errors as unmet_by_container, start_errors as unmet,
};

/// Kubernetes' word for what waits for a `ConfigMap` or `Secret`.
pub(super) const MISSING_OBJECT: &str = "CreateContainerConfigError";

/// Why something waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Kubernetes' word for it.
    pub(super) reason: String,
    /// What there is to say about that.
    pub(super) message: String,
}

impl Waiting {
    pub(super) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// What a container waits for that does not run yet, as its status has it: the kubelet tells there what
/// came of starting that container, and of nothing else.
pub(super) fn first_start(view: View<'_>, version: &StaticPod, name: &str) -> Waiting {
    if let Some(obstacle) = obstacle(view, version, name) {
        return obstacle;
    }
    let unmet = if view.observed.has_none_of(&version.uid) {
        unmet(version)
    } else {
        unmet_by_container(version, name)
    };
    if let Some(missing) = missing(&unmet) {
        return missing;
    }
    let reason = if init_containers(version).is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    Waiting::new(reason, "")
}

/// The `ConfigMap`s and `Secret`s that the version waits for.
pub(super) fn missing_objects(version: &StaticPod) -> Option<Waiting> {
    missing(&unmet(version))
}

fn missing(unmet: &[String]) -> Option<Waiting> {
    (!unmet.is_empty()).then(|| Waiting::new(MISSING_OBJECT, unmet.join("; ")))
}

/// Returns the failure that holds up the stop or the clean-up of a version, if one does.
pub(super) fn cleanup_failure<'a>(view: View<'a>, uid: &str) -> Option<&'a Failure> {
    let sandboxes = view.observed.sandboxes_of(uid).map(|s| &s.id);
    let ids = sandboxes.chain(view.observed.containers_of(uid).map(|c| &c.id));
    let removals = ids.map(|id| Subject::Removal(id.clone()));
    let stop = std::iter::once(Subject::Stop(uid.to_owned()));
    let mut subjects = stop
        .chain(removals)
        .chain([Subject::Traces(uid.to_owned())]);
    subjects.find_map(|subject| view.memory.failures.get(&subject))
}

/// Returns the failure that holds up the clean-up of anything but this version.
pub(super) fn cleanup_of_others(view: View<'_>, but: &str) -> Option<Waiting> {
    let traces = view.memory.traces.iter().map(String::as_str);
    let mut others = view.observed.uids().chain(traces).filter(|uid| *uid != but);
    let failure = others.find_map(|uid| cleanup_failure(view, uid))?;
    Some(Waiting::new(failure.reason, failure.message.clone()))
}

/// What came of starting a container the last time, if it failed.
pub(super) fn obstacle(view: View<'_>, version: &StaticPod, name: &str) -> Option<Waiting> {
    if let Some(failure) = start_failure(view.memory, &version.uid, name) {
        // The kubelet has no word of its own for what else a container's configuration needs.
        let reason = match failure.reason {
            reason @ ("CreateContainerError" | "RunContainerError") => reason,
            _ => "CreateContainerConfigError",
        };
        return Some(Waiting::new(reason, failure.message.clone()));
    }
    let mut images = images_of(version, name).into_iter().rev();
    images.find_map(|image| image_obstacle(view.memory, version, &image))
}

/// What holds up a container that is to run, beyond what its status has room for: the Pod's sandbox and
/// volumes, and pulls that are under way.
pub(super) fn held_up(view: View<'_>, version: &StaticPod, name: &str) -> Option<Waiting> {
    let (memory, uid) = (view.memory, version.uid.as_str());
    let newest = view.observed.history_of(uid, name).into_iter().next();
    let is_over = |c: &Container| {
        let exit = c.exit();
        exit.is_some_and(|exit| restart(view, version, c, exit) == Restart::Never)
    };
    let stays = newest.is_some_and(|c| c.is_live() || is_over(c));
    if stays || is_finished(view, version) || start_failure(memory, uid, name).is_some() {
        return None;
    }
    if let Some(failure) = pod_failure(memory, uid) {
        return Some(Waiting::new(failure.reason, failure.message.clone()));
    }
    let mut images = images_of(version, name).into_iter();
    images.find_map(|image| pulling(memory, version, &image))
}

/// What holds up the containers of a version that are to run, for people; empty where nothing does.
pub(super) fn all_held_up(view: View<'_>, version: &StaticPod) -> Vec<String> {
    let held_up = all_containers(version).filter_map(|c| held_up(view, version, &c.name));
    let mut said: Vec<String> = held_up
        .map(|w| format!("{}: {}", w.reason, w.message))
        .collect();
    said.dedup();
    said
}

fn start_failure<'a>(memory: &'a Memory, uid: &str, container: &str) -> Option<&'a Failure> {
    let subject = Subject::Container(uid.to_owned(), container.to_owned());
    memory.failures.get(&subject)
}

fn pod_failure<'a>(memory: &'a Memory, uid: &str) -> Option<&'a Failure> {
    let subjects = [
        Subject::Sandbox(uid.to_owned()),
        Subject::Volumes(uid.to_owned()),
    ];
    let mut failures = subjects.iter().filter_map(|s| memory.failures.get(s));
    // Of objects that are missing those tell that wait for them.
    failures.find(|failure| failure.reason != MISSING_OBJECT)
}

/// The images that a container needs: its own, and those behind its volumes, which the kubelet sees to
/// first and so stand last here.
fn images_of<'a>(version: &'a StaticPod, name: &str) -> Vec<WantedImage<'a>> {
    let spec = all_containers(version).find(|c| c.name == name);
    let volumes = spec.into_iter().flat_map(|c| image_volumes(version, c));
    let holders: Vec<String> = std::iter::once(name.to_owned()).chain(volumes).collect();
    let image = |holder: &String| wanted_images(version).find(|image| image.holder == *holder);
    holders.iter().filter_map(image).collect()
}

/// How it stands with an image; while the runtime is asked for it, that is how it stood before.
fn state_of<'a>(memory: &'a Memory, version: &StaticPod, holder: &str) -> Option<&'a Image> {
    match memory
        .images
        .get(&(version.uid.clone(), holder.to_owned()))?
    {
        Image::Checking(before) => before.as_deref(),
        image => Some(image),
    }
}

/// Why an image cannot be had, in the kubelet's words: after the first failure it calls the waiting by
/// another name.
fn image_obstacle(
    memory: &Memory,
    version: &StaticPod,
    image: &WantedImage<'_>,
) -> Option<Waiting> {
    let back_off = format!("Back-off pulling image \"{}\"", image.image);
    match state_of(memory, version, &image.holder)? {
        Image::Pulling { error, .. } if !error.is_empty() => Some(Waiting::new(
            "ImagePullBackOff",
            format!("{back_off}: ErrImagePull: {error}"),
        )),
        Image::Failed {
            reason,
            message,
            delay,
            ..
        } if *reason == "ErrImagePull" && *delay > backoff::INITIAL => Some(Waiting::new(
            "ImagePullBackOff",
            format!("{back_off}: {reason}: {message}"),
        )),
        Image::Failed {
            reason, message, ..
        } => Some(Waiting::new(reason, message.clone())),
        Image::Ready { .. } | Image::Checking(_) | Image::Pulling { .. } => None,
    }
}

fn pulling(memory: &Memory, version: &StaticPod, image: &WantedImage<'_>) -> Option<Waiting> {
    let Some(Image::Pulling { error, .. }) = state_of(memory, version, &image.holder) else {
        return None;
    };
    let mut message = "the image is being pulled".to_owned();
    if !error.is_empty() {
        message = format!("{message}; the last pull failed: {error}");
    }
    Some(Waiting::new("Pulling", message))
}

/// When a container that waits is tried again, where that is a matter of time: once all that it waits for
/// is due.
pub(super) fn until(view: View<'_>, version: &StaticPod, name: &str) -> Option<Moment> {
    let (memory, uid) = (view.memory, version.uid.as_str());
    let failure = start_failure(memory, uid, name).or_else(|| pod_failure(memory, uid));
    let failure = failure.map(|f| f.retry);
    let mut images = vec![];
    for image in images_of(version, name) {
        match state_of(memory, version, &image.holder) {
            Some(Image::Failed { retry, .. }) => images.push(*retry),
            Some(Image::Pulling { .. }) if failure.is_none() => return None,
            _ => {}
        }
    }
    let history = view.observed.history_of(uid, name);
    let ended = history.first().and_then(|c| Some((*c, c.exit()?)));
    let again = ended.map(|(newest, exit)| restart(view, version, newest, exit));
    let restart = match again {
        Some(Restart::At(due, _)) => Some(due).filter(|due| *due > view.now),
        _ => None,
    };
    failure.into_iter().chain(images).chain(restart).max()
}

/// Start of a container's wait, in nanoseconds since the epoch: the first of the failures that it waits for
/// the end of, else its last end, else the time when its version was first seen.
pub(super) fn since(view: View<'_>, version: &StaticPod, name: &str) -> Option<i64> {
    let (memory, uid) = (view.memory, version.uid.as_str());
    let failure = start_failure(memory, uid, name).or_else(|| pod_failure(memory, uid));
    if let Some(failure) = failure {
        return wall_at(view, uid, failure.since);
    }
    let history = view.observed.history_of(uid, name);
    let ended = history.first().and_then(|c| c.exit());
    let ended = ended.filter(|exit| exit.finished_at > 0);
    let ended = ended.map(|exit| view.memory.wall.corrected(exit.finished_at, exit.ended));
    ended.or_else(|| first_seen(view, uid))
}

/// Time when a version was first seen, in nanoseconds since the epoch.
pub(super) fn first_seen(view: View<'_>, uid: &str) -> Option<i64> {
    view.memory.seen.get(uid).map(|(nanos, _)| *nanos)
}

/// Time of the machine at a moment, by its clock as it stands, or stood when the version was first seen.
fn wall_at(view: View<'_>, uid: &str, at: Moment) -> Option<i64> {
    if let Some(at) = view.memory.wall.at(at) {
        return Some(at);
    }
    let (seen, moment) = view.memory.seen.get(uid)?;
    let millis = at.0.saturating_sub(moment.0);
    Some(seen.saturating_add(millis.saturating_mul(1_000_000)))
}

/// When a failed start of a container is tried again, if that is still to come.
pub(super) fn retry(view: View<'_>, version: &StaticPod, name: &str) -> Option<Moment> {
    let failure = start_failure(view.memory, &version.uid, name)?;
    Some(failure.retry).filter(|retry| *retry > view.now)
}

/// Why a container that runs was given up, if the hook after its start was the reason.
pub(super) fn failed_hook(memory: &Memory, id: &str) -> Option<Waiting> {
    match memory.post_starts.get(id)? {
        PostStart::Running | PostStart::Interrupted => None,
        PostStart::Failed(message) => Some(Waiting::new("PostStartHookError", message.clone())),
    }
}

/// What a version waits for that is to take over from another.
pub(super) fn update(view: View<'_>, version: &StaticPod) -> Waiting {
    let uid = &version.uid;
    if let Some(Rejection { reason, message }) = view.memory.rejections.get(uid) {
        return Waiting::new(reason, message.clone());
    }
    if let Some(waiting) = missing_objects(version) {
        return waiting;
    }
    if let Some(failure) = pod_failure(view.memory, uid) {
        return Waiting::new(failure.reason, failure.message.clone());
    }
    let mut obstacles = wanted_images(version).filter_map(|image| {
        pulling(view.memory, version, &image)
            .or_else(|| image_obstacle(view.memory, version, &image))
    });
    obstacles.next().unwrap_or_else(|| takeover(view, version))
}

/// What a version still waits for that nothing stands in the way of: its turn, or the end of the old one.
fn takeover(view: View<'_>, version: &StaticPod) -> Waiting {
    let (memory, uid) = (view.memory, &version.uid);
    let ends = |other: &str| other != uid && memory.terminating.contains(other);
    if view.observed.uids().any(ends) {
        let failure = cleanup_of_others(view, uid);
        let failure = failure.map(|f| format!(": {}: {}", f.reason, f.message));
        let failure = failure.unwrap_or_default();
        let message = format!("the old version is being stopped{failure}");
        return Waiting::new("Terminating", message);
    }
    let is_under_way = |subject: Subject| memory.under_way.contains_key(&subject);
    let message = if is_under_way(Subject::Volumes(uid.clone())) {
        "its volumes are being checked"
    } else if is_under_way(Subject::Turn(uid.clone())) {
        "other Pods of this node are being updated"
    } else {
        "its images and volumes are being checked"
    };
    Waiting::new("Preparing", message)
}
