//! The API server: its kubeconfig, the client certificate, and the registration of the Node.

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Taint;

use super::values::{Resolved, Values};
use crate::mirror::{ApiServerSettings, DEFAULT_THRESHOLDS, Thresholds};

/// Settings of the API server; `None` if there is none. `port` is that of the node's own API.
///
/// # Errors
/// A setting is invalid, or `--bootstrap-kubeconfig` is given alone.
pub(super) fn load(
    values: &Values,
    port: Option<u16>,
) -> anyhow::Result<Option<ApiServerSettings>> {
    let kubeconfig = values.get("kubeconfig").optional_path()?;
    let bootstrap_kubeconfig = values.get("bootstrap-kubeconfig").optional_path()?;
    let certificate_folder = values.get("cert-dir").optional_path()?;
    let taints = taints(values.get("register-with-taints"))?;
    let lease_seconds = values.get("node-lease-duration-seconds").number()?;
    let provider_id = Some(values.get("provider-id").text()).filter(|id| !id.is_empty());
    let measure_interval = values.get("node-status-update-frequency").duration()?;
    let thresholds = thresholds(values)?;
    let report_interval = values.get("node-status-report-frequency").duration()?;
    let Some(kubeconfig) = kubeconfig else {
        if bootstrap_kubeconfig.is_some() {
            bail!(
                "--bootstrap-kubeconfig: expected --kubeconfig beside it, the file that is to be written"
            );
        }
        return Ok(None);
    };
    Ok(Some(ApiServerSettings {
        kubeconfig,
        bootstrap_kubeconfig,
        certificate_folder,
        rotate_certificates: values.get("rotate-certificates").is_on(),
        register_node: values.get("register-node").is_on(),
        taints,
        provider_id,
        measure_interval,
        thresholds,
        report_interval,
        lease_seconds,
        port,
    }))
}

/// The thresholds of the node's conditions. As with the kubelet, those that are given stand alone, unless the defaults
/// are to be merged with them.
fn thresholds(values: &Values) -> anyhow::Result<Thresholds> {
    let lasts = values
        .get("eviction-pressure-transition-period")
        .duration()?;
    let setting = values.get("eviction-hard");
    let given = setting.texts();
    let merged = values.get("merge-default-eviction-settings").is_on();
    let defaults = DEFAULT_THRESHOLDS.split(',').filter(|_| merged);
    // The default is one word.
    let all = defaults.chain(given.iter().flat_map(|text| text.split(',')));
    Thresholds::parse(all, lasts).map_err(|why| anyhow!("{}: {why}", setting.place()))
}

fn taints(setting: &Resolved) -> anyhow::Result<Vec<Taint>> {
    let texts = setting.texts();
    let texts = texts.iter().filter(|text| !text.is_empty());
    texts.map(|text| taint(text, &setting.place())).collect()
}

/// Parses `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
fn taint(text: &str, place: &str) -> anyhow::Result<Taint> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let (name, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    let (key, value) = match name.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (name, None),
    };
    if key.is_empty() || !effects.contains(&effect) {
        bail!(
            "{place}: found {text:?}, expected KEY=VALUE:EFFECT with one of the effects {}",
            effects.join(", ")
        );
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.filter(|value| !value.is_empty()),
        effect: effect.to_owned(),
        time_added: None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::tests::{config, setting, with_fields};

    #[test]
    fn thresholds_of_the_nodes_conditions_are_the_kubelets() {
        for (flags, fields, expected) in [
            ("", "", DEFAULT_THRESHOLDS),
            (
                "",
                "evictionHard: {nodefs.available: 0%, memory.available: 1Gi}",
                "memory.available<1Gi",
            ),
            (
                "--eviction-hard=memory.available<2Gi,pid.available<5%",
                "evictionHard: {memory.available: 1Gi}",
                "memory.available<2Gi,pid.available<5%",
            ),
            (
                "",
                "evictionHard: {pid.available: 5%}\nmergeDefaultEvictionSettings: true",
                &DEFAULT_THRESHOLDS.replace("pid.available<10%", "pid.available<5%"),
            ),
            ("", "evictionHard: {}", DEFAULT_THRESHOLDS),
        ] {
            let api = with_fields(&format!("--kubeconfig=/k {flags}"), fields);
            let found = api.unwrap().api_server.unwrap().thresholds;
            let lasts = Duration::from_secs(300);
            let expected = Thresholds::parse(expected.split(','), lasts).unwrap();
            assert_eq!(found, expected, "{flags} {fields}");
        }
        let wrong = with_fields("--kubeconfig=/k", "evictionHard: {disk.free: 1Gi}");
        let error = wrong.unwrap_err().to_string();
        let expected = "@/c:3:15: evictionHard: found the signal \"disk.free\"";
        assert!(error.starts_with(expected), "{error}");
        let wrong = with_fields("", "evictionHard: {memory.available: 5}");
        let error = wrong.unwrap_err().to_string();
        assert!(error.contains("expected thresholds by signal"), "{error}");
    }

    #[test]
    fn an_api_server_is_used_only_with_a_kubeconfig() {
        let none = config("--pod-manifest-path=/m").unwrap();
        assert_eq!(none.api_server, None);
        assert_eq!(setting(&none, "register-node"), "false default");
        let line = "--pod-manifest-path=/m --kubeconfig=/k";
        let api = config(line).unwrap().api_server.unwrap();
        assert!(api.register_node && !api.rotate_certificates);
        let taint = |taint: &k8s_openapi::api::core::v1::Taint| {
            let value = taint.value.clone().unwrap_or_default();
            format!("{}={value}:{}", taint.key, taint.effect)
        };
        let taints = |config: crate::mirror::ApiServerSettings| -> Vec<String> {
            config.taints.iter().map(taint).collect()
        };
        assert_eq!(taints(api), ["podkeeper.io/static-only=:NoSchedule"]);
        let given = format!("{line} --register-with-taints=a=b:NoExecute,c:PreferNoSchedule");
        let api = config(&given).unwrap().api_server.unwrap();
        assert_eq!(taints(api), ["a=b:NoExecute", "c=:PreferNoSchedule"]);
        let file = "registerNode: false\nnodeLeaseDurationSeconds: 60\nregisterWithTaints:\n\
                    - {key: a, value: b, effect: NoExecute}\n- {key: c, effect: PreferNoSchedule}\n";
        let given = with_fields("--kubeconfig=/k", file).unwrap();
        let given = given.api_server.unwrap();
        assert!(!given.register_node);
        assert_eq!(given.lease_seconds, 60);
        assert_eq!(taints(given), ["a=b:NoExecute", "c=:PreferNoSchedule"]);
        let given = with_fields("--kubeconfig=/k", "registerWithTaints: []").unwrap();
        assert_eq!(taints(given.api_server.unwrap()), [""; 0]);
        for (field, expected) in [
            ("registerWithTaints: [a]", "expected a list of taints"),
            (
                "registerWithTaints: [{key: a, effect: Never}]",
                "registerWithTaints: found \"a:Never\", expected KEY=VALUE:EFFECT",
            ),
            (
                "nodeLeaseDurationSeconds: 4000000000",
                "expected a smaller number",
            ),
        ] {
            let error = with_fields("--kubeconfig=/k", field).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected), "{error}");
        }
        let none = config(&format!("{line} --register-with-taints=")).unwrap();
        assert_eq!(taints(none.api_server.unwrap()), [""; 0]);
        let api = config(&format!("{line} --bootstrap-kubeconfig=/b")).unwrap();
        assert!(api.api_server.unwrap().rotate_certificates);
    }
}
