//! Admission of a Pod to this node: the node's labels, what is free of its resources, host
//! ports, sysctls, what the runtime can do. What cannot is shown as Failed with the reason that Kubernetes
//! uses, and is admitted again when anything changes.

mod allocated;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Sysctl};
use tokio::sync::watch;

use crate::manifest::{PodKey, StaticPod, Uid, all_containers, is_sidecar};
use crate::translate::{
    NodeFacts, QosClass, Requested, apparmor_annotation, qos_class, requested, sysctl_name,
};
use crate::units::quantity;
use allocated::{AllocatedResources, Sums, at_most};

/// Sysctls that concern a Pod alone (Kubernetes, Using sysctls in a Kubernetes Cluster, "Safe and
/// Unsafe Sysctls").
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The kubelet's messages of its predicates; what is known here beyond them follows after a colon.
const NO_FREE_PORTS: &str =
    "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
const NO_MATCH: &str =
    "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";

/// The label of a node, or of a Pod that is for such a node, with its operating system.
const OS_LABEL: &str = "kubernetes.io/os";

/// The reason for which a Pod cannot run on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Kubernetes' word for it: `NodePorts`, `OutOfcpu`, …
    pub reason: Cow<'static, str>,
    /// Message with what was found and what was expected.
    pub message: String,
}

/// The node's resources that one version of a Pod takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PodAllocation {
    ports: BTreeSet<HostPort>,
    requested: Requested,
    /// True if its QoS class is Burstable.
    burstable: bool,
}

/// A port of the host, on one address or on all of them (`0.0.0.0`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct HostPort {
    port: i32,
    protocol: String,
    address: String,
}

impl HostPort {
    fn clashes(&self, other: &Self) -> bool {
        let everywhere = |address: &str| matches!(address, "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address
                || everywhere(&self.address)
                || everywhere(&other.address))
    }
}

/// The node's resources that are taken, by Pod.
#[derive(Debug)]
pub struct Allocations {
    taken: Mutex<AllocatedResources>,
    changes: watch::Sender<u64>,
}

impl Default for Allocations {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
            changes: watch::channel(0).0,
        }
    }
}

impl Allocations {
    /// Takes what the Pod needs, if it can run here. Other versions of the same Pod do not count: they
    /// end before it starts.
    ///
    /// # Errors
    /// It cannot run here, as things stand.
    pub fn admit(&self, facts: &NodeFacts, pod: &StaticPod) -> Result<(), Rejection> {
        let spec = &pod.spec;
        check_alone(facts, pod, spec)?;
        let allocation = allocation_of(spec);
        let mut taken = self.lock();
        let (used, pods) = taken.of_others(&pod.key);
        check_resources(facts, &allocation, &used, pods)?;
        check_labels(facts, spec)?;
        check_ports(&allocation, &pod.key, &taken)?;
        taken.insert(&pod.key, &pod.uid, allocation);
        Ok(())
    }

    /// Reserves what a Pod takes that runs already.
    pub fn reserve(&self, pod: &StaticPod) {
        let allocation = allocation_of(&pod.spec);
        self.lock().insert(&pod.key, &pod.uid, allocation);
    }

    /// Has rejections decided once more, since the node has changed.
    pub fn node_changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Releases what a version had taken.
    pub fn release(&self, key: &PodKey, uid: &Uid) {
        if self.lock().remove(key, uid) {
            self.changes
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Returns the CPU requests of all burstable Pods together, in thousandths.
    #[must_use]
    pub fn burstable_cpu(&self) -> i64 {
        self.lock().burstable_cpu()
    }

    /// Returns the number of versions of Pods that were admitted and not released.
    #[must_use]
    pub fn versions(&self) -> usize {
        self.lock().versions()
    }

    /// Returns a receiver that is notified when something was released or the node has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AllocatedResources> {
        // Nothing panics while the lock is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn allocation_of(spec: &PodSpec) -> PodAllocation {
    let inits = spec.init_containers.iter().flatten();
    let sidecars = inits.filter(|c| is_sidecar(c));
    let containers = sidecars.chain(&spec.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let ports = ports.filter_map(|p| {
        let port = p.host_port.filter(|port| *port != 0)?;
        let address = p.host_ip.as_deref().filter(|ip| !ip.is_empty());
        Some(HostPort {
            port,
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            address: address.unwrap_or("0.0.0.0").to_owned(),
        })
    });
    PodAllocation {
        ports: ports.collect(),
        requested: requested(spec),
        burstable: qos_class(spec) == QosClass::Burstable,
    }
}

fn check_ports(
    allocation: &PodAllocation,
    pod: &PodKey,
    taken: &AllocatedResources,
) -> Result<(), Rejection> {
    for port in &allocation.ports {
        if let Some(holder) = taken.holder(pod, port) {
            let HostPort { port, protocol, .. } = port;
            let message = format!(
                "{NO_FREE_PORTS}: the host port {port}/{protocol} is taken by the Pod {holder}"
            );
            return Err(Rejection {
                reason: "NodePorts".into(),
                message,
            });
        }
    }
    Ok(())
}

/// Holds what is requested against what the node has, in the kubelet's order and with its messages. `used` is
/// what the other Pods request, and `pods` is their number.
fn check_resources(
    facts: &NodeFacts,
    allocation: &PodAllocation,
    used: &Sums,
    pods: usize,
) -> Result<(), Rejection> {
    let pods = i64::try_from(pods).unwrap_or(i64::MAX);
    if facts.capacity.max_pods > 0 {
        fits("pods", 1, pods, facts.capacity.max_pods.into())?;
    }
    let bytes = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let wanted = &allocation.requested;
    let cpus = i64::from(facts.capacity.cpus).saturating_mul(1000);
    let memory = bytes(facts.capacity.allocatable_memory());
    let storage = bytes(facts.capacity.ephemeral_storage);
    let all = [
        ("cpu", wanted.cpu, used.cpu, cpus),
        ("memory", wanted.memory, used.memory, memory),
        (
            "ephemeral-storage",
            wanted.ephemeral_storage,
            used.ephemeral_storage,
            storage,
        ),
    ];
    for (name, wanted, used, capacity) in all {
        // Zero is what the machine does not report.
        if capacity > 0 {
            fits(name, wanted, at_most(used), capacity)?;
        }
    }
    for (name, wanted) in &wanted.huge_pages {
        let used = used.huge_pages.get(name).copied().unwrap_or_default();
        fits(name, *wanted, at_most(used), huge_pages(facts, name))?;
    }
    Ok(())
}

/// Returns true if there is room for what is requested.
fn fits(name: &str, requested: i64, used: i64, capacity: i64) -> Result<(), Rejection> {
    if requested <= 0 || requested <= capacity.saturating_sub(used) {
        return Ok(());
    }
    Err(Rejection {
        reason: format!("OutOf{name}").into(),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    })
}

/// Bytes in huge pages of the size that the resource is named after.
fn huge_pages(facts: &NodeFacts, name: &str) -> i64 {
    let size = name.strip_prefix("hugepages-").and_then(quantity::parse);
    let size = size.and_then(|size| u64::try_from(size.value() >> 10).ok());
    let pages = size.and_then(|size| {
        facts
            .capacity
            .huge_pages
            .get(&size)
            .map(|pages| size.saturating_mul(*pages))
    });
    let bytes = pages.unwrap_or(0).saturating_mul(1024);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The node is one of those that the Pod is for.
fn check_labels(facts: &NodeFacts, spec: &PodSpec) -> Result<(), Rejection> {
    affinity_problem(facts, spec).map_or(Ok(()), |problem| {
        let message = format!("{NO_MATCH}: {problem}");
        let reason = "NodeAffinity".into();
        Err(Rejection { reason, message })
    })
}

/// Checks what depends on the Pod and the node alone.
fn check_alone(facts: &NodeFacts, pod: &StaticPod, spec: &PodSpec) -> Result<(), Rejection> {
    let refuse = |reason: &'static str, message| {
        let reason = reason.into();
        Err(Rejection { reason, message })
    };
    if let Some(message) = sysctl_problem(facts, spec) {
        return refuse("SysctlForbidden", format!("forbidden sysctl: {message}"));
    }
    let labels = pod.metadata.labels.as_ref();
    let label = labels.and_then(|labels| labels.get(OS_LABEL));
    if let Some(label) = label.filter(|label| *label != "linux") {
        return refuse(
            "PodOSSelectorNodeLabelDoesNotMatch",
            format!(
                "Failed to admit pod as the `{OS_LABEL}` label doesn't match node label: it is {label:?}, \
                 the node's is \"linux\""
            ),
        );
    }
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    if let Some(os) = os.filter(|os| *os != "linux") {
        return refuse(
            "PodOSNotSupported",
            format!(
                "Failed to admit pod as the OS field doesn't match node OS: spec.os.name is {os:?}, the \
                 node runs \"linux\""
            ),
        );
    }
    let strict = groups_policy(spec) == Some("Strict");
    let supported = facts.runtime.features().supplemental_groups_policy;
    if strict && !supported && facts.runtime.is_incomplete() {
        let message = "spec.securityContext.supplementalGroupsPolicy is Strict, and the container runtime \
                       has not reported yet whether it supports that";
        return refuse("RuntimeFeaturesNotReported", message.to_owned());
    }
    if strict && !supported {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node: its container \
                       runtime does not support it, containerd does from 2.0 on";
        return refuse("SupplementalGroupsPolicyNotSupported", message.to_owned());
    }
    if !facts.kernel.apparmor && asks_for_apparmor(pod, spec) {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return refuse("AppArmor", message.to_owned());
    }
    Ok(())
}

fn groups_policy(spec: &PodSpec) -> Option<&str> {
    let context = spec.security_context.as_ref()?;
    context.supplemental_groups_policy.as_deref()
}

fn asks_for_apparmor(pod: &StaticPod, spec: &PodSpec) -> bool {
    let of_pod = spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|s| s.app_armor_profile.clone());
    let own = all_containers(spec).filter_map(|c| {
        let context = c.security_context.as_ref();
        let field = context.and_then(|s| s.app_armor_profile.clone());
        field.or_else(|| apparmor_annotation(pod, &c.name))
    });
    let mut all = of_pod.into_iter().chain(own);
    all.any(|profile| profile.type_ != "Unconfined")
}

fn sysctl_problem(facts: &NodeFacts, spec: &PodSpec) -> Option<String> {
    let context = spec.security_context.as_ref()?;
    let allowed = |name: &str| {
        let unsafe_ones = facts.allowed_unsafe_sysctls.iter();
        SAFE_SYSCTLS.contains(&name)
            || unsafe_ones.into_iter().any(|p| match p.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == p,
            })
    };
    for Sysctl { name, .. } in context.sysctls.iter().flatten() {
        let name = sysctl_name(name);
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        let of_host = (spec.host_network == Some(true) && name.starts_with("net."))
            || (spec.host_ipc == Some(true) && ipc.iter().any(|p| name.starts_with(p)));
        if of_host {
            let of = if name.starts_with("net.") {
                "net"
            } else {
                "ipc"
            };
            return Some(format!("{name:?} not allowed with host {of} enabled"));
        }
        if !allowed(&name) {
            return Some(format!(
                "{name:?} not allowlisted: it is not safe, allow it with --allowed-unsafe-sysctls={name}"
            ));
        }
    }
    None
}

/// Which demand on the node's labels is not met, if one is not.
fn affinity_problem(facts: &NodeFacts, spec: &PodSpec) -> Option<String> {
    for (name, value) in spec.node_selector.iter().flatten() {
        let found = facts.identity.labels.get(name);
        if found != Some(value) {
            let found = found.map_or("no such label".to_owned(), |f| format!("{f:?}"));
            return Some(format!(
                "spec.nodeSelector wants {name}={value}, the node has {found}"
            ));
        }
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let terms = &required.node_selector_terms;
    let met = terms.iter().any(|term| meets(facts, term));
    (!met).then(|| "the node meets none of the required terms of spec.affinity".to_owned())
}

fn meets(facts: &NodeFacts, term: &NodeSelectorTerm) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |key: &str| (key == "metadata.name").then_some(&facts.identity.name);
    // A term that says nothing matches nothing.
    !(labels.is_empty() && fields.is_empty())
        && labels
            .iter()
            .all(|r| meets_one(facts.identity.labels.get(&r.key), r))
        && fields.iter().all(|r| meets_one(name(&r.key), r))
}

fn meets_one(found: Option<&String>, wanted: &NodeSelectorRequirement) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let (found, bound) = (number(found), number(values.first()));
        found.zip(bound).is_some_and(|(a, b)| holds(&a, &b))
    };
    match wanted.operator.as_str() {
        "In" => found.is_some_and(|f| values.contains(f)),
        "NotIn" => found.is_none_or(|f| !values.contains(f)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
