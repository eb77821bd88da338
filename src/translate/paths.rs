//! Paths of a Pod's files on the node: below the root directory and the Pods' log directory, under the
//! kubelet's names.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Volume;

use crate::host::log_links::LogLinks;
use crate::host::untrusted::Location;
use crate::manifest::{PodKey, StaticPod};

/// The agent's folders, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `--root-dir`.
    pub root: PathBuf,
    /// The Pods' log directory.
    pub logs: PathBuf,
    /// The folder of links to containers' logs, which log shippers read.
    pub container_logs: PathBuf,
    /// Mount point of the cgroup file systems.
    pub cgroups: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/podkeeper"),
            logs: PathBuf::from("/var/log/pods"),
            container_logs: PathBuf::from("/var/log/containers"),
            cgroups: PathBuf::from("/sys/fs/cgroup"),
        }
    }
}

impl Paths {
    /// By what the agent knows its own sandboxes and containers: the value of their label
    /// [`ROOT_DIR`](super::labels::ROOT_DIR).
    #[must_use]
    pub fn owner_label(&self) -> String {
        self.root.display().to_string()
    }

    /// The folder of all Pods' own folders.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// The folder of what is kept of updates that can be taken back.
    #[must_use]
    pub fn rollbacks(&self) -> PathBuf {
        self.root.join("rollbacks")
    }

    /// The folder of the records of paused Pods.
    #[must_use]
    pub fn pauses(&self) -> PathBuf {
        self.root.join("pauses")
    }

    /// The folder of the records of Pods whose first start is held.
    #[must_use]
    pub fn holds(&self) -> PathBuf {
        self.root.join("holds")
    }

    /// The Pod's own folder.
    #[must_use]
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// The `/etc/hosts` of the Pod's containers.
    #[must_use]
    pub fn hosts_file(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// The folder of an emptyDir volume.
    #[must_use]
    pub fn empty_dir(&self, uid: &str, volume: &str) -> PathBuf {
        self.volume(uid, "empty-dir", volume)
    }

    /// The file that marks a folder of the Pod's own, such as an emptyDir, as set up completely.
    #[must_use]
    pub fn ready(&self, uid: &str, volume: &str) -> PathBuf {
        let plugin = self.pod(uid).join("plugins/kubernetes.io~empty-dir");
        plugin.join(volume).join("ready")
    }

    /// The folder of the Pod's own volumes.
    #[must_use]
    pub fn volumes(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volumes")
    }

    /// The folder of a volume of a kind.
    fn volume(&self, uid: &str, kind: &str, volume: &str) -> PathBuf {
        let volumes = self.volumes(uid);
        volumes.join(format!("kubernetes.io~{kind}")).join(volume)
    }

    /// Mount point of a volume's `subPath` for a container.
    #[must_use]
    pub fn sub_path(&self, uid: &str, volume: &str, container: &str, index: usize) -> PathBuf {
        let folder = self.pod(uid).join("volume-subpaths").join(volume);
        folder.join(container).join(index.to_string())
    }

    /// A seccomp profile of the node's own, without what leads nowhere in its name (`.`, `//`).
    #[must_use]
    pub fn seccomp_profile(&self, name: &str) -> PathBuf {
        let path = self.root.join("seccomp").join(name);
        path.components().collect()
    }

    /// The folder of a container's own files.
    #[must_use]
    pub fn container(&self, uid: &str, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }

    /// The file that a container leaves its termination message in; each attempt has its own.
    #[must_use]
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        let folder = self.container(uid, container);
        folder.join(format!("{attempt:08x}"))
    }

    /// The same file, as one that its container can write to: the folder, and its name there.
    pub(crate) fn termination_location(
        &self,
        uid: &str,
        container: &str,
        attempt: u32,
    ) -> (Location, String) {
        let folder = self.pod_location(uid).join("containers").join(container);
        (folder, format!("{attempt:08x}"))
    }

    /// The Pod's own folder, as one that containers may be able to write to.
    pub(crate) fn pod_location(&self, uid: &str) -> Location {
        Location::new(&self.root, "pods").join(uid)
    }

    /// The folder of a Pod's logs.
    #[must_use]
    pub fn pod_logs(&self, key: &PodKey, uid: &str) -> PathBuf {
        let name = format!("{}_{}_{uid}", key.namespace, key.name);
        self.logs.join(name)
    }

    /// The folder of a Pod's logs, as one that containers may be able to write to.
    pub(crate) fn log_location(&self, key: &PodKey, uid: &str) -> Location {
        let name = format!("{}_{}_{uid}", key.namespace, key.name);
        Location::new(&self.logs, name)
    }

    /// The links to containers' logs.
    #[must_use]
    pub fn log_links(&self) -> LogLinks {
        LogLinks {
            folder: self.container_logs.clone(),
            logs: self.logs.clone(),
        }
    }

    /// The log of one instance of a container.
    #[must_use]
    pub fn container_log(&self, key: &PodKey, uid: &str, container: &str, attempt: u32) -> PathBuf {
        let folder = self.pod_logs(key, uid).join(container);
        folder.join(format!("{attempt}.log"))
    }
}

/// Source of a volume of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A file or folder of the host, and the type it has to have (empty: whatever is there).
    HostPath {
        /// The path on the host.
        path: PathBuf,
        /// `DirectoryOrCreate`, `File`, …
        kind: String,
    },
    /// A folder of the Pod's own.
    EmptyDir(PathBuf),
    /// A folder of files that the agent writes: the downward API's, `ConfigMap`s' and `Secret`s'.
    Files(PathBuf),
}

impl VolumeSource {
    /// The path on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::HostPath { path, .. } | Self::EmptyDir(path) | Self::Files(path) => path,
        }
    }

    /// True if no container may write to it, whatever its mounts say.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Files(_))
    }
}

/// Returns the source of a volume; `None` for a kind that is not implemented, which acceptance refuses.
#[must_use]
pub fn volume_source(paths: &Paths, pod: &StaticPod, volume: &Volume) -> Option<VolumeSource> {
    if let Some(host) = &volume.host_path {
        return Some(VolumeSource::HostPath {
            path: PathBuf::from(&host.path),
            kind: host.type_.clone().unwrap_or_default(),
        });
    }
    if volume.empty_dir.is_some() {
        return Some(VolumeSource::EmptyDir(
            paths.empty_dir(&pod.uid, &volume.name),
        ));
    }
    let kinds = [
        (volume.downward_api.is_some(), "downward-api"),
        (volume.config_map.is_some(), "configmap"),
        (volume.secret.is_some(), "secret"),
        (volume.projected.is_some(), "projected"),
    ];
    let (_, kind) = kinds.into_iter().find(|(given, _)| *given)?;
    let folder = paths.volume(&pod.uid, kind, &volume.name);
    Some(VolumeSource::Files(folder))
}
