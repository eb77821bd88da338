//! Removal of images that a power cut tore, with all that a new pull would be made of.
//!
//! A pull takes what the runtime has already: content that was fetched and layers that were unpacked before, which may
//! be empty after a power cut. Both stay while anything refers to them: the image; the snapshot of a container that was
//! made from it; the lease of a pull that ended with the machine.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use tracing::{debug, warn};

use super::spec;
use crate::cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStatusRequest, ImageStatusRequest,
    ListContainersRequest, ListImagesRequest, RemoveImageRequest,
};
use crate::cri::{Client, Error, if_found};
use crate::host::machine;
use crate::translate::labels;

/// Removes images. Containers with this owner label that do not run any more stay, without what they wrote. Returns the
/// errors of images that were not removed.
pub(super) async fn remove(
    client: &Client,
    owner_label: &str,
    images: Vec<String>,
) -> HashMap<String, Error> {
    if let Err(error) = remove_snapshots(client, owner_label, &images).await {
        warn!(%error, "Failed to remove snapshots of damaged images");
    }
    let mut failed = HashMap::new();
    for image in images {
        let request = RemoveImageRequest {
            image: Some(spec(&image)),
        };
        if let Err(error) = if_found(client.remove_image(request).await) {
            failed.insert(image, error);
        }
    }
    match delete_leases(client).await {
        // It is another runtime's own affair.
        Ok(()) | Err(Error::Unimplemented { .. }) => {}
        Err(error) => warn!(%error, "Failed to remove content of damaged images"),
    }
    failed
}

/// Removes the snapshots of containers that do not run, and were made from one of the images, or from one that is not
/// there any more.
async fn remove_snapshots(
    client: &Client,
    owner_label: &str,
    images: &[String],
) -> Result<(), Error> {
    let label = (labels::ROOT_DIR.to_owned(), owner_label.to_owned());
    let request = ListContainersRequest {
        filter: Some(ContainerFilter {
            label_selector: HashMap::from([label]),
            ..ContainerFilter::default()
        }),
    };
    // Before the images: a container that comes meanwhile is of one that is there.
    let containers = client.list_containers(request).await?.containers;
    let mut whole: HashSet<String> = client
        .list_images(ListImagesRequest::default())
        .await?
        .images
        .into_iter()
        .map(|image| image.id)
        .collect();
    for image in images {
        let request = ImageStatusRequest {
            image: Some(spec(image)),
            verbose: false,
        };
        let answer = if_found(client.image_status(request).await)?;
        if let Some(image) = answer.and_then(|answer| answer.image) {
            whole.remove(&image.id);
        }
    }
    for container in containers {
        let may_run = !matches!(
            container.state(),
            ContainerState::ContainerExited | ContainerState::ContainerCreated
        );
        if may_run || is_of(&container, &whole) {
            continue;
        }
        if let Err(error) = remove_snapshot(client, &container.id).await {
            debug!(container_id = container.id, %error, "Failed to remove snapshot");
        }
    }
    Ok(())
}

/// Returns true if a container was made from one of these images, by their IDs.
fn is_of(container: &Container, images: &HashSet<String>) -> bool {
    let named = container.image.as_ref().map(|image| &image.image);
    images.contains(&container.image_ref) || named.is_some_and(|image| images.contains(image))
}

/// Snapshot of a container, in containerd's verbose status.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotInfo {
    snapshotter: String,
    snapshot_key: String,
}

async fn remove_snapshot(client: &Client, container_id: &str) -> Result<(), Error> {
    let request = ContainerStatusRequest {
        container_id: container_id.to_owned(),
        verbose: true,
    };
    let status = client.container_status(request).await?;
    let info = status.info.get("info");
    let info = info.and_then(|info| serde_json::from_str::<SnapshotInfo>(info).ok());
    let Some(info) = info.filter(|info| !info.snapshot_key.is_empty()) else {
        return Ok(());
    };
    client
        .remove_snapshot(&info.snapshotter, &info.snapshot_key)
        .await
}

/// Deletes the leases of pulls that ended with an earlier boot, and what nothing refers to then.
async fn delete_leases(client: &Client) -> Result<(), Error> {
    for lease in client.pull_leases().await? {
        if machine::is_of_earlier_boot(lease.created) {
            client.delete_lease(&lease.id).await?;
        }
    }
    client.collect_garbage().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::ImageSpec;

    #[test]
    fn a_container_is_of_an_image_by_its_id_wherever_it_stands() {
        let images = HashSet::from(["sha256:1".to_owned()]);
        let container = |image: &str, image_ref: &str| Container {
            image: Some(ImageSpec {
                image: image.to_owned(),
                ..ImageSpec::default()
            }),
            image_ref: image_ref.to_owned(),
            ..Container::default()
        };
        assert!(is_of(&container("sha256:1", ""), &images));
        assert!(is_of(&container("", "sha256:1"), &images));
        assert!(!is_of(&container("sha256:2", "sha256:2"), &images));
        assert!(!is_of(&Container::default(), &images));
    }
}
