//! The events that a Pod's task records, worded as the kubelet's.

use std::time::Duration;

use super::PodTask;
use super::error::StepError;
use crate::cri::Error;
use crate::image::{ImageError, LocalImage};
use crate::manifest::{StaticPod, Uid};
use crate::pod::events::EventKind;
use crate::pod::go_duration::in_go;
use crate::pod::plan::{image_volumes, volume_holder};
use crate::pod::state::Subject;
use crate::pod::state::history::StopReason;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

impl PodTask {
    /// An event about what needs an image: a container, or a volume, which has no field of its own.
    fn image_event(&self, uid: &Uid, holder: &str, kind: EventKind, reason: &str, message: &str) {
        let of_volume = holder.starts_with(&volume_holder(""));
        let container = (!of_volume).then_some(holder);
        self.event(uid, container, kind, reason, message);
    }

    /// Records that the pull of an image begins.
    pub(super) fn record_pulling(&self, uid: &Uid, holder: &str, image: &str) {
        let message = format!("Pulling image \"{image}\"");
        self.image_event(uid, holder, EventKind::Normal, "Pulling", &message);
    }

    /// Records that an image was pulled, which took `in_all`, with the time spent waiting for others.
    pub(super) fn record_pulled(
        &self,
        uid: &Uid,
        holder: &str,
        image: &str,
        local: &LocalImage,
        in_all: Duration,
    ) {
        let Some(took) = local.pulled else {
            return;
        };
        let message = format!(
            "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
            in_go(took),
            in_go(in_all.max(took)),
            local.size
        );
        self.image_event(uid, holder, EventKind::Normal, "Pulled", &message);
    }

    /// Records that an image was there already.
    pub(super) fn record_present(&self, uid: &Uid, holder: &str, image: &str) {
        let message = format!(
            "Container image \"{image}\" already present on machine and can be accessed by the pod"
        );
        self.image_event(uid, holder, EventKind::Normal, "Pulled", &message);
    }

    /// Records that an image cannot be had, and that a pull waits before it is tried again. Returns the error
    /// as the statuses of those who need the image have it.
    pub(super) fn record_image_failure(
        &self,
        version: &StaticPod,
        holder: &str,
        image: &str,
        error: ImageError,
    ) -> ImageError {
        let ImageError { reason, message } = error;
        let pull = format!("Failed to pull image \"{image}\": {message}");
        let (event, message, snapshot) = match reason {
            "InvalidImageName" => {
                let text = format!("Failed to apply default image tag \"{image}\": {message}");
                ("InspectFailed", text.clone(), text)
            }
            "ImageInspectError" => {
                let text = format!("Failed to inspect image \"{image}\": {message}");
                ("InspectFailed", text.clone(), text)
            }
            "ErrImageNeverPull" => ("ErrImageNeverPull", message.clone(), message),
            _ => ("Failed", message, pull),
        };
        let (uid, warning) = (&version.uid, EventKind::Warning);
        self.image_event(uid, holder, warning, event, &snapshot);
        self.record_not_started(version, holder, reason);
        if reason == "ErrImagePull" {
            let message = format!("Back-off pulling image \"{image}\"");
            self.image_event(uid, holder, EventKind::Normal, "BackOff", &message);
            self.record_not_started(version, holder, "ImagePullBackOff");
        }
        ImageError { reason, message }
    }

    /// Records of each container that it is not started for want of this image: the one whose image it is,
    /// or those that have the volume mounted.
    fn record_not_started(&self, version: &StaticPod, holder: &str, reason: &str) {
        let needs = |spec: &&ContainerSpec| {
            let mut holders = image_volumes(version, spec).chain([spec.name.clone()]);
            holders.any(|needed| needed == holder)
        };
        let message = format!("Error: {reason}");
        for spec in version.all_containers().filter(needs) {
            let (name, warning) = (Some(spec.name.as_str()), EventKind::Warning);
            self.event(&version.uid, name, warning, "Failed", &message);
        }
    }

    /// Returns the version that a failure is about.
    fn uid_of<'a>(&'a self, subject: &'a Subject) -> Option<&'a Uid> {
        let mut sandboxes = self.observed.sandboxes.iter();
        let mut containers = self.observed.containers.iter();
        match subject {
            Subject::RemoveSandbox(id) => sandboxes.find(|s| s.id == *id).map(|s| &s.uid),
            Subject::RemoveContainer(id) => containers.find(|c| c.id == *id).map(|c| &c.uid),
            Subject::KubeletPod => self.wanted.as_ref().map(|wanted| &wanted.pod.uid),
            _ => subject.uid(),
        }
    }

    /// Records the event of a failed step, where Kubernetes has such an event.
    pub(super) fn record_failure_event(
        &self,
        subject: &Subject,
        reason: &'static str,
        failure: &StepError,
    ) {
        let Some(uid) = self.uid_of(subject) else {
            return;
        };
        let reason = failure.reason().unwrap_or(reason);
        let message = failure.event_message(subject, reason, uid);
        if let Subject::Container(_, container) = subject {
            let message = format!("Error: {message}");
            let warning = EventKind::Warning;
            return self.event(uid, Some(container), warning, "Failed", &message);
        }
        let message = match reason {
            "FailedCreatePodSandBox" => format!("Failed to create pod sandbox: {message}"),
            "FailedCreatePodContainer" => {
                format!("unable to ensure pod container exists: {message}")
            }
            "FailedKillPod" => format!("error killing pod: {message}"),
            "FailedMount" => match volume_of(&message) {
                Some((volume, problem)) => failed_mount(volume, problem),
                None => message,
            },
            "FailedRemoval" => message,
            _ => return,
        };
        self.event(uid, None, EventKind::Warning, reason, &message);
    }
}

/// Returns the kubelet's message about a `Container` or `PodSandbox` that the runtime failed to stop.
pub(super) fn failed_kill(kind: &str, target: &str, error: &Error) -> String {
    let error = error.rpc_error();
    format!("failed to \"Kill{kind}\" for {target:?} with Kill{kind}Error: {error:?}")
}

/// Returns the message of the event of a volume that cannot be set up.
pub(super) fn failed_mount(volume: &str, problem: &str) -> String {
    // The kubelet has the space before the colon, too.
    format!("MountVolume.SetUp failed for volume \"{volume}\" : {problem}")
}

/// The volume that a problem is about, and the problem: `volume "data": …`.
fn volume_of(message: &str) -> Option<(&str, &str)> {
    let (volume, problem) = message.strip_prefix("volume \"")?.split_once("\": ")?;
    (!volume.contains('"')).then_some((volume, problem))
}

/// Returns the message about an image that is not there and is never pulled.
pub(super) fn never_pulled(image: &str) -> String {
    format!("Container image \"{image}\" is not present with pull policy of Never")
}

/// Returns the message of the event of a container that the agent stops.
pub(super) fn killing(
    name: &str,
    reason: Option<StopReason>,
    is_sidecar: bool,
    again: bool,
) -> String {
    let probe = match reason {
        Some(StopReason::Liveness) => "liveness",
        Some(StopReason::Startup) => "startup",
        Some(StopReason::PostStart) => return "FailedPostStartHook".to_owned(),
        _ => return format!("Stopping container {name}"),
    };
    if is_sidecar {
        return format!("Init container {name} failed {probe} probe");
    }
    let then = if again { ", will be restarted" } else { "" };
    format!("Container {name} failed {probe} probe{then}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_container_is_told_with_its_cause() {
        for (reason, is_sidecar, again, message) in [
            (None, false, true, "Stopping container c"),
            (Some(StopReason::Stray), false, true, "Stopping container c"),
            (
                Some(StopReason::Liveness),
                false,
                true,
                "Container c failed liveness probe, will be restarted",
            ),
            (
                Some(StopReason::Startup),
                false,
                false,
                "Container c failed startup probe",
            ),
            (
                Some(StopReason::Liveness),
                true,
                true,
                "Init container c failed liveness probe",
            ),
            (
                Some(StopReason::PostStart),
                false,
                true,
                "FailedPostStartHook",
            ),
        ] {
            assert_eq!(killing("c", reason, is_sidecar, again), message);
        }
    }
}
