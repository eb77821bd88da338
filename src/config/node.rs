//! What the node is said to be and to allow: its addresses and labels, runtime classes, and what Pods
//! may ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::bail;
use serde_json::Value;

use super::{Flags, Given, Resolver};

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
