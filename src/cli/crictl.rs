//! `podkeeper exec` and `podkeeper attach`: the equivalent command of crictl.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::agent::{Agent, choose, containers, full_name, status};
use super::{print, single_threaded};
use crate::server::{PodDetail, PodName};

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    target: ContainerArgs,

    /// Command to run in the container, and its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        default_value = "sh"
    )]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    target: ContainerArgs,
}

/// The container of a command.
#[derive(Debug, Args)]
struct ContainerArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// Name of the container, if there are several
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
}

pub(super) fn exec(arguments: &ExecArgs) -> anyhow::Result<ExitCode> {
    let (pod, endpoint, container) = arguments.target.find()?;
    let id = running(&pod, &container)?;
    let mut words = vec!["exec", "-it", id];
    words.extend(arguments.command.iter().map(String::as_str));
    show(&endpoint, &words)
}

pub(super) fn attach(arguments: &AttachArgs) -> anyhow::Result<ExitCode> {
    let (pod, endpoint, container) = arguments.target.find()?;
    let id = running(&pod, &container)?;
    let mut words = vec!["attach"];
    let spec = containers(&pod).find(|c| c.name == container);
    let (stdin, tty) = spec.map_or((None, None), |spec| (spec.stdin, spec.tty));
    words.extend(stdin.filter(|yes| *yes).map(|_| "-i"));
    words.extend(tty.filter(|yes| *yes).map(|_| "-t"));
    words.push(id);
    show(&endpoint, &words)
}

impl ContainerArgs {
    /// Returns the Pod, the runtime's endpoint, and the container's name.
    fn find(&self) -> anyhow::Result<(PodDetail, String, String)> {
        let (pod, details) = single_threaded()?.block_on(self.agent.pod(&self.pod))?;
        let container = choose(&pod, self.container.as_deref())?;
        Ok((pod, details.endpoint, container))
    }
}

fn show(endpoint: &str, words: &[&str]) -> anyhow::Result<ExitCode> {
    print(&(command(endpoint, words) + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the id of a running container.
fn running<'a>(pod: &'a PodDetail, container: &str) -> anyhow::Result<&'a str> {
    let status = status(pod, container);
    let state = status.and_then(|s| s.state.as_ref());
    let id = status.and_then(|s| s.container_id.as_deref());
    match (state.and_then(|s| s.running.as_ref()), id) {
        (Some(_), Some(id)) => Ok(id.split_once("://").map_or(id, |(_, id)| id)),
        _ => bail!(
            "container {container} of Pod {} is not running; `podkeeper describe {}` shows the reason",
            full_name(pod),
            full_name(pod)
        ),
    }
}

/// Returns a command line of crictl for a shell.
fn command(endpoint: &str, words: &[&str]) -> String {
    let all = ["crictl", "--runtime-endpoint", endpoint].into_iter();
    let all = all.chain(words.iter().copied()).map(quoted);
    all.collect::<Vec<_>>().join(" ")
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_one_that_a_shell_takes_as_it_is() {
        let words = ["exec", "-it", "0123", "sh", "-c", "echo 'a b' $HOME", ""];
        assert_eq!(
            command("unix:///run/c.sock", &words),
            r"crictl --runtime-endpoint unix:///run/c.sock exec -it 0123 sh -c 'echo '\''a b'\'' $HOME' ''"
        );
    }
}
