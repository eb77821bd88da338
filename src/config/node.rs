//! What the node is said to be and to allow: its addresses and labels, runtime classes, and what Pods
//! may ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::bail;
use serde_json::Value;

use super::{Flags, Given, Resolver};
use crate::manifest::{LABEL_VALUE, QUALIFIED_NAME, is_label_value, is_qualified_name};

/// The labels of Kubernetes' own domains that a node gives itself (Kubernetes, Well-Known Labels; the same
/// that the kubelet takes and the admission plugin `NodeRestriction` lets pass).
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
/// Domains, and all below them, of whose labels it gives itself any.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// As many Pods as a node has room for unless it is told otherwise (`KubeletConfiguration`, `maxPods`).
const MAX_PODS: u32 = 110;

/// Settings of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// The node's addresses; empty to find them out.
    pub addresses: Vec<IpAddr>,
    /// The node's labels besides those that every node has.
    pub labels: BTreeMap<String, String>,
    /// The runtime handler of each runtime class.
    pub runtime_classes: BTreeMap<String, String>,
    /// Whether containers that say nothing get the runtime's default seccomp profile.
    pub seccomp_default: bool,
    /// Sysctls that Pods may set besides the safe ones; `*` at the end stands for anything.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How many Pods may be on the node.
    pub max_pods: u32,
}

impl NodeSettings {
    pub(super) fn load(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Self> {
        let addresses = flags.node_ip.clone();
        let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        from.note_flag("node-ip", shown.join(","));
        let labels = pairs(from, "node-labels", &flags.node_labels)?;
        check_labels(&labels)?;
        let runtime_classes = pairs(from, "runtime-class", &flags.runtime_class)?;
        let seccomp = flags.seccomp_default;
        let seccomp_default = from.switch("seccomp-default", seccomp, "seccompDefault", false)?;
        let given = &flags.allowed_unsafe_sysctls;
        let given = (!given.is_empty()).then(|| given.clone());
        let read = |given: &Given| {
            let texts = given.value.as_array().into_iter().flatten();
            Ok(texts.filter_map(Value::as_str).map(str::to_owned).collect())
        };
        let field = Some("allowedUnsafeSysctls");
        let (sysctls, at) = from.pick("allowed-unsafe-sysctls", given, field, read)?;
        let allowed_unsafe_sysctls: Vec<String> = sysctls.unwrap_or_default();
        from.note(
            "allowed-unsafe-sysctls",
            allowed_unsafe_sysctls.join(","),
            &at,
        );
        let read = |given: &Given| {
            let number = given.value.as_u64().and_then(|n| u32::try_from(n).ok());
            number.ok_or_else(|| format!("found {}, expected a smaller number", given.value))
        };
        let (max_pods, at) = from.pick("max-pods", flags.max_pods, Some("maxPods"), read)?;
        let max_pods = max_pods.unwrap_or(MAX_PODS);
        from.note("max-pods", max_pods, &at);
        Ok(Self {
            addresses,
            labels,
            runtime_classes,
            seccomp_default,
            allowed_unsafe_sysctls,
            max_pods,
        })
    }
}

/// Reads `NAME=VALUE` of a flag.
fn pairs(
    from: &mut Resolver,
    flag: &'static str,
    given: &[String],
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    for text in given {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                pairs.insert(name.to_owned(), value.to_owned());
            }
            _ => bail!("--{flag}: found {text:?}, expected NAME=VALUE"),
        }
    }
    from.note_flag(flag, given.join(","));
    Ok(pairs)
}

/// Refuses labels that an API server would refuse: the Node would be neither made nor changed for them.
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
