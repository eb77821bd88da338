//! Preflight checks: whether a node has what the agent and its Pods need, and what to do where it has not.
//!
//! Nothing is changed, and every wait has a limit. Each check stands by itself: one that fails keeps no other from being
//! made.

mod machine;
mod runtime;

use serde::Serialize;

use crate::config::{Config, Flags};
use crate::host::blocking::single_threaded_runtime;
use crate::node::kubelet;
use crate::server::fetch_status;

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckState {
    /// All is as it should be.
    Ok,
    /// The agent works, but something may not be what was meant.
    Warning,
    /// The agent does not start, or Pods do not.
    Error,
}

/// A check and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Preflight {
    /// Subject of the check.
    pub(crate) name: &'static str,
    /// Its outcome.
    pub(crate) state: CheckState,
    /// The finding.
    pub(crate) message: String,
    /// Advice; empty where there is nothing to do.
    pub(crate) advice: String,
}

impl Preflight {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self {
            name,
            state: CheckState::Ok,
            message: message.into(),
            advice: String::new(),
        }
    }

    fn warning(name: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            state: CheckState::Warning,
            advice: advice.into(),
            ..Self::ok(name, message)
        }
    }

    fn error(name: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            state: CheckState::Error,
            ..Self::warning(name, message, advice)
        }
    }
}

/// Checks the node for an agent with these flags.
///
/// # Errors
/// The checks cannot be begun.
pub(crate) fn preflight(flags: &Flags) -> anyhow::Result<Vec<Preflight>> {
    let mut checks = vec![user()];
    let config = match Config::load_without_sources(flags) {
        Ok(config) => config,
        Err(error) => {
            let advice = "podkeeper config, with the same flags, shows what is in force";
            checks.push(Preflight::error(
                "configuration",
                format!("{error:#}"),
                advice,
            ));
            return Ok(checks);
        }
    };
    checks.extend(configuration(&config));
    let runtime = single_threaded_runtime()?;
    let agent_runs = runtime.block_on(async {
        checks.extend(runtime::checks(&config).await);
        fetch_status(&config.run_dir).await.is_ok()
    });
    runtime.shutdown_background();
    checks.push(kubelet());
    checks.extend(machine::checks(&config, agent_runs));
    Ok(checks)
}

fn user() -> Preflight {
    if rustix::process::geteuid().is_root() {
        Preflight::ok("user", "root")
    } else {
        let found = format!(
            "user {}, expected root",
            rustix::process::geteuid().as_raw()
        );
        Preflight::error("user", found, "run this as root")
    }
}

fn configuration(config: &Config) -> Vec<Preflight> {
    let name = "configuration";
    if config.warnings.is_empty() {
        return vec![Preflight::ok(name, "valid")];
    }
    let warning = |warning: &String| Preflight::warning(name, warning.clone(), "");
    config.warnings.iter().map(warning).collect()
}

fn kubelet() -> Preflight {
    let name = "kubelet";
    match kubelet::find_beside() {
        None => Preflight::ok(name, "none runs on this node"),
        Some(id) => Preflight::error(
            name,
            format!(
                "a kubelet runs on this node (process {id}): it would kill Pods that it does not know"
            ),
            "systemctl disable --now kubelet",
        ),
    }
}
