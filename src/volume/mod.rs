//! Volumes of Pods on the node: made before a Pod's sandbox, and taken away with it. A removal never
//! follows a symlink and never crosses a mount.
//!
//! The files that the agent writes are checked again before each container starts, and that is as
//! often as they can come to differ: labels, annotations and resources of a static Pod, and the
//! `ConfigMap`s and `Secret`s that it refers to, are part of its UID, so a change of them is another
//! Pod with volumes of its own; and addresses, which a new sandbox changes, cannot stand in volumes.

mod env_file;
mod error;
mod files;
mod host_path;
mod mounts;
mod ownership;
mod payload;
mod propagation;
mod sub_path;
#[cfg(test)]
mod tests;
mod tree;
mod usage;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec, Volume};
use rustix::mount::MountFlags;

use crate::manifest::{StaticPod, all_containers, volumes};
use crate::translate::{Addresses, NodeFacts, Paths, VolumeSource, pod_limit, volume_source};
use crate::units::quantity::{self, Quantity};

pub use env_file::env_files;
pub use error::{EnvFileError, HostPathError, SetUpError, VolumeError, VolumeFailure};
pub(crate) use usage::{DiskUsageCounter, FolderUsage};

/// Makes the Pod's volumes: folders of its own, files that the agent writes, and host paths of the
/// `…OrCreate` types. What is there already stays as it is. Volumes that no container uses are left out.
///
/// # Errors
/// Returns the first failure, with the field's path.
pub fn prepare(
    facts: &NodeFacts,
    pod: &StaticPod,
    addresses: &Addresses,
) -> Result<(), VolumeError> {
    let prepared = share(&facts.paths, pod).and_then(|()| {
        each(&facts.paths, pod, |spec, volume, source| match source {
            VolumeSource::HostPath { path, kind } => Ok(host_path::prepare(path, kind)?),
            VolumeSource::EmptyDir(path) => {
                let none = EmptyDirVolumeSource::default();
                let source = volume.empty_dir.as_ref().unwrap_or(&none);
                let ready = facts.paths.ready(&pod.uid, &volume.name);
                set_up(facts, spec, source, path, &ready, MountFlags::empty())
            }
            VolumeSource::Files(path) => write_files(facts, pod, spec, volume, path, addresses),
        })
    });
    prepared.map_err(VolumeError::Sandbox)
}

/// Brings the files up to date that the agent writes.
///
/// # Errors
/// Returns the first failure, with the field's path.
pub fn refresh(
    facts: &NodeFacts,
    pod: &StaticPod,
    addresses: &Addresses,
) -> Result<(), VolumeError> {
    let refreshed = share(&facts.paths, pod).and_then(|()| {
        each(&facts.paths, pod, |spec, volume, source| match source {
            VolumeSource::Files(path) => write_files(facts, pod, spec, volume, path, addresses),
            VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) => Ok(()),
        })
    });
    refreshed.map_err(VolumeError::Container)
}

/// Checks that every volume has its type, or can be created so; creates nothing.
///
/// # Errors
/// Returns the first failure, with the field's path.
pub fn check(facts: &NodeFacts, pod: &StaticPod) -> Result<(), VolumeError> {
    let checked = each(&facts.paths, pod, |_, volume, source| match source {
        VolumeSource::HostPath { path, kind } => Ok(host_path::check(path, kind)?),
        VolumeSource::EmptyDir(_) => Ok(()),
        VolumeSource::Files(_) => {
            payload::payload(facts, pod, volume, &Addresses::default())?;
            Ok(())
        }
    });
    checked.map_err(VolumeError::Sandbox)
}

/// Mounts the part `path` of a volume, which lies at `root`, on `target`.
///
/// # Errors
/// Any I/O error; the path leads out of the volume.
pub fn prepare_sub_path(
    volume: &str,
    root: &Path,
    path: &str,
    target: &Path,
) -> Result<(), VolumeError> {
    sub_path::prepare(root, path, target).map_err(|error| {
        let volume = volume.to_owned();
        VolumeError::Container(VolumeFailure::SubPath { volume, error }.into())
    })
}

/// Removes all that the Pod's volumes have on the node: mounts first, then its own folders.
///
/// # Errors
/// Any I/O error; something is still mounted.
pub fn remove(paths: &Paths, uid: &str) -> io::Result<()> {
    let folder = paths.pod(uid);
    mounts::unmount_below(&folder)?;
    // What is gone in part is not ready any more.
    for inner in ["plugins", "volume-subpaths", "volumes"] {
        remove_tree(&folder.join(inner))?;
    }
    Ok(())
}

/// Deletes a folder in which nothing is mounted. Symlinks are deleted, not followed, and no mount is entered.
///
/// # Errors
/// Any I/O error, or something is mounted there; that it is not there is none.
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::symlink_metadata(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(found) if !found.is_dir() => return fs::remove_file(folder),
        Ok(_) => {}
    }
    let removed = tree::open_unmounted(folder).and_then(tree::empty);
    let removed = removed.and_then(|()| fs::remove_dir(folder));
    // The list of all mounts is long, and is read where it has to say something only.
    removed.map_err(|error| match mounts::below(folder) {
        Ok(mounts) if !mounts.is_empty() => {
            let message = format!("{} is still mounted", mounts[0].display());
            io::Error::other(message)
        }
        _ => error,
    })
}

/// Makes the folder of the Pod's own volumes a shared mount, if a container asks for the propagation of mounts
/// in one of them.
fn share(paths: &Paths, pod: &StaticPod) -> Result<(), Box<VolumeFailure>> {
    let spec = &pod.spec;
    let folder = paths.volumes(&pod.uid);
    let is_own = |name: &str| {
        let mut volumes = spec.volumes.iter().flatten();
        let source = volumes.find(|v| v.name == name);
        let source = source.and_then(|v| volume_source(paths, pod, v));
        source.is_some_and(|source| source.path().starts_with(&folder))
    };
    let mut mounts = all_containers(spec).flat_map(|c| c.volume_mounts.iter().flatten());
    let propagates = |kind: &str| ["HostToContainer", "Bidirectional"].contains(&kind);
    if !mounts.any(|m| m.mount_propagation.as_deref().is_some_and(propagates) && is_own(&m.name)) {
        return Ok(());
    }
    let shared = make_folder(&folder).and_then(|()| propagation::share(&folder));
    shared.map_err(|error| VolumeFailure::Propagation { folder, error }.into())
}

fn each(
    paths: &Paths,
    pod: &StaticPod,
    execute: impl Fn(&PodSpec, &Volume, &VolumeSource) -> Result<(), SetUpError>,
) -> Result<(), Box<VolumeFailure>> {
    let spec = &pod.spec;
    let used = volumes::used(spec);
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if !used.contains(volume.name.as_str()) {
            continue;
        }
        if let Some(source) = volume_source(paths, pod, volume) {
            let done = execute(spec, volume, &source);
            done.map_err(|error| VolumeFailure::SetUp {
                name: volume.name.clone(),
                index,
                path: source.path().to_owned(),
                error,
            })?;
        }
    }
    Ok(())
}

/// Makes a folder of the Pod's own, on its medium and with its group, and marks that by the file `ready`.
/// One that is ready stays as containers left it, its group and modes too, whatever the Pod's
/// `fsGroupChangePolicy` (the kubelet's `emptyDir`).
fn set_up(
    facts: &NodeFacts,
    spec: &PodSpec,
    source: &EmptyDirVolumeSource,
    path: &Path,
    ready: &Path,
    flags: MountFlags,
) -> Result<(), SetUpError> {
    let medium = source.medium.as_deref().unwrap_or_default();
    make_folder(path)?;
    let mounted = medium.is_empty() || mounts::is_mount_point(path)?;
    if mounted && ready.exists() {
        return Ok(());
    }
    if !mounted {
        mount_medium(facts, spec, source, path, flags)?;
    }
    // Every container may write to it, whatever user it runs as; memory has the sticky bit besides.
    let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
    if mode & 0o777 != 0o777 {
        fs::set_permissions(path, Permissions::from_mode(0o777))?;
    }
    if let Some(group) = fs_group(spec) {
        let given = ownership::give(path, group, false);
        given.map_err(|e| io::Error::new(e.kind(), format!("fsGroup: {e}")))?;
    }
    if let Some(folder) = ready.parent() {
        make_folder(folder)?;
    }
    Ok(fs::write(ready, "")?)
}

fn mount_medium(
    facts: &NodeFacts,
    spec: &PodSpec,
    source: &EmptyDirVolumeSource,
    path: &Path,
    flags: MountFlags,
) -> Result<(), SetUpError> {
    let medium = source.medium.as_deref().unwrap_or_default();
    if let Some(size) = medium.strip_prefix("HugePages") {
        mounts::mount_huge_pages(path, page_size(spec, size)?.value())?;
    } else if medium == "Memory" {
        mounts::mount_memory(path, memory_size(facts, spec, source).value(), flags)?;
    } else {
        return Err(SetUpError::UnknownMedium(medium.to_owned()));
    }
    Ok(())
}

/// A volume in memory takes no more than the Pod may, and than the node has.
fn memory_size(facts: &NodeFacts, spec: &PodSpec, source: &EmptyDirVolumeSource) -> Quantity {
    let own = source.size_limit.as_ref();
    let own = own.and_then(|size| quantity::parse(&size.0));
    let node = Quantity::of(i64::try_from(facts.capacity.memory).unwrap_or(i64::MAX));
    let limits = [own.unwrap_or_default(), pod_limit(spec, "memory"), node];
    let given = limits.into_iter().filter(|limit| !limit.is_zero());
    given.min().unwrap_or_default()
}

/// The page size: that of the medium, or the only one that the Pod requests. Either way a container
/// requests it (the kubelet's `getPageSizeMountOption`).
fn page_size(spec: &PodSpec, of_medium: &str) -> Result<Quantity, SetUpError> {
    let own = all_containers(spec).flat_map(|c| &c.resources);
    let resources = own.chain(&spec.resources).flat_map(|r| &r.requests);
    let requested: BTreeSet<Quantity> = resources
        .flat_map(|requests| requests.keys())
        .filter_map(|name| quantity::parse(name.strip_prefix("hugepages-")?))
        .collect();
    if let Some(written) = of_medium.strip_prefix('-') {
        let size = quantity::parse(written);
        let size = size.filter(|size| requested.contains(size));
        return size.ok_or_else(|| SetUpError::NoHugePages(Some(written.to_owned())));
    }
    let mut sizes = requested.into_iter();
    match (sizes.next(), sizes.next()) {
        (Some(size), None) => Ok(size),
        (None, _) => Err(SetUpError::NoHugePages(None)),
        _ => Err(SetUpError::SeveralHugePages),
    }
}

fn write_files(
    facts: &NodeFacts,
    pod: &StaticPod,
    spec: &PodSpec,
    volume: &Volume,
    path: &Path,
    addresses: &Addresses,
) -> Result<(), SetUpError> {
    let payload = payload::payload(facts, pod, volume, addresses)?;
    // What may be secret never gets to a disk.
    let medium = volume.config_map.is_none().then(|| "Memory".to_owned());
    let source = EmptyDirVolumeSource {
        medium,
        ..EmptyDirVolumeSource::default()
    };
    // The kubelet makes these folders as emptyDirs of this name.
    let name = format!("wrapped_{}", volume.name);
    let ready = facts.paths.ready(&pod.uid, &name);
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    set_up(facts, spec, &source, path, &ready, flags)?;
    Ok(files::write(path, &payload, fs_group(spec))?)
}

/// The group that the Pod's volumes belong to.
fn fs_group(spec: &PodSpec) -> Option<u32> {
    let group = spec.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)
}
