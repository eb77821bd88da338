//! Why a container or an update waits, in Kubernetes' words: a pure function of what the planner sees.

use super::admission::Rejection;
use super::backoff;
use super::memory::{Failure, Image, Memory, PostStart, Subject};
use super::moment::Moment;
use super::plan::{View, wanted_images};
use super::rules::{Restart, init_containers, restart};
use crate::manifest::StaticPod;
use crate::manifest::objects::unmet;

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

/// What a container waits for that does not run yet.
pub(super) fn first_start(view: View<'_>, version: &StaticPod, name: &str) -> Waiting {
    let (memory, uid) = (view.memory, version.uid.as_str());
    if let Some(obstacle) = obstacle(memory, uid, name) {
        return obstacle;
    }
    if let Some(missing) = missing_objects(version).filter(|_| view.observed.has_none_of(uid)) {
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
    let unmet = unmet(version);
    (!unmet.is_empty()).then(|| Waiting::new("CreateContainerConfigError", unmet.join("; ")))
}

/// What failed or is not there, if anything.
pub(super) fn obstacle(memory: &Memory, uid: &str, container: &str) -> Option<Waiting> {
    if let Some(failure) = failure(memory, uid, container) {
        return Some(Waiting::new(failure.reason, failure.message.clone()));
    }
    image_obstacle(memory, uid, container)
}

fn failure<'a>(memory: &'a Memory, uid: &str, container: &str) -> Option<&'a Failure> {
    let subjects = [
        Subject::Container(uid.to_owned(), container.to_owned()),
        Subject::Sandbox(uid.to_owned()),
        Subject::Volumes(uid.to_owned()),
    ];
    subjects.iter().find_map(|s| memory.failures.get(s))
}

fn image_obstacle(memory: &Memory, uid: &str, container: &str) -> Option<Waiting> {
    match memory.images.get(&(uid.to_owned(), container.to_owned()))? {
        Image::Ready { .. } => None,
        Image::Pulling { .. } => Some(Waiting::new("Pulling", "the image is being pulled")),
        Image::Failed {
            reason,
            message,
            delay,
            ..
        } => {
            // After the first failure Kubernetes calls the waiting by another name.
            let backing_off = *reason == "ErrImagePull" && *delay > backoff::INITIAL;
            let reason = if backing_off {
                "ImagePullBackOff"
            } else {
                reason
            };
            Some(Waiting::new(reason, message.clone()))
        }
    }
}

/// When a container that waits is tried again, where that is a matter of time.
pub(super) fn until(view: View<'_>, version: &StaticPod, name: &str) -> Option<Moment> {
    let (memory, uid) = (view.memory, version.uid.as_str());
    if let Some(failure) = failure(memory, uid, name) {
        return Some(failure.retry);
    }
    match memory.images.get(&(uid.to_owned(), name.to_owned())) {
        Some(Image::Failed { retry, .. }) => return Some(*retry),
        Some(Image::Pulling { .. }) => return None,
        _ => {}
    }
    let history = view.observed.history_of(uid, name);
    let newest = history.first()?;
    match restart(view, version, newest, newest.exit()?) {
        Restart::At(due, _) => Some(due).filter(|due| *due > view.now),
        Restart::Never => None,
    }
}

/// Why a container that runs was given up, if the hook after its start was the reason.
pub(super) fn failed_hook(memory: &Memory, id: &str) -> Option<Waiting> {
    match memory.post_starts.get(id)? {
        PostStart::Running => None,
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
    let mut obstacles =
        wanted_images(version).filter_map(|image| obstacle(view.memory, uid, &image.holder));
    let stopping = || Waiting::new("Terminating", "the old version is being stopped");
    obstacles.next().unwrap_or_else(stopping)
}
