//! The settings in force as a `KubeletConfiguration`, for those who ask the agent for it.

use serde_json::{Map, Value, json};

use super::Setting;
use super::file::{FIELDS, Kind};
use crate::units::duration::{format_duration, parse_duration};

/// The `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`) that these settings make up: every field
/// that is carried out, with the value in force, and no secrets.
#[must_use]
pub fn kubelet_configuration(settings: &[Setting]) -> Value {
    let mut fields = Map::new();
    for setting in settings {
        let Some(field) = setting.field else {
            continue;
        };
        let Some((_, kind)) = FIELDS.iter().find(|(known, _)| *known == field) else {
            continue;
        };
        let value = value(*kind, &setting.value);
        let (outer, inner) = field.split_once('.').unwrap_or((field, ""));
        let mut place = fields.entry(outer).or_insert(Value::Null);
        for name in inner.split('.').filter(|name| !name.is_empty()) {
            place = &mut place[name];
        }
        *place = value;
    }
    Value::Object(fields)
}

/// A setting's value as the field has it.
fn value(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Text | Kind::TextOrNone | Kind::OneOf(_) => json!(text),
        Kind::Texts => json!(list(text)),
        Kind::Headers => {
            let names = list(text).into_iter().filter_map(|h| h.split_once(": "));
            let masked = names.map(|(name, _)| (name.to_owned(), json!(["<masked>"])));
            Value::Object(masked.collect())
        }
        Kind::Duration => match parse_duration(text) {
            Ok(duration) => json!(format_duration(duration)),
            Err(_) => json!(text),
        },
        Kind::Count | Kind::Port | Kind::AtLeast(_) | Kind::Percent => json!(number(text)),
        Kind::Bool => json!(text == "true"),
        Kind::Taints => list(text).into_iter().map(taint).collect(),
    }
}

/// A taint as the field has it, of `KEY=VALUE:EFFECT`.
fn taint(text: &str) -> Value {
    let (name, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    match name.split_once('=') {
        Some((key, value)) => json!({"key": key, "value": value, "effect": effect}),
        None => json!({"key": name, "effect": effect}),
    }
}

/// A number, or the kubelet's number for a log level.
fn number(text: &str) -> u64 {
    match text {
        "debug" => 4,
        "trace" => 8,
        _ => text.parse().unwrap_or_default(),
    }
}

fn list(text: &str) -> Vec<&str> {
    let words = text.split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Flags};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn the_configuration_in_force_is_shown_in_the_kubelets_fields() {
        let line = Line::parse_from([
            "podkeeper",
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
        ]);
        let config = Config::load(&line.flags).unwrap();
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
        let fields: Vec<&String> = shown.as_object().unwrap().keys().collect();
        let known = |field: &str| {
            FIELDS
                .iter()
                .any(|(known, _)| known.split('.').next() == Some(field))
        };
        assert!(fields.iter().all(|field| known(field)), "{fields:?}");
        for (known, _) in FIELDS {
            let known = known.split('.').next().unwrap();
            assert!(
                fields.iter().any(|field| *field == known),
                "{known} is not shown"
            );
        }
        assert!(!shown.to_string().contains("secret"), "{shown}");
    }
}
