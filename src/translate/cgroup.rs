//! Names of Pods' cgroups, as the kubelet gives them.

use anyhow::bail;

use super::{QosClass, cpu_shares};
use crate::host::cgroup::CgroupDriver;

/// The part of the names that all Pods' cgroups have in common.
const ALL_PODS: &str = "kubepods";

/// The cgroup that those of Pods are below: `--cgroup-root`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupRoot {
    /// Names of it and of those above it, the highest one first; empty for the root.
    parts: Vec<String>,
}

impl CgroupRoot {
    /// Parses a path such as `/kubelet`; the empty one is the root.
    ///
    /// # Errors
    /// It has parts that cannot be names of cgroups.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let parts = text.split('/').filter(|part| !part.is_empty());
        let parts: Vec<String> = parts.map(str::to_owned).collect();
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || ":_.-@".contains(c);
        if let Some(wrong) = parts
            .iter()
            .find(|part| part.starts_with('.') || !part.chars().all(is_allowed))
        {
            bail!(
                "found {wrong:?} in {text:?}, expected names of letters, digits, ':', '_', '.', '-' \
                 and '@' between slashes"
            );
        }
        Ok(Self { parts })
    }

    /// The path of the cgroup of these names below it.
    fn path(&self, driver: CgroupDriver, below: &[&str]) -> String {
        let parts = self.parts.iter().map(String::as_str);
        let parts: Vec<&str> = parts.chain(below.iter().copied()).collect();
        match driver {
            CgroupDriver::Cgroupfs => format!("/{}", parts.join("/")),
            CgroupDriver::Systemd => {
                let mut path = String::new();
                let mut name = String::new();
                for part in parts {
                    if !name.is_empty() {
                        name.push('-');
                    }
                    // A dash in a slice's name says that it is in another one.
                    name.push_str(&part.replace('-', "_"));
                    path = format!("{path}/{name}.slice");
                }
                path
            }
        }
    }
}

/// The Pod's cgroup, as a path from the roots of the hierarchies: `/kubepods/burstable/podUID`, or the slices that
/// systemd makes of it. Guaranteed Pods stand beside the classes (Kubernetes, Pod Quality of Service
/// Classes).
#[must_use]
pub fn pod_cgroup_path(
    driver: CgroupDriver,
    root: &CgroupRoot,
    class: QosClass,
    uid: &str,
) -> String {
    let pod = format!("pod{uid}");
    match class_name(class) {
        None => root.path(driver, &[ALL_PODS, &pod]),
        Some(class) => root.path(driver, &[ALL_PODS, class, &pod]),
    }
}

/// The cgroup that the Pods of a class stand in, as a path from the roots of the hierarchies.
#[must_use]
pub fn class_cgroup_path(driver: CgroupDriver, root: &CgroupRoot, class: QosClass) -> String {
    match class_name(class) {
        None => root.path(driver, &[ALL_PODS]),
        Some(class) => root.path(driver, &[ALL_PODS, class]),
    }
}

/// The cgroups that hold those of all Pods, each after those below it.
pub fn all_pods_cgroup_paths(
    driver: CgroupDriver,
    root: &CgroupRoot,
) -> impl Iterator<Item = String> {
    let inner_first = [
        QosClass::Burstable,
        QosClass::BestEffort,
        QosClass::Guaranteed,
    ];
    inner_first
        .map(|class| class_cgroup_path(driver, root, class))
        .into_iter()
}

/// Every cgroup that a Pod of this UID can have, whatever its class.
pub fn pod_cgroup_paths(
    driver: CgroupDriver,
    root: &CgroupRoot,
    uid: &str,
) -> impl Iterator<Item = String> {
    let classes = [
        QosClass::Guaranteed,
        QosClass::Burstable,
        QosClass::BestEffort,
    ];
    classes
        .map(|class| pod_cgroup_path(driver, root, class, uid))
        .into_iter()
}

/// CPU shares of the cgroups of QoS classes, by their paths (the kubelet's `setCPUCgroupConfig`): as many as
/// the Pods of the class request together. `burstable` is that sum for burstable Pods, in thousandths of a
/// CPU; best-effort Pods request none, and guaranteed ones have no cgroup of their class.
#[must_use]
pub fn qos_cpu_shares(
    driver: CgroupDriver,
    root: &CgroupRoot,
    burstable: i64,
) -> [(String, i64); 2] {
    [(QosClass::Burstable, burstable), (QosClass::BestEffort, 0)]
        .map(|(class, milli)| (class_cgroup_path(driver, root, class), cpu_shares(milli)))
}

fn class_name(class: QosClass) -> Option<&'static str> {
    match class {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_as_the_kubelet_names_them() {
        use CgroupDriver::{Cgroupfs, Systemd};
        for (root, driver, class, expected) in [
            ("", Cgroupfs, QosClass::Guaranteed, "/kubepods/pod1-2"),
            (
                "/",
                Cgroupfs,
                QosClass::Burstable,
                "/kubepods/burstable/pod1-2",
            ),
            (
                "/kubelet",
                Cgroupfs,
                QosClass::BestEffort,
                "/kubelet/kubepods/besteffort/pod1-2",
            ),
            (
                "a/b-c/",
                Cgroupfs,
                QosClass::Guaranteed,
                "/a/b-c/kubepods/pod1-2",
            ),
            (
                "",
                Systemd,
                QosClass::BestEffort,
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice",
            ),
            (
                "/kubelet",
                Systemd,
                QosClass::Guaranteed,
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1_2.slice",
            ),
            (
                "/b-c",
                Systemd,
                QosClass::Guaranteed,
                "/b_c.slice/b_c-kubepods.slice/b_c-kubepods-pod1_2.slice",
            ),
        ] {
            let root = CgroupRoot::parse(root).unwrap();
            assert_eq!(pod_cgroup_path(driver, &root, class, "1-2"), expected);
            let around = expected.rsplit_once('/').unwrap().0;
            assert_eq!(class_cgroup_path(driver, &root, class), around);
        }
    }

    #[test]
    fn a_root_that_leads_elsewhere_is_refused() {
        for wrong in ["/..", "/a/../b", "/.", "/a b", "/a\n"] {
            let error = CgroupRoot::parse(wrong).unwrap_err().to_string();
            assert!(error.starts_with("found "), "{error}");
        }
    }
}
