//! The API server: the way there, the client certificate, and how the Node is registered.

use std::path::PathBuf;

use anyhow::bail;
use k8s_openapi::api::core::v1::Taint;

use serde_json::Value;

use super::{Flags, From, Given, Resolver, is_on};
use crate::mirror::Settings;

/// A Node of this agent takes no Pods of the scheduler's, since only static Pods run on it.
const TAINT: &str = "podkeeper.io/static-only:NoSchedule";

/// The kubelet's time for which a lease of the Node holds, in seconds.
const LEASE: u32 = 40;

/// What is said of the API server; `None` if there is none to be at. `port` is that of the node's own API.
pub(super) fn load(
    from: &mut Resolver,
    flags: &Flags,
    port: Option<u16>,
) -> anyhow::Result<Option<Settings>> {
    let mut path = |flag, path: &Option<PathBuf>| from.optional_path(flag, path.clone(), None);
    let kubeconfig = path("kubeconfig", &flags.kubeconfig)?;
    let bootstrap_kubeconfig = path("bootstrap-kubeconfig", &flags.bootstrap_kubeconfig)?;
    let certificate_folder = path("cert-dir", &flags.cert_dir)?;
    let field = Some("rotateCertificates");
    let (rotate, at) = from.pick(
        "rotate-certificates",
        flags.rotate_certificates,
        field,
        is_on,
    )?;
    // A certificate that was got so is not for ever.
    let rotate_certificates = rotate.unwrap_or(bootstrap_kubeconfig.is_some());
    from.note("rotate-certificates", rotate_certificates, &at);
    let register_node = from.switch(
        "register-node",
        flags.register_node,
        "registerNode",
        kubeconfig.is_some(),
    )?;
    let taints = taints(from, flags)?;
    let read = |given: &Given| {
        let number = given.value.as_u64().and_then(|n| u32::try_from(n).ok());
        // As the API server has it.
        let number = number.filter(|n| i32::try_from(*n).is_ok());
        number.ok_or_else(|| format!("found {}, expected a smaller number", given.value))
    };
    let (lease, at) = from.pick(
        "node-lease-duration-seconds",
        flags.node_lease_duration_seconds,
        Some("nodeLeaseDurationSeconds"),
        read,
    )?;
    let lease_seconds = lease.unwrap_or(LEASE);
    from.note("node-lease-duration-seconds", lease_seconds, &at);
    let Some(kubeconfig) = kubeconfig else {
        if bootstrap_kubeconfig.is_some() {
            bail!(
                "--bootstrap-kubeconfig: expected --kubeconfig beside it, the file that is to be written"
            );
        }
        return Ok(None);
    };
    Ok(Some(Settings {
        kubeconfig,
        bootstrap_kubeconfig,
        certificate_folder,
        rotate_certificates,
        register_node,
        taints,
        lease_seconds,
        port,
    }))
}

/// Those given, or our own.
fn taints(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Vec<Taint>> {
    let flag = "register-with-taints";
    let given = Some(flags.register_with_taints.clone()).filter(|given| !given.is_empty());
    let read = |given: &Given| {
        let taints = given.value.as_array().into_iter().flatten();
        Ok(taints.map(written).collect::<Vec<String>>())
    };
    let (texts, at) = from.pick(flag, given, Some("registerWithTaints"), read)?;
    let texts = texts.unwrap_or_else(|| vec![TAINT.to_owned()]);
    from.note(flag, texts.join(","), &at);
    let texts = texts.iter().filter(|text| !text.is_empty());
    let at = at.or_flag(flag);
    texts.map(|text| taint(text, &at)).collect()
}

/// A taint of a file as the flag has it.
fn written(taint: &Value) -> String {
    let part = |name: &str| taint[name].as_str().unwrap_or_default();
    match part("value") {
        "" => format!("{}:{}", part("key"), part("effect")),
        value => format!("{}={value}:{}", part("key"), part("effect")),
    }
}

/// Reads `KEY=VALUE:EFFECT` or `KEY:EFFECT`, which stands here.
fn taint(text: &str, at: &From) -> anyhow::Result<Taint> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let (name, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    let (key, value) = match name.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (name, None),
    };
    if key.is_empty() || !effects.contains(&effect) {
        bail!(
            "{at}: found {text:?}, expected KEY=VALUE:EFFECT with one of the effects {}",
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
