//! Sums of the requests and of the limits of a Pod's containers (Kubernetes, Sidecar Containers, "Resource
//! sharing within containers").

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use crate::units::quantity::{self, Quantity};

/// Amounts of resources by their names.
pub(super) type ResourceAmounts = BTreeMap<String, Written>;

/// The amount of a resource, if there is one that can be read.
pub(super) fn amount(amounts: Option<&ResourceAmounts>, name: &str) -> Option<Quantity> {
    quantity::parse(&amounts?.get(name)?.0)
}

/// The containers that run beside each other, and the init containers, which run before.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let inits = spec.init_containers.iter().flatten();
    inits.chain(&spec.containers)
}

/// Returns true if an init container is a sidecar, which runs as long as the Pod.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Every resource that a container requests, and how much all of them need at most at a time.
pub(super) fn of_containers(spec: &PodSpec) -> ResourceAmounts {
    summed(spec, |resources| resources.requests.as_ref())
}

/// The same for what containers are limited to.
pub(super) fn limits_of_containers(spec: &PodSpec) -> ResourceAmounts {
    summed(spec, |resources| resources.limits.as_ref())
}

fn summed(
    spec: &PodSpec,
    side: fn(&ResourceRequirements) -> Option<&ResourceAmounts>,
) -> ResourceAmounts {
    let names: BTreeSet<&String> = all_containers(spec)
        .filter_map(|c| side(c.resources.as_ref()?))
        .flat_map(BTreeMap::keys)
        .collect();
    let amount = |c: &Container, name: &String| side(c.resources.as_ref()?)?.get(name).cloned();
    let together = |name: &String| Written(together(spec, |c| amount(c, name)));
    let entry = |name: &String| (name.clone(), together(name));
    names.into_iter().map(entry).collect()
}

/// Returns the most that the containers need at one time, as a quantity in canonical form.
fn together(spec: &PodSpec, written: impl Fn(&Container) -> Option<Written>) -> String {
    let of = |c: &Container| {
        written(c)
            .and_then(|w| quantity::parse(&w.0))
            .unwrap_or_default()
    };
    let add = |sum: Quantity, c: &Container| sum.plus(of(c));
    let mut sidecars = Quantity::default();
    let mut most = Quantity::default();
    for init in spec.init_containers.iter().flatten() {
        let needed = sidecars.plus(of(init));
        most = most.max(needed);
        if is_sidecar(init) {
            sidecars = needed;
        }
    }
    let main = spec.containers.iter().fold(sidecars, add);
    let like = all_containers(spec).find_map(&written);
    most.max(main).written_like(&like.unwrap_or_default().0)
}
