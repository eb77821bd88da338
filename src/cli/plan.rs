//! `podkeeper plan`: changes that manifests would make in the place of those in force.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use super::agent::Agent;
use super::{OutputFormat, print, printable, single_threaded};
use crate::server::{ManifestPlan, PlanRequest, PlannedFile, PodPlan, fetch, send_with};
use crate::source::PodChange;
use crate::source::directory::{manifests_in, read_given};
use crate::text::printable_json;

/// Maximum number of a Pod's fields that are shown.
const MAX_FIELDS: usize = 20;
/// Exit code if something would change.
const CHANGES: u8 = 2;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    agent: Agent,

    /// Manifests, directories of them, or - for standard input [default: the agent's own manifests]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Output format
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,
}

pub(super) fn plan(arguments: &PlanArgs) -> anyhow::Result<ExitCode> {
    let plan: ManifestPlan = single_threaded()?.block_on(async {
        let run_dir = &arguments.agent.run_dir;
        let given = if arguments.files.is_empty() {
            vec![own_manifests(run_dir).await?]
        } else {
            arguments.files.clone()
        };
        let request = PlanRequest {
            files: read(&given)?,
        };
        send_with(run_dir, "/v1/plan", serde_json::to_vec(&request)?.into()).await
    })?;
    match arguments.output {
        OutputFormat::Table => print(&printable(&text(&plan)?))?,
        OutputFormat::Json => {
            print(&(printable_json(&serde_json::to_string_pretty(&plan)?) + "\n"))?;
        }
    }
    Ok(exit_code(&plan))
}

/// Returns where the agent has its manifests.
async fn own_manifests(run_dir: &Path) -> anyhow::Result<PathBuf> {
    let configuration: Vec<Value> = fetch(run_dir, "/configz").await?;
    let path = configuration.first().and_then(|configuration| {
        let path = configuration.pointer("/kubeletconfig/staticPodPath")?;
        path.as_str().filter(|path| !path.is_empty())
    });
    match path {
        Some(path) => Ok(path.into()),
        None => bail!("the agent has no directory of manifests; name the files that it is to have"),
    }
}

fn read(given: &[PathBuf]) -> anyhow::Result<Vec<PlannedFile>> {
    let mut paths = vec![];
    for path in given {
        if path.is_dir() {
            let files = manifests_in(path);
            paths.extend(files.with_context(|| format!("cannot read {}", path.display()))?);
        } else {
            paths.push(path.clone());
        }
    }
    let file = |path: PathBuf| match read_given(&path) {
        Ok(bytes) => Ok(PlannedFile {
            path,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }),
        Err(error) => bail!("{}: {error}", path.display()),
    };
    paths.into_iter().map(file).collect()
}

/// Returns 1 if something is refused or would not run, 2 if something would change, or 0.
fn exit_code(plan: &ManifestPlan) -> ExitCode {
    let fails = |pod: &PodPlan| pod.rejected.is_some() || !pod.missing_images.is_empty();
    let stays = |pod: &PodPlan| matches!(pod.change, PodChange::Unchanged | PodChange::Kept);
    if !plan.refused.is_empty() || plan.pods.iter().any(fails) {
        ExitCode::FAILURE
    } else if plan.pods.iter().all(stays) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(CHANGES)
    }
}

fn text(plan: &ManifestPlan) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for refused in &plan.refused {
        for problem in &refused.problems {
            let colon = if problem.starts_with(|c: char| c.is_ascii_digit()) {
                ":"
            } else {
                ": "
            };
            writeln!(text, "{}{colon}{problem}", refused.path)?;
        }
        if let Some(keeps) = &refused.keeps {
            writeln!(
                text,
                "{}: refused, Pod {keeps} runs on as it is",
                refused.path
            )?;
        }
    }
    let count = |change| plan.pods.iter().filter(|pod| pod.change == change).count();
    for pod in &plan.pods {
        pod_text(&mut text, pod)?;
    }
    if plan.images_unknown {
        writeln!(
            text,
            "The container runtime did not say which images it has"
        )?;
    }
    writeln!(
        text,
        "Plan: {} new, {} replaced, {} gone, {} unchanged, {} refused",
        count(PodChange::New),
        count(PodChange::Replaced),
        count(PodChange::Gone),
        count(PodChange::Unchanged),
        plan.refused.len()
    )?;
    Ok(text)
}

fn pod_text(text: &mut String, pod: &PodPlan) -> std::fmt::Result {
    let (sign, change) = match pod.change {
        PodChange::New => ('+', "new"),
        PodChange::Replaced => ('~', "replaced"),
        PodChange::Gone => ('-', "gone"),
        // Nothing is to be said of them.
        PodChange::Unchanged | PodChange::Kept => return Ok(()),
    };
    write!(text, "{sign} Pod {}: {change}", pod.pod)?;
    match &pod.file {
        Some(file) => writeln!(text, " ({})", file.display())?,
        None => writeln!(text)?,
    }
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    for field in pod.fields.iter().take(MAX_FIELDS) {
        match (&field.old, &field.new) {
            (None, None) => writeln!(text, "    {}: content differs", field.field)?,
            (old, new) => {
                writeln!(
                    text,
                    "    {}: {} -> {}",
                    field.field,
                    shown(old),
                    shown(new)
                )?;
            }
        }
    }
    match pod.fields.len().saturating_sub(MAX_FIELDS) {
        0 => {}
        more => writeln!(text, "    and {more} more")?,
    }
    if pod.change == PodChange::Replaced && pod.fields.is_empty() {
        writeln!(text, "    no field with an effect; the Pod's UID changes")?;
    }
    for other in &pod.starts_after {
        let missing = if pod.missing_pods.contains(other) {
            ", which no manifest has"
        } else {
            ""
        };
        writeln!(text, "    starts after Pod {other}{missing}")?;
    }
    for image in &pod.pulls {
        writeln!(text, "    pulls {image}")?;
    }
    for image in &pod.missing_images {
        writeln!(
            text,
            "    error: image {image} is not there, and its policy is Never"
        )?;
    }
    if let Some((reason, message)) = &pod.rejected {
        writeln!(text, "    error: {reason}: {message}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::RefusedPlan;
    use crate::source::FieldChange;

    fn pod(name: &str, change: PodChange) -> PodPlan {
        PodPlan {
            pod: format!("default/{name}"),
            change,
            ..PodPlan::default()
        }
    }

    #[test]
    fn the_text_says_what_changes_and_how_much_of_each() {
        let field = |field: &str, old: Option<&str>, new: Option<&str>| FieldChange {
            field: field.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        let plan = ManifestPlan {
            pods: vec![
                PodPlan {
                    file: Some("a.yaml".into()),
                    starts_after: vec!["default/d".to_owned(), "default/x".to_owned()],
                    missing_pods: vec!["default/x".to_owned()],
                    pulls: vec!["r/i:1".to_owned()],
                    rejected: Some(("NodePorts".to_owned(), "no free ports".to_owned())),
                    ..pod("a", PodChange::New)
                },
                PodPlan {
                    fields: vec![
                        field("spec.x", Some("1"), Some("2")),
                        field("spec.y", None, Some("true")),
                        field("Secret s", None, None),
                    ],
                    file: Some("b.yaml".into()),
                    missing_images: vec!["m:1".to_owned()],
                    ..pod("b", PodChange::Replaced)
                },
                pod("c", PodChange::Gone),
                pod("d", PodChange::Unchanged),
                pod("e", PodChange::Kept),
            ],
            refused: vec![RefusedPlan {
                path: "e.yaml".to_owned(),
                problems: vec!["3:1: spec: missing".to_owned(), "is a folder".to_owned()],
                keeps: Some("default/e".to_owned()),
            }],
            images_unknown: true,
        };
        let expected = "\
e.yaml:3:1: spec: missing
e.yaml: is a folder
e.yaml: refused, Pod default/e runs on as it is
+ Pod default/a: new (a.yaml)
    starts after Pod default/d
    starts after Pod default/x, which no manifest has
    pulls r/i:1
    error: NodePorts: no free ports
~ Pod default/b: replaced (b.yaml)
    spec.x: 1 -> 2
    spec.y: none -> true
    Secret s: content differs
    error: image m:1 is not there, and its policy is Never
- Pod default/c: gone
The container runtime did not say which images it has
Plan: 1 new, 1 replaced, 1 gone, 1 unchanged, 1 refused
";
        assert_eq!(text(&plan).unwrap(), expected);
    }

    #[test]
    fn the_exit_code_says_whether_anything_would_change() {
        let code = |pods: Vec<PodPlan>| {
            let plan = ManifestPlan {
                pods,
                ..ManifestPlan::default()
            };
            format!("{:?}", exit_code(&plan))
        };
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(vec![pod("a", PodChange::Unchanged)]), expected(0));
        assert_eq!(code(vec![pod("a", PodChange::Gone)]), expected(2));
        let fails = PodPlan {
            missing_images: vec!["i".to_owned()],
            ..pod("a", PodChange::New)
        };
        assert_eq!(code(vec![fails]), expected(1));
    }
}
