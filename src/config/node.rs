//! Properties of the node: its addresses and labels, runtime classes, and limits for its Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::bail;

use super::values::{Resolved, Values};
use crate::manifest::{LABEL_VALUE, QUALIFIED_NAME, is_label_value, is_qualified_name};

/// Labels of Kubernetes' own domains that a node may set on itself (Kubernetes, Well-Known Labels; the same
/// that the kubelet accepts and the admission plugin `NodeRestriction` lets pass).
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];
/// Domains of which it may set any label, with their subdomains.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Settings of the node.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// The node's addresses; empty to detect them.
    pub addresses: Vec<IpAddr>,
    /// Of those that are detected, the IPv6 address is the first one.
    pub prefers_ipv6: bool,
    /// The node's labels besides those of every node.
    pub labels: BTreeMap<String, String>,
    /// The runtime handler of each runtime class.
    pub runtime_classes: BTreeMap<String, String>,
    /// Containers without a seccomp profile get the runtime's default one.
    pub seccomp_default: bool,
    /// Sysctls that Pods may set besides the safe ones; a trailing `*` is a wildcard.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Maximum number of Pods on the node.
    pub max_pods: u32,
    /// Maximum number of processes of a Pod.
    pub max_pids: Option<u64>,
    /// A static Pod that a kubelet left is stopped before ours of this name starts.
    pub take_over_kubelet_pods: bool,
    /// The kernel kills one process where a container runs out of memory, not all of the container's.
    pub single_process_oom_kill: bool,
}

impl NodeSettings {
    pub(super) fn load(values: &Values) -> anyhow::Result<Self> {
        let labels = pairs(values.get("node-labels"))?;
        check_labels(&labels)?;
        // As the kubelet's: an unspecified address only says which family is the first one.
        let (unspecified, addresses): (Vec<IpAddr>, Vec<IpAddr>) =
            (values.get("node-ip").addresses()?.into_iter()).partition(IpAddr::is_unspecified);
        Ok(Self {
            addresses,
            prefers_ipv6: unspecified.first().is_some_and(IpAddr::is_ipv6),
            labels,
            runtime_classes: pairs(values.get("runtime-class"))?,
            seccomp_default: values.get("seccomp-default").is_on(),
            allowed_unsafe_sysctls: values.get("allowed-unsafe-sysctls").texts(),
            max_pods: values.get("max-pods").number()?,
            take_over_kubelet_pods: values.get("take-over-kubelet-pods").is_on(),
            max_pids: values.get("pod-max-pids").limit()?,
            single_process_oom_kill: values.get("single-process-oom-kill").is_on(),
        })
    }
}

/// Parses `NAME=VALUE` words.
fn pairs(setting: &Resolved) -> anyhow::Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    for text in setting.texts() {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                pairs.insert(name.to_owned(), value.to_owned());
            }
            _ => bail!("{}: found {text:?}, expected NAME=VALUE", setting.place()),
        }
    }
    Ok(pairs)
}

/// Refuses labels that an API server would refuse: with them the Node would be neither created nor updated.
fn check_labels(labels: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (key, value) in labels {
        if !is_qualified_name(key) {
            bail!("--node-labels: found the name {key:?}, expected {QUALIFIED_NAME}");
        }
        if !is_label_value(value) {
            bail!("--node-labels: found {key}={value}, expected for the value {LABEL_VALUE}");
        }
        if is_reserved(key) {
            bail!(
                "--node-labels: found {key}, expected of the domains kubernetes.io and k8s.io only {}, and \
                 those of {}: a node does not give itself others",
                OWN_LABELS.join(", "),
                OWN_DOMAINS.join(" and ")
            );
        }
    }
    Ok(())
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is_in = |of: &str| {
        domain
            .strip_suffix(of)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    ["kubernetes.io", "k8s.io"].into_iter().any(is_in)
        && !OWN_LABELS.contains(&key)
        && !OWN_DOMAINS.into_iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use crate::config::tests::with_fields;

    #[test]
    fn an_unspecified_address_leaves_the_detection_of_addresses_to_the_machine() {
        for (flags, addresses, prefers_ipv6) in [
            ("", "", false),
            ("--node-ip=", "", false),
            ("--node-ip=0.0.0.0", "", false),
            ("--node-ip=::", "", true),
            ("--node-ip=10.0.0.1,fd00::1", "10.0.0.1 fd00::1", false),
        ] {
            let node = with_fields(flags, "").unwrap().node;
            let found: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(
                (found.join(" ").as_str(), node.prefers_ipv6),
                (addresses, prefers_ipv6)
            );
        }
    }

    #[test]
    fn a_label_that_an_api_server_would_refuse_is_refused_by_name() {
        for label in [
            "disk=ssd",
            "example.com/rack=7",
            "empty=",
            "kubernetes.io/hostname=h",
            "topology.kubernetes.io/zone=z",
            "node.kubernetes.io/any=x",
            "a.node.kubernetes.io/any=x",
            "kubelet.kubernetes.io/any=x",
            "notkubernetes.io/any=x",
        ] {
            let config = with_fields(&format!("--node-labels={label}"), "");
            assert_eq!(config.unwrap().node.labels.len(), 1, "{label}");
        }
        for (label, expected) in [
            (
                "node-role.kubernetes.io/worker=",
                "found node-role.kubernetes.io/worker, expected of the domains",
            ),
            ("kubernetes.io/x=1", "found kubernetes.io/x, expected"),
            ("k8s.io/x=1", "found k8s.io/x, expected"),
            ("a.k8s.io/x=1", "found a.k8s.io/x, expected"),
            (
                "node-restriction.kubernetes.io/x=1",
                "found node-restriction.kubernetes.io/x, expected",
            ),
            ("a_/b=1", "found the name \"a_/b\", expected a name such as"),
            ("a=b/c", "found a=b/c, expected for the value at most 63"),
        ] {
            let error = with_fields(&format!("--node-labels={label}"), "").unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("--node-labels: "), "{error}");
            assert!(error.contains(expected), "{label}: {error}");
        }
    }
}
