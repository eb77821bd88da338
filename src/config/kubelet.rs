//! Flags and `KubeletConfiguration` fields of the kubelet that are no settings here (reference: Kubernetes,
//! command line tools, kubelet, and kubelet configuration, v1beta1).
//!
//! Those that change nothing of what runs are accepted, and named in one warning. Those that would are refused,
//! with advice. docs/configuration.md shows all of them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::bail;
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use super::value_type::parse_bool;
use crate::units::duration::parse_duration;

/// An option of the kubelet that is no setting here.
#[derive(Debug)]
pub(super) struct KubeletOption {
    /// The flag without its dashes; empty for a field only.
    pub(super) flag: &'static str,
    /// Path of the field; empty for a flag only.
    pub(super) field: &'static str,
    effect: Effect,
    /// The flag is true or false, and may stand without a value.
    is_switch: bool,
}

/// Effect of an option that is no setting.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// None, and the reason.
    Nothing(&'static str),
    /// This value changes nothing, others are refused with this advice.
    Only(&'static str, &'static str),
    /// Any value is refused with this advice, but not an empty one.
    Refused(&'static str),
}

const fn nothing(flag: &'static str, field: &'static str, reason: &'static str) -> KubeletOption {
    KubeletOption {
        flag,
        field,
        effect: Effect::Nothing(reason),
        is_switch: false,
    }
}

const fn only(
    flag: &'static str,
    field: &'static str,
    value: &'static str,
    advice: &'static str,
) -> KubeletOption {
    KubeletOption {
        flag,
        field,
        effect: Effect::Only(value, advice),
        is_switch: matches!(value.as_bytes(), b"true" | b"false"),
    }
}

const fn refused(flag: &'static str, field: &'static str, advice: &'static str) -> KubeletOption {
    KubeletOption {
        flag,
        field,
        effect: Effect::Refused(advice),
        is_switch: false,
    }
}

impl KubeletOption {
    const fn switch(mut self) -> Self {
        self.is_switch = true;
        self
    }

    /// Returns the reason for which a value has no effect.
    ///
    /// # Errors
    /// The value is refused: what was found, what was expected, and advice.
    pub(super) fn reason(&self, value: &str) -> Result<&'static str, String> {
        match self.effect {
            Effect::Nothing(reason) => Ok(reason),
            Effect::Only(only, _) if is_same(value, only) => Ok("as it always is here"),
            Effect::Only(only, advice) => {
                Err(format!("found {value:?}, expected {only:?}: {advice}"))
            }
            Effect::Refused(_) if value.is_empty() => Ok("it is empty"),
            Effect::Refused(advice) => Err(format!("found {value:?}, expected nothing: {advice}")),
        }
    }

    /// The row of docs/configuration.md.
    #[cfg(test)]
    fn row(&self) -> String {
        let code = |prefix: &str, text: &str| match text {
            "" => String::new(),
            text => format!("`{prefix}{text}`"),
        };
        let (flag, field) = (code("--", self.flag), code("", self.field));
        let effect = match self.effect {
            Effect::Nothing(reason) => format!("no effect: {reason}"),
            Effect::Only(only, advice) => {
                format!("no effect if `{only}`, else refused: {advice}")
            }
            Effect::Refused(advice) => format!("refused: {advice}"),
        };
        format!("| {flag} | {field} | {effect} |")
    }
}

/// The same value in other words: `1` for `true`, `0.1s` for `100ms`.
fn is_same(value: &str, only: &str) -> bool {
    if value.is_empty() || value == only {
        return true;
    }
    if let (Ok(value), Ok(only)) = (parse_bool(value), parse_bool(only)) {
        return value == only;
    }
    matches!((parse_duration(value), parse_duration(only)), (Ok(value), Ok(only)) if value == only)
}

const NO_MANAGERS: &str = "containers have all CPUs and memory nodes";
const NO_RESERVATIONS: &str = "nothing of the node is reserved";
const NO_EVICTION: &str = "no Pod is evicted";
const FEW_REQUESTS: &str = "requests and events are few";
const RUNTIME_PULLS: &str = "the container runtime pulls images";
const RUNTIME_FIGURES: &str = "the figures are the container runtime's";
const NOT_SERVED: &str = "it is not served";
const UNIT: &str = "the systemd unit of the agent sets it";
const PLUGINS_NETWORK: &str = "CNI plugins set up the network";
const LOG_LINES: &str = "log lines go to standard error at once";
const ONE_DEAD: &str = "one dead container of each name is kept";
const CREDENTIALS: &str = "name the provider acr-credential-provider in --image-credential-provider-config, see docs/registries.md";
const NO_FLEX: &str = "there are no FlexVolume plugins";

/// The kubelet's options that are no settings. Of flags, those that Kubernetes 1.29 to 1.36 have.
#[rustfmt::skip]
pub(super) static KUBELET_OPTIONS: &[KubeletOption] = &[
    nothing("cloud-config", "", "the node's properties are those of its other flags"),
    nothing("cloud-provider", "", "the node's properties are those of its other flags"),
    nothing("enable-controller-attach-detach", "enableControllerAttachDetach", "volumes of static Pods are not attached").switch(),
    nothing("event-burst", "eventBurst", FEW_REQUESTS),
    nothing("event-qps", "eventRecordQPS", FEW_REQUESTS),
    nothing("kube-api-burst", "kubeAPIBurst", FEW_REQUESTS),
    nothing("kube-api-qps", "kubeAPIQPS", FEW_REQUESTS),
    nothing("kube-api-content-type", "contentType", "requests are JSON"),
    nothing("node-status-max-images", "nodeStatusMaxImages", "the Node has its 50 largest images"),
    nothing("pod-cidr", "podCIDR", PLUGINS_NETWORK),
    nothing("rotate-server-certificates", "serverTLSBootstrap", "the serving certificate is --tls-cert-file, or self-signed").switch(),
    only("register-schedulable", "", "true", "taint the Node with --register-with-taints"),

    nothing("cpu-manager-policy", "cpuManagerPolicy", NO_MANAGERS),
    nothing("cpu-manager-policy-options", "cpuManagerPolicyOptions", NO_MANAGERS),
    nothing("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", NO_MANAGERS),
    nothing("memory-manager-policy", "memoryManagerPolicy", NO_MANAGERS),
    nothing("reserved-memory", "reservedMemory", NO_MANAGERS),
    nothing("topology-manager-policy", "topologyManagerPolicy", NO_MANAGERS),
    nothing("topology-manager-policy-options", "topologyManagerPolicyOptions", NO_MANAGERS),
    nothing("topology-manager-scope", "topologyManagerScope", NO_MANAGERS),
    nothing("enforce-node-allocatable", "enforceNodeAllocatable", NO_RESERVATIONS),
    nothing("kube-reserved", "kubeReserved", NO_RESERVATIONS),
    nothing("kube-reserved-cgroup", "kubeReservedCgroup", NO_RESERVATIONS),
    nothing("qos-reserved", "qosReserved", NO_RESERVATIONS),
    nothing("reserved-cpus", "reservedSystemCPUs", NO_RESERVATIONS),
    nothing("system-reserved", "systemReserved", NO_RESERVATIONS),
    nothing("system-reserved-cgroup", "systemReservedCgroup", NO_RESERVATIONS),
    nothing("pods-per-core", "podsPerCore", "--max-pods limits Pods"),
    nothing("", "memoryReservationPolicy", "memory is limited, not protected"),
    nothing("", "memoryThrottlingFactor", "memory is limited, not throttled"),
    nothing("", "memorySwap", "containers use no swap"),
    nothing("kubelet-cgroups", "kubeletCgroups", UNIT),
    nothing("max-open-files", "maxOpenFiles", UNIT),
    nothing("oom-score-adj", "oomScoreAdj", UNIT),
    nothing("runtime-cgroups", "", "the systemd unit of the runtime sets it"),
    nothing("system-cgroups", "systemCgroups", "no process of the host is moved"),
    only("cgroups-per-qos", "cgroupsPerQOS", "true", "Pods always have cgroups by their QoS class"),
    only("cpu-cfs-quota", "cpuCFSQuota", "true", "leave limits.cpu out of the manifests"),
    only("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", "100ms", "CPU quotas always count in 100 ms"),

    nothing("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", NO_EVICTION),
    nothing("eviction-minimum-reclaim", "evictionMinimumReclaim", NO_EVICTION),
    nothing("eviction-soft", "evictionSoft", NO_EVICTION),
    nothing("eviction-soft-grace-period", "evictionSoftGracePeriod", NO_EVICTION),
    nothing("experimental-allocatable-ignore-eviction", "", NO_EVICTION).switch(),
    nothing("kernel-memcg-notification", "kernelMemcgNotification", NO_EVICTION).switch(),
    nothing("local-storage-capacity-isolation", "localStorageCapacityIsolation", NO_EVICTION).switch(),
    nothing("keep-terminated-pod-volumes", "", "volumes go with their Pod").switch(),
    nothing("maximum-dead-containers", "", ONE_DEAD),
    nothing("maximum-dead-containers-per-container", "", ONE_DEAD),
    nothing("minimum-container-ttl-duration", "", ONE_DEAD),

    nothing("pod-infra-container-image", "", "the sandbox's image is a setting of the runtime"),
    nothing("registry-burst", "registryBurst", RUNTIME_PULLS),
    nothing("registry-qps", "registryPullQPS", RUNTIME_PULLS),
    nothing("serialize-image-pulls", "serializeImagePulls", RUNTIME_PULLS).switch(),
    nothing("", "maxParallelImagePulls", RUNTIME_PULLS),
    nothing("", "imagePullCredentialsVerificationPolicy", "manifests may name every image of the node"),
    nothing("", "preloadedImagesVerificationAllowlist", "manifests may name every image of the node"),
    refused("azure-container-registry-config", "", CREDENTIALS),
    refused("image-service-endpoint", "imageServiceEndpoint", "images are those of --container-runtime-endpoint"),
    only("container-runtime", "", "remote", "set --container-runtime-endpoint"),
    nothing("runtime-request-timeout", "runtimeRequestTimeout", "each call of the runtime has a limit of its own"),

    nothing("", "configMapAndSecretChangeDetectionStrategy", "ConfigMaps and Secrets come with the manifests"),
    nothing("", "containerLogMaxWorkers", "one log is rotated at a time"),
    nothing("experimental-mounter-path", "", NO_FLEX),
    nothing("volume-plugin-dir", "volumePluginDir", NO_FLEX),
    nothing("volume-stats-agg-period", "volumeStatsAggPeriod", "volumes are measured when they are asked for"),
    nothing("sync-frequency", "syncFrequency", "Pods are synchronized as soon as anything changes"),
    nothing("hairpin-mode", "hairpinMode", PLUGINS_NETWORK),
    nothing("iptables-drop-bit", "iptablesDropBit", PLUGINS_NETWORK),
    nothing("iptables-masquerade-bit", "iptablesMasqueradeBit", PLUGINS_NETWORK),
    nothing("make-iptables-util-chains", "makeIPTablesUtilChains", PLUGINS_NETWORK).switch(),
    nothing("non-masquerade-cidr", "", PLUGINS_NETWORK),
    nothing("fail-cgroupv1", "failCgroupV1", "cgroup v1 is no reason not to start").switch(),
    nothing("fail-swap-on", "failSwapOn", "swap is no reason not to start").switch(),
    nothing("feature-gates", "featureGates", "there are no feature gates"),
    nothing("protect-kernel-defaults", "protectKernelDefaults", "no setting of the kernel is changed").switch(),
    nothing("lock-file", "", "the root directory is locked"),
    only("exit-on-lock-contention", "", "false", "an agent that is to end is stopped"),
    only("runonce", "runOnce", "false", "Pods are kept running until their manifests are removed"),
    nothing("", "userNamespaces", "Pods with user namespaces have 65,536 IDs"),
    nothing("", "tracing", "no traces are exported"),
    nothing("", "tlsCurvePreferences", "all curves that are offered are safe"),

    only("enable-debugging-handlers", "enableDebuggingHandlers", "true", "--port=0 closes the port of the node's API"),
    only("enable-server", "enableServer", "true", "--port=0 closes the port of the node's API"),
    nothing("contention-profiling", "enableContentionProfiling", NOT_SERVED).switch(),
    nothing("profiling", "enableProfilingHandler", NOT_SERVED).switch(),
    nothing("", "enableDebugFlagsHandler", NOT_SERVED),
    nothing("", "enableSystemLogHandler", NOT_SERVED),
    nothing("", "enableSystemLogQuery", NOT_SERVED),
    nothing("", "showHiddenMetricsForVersion", "there are no hidden metrics"),
    nothing("log-flush-frequency", "logging.flushFrequency", LOG_LINES),
    nothing("log-json-info-buffer-size", "logging.options", LOG_LINES),
    nothing("log-json-split-stream", "", LOG_LINES).switch(),
    nothing("log-text-info-buffer-size", "", LOG_LINES),
    nothing("log-text-split-stream", "", LOG_LINES).switch(),
    nothing("vmodule", "logging.vmodule", "--log-level is one for all"),

    nothing("application-metrics-count-limit", "", RUNTIME_FIGURES),
    nothing("boot-id-file", "", RUNTIME_FIGURES),
    nothing("container-hints", "", RUNTIME_FIGURES),
    nothing("containerd", "", RUNTIME_FIGURES),
    nothing("containerd-namespace", "", RUNTIME_FIGURES),
    nothing("enable-load-reader", "", RUNTIME_FIGURES).switch(),
    nothing("event-storage-age-limit", "", RUNTIME_FIGURES),
    nothing("event-storage-event-limit", "", RUNTIME_FIGURES),
    nothing("global-housekeeping-interval", "", RUNTIME_FIGURES),
    nothing("housekeeping-interval", "", RUNTIME_FIGURES),
    nothing("log-cadvisor-usage", "", RUNTIME_FIGURES).switch(),
    nothing("machine-id-file", "", RUNTIME_FIGURES),
    nothing("storage-driver-buffer-duration", "", RUNTIME_FIGURES),
    nothing("storage-driver-db", "", RUNTIME_FIGURES),
    nothing("storage-driver-host", "", RUNTIME_FIGURES),
    nothing("storage-driver-password", "", RUNTIME_FIGURES),
    nothing("storage-driver-secure", "", RUNTIME_FIGURES).switch(),
    nothing("storage-driver-table", "", RUNTIME_FIGURES),
    nothing("storage-driver-user", "", RUNTIME_FIGURES),
];

/// Returns the option of a field, which may stand in an object that is the option.
pub(super) fn of_field(path: &str) -> Option<&'static KubeletOption> {
    KUBELET_OPTIONS.iter().find(|option| {
        let rest = path.strip_prefix(option.field);
        let is_within = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        !option.field.is_empty() && is_within
    })
}

/// A field's value as its flag has it.
pub(super) fn value_of_field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The given flags of options, each with its last value.
#[derive(Debug, Clone, Default)]
pub(super) struct KubeletFlags(BTreeMap<&'static str, OsString>);

impl KubeletFlags {
    /// Returns the given flags, each with the reason for which it has no effect.
    ///
    /// # Errors
    /// A value is refused.
    pub(super) fn without_effect(&self) -> anyhow::Result<Vec<String>> {
        let mut without = vec![];
        for (flag, value) in &self.0 {
            let Some(option) = flags().find(|option| option.flag == *flag) else {
                continue;
            };
            match option.reason(&value.to_string_lossy()) {
                Ok(reason) => without.push(format!("--{flag} ({reason})")),
                Err(refused) => bail!("--{flag}: {refused}"),
            }
        }
        Ok(without)
    }
}

fn flags() -> impl Iterator<Item = &'static KubeletOption> {
    KUBELET_OPTIONS.iter().filter(|o| !o.flag.is_empty())
}

impl Args for KubeletFlags {
    fn augment_args(command: Command) -> Command {
        command.args(flags().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeletFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = flags().filter_map(|option| {
            let value = matches.get_raw(option.flag)?.next_back()?;
            Some((option.flag, value.to_owned()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// The flag, which `--help` does not show.
fn argument(option: &KubeletOption) -> Arg {
    let argument = Arg::new(option.flag)
        .long(option.flag)
        .hide(true)
        .action(ArgAction::Append)
        .value_parser(ValueParser::os_string());
    if option.is_switch {
        let argument = argument.num_args(0..=1).require_equals(true);
        return argument.default_missing_value("true");
    }
    argument.num_args(1).allow_hyphen_values(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table::SETTINGS;

    const BEGIN: &str = "<!-- written from src/config/kubelet.rs: begin -->\n";
    const END: &str = "<!-- end of src/config/kubelet.rs -->\n";
    /// Flags and fields of the kubelet, by `hack/kubelet-options`.
    const RECORDED: &str = include_str!("tests/kubelet-options.txt");

    #[test]
    fn the_document_has_the_table_of_the_kubelets_options() {
        let rows = KUBELET_OPTIONS.iter().map(KubeletOption::row);
        crate::tests::check_table(
            "docs/configuration.md",
            [BEGIN, END],
            "| flag | field of the file | |",
            rows,
            "the_document_has_the_table_of_the_kubelets_options",
        );
    }

    #[test]
    fn every_flag_and_field_of_the_kubelet_is_known() {
        let own = ["--config", "--config-dir", "--help", "--version", "--v"];
        let (mut flags, mut fields) = (0, 0);
        for name in RECORDED.lines().filter(|line| !line.starts_with('#')) {
            if let Some(flag) = name.strip_prefix("--") {
                flags += 1;
                let is_setting = SETTINGS
                    .iter()
                    .any(|s| s.flag == flag || s.alias == Some(flag));
                let is_option = KUBELET_OPTIONS.iter().any(|option| option.flag == flag);
                let is_own = own.contains(&name);
                let known = [is_setting, is_option, is_own].map(u8::from);
                assert_eq!(known.iter().sum::<u8>(), 1, "{name}");
            } else {
                fields += 1;
                let is_setting = SETTINGS.iter().any(|s| s.field == Some(name));
                let known = [is_setting, of_field(name).is_some()].map(u8::from);
                assert_eq!(known.iter().sum::<u8>(), 1, "{name}");
            }
        }
        assert!(flags > 100 && fields > 100, "{flags} {fields}");
    }

    #[test]
    fn what_has_no_effect_is_told_with_its_reason_and_what_would_have_one_is_refused() {
        let flags = |given: &[(&'static str, &str)]| {
            let given = given.iter().map(|(flag, value)| (*flag, value.into()));
            KubeletFlags(given.collect()).without_effect()
        };
        let told = flags(&[
            ("cgroups-per-qos", "1"),
            ("cpu-cfs-quota-period", "0.1s"),
            ("image-service-endpoint", ""),
            ("runtime-cgroups", "/system.slice/containerd.service"),
        ]);
        assert_eq!(
            told.unwrap(),
            [
                "--cgroups-per-qos (as it always is here)",
                "--cpu-cfs-quota-period (as it always is here)",
                "--image-service-endpoint (it is empty)",
                "--runtime-cgroups (the systemd unit of the runtime sets it)",
            ]
        );
        for (flag, value, expected) in [
            (
                "runonce",
                "true",
                "--runonce: found \"true\", expected \"false\": Pods are kept running",
            ),
            (
                "azure-container-registry-config",
                "/c",
                "--azure-container-registry-config: found \"/c\", expected nothing: name the provider",
            ),
        ] {
            let error = flags(&[(flag, value)]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
