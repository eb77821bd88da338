//! Exec plugins of a kubeconfig: programs that print the credential to show (Kubernetes, client-go
//! credential plugins).
//!
//! A plugin has a limited time and may print a limited amount. One that exceeds either is killed with all
//! that it started, and nobody waits for it any more.

#[cfg(test)]
mod tests;

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::host::program::{self, MAX_OUTPUT, ProgramError};
use crate::manifest::document;

/// Time that a plugin may take.
pub(super) const PLUGIN_TIME: Duration = Duration::from_secs(60);

/// Plugins that run or were killed and have not ended yet: the kernel may keep a process that waits for a
/// file system, whatever it is sent.
fn permits() -> Arc<Semaphore> {
    const MOST: usize = 16;
    static PLACES: std::sync::OnceLock<Arc<Semaphore>> = std::sync::OnceLock::new();
    Arc::clone(PLACES.get_or_init(|| Arc::new(Semaphore::new(MOST))))
}

/// A plugin gave no credential.
#[derive(Debug, Error)]
pub(super) enum PluginError {
    #[error("users[].user.exec.command: found none, expected the program of the exec plugin")]
    NoCommand,
    #[error(
        "users[].user.exec.interactiveMode: found Always, expected Never or IfAvailable: nobody is there \
         to be asked"
    )]
    Interactive,
    #[error(
        "users[].user.exec.provideClusterInfo: the cluster of the current context is not known"
    )]
    NoCluster,
    #[error("exec plugins that were killed have not ended yet, so that no other one is started")]
    Unkillable,
    #[error("cannot start the exec plugin {command:?}: {error}{}", .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Start {
        command: String,
        error: std::io::Error,
        hint: Option<String>,
    },
    #[error("the exec plugin has not answered within {PLUGIN_TIME:?} and was killed")]
    TimedOut,
    #[error("the exec plugin printed more than {MAX_OUTPUT} bytes and was killed")]
    TooLong,
    #[error("the exec plugin failed, {status}: {stderr}")]
    Failed { status: ExitStatus, stderr: String },
    #[error("cannot read what the exec plugin prints: {0}")]
    Read(#[from] std::io::Error),
    #[error("the exec plugin printed no ExecCredential: {0}")]
    Parse(String),
    #[error(
        "the exec plugin printed an ExecCredential without what is needed: expected status.token, or both \
         status.clientCertificateData and status.clientKeyData"
    )]
    Empty,
}

/// Output of an exec plugin.
#[derive(Deserialize)]
struct ExecCredential {
    status: Option<PluginCredential>,
}

/// A credential to show to the API server.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PluginCredential {
    pub(super) token: Option<String>,
    /// PEM.
    pub(super) client_certificate_data: Option<String>,
    /// PEM.
    pub(super) client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
    /// The same, parsed.
    #[serde(skip)]
    pub(super) expires: Option<Timestamp>,
}

impl std::fmt::Debug for PluginCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let expires = &self.expires;
        f.debug_struct("Credential")
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

impl PluginCredential {
    fn parse(text: &[u8]) -> Result<Self, PluginError> {
        // JSON or YAML, as client-go reads it, but none that is nested too deep or grows without end.
        let document = document::read_one(text, "ExecCredential").map_err(|problems| {
            let problems = problems.iter().map(|problem| problem.message.as_str());
            PluginError::Parse(shortened(&problems.collect::<Vec<_>>().join("; ")))
        })?;
        let parsed: Result<ExecCredential, _> = serde_json::from_value(document.value);
        let parsed = parsed.map_err(|e| PluginError::Parse(shortened(&e.to_string())))?;
        let mut found = parsed.status.ok_or(PluginError::Empty)?;
        let texts = [
            &mut found.token,
            &mut found.client_certificate_data,
            &mut found.client_key_data,
        ];
        for text in texts {
            text.take_if(|text| text.is_empty());
        }
        let has_certificate = found.client_certificate_data.is_some();
        if has_certificate != found.client_key_data.is_some()
            || !(has_certificate || found.token.is_some())
        {
            return Err(PluginError::Empty);
        }
        if let Some(time) = &found.expiration_timestamp {
            let wrong =
                |e: jiff::Error| PluginError::Parse(format!("status.expirationTimestamp: {e}"));
            found.expires = Some(parse_time(time).map_err(wrong)?);
        }
        Ok(found)
    }
}

/// Parses an RFC 3339 time. The last day of 9999, which stands for never, counts as the last timestamp there is.
fn parse_time(text: &str) -> Result<Timestamp, jiff::Error> {
    text.parse().or_else(|error| {
        let civil = text.trim_end_matches(['Z', 'z']).parse::<DateTime>();
        let is_never =
            civil.is_ok_and(|time| time > Timestamp::MAX.to_zoned(TimeZone::UTC).datetime());
        if is_never {
            Ok(Timestamp::MAX)
        } else {
            Err(error)
        }
    })
}

/// Runs a plugin and reads its credential. One whose result is not awaited any more is killed.
///
/// # Errors
/// It cannot be started, takes too long, prints too much, fails, or prints something else.
pub(super) async fn run(exec: &ExecConfig) -> Result<PluginCredential, PluginError> {
    let command = command(exec)?;
    let place = permits()
        .try_acquire_owned()
        .map_err(|_| PluginError::Unkillable)?;
    let ended = program::run(command, vec![], PLUGIN_TIME, place).await;
    let ended = ended.map_err(|error| match error {
        ProgramError::Start(error) => PluginError::Start {
            command: exec.command.clone().unwrap_or_default(),
            error,
            hint: exec.install_hint.clone(),
        },
        ProgramError::TimedOut(_) => PluginError::TimedOut,
        ProgramError::TooLong => PluginError::TooLong,
        ProgramError::Read(error) => PluginError::Read(error),
    })?;
    if !ended.status.success() {
        let stderr = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        let status = ended.status;
        return Err(PluginError::Failed { status, stderr });
    }
    PluginCredential::parse(&ended.stdout)
}

fn command(exec: &ExecConfig) -> Result<Command, PluginError> {
    let program = exec.command.as_ref().ok_or(PluginError::NoCommand)?;
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(PluginError::Interactive);
    }
    let mut spec = json!({"interactive": false});
    if exec.provide_cluster_info {
        let cluster = exec.cluster.as_ref().ok_or(PluginError::NoCluster)?;
        spec["cluster"] = serde_json::to_value(cluster).map_err(|_| PluginError::NoCluster)?;
    }
    let info = json!({
        "apiVersion": exec.api_version,
        "kind": "ExecCredential",
        "spec": spec,
    });
    let mut command = Command::new(program);
    command.args(exec.args.iter().flatten());
    for pair in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (pair.get("name"), pair.get("value")) {
            command.env(name, value);
        }
    }
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    Ok(command)
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}
