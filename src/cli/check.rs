//! `podkeeper check`: what is wrong with manifests, as a compiler would say it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::{print, printable};
use crate::config::node_name;
use crate::manifest::objects::Object;
use crate::manifest::{self, Accepted, Problem, SourceKind};
use crate::source::directory::{manifests_in, read_manifest, read_standard_input};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Manifests, folders of them, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The files are documents for --manifest-url: any number of Pods, also in lists
    #[arg(long)]
    web: bool,

    /// Take warnings for errors
    #[arg(long)]
    strict: bool,

    /// Name of the node that the manifests are for [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
}

pub(super) fn check(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let node = node_name(arguments.hostname_override.clone())?;
    let mut all_good = true;
    let mut text = String::new();
    for path in &arguments.files {
        if !path.is_dir() {
            all_good &= check_one(&mut text, path, &node, arguments)?;
            continue;
        }
        let files = manifests_in(path);
        let files = files.with_context(|| format!("cannot read {}", path.display()))?;
        if files.is_empty() {
            writeln!(text, "{}: good: no manifests", path.display())?;
        }
        for file in files {
            all_good &= check_one(&mut text, &file, &node, arguments)?;
        }
    }
    print(&printable(&text))?;
    Ok(if all_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check_one(
    text: &mut String,
    file: &Path,
    node: &str,
    arguments: &Arguments,
) -> anyhow::Result<bool> {
    let bytes = match file.to_str() {
        Some("-") => read_standard_input(),
        _ => read_manifest(file),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(message) => return verdict(text, file, Err(vec![Problem::of_file(message)]), false),
    };
    let strict = arguments.strict;
    if !arguments.web {
        return match manifest::parse_file(&bytes, node) {
            Err(problems) => verdict(text, file, Err(problems), strict),
            Ok(manifest) => {
                let mut all_good = true;
                for object in manifest.objects {
                    all_good &= object_verdict(text, file, Ok(object), strict)?;
                }
                if let Some(accepted) = manifest.pod {
                    all_good &= verdict(text, file, Ok(accepted), strict)?;
                }
                Ok(all_good)
            }
        };
    }
    match manifest::parse_all(&bytes, node, SourceKind::Http) {
        Err(problems) => verdict(text, file, Err(problems), strict),
        Ok(parsed) => {
            if parsed.pods.is_empty() {
                writeln!(text, "{}: good: no Pods", file.display())?;
            }
            let mut all_good = true;
            for entry in parsed.objects {
                all_good &= object_verdict(text, file, entry.result, strict)?;
            }
            for entry in parsed.pods {
                all_good &= verdict(text, file, entry.result, strict)?;
            }
            Ok(all_good)
        }
    }
}

/// Says what is thought of one `ConfigMap` or `Secret`, and tells whether that is good.
fn object_verdict(
    text: &mut String,
    file: &Path,
    parsed: Result<Object, Vec<Problem>>,
    strict: bool,
) -> anyhow::Result<bool> {
    match parsed {
        Ok(object) => {
            list(text, file, warning(strict), &object.warnings)?;
            let good = object.warnings.is_empty() || !strict;
            if good {
                writeln!(text, "{}: good: {}", file.display(), object.key)?;
            }
            Ok(good)
        }
        Err(problems) => {
            list(text, file, "error: ", &problems)?;
            Ok(false)
        }
    }
}

/// Says what is thought of one Pod, and tells whether that is good.
fn verdict(
    text: &mut String,
    file: &Path,
    parsed: Result<Accepted, Vec<Problem>>,
    strict: bool,
) -> anyhow::Result<bool> {
    match parsed {
        Ok(accepted) => {
            list(text, file, warning(strict), &accepted.warnings)?;
            let good = accepted.warnings.is_empty() || !strict;
            if good {
                writeln!(text, "{}: good: Pod {}", file.display(), accepted.pod.key)?;
            }
            Ok(good)
        }
        Err(problems) => {
            list(text, file, "error: ", &problems)?;
            Ok(false)
        }
    }
}

/// What a warning is called.
fn warning(strict: bool) -> &'static str {
    if strict { "error: " } else { "warning: " }
}

fn list(text: &mut String, file: &Path, kind: &str, problems: &[Problem]) -> anyhow::Result<()> {
    for problem in problems {
        let file = file.display();
        let Problem {
            line,
            column,
            field,
            message,
        } = problem;
        match line {
            0 => write!(text, "{file}: {kind}")?,
            _ => write!(text, "{file}:{line}:{column}: {kind}")?,
        }
        match field.as_str() {
            "" => writeln!(text, "{message}")?,
            field => writeln!(text, "{field}: {message}")?,
        }
    }
    Ok(())
}
