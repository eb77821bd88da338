//! Image garbage collection: frees the file system of images, once it is too full.
//!
//! An image stays if a container of anybody uses it, if a manifest or a Pod that still exists names it, if it is
//! pinned, or if sandboxes are created from it. Where any of that is unknown, every image stays.

mod plan;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};

use super::supervisor::HeartbeatReceiver;
use crate::cri::{capabilities, v1};
use crate::host::blocking::blocking;
use crate::host::log_once::LogOnce;
use crate::image;
use crate::pod::task::Context;
use crate::pod::{folder, rollback};
use crate::source::Desired;
use crate::translate::Paths;

pub use plan::Policy;
use plan::{ImageFsUsage, ImageHistory, ListedImage, plan};

/// Time between two rounds, as the kubelet has it.
const PERIOD: Duration = Duration::from_secs(5 * 60);

/// Collects images for as long as the agent runs.
pub async fn keep(
    context: Arc<Context>,
    desired: watch::Receiver<Option<Desired>>,
    mut heartbeat: HeartbeatReceiver,
    policy: Policy,
) {
    // Pods come first.
    if policy.is_off() || heartbeat.wait_for(Option::is_some).await.is_err() {
        return;
    }
    // Until the desired Pods are known nothing may be removed: that is no problem unless it lasts.
    let mut known = desired.clone();
    let is_known = |desired: &Option<Desired>| desired.as_ref().is_some_and(|d| !d.web_unknown);
    let _ = tokio::time::timeout(PERIOD, known.wait_for(is_known)).await;
    let mut collector = Collector {
        context,
        desired,
        policy,
        history: ImageHistory::default(),
        problems: LogOnce::default(),
    };
    loop {
        let done = collector.collect().await;
        if let Some(error) = collector.problems.record("round", &done) {
            warn!(
                error,
                "Image garbage collection failed, no image is removed"
            );
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// State of the garbage collection.
struct Collector {
    context: Arc<Context>,
    desired: watch::Receiver<Option<Desired>>,
    policy: Policy,
    history: ImageHistory,
    problems: LogOnce,
}

/// Images that a round has removed.
#[derive(Debug, Default)]
struct Removed {
    names: Vec<String>,
    /// The ids of these, and of those that the runtime would not remove.
    tried: BTreeSet<String>,
}

impl Collector {
    /// Removes images until the file system is below the low threshold or none is left to remove, and logs it.
    async fn collect(&mut self) -> anyhow::Result<()> {
        let mount = self.mount().await?;
        let before = usage(&mount)?;
        let mut removed = Removed::default();
        let made = self.free_space(&mount, before, &mut removed).await;
        let now = usage(&mount)?;
        if !removed.names.is_empty() {
            info!(
                images = removed.names.join(", "),
                freed_bytes = now.available.saturating_sub(before.available),
                disk = %mount.display(),
                used_percent_before = before.used_percent(),
                used_percent = now.used_percent(),
                "Removed unused images"
            );
        }
        let missing_bytes = made?;
        let problem = (missing_bytes > 0).then_some("too full");
        if self.problems.should_log("disk", problem) {
            warn!(
                disk = %mount.display(),
                used_percent = now.used_percent(),
                missing_bytes,
                "Image file system is too full, and no image is left to remove"
            );
        }
        Ok(())
    }

    /// Removes images; returns the number of bytes that still have to be freed.
    async fn free_space(
        &mut self,
        mount: &Path,
        disk_before: ImageFsUsage,
        removed: &mut Removed,
    ) -> anyhow::Result<u64> {
        let mut excess = self.policy.excess(disk_before, false);
        loop {
            let mut images = self.images().await?;
            images.retain(|image| !removed.tried.contains(&image.id));
            let plan = plan(&self.policy, &images, &self.history, excess, Instant::now());
            if plan.is_empty() {
                return Ok(excess);
            }
            for image in plan {
                // The desired Pods may have changed, and this image with them.
                if self.desired.has_changed()? {
                    break;
                }
                self.remove(image, removed).await;
            }
            // Images share layers, so that only the file system shows how much was freed.
            excess = self.policy.excess(usage(mount)?, excess > 0);
        }
    }

    async fn remove(&mut self, image: &ListedImage, removed: &mut Removed) {
        let request = v1::RemoveImageRequest {
            image: Some(v1::ImageSpec {
                image: image.id.clone(),
                ..v1::ImageSpec::default()
            }),
        };
        let done = self.context.client.remove_image(request).await;
        if let Some(error) = self.problems.record(&image.id, &done) {
            warn!(image = image.name, error, "Failed to remove image");
        }
        removed.tried.insert(image.id.clone());
        if done.is_ok() {
            removed.names.push(image.name.clone());
        }
    }

    /// Returns the mount point of the file system of images.
    async fn mount(&self) -> anyhow::Result<PathBuf> {
        let request = v1::ImageFsInfoRequest {};
        let answer = self.context.client.image_fs_info(request).await?;
        let first = answer.image_filesystems.into_iter().next();
        let mount = first.and_then(|usage| usage.fs_id).map(|id| id.mountpoint);
        match mount {
            Some(mount) if !mount.is_empty() => Ok(mount.into()),
            _ => bail!("the container runtime reports no file system of images"),
        }
    }

    /// Lists the images that exist, and which of them are kept.
    async fn images(&mut self) -> anyhow::Result<Vec<ListedImage>> {
        let client = &self.context.client;
        // In this order, so that an image that comes into use meanwhile counts as used.
        let request = v1::ListImagesRequest::default();
        let images = client.list_images(request).await?.images;
        let request = v1::ListContainersRequest::default();
        let containers = client.list_containers(request).await?.containers;
        let used = containers.into_iter().flat_map(names_of_container);
        let used: BTreeSet<String> = used.collect();
        let wanted = self.wanted_names(&images).await?;
        let wanted = self.ids(wanted).await?;
        let local = |image: v1::Image| {
            let is_used = names_of_image(&image).any(|name| used.contains(name));
            ListedImage {
                kept: image.pinned || is_used || wanted.contains(&image.id),
                name: image.repo_tags.first().unwrap_or(&image.id).clone(),
                size: image.size,
                id: image.id,
            }
        };
        let images: Vec<_> = images.into_iter().map(local).collect();
        self.history.record(&images, Instant::now());
        Ok(images)
    }

    /// Returns the names of images in manifests and in records of Pods that still exist, and of the sandbox image.
    async fn wanted_names(&mut self, images: &[v1::Image]) -> anyhow::Result<BTreeSet<String>> {
        let desired = self.desired.borrow_and_update().clone();
        let desired = desired.context("it is not known yet what is wanted")?;
        if desired.web_unknown {
            bail!("it is not known yet what the manifest URL wants");
        }
        let mut names = BTreeSet::new();
        for wanted in desired.pods.values() {
            named_images(&wanted.pod.document.to_value(), &mut names);
        }
        let paths = self.context.facts.paths.clone();
        names.append(&mut blocking(move || names_of_records(&paths)).await?);
        let sandbox_image = self.sandbox_image().await?;
        if sandbox_image.is_none() && !images.iter().any(|image| image.pinned) {
            bail!(
                "the container runtime neither reports nor pins the image that it creates sandboxes from"
            );
        }
        names.extend(sandbox_image);
        Ok(names)
    }

    /// Returns the ids of the existing images of these names.
    async fn ids(&self, names: BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for name in names {
            match image::local(&self.context.client, &name).await {
                Ok(local) => ids.extend(local.map(|image| image.reference)),
                // No image has such a name.
                Err(error) if error.reason == "InvalidImageName" => {}
                Err(error) => bail!("{name}: {}", error.message),
            }
        }
        Ok(ids)
    }

    /// Returns the image that the runtime creates sandboxes from, where it reports it.
    async fn sandbox_image(&self) -> anyhow::Result<Option<String>> {
        let request = v1::StatusRequest { verbose: true };
        let status = self.context.client.status(request).await?;
        Ok(capabilities::sandbox_image(&status)?)
    }
}

/// Reads the usage of the file system at a mount point.
fn usage(mount: &Path) -> anyhow::Result<ImageFsUsage> {
    let usage = rustix::fs::statvfs(mount);
    let usage = usage.with_context(|| format!("cannot look at the disk of {}", mount.display()))?;
    Ok(ImageFsUsage {
        capacity: usage.f_blocks.saturating_mul(usage.f_frsize),
        available: usage.f_bavail.saturating_mul(usage.f_frsize),
    })
}

/// Returns all names by which a runtime may know an image.
fn names_of_image(image: &v1::Image) -> impl Iterator<Item = &String> {
    let id = std::iter::once(&image.id);
    id.chain(&image.repo_tags).chain(&image.repo_digests)
}

fn names_of_container(container: v1::Container) -> impl Iterator<Item = String> {
    let spec = container.image.unwrap_or_default();
    [spec.image, container.image_ref, container.image_id].into_iter()
}

/// Returns the names of images in records of Pods that still exist, whatever manifests say by now.
fn names_of_records(paths: &Paths) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for uid in folder::list(paths)? {
        if let Some(record) = folder::read_record(paths, &uid) {
            named_images(&record.document.to_value(), &mut names);
        }
    }
    for good in rollback::kept_records(paths)? {
        named_images(&good.document.to_value(), &mut names);
    }
    Ok(names)
}

/// Collects all names of images in a manifest, of containers and of volumes, wherever they stand: one too many
/// does no harm.
fn named_images(document: &Value, names: &mut BTreeSet<String>) {
    match document {
        Value::Array(items) => items.iter().for_each(|item| named_images(item, names)),
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = match value {
                    Value::String(name) if field == "image" => Some(name.as_str()),
                    Value::Object(_) if field == "image" => value["reference"].as_str(),
                    _ => None,
                };
                names.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
                named_images(value, names);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_that_a_manifest_names_is_found() {
        let document = serde_json::json!({
            "metadata": {"name": "web", "annotations": {"about": "image"}},
            "spec": {
                "initContainers": [{"name": "i", "image": "init:1"}],
                "containers": [
                    {"name": "c", "image": "web:1", "env": [{"name": "image", "value": "no:1"}]},
                    {"name": "d", "image": "web:2"},
                    {"name": "e", "image": ""},
                ],
                "volumes": [
                    {"name": "v", "image": {"reference": "data:1", "pullPolicy": "Never"}},
                    {"name": "w", "emptyDir": {}},
                ],
            },
        });
        let mut names = BTreeSet::new();
        named_images(&document, &mut names);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["data:1", "init:1", "web:1", "web:2"]);
    }
}
