//! Reasons for which a container or an update waits, by Kubernetes' names: a pure function of what the planner sees.

use crate::manifest::objects::{container_start_errors, start_errors};
use crate::manifest::{StaticPod, Uid};
use crate::pod::admission::Rejection;
use crate::pod::backoff;
use crate::pod::plan::rules::{Restart, is_finished, restart};
use crate::pod::plan::{WantedImage, held_by, image_volumes, wanted_images};
use crate::pod::state::observed::{Container, ContainerId};
use crate::pod::state::order::Readiness;
use crate::pod::state::progress::rfc3339;
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{Failure, Image, PodState, PostStart, Subject, View};

/// Kubernetes' word for what waits for a `ConfigMap` or `Secret`.
pub(in crate::pod) const MISSING_OBJECT: &str = "CreateContainerConfigError";

/// The word for a Pod that is started after others.
pub(in crate::pod) const FOR_PODS: &str = "WaitingForPods";
/// Most Pods that a message names.
const NAMED: usize = 5;

/// The reason for which something waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::pod) struct Waiting {
    /// Kubernetes' word for it.
    pub(in crate::pod) reason: String,
    /// Details for people.
    pub(in crate::pod) message: String,
}

impl Waiting {
    pub(in crate::pod) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// Returns the reason for which a container does not run yet, as its status has it: the kubelet shows what
/// came of starting that container, and of nothing else.
pub(in crate::pod) fn first_start(view: View<'_>, version: &StaticPod, name: &str) -> Waiting {
    if let Some(start_error) = start_error(view, version, name) {
        return start_error;
    }
    let start_errors = if view.observed.has_none_of(&version.uid) {
        start_errors(version)
    } else {
        container_start_errors(version, name)
    };
    if let Some(missing) = missing(&start_errors) {
        return missing;
    }
    if let Some(held) = held(view, version) {
        return held;
    }
    let reason = if version.init_containers().is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    Waiting::new(reason, "")
}

/// Returns the Pods that hold the first start of a version, if any do.
pub(in crate::pod) fn held(view: View<'_>, version: &StaticPod) -> Option<Waiting> {
    let held = held_by(view, version)?;
    let pods = not_ready(view, version);
    let until = held
        .until
        .and_then(|until| wall_at(view, &version.uid, until));
    let until = until.map_or_else(String::new, |until| {
        format!("; starts without them at {}", rfc3339(until))
    });
    let message = format!("the first start waits for Pods to be Ready: {pods}{until}");
    Some(Waiting::new(FOR_PODS, message))
}

/// Names the Pods that a version is started after and that are not Ready.
pub(in crate::pod) fn not_ready(view: View<'_>, version: &StaticPod) -> String {
    let pods = version.start_after.iter().flat_map(|order| &order.pods);
    let found = pods.map(|key| (key, view.state.order.readiness.get(key)));
    let found = found.map(|(key, found)| (key, found.copied().unwrap_or_default()));
    let late = found.filter(|(_, found)| *found != Readiness::Ready);
    named(late.map(|(key, found)| format!("{key} ({found})")))
}

/// Names some of many Pods.
pub(in crate::pod) fn named(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let mut text = names.join(", ");
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    text
}

/// The `ConfigMap`s and `Secret`s that the version waits for.
pub(in crate::pod) fn missing_objects(version: &StaticPod) -> Option<Waiting> {
    missing(&start_errors(version))
}

fn missing(start_errors: &[String]) -> Option<Waiting> {
    (!start_errors.is_empty()).then(|| Waiting::new(MISSING_OBJECT, start_errors.join("; ")))
}

/// Returns the failure that blocks the stop or the clean-up of a version, if one does.
pub(in crate::pod) fn cleanup_failure<'a>(view: View<'a>, uid: &Uid) -> Option<&'a Failure> {
    let sandboxes = view.observed.sandboxes_of(uid);
    let containers = view.observed.containers_of(uid);
    let mut subjects = std::iter::once(Subject::Stop(uid.clone()))
        .chain(sandboxes.map(|s| Subject::RemoveSandbox(s.id.clone())))
        .chain(containers.map(|c| Subject::RemoveContainer(c.id.clone())))
        .chain([Subject::CleanUp(uid.clone())]);
    subjects.find_map(|subject| view.state.failures.get(&subject))
}

/// Returns the failure that blocks the clean-up of anything but this version.
pub(in crate::pod) fn cleanup_of_others(view: View<'_>, but: &Uid) -> Option<Waiting> {
    let on_disk = view.state.uids_on_disk();
    let mut others = view
        .observed
        .uids()
        .chain(on_disk)
        .filter(|uid| *uid != but);
    let failure = others.find_map(|uid| cleanup_failure(view, uid))?;
    Some(Waiting::new(failure.reason, failure.message.clone()))
}

/// Returns the error of the last start of a container, if it failed.
pub(in crate::pod) fn start_error(
    view: View<'_>,
    version: &StaticPod,
    name: &str,
) -> Option<Waiting> {
    if let Some(failure) = start_failure(view.state, &version.uid, name) {
        // The kubelet has no word of its own for what else a container's configuration needs.
        let reason = match failure.reason {
            reason @ ("CreateContainerError" | "RunContainerError") => reason,
            _ => "CreateContainerConfigError",
        };
        return Some(Waiting::new(reason, failure.message.clone()));
    }
    let mut images = images_of(version, name).into_iter().rev();
    images.find_map(|image| image_error(view.state, version, &image))
}

/// Returns what blocks a container that is to run, beyond what its status has room for: the Pod's sandbox and
/// volumes, and pulls that are under way.
pub(in crate::pod) fn blocked_by(
    view: View<'_>,
    version: &StaticPod,
    name: &str,
) -> Option<Waiting> {
    let (state, uid) = (view.state, &version.uid);
    let newest = view.observed.history_of(uid, name).into_iter().next();
    let is_over = |c: &Container| {
        let exit = c.exit();
        exit.is_some_and(|exit| restart(view, version, c, exit) == Restart::Never)
    };
    let stays = newest.is_some_and(|c| c.is_live() || is_over(c));
    if stays || is_finished(view, version) || start_failure(state, uid, name).is_some() {
        return None;
    }
    if let Some(failure) = pod_failure(state, uid) {
        return Some(Waiting::new(failure.reason, failure.message.clone()));
    }
    let images = images_of(version, name);
    // An image that cannot be had is to be mended meanwhile.
    let has_image_error = images
        .iter()
        .any(|image| image_error(state, version, image).is_some());
    let held = held(view, version).filter(|_| !has_image_error);
    held.or_else(|| {
        images
            .iter()
            .find_map(|image| pulling(view, version, image))
    })
}

/// Returns what blocks the containers of a version that are to run, for people.
pub(in crate::pod) fn all_blocked(view: View<'_>, version: &StaticPod) -> Vec<String> {
    let blocked_by = version
        .all_containers()
        .filter_map(|c| blocked_by(view, version, &c.name));
    let mut messages: Vec<String> = blocked_by
        .map(|w| format!("{}: {}", w.reason, w.message))
        .collect();
    messages.dedup();
    messages
}

fn start_failure<'a>(state: &'a PodState, uid: &Uid, container: &str) -> Option<&'a Failure> {
    let subject = Subject::Container(uid.clone(), container.to_owned());
    state.failures.get(&subject)
}

fn pod_failure<'a>(state: &'a PodState, uid: &Uid) -> Option<&'a Failure> {
    let subjects = [
        Subject::KubeletPod,
        Subject::Sandbox(uid.clone()),
        Subject::Volumes(uid.clone()),
    ];
    let mut failures = subjects.iter().filter_map(|s| state.failures.get(s));
    // Objects that are missing are reported by what waits for them.
    failures.find(|failure| failure.reason != MISSING_OBJECT)
}

/// The images that a container needs: its own, and those behind its volumes, which the kubelet sees to
/// first and so stand last here.
fn images_of<'a>(version: &'a StaticPod, name: &str) -> Vec<WantedImage<'a>> {
    let spec = version.container(name);
    let volumes = spec.into_iter().flat_map(|c| image_volumes(version, c));
    let holders: Vec<String> = std::iter::once(name.to_owned()).chain(volumes).collect();
    let image = |holder: &String| wanted_images(version).find(|image| image.holder == *holder);
    holders.iter().filter_map(image).collect()
}

/// Returns the state of an image; while the runtime is asked for it, the state before.
fn image_state<'a>(state: &'a PodState, version: &StaticPod, holder: &str) -> Option<&'a Image> {
    match state.image(&version.uid, holder)? {
        Image::Checking(before) => before.as_deref(),
        image => Some(image),
    }
}

/// Returns the reason for which an image cannot be had, as the kubelet has it: after the first failure it
/// calls the waiting by another name.
fn image_error(state: &PodState, version: &StaticPod, image: &WantedImage<'_>) -> Option<Waiting> {
    let back_off = format!("Back-off pulling image \"{}\"", image.image);
    match image_state(state, version, &image.holder)? {
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

/// Returns the pull that is under way for an image. Once one has failed, its error is the reason until another succeeds.
fn pulling(view: View<'_>, version: &StaticPod, image: &WantedImage<'_>) -> Option<Waiting> {
    let pull = image_state(view.state, version, &image.holder);
    let Some(Image::Pulling { error, since, .. }) = pull else {
        return None;
    };
    let name = image.image;
    if error.is_empty() {
        let message = format!("the image \"{name}\" is being pulled");
        return Some(Waiting::new("Pulling", message));
    }
    let since = wall_at(view, &version.uid, *since).map(rfc3339);
    let since = since.map_or_else(String::new, |since| format!(" since {since}"));
    let message = format!("{error}; the image \"{name}\" is being pulled again{since}");
    Some(Waiting::new("ErrImagePull", message))
}

/// Returns the beginning of the first pull of an image that a container waits for.
fn first_pull(view: View<'_>, version: &StaticPod, name: &str) -> Option<i64> {
    let images = images_of(version, name).into_iter();
    let mut pulls =
        images.filter_map(
            |image| match image_state(view.state, version, &image.holder)? {
                Image::Pulling { error, since, .. } if error.is_empty() => Some(*since),
                _ => None,
            },
        );
    wall_at(view, &version.uid, pulls.next()?)
}

/// Returns the next try of a container that waits, where that is a matter of time: once all that it waits for
/// is due.
pub(in crate::pod) fn until(
    view: View<'_>,
    version: &StaticPod,
    name: &str,
) -> Option<MonotonicTime> {
    let (state, uid) = (view.state, &version.uid);
    if let Some(held) = held_by(view, version) {
        return held.until;
    }
    let failure = start_failure(state, uid, name).or_else(|| pod_failure(state, uid));
    let failure = failure.map(|f| f.retry);
    let mut images = vec![];
    for image in images_of(version, name) {
        match image_state(state, version, &image.holder) {
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
/// the end of, else the pull of its image, else its last end, else the time when its version was first seen.
pub(in crate::pod) fn since(view: View<'_>, version: &StaticPod, name: &str) -> Option<i64> {
    let (state, uid) = (view.state, &version.uid);
    let failure = start_failure(state, uid, name).or_else(|| pod_failure(state, uid));
    if let Some(failure) = failure {
        return wall_at(view, uid, failure.since);
    }
    if held_by(view, version).is_some()
        && let Some(since) = state.order.hold.since
    {
        return Some(since.nanos());
    }
    if let Some(pull) = first_pull(view, version, name) {
        return Some(pull);
    }
    let history = view.observed.history_of(uid, name);
    let ended = history.first().and_then(|c| c.exit());
    let ended = ended.filter(|exit| exit.finished_at > 0);
    let ended = ended.map(|exit| view.state.wall.corrected(exit.finished_at, exit.ended));
    ended.or_else(|| first_seen(view, uid))
}

/// Time when a version was first seen, in nanoseconds since the epoch.
pub(in crate::pod) fn first_seen(view: View<'_>, uid: &Uid) -> Option<i64> {
    view.state.first_seen(uid).map(|seen| seen.nanos)
}

/// The machine's time that belongs to this one, by its clock as it stands, or stood when the version was first seen.
fn wall_at(view: View<'_>, uid: &Uid, at: MonotonicTime) -> Option<i64> {
    if let Some(at) = view.state.wall.at(at) {
        return Some(at);
    }
    let seen = view.state.first_seen(uid)?;
    let millis = at.0.saturating_sub(seen.monotonic.0);
    Some(seen.nanos.saturating_add(millis.saturating_mul(1_000_000)))
}

/// Returns the next try of a failed start of a container, if that is still to come.
pub(in crate::pod) fn retry(
    view: View<'_>,
    version: &StaticPod,
    name: &str,
) -> Option<MonotonicTime> {
    let failure = start_failure(view.state, &version.uid, name)?;
    Some(failure.retry).filter(|retry| *retry > view.now)
}

/// Returns the failure of the postStart hook of a container that runs.
pub(in crate::pod) fn failed_hook(state: &PodState, id: &ContainerId) -> Option<Waiting> {
    match state.post_starts.get(id)? {
        PostStart::Running | PostStart::Interrupted => None,
        PostStart::Failed(message) => Some(Waiting::new("PostStartHookError", message.clone())),
    }
}

/// Returns the reason for which a version does not take over yet.
pub(in crate::pod) fn update(view: View<'_>, version: &StaticPod) -> Waiting {
    let uid = &version.uid;
    if let Some(Rejection { reason, message }) = view.state.rejection(uid) {
        return Waiting::new(reason, message.clone());
    }
    if let Some(waiting) = missing_objects(version) {
        return waiting;
    }
    if let Some(failure) = pod_failure(view.state, uid) {
        return Waiting::new(failure.reason, failure.message.clone());
    }
    let mut errors = wanted_images(version).filter_map(|image| {
        pulling(view, version, &image).or_else(|| image_error(view.state, version, &image))
    });
    errors.next().unwrap_or_else(|| takeover(view, version))
}

/// Returns what a version waits for that nothing blocks: its turn, or the end of the old one.
fn takeover(view: View<'_>, version: &StaticPod) -> Waiting {
    let (state, uid) = (view.state, &version.uid);
    let ends = |other: &Uid| other != uid && state.is_terminating(other);
    if view.observed.uids().any(ends) {
        let failure = cleanup_of_others(view, uid);
        let failure = failure.map(|f| format!(": {}: {}", f.reason, f.message));
        let failure = failure.unwrap_or_default();
        let message = format!("the old version is being stopped{failure}");
        return Waiting::new("Terminating", message);
    }
    let is_under_way = |subject: Subject| state.under_way.contains_key(&subject);
    let message = if is_under_way(Subject::Volumes(uid.clone())) {
        "its volumes are being checked"
    } else if is_under_way(Subject::Turn(uid.clone())) {
        "other Pods of this node are being updated"
    } else {
        "its images and volumes are being checked"
    };
    Waiting::new("Preparing", message)
}
