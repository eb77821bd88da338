//! `podkeeper completions`: completion scripts of shells.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::print;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Name of the shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(arguments: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut text = vec![];
    let mut line = super::definition();
    clap_complete::generate(arguments.shell, &mut line, "podkeeper", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}
