//! Defaults that the Kubernetes API sets for fields that a Pod leaves out (API reference, the fields' own
//! "Defaults to"), and the canonical form of quantities.

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVarSource, HTTPGetAction,
    LifecycleHandler, ObjectFieldSelector, Pod, PodSpec, Probe, ResourceFieldSelector,
    ResourceRequirements, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use super::requests::{self, ResourceAmounts};
use crate::units::quantity;

/// Seconds between the stop signal and the kill.
const GRACE_PERIOD: i64 = 30;
/// The mode of files that the agent writes.
const FILE_MODE: i32 = 0o644;

/// Fills in the defaults.
pub(super) fn set_defaults(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    default(&mut spec.restart_policy, "Always");
    default(&mut spec.dns_policy, "ClusterFirst");
    default(&mut spec.scheduler_name, "default-scheduler");
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds
        .get_or_insert(GRACE_PERIOD);
    let host_network = spec.host_network == Some(true);
    let inits = spec.init_containers.iter_mut().flatten();
    for container in inits.chain(&mut spec.containers) {
        set_container_defaults(container, host_network);
    }
    spec.volumes
        .iter_mut()
        .flatten()
        .for_each(set_volume_defaults);
    spec.overhead.iter_mut().for_each(round);
    set_pod_resources(spec);
}

fn set_container_defaults(container: &mut Container, host_network: bool) {
    let image = container.image.as_deref().unwrap_or_default();
    default(&mut container.image_pull_policy, pull_policy(image));
    default(
        &mut container.termination_message_path,
        "/dev/termination-log",
    );
    default(&mut container.termination_message_policy, "File");
    set_resources(container.resources.get_or_insert_default());
    for port in container.ports.iter_mut().flatten() {
        default(&mut port.protocol, "TCP");
        if host_network {
            // On the host's network a port is the host's.
            let of_host = port.host_port.filter(|p| *p != 0);
            port.host_port = of_host.or(Some(port.container_port));
        }
    }
    let variables = container.env.iter_mut().flatten();
    variables
        .filter_map(|v| v.value_from.as_mut())
        .for_each(set_variable_defaults);
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(set_probe_defaults);
    if let Some(lifecycle) = &mut container.lifecycle {
        let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        hooks.into_iter().flatten().for_each(set_hook_defaults);
    }
}

/// A limit is a request where there is no other.
fn set_resources(resources: &mut ResourceRequirements) {
    resources.limits.iter_mut().for_each(round);
    resources.requests.iter_mut().for_each(round);
    if let Some(limits) = resources.limits.as_ref().filter(|l| !l.is_empty()) {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests
                .entry(name.clone())
                .or_insert_with(|| limit.clone());
        }
    }
}

/// Fills in what the Pod as a whole has, where something is said of it at all (Kubernetes, Assign
/// Pod-level CPU and memory resources). Huge pages cannot be given to more than one, so its limit of
/// them is what the containers have together; where the Pod has limits, it requests what its
/// containers do, or what it is limited to.
fn set_pod_resources(spec: &mut PodSpec) {
    let requested = requests::of_containers(spec);
    let limited = requests::limits_of_containers(spec);
    let Some(resources) = &mut spec.resources else {
        return;
    };
    resources.limits.iter_mut().for_each(round);
    resources.requests.iter_mut().for_each(round);
    let mut limits = resources.limits.clone().unwrap_or_default();
    let mut requests = resources.requests.clone().unwrap_or_default();
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    for (name, limit) in limited {
        if is_huge_pages(&name) && !requests.contains_key(&name) {
            limits.entry(name).or_insert(limit);
        }
    }
    if limits.is_empty() {
        return;
    }
    for (name, request) in requested {
        if ["cpu", "memory"].contains(&name.as_str()) {
            requests.entry(name).or_insert(request);
        }
    }
    for (name, limit) in &limits {
        if ["cpu", "memory"].contains(&name.as_str()) || is_huge_pages(name) {
            let request = requests.entry(name.clone());
            request.or_insert_with(|| limit.clone());
        }
    }
    resources.limits = Some(limits);
    resources.requests = Some(requests).filter(|r| !r.is_empty());
}

/// True if a resource is huge pages of one size.
pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn set_variable_defaults(source: &mut EnvVarSource) {
    source.field_ref.iter_mut().for_each(set_field_defaults);
    let resources = source.resource_field_ref.iter_mut();
    resources.for_each(set_divisor);
    if let Some(file) = &mut source.file_key_ref {
        file.optional.get_or_insert(false);
    }
}

fn set_field_defaults(selector: &mut ObjectFieldSelector) {
    default(&mut selector.api_version, "v1");
}

fn set_divisor(selector: &mut ResourceFieldSelector) {
    let divisor = selector.divisor.get_or_insert_default();
    if divisor.0.is_empty() {
        "0".clone_into(&mut divisor.0);
    }
    canonical(divisor);
}

fn set_probe_defaults(probe: &mut Probe) {
    let positive = |field: &mut Option<i32>, value| {
        if field.is_none_or(|v| v == 0) {
            *field = Some(value);
        }
    };
    positive(&mut probe.timeout_seconds, 1);
    positive(&mut probe.period_seconds, 10);
    positive(&mut probe.success_threshold, 1);
    positive(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(set_http_defaults);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn set_hook_defaults(hook: &mut LifecycleHandler) {
    hook.http_get.iter_mut().for_each(set_http_defaults);
}

fn set_http_defaults(http: &mut HTTPGetAction) {
    default(&mut http.path, "/");
    default(&mut http.scheme, "HTTP");
}

fn set_volume_defaults(volume: &mut Volume) {
    let bare = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    if *volume == bare {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(host) = &mut volume.host_path {
        host.type_.get_or_insert_default();
    }
    if let Some(empty) = &mut volume.empty_dir {
        empty.size_limit.iter_mut().for_each(canonical);
    }
    if let Some(image) = &mut volume.image {
        let reference = image.reference.as_deref().unwrap_or_default();
        default(&mut image.pull_policy, pull_policy(reference));
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(map) = &mut volume.config_map {
        map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        downward
            .items
            .iter_mut()
            .flatten()
            .for_each(set_file_defaults);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        let parts = projected.sources.iter_mut().flatten();
        parts.for_each(set_projection_defaults);
    }
}

fn set_projection_defaults(part: &mut VolumeProjection) {
    if let Some(downward) = &mut part.downward_api {
        downward
            .items
            .iter_mut()
            .flatten()
            .for_each(set_file_defaults);
    }
}

fn set_file_defaults(file: &mut DownwardAPIVolumeFile) {
    file.field_ref.iter_mut().for_each(set_field_defaults);
    file.resource_field_ref.iter_mut().for_each(set_divisor);
}

/// Amounts of resources as the API has them: no finer than thousandths, and in the shortest form.
fn round(amounts: &mut ResourceAmounts) {
    for amount in amounts.values_mut() {
        if let Some(rounded) = quantity::parse(&amount.0).map(quantity::Quantity::rounded_to_milli)
        {
            amount.0 = rounded.written_like(&amount.0);
        }
    }
}

fn canonical(amount: &mut Written) {
    if let Some(parsed) = quantity::parse(&amount.0) {
        amount.0 = parsed.written_like(&amount.0);
    }
}

fn default(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// An image that may become another one is asked for each time: `latest`, whatever digest stands behind
/// it, or neither tag nor digest.
fn pull_policy(image: &str) -> &'static str {
    match tag_of(image) {
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

/// The tag and the digest of an image's name.
fn tag_of(image: &str) -> (Option<&str>, Option<&str>) {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    (last.split_once(':').map(|(_, tag)| tag), digest)
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn what_may_become_another_image_is_always_asked_for() {
        let digest = "sha256:".to_owned() + &"ab".repeat(32);
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            (&format!("nginx@{digest}"), "IfNotPresent"),
            (&format!("nginx:1@{digest}"), "IfNotPresent"),
            (&format!("nginx:latest@{digest}"), "Always"),
            (&format!("localhost:5000/nginx@{digest}"), "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
