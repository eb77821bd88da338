//! The API server: the way there, the client certificate, and how the Node is registered.

use std::path::PathBuf;

use anyhow::bail;
use k8s_openapi::api::core::v1::Taint;

use super::{Flags, From, Resolver, is_on};
use crate::mirror::Settings;

/// A Node of this agent takes no Pods of the scheduler's, since only static Pods run on it.
const TAINT: &str = "podkeeper.io/static-only:NoSchedule";

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
    let at = flags
        .register_node
        .map_or(From::Default, |_| From::Flag("register-node"));
    let register_node = flags.register_node.unwrap_or(kubeconfig.is_some());
    from.note("register-node", register_node, &at);
    let taints = taints(from, flags)?;
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
        port,
    }))
}

/// Those given, or our own.
fn taints(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Vec<Taint>> {
    let given = &flags.register_with_taints;
    let (texts, at) = match given.as_slice() {
        [] => (vec![TAINT.to_owned()], From::Default),
        given => (given.to_vec(), From::Flag("register-with-taints")),
    };
    from.note("register-with-taints", texts.join(","), &at);
    let texts = texts.iter().filter(|text| !text.is_empty());
    texts.map(|text| taint(text)).collect()
}

/// Reads `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
fn taint(text: &str) -> anyhow::Result<Taint> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let (name, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    let (key, value) = match name.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (name, None),
    };
    if key.is_empty() || !effects.contains(&effect) {
        bail!(
            "--register-with-taints: found {text:?}, expected KEY=VALUE:EFFECT with one of the effects {}",
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
