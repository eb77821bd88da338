//! `podkeeper reset`: stops and removes all Pods of an agent that no longer runs, with what it kept of them.

use std::io::{IsTerminal, Write, stderr, stdin};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::config::Flags;
use crate::units::duration::parse_duration;

#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// Reset without prompting for confirmation
    #[arg(long, short)]
    force: bool,

    /// Timeout for the removal of all Pods, with their grace periods
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    timeout: Duration,

    #[command(flatten)]
    flags: Flags,
}

pub(super) fn reset(arguments: &ResetArgs) -> anyhow::Result<ExitCode> {
    if !arguments.force && !confirm()? {
        bail!("nothing was changed");
    }
    crate::agent::reset(&arguments.flags, arguments.timeout)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks if all Pods are to be removed.
///
/// # Errors
/// There is no terminal to ask on.
fn confirm() -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        bail!("all Pods of podkeeper would be stopped and removed; --force confirms that");
    }
    write!(
        stderr(),
        "All Pods of podkeeper will be stopped and removed. Continue? [y/N] "
    )?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
