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
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

pub use crate::text::printable;

use crate::host::blocking::single_threaded_runtime as single_threaded;

/// Keeps static Pods running on containerd, with no Docker and no kubelet.
#[derive(Debug, Parser)]
#[command(name = "podkeeper", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Form in which a command prints what it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Run(Box<crate::config::Flags>),
    /// Show the configuration of `run` with the same flags, and the origin of each value
    Config(Box<config::ConfigArgs>),
    /// Validate manifests
    Check(check::CheckArgs),
    /// Show the Pods of the running agent
    Ps(ps::PsArgs),
    /// Show the details of a Pod
    Describe(describe::DescribeArgs),
    /// Print the logs of a container
    Logs(logs::LogsArgs),
    /// Show the events of Pods
    Events(events::EventsArgs),
    /// Wait until a Pod is ready, or deleted
    Wait(wait::WaitArgs),
    /// Print the crictl command that runs a command in a container
    Exec(crictl::ExecArgs),
    /// Print the crictl command that attaches to a container
    Attach(crictl::AttachArgs),
    /// Generate a shell's completion script
    Completions(completions::CompletionsArgs),
    /// Generate the manual pages
    Man(man::ManArgs),
}

/// Returns the definition of the command line, from which help, completions and manual are generated.
fn definition() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs its command.
///
/// # Errors
/// The error of the command, for people.
pub fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        if let Some(advice) = advice(&error) {
            eprintln!("error: {advice}");
            std::process::exit(2);
        }
        error.exit()
    });
    match cli.command {
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

/// Advice on a flag of the kubelet that podkeeper does not have.
fn advice(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(flag) => crate::config::kubelet::advice(flag),
        _ => None,
    }
}

/// Writes to standard output. A closed pipe (`podkeeper ps | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
