//! `podkeeper completions`: what a shell needs to complete command lines.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::print;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut text = vec![];
    let mut line = super::definition();
    clap_complete::generate(arguments.shell, &mut line, "podkeeper", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}
