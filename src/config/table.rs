//! The table of all settings: `--help`, `podkeeper config`, `/configz` and docs/configuration.md are made
//! from it.
//!
//! To add a setting, add its row here and read it with [`super::values::Values::get`] where the part of the
//! [`super::Config`] that it belongs to is loaded. Flags and fields that the kubelet has are spelled as there,
//! with the kubelet's defaults.

use super::DEFAULT_RUN_DIR;
use super::setting::Definition;
use super::value_type::ValueType::{
    Address, Addresses, Bool, Count, Duration, Endpoint, Headers, Limit, LogLevel, NodeName, OneOf,
    Pairs, Path, PathOrNone, Paths, Percent, Period, Port, PriorityPeriods, Range, Size, Taints,
    Text, Texts, Thresholds, TimeLimit, Url,
};
use super::values::Inputs;

const AUTHORIZATION: &[(&str, &str)] = &[
    (
        "AlwaysAllow",
        "Nobody: an authenticated caller may do everything",
    ),
    ("Webhook", "The API server"),
];
const CGROUP_DRIVERS: &[(&str, &str)] = &[
    ("cgroupfs", "Cgroups are written directly"),
    ("systemd", "systemd manages cgroups as slices"),
];
const LOG_FORMATS: &[(&str, &str)] = &[
    ("text", "For people"),
    ("json", "For programs: one JSON object a line"),
];
const TLS_VERSIONS: &[(&str, &str)] = &[("VersionTLS12", ""), ("VersionTLS13", "")];

/// Largest duration of a lease that the API server accepts.
const MAX_SECONDS: u32 = i32::MAX.unsigned_abs();

const fn row(
    flag: &'static str,
    value_type: super::value_type::ValueType,
    help: &'static str,
) -> Definition {
    Definition::new(flag, value_type, help)
}

/// All settings, in the order of `--help` and docs/configuration.md.
#[rustfmt::skip]
pub(super) static SETTINGS: &[Definition] = &[
    row("pod-manifest-path", Path, "Directory with Pod manifests, or one manifest file")
        .value_name("PATH").field("staticPodPath").reloadable(),
    row("file-check-frequency", Period, "Interval at which the manifests are read again even if no change was noticed")
        .field("fileCheckFrequency").default("20s").reloadable(),
    row("manifest-url", Url, "URL of a document with Pods")
        .field("staticPodURL").reloadable()
        .notes("see [manifests from a URL](manifest-url.md)"),
    row("manifest-url-header", Headers, "Headers of requests to --manifest-url, NAME:VALUE; repeatable, or separated by commas")
        .field("staticPodURLHeader").reloadable(),
    row("http-check-frequency", Period, "Interval between requests to --manifest-url")
        .field("httpCheckFrequency").default("20s").reloadable(),
    row("manifest-url-ca-file", Path, "Certificates to trust for --manifest-url, PEM")
        .nothing("the system's").reloadable(),
    row("manifest-url-client-cert-file", Path, "Client certificate for --manifest-url, PEM")
        .reloadable(),
    row("manifest-url-client-key-file", Path, "Key of that certificate, PEM, unless it is in the same file")
        .requires("manifest-url-client-cert-file").reloadable(),
    row("manifest-url-token-file", Path, "File with a bearer token for --manifest-url")
        .reloadable(),
    row("manifest-url-public-key", Paths, "minisign public key; if any is given, only documents signed by one of them are accepted; repeatable")
        .reloadable(),

    row("container-runtime-endpoint", Endpoint, "Unix socket of the container runtime")
        .field("containerRuntimeEndpoint")
        .computed("the first well-known socket that exists", |_| crate::cri::Endpoint::find().to_string())
        .notes("the well-known ones are `/run/containerd/containerd.sock`, `/var/run/containerd/containerd.sock`, \
                `/run/k3s/containerd/containerd.sock` and `/run/crio/crio.sock`, in this order; where none \
                exists, the first"),
    row("root-dir", Path, "Directory for the agent's files: Pods' directories, accepted manifests")
        .value_name("DIR").default("/var/lib/podkeeper")
        .notes("a directory with another agent's Pods, such as the kubelet's, is refused"),
    row("pod-logs-dir", Path, "Directory for containers' logs")
        .value_name("DIR").field("podLogsDir").default("/var/log/pods"),
    row("container-logs-dir", Path, "Directory for links to containers' logs, where log shippers look")
        .value_name("DIR").default("/var/log/containers"),
    row("run-dir", Path, "Directory for the socket of the agent's local API")
        .value_name("DIR").default(DEFAULT_RUN_DIR)
        .notes("one that somebody else owns or can write to is refused"),

    row("read-only-port", Port, "Port for Pods, metrics and the configuration, without authentication; 0 disables it")
        .field("readOnlyPort").default("0")
        .notes("see [local API](operations.md#local-api)"),
    row("address", Address, "Address of --port and --read-only-port")
        .field("address")
        .computed("all addresses for --port, 127.0.0.1 for --read-only-port", default_address),
    row("port", Port, "Port of the node's API over HTTPS, for kubectl logs, exec, attach, port-forward and top; 0 disables it")
        .field("port")
        .computed("10250 with --kubeconfig or --client-ca-file, or with --anonymous-auth and `AlwaysAllow`, else 0", default_port)
        .notes("see [the node's API](api-server.md#kubectl-logs-exec-attach-port-forward-top)"),
    row("tls-cert-file", Path, "Serving certificate of --port, PEM")
        .field("tlsCertFile").nothing("self-signed"),
    row("tls-private-key-file", Path, "Key of --tls-cert-file, PEM")
        .field("tlsPrivateKeyFile"),
    row("tls-min-version", OneOf(TLS_VERSIONS), "Minimum TLS version of --port")
        .value_name("VERSION").field("tlsMinVersion").default("VersionTLS12")
        .notes("or `VersionTLS13`"),
    row("tls-cipher-suites", Texts, "Cipher suites of --port with TLS 1.2; repeatable, or separated by commas")
        .value_name("SUITES").field("tlsCipherSuites").nothing("all that are safe"),
    row("client-ca-file", Path, "Certificate authority of the clients of --port, PEM")
        .field("authentication.x509.clientCAFile").nothing("none"),
    row("authentication-token-webhook", Bool, "Have the API server authenticate bearer tokens")
        .field("authentication.webhook.enabled").computed("true with --kubeconfig", with_kubeconfig),
    row("authentication-token-webhook-cache-ttl", Period, "Time for which the review of a token is cached")
        .field("authentication.webhook.cacheTTL").default("2m"),
    row("anonymous-auth", Bool, "Accept callers without credentials as the user system:anonymous")
        .field("authentication.anonymous.enabled").default("false"),
    row("authorization-mode", OneOf(AUTHORIZATION), "Authorizer of the callers of --port")
        .field("authorization.mode").default("Webhook")
        .notes("the API server, or nobody (`AlwaysAllow`)"),
    row("authorization-webhook-cache-authorized-ttl", Period, "Time for which a permission is cached")
        .field("authorization.webhook.cacheAuthorizedTTL").default("5m"),
    row("authorization-webhook-cache-unauthorized-ttl", Period, "Time for which a denial is cached")
        .field("authorization.webhook.cacheUnauthorizedTTL").default("30s"),
    row("streaming-connection-idle-timeout", Period, "Time after which an idle stream into a container is closed")
        .field("streamingConnectionIdleTimeout").default("4h"),
    row("healthz-port", Port, "Port of the agent's health check; 0 disables it")
        .field("healthzPort").default("10248"),
    row("healthz-bind-address", Address, "Address of --healthz-port")
        .field("healthzBindAddress").default("127.0.0.1"),

    row("hostname-override", NodeName, "Name of this node")
        .computed("the machine's host name, in lower case", |_| super::host_name()),
    row("cluster-dns", Addresses, "DNS servers of Pods with the DNS policy `ClusterFirst`; repeatable, or separated by commas")
        .field("clusterDNS").nothing("none"),
    row("cluster-domain", Text, "Domain of the cluster, the first search domain of these Pods")
        .value_name("DOMAIN").field("clusterDomain").nothing("none"),
    row("resolv-conf", PathOrNone, "Resolver configuration of the host; if empty, Pods with its DNS policy resolve names on this machine only")
        .field("resolvConf").default("/etc/resolv.conf"),
    row("cgroup-driver", OneOf(CGROUP_DRIVERS), "Manager of cgroups, where the runtime does not report it")
        .value_name("DRIVER").field("cgroupDriver").default("cgroupfs"),
    row("cgroup-root", Text, "Cgroup that those of Pods are below")
        .value_name("CGROUP").field("cgroupRoot").nothing("the root"),
    row("pod-max-pids", Limit, "Maximum number of processes of a Pod; -1 for no limit")
        .field("podPidsLimit").default("-1"),
    row("single-process-oom-kill", Bool, "Have the kernel kill one process where a container runs out of memory, with cgroup v2; otherwise all of the container's")
        .field("singleProcessOOMKill").default("false"),
    row("node-ip", Addresses, "IP addresses of this node; repeatable, or separated by commas")
        .nothing("those from which the machine reaches others")
        .notes("unless given, they are checked again regularly; `0.0.0.0` and `::` say which family is the first one"),
    row("node-labels", Pairs, "Labels of this node, NAME=VALUE, which a Pod's nodeSelector must match; repeatable, or separated by commas")
        .notes("of `kubernetes.io` and `k8s.io` only those that a kubelet accepts"),
    row("runtime-class", Pairs, "Runtime handler for Pods of a runtime class, CLASS=HANDLER; repeatable, or separated by commas")
        .value_name("CLASSES"),
    row("seccomp-default", Bool, "Use the runtime's default seccomp profile for containers that have none")
        .field("seccompDefault").default("false"),
    row("allowed-unsafe-sysctls", Texts, "Sysctls that Pods may set besides the safe ones; a trailing `*` is a wildcard; repeatable, or separated by commas")
        .field("allowedUnsafeSysctls").nothing("none"),
    row("max-pods", Count(u32::MAX), "Maximum number of Pods on the node")
        .field("maxPods").default("110"),

    row("container-log-max-size", Size, "Size at which a container's log is rotated; negative for never")
        .field("containerLogMaxSize").default("10Mi"),
    row("container-log-max-files", Range(2, 65535), "Maximum number of files of a container's log, at least 2")
        .field("containerLogMaxFiles").default("5"),
    row("container-log-monitor-interval", Period, "Interval at which containers' logs are checked for rotation")
        .field("containerLogMonitorInterval").default("10s"),
    row("image-gc-high-threshold", Percent, "Disk usage in percent at which unused images are removed; 100 for never")
        .field("imageGCHighThresholdPercent").default("85"),
    row("image-gc-low-threshold", Percent, "Disk usage in percent down to which they are removed")
        .field("imageGCLowThresholdPercent").default("80"),
    row("minimum-image-ttl-duration", Duration, "Minimum age of an unused image before it is removed")
        .field("imageMinimumGCAge").default("2m"),
    row("image-maximum-gc-age", Duration, "Time after which an unused image is removed regardless of disk usage; 0s for never")
        .field("imageMaximumGCAge").default("0s"),

    row("image-credential-provider-config", Path, "Configuration of programs that give credentials for registries, or a directory with such files")
        .value_name("PATH").requires("image-credential-provider-bin-dir")
        .notes("a `CredentialProviderConfig`; see [private registries](registries.md#credential-providers)"),
    row("image-credential-provider-bin-dir", Path, "Directory with these programs")
        .value_name("DIR").requires("image-credential-provider-config"),
    row("image-pull-timeout", Period, "Time within which a pull of an image must end; it is begun again after a back-off")
        .default("30m"),

    row("kubeconfig", Path, "Kubeconfig of an API server at which the node registers and its Pods are mirrored")
        .nothing("none").notes("see [API server](api-server.md)"),
    row("bootstrap-kubeconfig", Path, "Kubeconfig for requesting a client certificate, while --kubeconfig does not exist or its certificate has expired"),
    row("cert-dir", Path, "Directory for client certificates")
        .value_name("DIR").nothing("that of the kubeconfig's certificate, or `pki` in --root-dir"),
    row("rotate-certificates", Bool, "Renew the client certificate before it expires")
        .field("rotateCertificates")
        .computed("true with --bootstrap-kubeconfig", |inputs| inputs.is_given("bootstrap-kubeconfig").to_string()),
    row("register-node", Bool, "Create the Node at the API server if it does not exist")
        .field("registerNode").computed("true with --kubeconfig", with_kubeconfig),
    row("register-with-taints", Taints, "Taints of the created Node, KEY=VALUE:EFFECT; repeatable, or separated by commas")
        .field("registerWithTaints").default("podkeeper.io/static-only:NoSchedule"),
    row("provider-id", Text, "ID of the machine at its cloud provider, which the created Node has")
        .value_name("ID").field("providerID").nothing("none"),
    row("node-status-update-frequency", Period, "Interval at which the machine is measured for the Node's status; a change is reported then")
        .field("nodeStatusUpdateFrequency").default("10s"),
    row("node-status-report-frequency", Period, "Interval at which an unchanged status is reported")
        .field("nodeStatusReportFrequency")
        .computed("that of `--node-status-update-frequency` if it is given, else 5m", report_frequency),
    row("eviction-hard", Thresholds, "Thresholds of what is left below which the Node is under pressure, SIGNAL<AMOUNT; no Pod is evicted; repeatable, or separated by commas")
        .field("evictionHard").default(crate::mirror::DEFAULT_THRESHOLDS),
    row("merge-default-eviction-settings", Bool, "Keep the defaults of the thresholds that --eviction-hard does not give")
        .field("mergeDefaultEvictionSettings").default("false"),
    row("eviction-pressure-transition-period", Duration, "Time for which a Node that was short of something is still under pressure")
        .field("evictionPressureTransitionPeriod").default("5m"),
    row("node-lease-duration-seconds", Count(MAX_SECONDS), "Duration of the Node's lease, which is renewed four times as often")
        .value_name("SECONDS").field("nodeLeaseDurationSeconds").default("40"),

    row("take-over-kubelet-pods", Bool, "Stop a static Pod that a kubelet left before the Pod of this name is started; if false, it is left alone, and ours is not started")
        .default("true"),
    row("runtime-concurrency", Count(65535), "Maximum number of sandboxes and containers that are created, started or stopped at a time")
        .nothing("set from how long the calls take"),
    row("max-container-restart-period", Duration, "Maximum back-off before a crashing container is restarted, 1s to 5m")
        .field("crashLoopBackOff.maxContainerRestartPeriod").default("5m"),
    row("rollback-after", TimeLimit, "Time within which an updated Pod must become Ready before the update is rolled back, unless its annotation podkeeper.io/rollback-after is set")
        .nothing("never")
        .notes("see [updates that are taken back](manifests.md#updates-that-are-taken-back)"),
    row("stop-pods-at-shutdown", Bool, "Stop all Pods in order before the machine shuts down; if false, they run until systemd kills them")
        .default("true"),
    Definition::of_field(super::shutdown::TOTAL, Duration, "Time that all Pods have to stop before the machine shuts down")
        .default("40s").notes("see [shutdown](operations.md#shutdown)"),
    Definition::of_field(super::shutdown::CRITICAL, Duration, "Part of that time for critical Pods, which stop last")
        .computed("`10s`, or `0s` where `shutdownGracePeriod` is given", default_critical),
    Definition::of_field(super::shutdown::BY_PRIORITY, PriorityPeriods, "Times to stop by Pods' priority, the lowest first, in place of the other two")
        .nothing("none"),
    row("log-format", OneOf(LOG_FORMATS), "Format of log lines")
        .value_name("FORMAT").alias("logging-format").field("logging.format").default("text")
        .notes("or `json`"),
    row("log-level", LogLevel, "Minimum level of log lines: error, warn, info, debug or trace")
        .field("logging.verbosity").default("info").reloadable()
        .notes("in the file, and with `--v` or `-v`, the kubelet's number: from 4 on debug, from 8 on trace"),
];

fn with_kubeconfig(inputs: &Inputs) -> String {
    inputs.is_given("kubeconfig").to_string()
}

/// The kubelet's default beside a time that is given.
fn default_critical(inputs: &Inputs) -> String {
    let is_given = inputs.is_given(super::shutdown::TOTAL);
    if is_given { "0s" } else { "10s" }.to_owned()
}

/// As the kubelet, which reports an unchanged status as often as it looks if that is set.
fn report_frequency(inputs: &Inputs) -> String {
    let given = inputs.text("node-status-update-frequency");
    given.unwrap_or_else(|| "5m".to_owned())
}

/// Open where callers can be told apart, or need not be.
fn default_port(inputs: &Inputs) -> String {
    let has = |flag, value| inputs.text(flag).as_deref() == Some(value);
    let is_open_to_all = inputs.is_on("anonymous-auth") && has("authorization-mode", "AlwaysAllow");
    let port =
        if inputs.is_given("kubeconfig") || inputs.is_given("client-ca-file") || is_open_to_all {
            "10250"
        } else {
            "0"
        };
    port.to_owned()
}

/// Address of --port if it is open, for an API server on another machine; loopback for --read-only-port.
fn default_address(inputs: &Inputs) -> String {
    let port = inputs.text("port").unwrap_or_else(|| default_port(inputs));
    let address = if port.trim_start_matches(['0', '+']).is_empty() {
        "127.0.0.1"
    } else {
        "0.0.0.0"
    };
    address.to_owned()
}

#[cfg(test)]
mod tests {

    use super::*;

    const BEGIN: &str = "<!-- written from src/config/table.rs: begin -->\n";
    const END: &str = "<!-- end -->\n";

    #[test]
    fn the_document_has_the_table_of_settings() {
        let rows = SETTINGS.iter().map(Definition::row);
        crate::tests::check_table(
            "docs/configuration.md",
            [BEGIN, END],
            "| flag | field of the file | default | reloadable | |",
            rows,
            "the_document_has_the_table_of_settings",
        );
    }

    #[test]
    fn every_setting_has_its_own_flag_and_field() {
        for names in [
            SETTINGS.iter().map(|known| known.flag).collect::<Vec<_>>(),
            SETTINGS.iter().filter_map(|known| known.field).collect(),
        ] {
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{names:?}");
        }
    }
}
