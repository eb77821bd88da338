//! Names of Pods' cgroups, as the kubelet gives them.

use super::{QosClass, cpu_shares};
use crate::host::cgroup::CgroupDriver;

/// The Pod's cgroup, as a path below the cgroup root: `/kubepods/burstable/podUID`, or the slices that
/// systemd makes of it. Guaranteed Pods stand beside the classes (Kubernetes, Pod Quality of Service
/// Classes).
#[must_use]
pub fn pod_cgroup_path(driver: CgroupDriver, class: QosClass, uid: &str) -> String {
    let around = class_cgroup_path(driver, class);
    match (driver, class_name(class)) {
        (CgroupDriver::Cgroupfs, _) => format!("{around}/pod{uid}"),
        (CgroupDriver::Systemd, None) => {
            format!("{around}/kubepods-pod{}.slice", uid.replace('-', "_"))
        }
        (CgroupDriver::Systemd, Some(class)) => {
            let uid = uid.replace('-', "_");
            format!("{around}/kubepods-{class}-pod{uid}.slice")
        }
    }
}

/// The cgroup that the Pods of a class stand in, as a path below the cgroup root.
#[must_use]
pub fn class_cgroup_path(driver: CgroupDriver, class: QosClass) -> String {
    match (driver, class_name(class)) {
        (CgroupDriver::Cgroupfs, None) => "/kubepods".to_owned(),
        (CgroupDriver::Cgroupfs, Some(class)) => format!("/kubepods/{class}"),
        (CgroupDriver::Systemd, None) => "/kubepods.slice".to_owned(),
        (CgroupDriver::Systemd, Some(class)) => {
            format!("/kubepods.slice/kubepods-{class}.slice")
        }
    }
}

/// Every cgroup that a Pod of this UID can have, whatever its class.
pub fn pod_cgroup_paths(driver: CgroupDriver, uid: &str) -> impl Iterator<Item = String> {
    let classes = [
        QosClass::Guaranteed,
        QosClass::Burstable,
        QosClass::BestEffort,
    ];
    classes
        .map(|class| pod_cgroup_path(driver, class, uid))
        .into_iter()
}

/// CPU shares of the cgroups of QoS classes, by their paths (the kubelet's `setCPUCgroupConfig`): as many as
/// the Pods of the class request together. `burstable` is that sum for burstable Pods, in thousandths of a
/// CPU; best-effort Pods request none, and guaranteed ones have no cgroup of their class.
#[must_use]
pub fn qos_cpu_shares(driver: CgroupDriver, burstable: i64) -> [(String, i64); 2] {
    [(QosClass::Burstable, burstable), (QosClass::BestEffort, 0)]
        .map(|(class, milli)| (class_cgroup_path(driver, class), cpu_shares(milli)))
}

fn class_name(class: QosClass) -> Option<&'static str> {
    match class {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    }
}
