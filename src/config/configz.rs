//! The settings in force as a `KubeletConfiguration`, which `/configz` serves.

use serde_json::{Map, Value};

use super::Setting;
use super::file::fields;

/// Returns the settings as a `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`): every field of a
/// setting with the value in force, without secrets.
#[must_use]
pub fn kubelet_configuration(settings: &[Setting]) -> Value {
    let mut all = Map::new();
    for setting in settings {
        let Some(field) = setting.field else {
            continue;
        };
        let Some((_, value_type)) = fields().find(|(known, _)| *known == field) else {
            continue;
        };
        let (outer, inner) = field.split_once('.').unwrap_or((field, ""));
        let mut place = all.entry(outer).or_insert(Value::Null);
        for name in inner.split('.').filter(|name| !name.is_empty()) {
            place = &mut place[name];
        }
        *place = value_type.to_json(&setting.value);
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::tests::config;

    // Long since it lists its cases.
    #[test]
    fn the_configuration_in_force_is_shown_in_the_kubelets_fields() {
        let flags = [
            "--pod-manifest-path=/m",
            "--http-check-frequency=90s",
            "--manifest-url=http://user:secret@h/p",
            "--manifest-url-header=X-Token:secret",
            "--cluster-dns=10.0.0.1,10.0.0.2",
            "--seccomp-default",
            "--read-only-port=10255",
            "--container-runtime-endpoint=unix:///c.sock",
            "--allowed-unsafe-sysctls=net.core.somaxconn",
            "--v=4",
            "--register-with-taints=a=b:NoExecute,c:NoSchedule",
            "--tls-min-version=VersionTLS13",
        ];
        let config = config(&flags.join(" ")).unwrap();
        let shown = kubelet_configuration(&config.settings);
        for (field, value) in [
            ("staticPodPath", json!("/m")),
            ("staticPodURL", json!("http://h/p")),
            ("staticPodURLHeader", json!({"x-token": ["<masked>"]})),
            ("fileCheckFrequency", json!("20s")),
            ("httpCheckFrequency", json!("1m30s")),
            ("clusterDNS", json!(["10.0.0.1", "10.0.0.2"])),
            ("clusterDomain", json!("")),
            ("resolvConf", json!("/etc/resolv.conf")),
            ("cgroupDriver", json!("cgroupfs")),
            ("containerRuntimeEndpoint", json!("unix:///c.sock")),
            ("podLogsDir", json!("/var/log/pods")),
            ("seccompDefault", json!(true)),
            ("allowedUnsafeSysctls", json!(["net.core.somaxconn"])),
            ("maxPods", json!(110)),
            ("readOnlyPort", json!(10255)),
            ("address", json!("127.0.0.1")),
            ("healthzPort", json!(10248)),
            ("healthzBindAddress", json!("127.0.0.1")),
            ("logging", json!({"format": "text", "verbosity": 4})),
            ("port", json!(0)),
            ("tlsMinVersion", json!("VersionTLS13")),
            ("tlsCipherSuites", json!([])),
            ("registerNode", json!(false)),
            (
                "registerWithTaints",
                json!([
                    {"key": "a", "value": "b", "effect": "NoExecute"},
                    {"key": "c", "effect": "NoSchedule"},
                ]),
            ),
            ("nodeLeaseDurationSeconds", json!(40)),
            (
                "authentication",
                json!({
                    "anonymous": {"enabled": false},
                    "webhook": {"cacheTTL": "2m0s", "enabled": false},
                    "x509": {"clientCAFile": ""},
                }),
            ),
            (
                "authorization",
                json!({
                    "mode": "Webhook",
                    "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
                }),
            ),
        ] {
            assert_eq!(shown[field], value, "{field}");
        }
        for (known, _) in fields() {
            let pointer = format!("/{}", known.replace('.', "/"));
            assert!(shown.pointer(&pointer).is_some(), "{known} is not shown");
        }
        assert!(!shown.to_string().contains("secret"), "{shown}");
    }
}
