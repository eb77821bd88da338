//! Mounts of a container.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume, VolumeMount};

use super::env::Environment;
use super::sandbox::mappings;
use super::{ContainerInstance, NodeFacts, TranslateError, VolumeSource, volume_source};
use crate::cri::v1::{ImageSpec, Mount, MountPropagation};
use crate::manifest::StaticPod;

const HOSTS: &str = "/etc/hosts";

/// The path below a volume that a mount shows, with its variables expanded; empty for all of it.
///
/// # Errors
/// It names a variable that is not there, or leads out of the volume.
pub(super) fn sub_path(
    mount: &VolumeMount,
    environment: &Environment,
) -> Result<String, TranslateError> {
    let path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        Some(expression) => environment.expand_known(expression)?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(TranslateError::SubPathOutside {
            volume: mount.name.clone(),
            path,
        });
    }
    Ok(path)
}

/// The container's mounts: those it asks for in their order, then its hosts file and the file for its
/// termination message.
pub(super) fn mounts(
    facts: &NodeFacts,
    pod: &StaticPod,
    spec: &PodSpec,
    container: &Container,
    instance: &ContainerInstance,
    environment: &Environment,
) -> Result<Vec<Mount>, TranslateError> {
    let mut mounts = vec![];
    for (index, asked) in container.volume_mounts.iter().flatten().enumerate() {
        let volumes = spec.volumes.iter().flatten();
        let volume = volumes.into_iter().find(|v| v.name == asked.name);
        let volume = volume.ok_or_else(|| TranslateError::UnknownVolume(asked.name.clone()))?;
        let sub_path = sub_path(asked, environment)?;
        let mut mount = match &volume.image {
            Some(_) => image_mount(facts, pod, volume, instance, sub_path)?,
            None => volume_mount(facts, pod, container, index, volume, &sub_path)?,
        };
        mount.container_path = absolute(&asked.mount_path);
        mount.readonly |= asked.read_only == Some(true);
        mount.propagation = propagation(asked).into();
        mount.recursive_read_only = recursive_read_only(facts, spec, asked)?;
        mounts.push(mount);
    }
    let own = |container_path: &str, host_path: PathBuf| Mount {
        container_path: container_path.into(),
        host_path: host_path.display().to_string(),
        selinux_relabel: facts.kernel.selinux,
        ..Mount::default()
    };
    if !mounts.iter().any(|m| m.container_path == HOSTS) {
        mounts.push(own(HOSTS, facts.paths.hosts_file(&pod.uid)));
    }
    let message_path = container.termination_message_path.as_deref();
    let message_path = message_path.filter(|path| !path.is_empty());
    if let Some(path) = message_path.filter(|_| !instance.without_termination_log) {
        let file = facts
            .paths
            .termination_log(&pod.uid, &container.name, instance.attempt);
        mounts.push(own(&cleaned(path), file));
    }
    if let Some(users) = instance.user_namespace {
        for mount in &mut mounts {
            mount.uid_mappings = mappings(users);
            mount.gid_mappings = mappings(users);
        }
    }
    Ok(mounts)
}

fn volume_mount(
    facts: &NodeFacts,
    pod: &StaticPod,
    container: &Container,
    index: usize,
    volume: &Volume,
    sub_path: &str,
) -> Result<Mount, TranslateError> {
    let source = volume_source(&facts.paths, pod, volume);
    let source = source.ok_or_else(|| TranslateError::UnknownVolumeType(volume.name.clone()))?;
    let path = match sub_path {
        "" => source.path().to_owned(),
        _ => facts
            .paths
            .sub_path(&pod.uid, &volume.name, &container.name, index),
    };
    Ok(Mount {
        host_path: path.display().to_string(),
        readonly: source.is_read_only(),
        // What is the host's keeps the host's label.
        selinux_relabel: facts.kernel.selinux && !matches!(source, VolumeSource::HostPath { .. }),
        ..Mount::default()
    })
}

fn image_mount(
    facts: &NodeFacts,
    pod: &StaticPod,
    volume: &Volume,
    instance: &ContainerInstance,
    sub_path: String,
) -> Result<Mount, TranslateError> {
    if !facts.runtime.features().image_volumes {
        return Err(TranslateError::ImageVolumesUnsupported(volume.name.clone()));
    }
    let image = instance.volume_images.get(&volume.name);
    let image = image.ok_or_else(|| TranslateError::MissingVolumeImage(volume.name.clone()))?;
    let reference = volume.image.as_ref().and_then(|i| i.reference.clone());
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    Ok(Mount {
        readonly: true,
        image: Some(ImageSpec {
            image: image.clone(),
            user_specified_image: reference.unwrap_or_default(),
            annotations: annotations.into_iter().collect::<HashMap<_, _>>(),
            ..ImageSpec::default()
        }),
        image_sub_path: sub_path,
        ..Mount::default()
    })
}

fn propagation(mount: &VolumeMount) -> MountPropagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    }
}

/// Returns `true` if mounts below a read-only mount are read-only too.
fn recursive_read_only(
    facts: &NodeFacts,
    spec: &PodSpec,
    mount: &VolumeMount,
) -> Result<bool, TranslateError> {
    let supported = facts.handler_features(spec).recursive_read_only_mounts;
    let asked = matches!(
        mount.recursive_read_only.as_deref(),
        Some("Enabled" | "IfPossible")
    );
    if asked && !supported && facts.runtime.is_incomplete() {
        return Err(TranslateError::RecursiveReadOnlyUnknown(mount.name.clone()));
    }
    match mount.recursive_read_only.as_deref() {
        Some("Enabled") if !supported => Err(TranslateError::RecursiveReadOnlyUnsupported(
            mount.name.clone(),
        )),
        Some("Enabled") => Ok(true),
        Some("IfPossible") => Ok(supported && mount.read_only == Some(true)),
        _ => Ok(false),
    }
}

/// A mount path is taken from the container's root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        cleaned(path)
    }
}

/// The path from the root, without what leads nowhere (`.`, `//`) or back (`..`).
fn cleaned(path: &str) -> String {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean.display().to_string()
}
