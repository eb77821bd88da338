//! Names of Pods' cgroups, as the kubelet gives them.

/// Who writes to the cgroup file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// Whoever needs a cgroup makes it.
    #[default]
    Cgroupfs,
    /// systemd, which is asked for slices.
    Systemd,
}

/// The Pod's cgroup, as a path below the cgroup root: `/kubepods/besteffort/podUID`, or the slices
/// that systemd makes of it. Pods without resources, the only ones so far, are of the `BestEffort`
/// class (Kubernetes, Pod Quality of Service Classes).
#[must_use]
pub fn pod_cgroup_path(driver: CgroupDriver, uid: &str) -> String {
    match driver {
        CgroupDriver::Cgroupfs => format!("/kubepods/besteffort/pod{uid}"),
        CgroupDriver::Systemd => format!(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice",
            uid.replace('-', "_")
        ),
    }
}
