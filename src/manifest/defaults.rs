//! What the Kubernetes API fills in where a Pod says nothing (API reference, the fields' own
//! "Defaults to").

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};

/// Seconds between the stop signal and the kill.
const GRACE_PERIOD: i64 = 30;

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
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(host) = &mut volume.host_path {
            host.type_.get_or_insert_default();
        }
    }
}

fn set_container_defaults(container: &mut Container, host_network: bool) {
    let image = container.image.as_deref().unwrap_or_default();
    let policy = if tag_of(image).is_some_and(|tag| tag != "latest") {
        "IfNotPresent"
    } else {
        "Always"
    };
    default(&mut container.image_pull_policy, policy);
    default(
        &mut container.termination_message_path,
        "/dev/termination-log",
    );
    default(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    for port in container.ports.iter_mut().flatten() {
        default(&mut port.protocol, "TCP");
        if host_network {
            // On the host's network a port is the host's.
            let of_host = port.host_port.filter(|p| *p != 0);
            port.host_port = of_host.or(Some(port.container_port));
        }
    }
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
    if let Some(http) = &mut probe.http_get {
        default(&mut http.path, "/");
        default(&mut http.scheme, "HTTP");
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn set_hook_defaults(hook: &mut LifecycleHandler) {
    if let Some(http) = &mut hook.http_get {
        default(&mut http.path, "/");
        default(&mut http.scheme, "HTTP");
    }
}

fn default(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// The tag or digest of an image's name.
fn tag_of(image: &str) -> Option<&str> {
    if let Some((_, digest)) = image.split_once('@') {
        return Some(digest);
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map(|(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::tag_of;

    #[test]
    fn a_port_in_the_registrys_name_is_no_tag() {
        for (image, tag) in [
            ("nginx", None),
            ("nginx:1", Some("1")),
            ("localhost:5000/nginx", None),
            ("localhost:5000/nginx:1", Some("1")),
            ("nginx@sha256:ab", Some("sha256:ab")),
        ] {
            assert_eq!(tag_of(image), tag, "{image}");
        }
    }
}
