//! `podkeeper ps`: the Pods of the running agent.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{print, single_threaded};
use crate::config::DEFAULT_RUN_DIR;
use crate::pod::report::PodReport;
use crate::server::{NodeStatus, fetch_status};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folder of the agent's socket
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,

    /// How to write it
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(super) fn ps(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let status = single_threaded()?.block_on(fetch_status(&arguments.run_dir))?;
    let text = match arguments.output {
        Output::Json => serde_json::to_string_pretty(&status)? + "\n",
        Output::Table => table(&status, jiff::Timestamp::now())?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn table(status: &NodeStatus, now: jiff::Timestamp) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if let Some(what) = &status.waiting_for {
        writeln!(text, "{what}")?;
    }
    let header = [
        "NAMESPACE",
        "POD",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
        "SOURCE",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(status.pods.iter().map(|pod| row(pod, now)));
    columns(&mut text, &rows)?;
    let mut notes = String::new();
    for pod in &status.pods {
        note(&mut notes, pod)?;
    }
    if !notes.is_empty() {
        write!(text, "\n{notes}")?;
    }
    refused(&mut text, status)?;
    Ok(text)
}

fn row(pod: &PodReport, now: jiff::Timestamp) -> [String; 7] {
    let status = match pod.reason.as_str() {
        "" => &pod.phase,
        reason => reason,
    };
    [
        pod.namespace.clone(),
        pod.name.clone(),
        format!("{}/{}", pod.ready, pod.total),
        status.to_owned(),
        pod.restarts.to_string(),
        age(&pod.seen, now),
        pod.path.clone(),
    ]
}

/// How long ago, in the largest unit or two, as `kubectl get` writes it.
fn age(seen: &str, now: jiff::Timestamp) -> String {
    let Ok(seen) = seen.parse::<jiff::Timestamp>() else {
        return "-".to_owned();
    };
    let seconds = (now.as_second() - seen.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

fn columns(text: &mut String, rows: &[[String; 7]]) -> std::fmt::Result {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max();
    let widths: Vec<usize> = (0..7).map(|c| width(c).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}   ")?;
        }
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What there is to say about a Pod that is not simply running.
fn note(text: &mut String, pod: &PodReport) -> std::fmt::Result {
    let name = format!("{}/{}", pod.namespace, pod.name);
    // A Pod that the node does not take, or that waits for an init container, has no container to say so.
    let told = pod.containers.iter().any(|c| c.message == pod.message);
    if !told && !pod.message.is_empty() {
        writeln!(text, "{name}: {}: {}", pod.reason, pod.message)?;
    }
    for container in &pod.containers {
        if pod.phase != "Terminating" && !container.message.is_empty() {
            let (reason, message) = (&container.reason, &container.message);
            writeln!(
                text,
                "{name}: container {}: {reason}: {message}",
                container.name
            )?;
        }
    }
    if let Some(update) = &pod.update {
        let (reason, message) = (&update.reason, &update.message);
        writeln!(text, "{name}: its update waits: {reason}: {message}")?;
    }
    Ok(())
}

fn refused(text: &mut String, status: &NodeStatus) -> std::fmt::Result {
    for why in &status.unreadable {
        writeln!(
            text,
            "\nManifests cannot be read, their Pods stay as they are: {why}"
        )?;
    }
    if status.refused.is_empty() {
        return Ok(());
    }
    writeln!(text, "\nRefused:")?;
    for refused in &status.refused {
        for problem in &refused.problems {
            let at_line = problem.starts_with(|c: char| c.is_ascii_digit());
            let gap = if at_line { ":" } else { ": " };
            writeln!(text, "{}{gap}{problem}", refused.path)?;
        }
        if let Some(pod) = &refused.keeps {
            writeln!(text, "  {pod} runs on as it was last accepted from there")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::RefusedReport;

    #[test]
    fn the_table_shows_pods_then_what_they_wait_for_then_what_was_refused() {
        let now: jiff::Timestamp = "2026-01-01T00:02:05Z".parse().unwrap();
        let running = PodReport {
            namespace: "default".into(),
            name: "web-n1".into(),
            phase: "Running".into(),
            ready: 1,
            total: 1,
            seen: "2026-01-01T00:00:00Z".into(),
            path: "/m/web.yaml".into(),
            update: Some(crate::pod::report::UpdateReport {
                uid: "u".into(),
                reason: "ErrImagePull".into(),
                message: "no such image".into(),
            }),
            ..PodReport::default()
        };
        let rejected = PodReport {
            namespace: "default".into(),
            name: "big-n1".into(),
            phase: "Failed".into(),
            reason: "OutOfcpu".into(),
            message: "it asks for too much".into(),
            total: 1,
            path: "/m/big.yaml".into(),
            ..PodReport::default()
        };
        let status = NodeStatus {
            pods: vec![running, rejected],
            refused: vec![RefusedReport {
                path: "/m/web.bak".into(),
                problems: vec!["3:5: spec: wrong".into()],
                keeps: Some("default/x-n1".into()),
            }],
            ..NodeStatus::default()
        };
        let expected = "\
NAMESPACE   POD      READY   STATUS     RESTARTS   AGE   SOURCE
default     web-n1   1/1     Running    0          2m    /m/web.yaml
default     big-n1   0/1     OutOfcpu   0          -     /m/big.yaml

default/web-n1: its update waits: ErrImagePull: no such image
default/big-n1: OutOfcpu: it asks for too much

Refused:
/m/web.bak:3:5: spec: wrong
  default/x-n1 runs on as it was last accepted from there
";
        assert_eq!(table(&status, now).unwrap(), expected);
    }
}
