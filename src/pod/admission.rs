//! Whether a Pod can run on this node at all: the node's labels, its free CPU and memory, host ports,
//! sysctls, what the runtime can do. What cannot is shown as Failed with the reason that Kubernetes
//! uses, and is looked at again when anything changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Sysctl};
use tokio::sync::watch;

use crate::manifest::{PodKey, StaticPod};
use crate::translate::{
    NodeFacts, QosClass, apparmor_annotation, is_sidecar, qos_class, requested, sysctl_name,
};

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

/// Why a Pod cannot run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Kubernetes' word for it: `NodePorts`, `OutOfcpu`, …
    pub reason: &'static str,
    /// What was found and what was expected.
    pub message: String,
}

/// What one version of a Pod takes of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Claim {
    ports: BTreeSet<HostPort>,
    /// Thousandths of a CPU.
    cpu: i64,
    /// Bytes.
    memory: i64,
    /// Whether its class of service is burstable.
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

/// What is taken of the node, and by whom.
#[derive(Debug)]
pub struct Ledger {
    claims: Mutex<BTreeMap<(PodKey, String), Claim>>,
    changes: watch::Sender<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            claims: Mutex::default(),
            changes: watch::channel(0).0,
        }
    }
}

impl Ledger {
    /// Takes what the Pod needs, if it can run here. Other versions of the same Pod do not count: they
    /// end before it starts.
    ///
    /// # Errors
    /// It cannot run here, as things stand.
    pub fn admit(&self, facts: &NodeFacts, pod: &StaticPod) -> Result<(), Rejection> {
        let Some(spec) = &pod.pod.spec else {
            return Ok(());
        };
        check_alone(facts, pod, spec)?;
        let claim = claim(spec);
        let mut claims = self.lock();
        let others = claims.iter().filter(|((key, _), _)| *key != pod.key);
        let others: Vec<_> = others.map(|((key, _), claim)| (key, claim)).collect();
        check_ports(&claim, &others)?;
        check_resources(facts, &claim, &others)?;
        claims.insert((pod.key.clone(), pod.uid.clone()), claim);
        Ok(())
    }

    /// Notes what a Pod takes that runs already.
    pub fn note(&self, pod: &StaticPod) {
        if let Some(spec) = &pod.pod.spec {
            let owner = (pod.key.clone(), pod.uid.clone());
            self.lock().insert(owner, claim(spec));
        }
    }

    /// Gives back what a version had taken.
    pub fn release(&self, key: &PodKey, uid: &str) {
        let had = self.lock().remove(&(key.clone(), uid.to_owned()));
        if had.is_some() {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// What all burstable Pods together request of the CPU, in thousandths.
    #[must_use]
    pub fn burstable_cpu(&self) -> i64 {
        let claims = self.lock();
        let burstable = claims.values().filter(|claim| claim.burstable);
        burstable.map(|claim| claim.cpu).sum()
    }

    /// Tells when something was given back.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(PodKey, String), Claim>> {
        // A panic while holding the lock cannot leave the map half changed.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn claim(spec: &PodSpec) -> Claim {
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
    let requested = requested(spec);
    Claim {
        ports: ports.collect(),
        cpu: requested.cpu,
        memory: requested.memory,
        burstable: qos_class(spec) == QosClass::Burstable,
    }
}

fn check_ports(claim: &Claim, others: &[(&PodKey, &Claim)]) -> Result<(), Rejection> {
    for port in &claim.ports {
        let taken = |(_, other): &&(&PodKey, &Claim)| other.ports.iter().any(|p| p.clashes(port));
        if let Some((holder, _)) = others.iter().find(taken) {
            let HostPort { port, protocol, .. } = port;
            let message = format!("the host port {port}/{protocol} is taken by the Pod {holder}");
            return Err(Rejection {
                reason: "NodePorts",
                message,
            });
        }
    }
    Ok(())
}

fn check_resources(
    facts: &NodeFacts,
    claim: &Claim,
    others: &[(&PodKey, &Claim)],
) -> Result<(), Rejection> {
    let used = |of: fn(&Claim) -> i64| others.iter().map(|(_, c)| of(c)).sum::<i64>();
    let cpus = i64::from(facts.cpus) * 1000;
    let memory = i64::try_from(facts.memory_capacity).unwrap_or(i64::MAX);
    let all = [
        (
            "OutOfcpu",
            "CPU (thousandths)",
            claim.cpu,
            used(|c| c.cpu),
            cpus,
        ),
        (
            "OutOfmemory",
            "bytes of memory",
            claim.memory,
            used(|c| c.memory),
            memory,
        ),
    ];
    for (reason, unit, requested, used, capacity) in all {
        if requested > 0 && capacity > 0 && used.saturating_add(requested) > capacity {
            let message = format!(
                "the Pod requests {requested} {unit}, other Pods {used}, the node has {capacity}"
            );
            return Err(Rejection { reason, message });
        }
    }
    Ok(())
}

/// What depends on the Pod and the node alone.
fn check_alone(facts: &NodeFacts, pod: &StaticPod, spec: &PodSpec) -> Result<(), Rejection> {
    let refuse = |reason, message| Err(Rejection { reason, message });
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    if let Some(os) = os.filter(|os| *os != "linux") {
        return refuse(
            "PodOSNotSupported",
            format!("spec.os.name is {os:?}, the node runs \"linux\""),
        );
    }
    if let Some(message) = affinity_problem(facts, spec) {
        return refuse("NodeAffinity", message);
    }
    if let Some(message) = sysctl_problem(facts, spec) {
        return refuse("SysctlForbidden", message);
    }
    if !facts.runtime.supplemental_groups_policy && groups_policy(spec) == Some("Strict") {
        let message = "spec.securityContext.supplementalGroupsPolicy is Strict, which this container \
                       runtime does not support: containerd does from 2.0 on";
        return refuse("SupplementalGroupsPolicyNotSupported", message.to_owned());
    }
    if !facts.apparmor && asks_for_apparmor(pod, spec) {
        let message = "the Pod asks for an AppArmor profile, and the node has no AppArmor";
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
    let inits = spec.init_containers.iter().flatten();
    let own = inits.chain(&spec.containers).filter_map(|c| {
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
            return Some(format!("the sysctl {name} would change the host's own"));
        }
        if !allowed(&name) {
            return Some(format!(
                "the sysctl {name} is not safe: allow it with --allowed-unsafe-sysctls={name}"
            ));
        }
    }
    None
}

/// Which demand on the node's labels is not met, if one is not.
fn affinity_problem(facts: &NodeFacts, spec: &PodSpec) -> Option<String> {
    for (name, value) in spec.node_selector.iter().flatten() {
        let found = facts.labels.get(name);
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
    let name = |key: &str| (key == "metadata.name").then_some(&facts.node_name);
    // A term that says nothing matches nothing.
    !(labels.is_empty() && fields.is_empty())
        && labels
            .iter()
            .all(|r| meets_one(facts.labels.get(&r.key), r))
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
mod tests {
    use super::*;
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn facts() -> NodeFacts {
        NodeFacts {
            cpus: 2,
            memory_capacity: 1 << 30,
            node_name: "n1".into(),
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            allowed_unsafe_sysctls: vec!["net.core.*".into()],
            ..NodeFacts::default()
        }
    }

    fn pod(name: &str, uid: &str, spec: Value) -> StaticPod {
        StaticPod {
            key: PodKey {
                namespace: "default".into(),
                name: name.into(),
            },
            uid: uid.into(),
            pod: Pod {
                spec: serde_json::from_value(spec).unwrap(),
                ..Pod::default()
            },
            document: Value::Null,
            objects: Arc::default(),
        }
    }

    fn with(extra: &Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    }

    fn port(port: i32, address: &str) -> Value {
        json!({"containers": [{"name": "c", "image": "i", "ports": [
            {"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": "TCP"}]}]})
    }

    fn requests(cpu: &str, memory: &str) -> Value {
        json!({"containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
    }

    fn reason(result: Result<(), Rejection>) -> &'static str {
        result.map_or_else(|rejection| rejection.reason, |()| "admitted")
    }

    #[test]
    fn a_taken_host_port_is_refused_until_it_is_given_back() {
        let ledger = Ledger::default();
        let first = pod("a", "1", port(80, ""));
        assert_eq!(reason(ledger.admit(&facts(), &first)), "admitted");
        let second = pod("b", "2", port(80, "10.0.0.1"));
        let rejection = ledger.admit(&facts(), &second).unwrap_err();
        assert_eq!(rejection.reason, "NodePorts");
        assert!(
            rejection.message.contains("default/a"),
            "{}",
            rejection.message
        );
        let newer = pod("a", "3", port(80, ""));
        assert_eq!(
            reason(ledger.admit(&facts(), &newer)),
            "admitted",
            "of itself"
        );
        let mut changes = ledger.changes();
        changes.mark_unchanged();
        ledger.release(&first.key, "1");
        ledger.release(&first.key, "3");
        assert!(changes.has_changed().unwrap());
        assert_eq!(reason(ledger.admit(&facts(), &second)), "admitted");
    }

    #[test]
    fn addresses_and_protocols_keep_ports_apart() {
        let ledger = Ledger::default();
        let first = pod("a", "1", port(80, "10.0.0.1"));
        assert_eq!(reason(ledger.admit(&facts(), &first)), "admitted");
        let other = pod("b", "2", port(80, "10.0.0.2"));
        assert_eq!(reason(ledger.admit(&facts(), &other)), "admitted");
    }

    #[test]
    fn more_than_the_node_has_is_refused() {
        let ledger = Ledger::default();
        let first = pod("a", "1", requests("1500m", "512Mi"));
        assert_eq!(reason(ledger.admit(&facts(), &first)), "admitted");
        for (cpu, memory, expected) in [
            ("600m", "1Mi", "OutOfcpu"),
            ("500m", "513Mi", "OutOfmemory"),
            ("500m", "512Mi", "admitted"),
        ] {
            let second = pod("b", "2", requests(cpu, memory));
            assert_eq!(
                reason(ledger.admit(&facts(), &second)),
                expected,
                "{cpu} {memory}"
            );
        }
    }

    #[test]
    fn the_nodes_labels_decide() {
        let affinity = |operator: &str, key: &str, values: &[&str]| {
            let expression = json!({"key": key, "operator": operator, "values": values});
            with(&json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}}))
        };
        for (spec, expected) in [
            (with(&json!({"nodeSelector": {"disk": "ssd"}})), "admitted"),
            (
                with(&json!({"nodeSelector": {"disk": "hdd"}})),
                "NodeAffinity",
            ),
            (
                with(&json!({"nodeSelector": {"gpu": "yes"}})),
                "NodeAffinity",
            ),
            (affinity("In", "disk", &["hdd", "ssd"]), "admitted"),
            (affinity("NotIn", "disk", &["ssd"]), "NodeAffinity"),
            (affinity("NotIn", "gpu", &["a"]), "admitted"),
            (affinity("Exists", "gpu", &[]), "NodeAffinity"),
            (affinity("DoesNotExist", "gpu", &[]), "admitted"),
            (affinity("Gt", "disk", &["1"]), "NodeAffinity"),
        ] {
            let pod = pod("a", "1", spec.clone());
            let admitted = Ledger::default().admit(&facts(), &pod);
            assert_eq!(reason(admitted), expected, "{spec}");
        }
    }

    #[test]
    fn what_the_node_or_its_runtime_cannot_do_is_looked_at() {
        let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
        for (extra, expected) in [
            (
                json!({"securityContext": sysctl("net.ipv4.tcp_syncookies")}),
                "admitted",
            ),
            (
                json!({"securityContext": sysctl("net.core.somaxconn")}),
                "admitted",
            ),
            (
                json!({"securityContext": sysctl("kernel.msgmax")}),
                "SysctlForbidden",
            ),
            (
                json!({"hostNetwork": true, "securityContext": sysctl("net.core.somaxconn")}),
                "SysctlForbidden",
            ),
            (json!({"os": {"name": "windows"}}), "PodOSNotSupported"),
            (
                json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
                "SupplementalGroupsPolicyNotSupported",
            ),
            (
                json!({"securityContext": {"supplementalGroupsPolicy": "Merge"}}),
                "admitted",
            ),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
                "AppArmor",
            ),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
                "admitted",
            ),
        ] {
            let pod = pod("a", "1", with(&extra));
            let admitted = Ledger::default().admit(&facts(), &pod);
            assert_eq!(reason(admitted), expected, "{extra}");
        }
    }
}
