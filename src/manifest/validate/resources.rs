//! Requests and limits, of containers and of Pods as a whole (Kubernetes, Resource Management for Pods
//! and Containers, and Manage `HugePages`).

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::super::defaults::is_huge_pages;
use super::super::requests::{self, ResourceAmounts, amount};
use super::{FieldPath, Validator, is_dns_subdomain, names, unexpected};
use crate::units::quantity::{self, Quantity};

/// Prefix of resource names in quotas, which the longest name is measured with.
const QUOTA_PREFIX: &str = "requests.";

impl Validator<'_> {
    pub(super) fn container_resources(&mut self, field: &FieldPath, container: &Container) {
        if let Some(resources) = &container.resources {
            let field = field.key("resources");
            self.both_amounts(&field, resources, false);
            self.requests_within_limits(&field, resources);
            self.huge_pages(&field, resources);
        }
    }

    pub(super) fn pod_resources(&mut self, field: &FieldPath, spec: &PodSpec) {
        let overhead = spec.overhead.as_ref();
        for (name, written) in overhead.into_iter().flatten() {
            self.amount(&field.key("overhead").key(name), name, &written.0, false);
        }
        let whole = ResourceRequirements {
            limits: overhead.cloned(),
            ..ResourceRequirements::default()
        };
        self.huge_pages(&field.key("overhead"), &whole);
        let Some(resources) = &spec.resources else {
            return;
        };
        let field = field.key("resources");
        self.both_amounts(&field, resources, true);
        self.requests_within_limits(&field, resources);
        self.huge_pages(&field, resources);
        self.containers_within_pod(&field, spec, resources);
    }

    /// A request that was defaulted from a limit is as wrong as the limit, which is reported already.
    fn both_amounts(&mut self, field: &FieldPath, resources: &ResourceRequirements, of_pod: bool) {
        let limits = resources.limits.as_ref();
        for (name, written) in limits.into_iter().flatten() {
            self.amount(&field.key("limits").key(name), name, &written.0, of_pod);
        }
        for (name, written) in resources.requests.iter().flatten() {
            if limits.and_then(|limits| limits.get(name)) != Some(written) {
                self.amount(&field.key("requests").key(name), name, &written.0, of_pod);
            }
        }
    }

    fn amount(&mut self, field: &FieldPath, name: &str, written: &str, of_pod: bool) {
        self.resource_name(field, name, of_pod);
        let Some(found) = quantity::parse(written) else {
            return;
        };
        if found.is_negative() {
            self.refuse(field, unexpected(written, "0 or more"));
        }
        if is_extended(name) && !found.is_multiple_of(Quantity::of(1)) {
            self.refuse(field, unexpected(written, "a whole number"));
        }
        let size = name.strip_prefix("hugepages-").and_then(quantity::parse);
        if let Some(size) = size.filter(|size| !found.is_multiple_of(*size)) {
            let expected = format!("a multiple of {}", size.written_like("1Mi"));
            self.refuse(field, unexpected(written, &expected));
        }
    }

    fn resource_name(&mut self, field: &FieldPath, name: &str, of_pod: bool) {
        let size = name.strip_prefix("hugepages-");
        let pages = size
            .and_then(quantity::parse)
            .is_some_and(|s| !s.is_zero() && !s.is_negative());
        let good = match name {
            "cpu" | "memory" => true,
            "ephemeral-storage" => !of_pod,
            _ => pages || !of_pod && (is_extended(name) || is_native(name)),
        };
        let expected = if of_pod {
            "cpu, memory or hugepages-SIZE"
        } else {
            "cpu, memory, ephemeral-storage, hugepages-SIZE or a name such as example.com/gpu"
        };
        self.expect(good, field, name, expected);
    }

    fn requests_within_limits(&mut self, field: &FieldPath, resources: &ResourceRequirements) {
        let limits = resources.limits.as_ref();
        for (name, written) in resources.requests.iter().flatten() {
            let Some(request) = quantity::parse(&written.0) else {
                continue;
            };
            let all_or_nothing = is_huge_pages(name) || is_extended(name);
            let Some(limit) = amount(limits, name) else {
                if all_or_nothing {
                    let message = format!("missing, expected {}, as is requested", written.0);
                    self.refuse(&field.key("limits").key(name), message);
                }
                continue;
            };
            let shown = limit.written_like(&written.0);
            let field = field.key("requests").key(name);
            if all_or_nothing && request != limit {
                let message = unexpected(&written.0, &format!("the limit, {shown}"));
                self.refuse(&field, message);
            } else if request > limit {
                let expected = format!("no more than the limit, {shown}");
                self.refuse(&field, unexpected(&written.0, &expected));
            }
        }
    }

    fn huge_pages(&mut self, field: &FieldPath, resources: &ResourceRequirements) {
        let both = [&resources.limits, &resources.requests];
        let mut names = both.into_iter().flatten().flat_map(ResourceAmounts::keys);
        let pages = names.clone().any(|name| is_huge_pages(name));
        if pages && !names.any(|name| ["cpu", "memory"].contains(&name.as_str())) {
            let message = "found huge pages alone, expected cpu or memory beside them";
            self.refuse(field, message);
        }
    }

    /// No container may have more than the Pod, nor all of them together request more. What an init
    /// container is limited to does not matter, as for the API.
    fn containers_within_pod(
        &mut self,
        field: &FieldPath,
        spec: &PodSpec,
        resources: &ResourceRequirements,
    ) {
        let together = requests::of_containers(spec);
        for (name, written) in resources.requests.iter().flatten() {
            let needed = amount(Some(&together), name);
            let found = quantity::parse(&written.0);
            if let (Some(found), Some(needed)) = (found, needed)
                && found < needed
            {
                let needed = needed.written_like(&written.0);
                let expected = format!("at least {needed}, which the containers request together");
                let field = field.key("requests").key(name);
                self.refuse(&field, unexpected(&written.0, &expected));
            }
        }
        for (field, container) in FieldPath::new("spec").items("containers", [&spec.containers]) {
            let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
            for (name, written) in limits.into_iter().flatten() {
                let most = amount(resources.limits.as_ref(), name);
                let found = quantity::parse(&written.0);
                if let (Some(found), Some(most)) = (found, most)
                    && found > most
                {
                    let most = most.written_like(&written.0);
                    let field = field.key("resources").key("limits").key(name);
                    let expected = format!("no more than the Pod's limit, {most}");
                    self.refuse(&field, unexpected(&written.0, &expected));
                }
            }
        }
    }
}

/// A resource of Kubernetes' own domain, of which the API knows no more.
fn is_native(name: &str) -> bool {
    name.contains("kubernetes.io/") && names::is_qualified_name(name)
}

/// A resource of a device or the like, named with somebody's domain.
fn is_extended(name: &str) -> bool {
    let Some((domain, _)) = name.split_once('/') else {
        return false;
    };
    let own = name.contains("kubernetes.io/");
    !own && !name.starts_with(QUOTA_PREFIX)
        && is_dns_subdomain(domain)
        && names::is_qualified_name(&format!("{QUOTA_PREFIX}{name}"))
}
