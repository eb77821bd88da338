//! A Pod to CRI requests: pure functions from a [`StaticPod`](crate::manifest::StaticPod) and what
//! the node is like to what the runtime is asked for, as the kubelet asks for it.

mod annotation_json;
mod cgroup;
mod container;
mod dns;
mod downward;
mod env;
mod host_ips;
mod hosts;
pub mod labels;
mod mounts;
mod paths;
mod resources;
mod runtime_facts;
mod sandbox;
mod security;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use crate::host::cgroup::CgroupDriver;

pub use cgroup::{class_cgroup_path, pod_cgroup_path, pod_cgroup_paths, qos_cpu_shares};
pub use container::{ContainerInstance, ImageUser, SubPath, container_config, sub_paths};
pub use dns::{ResolvConf, dns_problems};
pub use downward::{Addresses, ResourceConsumer, field_value, resource_value};
pub use env::EnvFileKey;
pub use host_ips::HostIps;
pub use hosts::hosts_file;
pub use paths::{Paths, VolumeSource, volume_source};
pub(crate) use resources::pod_limit;
pub use resources::{
    Amounts, QosClass, Requested, container_amounts, cpu_shares, is_sidecar, pod_amounts,
    pod_cgroup_limits, qos_class, requested,
};
pub use runtime_facts::{HandlerFeatures, Reported, RuntimeFacts, RuntimeFeatures};
pub use sandbox::{SandboxInstance, hostname_problem, pod_hostname, sandbox_config, sysctl_name};
pub use security::{UserNamespaceRange, apparmor_annotation};

/// What translation depends on besides the Pod.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct NodeFacts {
    /// Where things lie.
    pub paths: Paths,
    /// Name servers of the cluster, `--cluster-dns`.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain, `--cluster-domain`; empty if there is none.
    pub cluster_domain: String,
    /// Who manages cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Whether the node has the unified cgroup hierarchy only (cgroup v2).
    pub cgroup_unified: bool,
    /// Whether the swap of a cgroup can be limited.
    pub swap_controller: bool,
    /// Sizes of huge pages that the kernel has, as cgroups write them: `2MB`, `1GB`.
    pub hugepage_sizes: Vec<String>,
    /// How many huge pages the kernel has set aside, by their size in KiB.
    pub huge_pages: BTreeMap<u64, u64>,
    /// How many Pods may be on the node; 0 for any number.
    pub max_pods: u32,
    /// The node's memory in bytes.
    pub memory_capacity: u64,
    /// The node's CPUs.
    pub cpus: u32,
    /// Bytes of the file system that Pods write to.
    pub ephemeral_storage: u64,
    /// The node's addresses.
    pub host_ips: HostIps,
    /// The node's name.
    pub node_name: String,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// Sysctls that Pods may set besides the safe ones; `*` at the end stands for anything.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Whether the kernel has `AppArmor`.
    pub apparmor: bool,
    /// Whether the kernel has `SELinux`.
    pub selinux: bool,
    /// Whether containers that say nothing get the runtime's default seccomp profile.
    pub seccomp_default: bool,
    /// What the runtime calls itself: `containerd`.
    pub runtime_name: String,
    /// What the runtime and its handlers can do.
    pub runtime: RuntimeFacts,
    /// The handler of each runtime class.
    pub runtime_classes: BTreeMap<String, String>,
}

impl NodeFacts {
    /// The memory that Pods may have, in bytes, by the huge pages that there were when the agent started.
    #[must_use]
    pub fn allocatable_memory(&self) -> u64 {
        self.memory_beside(&self.huge_pages)
    }

    /// The memory that Pods may have beside these huge pages, in bytes: what is set aside as such is nobody's
    /// otherwise (the kubelet's `MachineInfo`). `huge_pages` says how many there are by their size in KiB.
    #[must_use]
    pub fn memory_beside(&self, huge_pages: &BTreeMap<u64, u64>) -> u64 {
        let pages = huge_pages.iter();
        let set_aside = pages
            .map(|(size, pages)| size.saturating_mul(*pages).saturating_mul(1024))
            .fold(0, u64::saturating_add);
        self.memory_capacity.saturating_sub(set_aside)
    }

    /// A container's id as the API has it: with the runtime's name.
    #[must_use]
    pub fn container_id(&self, id: &str) -> String {
        format!("{}://{id}", self.runtime_name)
    }

    /// The runtime handler of a Pod, by its runtime class; the empty name is the default one.
    ///
    /// # Errors
    /// The runtime class is not known.
    pub fn runtime_handler(&self, spec: &PodSpec) -> Result<&str, String> {
        let class = spec.runtime_class_name.as_deref().filter(|c| !c.is_empty());
        match class {
            None => Ok(""),
            Some(class) => match self.runtime_classes.get(class) {
                Some(handler) => Ok(handler),
                None => Err(format!(
                    "spec.runtimeClassName: there is no runtime class {class:?}"
                )),
            },
        }
    }

    /// What the Pod's runtime handler can do.
    #[must_use]
    pub fn handler_features(&self, spec: &PodSpec) -> HandlerFeatures {
        let handler = self.runtime_handler(spec).unwrap_or_default();
        self.runtime.handler(handler)
    }
}
