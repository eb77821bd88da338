//! Flags of the kubelet that podkeeper does not have, with advice (reference: Kubernetes, command line tools,
//! kubelet).

/// Flags of one concern, and the advice on them.
const FLAGS: [(&str, &str); 7] = [
    (
        "enable-debugging-handlers enable-server rotate-server-certificates",
        "leave it out; --port=0 closes the port of the node's API",
    ),
    (
        "cloud-config cloud-provider enable-controller-attach-detach event-burst event-qps \
         kube-api-burst kube-api-content-type kube-api-qps node-status-max-images \
         node-status-update-frequency provider-id register-schedulable azure-container-registry-config \
         pod-cidr non-masquerade-cidr master-service-namespace",
        "it concerns the API server's side of a node that runs more than static Pods; leave it out",
    ),
    (
        "cgroup-root cgroups-per-qos cpu-cfs-quota cpu-cfs-quota-period cpu-manager-policy \
         cpu-manager-policy-options cpu-manager-reconcile-period enforce-node-allocatable kube-reserved \
         kube-reserved-cgroup kubelet-cgroups memory-manager-policy oom-score-adj \
         pod-max-pids pods-per-core qos-reserved reserved-cpus reserved-memory runtime-cgroups \
         system-cgroups system-reserved system-reserved-cgroup topology-manager-policy \
         topology-manager-policy-options topology-manager-scope",
        "podkeeper does not divide the node's resources; leave it out, and limit the agent itself in \
         its systemd unit",
    ),
    (
        "eviction-hard eviction-max-pod-grace-period eviction-minimum-reclaim \
         eviction-pressure-transition-period eviction-soft eviction-soft-grace-period \
         experimental-allocatable-ignore-eviction kernel-memcg-notification local-storage-capacity-isolation",
        "podkeeper evicts no Pods; leave it out",
    ),
    (
        "keep-terminated-pod-volumes maximum-dead-containers maximum-dead-containers-per-container \
         minimum-container-ttl-duration",
        "podkeeper keeps one dead container of each name and no volumes; leave it out",
    ),
    (
        "container-runtime image-service-endpoint image-credential-provider-bin-dir \
         image-credential-provider-config registry-burst registry-qps runtime-request-timeout \
         serialize-image-pulls",
        "it concerns the container runtime; leave it out, and set what you need in the runtime's \
         own configuration",
    ),
    (
        "application-metrics-count-limit boot-id-file container-hints \
         containerd containerd-namespace contention-profiling enable-load-reader \
         event-storage-age-limit event-storage-event-limit exit-on-lock-contention \
         experimental-mounter-path feature-gates global-housekeeping-interval hairpin-mode \
         housekeeping-interval iptables-drop-bit iptables-masquerade-bit lock-file \
         log-cadvisor-usage log-flush-frequency log-json-info-buffer-size log-json-split-stream \
         log-text-info-buffer-size log-text-split-stream machine-id-file make-iptables-util-chains \
         max-open-files profiling protect-kernel-defaults runonce storage-driver-buffer-duration \
         storage-driver-db storage-driver-host storage-driver-password storage-driver-secure \
         storage-driver-table storage-driver-user sync-frequency version vmodule volume-plugin-dir \
         volume-stats-agg-period",
        "leave it out",
    ),
];

/// Returns the advice on this flag (with its dashes), if it is one of the kubelet's.
pub(crate) fn advice(flag: &str) -> Option<String> {
    let name = flag.strip_prefix("--")?.split('=').next()?;
    let (_, advice) = FLAGS
        .iter()
        .find(|(flags, _)| flags.split_whitespace().any(|known| known == name))?;
    Some(format!(
        "--{name} is a flag of the kubelet that podkeeper does not have: {advice}"
    ))
}
