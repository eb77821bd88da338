//! podkeeper under the kubelet's name: installed as `/usr/bin/kubelet`, or linked there, it takes the kubelet's command
//! line, which has no `run`, and answers `--version` as kubeadm reads it.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;

use super::{Cli, print, with_dashes};
use crate::mirror::VERSION;

/// Returns `true` if the program was called by the kubelet's name.
pub(super) fn is_called_so(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == "kubelet")
}

/// Parses the kubelet's command line; podkeeper's own commands work too. `None` if the version was asked for, which is
/// printed.
///
/// # Errors
/// Standard output cannot be written to.
pub(super) fn parse(arguments: Vec<OsString>) -> anyhow::Result<Option<Cli>> {
    // Whoever looks for kubelets among the processes, as the agent does, is not to take this for one.
    let _ = rustix::thread::set_name(c"podkeeper");
    match arguments.get(1).and_then(|argument| argument.to_str()) {
        Some("--version" | "--version=true" | "--version=raw") => {
            // The version of Kubernetes whose rules the agent follows, without its own behind it.
            let version = VERSION.split('+').next().unwrap_or_default();
            print(&format!("Kubernetes {version}\n"))?;
            Ok(None)
        }
        Some(command) if !command.starts_with('-') => Ok(Some(Cli::parse_from(arguments))),
        _ => Ok(Some(Cli::parse_from(with_dashes(as_run(arguments))))),
    }
}

/// The command line of `podkeeper run`.
fn as_run(arguments: Vec<OsString>) -> Vec<OsString> {
    let flags = arguments.into_iter().skip(1);
    ["podkeeper".into(), "run".into()]
        .into_iter()
        .chain(flags)
        .collect()
}
