//! The downward API: a Pod's own fields and its containers' resources, as text (Kubernetes, Downward
//! API).

use k8s_openapi::api::core::v1::ResourceFieldSelector;

use super::NodeFacts;
use crate::manifest::StaticPod;

/// The addresses of a Pod, which it has only once its sandbox runs. The first one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The Pod's own; the host's where it is on the host's network.
    pub pod: Vec<String>,
}

/// A field of the Pod as text. Labels or annotations as a whole come as `key="value"` lines, sorted;
/// a label or annotation that is not there is empty.
///
/// # Errors
/// The downward API does not have the field.
pub fn field_value(
    _facts: &NodeFacts,
    _pod: &StaticPod,
    _addresses: &Addresses,
    field_path: &str,
) -> Result<String, String> {
    Err(format!("{field_path} is not supported"))
}

/// A resource of a container of the Pod, divided by its divisor and rounded up. `container` is whose
/// it is where the selector names none. Where no limit is set, the node's allocatable amount counts.
///
/// # Errors
/// No such container or resource.
pub fn resource_value(
    _facts: &NodeFacts,
    _pod: &StaticPod,
    _container: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    Err(format!("{} is not supported", selector.resource))
}
