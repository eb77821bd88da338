//! `podkeeper config`: the configuration of `podkeeper run` with the same flags, and the origin of each
//! value.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;

use super::{OutputFormat, complain, print};
use crate::config::{Config, Flags};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,

    #[command(flatten)]
    flags: Flags,
}

pub(super) fn config(arguments: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.flags)?;
    for warning in &config.warnings {
        complain(&format!("warning: {warning}"));
    }
    let text = match arguments.output {
        OutputFormat::Json => serde_json::to_string_pretty(&config.settings)? + "\n",
        OutputFormat::Table => table(&config)?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn table(config: &Config) -> Result<String, std::fmt::Error> {
    let mut rows = vec![["SETTING", "VALUE", "FROM"]];
    for setting in &config.settings {
        let value = if setting.value.is_empty() {
            "-"
        } else {
            &setting.value
        };
        rows.push([setting.name, value, &setting.from]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let (name, value) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        writeln!(text, "{:name$}   {:value$}   {}", row[0], row[1], row[2])?;
    }
    Ok(text)
}
