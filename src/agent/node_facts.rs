//! Facts of the node, from the machine, the runtime and the configuration.

use std::collections::BTreeMap;

use tracing::warn;

use crate::config::{Config, NodeSettings};
use crate::host::blocking::blocking;
use crate::host::{cgroup, machine};
use crate::node::runtime::RuntimeInfo;
use crate::translate::{
    HostIps, Identity, KernelFeatures, NodeCapacity, NodeFacts, QosClass, class_cgroup_path,
};

/// Collects the facts that Pods' requests to the runtime depend on.
pub(super) fn node_facts(config: &Config, runtime: &RuntimeInfo) -> NodeFacts {
    let node = &config.node;
    NodeFacts {
        cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain: config.cluster_domain.clone(),
        cgroup_driver: runtime.cgroup_driver,
        cgroup_root: config.cgroup_root.clone(),
        max_pids: node.max_pids,
        single_process_oom_kill: node.single_process_oom_kill,
        seccomp_default: node.seccomp_default,
        runtime_name: runtime.name.clone(),
        runtime: runtime.reported.clone().into(),
        runtime_classes: node.runtime_classes.clone(),
        allowed_unsafe_sysctls: node.allowed_unsafe_sysctls.clone(),
        paths: config.paths.clone(),
        kernel: KernelFeatures {
            cgroup_unified: cgroup::is_unified(&config.paths.cgroups),
            swap_controller: cgroup::has_swap_controller(&config.paths.cgroups),
            hugepage_sizes: cgroup::hugepage_sizes(),
            apparmor: machine::has_apparmor(),
            selinux: machine::has_selinux(),
        },
        capacity: NodeCapacity {
            huge_pages: machine::huge_pages(),
            max_pods: node.max_pods,
            memory: machine::memory_capacity(),
            cpus: machine::cpus(),
            ephemeral_storage: machine::disk_capacity(&config.paths.root),
        },
        identity: Identity {
            ips: host_ips(node),
            labels: node_labels(&config.node_name, node.labels.clone()),
            name: config.node_name.clone(),
        },
    }
}

/// Has systemd leave the cgroups of Pods to the agent when the machine shuts down, if they are systemd's.
pub(super) async fn keep_cgroups_until_shutdown(facts: NodeFacts) {
    let driver = facts.cgroup_driver;
    let all_pods = class_cgroup_path(driver, &facts.cgroup_root, QosClass::Guaranteed);
    let kept = blocking(move || cgroup::keep_until_shutdown(driver, &all_pods)).await;
    if let Err(error) = kept {
        warn!(%error, "Failed to keep systemd from stopping containers at the beginning of a shutdown");
    }
}

/// Returns the labels that every node has, under their older names too, and those given (Kubernetes,
/// Well-Known Labels).
fn node_labels(name: &str, given: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let own = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.into_iter().chain(given).collect()
}

/// Returns the node's addresses: those given, or those from which it would reach others.
pub(super) fn host_ips(node: &NodeSettings) -> HostIps {
    let NodeSettings {
        addresses,
        prefers_ipv6,
        ..
    } = node;
    match (addresses.is_empty(), prefers_ipv6) {
        (true, false) => return HostIps::found_by(machine::addresses),
        (true, true) => return HostIps::found_by(machine::addresses_ipv6_first),
        (false, _) => {}
    }
    let given: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    given.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_labels_of_every_node_and_those_given() {
        let labels = node_labels("n1", [("disk".to_owned(), "ssd".to_owned())].into());
        for name in ["os", "arch"] {
            let value = &labels[&format!("kubernetes.io/{name}")];
            assert_eq!(
                labels.get(&format!("beta.kubernetes.io/{name}")),
                Some(value)
            );
        }
        assert_eq!(labels["kubernetes.io/hostname"], "n1");
        assert_eq!(labels["disk"], "ssd");
        assert_eq!(labels.len(), 6);
    }
}
