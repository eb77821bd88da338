//! The command line: one file for each command.

mod check;
mod ps;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps static Pods running on containerd, with no Docker and no kubelet.
#[derive(Debug, Parser)]
#[command(name = "podkeeper", version, arg_required_else_help = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Run(crate::config::Flags),
    /// Say what is wrong with manifests
    Check(check::Arguments),
    /// Show the Pods of the running agent
    Ps(ps::Arguments),
}

/// Reads the command line and does what it says.
///
/// # Errors
/// What went wrong, for people.
pub fn main() -> anyhow::Result<ExitCode> {
    match Line::parse().command {
        Command::Run(flags) => run::run(flags),
        Command::Check(arguments) => check::check(&arguments),
        Command::Ps(arguments) => ps::ps(&arguments),
    }
}

/// A runtime for one thread: the agent waits far more than it works.
fn single_threaded() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime)
}

/// Writes to standard output. That nobody reads on (`podkeeper ps | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
