//! Current measurements of the machine and the runtime.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerImage;
use tokio::time::Instant;

use crate::cri::{Client, v1};
use crate::host::machine::{self, ProcessIds};

/// Memory, and shares of disks, below which the node is under pressure: the kubelet's default thresholds for
/// evicting Pods (Kubernetes, Node-pressure Eviction, "Hard eviction thresholds"). This agent evicts none.
const LEAST_MEMORY: u64 = 100 << 20;
const LEAST_DISK: f64 = 0.10;
const LEAST_IMAGE_DISK: f64 = 0.15;
const LEAST_INODES: f64 = 0.05;
/// Share of process ids below which the node is under pressure. The kubelet has no default here, so that its
/// condition holds on no node unless it is configured; this share is a common choice for `pid.available`.
const LEAST_PROCESS_IDS: f64 = 0.10;
/// A node that was short of something is under pressure for as long after that
/// (`evictionPressureTransitionPeriod`).
const PRESSURE_LASTS: Duration = Duration::from_secs(300);

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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Short {
    memory: Option<Instant>,
    disk: Option<Instant>,
    process_ids: Option<Instant>,
}

impl Short {
    /// Returns the pressures that follow from the current shortage and the one before.
    fn pressure(&mut self, now: Instant, is_short: Pressure) -> Pressure {
        let under = |last: &mut Option<Instant>, is_short: bool| {
            if is_short {
                *last = Some(now);
            }
            last.is_some_and(|last| is_short || now.duration_since(last) < PRESSURE_LASTS)
        };
        Pressure {
            memory: under(&mut self.memory, is_short.memory),
            disk: under(&mut self.disk, is_short.disk),
            process_ids: under(&mut self.process_ids, is_short.process_ids),
        }
    }
}

/// Resources that the machine is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) process_ids: bool,
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
    pub(in crate::mirror) async fn now(client: &Client, root: &Path, before: &Self) -> Self {
        let mut measured = Self {
            host: host(),
            huge_pages: machine::huge_pages(),
            swap: swap_capacity(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            not_ready: None,
            ..before.clone()
        };
        let images = image_disk(client).await;
        let is_short = is_short_of(root, images.as_deref());
        measured.pressure = measured.short.pressure(Instant::now(), is_short);
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
        boot_id: line("/proc/sys/kernel/random/boot_id"),
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

fn is_short_of(root: &Path, images: Option<&Path>) -> Pressure {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let disk = |path: &Path, share: f64| {
        let disk = rustix::fs::statvfs(path).ok();
        disk.is_some_and(|disk| {
            is_short(disk.f_bavail, disk.f_blocks, share)
                || is_short(disk.f_favail, disk.f_files, LEAST_INODES)
        })
    };
    Pressure {
        memory: available_memory(&meminfo).is_some_and(|bytes| bytes < LEAST_MEMORY),
        disk: disk(root, LEAST_DISK) || images.is_some_and(|path| disk(path, LEAST_IMAGE_DISK)),
        process_ids: machine::process_ids().is_some_and(few_process_ids),
    }
}

fn few_process_ids(ids: ProcessIds) -> bool {
    let left = ids.max.saturating_sub(ids.taken);
    is_short(left, ids.max, LEAST_PROCESS_IDS)
}

/// True if less than a share is left. A total of zero is ignored: some file systems do not count.
#[allow(
    clippy::cast_precision_loss,
    reason = "a share needs no more precision"
)]
fn is_short(left: u64, all: u64, share: f64) -> bool {
    all > 0 && (left as f64) < share * all as f64
}

fn swap_capacity(meminfo: &str) -> u64 {
    machine::meminfo_bytes(meminfo, "SwapTotal").unwrap_or_default()
}

/// Memory that is not in use: without the file cache that was not read for long, which the kernel drops first
/// (Kubernetes, Node-pressure Eviction, `memory.available`).
fn available_memory(meminfo: &str) -> Option<u64> {
    let of = |name| machine::meminfo_bytes(meminfo, name);
    Some(of("MemFree")?.saturating_add(of("Inactive(file)")?))
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
        assert_eq!(available_memory(meminfo), Some(2 << 20));
        assert!(is_short(9, 100, 0.1) && !is_short(10, 100, 0.1));
        assert!(!is_short(0, 0, 0.1), "a file system that does not count");
        let ids = |taken| ProcessIds { max: 1000, taken };
        assert!(!few_process_ids(ids(900)) && few_process_ids(ids(901)));
        assert!(few_process_ids(ids(2000)), "more than the limit");
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
    fn pressure_stays_for_five_minutes_after_the_machine_was_short() {
        let begin = Instant::now();
        let (mut short, mut seen) = (Short::default(), vec![]);
        for (seconds, disk) in [
            (0, false),
            (10, true),
            (20, false),
            (309, false),
            (310, false),
        ] {
            let is_short = Pressure {
                disk,
                ..Pressure::default()
            };
            let pressure = short.pressure(begin + Duration::from_secs(seconds), is_short);
            assert!(!pressure.memory);
            seen.push(pressure.disk);
        }
        assert_eq!(seen, [false, true, true, true, false]);
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
