//! The command line: one file for each command.

mod agent;
mod check;
mod completions;
mod config;
mod crictl;
mod describe;
mod events;
mod logs;
mod man;
mod ps;
mod table;
mod wait;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

pub use crate::text::printable;

use crate::host::blocking::single_threaded_runtime as single_threaded;

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
    Run(Box<crate::config::Flags>),
    /// Show the configuration that `run` would work with, and where each value comes from
    Config(Box<config::Arguments>),
    /// Say what is wrong with manifests
    Check(check::Arguments),
    /// Show the Pods of the running agent
    Ps(ps::Arguments),
    /// Show everything about one Pod
    Describe(describe::Arguments),
    /// Show what a container said
    Logs(logs::Arguments),
    /// Show what the agent did for Pods, and what happened to them
    Events(events::Arguments),
    /// Wait until a Pod is ready, or gone
    Wait(wait::Arguments),
    /// Show the command of crictl that runs a command in a container
    Exec(crictl::ExecArguments),
    /// Show the command of crictl that attaches to a container
    Attach(crictl::AttachArguments),
    /// Write what a shell needs to complete command lines
    Completions(completions::Arguments),
    /// Write the manual
    Man(man::Arguments),
}

/// The definition of the command line, from which everything about it is made.
fn definition() -> clap::Command {
    Line::command()
}

/// Reads the command line and does what it says.
///
/// # Errors
/// What went wrong, for people.
pub fn main() -> anyhow::Result<ExitCode> {
    let line = Line::try_parse().unwrap_or_else(|error| {
        if let Some(advice) = advice(&error) {
            eprintln!("error: {advice}");
            std::process::exit(2);
        }
        error.exit()
    });
    match line.command {
        Command::Run(flags) => crate::agent::run(&flags),
        Command::Config(arguments) => config::config(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Ps(arguments) => ps::ps(&arguments),
        Command::Describe(arguments) => describe::describe(&arguments),
        Command::Logs(arguments) => logs::logs(&arguments),
        Command::Events(arguments) => events::events(&arguments),
        Command::Wait(arguments) => wait::wait(&arguments),
        Command::Exec(arguments) => crictl::exec(&arguments),
        Command::Attach(arguments) => crictl::attach(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Man(arguments) => man::man(&arguments),
    }
}

/// What to do about a flag of the kubelet that podkeeper has not.
fn advice(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(flag) => crate::config::kubelet::advice(flag),
        _ => None,
    }
}

/// Writes to standard output. That nobody reads on (`podkeeper ps | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
