//! `podkeeper man`: the manual pages.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use clap_mangen::Man;

use super::print;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Directory to write all pages into, one for each command [default: write the first page to standard
    /// output]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn man(arguments: &ManArgs) -> anyhow::Result<ExitCode> {
    let line = super::definition();
    if let Some(folder) = &arguments.folder {
        let written = clap_mangen::generate_to(line, folder);
        written
            .with_context(|| format!("cannot write the manual pages to {}", folder.display()))?;
    } else {
        let mut text = vec![];
        Man::new(line).render(&mut text)?;
        print(&String::from_utf8_lossy(&text))?;
    }
    Ok(ExitCode::SUCCESS)
}
