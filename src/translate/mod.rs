//! A Pod to CRI requests: pure functions from a [`StaticPod`](crate::manifest::StaticPod) and what
//! the node is like to what the runtime is asked for, as the kubelet asks for it.

mod annotation_json;
mod cgroup;
mod container;
mod dns;
mod downward;
mod env;
mod hosts;
pub mod labels;
mod paths;
mod sandbox;

pub use cgroup::{CgroupDriver, pod_cgroup_path};
pub use container::{ContainerInstance, ImageUser, container_config};
pub use dns::ResolvConf;
pub use downward::{Addresses, field_value, resource_value};
pub use hosts::hosts_file;
pub use paths::{Paths, VolumeSource, volume_source};
pub use sandbox::{pod_hostname, sandbox_config};

/// What translation depends on besides the Pod.
#[derive(Debug, Clone, Default)]
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
}
