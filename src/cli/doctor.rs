//! `podkeeper doctor`: what a node lacks, and what to do about it.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;

use super::table::{BAD, Cell, GOOD, Table, UNDERWAY, in_colour};
use super::{OutputFormat, print, printable};
use crate::agent::preflight::{CheckState, Preflight, preflight};
use crate::config::Flags;
use crate::text::printable_json;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Table)]
    output: OutputFormat,

    #[command(flatten)]
    flags: Flags,
}

pub(super) fn doctor(arguments: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let checks = preflight(&arguments.flags)?;
    print(&match arguments.output {
        OutputFormat::Json => printable_json(&serde_json::to_string_pretty(&checks)?) + "\n",
        OutputFormat::Table => text(&checks)?,
    })?;
    let fails = checks.iter().any(|check| check.state == CheckState::Error);
    Ok(if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Returns a line for each check, with what to do below it.
pub(super) fn text(checks: &[Preflight]) -> Result<String, std::fmt::Error> {
    let row = |check: &Preflight| {
        let state = match check.state {
            CheckState::Ok => Cell::styled("ok", GOOD),
            CheckState::Warning => Cell::styled("warning", UNDERWAY),
            CheckState::Error => Cell::styled("error", BAD),
        };
        [state, check.name.into(), check.message.as_str().into()]
    };
    let rows: Vec<[Cell; 3]> = checks.iter().map(row).collect();
    let lines = Table::new(in_colour()).lines("", &rows);
    let mut text = String::new();
    for (line, check) in lines.lines().zip(checks) {
        writeln!(text, "{line}")?;
        if !check.advice.is_empty() {
            writeln!(text, "          {}", printable(&check.advice))?;
        }
    }
    let count = |state, what: &str| {
        let count = checks.iter().filter(|check| check.state == state).count();
        format!("{count} {what}{}", if count == 1 { "" } else { "s" })
    };
    let errors = count(CheckState::Error, "error");
    writeln!(text, "{errors}, {}", count(CheckState::Warning, "warning"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_a_line_and_what_to_do_below_it() {
        let check = |name, state, message: &str, advice: &str| Preflight {
            name,
            state,
            message: message.to_owned(),
            advice: advice.to_owned(),
        };
        let checks = [
            check("user", CheckState::Ok, "root", ""),
            check(
                "container runtime",
                CheckState::Error,
                "not there",
                "start it",
            ),
            check("dns", CheckState::Warning, "no\nserver", ""),
        ];
        let expected = "\
ok        user                root
error     container runtime   not there
          start it
warning   dns                 no server
1 error, 1 warning
";
        assert_eq!(text(&checks).unwrap(), expected);
    }
}
