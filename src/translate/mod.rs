//! A Pod to CRI requests: pure functions from a [`StaticPod`](crate::manifest::StaticPod) and what
//! the node is like to what the runtime is asked for, as the kubelet asks for it.

mod annotation_json;
mod cgroup;
mod container;
mod dns;
mod downward;
mod env;
mod error;
mod host_ips;
mod hosts;
pub mod labels;
mod mounts;
mod paths;
mod resources;
mod sandbox;
mod security;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use crate::cri::{Capabilities, HandlerFeatures};
use crate::host::cgroup::CgroupDriver;

pub use cgroup::{
    CgroupRoot, all_pods_cgroup_paths, class_cgroup_path, pod_cgroup_path, pod_cgroup_paths,
    qos_cpu_shares,
};
pub use container::{ContainerInstance, ImageUser, SubPath, container_config, sub_paths};
pub use dns::{ResolvConf, dns_problems};
pub use downward::{Addresses, ResourceConsumer, field_value, resource_value};
pub use env::EnvFileKey;
pub use error::TranslateError;
pub use host_ips::HostIps;
pub use hosts::hosts_file;
pub use paths::{Paths, VolumeSource, volume_source};
pub(crate) use resources::pod_limit;
pub use resources::{
    Amounts, QosClass, Requested, container_amounts, cpu_shares, pod_amounts, pod_cgroup_limits,
    qos_class, requested,
};
pub use sandbox::{SandboxInstance, hostname_problem, pod_hostname, sandbox_config, sysctl_name};
pub use security::{UserNamespaceRange, apparmor_annotation};

/// Identity of the node.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Name, lower case.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses.
    pub ips: HostIps,
}

/// Capacity of the node for Pods.
#[derive(Debug, Clone, Default)]
pub struct NodeCapacity {
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes of the file system that Pods write to.
    pub ephemeral_storage: u64,
    /// Number of huge pages that the kernel has reserved, by their size in KiB.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Number of Pods that may be on the node; 0 for any number.
    pub max_pods: u32,
}

impl NodeCapacity {
    /// Returns the memory that Pods may have, in bytes, by the huge pages that there were when the agent
    /// started.
    #[must_use]
    pub fn allocatable_memory(&self) -> u64 {
        self.memory_beside(&self.huge_pages)
    }

    /// Returns the memory that Pods may have beside these huge pages, in bytes: memory that is reserved as
    /// huge pages is nobody's otherwise (the kubelet's `MachineInfo`). `huge_pages` is their number by their
    /// size in KiB.
    #[must_use]
    pub fn memory_beside(&self, huge_pages: &BTreeMap<u64, u64>) -> u64 {
        let pages = huge_pages.iter();
        let reserved = pages
            .map(|(size, pages)| size.saturating_mul(*pages).saturating_mul(1024))
            .fold(0, u64::saturating_add);
        self.memory.saturating_sub(reserved)
    }
}

/// Features of the node's kernel.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct KernelFeatures {
    /// The unified cgroup hierarchy alone is mounted (cgroup v2).
    pub cgroup_unified: bool,
    /// The swap of a cgroup can be limited.
    pub swap_controller: bool,
    /// Sizes of huge pages, as cgroups write them: `2MB`, `1GB`.
    pub hugepage_sizes: Vec<String>,
    /// `AppArmor` is enabled.
    pub apparmor: bool,
    /// `SELinux` is enabled.
    pub selinux: bool,
}

/// Facts of the node that translation depends on, besides the Pod.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The agent's folders.
    pub paths: Paths,
    /// Identity of the node.
    pub identity: Identity,
    /// Capacity of the node.
    pub capacity: NodeCapacity,
    /// Features of the kernel.
    pub kernel: KernelFeatures,
    /// Manager of cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The cgroup that those of Pods are below.
    pub cgroup_root: CgroupRoot,
    /// Maximum number of processes of a Pod.
    pub max_pids: Option<u64>,
    /// The kernel kills one process where a container runs out of memory, not all of the container's.
    pub single_process_oom_kill: bool,
    /// The runtime's name for itself: `containerd`.
    pub runtime_name: String,
    /// Capabilities of the runtime and its handlers.
    pub runtime: Capabilities,
    /// The handler of each runtime class.
    pub runtime_classes: BTreeMap<String, String>,
    /// Name servers of the cluster, `--cluster-dns`.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain, `--cluster-domain`; empty if there is none.
    pub cluster_domain: String,
    /// Sysctls that Pods may set besides the safe ones; `*` at the end stands for anything.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Containers that name no seccomp profile get the runtime's default one.
    pub seccomp_default: bool,
}

impl NodeFacts {
    /// Returns a container's id as the API has it: with the runtime's name.
    #[must_use]
    pub fn container_id(&self, id: &str) -> String {
        format!("{}://{id}", self.runtime_name)
    }

    /// Returns the runtime handler of a Pod, by its runtime class; the empty name is the default one.
    ///
    /// # Errors
    /// The runtime class is not known.
    pub fn runtime_handler(&self, spec: &PodSpec) -> Result<&str, TranslateError> {
        let class = spec.runtime_class_name.as_deref().filter(|c| !c.is_empty());
        match class {
            None => Ok(""),
            Some(class) => match self.runtime_classes.get(class) {
                Some(handler) => Ok(handler),
                None => Err(TranslateError::UnknownRuntimeClass(class.to_owned())),
            },
        }
    }

    /// Returns the features of the Pod's runtime handler.
    #[must_use]
    pub fn handler_features(&self, spec: &PodSpec) -> HandlerFeatures {
        let handler = self.runtime_handler(spec).unwrap_or_default();
        self.runtime.handler(handler)
    }
}
