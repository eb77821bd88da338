//! Disk usage: of the file systems that the runtime uses, and of the volumes and logs of each Pod.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{StatVfs, fstatfs, fstatvfs, statvfs};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::{FsAmounts, FsStats, number};
use crate::cri::v1;
use crate::host::blocking::blocking;
use crate::host::untrusted::Location;
use crate::manifest::{PackedPod, PodKey, StaticPod};
use crate::pod::report::PodSnapshot;
use crate::pod::task::Context;
use crate::translate::{Paths, VolumeSource, volume_source};
use crate::volume::{DiskUsageCounter, FolderUsage};

/// Time for which the usage of a Pod's volumes is kept, as by the kubelet (`volumeStatsAggPeriod`): to count it, all
/// files are gone through.
const VOLUMES_FRESH: Duration = Duration::from_secs(60);
/// Files of one Pod that are counted at most. What a Pod with more uses is not known.
const MAX_FILES: usize = 200_000;
/// File systems in memory: tmpfs and hugetlbfs (statfs(2)).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x9584_58f6];

/// Disk usage at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::server::https) struct DiskUsage {
    /// File system of images, with what they use of it.
    pub(super) images: Option<FsStats>,
    /// File system of the containers' own layers, with what they use of it.
    pub(super) layers: Option<FsStats>,
    /// By Pod UID.
    pub(super) pods: HashMap<String, PodDiskUsage>,
}

/// Disk usage of one Pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PodDiskUsage {
    pub(super) volumes: Arc<Vec<VolumeUsage>>,
    /// By container.
    pub(super) logs: BTreeMap<String, FsStats>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct VolumeUsage {
    pub(super) name: String,
    pub(super) stats: FsStats,
    /// It takes memory, no disk.
    pub(super) is_in_memory: bool,
}

/// The last measurements of volumes, by Pod UID.
type LastVolumes = HashMap<String, (Instant, Arc<Vec<VolumeUsage>>)>;

/// Measures disks, one caller at a time.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<LastVolumes>);

impl Disks {
    /// Measures the disks. What cannot be measured is left out.
    pub(super) async fn measure(&self, context: &Arc<Context>) -> DiskUsage {
        let mut last = self.0.lock().await;
        let info = context.client.image_fs_info(v1::ImageFsInfoRequest {});
        let info = info.await;
        let info = info.inspect_err(|error| debug!(%error, "Failed to get image file system"));
        let info = info.unwrap_or_default();
        let (before, context) = (std::mem::take(&mut *last), Arc::clone(context));
        let (usage, measured) = blocking(move || {
            let paths = &context.facts.paths;
            let pods = context.reports.snapshots().into_iter();
            let pods = pods.map(|(key, pod)| measure_pod(paths, &key, &pod, &before));
            let pods: HashMap<_, _> = pods.collect();
            let last = pods.iter().map(|(uid, (at, pod))| {
                let volumes = Arc::clone(&pod.volumes);
                (uid.clone(), (*at, volumes))
            });
            let last: LastVolumes = last.collect();
            let (images, layers) = runtime(&info);
            let pods = pods.into_iter().map(|(uid, (_, pod))| (uid, pod));
            let usage = DiskUsage {
                images,
                layers,
                pods: pods.collect(),
            };
            (usage, last)
        })
        .await;
        *last = measured;
        usage
    }
}

/// Returns the usage of a Pod by its UID, and when its volumes were measured.
fn measure_pod(
    paths: &Paths,
    key: &PodKey,
    pod: &PodSnapshot,
    before: &LastVolumes,
) -> (String, (Instant, PodDiskUsage)) {
    let uid = &pod.report.uid;
    let mut counter = DiskUsageCounter::new(MAX_FILES);
    let logs = paths.log_location(key, uid);
    let log = |name: &str, counter: &mut DiskUsageCounter| {
        let (stats, _) = folder(&logs.join(name), counter)?;
        Some((name.to_owned(), stats))
    };
    let names = pod.report.containers.iter().map(|c| c.name.as_str());
    let logs = names.filter_map(|name| log(name, &mut counter)).collect();
    let known = before.get(uid);
    let known = known.filter(|(at, _)| at.elapsed() < VOLUMES_FRESH);
    let (at, volumes) = known.cloned().unwrap_or_else(|| {
        let version = pod.version.as_ref().map(PackedPod::unpack);
        let all = version.map(|pod| volumes(paths, &pod, &mut counter));
        (Instant::now(), Arc::new(all.unwrap_or_default()))
    });
    (uid.clone(), (at, PodDiskUsage { volumes, logs }))
}

/// Measures a Pod's own volumes; host paths are not the Pod's.
fn volumes(paths: &Paths, pod: &StaticPod, counter: &mut DiskUsageCounter) -> Vec<VolumeUsage> {
    let all = pod.spec.volumes.iter().flatten();
    let measured = all.filter_map(|volume| {
        let path = match volume_source(paths, pod, volume)? {
            VolumeSource::EmptyDir(path) | VolumeSource::Files(path) => path,
            VolumeSource::HostPath { .. } => return None,
        };
        let inside = path.strip_prefix(&paths.root).ok()?;
        let location = Location::new(&paths.root, inside);
        let (stats, is_in_memory) = folder(&location, counter)?;
        Some(VolumeUsage {
            name: volume.name.clone(),
            stats,
            is_in_memory,
        })
    });
    measured.collect()
}

/// Measures a folder; returns `true` with it if it is in memory.
fn folder(location: &Location, counter: &mut DiskUsageCounter) -> Option<(FsStats, bool)> {
    let fd: OwnedFd = location.open().ok()?.into_fd();
    let found = fstatvfs(fd.as_fd()).ok()?;
    let kind = fstatfs(fd.as_fd()).ok()?.f_type;
    let mut stats = file_system(&found, now());
    if IN_MEMORY.contains(&kind) {
        return Some((stats, true));
    }
    let used: FolderUsage = counter
        .count(fd)
        .inspect_err(
            |error| debug!(%error, folder = %location.path().display(), "Disk usage is not known"),
        )
        .ok()?;
    (stats.bytes.used, stats.inodes.used) = (Some(used.bytes), Some(used.inodes));
    Some((stats, false))
}

/// Returns the file systems of images and of containers' layers. A runtime that keeps both in one reports it once.
fn runtime(info: &v1::ImageFsInfoResponse) -> (Option<FsStats>, Option<FsStats>) {
    let first = |all: &[v1::FilesystemUsage]| {
        let usage = all.first()?;
        let mut stats = at(Path::new(&usage.fs_id.as_ref()?.mountpoint))?;
        stats.bytes.used = number(usage.used_bytes.as_ref());
        stats.inodes.used = number(usage.inodes_used.as_ref());
        Some(stats)
    };
    let images = first(&info.image_filesystems);
    let layers = first(&info.container_filesystems).or(images);
    (images, layers)
}

/// Measures the file system that a path of the agent or the runtime is on.
pub(super) fn at(path: &Path) -> Option<FsStats> {
    Some(file_system(&statvfs(path).ok()?, now()))
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn file_system(found: &StatVfs, time: i64) -> FsStats {
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    FsStats {
        time,
        bytes: FsAmounts {
            all: bytes(found.f_blocks),
            available: bytes(found.f_bavail),
            used: Some(bytes(found.f_blocks.saturating_sub(found.f_bfree))),
        },
        inodes: FsAmounts {
            all: found.f_files,
            available: found.f_favail,
            used: Some(found.f_files.saturating_sub(found.f_ffree)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::manifest::{SourceKind, parse};
    use crate::pod::report::ContainerReport;

    fn snapshot() -> PodSnapshot {
        let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}], \
                        volumes: [{name: data, emptyDir: {}}, {name: host, hostPath: {path: /usr}}, \
                        {name: gone, emptyDir: {}}]}}";
        let version = parse(manifest.as_bytes(), "n1", SourceKind::File)
            .unwrap()
            .pod;
        let mut pod = PodSnapshot::default();
        pod.report.uid = version.uid.to_string();
        pod.version = Some(version.into());
        pod.report.containers.push(ContainerReport {
            name: "c".into(),
            ..ContainerReport::default()
        });
        pod
    }

    #[test]
    fn a_pod_uses_its_own_volumes_and_logs_and_volumes_are_counted_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().join("root"),
            logs: folder.path().join("logs"),
            ..Paths::default()
        };
        let (pod, key) = (snapshot(), PodKey::default());
        let uid = pod.report.uid.clone();
        let (data, logs) = (paths.empty_dir(&uid, "data"), paths.pod_logs(&key, &uid));
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("x"), vec![1; 50_000]).unwrap();
        fs::create_dir_all(logs.join("c")).unwrap();
        fs::write(logs.join("c/0.log"), vec![1; 9000]).unwrap();

        let (_, (at, first)) = measure_pod(&paths, &key, &pod, &LastVolumes::new());
        let names: Vec<&str> = first.volumes.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["data"]);
        let used = |pod: &PodDiskUsage| pod.volumes[0].stats.bytes.used.unwrap();
        let is_in_memory = first.volumes[0].is_in_memory;
        assert!(is_in_memory || (50_000..100_000).contains(&used(&first)));
        assert!(first.logs["c"].bytes.used.unwrap() >= 9000);

        fs::write(data.join("y"), vec![1; 50_000]).unwrap();
        let kept = LastVolumes::from([(uid, (at, Arc::clone(&first.volumes)))]);
        let (_, (_, again)) = measure_pod(&paths, &key, &pod, &kept);
        assert_eq!(used(&again), used(&first));
        let (_, (_, anew)) = measure_pod(&paths, &key, &pod, &LastVolumes::new());
        assert!(used(&anew) > used(&first));
    }

    #[test]
    fn images_are_on_the_file_system_that_the_runtime_names() {
        let usage = |bytes| v1::FilesystemUsage {
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: "/".into(),
            }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            ..v1::FilesystemUsage::default()
        };
        let (images, layers) = runtime(&v1::ImageFsInfoResponse {
            image_filesystems: vec![usage(7)],
            container_filesystems: vec![],
        });
        assert_eq!(images.unwrap().bytes.used, Some(7));
        assert!(images.unwrap().bytes.all > 0);
        assert_eq!(images, layers);
        assert_eq!(runtime(&v1::ImageFsInfoResponse::default()), (None, None));
    }
}
