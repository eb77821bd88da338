//! Volumes of Pods on the node: made before a Pod's sandbox, and taken away with it. A removal never
//! follows a symlink and never crosses a mount.
//!
//! The files that the agent writes are looked at again before each container starts, and that is as
//! often as they can come to differ: labels, annotations and resources of a static Pod, and the
//! `ConfigMap`s and `Secret`s that it refers to, are part of its UID, so a change of them is another
//! Pod with volumes of its own; and addresses, which a new sandbox changes, cannot stand in volumes.

mod env_file;
mod files;
mod host_path;
mod mounts;
mod ownership;
mod payload;
mod sub_path;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec, Volume};

use crate::manifest::StaticPod;
use crate::manifest::quantity::{self, Quantity};
use crate::translate::{Addresses, NodeFacts, Paths, VolumeSource, pod_limit, volume_source};

pub use env_file::env_files;
pub use sub_path::prepare_sub_path;

/// Makes the Pod's volumes: folders of its own, files that the agent writes, and host paths of the
/// `…OrCreate` types. What is there already stays as it is.
///
/// # Errors
/// What is wrong, with the field's path.
pub fn prepare(facts: &NodeFacts, pod: &StaticPod, addresses: &Addresses) -> Result<(), String> {
    each(&facts.paths, pod, |spec, volume, source| match source {
        VolumeSource::HostPath { path, kind } => host_path::prepare(path, kind),
        VolumeSource::EmptyDir(path) => {
            let made = prepare_empty_dir(facts, spec, volume, path);
            made.map_err(|e| e.to_string())?;
            own(spec, path, false)
        }
        VolumeSource::Files(path) => write_files(facts, pod, spec, volume, path, addresses),
    })
}

/// Brings the files up to date that the agent writes.
///
/// # Errors
/// What is wrong, with the field's path.
pub fn refresh(facts: &NodeFacts, pod: &StaticPod, addresses: &Addresses) -> Result<(), String> {
    each(&facts.paths, pod, |spec, volume, source| match source {
        VolumeSource::Files(path) => write_files(facts, pod, spec, volume, path, addresses),
        VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) => Ok(()),
    })
}

/// Whether every volume is, or can become, what it has to be; makes nothing.
///
/// # Errors
/// What is wrong, with the field's path.
pub fn check(facts: &NodeFacts, pod: &StaticPod) -> Result<(), String> {
    each(&facts.paths, pod, |_, volume, source| match source {
        VolumeSource::HostPath { path, kind } => host_path::check(path, kind),
        VolumeSource::EmptyDir(_) => Ok(()),
        VolumeSource::Files(_) => {
            payload::payload(facts, pod, volume, &Addresses::default()).map(drop)
        }
    })
}

/// Takes away all that the Pod's volumes have on the node: mounts first, then its own folders.
///
/// # Errors
/// Any I/O error; something is still mounted.
pub fn remove(paths: &Paths, uid: &str) -> io::Result<()> {
    let folder = paths.pod(uid);
    mounts::unmount_below(&folder)?;
    for inner in ["volume-subpaths", "volumes"] {
        remove_tree(&folder.join(inner))?;
    }
    Ok(())
}

/// Deletes a folder in which nothing is mounted. Symlinks are deleted, not followed.
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
    if let Some(mounted) = mounts::below(folder)?.first() {
        let message = format!("{} is still mounted", mounted.display());
        return Err(io::Error::other(message));
    }
    fs::remove_dir_all(folder)
}

fn each(
    paths: &Paths,
    pod: &StaticPod,
    act: impl Fn(&PodSpec, &Volume, &VolumeSource) -> Result<(), String>,
) -> Result<(), String> {
    let Some(spec) = &pod.pod.spec else {
        return Ok(());
    };
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if let Some(source) = volume_source(paths, pod, volume) {
            let path = source.path().display();
            act(spec, volume, &source)
                .map_err(|e| format!("spec.volumes[{index}]: {path}: {e}"))?;
        }
    }
    Ok(())
}

fn prepare_empty_dir(
    facts: &NodeFacts,
    spec: &PodSpec,
    volume: &Volume,
    path: &Path,
) -> io::Result<()> {
    make_folder(path)?;
    let none = EmptyDirVolumeSource::default();
    let source = volume.empty_dir.as_ref().unwrap_or(&none);
    let medium = source.medium.as_deref().unwrap_or_default();
    if !medium.is_empty() && !mounts::is_mount_point(path)? {
        if let Some(size) = medium.strip_prefix("HugePages") {
            let size = page_size(spec, size).map_err(io::Error::other)?;
            mounts::mount_huge_pages(path, &size)?;
        } else if medium == "Memory" {
            mounts::mount_memory(path, memory_size(facts, spec, source).value())?;
        } else {
            let message = format!("there is no medium {medium:?}, expected Memory or HugePages");
            return Err(io::Error::other(message));
        }
    }
    // Every container may write to it, whatever user it runs as. What a group gave it stays.
    let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
    if mode & 0o777 == 0o777 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7000 | 0o777))
}

/// A volume in memory takes no more than the Pod may, and than the node has.
fn memory_size(facts: &NodeFacts, spec: &PodSpec, source: &EmptyDirVolumeSource) -> Quantity {
    let own = source.size_limit.as_ref();
    let own = own.and_then(|size| quantity::parse(&size.0));
    let node = Quantity::of(i64::try_from(facts.memory_capacity).unwrap_or(i64::MAX));
    let limits = [own.unwrap_or_default(), pod_limit(spec, "memory"), node];
    let given = limits.into_iter().filter(|limit| !limit.is_zero());
    given.min().unwrap_or_default()
}

/// The page size as the kernel takes it: that of the medium, or the only one that the Pod asks for.
fn page_size(spec: &PodSpec, of_medium: &str) -> Result<String, String> {
    let named = |name: &str| Some(name.strip_suffix('i')?.to_owned());
    if let Some(size) = of_medium.strip_prefix('-') {
        return named(size).ok_or_else(|| format!("there are no pages of size {size:?}"));
    }
    let inits = spec.init_containers.iter().flatten();
    let own = inits.chain(&spec.containers).flat_map(|c| &c.resources);
    let resources = own.chain(&spec.resources).flat_map(|r| &r.limits);
    let mut sizes: Vec<String> = resources
        .flat_map(|limits| limits.keys())
        .filter_map(|name| named(name.strip_prefix("hugepages-")?))
        .collect();
    sizes.sort();
    sizes.dedup();
    match sizes.as_slice() {
        [size] => Ok(size.clone()),
        [] => Err("no container has a limit of huge pages".to_owned()),
        _ => Err("containers ask for pages of several sizes, name one: HugePages-2Mi".to_owned()),
    }
}

fn write_files(
    facts: &NodeFacts,
    pod: &StaticPod,
    spec: &PodSpec,
    volume: &Volume,
    path: &Path,
    addresses: &Addresses,
) -> Result<(), String> {
    let payload = payload::payload(facts, pod, volume, addresses)?;
    let prepare = || {
        make_folder(path)?;
        // What may be secret never gets to a disk.
        if volume.config_map.is_none() && !mounts::is_mount_point(path)? {
            mounts::mount_memory(path, 0)?;
        }
        // Every container may look into it, whatever user it runs as; the files have modes of their own.
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
        files::write(path, &payload, fs_group(spec))
    };
    prepare().map_err(|e: io::Error| e.to_string())
}

/// The group that the Pod's volumes belong to.
fn fs_group(spec: &PodSpec) -> Option<u32> {
    let group = spec.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn own(spec: &PodSpec, path: &Path, read_only: bool) -> Result<(), String> {
    let Some(group) = fs_group(spec) else {
        return Ok(());
    };
    let context = spec.security_context.as_ref();
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    let matches = || ownership::root_matches(path, group, read_only);
    if policy == Some("OnRootMismatch") && matches() {
        return Ok(());
    }
    ownership::give(path, group, read_only).map_err(|e| format!("fsGroup: {e}"))
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)
}
