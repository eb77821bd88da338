//! Images: finding them in the runtime, by their pull policy, and pulling those that are missing
//! (Kubernetes, Images, "Image pull policy").

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;
use tokio::time::Instant;
use tracing::warn;

use super::background::JobOutcome;
use super::{Context, PodTask, events};
use crate::image::{Before, ImageError, LocalImage};
use crate::manifest::objects::{PullSecret, PullSecrets};
use crate::manifest::{PullPolicy, StaticPod, Uid};
use crate::pod::backoff;
use crate::pod::plan::waiting::MISSING_OBJECT;
use crate::pod::plan::{Outcome, Step, image_volumes, volume_holder, wanted_images};
use crate::pod::state::{Image, Subject};
use k8s_openapi::api::core::v1::Container as ContainerSpec;

/// Time that a container that ran before waits for a pull before it starts from the local image: a
/// registry that is unreachable must not keep down what already ran here.
const RESTART_PULL: Duration = Duration::from_secs(3);

/// Kubernetes' word for an image that is not there and must not be pulled.
pub(super) const NEVER_PULL: &str = "ErrImageNeverPull";

/// End of the error of a pull that was cancelled.
const CANCELED: &str = "context canceled";

/// The outcome of a pull.
pub(super) struct Pulled {
    /// The version.
    pub(super) uid: Uid,
    /// The holder of the image, as [`wanted_images`](super::plan::wanted_images) has it.
    pub(super) holder: String,
    /// The image, or why it cannot be had.
    pub(super) result: Result<LocalImage, ImageError>,
    /// Duration of the pull.
    pub(super) took: Duration,
    /// The Secrets that it was made with.
    secrets: PullSecrets,
}

pub(super) type Pull = BoxFuture<'static, Pulled>;

impl PodTask {
    /// Finds out whether a container's image is there, by its pull policy, and begins a pull if it
    /// is not (Kubernetes, Images, "Image pull policy").
    pub(super) fn ensure_image(&mut self, uid: &Uid, holder: &str) {
        let Some(version) = self.version(uid) else {
            return;
        };
        let Some(wanted) = wanted_images(&version).find(|image| image.holder == holder) else {
            return;
        };
        let (uid, holder) = (uid.clone(), holder.to_owned());
        if wanted.policy == PullPolicy::Always {
            return self.begin_pull(uid, holder, wanted.image, Before::Unknown);
        }
        let before = self.state.image(&uid, &holder).cloned().map(Box::new);
        self.set_image(&uid, &holder, Some(Image::Checking(before)));
        let (context, image) = (Arc::clone(&self.context), wanted.image.to_owned());
        let shown = self.under_way(&uid, image_container(&holder), "ImageStatus");
        let job = async move {
            let _shown = shown;
            let result = context.images.find(&context.client, &image).await;
            JobOutcome::Image {
                uid,
                holder,
                result,
            }
        };
        self.jobs.push(job.boxed());
    }

    pub(super) fn image_checked(
        &mut self,
        uid: Uid,
        holder: String,
        result: Result<Option<LocalImage>, ImageError>,
    ) {
        let Some(Image::Checking(before)) = self.state.image(&uid, &holder).cloned() else {
            // Its version was forgotten meanwhile, or has found it another way.
            return;
        };
        self.set_image(&uid, &holder, before.map(|before| *before));
        let Some(version) = self.version(&uid) else {
            return;
        };
        let wanted = wanted_images(&version).find(|image| image.holder == holder);
        match (result, wanted) {
            (Ok(Some(local)), _) => self.image_arrived(&uid, &holder, Ok(local)),
            (Err(error), _) => self.image_arrived(&uid, &holder, Err(error)),
            (Ok(None), Some(wanted)) if wanted.policy == PullPolicy::Never => {
                let error = ImageError {
                    reason: NEVER_PULL,
                    message: events::never_pulled(wanted.image),
                };
                self.image_arrived(&uid, &holder, Err(error));
            }
            (Ok(None), Some(wanted)) => {
                self.begin_pull(uid, holder, wanted.image, Before::Missing);
            }
            (Ok(None), None) => {}
        }
    }

    /// Has the image of a container pulled anew where the runtime has it in part only. Returns what a person can do
    /// where it must not be pulled.
    pub(super) fn repair_image(
        &mut self,
        uid: &Uid,
        holder: &str,
        before: Before,
    ) -> Option<String> {
        let version = self.version(uid)?;
        let wanted = wanted_images(&version).find(|image| image.holder == holder)?;
        if wanted.policy == PullPolicy::Never {
            return Some(
                "the image is damaged: remove it from the runtime and load it again".to_owned(),
            );
        }
        warn!(pod = %self.key, container = holder, image = wanted.image, "Found a damaged image, pulling it again");
        self.begin_pull(uid.clone(), holder.to_owned(), wanted.image, before);
        None
    }

    fn begin_pull(&mut self, uid: Uid, container: String, image: &str, before: Before) {
        let (after, error) = self.failed_before(&uid, &container);
        self.record_pulling(&uid, &container, image);
        let began = Instant::now();
        let images = &self.context.images;
        let secrets = self.pull_secrets(&uid);
        let pull = images.pull(&self.context.client, image, secrets.clone(), before);
        let of_uid = self.observed.containers_of(&uid);
        let ran_before = of_uid.into_iter().any(|c| c.name == container);
        // Nothing starts from the local image if that is damaged.
        let may_fall_back = ran_before && !matches!(before, Before::Damaged { .. });
        let (context, image) = (Arc::clone(&self.context), image.to_owned());
        let pulling = Image::Pulling {
            after,
            error,
            since: context.clock.now(),
        };
        self.set_image(&uid, &container, Some(pulling));
        let shown = self.under_way(&uid, image_container(&container), "PullImage");
        let result = async move {
            let _shown = shown;
            let result = if may_fall_back {
                pull_or_local(pull, &context, &image).await
            } else {
                pull.await
            };
            Pulled {
                uid,
                holder: container,
                result,
                took: began.elapsed(),
                secrets,
            }
        };
        self.pulls.push(result.boxed());
    }

    /// The wait that the last failure to get an image brought about, and why that failed.
    pub(super) fn failed_before(&self, uid: &Uid, container: &str) -> (Duration, String) {
        match self.state.image(uid, container) {
            Some(Image::Pulling { after, error, .. }) => (*after, error.clone()),
            Some(Image::Failed { delay, message, .. }) => (*delay, message.clone()),
            _ => (Duration::ZERO, String::new()),
        }
    }

    /// Records the result of a pull.
    pub(super) fn pulled(&mut self, pulled: Pulled) {
        let Pulled {
            uid,
            holder,
            result,
            took,
            secrets,
        } = pulled;
        let image = self.version(&uid).and_then(|version| {
            let image = wanted_images(&version).find(|image| image.holder == holder);
            image.map(|image| image.image.to_owned())
        });
        if let (Some(image), Ok(local)) = (image, &result) {
            self.record_pulled(&uid, &holder, &image, local, took);
        }
        let is_outdated = result.is_err() && secrets != self.pull_secrets(&uid);
        self.image_arrived(&uid, &holder, result);
        if is_outdated {
            self.retry_image(&uid, &holder);
        }
    }

    /// The Secrets for pulls of a version, as manifests have them now.
    fn pull_secrets(&self, uid: &Uid) -> PullSecrets {
        let newest = self.asked.as_ref().map(|asked| &*asked.pod.objects);
        let secrets = self.version(uid).map(|v| PullSecret::of_pod(&v, newest));
        secrets.unwrap_or_default()
    }

    /// Has images that could not be pulled tried again at once with other Secrets, and looks for these Secrets again.
    pub(super) fn pull_secrets_changed(&mut self, version: &StaticPod) {
        let uid = &version.uid;
        for image in wanted_images(version) {
            self.retry_image(uid, &image.holder);
        }
        let volumes = Subject::Volumes(uid.clone());
        let failure = self.state.failures.get(&volumes);
        if failure.is_some_and(|failure| failure.reason == MISSING_OBJECT) {
            self.state.failures.remove(&volumes);
        }
    }

    fn retry_image(&mut self, uid: &Uid, holder: &str) {
        let mut image = self.state.image(uid, holder).cloned();
        if let Some(Image::Failed { retry, .. }) = &mut image {
            *retry = self.context.clock.now();
            self.set_image(uid, holder, image);
        }
    }

    /// Records the result of getting an image.
    pub(super) fn image_arrived(
        &mut self,
        uid: &Uid,
        container: &str,
        result: Result<LocalImage, ImageError>,
    ) {
        let Some(version) = self.version(uid) else {
            return;
        };
        let before = match self.state.image(uid, container) {
            Some(Image::Failed { message, .. }) => Some(message.clone()),
            _ => None,
        };
        let image = match result {
            Ok(LocalImage {
                reference,
                user,
                pulled,
                ..
            }) => Image::Ready {
                reference,
                user,
                pulled: pulled.is_some(),
            },
            Err(error) => {
                let error = explained(error);
                let ImageError { reason, message } = match image_of(&version, container) {
                    Some(image) => self.record_image_failure(&version, container, image, error),
                    None => error,
                };
                let delay = match reason {
                    // This costs no registry anything, and nothing reports that somebody has loaded the image.
                    NEVER_PULL => backoff::INITIAL,
                    _ => backoff::next(self.failed_before(uid, container).0),
                };
                let retry_in = delay.as_secs();
                if before.is_none_or(|before| before != message) {
                    warn!(pod = %self.key, container, reason, error = message, retry_in, "Failed to get image");
                }
                Image::Failed {
                    reason,
                    message,
                    retry: self.context.clock.now().after(delay),
                    delay,
                }
            }
        };
        self.set_image(uid, container, Some(image));
    }

    fn set_image(&mut self, uid: &Uid, holder: &str, image: Option<Image>) {
        let step = Step::EnsureImage {
            uid: uid.clone(),
            container: holder.to_owned(),
        };
        self.outcome(&step, Outcome::Image(image));
    }

    /// The ids of the images behind the version's volumes, as far as they are ready.
    pub(super) fn volume_images(&self, version: &StaticPod) -> BTreeMap<String, String> {
        let image = |volume: &Volume| {
            let holder = volume_holder(&volume.name);
            match self.state.image(&version.uid, &holder)? {
                Image::Ready { reference, .. } => Some((volume.name.clone(), reference.clone())),
                _ => None,
            }
        };
        version.volumes().iter().filter_map(image).collect()
    }

    /// Records events of the images that a container is made with and that were there already.
    pub(super) fn record_present_images(
        &self,
        version: &StaticPod,
        spec: &ContainerSpec,
        pulled: bool,
    ) {
        let uid = &version.uid;
        let image = |holder: &str| wanted_images(version).find(|image| image.holder == holder);
        for holder in image_volumes(version, spec) {
            let state = self.state.image(uid, &holder);
            let there = matches!(state, Some(Image::Ready { pulled: false, .. }));
            if let Some(image) = image(&holder).filter(|_| there) {
                self.record_present(uid, &holder, image.image);
            }
        }
        if let Some(image) = image(&spec.name).filter(|_| !pulled) {
            self.record_present(uid, &spec.name, image.image);
        }
    }
}

/// The container whose image this is; a volume's image is the Pod's.
pub(super) fn image_container(holder: &str) -> Option<&str> {
    let of_volume = holder.starts_with(&volume_holder(""));
    (!of_volume).then_some(holder)
}

/// The image that a container or a volume of this version needs.
fn image_of<'a>(version: &'a StaticPod, holder: &str) -> Option<&'a str> {
    let mut wanted = wanted_images(version);
    wanted.find_map(|image| (image.holder == holder).then_some(image.image))
}

/// Says why the runtime gave a pull up, which containerd does not: nothing of the agent's cancels a pull that is waited
/// for (containerd, `internal/cri/server/images/image_pull.go`: `pullProgressReporter`).
fn explained(error: ImageError) -> ImageError {
    if error.reason != "ErrImagePull" || !error.message.ends_with(CANCELED) {
        return error;
    }
    let message = format!(
        "{}: the container runtime gave the pull up, as it does when no data arrives for its \
         image_pull_progress_timeout",
        error.message
    );
    ImageError { message, ..error }
}

pub(super) async fn pull_or_local(
    pull: impl Future<Output = Result<LocalImage, ImageError>>,
    context: &Context,
    image: &str,
) -> Result<LocalImage, ImageError> {
    let late = || ImageError {
        reason: "ErrImagePull",
        message: format!("the pull did not end within {} s", RESTART_PULL.as_secs()),
    };
    let pulled = tokio::time::timeout(RESTART_PULL, pull).await;
    let error = match pulled.unwrap_or_else(|_| Err(late())) {
        Ok(local) => return Ok(local),
        Err(error) => error,
    };
    match context.images.find(&context.client, image).await {
        Ok(Some(local)) => {
            warn!(
                image,
                error = error.message,
                "Failed to pull image, restarting from the local image"
            );
            Ok(local)
        }
        _ => Err(error),
    }
}
