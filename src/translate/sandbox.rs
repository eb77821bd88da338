//! A Pod to its sandbox.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec, Sysctl};

use super::dns::{ResolvConf, dns_config};
use super::resources::{overhead, qos_class, sandbox_resources};
use super::security::{UserNamespaceRange, sandbox_security_context};
use super::{NodeFacts, labels, pod_cgroup_path};
use crate::cri::v1::{
    IdMapping, LinuxPodSandboxConfig, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol, UserNamespace,
};
use crate::manifest::StaticPod;

/// Maximum length of a host name: that of a DNS label (RFC 1123), and the kernel's own limit.
const MAX_LABEL: usize = 63;
const MAX_HOSTNAME: usize = 64;

/// Which sandbox of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxInstance {
    /// Counts the Pod's sandboxes, from 0.
    pub attempt: u32,
    /// First time that the Pod was seen, RFC 3339.
    pub seen: String,
    /// The Pod's own ids, where it has a user namespace.
    pub user_namespace: Option<UserNamespaceRange>,
}

/// Sandbox config of the Pod for the runtime. `host` is the host's resolver configuration.
#[must_use]
pub fn sandbox_config(
    facts: &NodeFacts,
    host: &ResolvConf,
    pod: &StaticPod,
    instance: &SandboxInstance,
) -> PodSandboxConfig {
    let spec = &pod.spec;
    let metadata = &pod.metadata;
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.insert(labels::CONFIG_SEEN.into(), instance.seen.clone());
    let mut own_labels = metadata.labels.clone().unwrap_or_default();
    own_labels.extend(pod_labels(facts, pod));
    let host_network = spec.host_network == Some(true);
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.key.name.clone(),
            uid: pod.uid.to_string(),
            namespace: pod.key.namespace.clone(),
            attempt: instance.attempt,
        }),
        hostname: if host_network {
            String::new()
        } else {
            kernel_hostname(facts, pod)
        },
        log_directory: facts
            .paths
            .pod_logs(&pod.key, &pod.uid)
            .display()
            .to_string(),
        dns_config: Some(dns_config(facts, host, &pod.key.namespace, spec)),
        port_mappings: port_mappings(spec),
        labels: own_labels.into_iter().collect(),
        annotations: annotations.into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: pod_cgroup_path(
                facts.cgroup_driver,
                &facts.cgroup_root,
                qos_class(spec),
                &pod.uid,
            ),
            security_context: Some(sandbox_security_context(spec, instance.user_namespace)),
            sysctls: sysctls(spec),
            overhead: Some(overhead(facts, spec)),
            resources: Some(sandbox_resources(facts, spec)),
        }),
        windows: None,
    }
}

/// The labels that say whose a sandbox or container is.
pub(super) fn pod_labels(facts: &NodeFacts, pod: &StaticPod) -> [(String, String); 4] {
    [
        (labels::POD_NAME.into(), pod.key.name.clone()),
        (labels::POD_NAMESPACE.into(), pod.key.namespace.clone()),
        (labels::POD_UID.into(), pod.uid.to_string()),
        (labels::ROOT_DIR.into(), facts.paths.owner_label()),
    ]
}

/// The Pod's host name: the one it asks for, or its own name; cut to what the kernel takes (the kubelet's
/// `truncatePodHostnameIfNeeded`).
#[must_use]
pub fn pod_hostname(pod: &StaticPod) -> String {
    let spec = &pod.spec;
    let asked = spec.hostname_override.as_deref();
    let asked = asked.or(spec.hostname.as_deref());
    let name = asked.filter(|h| !h.is_empty()).unwrap_or(&pod.key.name);
    if name.len() <= MAX_LABEL {
        return name.to_owned();
    }
    let cut: String = name.chars().take(MAX_LABEL).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Host name in the kernel: the FQDN if the Pod sets `setHostnameAsFQDN`.
fn kernel_hostname(facts: &NodeFacts, pod: &StaticPod) -> String {
    let hostname = pod_hostname(pod);
    let full = pod.spec.set_hostname_as_fqdn == Some(true);
    match pod_domain(facts, pod).filter(|_| full) {
        Some(domain) => format!("{hostname}.{domain}"),
        None => hostname,
    }
}

/// Returns the reason why the Pod cannot have its host name, if it cannot. On the host's network it has the
/// host's, whatever its spec says.
#[must_use]
pub fn hostname_problem(facts: &NodeFacts, pod: &StaticPod) -> Option<String> {
    if pod.is_on_host_network() {
        return None;
    }
    let name = kernel_hostname(facts, pod);
    let long = name.len() > MAX_HOSTNAME;
    long.then(|| {
        format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long \
             ({MAX_HOSTNAME} characters is the max, {} characters requested)",
            name.len()
        )
    })
}

fn sysctls(spec: &PodSpec) -> HashMap<String, String> {
    let context = spec.security_context.as_ref();
    let asked = context.and_then(|c| c.sysctls.as_deref());
    let pair = |s: &Sysctl| (sysctl_name(&s.name), s.value.clone());
    asked.into_iter().flatten().map(pair).collect()
}

/// A sysctl's name with dots between its parts. Where slashes stand between them, a dot is a part of a
/// name, and is written as a slash then (sysctl.d(5)).
#[must_use]
pub fn sysctl_name(written: &str) -> String {
    let first = written.find(['.', '/']);
    if first.is_none_or(|at| written[at..].starts_with('.')) {
        return written.to_owned();
    }
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    written.chars().map(swapped).collect()
}

/// The domain of a Pod that names a subdomain.
pub(super) fn pod_domain(facts: &NodeFacts, pod: &StaticPod) -> Option<String> {
    let spec = &pod.spec;
    let subdomain = spec.subdomain.as_deref()?;
    if spec
        .hostname_override
        .as_deref()
        .is_some_and(|h| !h.is_empty())
    {
        return None;
    }
    let namespace = &pod.key.namespace;
    let domain = &facts.cluster_domain;
    (!subdomain.is_empty()).then(|| format!("{subdomain}.{namespace}.svc.{domain}"))
}

/// Whose namespaces the Pod's containers use.
pub(super) fn namespace_options(
    spec: &PodSpec,
    users: Option<UserNamespaceRange>,
) -> NamespaceOption {
    let node_or_pod = |host: Option<bool>| match host {
        Some(true) => NamespaceMode::Node,
        _ => NamespaceMode::Pod,
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption {
        network: node_or_pod(spec.host_network).into(),
        ipc: node_or_pod(spec.host_ipc).into(),
        pid: pid.into(),
        userns_options: Some(user_namespace(users)),
        ..NamespaceOption::default()
    }
}

fn user_namespace(users: Option<UserNamespaceRange>) -> UserNamespace {
    let mode = match users {
        Some(_) => NamespaceMode::Pod,
        None => NamespaceMode::Node,
    };
    let mappings = users.map(mappings).unwrap_or_default();
    UserNamespace {
        mode: mode.into(),
        uids: mappings.clone(),
        gids: mappings,
    }
}

/// The Pod's ids, from 0, on the host.
pub(super) fn mappings(users: UserNamespaceRange) -> Vec<IdMapping> {
    vec![IdMapping {
        host_id: users.host_id,
        container_id: 0,
        length: users.length,
    }]
}

/// The ports of the Pod's own containers; one that a container names twice counts once.
fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let mut mappings = vec![];
    for container in &spec.containers {
        let mut before: Vec<PortMapping> = vec![];
        for port in container.ports.iter().flatten() {
            let mapping = port_mapping(port);
            let named = port.name.as_deref().is_some_and(|n| !n.is_empty());
            if named || !before.contains(&mapping) {
                mappings.push(mapping.clone());
            }
            if !named {
                before.push(mapping);
            }
        }
    }
    mappings
}

fn port_mapping(port: &ContainerPort) -> PortMapping {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or_default(),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}
