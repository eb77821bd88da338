//! A Pod to its sandbox.

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};

use super::dns::{ResolvConf, dns_config};
use super::{NodeFacts, labels, pod_cgroup_path};
use crate::cri::v1::{
    LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol, SecurityProfile,
    UserNamespace,
};
use crate::manifest::StaticPod;

/// The kernel's limit for a host name.
const MAX_HOSTNAME: usize = 63;
/// The CFS period in microseconds, and the least CPU shares: what a Pod without resources gets.
pub(super) const CPU_PERIOD: i64 = 100_000;
pub(super) const MIN_CPU_SHARES: i64 = 2;

/// What the runtime is asked for: the Pod's sandbox, attempt number `attempt`. `seen` is when the Pod
/// was first seen, RFC 3339; `host` is the host's resolver configuration.
#[must_use]
pub fn sandbox_config(
    facts: &NodeFacts,
    host: &ResolvConf,
    pod: &StaticPod,
    attempt: u32,
    seen: &str,
) -> PodSandboxConfig {
    let default = PodSpec::default();
    let spec = pod.pod.spec.as_ref().unwrap_or(&default);
    let metadata = &pod.pod.metadata;
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.insert(labels::CONFIG_SEEN.into(), seen.into());
    let mut own_labels = metadata.labels.clone().unwrap_or_default();
    own_labels.extend(pod_labels(facts, pod));
    let host_network = spec.host_network == Some(true);
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.key.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.key.namespace.clone(),
            attempt,
        }),
        hostname: if host_network {
            String::new()
        } else {
            pod_hostname(pod)
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
            cgroup_parent: pod_cgroup_path(facts.cgroup_driver, &pod.uid),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespace_options(spec)),
                // The zero value is the runtime's own default profile.
                seccomp: Some(SecurityProfile::default()),
                ..LinuxSandboxSecurityContext::default()
            }),
            overhead: Some(LinuxContainerResources::default()),
            resources: Some(sandbox_resources(facts)),
            ..LinuxPodSandboxConfig::default()
        }),
        windows: None,
    }
}

/// The labels that say whose a sandbox or container is.
pub(super) fn pod_labels(facts: &NodeFacts, pod: &StaticPod) -> [(String, String); 4] {
    [
        (labels::POD_NAME.into(), pod.key.name.clone()),
        (labels::POD_NAMESPACE.into(), pod.key.namespace.clone()),
        (labels::POD_UID.into(), pod.uid.clone()),
        (labels::ROOT_DIR.into(), facts.paths.mark()),
    ]
}

/// The Pod's host name: the one it asks for, or its own name cut to what the kernel takes.
#[must_use]
pub fn pod_hostname(pod: &StaticPod) -> String {
    let asked = pod.pod.spec.as_ref().and_then(|s| s.hostname.as_deref());
    if let Some(asked) = asked.filter(|h| !h.is_empty()) {
        return asked.to_owned();
    }
    let name: String = pod.key.name.chars().take(MAX_HOSTNAME).collect();
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The domain of a Pod that names a subdomain.
pub(super) fn pod_domain(facts: &NodeFacts, pod: &StaticPod) -> Option<String> {
    let subdomain = pod.pod.spec.as_ref()?.subdomain.as_deref()?;
    let namespace = &pod.key.namespace;
    let domain = &facts.cluster_domain;
    (!subdomain.is_empty()).then(|| format!("{subdomain}.{namespace}.svc.{domain}"))
}

/// Whose namespaces the Pod's containers use.
pub(super) fn namespace_options(spec: &PodSpec) -> NamespaceOption {
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
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Node.into(),
            ..UserNamespace::default()
        }),
        ..NamespaceOption::default()
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|c| c.ports.iter().flatten());
    ports.map(port_mapping).collect()
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

fn sandbox_resources(facts: &NodeFacts) -> LinuxContainerResources {
    let mut resources = LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_shares: MIN_CPU_SHARES,
        ..LinuxContainerResources::default()
    };
    if facts.cgroup_unified {
        resources
            .unified
            .insert("memory.oom.group".into(), "1".into());
    }
    resources
}
