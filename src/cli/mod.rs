//! The command line: one file for each command.

mod agent;
mod as_kubelet;
mod check;
mod completions;
mod config;
mod console;
mod container;
mod cp;
mod describe;
mod doctor;
mod events;
mod exec;
mod get;
mod init;
mod logs;
mod man;
mod pause;
mod plan;
mod port_forward;
mod ps;
mod reset;
mod restart;
mod table;
mod top;
mod version;
mod wait;

use std::ffi::OsString;
use std::pin::Pin;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

pub use crate::text::printable;

use crate::host::blocking::single_threaded_runtime as single_threaded;
use crate::pod::report::PodReport;

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
    /// Write a configuration, a systemd unit and a sample manifest for this node
    Init(init::InitArgs),
    /// Check whether this node has what the agent with the same flags needs
    Doctor(Box<doctor::DoctorArgs>),
    /// Validate manifests
    Check(check::CheckArgs),
    /// Show what manifests would change if they took the place of those in force
    Plan(plan::PlanArgs),
    /// Show the Pods of the running agent
    Ps(ps::PsArgs),
    /// Print Pods with their status, as the API has them
    Get(get::GetArgs),
    /// Show the details of a Pod
    Describe(describe::DescribeArgs),
    /// Print the logs of containers
    Logs(logs::LogsArgs),
    /// Show the events of Pods
    Events(events::EventsArgs),
    /// Show the CPU and memory that the node, Pods and containers use
    Top(top::TopArgs),
    /// Wait until a Pod is ready, or deleted
    Wait(wait::WaitArgs),
    /// Restart the containers of a Pod
    Restart(restart::RestartArgs),
    /// Stop a Pod, and do not start it again before it is resumed
    Pause(pause::PauseArgs),
    /// Start a paused Pod again
    Resume(pause::PauseArgs),
    /// Run a command in a container
    Exec(exec::ExecArgs),
    /// Attach to the streams of a container
    Attach(exec::AttachArgs),
    /// Copy files from and to a container
    Cp(cp::CpArgs),
    /// Forward local ports to a Pod
    PortForward(port_forward::PortForwardArgs),
    /// Stop and remove all Pods of an agent that no longer runs
    Reset(Box<reset::ResetArgs>),
    /// Show the versions of podkeeper, the running agent and the container runtime
    Version(version::VersionArgs),
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
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = if as_kubelet::is_called_so(&arguments) {
        as_kubelet::parse(arguments)?
    } else {
        Some(Cli::parse_from(with_dashes(arguments)))
    };
    let Some(cli) = cli else {
        return Ok(ExitCode::SUCCESS);
    };
    match cli.command {
        Command::Run(flags) => crate::agent::run(&flags),
        Command::Config(arguments) => config::config(&arguments),
        Command::Init(arguments) => init::init(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Ps(arguments) => ps::ps(&arguments),
        Command::Get(arguments) => get::get(&arguments),
        Command::Describe(arguments) => describe::describe(&arguments),
        Command::Logs(arguments) => logs::logs(&arguments),
        Command::Events(arguments) => events::events(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Wait(arguments) => wait::wait(&arguments),
        Command::Restart(arguments) => restart::restart(&arguments),
        Command::Pause(arguments) => pause::pause(&arguments),
        Command::Resume(arguments) => pause::resume(&arguments),
        Command::Exec(arguments) => exec::exec(&arguments),
        Command::Attach(arguments) => exec::attach(&arguments),
        Command::Cp(arguments) => cp::cp(&arguments),
        Command::PortForward(arguments) => port_forward::port_forward(arguments),
        Command::Reset(arguments) => reset::reset(&arguments),
        Command::Version(arguments) => version::version(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Man(arguments) => man::man(&arguments),
    }
}

/// Writes dashes for underscores in the names of the agent's long flags, as the kubelet takes both.
fn with_dashes(arguments: Vec<OsString>) -> Vec<OsString> {
    let is_for_them = arguments
        .get(1)
        .is_some_and(|c| c == "run" || c == "config" || c == "doctor" || c == "reset");
    let with_dashes = |argument: OsString| match argument.to_str() {
        Some(text) if is_for_them && text.starts_with("--") => match text.split_once('=') {
            Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
            None => text.replace('_', "-").into(),
        },
        _ => argument,
    };
    arguments.into_iter().map(with_dashes).collect()
}

/// Runs a command that waits for others. All of them have one type, so that the program has one loop for them.
fn block_on(
    command: Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>> + '_>>,
) -> anyhow::Result<ExitCode> {
    single_threaded()?.block_on(command)
}

/// Writes a line to standard error. One that cannot be written, as to a pipe that is closed, ends nothing.
pub fn complain(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// Writes to standard output. A closed pipe (`podkeeper ps | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Formats the names of Pods, each on a line, as kubectl does.
fn names_of<'a>(pods: impl Iterator<Item = &'a PodReport>) -> String {
    let lines = pods.map(|pod| ["pod/", &pod.name, "\n"].concat());
    lines.collect()
}

/// Formats a value as YAML.
fn yaml(value: &impl Serialize) -> anyhow::Result<String> {
    // One type for all, so that the code for it is there once.
    Ok(serde_yaml::to_string(&serde_json::to_value(value)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn underscores_in_flags_of_the_agent_are_dashes() {
        for (line, expected) in [
            (
                "podkeeper run --node_labels=a_b=c --root_dir /r_r",
                "podkeeper run --node-labels=a_b=c --root-dir /r_r",
            ),
            ("podkeeper logs --a_b", "podkeeper logs --a_b"),
        ] {
            assert_eq!(with_dashes(words(line)), words(expected));
        }
    }

    #[test]
    fn by_the_kubelets_name_the_kubelets_command_line_runs_the_agent() {
        let runs = |line: &str| {
            let cli = as_kubelet::parse(words(line)).unwrap().unwrap();
            matches!(cli.command, Command::Run(_))
        };
        assert!(runs("/usr/bin/kubelet --config=/c --node_ip=10.0.0.1"));
        assert!(runs("kubelet"));
        assert!(runs("kubelet run --config=/c"));
        assert!(!runs("kubelet ps"));
        assert!(as_kubelet::is_called_so(&words("/usr/bin/kubelet")));
        assert!(!as_kubelet::is_called_so(&words("/usr/bin/podkeeper")));
    }
}
