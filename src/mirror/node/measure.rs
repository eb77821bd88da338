//! Current measurements of the machine and the runtime.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerImage;
use tokio::time::Instant;

use super::pressure::{Pressure, Short, Thresholds};
use crate::cri::{Client, v1};
use crate::host::machine;

/// Interval between lists of images, that of reports of an unchanged status.
const IMAGES_INTERVAL: Duration = Duration::from_secs(300);
/// Images that a Node has, and names of each, at most (the kubelet's `nodeStatusMaxImages` and
/// `MaxNamesPerImageInNodeStatus`).
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// Measurements of the machine and the runtime.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::mirror) struct Measured {
    pub(super) host: Host,
    pub(super) pressure: Pressure,
    /// Last time that the machine was short of each.
    pub(super) short: Short,
    /// `containerd://2.1.9`
    pub(super) runtime_version: String,
    /// True if the runtime supports the policy; `None` if it does not report that.
    pub(super) supplemental_groups_policy: Option<bool>,
    /// Reason why the node is not ready.
    pub(super) not_ready: Option<String>,
    /// Total swap, in bytes.
    pub(super) swap: u64,
    /// Huge pages reserved, by their size in KiB.
    pub(super) huge_pages: BTreeMap<u64, u64>,
    /// The largest images.
    pub(super) images: Vec<ContainerImage>,
    /// Time at which images were listed.
    pub(super) listed_at: Option<Instant>,
}

/// Properties of the host that stay the same while it is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) boot_id: String,
    pub(super) machine_id: String,
    pub(super) system_uuid: String,
    pub(super) kernel_version: String,
    pub(super) os_image: String,
}

impl Measured {
    /// Measures everything; `root` is the agent's root directory. A runtime that does not answer
    /// leaves its report `before`.
    pub(in crate::mirror) async fn now(
        client: &Client,
        root: &Path,
        thresholds: &Thresholds,
        before: &Self,
    ) -> Self {
        let mut measured = Self {
            host: host(),
            huge_pages: machine::huge_pages(),
            swap: swap_capacity(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            not_ready: None,
            ..before.clone()
        };
        let images = image_disk(client).await;
        let is_short = thresholds.is_short_of(root, images.as_deref());
        let now = Instant::now();
        measured.pressure = measured.short.pressure(now, is_short, thresholds.lasts);
        match runtime(client).await {
            Ok((version, status)) => {
                measured.runtime_version = version;
                let features = status.features;
                measured.supplemental_groups_policy =
                    features.map(|f| f.supplemental_groups_policy);
                measured.not_ready = not_ready(&status);
            }
            Err(error) => {
                measured.not_ready =
                    Some(format!("the container runtime does not answer: {error}"));
            }
        }
        if measured
            .listed_at
            .is_none_or(|at| at.elapsed() >= IMAGES_INTERVAL)
            && let Ok(list) = client.list_images(v1::ListImagesRequest::default()).await
        {
            measured.images = largest(list.images);
            measured.listed_at = Some(Instant::now());
        }
        measured
    }
}

/// Returns the largest images as a Node has them, with some of their names.
fn largest(mut images: Vec<v1::Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images.truncate(MAX_IMAGES);
    let image = |image: v1::Image| {
        let mut names = image.repo_digests;
        names.extend(image.repo_tags);
        names.truncate(MAX_NAMES);
        ContainerImage {
            names: Some(names),
            size_bytes: i64::try_from(image.size).ok(),
        }
    };
    images.into_iter().map(image).collect()
}

async fn runtime(client: &Client) -> Result<(String, v1::StatusResponse), crate::cri::Error> {
    let version = client.version(v1::VersionRequest::default()).await?;
    let status = client.status(v1::StatusRequest { verbose: false }).await?;
    let version = format!("{}://{}", version.runtime_name, version.runtime_version);
    Ok((version, status))
}

/// The runtime's conditions without which no Pod runs, and what each is about (Container Runtime
/// Interface, `RuntimeStatus`). A runtime has others to inform its owner, as containerd's
/// `ContainerdHasNoDeprecationWarnings`: none of those keeps Pods from running.
const NEEDED: [(&str, &str); 2] = [
    ("RuntimeReady", "container runtime"),
    ("NetworkReady", "container runtime network"),
];

/// Returns the runtime's conditions that are not met, in the kubelet's words. A condition that is not
/// reported counts as not met.
fn not_ready(status: &v1::StatusResponse) -> Option<String> {
    let conditions = status.status.as_ref().map(|s| s.conditions.as_slice());
    let conditions = conditions.unwrap_or_default();
    let words = NEEDED.iter().filter_map(|(kind, what)| {
        let found = match conditions.iter().find(|c| c.r#type == *kind) {
            Some(found) if found.status => return None,
            Some(found) => format!(
                "{kind}=false reason:{} message:{}",
                found.reason, found.message
            ),
            None => format!("the runtime does not tell {kind}"),
        };
        Some(format!("{what} not ready: {found}"))
    });
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn host() -> Host {
    let line = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    let machine_id = line("/etc/machine-id");
    let system_uuid = line("/sys/class/dmi/id/product_uuid").to_lowercase();
    let release = line("/etc/os-release");
    Host {
        boot_id: machine::boot_id().trim().to_owned(),
        // A machine without one of its own is known by its installation.
        system_uuid: Some(system_uuid)
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| machine_id.clone()),
        machine_id,
        kernel_version: line("/proc/sys/kernel/osrelease"),
        os_image: pretty_name(&release).unwrap_or_default(),
    }
}

/// The name that an `os-release(5)` gives for people.
fn pretty_name(release: &str) -> Option<String> {
    let mut lines = release.lines();
    let name = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches(['"', '\'']).to_owned())
}

/// Returns the mount point of the image file system, if the runtime reports it.
async fn image_disk(client: &Client) -> Option<PathBuf> {
    let answer = client.image_fs_info(v1::ImageFsInfoRequest {}).await.ok()?;
    let first = answer.image_filesystems.into_iter().next()?;
    let mount = first.fs_id?.mountpoint;
    (!mount.is_empty()).then(|| mount.into())
}

fn swap_capacity(meminfo: &str) -> u64 {
    machine::meminfo_bytes(meminfo, "SwapTotal").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_writes_is_understood() {
        let release = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        let name = pretty_name(release);
        assert_eq!(name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        let meminfo = "MemFree: 9 kB\nInactive(file):   2039 kB\nSwapTotal: 4 kB\n";
        assert_eq!(swap_capacity(meminfo), 4 << 10);
    }

    #[test]
    fn the_largest_images_are_shown_with_some_of_their_names() {
        let image = |size: u64, tags: usize| v1::Image {
            id: format!("id-{size}"),
            repo_tags: (0..tags).map(|tag| format!("i:{tag}")).collect(),
            repo_digests: vec![format!("i@sha256:{size}")],
            size,
            ..v1::Image::default()
        };
        let found = largest((1..100).map(|size| image(size, 9)).collect());
        assert_eq!(found.len(), MAX_IMAGES);
        assert_eq!(found[0].size_bytes, Some(99));
        let names = found[0].names.as_deref().unwrap();
        assert_eq!(names, ["i@sha256:99", "i:0", "i:1", "i:2", "i:3"]);
    }

    #[test]
    fn the_node_is_ready_while_the_runtime_and_its_network_are() {
        let status = |conditions: &[(&str, bool)]| {
            let conditions = conditions
                .iter()
                .map(|(kind, status)| v1::RuntimeCondition {
                    r#type: (*kind).into(),
                    status: *status,
                    reason: "Why".into(),
                    message: "what".into(),
                });
            v1::StatusResponse {
                status: Some(v1::RuntimeStatus {
                    conditions: conditions.collect(),
                }),
                ..v1::StatusResponse::default()
            }
        };
        let (runtime, network) = (("RuntimeReady", true), ("NetworkReady", true));
        let no_network = ("NetworkReady", false);
        let warned = ("ContainerdHasNoDeprecationWarnings", false);
        for (conditions, expected) in [
            (vec![runtime, network], None),
            (vec![runtime, network, warned], None),
            (
                vec![runtime, no_network, warned],
                Some(
                    "container runtime network not ready: NetworkReady=false reason:Why message:what",
                ),
            ),
            (
                vec![("RuntimeReady", false), no_network],
                Some(
                    "container runtime not ready: RuntimeReady=false reason:Why message:what; \
                     container runtime network not ready: NetworkReady=false reason:Why message:what",
                ),
            ),
            (
                vec![runtime],
                Some("container runtime network not ready: the runtime does not tell NetworkReady"),
            ),
        ] {
            let found = not_ready(&status(&conditions));
            assert_eq!(found.as_deref(), expected, "{conditions:?}");
        }
    }
}
