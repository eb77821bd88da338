//! The images that a version needs, for its containers and for its volumes.

use k8s_openapi::api::core::v1::Volume;

use crate::manifest::{PullPolicy, StaticPod};
use crate::pod::state::{Image, PodState};
use k8s_openapi::api::core::v1::Container as ContainerSpec;

/// An image that a version needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedImage<'a> {
    /// The holder: a container's name, or a volume's as [`volume_holder`] writes it.
    pub holder: String,
    /// The image's name.
    pub image: &'a str,
    /// Pull policy.
    pub policy: PullPolicy,
}

/// Returns the holder of a volume's image; no container can be called so.
#[must_use]
pub fn volume_holder(volume: &str) -> String {
    format!("volume {volume}")
}

/// The images that a version needs.
pub fn wanted_images(version: &StaticPod) -> impl Iterator<Item = WantedImage<'_>> {
    let volumes = version.volumes().iter().filter_map(image_of_volume);
    version
        .all_containers()
        .map(image_of_container)
        .chain(volumes)
}

fn image_of_container(container: &ContainerSpec) -> WantedImage<'_> {
    WantedImage {
        holder: container.name.clone(),
        image: container.image.as_deref().unwrap_or_default(),
        policy: PullPolicy::of(container.image_pull_policy.as_deref()),
    }
}

fn image_of_volume(volume: &Volume) -> Option<WantedImage<'_>> {
    let source = volume.image.as_ref()?;
    Some(WantedImage {
        holder: volume_holder(&volume.name),
        image: source.reference.as_deref().unwrap_or_default(),
        policy: PullPolicy::of(source.pull_policy.as_deref()),
    })
}

/// The images behind volumes that a container has mounted, by what stands for them.
pub fn image_volumes<'a>(
    version: &'a StaticPod,
    spec: &'a ContainerSpec,
) -> impl Iterator<Item = String> + 'a {
    let volumes = version.volumes().iter().filter(|v| v.image.is_some());
    let mounted = |v: &&Volume| {
        spec.volume_mounts
            .iter()
            .flatten()
            .any(|m| m.name == v.name)
    };
    volumes.filter(mounted).map(|v| volume_holder(&v.name))
}

pub(super) fn is_image_ready(state: &PodState, version: &StaticPod, holder: &str) -> bool {
    let image = state.image(&version.uid, holder);
    matches!(image, Some(Image::Ready { .. }))
}
