//! Which of its volumes a Pod uses.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::requests;

/// The names of the volumes that containers mount, or take variables from. Only these are prepared and
/// waited for; the others may be whatever they are (the kubelet's `GetPodVolumeNames`).
pub(crate) fn used(spec: &PodSpec) -> BTreeSet<&str> {
    requests::all_containers(spec)
        .flat_map(of_container)
        .collect()
}

fn of_container(container: &Container) -> impl Iterator<Item = &str> {
    let mounted = container.volume_mounts.iter().flatten();
    let devices = container.volume_devices.iter().flatten();
    let sources = container.env.iter().flatten();
    let sources = sources.filter_map(|e| e.value_from.as_ref()?.file_key_ref.as_ref());
    let mounted = mounted.map(|mount| mount.name.as_str());
    let devices = devices.map(|device| device.name.as_str());
    let files = sources.map(|file| file.volume_name.as_str());
    mounted.chain(devices).chain(files)
}
