//! Reading a kubeconfig, and what it has to show to the API server.
//!
//! The file is read as manifests are, so that one reader of YAML does for all, and nothing that it holds
//! takes more than a bounded time or memory.

#[cfg(test)]
mod tests;

use std::fs;
use std::path::{MAIN_SEPARATOR, Path};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderValue};
use kube::Config;
use kube::config::{AuthInfo, Kubeconfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::error::{ApiError, chain};
use crate::manifest::document::{self, Document, Spans};
use crate::manifest::path;

/// The fields that hold true or false; all other scalars are texts.
const BOOLEANS: [&str; 4] = [
    "colors",
    "disable-compression",
    "insecure-skip-tls-verify",
    "provideClusterInfo",
];
/// The field below which anything may stand.
const EXTENSIONS: &str = "extensions";

/// Reads a kubeconfig; the paths in it are meant from its folder. Several documents are merged as several
/// files are: the first one to name something wins.
///
/// # Errors
/// The file cannot be read or is no kubeconfig.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, ApiError> {
    let wrong = |message: &str| ApiError::unreachable(format!("{}: {message}", path.display()));
    let bytes = fs::read(path).map_err(|e| wrong(&e.to_string()))?;
    let documents = document::read(&bytes).map_err(|problems| {
        let problems = problems.iter().map(ToString::to_string);
        wrong(&problems.collect::<Vec<_>>().join("; "))
    })?;
    let mut all = Kubeconfig::default();
    for document in documents {
        let one = parse(document).map_err(|message| wrong(&message))?;
        all = all.merge(one).map_err(|e| wrong(&chain(&e)))?;
    }
    if let Some(folder) = path.parent() {
        resolve_paths(&mut all, folder);
    }
    Ok(all)
}

fn parse(document: Document) -> Result<Kubeconfig, String> {
    let Document { mut value, spans } = document;
    if let Some(problem) = spans.repeated(|_| true).first() {
        return Err(problem.to_string());
    }
    scalars_as_text(&mut value, "", &spans);
    serde_json::from_value(value).map_err(|error| {
        // What stands there instead may be a secret.
        let error = error.to_string();
        match error.rsplit_once(", expected ") {
            Some((_, expected)) => format!("found something else, expected {expected}"),
            None => error,
        }
    })
}

/// Takes numbers and booleans as the texts that they are written as, where there can only be a text.
fn scalars_as_text(value: &mut Value, at: &str, spans: &Spans) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name != EXTENSIONS && !(value.is_boolean() && BOOLEANS.contains(&name.as_str()))
                {
                    scalars_as_text(value, &path::join(at, name), spans);
                }
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                scalars_as_text(item, &format!("{at}[{i}]"), spans);
            }
        }
        Value::Number(_) | Value::Bool(_) => {
            let text = spans.plain_text(at).map(str::to_owned);
            *value = text.unwrap_or_else(|| value.to_string()).into();
        }
        Value::Null | Value::String(_) => {}
    }
}

fn resolve_paths(kubeconfig: &mut Kubeconfig, folder: &Path) {
    let resolve = |path: &mut Option<String>| {
        let resolved = path.as_ref().map(|path| folder.join(path));
        if let Some(resolved) = resolved.as_deref().and_then(Path::to_str) {
            *path = Some(resolved.to_owned());
        }
    };
    let clusters = kubeconfig.clusters.iter_mut();
    for cluster in clusters.filter_map(|named| named.cluster.as_mut()) {
        resolve(&mut cluster.certificate_authority);
    }
    let users = kubeconfig.auth_infos.iter_mut();
    for user in users.filter_map(|named| named.auth_info.as_mut()) {
        resolve(&mut user.client_certificate);
        resolve(&mut user.client_key);
        resolve(&mut user.token_file);
        // A name alone is looked for in PATH.
        let command = user.exec.as_mut().map(|exec| &mut exec.command);
        let is_path = |command: &&mut Option<String>| {
            let command = command.as_ref();
            command.is_some_and(|command| command.contains(MAIN_SEPARATOR))
        };
        if let Some(command) = command.filter(is_path) {
            resolve(command);
        }
    }
}

/// Has each request show the password or token of the kubeconfig. A token is read from its file now: a
/// connection is opened again when that changes.
///
/// # Errors
/// The token's file cannot be read, or what there is cannot stand in a header.
pub(super) fn authorize(config: &mut Config) -> Result<(), ApiError> {
    let Some(credential) = authorization(&config.auth_info)? else {
        return Ok(());
    };
    let value = HeaderValue::from_str(credential.expose_secret());
    let mut value = value.map_err(|_| {
        let message =
            "the kubeconfig's password or token cannot be sent, expected one line of text";
        ApiError::unreachable(message)
    })?;
    value.set_sensitive(true);
    config.headers.push((AUTHORIZATION, value));
    Ok(())
}

fn authorization(user: &AuthInfo) -> Result<Option<SecretString>, ApiError> {
    if let (Some(name), Some(password)) = (&user.username, &user.password) {
        let both = STANDARD.encode(format!("{name}:{}", password.expose_secret()));
        return Ok(Some(format!("Basic {both}").into()));
    }
    let from_file = |path: &String| {
        let read = fs::read_to_string(path);
        read.map_err(|error| ApiError::unreachable(format!("cannot read {path}: {error}")))
    };
    let token = match (&user.token, &user.token_file) {
        (Some(token), _) => token.expose_secret().to_owned(),
        (None, Some(path)) => from_file(path)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(format!("Bearer {}", token.trim()).into()))
}

/// Reads the PEM text that a field has in base64, or else the file that it names; `None` where it has neither.
///
/// # Errors
/// The data is no base64, or the file cannot be read.
pub(super) fn pem(
    field: &str,
    data: Option<&str>,
    file: Option<&String>,
) -> Result<Option<Vec<u8>>, String> {
    match (data, file) {
        (Some(data), _) => {
            let pem = STANDARD.decode(data);
            pem.map(Some)
                .map_err(|error| format!("{field}-data: {error}"))
        }
        (None, Some(path)) => {
            let pem = fs::read(path);
            pem.map(Some)
                .map_err(|error| format!("{field}: cannot read {path}: {error}"))
        }
        (None, None) => Ok(None),
    }
}
