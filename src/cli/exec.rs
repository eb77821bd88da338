//! `podkeeper exec` and `podkeeper attach`: a command in a container, and a container's own streams.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::console::{Console, StdioArgs};
use super::container::ContainerArgs;
use super::{block_on, complain};
use crate::cri::v1;

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    target: ContainerArgs,

    #[command(flatten)]
    stdio: StdioArgs,

    /// Command to run in the container, and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    target: ContainerArgs,

    #[command(flatten)]
    stdio: StdioArgs,
}

pub(super) fn exec(arguments: &ExecArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let container = arguments.target.find().await?;
        let console = Console::of(arguments.stdio);
        let message = v1::ExecRequest {
            container_id: container.id,
            cmd: arguments.command.clone(),
            tty: console.has_tty,
            stdin: console.has_stdin,
            stdout: true,
            stderr: !console.has_tty,
        };
        let served = container.client.exec(message).await?;
        console.run(&served.url).await
    }))
}

pub(super) fn attach(arguments: &AttachArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let container = arguments.target.find().await?;
        let (name, has_stdin, has_tty) = container.spec.map_or_else(Default::default, |spec| {
            let on = |setting: Option<bool>| setting.unwrap_or_default();
            (spec.name, on(spec.stdin), on(spec.tty))
        });
        if arguments.stdio.stdin && !has_stdin {
            bail!(
                "container {name} has no standard input: its manifest does not have `stdin: true`"
            );
        }
        if arguments.stdio.tty && !has_tty {
            complain(&format!(
                "error: Unable to use a TTY - container {name} did not allocate one"
            ));
        }
        let mut stdio = arguments.stdio;
        // A container's terminal is used as one also without -t, as with kubectl.
        stdio.tty = has_tty && (stdio.tty || io::stdin().is_terminal());
        let mut console = Console::of(stdio);
        if console.is_raw() {
            complain("If you don't see a command prompt, try pressing enter.");
        }
        // A terminal has one stream for both, whatever ours is.
        console.has_tty = has_tty;
        let message = v1::AttachRequest {
            container_id: container.id,
            tty: has_tty,
            stdin: console.has_stdin,
            stdout: true,
            stderr: !has_tty,
        };
        let served = container.client.attach(message).await?;
        console.run(&served.url).await
    }))
}
