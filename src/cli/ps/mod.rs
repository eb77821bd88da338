//! `podkeeper ps`: the Pods of the running agent.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use crate::cli::agent::{Agent, FOLLOW, Selection};
use crate::cli::table::{BAD, Cell, GOOD, Table, UNDERWAY, age, in_colour, on_terminal};
use crate::cli::{block_on, names_of, print, printable, yaml};
use crate::pod::report::{ContainerReport, PodReport};
use crate::server::{Lines, NodeStatus, fetch, follow};
use crate::text::explained;
use crate::text::printable_json;

/// Interval at which the ages on a terminal are updated.
const REDRAW: Duration = Duration::from_secs(1);
/// Clears a terminal, and moves the cursor to its corner.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    #[command(flatten)]
    agent: Agent,

    #[command(flatten)]
    selection: Selection,

    /// Output format
    #[arg(long, short, value_enum, default_value_t = PsFormat::Table)]
    output: PsFormat,

    /// Follow changes: on a terminal in place, else with a line for each changed Pod
    #[arg(long, short)]
    watch: bool,
}

/// Form in which Pods are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PsFormat {
    Table,
    /// With the Pods' addresses
    Wide,
    Json,
    Yaml,
    /// The names alone, as pod/NAME
    Name,
}

pub(super) fn ps(arguments: &PsArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let run_dir = &arguments.agent.run_dir;
        let filter = arguments.selection.filter(None);
        if arguments.watch {
            let changes = follow(run_dir, &filter.path("/v1/status", FOLLOW)).await?;
            return watch(changes, arguments.output).await;
        }
        let mut fetched = fetch::<NodeStatus>(run_dir, &filter.path("/v1/status", &[])).await?;
        let status = fetched.pop().context("the agent's response is empty")?;
        let is_wide = arguments.output == PsFormat::Wide;
        let text = match arguments.output {
            PsFormat::Json => printable_json(&serde_json::to_string_pretty(&status)?) + "\n",
            PsFormat::Yaml => yaml(&status)?,
            PsFormat::Name => names_of(status.pods.iter()),
            PsFormat::Table | PsFormat::Wide => {
                page(&status, Timestamp::now(), in_colour(), is_wide)?
            }
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }))
}

/// Shows each change until the agent ends.
async fn watch(mut changes: Lines<NodeStatus>, output: PsFormat) -> anyhow::Result<ExitCode> {
    let is_wide = output == PsFormat::Wide;
    let redraws = (output == PsFormat::Table || is_wide) && on_terminal();
    let mut rows = ChangedRows::new(is_wide);
    let mut status = NodeStatus::default();
    loop {
        let next = tokio::select! {
            next = changes.next() => next?,
            () = tokio::time::sleep(REDRAW), if redraws => Some(status),
        };
        status = next.context("the agent has ended")?;
        let now = Timestamp::now();
        let text = match output {
            PsFormat::Json => printable_json(&serde_json::to_string(&status)?) + "\n",
            PsFormat::Yaml => format!("---\n{}", yaml(&status)?),
            PsFormat::Name => names_of(status.pods.iter()),
            PsFormat::Table | PsFormat::Wide if redraws => {
                let page = page(&status, now, in_colour(), is_wide)?;
                CLEAR.to_owned() + &cut(&page, terminal_size())
            }
            PsFormat::Table | PsFormat::Wide => rows.lines(&status, now),
        };
        print(&text)?;
    }
}

/// Returns the columns and rows of the terminal.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 1 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Returns the part of a page that fits: lines that wrap would push others out. x/// room.
fn cut(page: &str, (columns, rows): (usize, usize)) -> String {
    let lines = page.lines().take(rows.saturating_sub(1));
    lines.map(|line| cut_line(line, columns) + "\n").collect()
}

fn cut_line(line: &str, columns: usize) -> String {
    let (mut text, mut left, mut in_code) = (String::new(), columns, false);
    for c in line.chars() {
        in_code |= c == '\u{1b}';
        if in_code {
            in_code = c != 'm';
        } else if left == 0 {
            continue;
        } else {
            left = left.saturating_sub(1);
        }
        text.push(c);
    }
    text
}

/// Rows of the changed Pods, for readers of a stream of lines.
struct ChangedRows {
    table: PodTable,
    /// The Pods as last shown.
    shown: Option<BTreeMap<String, PodReport>>,
}

impl ChangedRows {
    fn new(is_wide: bool) -> Self {
        Self {
            table: PodTable::new(false, is_wide),
            shown: None,
        }
    }

    fn lines(&mut self, status: &NodeStatus, now: Timestamp) -> String {
        let name = |pod: &PodReport| format!("{}/{}", pod.namespace, pod.name);
        let mut rows: Vec<[Cell; 8]> = vec![];
        if self.shown.is_none() {
            rows.push(HEADER.map(Cell::from));
        }
        let last = self.shown.get_or_insert_default();
        let mut gone = std::mem::take(last);
        for pod in &status.pods {
            let before = gone.remove(&name(pod));
            let shown = |pod: &PodReport| texts(pod, Timestamp::UNIX_EPOCH);
            if before.is_none_or(|before| shown(&before) != shown(pod)) {
                rows.push(row(pod, now));
            }
            last.insert(name(pod), pod.clone());
        }
        for mut pod in gone.into_values() {
            "Gone".clone_into(&mut pod.phase);
            pod.reason.clear();
            (pod.ready, pod.total) = (0, 0);
            rows.push(row(&pod, now));
        }
        self.table.lines(rows)
    }
}

/// The table of Pods; only a wide one has their addresses.
struct PodTable {
    narrow: Table<7>,
    wide: Option<Table<8>>,
}

impl PodTable {
    fn new(colour: bool, is_wide: bool) -> Self {
        Self {
            narrow: Table::new(colour),
            wide: is_wide.then(|| Table::new(colour)),
        }
    }

    fn lines(&mut self, rows: Vec<[Cell; 8]>) -> String {
        if let Some(wide) = &mut self.wide {
            return wide.lines("", &rows);
        }
        let rows: Vec<[Cell; 7]> = rows
            .into_iter()
            .map(|[a, b, c, d, e, f, _, last]| [a, b, c, d, e, f, last])
            .collect();
        self.narrow.lines("", &rows)
    }
}

/// Returns the whole page.
fn page(
    status: &NodeStatus,
    now: Timestamp,
    colour: bool,
    is_wide: bool,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if let Some(what) = &status.waiting_for {
        writeln!(text, "{}", printable(what))?;
    }
    let mut rows = vec![HEADER.map(Cell::from)];
    rows.extend(status.pods.iter().map(|pod| row(pod, now)));
    text += &PodTable::new(colour, is_wide).lines(rows);
    let mut notes = String::new();
    for pod in &status.pods {
        note(&mut notes, pod, now)?;
    }
    if !notes.is_empty() {
        write!(text, "\n{}", printable(&notes))?;
    }
    let mut why = String::new();
    refused(&mut why, status)?;
    Ok(text + &printable(&why))
}

const HEADER: [&str; 8] = [
    "NAMESPACE",
    "POD",
    "READY",
    "STATUS",
    "RESTARTS",
    "AGE",
    "IP",
    "SOURCE",
];

fn row(pod: &PodReport, now: Timestamp) -> [Cell; 8] {
    let mut cells = texts(pod, now).map(Cell::from);
    cells[3] = Cell::styled(word(pod), style(pod));
    cells
}

fn texts(pod: &PodReport, now: Timestamp) -> [String; 8] {
    [
        pod.namespace.clone(),
        pod.name.clone(),
        format!("{}/{}", pod.ready, pod.total),
        word(pod).to_owned(),
        pod.restarts.to_string(),
        // A Pod without a sandbox has waited since it was first seen.
        age(
            if pod.seen.is_empty() {
                &pod.since
            } else {
                &pod.seen
            },
            now,
        ),
        pod.ips.first().map_or("<none>", String::as_str).to_owned(),
        pod.path.clone(),
    ]
}

/// Returns the status of a Pod in one word.
fn word(pod: &PodReport) -> &str {
    match (pod.phase.as_str(), pod.reason.as_str()) {
        (phase, "") | (phase @ "Terminating", _) => phase,
        (_, reason) => reason,
    }
}

fn style(pod: &PodReport) -> anstyle::Style {
    let failures = ["Err", "BackOff", "Invalid"];
    let failed = failures.iter().any(|word| pod.reason.contains(word));
    if failed || pod.phase == "Failed" {
        return BAD;
    }
    match pod.phase.as_str() {
        "Running" if pod.ready == pod.total => GOOD,
        "Succeeded" => anstyle::Style::new(),
        _ => UNDERWAY,
    }
}

/// Writes the notes on a Pod that is not simply running: what it waits for, since when, and the steps in
/// progress.
fn note(text: &mut String, pod: &PodReport, now: Timestamp) -> std::fmt::Result {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let same = |c: &ContainerReport| (&c.reason, &c.message) == (&pod.reason, &pod.message);
    // A Pod that the node rejects, or that waits for an init container, has no container with this reason.
    if !pod.reason.is_empty() && !pod.containers.iter().any(same) {
        let waits = waits(&pod.reason, &pod.since, now, &pod.message);
        writeln!(text, "{name}: {waits}")?;
    }
    let ends = pod.phase == "Terminating";
    for container in pod.containers.iter().filter(|_| !ends) {
        let ContainerReport {
            name: container,
            state,
            reason,
            message,
            since,
            last_exit_code,
            last_exit_reason,
            ..
        } = container;
        if state == "waiting" && !reason.is_empty() {
            let waits = waits(reason, since, now, message);
            let last =
                last_exit_code.map_or(String::new(), |code| match last_exit_reason.as_str() {
                    "" | "Error" | "Completed" => format!("; last exit code {code}"),
                    reason => format!("; last exit code {code}, {reason}"),
                });
            writeln!(text, "{name}: container {container}: {waits}{last}")?;
        } else if !message.is_empty() {
            writeln!(text, "{name}: container {container}: {reason}: {message}")?;
        }
    }
    for what in &pod.waits_for {
        writeln!(text, "{name}: not Ready: {what}")?;
    }
    for step in &pod.steps {
        let of = match step.container.as_str() {
            "" => String::new(),
            container => format!("container {container}: "),
        };
        let (step, time) = (&step.name, age(&step.since, now));
        writeln!(text, "{name}: {of}under way: {step} for {time}")?;
    }
    if let Some(update) = &pod.update {
        let waits = waits("its update waits", &update.since, now, "");
        let reason = explained(&update.reason, &update.message);
        writeln!(text, "{name}: {waits}: {reason}")?;
    }
    for warning in &pod.warnings {
        let gap = gap(warning);
        writeln!(text, "{name}: warning: {}{gap}{warning}", pod.path)?;
    }
    if let Some(cleanup) = &pod.cleanup {
        let (reason, message) = (&cleanup.reason, &cleanup.message);
        writeln!(
            text,
            "{name}: the clean-up of its old version fails: {reason}: {message}"
        )?;
    }
    Ok(())
}

/// Formats a reason with its duration and message.
fn waits(reason: &str, since: &str, now: Timestamp, message: &str) -> String {
    match since {
        "" => explained(reason, message),
        since => explained(&format!("{reason} for {}", age(since, now)), message),
    }
}

/// Separator between a file and a problem, which begins with a line number if it has one.
fn gap(problem: &str) -> &'static str {
    let at_line = problem.starts_with(|c: char| c.is_ascii_digit());
    if at_line { ":" } else { ": " }
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
            let gap = gap(problem);
            writeln!(text, "{}{gap}{problem}", refused.path)?;
        }
        if let Some(pod) = &refused.keeps {
            writeln!(text, "  {pod} keeps running as last accepted from there")?;
        }
    }
    if status.unlisted > 0 {
        writeln!(text, "{} more files are not listed", status.unlisted)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
