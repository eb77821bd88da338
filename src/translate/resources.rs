//! Requests and limits to cgroup settings: classes of quality of service (`QoS`), CPU shares and quotas, memory
//! (Kubernetes, Pod Quality of Service Classes, and Resource Management for Pods and Containers).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use super::NodeFacts;
use crate::cri::v1::{HugepageLimit, LinuxContainerResources};
use crate::host::cgroup::{CPU_PERIOD, CgroupLimits};
use crate::manifest::priority::NODE_CRITICAL_CLASS;
use crate::manifest::{all_containers, is_sidecar};
use crate::units::quantity::{self, Quantity};

const MIN_QUOTA: i64 = 1_000;
/// CPU shares of one CPU, and the bounds that the kernel sets.
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// OOM score adjustment by `QoS` class (Kubernetes, Node-pressure eviction).
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// Amounts of resources by their names, as they are written.
pub type Amounts = BTreeMap<String, Written>;

/// A Pod's class of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has CPU and memory limits and requests just those.
    Guaranteed,
    /// Some container requests or limits CPU or memory.
    Burstable,
    /// None does.
    BestEffort,
}

/// The Pod's class of service. Where the Pod has resources of its own, empty ones too, those of its
/// containers do not count, as for the kubelet.
#[must_use]
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let whole: Vec<&ResourceRequirements> = match &spec.resources {
        Some(own) => vec![own],
        None => all_containers(spec)
            .filter_map(|c| c.resources.as_ref())
            .collect(),
    };
    let expected = match &spec.resources {
        Some(_) => 1,
        None => all_containers(spec).count(),
    };
    let names = ["cpu", "memory"];
    let given = |r: &&ResourceRequirements| {
        names
            .iter()
            .any(|n| !request(r, n).is_zero() || !limit(r, n).is_zero())
    };
    if !whole.iter().any(given) {
        return QosClass::BestEffort;
    }
    let bound = |r: &&ResourceRequirements| {
        names.iter().all(|n| {
            let limit = limit(r, n);
            !limit.is_zero() && asked(r, n).is_none_or(|request| request == limit)
        })
    };
    if whole.len() == expected && whole.iter().all(bound) {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

fn amount(amounts: Option<&Amounts>, name: &str) -> Option<Quantity> {
    quantity::parse(&amounts?.get(name)?.0)
}

fn asked(resources: &ResourceRequirements, name: &str) -> Option<Quantity> {
    amount(resources.requests.as_ref(), name)
}

/// Request for a resource; a limit is a request where there is no other.
fn request(resources: &ResourceRequirements, name: &str) -> Quantity {
    asked(resources, name).unwrap_or_else(|| limit(resources, name))
}

fn limit(resources: &ResourceRequirements, name: &str) -> Quantity {
    amount(resources.limits.as_ref(), name).unwrap_or_default()
}

/// Request of a container for a resource.
pub(crate) fn container_request(container: &Container, name: &str) -> Quantity {
    let resources = container.resources.as_ref();
    resources.map(|r| request(r, name)).unwrap_or_default()
}

/// Limit of a container; zero if it has none.
pub(crate) fn container_limit(container: &Container, name: &str) -> Quantity {
    let resources = container.resources.as_ref();
    resources.map(|r| limit(r, name)).unwrap_or_default()
}

/// Limit of a container, or else of its Pod; zero if there is none.
pub(super) fn effective_limit(spec: &PodSpec, container: &Container, name: &str) -> Quantity {
    let own = container_limit(container, name);
    let of_pod = || spec.resources.as_ref().map(|r| limit(r, name));
    if own.is_zero() {
        of_pod().unwrap_or_default()
    } else {
        own
    }
}

/// Request of a Pod for a resource without its overhead: the most that its containers need at one time
/// (Kubernetes, Init Containers, "Resource sharing within containers").
#[must_use]
fn pod_request(spec: &PodSpec, name: &str) -> Quantity {
    let own = spec.resources.as_ref();
    let of_pod = own.filter(|r| asked(r, name).is_some() || !limit(r, name).is_zero());
    match of_pod {
        Some(resources) => request(resources, name),
        None => in_all(spec, |c| container_request(c, name)),
    }
}

/// Limit of a Pod without its overhead; zero if it has none.
#[must_use]
pub(crate) fn pod_limit(spec: &PodSpec, name: &str) -> Quantity {
    let of_pod = spec.resources.as_ref().map(|r| limit(r, name));
    match of_pod.filter(|l| !l.is_zero()) {
        Some(limit) => limit,
        None => in_all(spec, |c| container_limit(c, name)),
    }
}

fn in_all(spec: &PodSpec, of: impl Fn(&Container) -> Quantity) -> Quantity {
    let sum = |list: &[Container]| {
        list.iter()
            .map(&of)
            .fold(Quantity::default(), Quantity::plus)
    };
    let mut sidecars = Quantity::default();
    let mut peak = Quantity::default();
    for init in spec.init_containers.iter().flatten() {
        if is_sidecar(init) {
            sidecars = sidecars.plus(of(init));
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.plus(of(init)));
        }
    }
    peak.max(sum(&spec.containers).plus(sidecars))
}

/// The resources of a Pod's sandbox.
pub(super) fn sandbox_resources(facts: &NodeFacts, spec: &PodSpec) -> LinuxContainerResources {
    linux_resources(
        facts,
        pod_request(spec, "cpu"),
        pod_limit(spec, "cpu"),
        pod_limit(spec, "memory"),
    )
}

/// Overhead of the Pod besides its containers.
pub(super) fn overhead(facts: &NodeFacts, spec: &PodSpec) -> LinuxContainerResources {
    let Some(overhead) = &spec.overhead else {
        return LinuxContainerResources::default();
    };
    let of = |name| amount(Some(overhead), name).unwrap_or_default();
    linux_resources(facts, of("cpu"), of("cpu"), of("memory"))
}

/// The resources of one container.
pub(super) fn container_resources(
    facts: &NodeFacts,
    spec: &PodSpec,
    container: &Container,
) -> LinuxContainerResources {
    let cpu_limit = effective_limit(spec, container, "cpu");
    let memory_limit = effective_limit(spec, container, "memory");
    let own = container.resources.as_ref();
    let cpu_request = own.and_then(|r| asked(r, "cpu")).unwrap_or(cpu_limit);
    let mut resources = linux_resources(facts, cpu_request, cpu_limit, memory_limit);
    resources.oom_score_adj = oom_score(facts, spec, container);
    resources.hugepage_limits = hugepage_limits(facts, spec, container);
    if facts.kernel.swap_controller && facts.kernel.cgroup_unified {
        let unified = &mut resources.unified;
        unified.insert("memory.swap.max".into(), "0".into());
    } else if facts.kernel.swap_controller {
        // Memory and swap together may be no more than memory alone.
        resources.memory_swap_limit_in_bytes = resources.memory_limit_in_bytes;
    }
    resources
}

/// Requests of a Pod, its overhead included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requested {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Bytes in huge pages, by the name of the resource: `hugepages-2Mi`.
    pub huge_pages: BTreeMap<String, i64>,
}

/// Returns the requests of a Pod, its overhead included.
#[must_use]
pub fn requested(spec: &PodSpec) -> Requested {
    let overhead = |name: &str| amount(spec.overhead.as_ref(), name).unwrap_or_default();
    let all = |name: &str| pod_request(spec, name).plus(overhead(name));
    let containers = all_containers(spec).filter_map(|c| c.resources.as_ref());
    let resources = containers.chain(&spec.resources);
    let names = resources.flat_map(|r| r.requests.iter().chain(&r.limits));
    let names = names.chain(&spec.overhead).flat_map(BTreeMap::keys);
    let huge_pages = names.filter(|name| name.starts_with("hugepages-"));
    Requested {
        cpu: all("cpu").milli_value(),
        memory: all("memory").value(),
        ephemeral_storage: all("ephemeral-storage").value(),
        huge_pages: huge_pages
            .map(|name| (name.clone(), all(name).value()))
            .collect(),
    }
}

/// Returns the amounts that a Pod is allocated, and its requests and limits, as its status reports them.
#[must_use]
pub fn pod_amounts(spec: &PodSpec) -> (Amounts, ResourceRequirements) {
    let requests = summed(spec, |r| r.requests.as_ref());
    let limits = summed(spec, |r| r.limits.as_ref());
    let resources = ResourceRequirements {
        requests: Some(requests.clone()).filter(|r| !r.is_empty()),
        limits: Some(limits).filter(|l| !l.is_empty()),
        ..ResourceRequirements::default()
    };
    (requests, resources)
}

/// Returns the amounts that a container is allocated, and its requests and limits, as its status reports
/// them: a container with limits of its own also has those that the Pod's limits imply.
#[must_use]
pub fn container_amounts(pod: &PodSpec, container: &Container) -> (Amounts, ResourceRequirements) {
    let own = container.resources.as_ref();
    let requests = own.and_then(|r| r.requests.clone()).unwrap_or_default();
    let mut limits = own.and_then(|r| r.limits.clone()).unwrap_or_default();
    let of_pod = pod.resources.as_ref().and_then(|r| r.limits.as_ref());
    if !limits.is_empty() {
        for (name, limit) in of_pod.into_iter().flatten() {
            if ["cpu", "memory"].contains(&name.as_str()) {
                limits.entry(name.clone()).or_insert_with(|| limit.clone());
            }
        }
    }
    let resources = ResourceRequirements {
        requests: Some(requests.clone()).filter(|r| !r.is_empty()),
        limits: Some(limits).filter(|l| !l.is_empty()),
        ..ResourceRequirements::default()
    };
    (requests, resources)
}

/// Amounts of the Pod as a whole where it has them, of its containers together where not.
fn summed(
    spec: &PodSpec,
    of: impl Fn(&ResourceRequirements) -> Option<&Amounts> + Copy,
) -> Amounts {
    let own = spec.resources.as_ref().and_then(of);
    let all = all_containers(spec).filter_map(|c| c.resources.as_ref().and_then(of));
    let names: BTreeSet<&String> = own.into_iter().chain(all).flat_map(|a| a.keys()).collect();
    let mut summed = Amounts::new();
    for name in names {
        let of_container = |c: &Container| {
            let amounts = c.resources.as_ref().and_then(of);
            amount(amounts, name).unwrap_or_default()
        };
        let written = all_containers(spec).find_map(|c| {
            let amounts = c.resources.as_ref().and_then(of)?;
            amounts.get(name).map(|written| written.0.as_str())
        });
        let text = match own.and_then(|own| own.get(name)) {
            Some(written) => written.0.clone(),
            None => in_all(spec, of_container).written_like(written.unwrap_or_default()),
        };
        summed.insert(name.clone(), Written(text));
    }
    summed
}

/// The limits of a Pod's cgroup. One that not every container has is none of the Pod's.
#[must_use]
pub fn pod_cgroup_limits(facts: &NodeFacts, spec: &PodSpec) -> CgroupLimits {
    let overhead = |name| amount(spec.overhead.as_ref(), name).unwrap_or_default();
    let everywhere = |name: &str| {
        let of_pod = spec.resources.as_ref().map(|r| limit(r, name));
        of_pod.is_some_and(|l| !l.is_zero())
            || all_containers(spec).all(|c| !container_limit(c, name).is_zero())
    };
    let limited = |name| {
        if everywhere(name) {
            pod_limit(spec, name).plus(overhead(name))
        } else {
            Quantity::default()
        }
    };
    let pages = |size: &String| {
        let named = hugepage_names(size).into_iter();
        let bytes = named.map(|name| pod_limit(spec, &name).value()).max();
        (size.clone(), bytes.unwrap_or(0).try_into().unwrap_or(0))
    };
    CgroupLimits {
        cpu_shares: cpu_shares(requested(spec).cpu),
        cpu_quota: cpu_quota(limited("cpu").milli_value()),
        memory: limited("memory").value(),
        pids: facts.max_pids,
        hugepages: facts.kernel.hugepage_sizes.iter().map(pages).collect(),
    }
}

fn linux_resources(
    facts: &NodeFacts,
    cpu_request: Quantity,
    cpu_limit: Quantity,
    memory_limit: Quantity,
) -> LinuxContainerResources {
    let mut resources = LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: cpu_quota(cpu_limit.milli_value()),
        cpu_shares: cpu_shares(cpu_request.milli_value()),
        memory_limit_in_bytes: memory_limit.value(),
        ..LinuxContainerResources::default()
    };
    if facts.kernel.cgroup_unified {
        let unified = &mut resources.unified;
        if !facts.single_process_oom_kill {
            unified.insert("memory.oom.group".into(), "1".into());
        }
    }
    resources
}

/// The CPU shares that thousandths of a CPU stand for, within the kernel's bounds.
#[must_use]
pub fn cpu_shares(milli: i64) -> i64 {
    (milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds in each period; 0 for no limit.
fn cpu_quota(milli: i64) -> i64 {
    match milli {
        0 => 0,
        milli => (milli.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA),
    }
}

/// OOM score adjustment of the container, by its share of the node's memory.
fn oom_score(facts: &NodeFacts, spec: &PodSpec, container: &Container) -> i64 {
    if spec.priority_class_name.as_deref() == Some(NODE_CRITICAL_CLASS) {
        return GUARANTEED_OOM_SCORE;
    }
    match qos_class(spec) {
        QosClass::Guaranteed => return GUARANTEED_OOM_SCORE,
        QosClass::BestEffort => return BEST_EFFORT_OOM_SCORE,
        QosClass::Burstable => {}
    }
    let capacity = i64::try_from(facts.capacity.memory)
        .unwrap_or(i64::MAX)
        .max(1);
    let share = unclaimed_memory(spec);
    let score = |memory: i64| {
        let all = memory.saturating_add(share).saturating_mul(1000);
        1000_i64.saturating_sub(all.checked_div(capacity).unwrap_or(i64::MAX))
    };
    let mut own = score(container_request(container, "memory").value());
    if is_sidecar(container) {
        let least = spec
            .containers
            .iter()
            .map(|c| container_request(c, "memory").value());
        own = own.min(score(least.min().unwrap_or(0)));
    }
    // Between those of guaranteed and of best-effort Pods.
    own.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
}

/// Each container's part of what the Pod as a whole requests beyond its containers, in bytes.
fn unclaimed_memory(spec: &PodSpec) -> i64 {
    let own = spec.resources.as_ref();
    let Some(requested) = own.and_then(|r| asked(r, "memory")) else {
        return 0;
    };
    let claimed = in_all(spec, |c| container_request(c, "memory"));
    let count = i64::try_from(all_containers(spec).count()).unwrap_or(i64::MAX);
    let unclaimed = requested.value().saturating_sub(claimed.value());
    unclaimed.checked_div(count).unwrap_or(0)
}

/// Every page size of the node with its limit, by default none.
fn hugepage_limits(facts: &NodeFacts, spec: &PodSpec, container: &Container) -> Vec<HugepageLimit> {
    let sizes = facts.kernel.hugepage_sizes.iter();
    let limit = |size: &String| HugepageLimit {
        page_size: size.clone(),
        limit: hugepage_names(size)
            .into_iter()
            .map(|name| effective_limit(spec, container, &name).value())
            .find(|limit| *limit > 0)
            .and_then(|limit| u64::try_from(limit).ok())
            .unwrap_or(0),
    };
    sizes.map(limit).collect()
}

/// Possible resource names of a huge page size as cgroups write it (`2MB`): `hugepages-2Mi`.
fn hugepage_names(size: &str) -> Vec<String> {
    let Some((number, unit)) = size
        .find(|c: char| !c.is_ascii_digit())
        .map(|at| size.split_at(at))
    else {
        return vec![];
    };
    let unit = unit.trim_end_matches('B');
    let kilo: Option<u64> = number.parse::<u64>().ok().map(|n| n << 10);
    let smaller = match (unit, kilo) {
        ("G", Some(number)) => Some(format!("hugepages-{number}Mi")),
        ("M", Some(number)) => Some(format!("hugepages-{number}Ki")),
        _ => None,
    };
    let same = format!("hugepages-{number}{unit}i");
    std::iter::once(same).chain(smaller).collect()
}
