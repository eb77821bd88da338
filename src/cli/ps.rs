//! `podkeeper ps`: the Pods of the running agent.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::agent::Agent;
use super::table::{BAD, Cell, GOOD, Table, UNDERWAY, age, in_colour, on_terminal};
use super::{print, printable, single_threaded};
use crate::pod::report::{ContainerReport, PodReport};
use crate::server::{Lines, NodeStatus, fetch_status, follow};
use crate::text::explained;
use crate::text::printable_json;

/// How often the ages on a terminal are brought up to date.
const REDRAW: Duration = Duration::from_secs(1);
/// Clears a terminal, and puts the cursor into its corner.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: Agent,

    /// How to write it
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// Go on as it changes: on a terminal in place, else with a line for each Pod that changed
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(super) fn ps(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    single_threaded()?.block_on(async {
        let run_dir = &arguments.agent.run_dir;
        if arguments.watch {
            let changes = follow(run_dir, "/v1/status?follow=true").await?;
            return watch(changes, arguments.output).await;
        }
        let status = fetch_status(run_dir).await?;
        let text = match arguments.output {
            Output::Json => printable_json(&serde_json::to_string_pretty(&status)?) + "\n",
            Output::Table => page(&status, Timestamp::now(), in_colour())?,
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Shows each change until the agent ends.
async fn watch(mut changes: Lines<NodeStatus>, output: Output) -> anyhow::Result<ExitCode> {
    let redraws = output == Output::Table && on_terminal();
    let mut rows = ChangedRows::new();
    let mut status = NodeStatus::default();
    loop {
        let next = tokio::select! {
            next = changes.next() => next?,
            () = tokio::time::sleep(REDRAW), if redraws => Some(status),
        };
        status = next.context("the agent has ended")?;
        let now = Timestamp::now();
        let text = match output {
            Output::Json => printable_json(&serde_json::to_string(&status)?) + "\n",
            Output::Table if redraws => {
                CLEAR.to_owned() + &cut(&page(&status, now, in_colour())?, terminal_size())
            }
            Output::Table => rows.lines(&status, now),
        };
        print(&text)?;
    }
}

/// Columns and rows of the terminal.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 1 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// As much of a page as there is room for: lines that wrap would push others out. Codes of colours
/// take no room.
fn cut(page: &str, (columns, rows): (usize, usize)) -> String {
    let lines = page.lines().take(rows.saturating_sub(1));
    lines.map(|line| cut_line(line, columns) + "\n").collect()
}

fn cut_line(line: &str, columns: usize) -> String {
    let (mut text, mut room, mut in_code) = (String::new(), columns, false);
    for c in line.chars() {
        in_code |= c == '\u{1b}';
        if in_code {
            in_code = c != 'm';
        } else if room == 0 {
            continue;
        } else {
            room = room.saturating_sub(1);
        }
        text.push(c);
    }
    text
}

/// The rows of those Pods that changed, for who reads a stream of lines.
struct ChangedRows {
    table: Table<7>,
    /// As they were last told.
    told: Option<BTreeMap<String, PodReport>>,
}

impl ChangedRows {
    fn new() -> Self {
        Self {
            table: Table::new(false),
            told: None,
        }
    }

    fn lines(&mut self, status: &NodeStatus, now: Timestamp) -> String {
        let name = |pod: &PodReport| format!("{}/{}", pod.namespace, pod.name);
        let mut rows: Vec<[Cell; 7]> = vec![];
        if self.told.is_none() {
            rows.push(HEADER.map(Cell::from));
        }
        let told = self.told.get_or_insert_default();
        let mut gone = std::mem::take(told);
        for pod in &status.pods {
            let before = gone.remove(&name(pod));
            let shown = |pod: &PodReport| texts(pod, Timestamp::UNIX_EPOCH);
            if before.is_none_or(|before| shown(&before) != shown(pod)) {
                rows.push(row(pod, now));
            }
            told.insert(name(pod), pod.clone());
        }
        for mut pod in gone.into_values() {
            "Gone".clone_into(&mut pod.phase);
            pod.reason.clear();
            (pod.ready, pod.total) = (0, 0);
            rows.push(row(&pod, now));
        }
        self.table.lines("", &rows)
    }
}

/// All that there is to say.
fn page(status: &NodeStatus, now: Timestamp, colour: bool) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if let Some(what) = &status.waiting_for {
        writeln!(text, "{}", printable(what))?;
    }
    let mut rows = vec![HEADER.map(Cell::from)];
    rows.extend(status.pods.iter().map(|pod| row(pod, now)));
    text += &Table::new(colour).lines("", &rows);
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

const HEADER: [&str; 7] = [
    "NAMESPACE",
    "POD",
    "READY",
    "STATUS",
    "RESTARTS",
    "AGE",
    "SOURCE",
];

fn row(pod: &PodReport, now: Timestamp) -> [Cell; 7] {
    let mut cells = texts(pod, now).map(Cell::from);
    cells[3] = Cell::styled(word(pod), style(pod));
    cells
}

fn texts(pod: &PodReport, now: Timestamp) -> [String; 7] {
    [
        pod.namespace.clone(),
        pod.name.clone(),
        format!("{}/{}", pod.ready, pod.total),
        word(pod).to_owned(),
        pod.restarts.to_string(),
        // One that waits before anything was made of it has waited since it was first seen.
        age(
            if pod.seen.is_empty() {
                &pod.since
            } else {
                &pod.seen
            },
            now,
        ),
        pod.path.clone(),
    ]
}

/// How a Pod stands, in one word.
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

/// What there is to say about a Pod that is not simply running: what it waits for, since when, and what is
/// under way.
fn note(text: &mut String, pod: &PodReport, now: Timestamp) -> std::fmt::Result {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let same = |c: &ContainerReport| (&c.reason, &c.message) == (&pod.reason, &pod.message);
    // A Pod that the node does not take, or that waits for an init container, has no container to say so.
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
            ..
        } = container;
        if state == "waiting" && !reason.is_empty() {
            let waits = waits(reason, since, now, message);
            let last =
                last_exit_code.map_or(String::new(), |code| format!("; last exit code {code}"));
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

/// What is waited for, for how long, and what there is to say about that.
fn waits(reason: &str, since: &str, now: Timestamp, message: &str) -> String {
    match since {
        "" => explained(reason, message),
        since => explained(&format!("{reason} for {}", age(since, now)), message),
    }
}

/// What stands between a file and something about it, which begins with a line where it has one.
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
            writeln!(text, "  {pod} runs on as it was last accepted from there")?;
        }
    }
    if status.unlisted > 0 {
        writeln!(text, "{} more files, which are not listed", status.unlisted)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::progress::StepReport;
    use crate::server::RefusedReport;

    fn now() -> Timestamp {
        "2026-01-01T00:02:05Z".parse().unwrap()
    }

    fn running(name: &str) -> PodReport {
        PodReport {
            namespace: "default".into(),
            name: name.into(),
            phase: "Running".into(),
            ready: 1,
            total: 1,
            seen: "2026-01-01T00:00:00Z".into(),
            path: "/m/web.yaml".into(),
            ..PodReport::default()
        }
    }

    #[test]
    fn who_reads_a_stream_is_told_the_pods_that_changed() {
        let mut rows = ChangedRows::new();
        let status = |pods| NodeStatus {
            pods,
            ..NodeStatus::default()
        };
        let (a, b) = (running("a-n1"), running("b-n1"));
        let first = rows.lines(&status(vec![a.clone(), b.clone()]), now());
        let expected = "\
NAMESPACE   POD    READY   STATUS    RESTARTS   AGE    SOURCE
default     a-n1   1/1     Running   0          2m5s   /m/web.yaml
default     b-n1   1/1     Running   0          2m5s   /m/web.yaml
";
        assert_eq!(first, expected);
        let unready = PodReport {
            ready: 0,
            ..a.clone()
        };
        let second = rows.lines(&status(vec![unready, b.clone()]), now());
        let expected = "default     a-n1   0/1     Running   0          2m5s   /m/web.yaml\n";
        assert_eq!(second, expected);
        let third = rows.lines(&status(vec![a.clone()]), now());
        let expected = "\
default     a-n1   1/1     Running   0          2m5s   /m/web.yaml
default     b-n1   0/0     Gone      0          2m5s   /m/web.yaml
";
        assert_eq!(third, expected);
        assert_eq!(rows.lines(&status(vec![a]), now()), "");
    }

    #[test]
    fn a_pod_that_was_terminating_is_gone_in_the_end() {
        let mut rows = ChangedRows::new();
        let ending = PodReport {
            phase: "Terminating".into(),
            ..running("a-n1")
        };
        let status = NodeStatus {
            pods: vec![ending],
            ..NodeStatus::default()
        };
        rows.lines(&status, now());
        let last = rows.lines(&NodeStatus::default(), now());
        let expected = "default     a-n1   0/0     Gone          0          2m5s   /m/web.yaml\n";
        assert_eq!(last, expected);
    }

    #[test]
    fn states_have_their_colours() {
        let failing = PodReport {
            reason: "CrashLoopBackOff".into(),
            ..running("a-n1")
        };
        let unready = PodReport {
            ready: 0,
            ..running("a-n1")
        };
        for (pod, expected) in [(running("a-n1"), GOOD), (unready, UNDERWAY), (failing, BAD)] {
            assert_eq!(style(&pod), expected);
        }
    }

    #[test]
    fn a_page_is_cut_to_the_terminal_and_colours_take_no_room() {
        let page = "\u{1b}[32mlong\u{1b}[0m line\nshort\nthird\n";
        assert_eq!(cut(page, (6, 3)), "\u{1b}[32mlong\u{1b}[0m l\nshort\n");
        assert_eq!(cut(page, (2, 9)), "\u{1b}[32mlo\u{1b}[0m\nsh\nth\n");
    }

    #[test]
    fn what_a_pod_waits_for_is_shown_with_its_time_and_what_is_under_way() {
        let step = |name: &str, container: &str| StepReport {
            name: name.into(),
            container: container.into(),
            since: "2026-01-01T00:00:30Z".into(),
            ..StepReport::default()
        };
        let waiting = |name: &str, reason: &str, message: &str| ContainerReport {
            name: name.into(),
            state: "waiting".into(),
            reason: reason.into(),
            message: message.into(),
            since: "2026-01-01T00:00:05Z".into(),
            ..ContainerReport::default()
        };
        let creating = PodReport {
            phase: "Pending".into(),
            reason: "ContainerCreating".into(),
            since: "2026-01-01T00:00:05Z".into(),
            containers: vec![
                waiting("a", "ContainerCreating", ""),
                waiting("b", "Pulling", "the image \"b:1\" is being pulled"),
            ],
            steps: vec![step("RunPodSandbox", ""), step("PullImage", "b")],
            warnings: vec!["10:5: spec.containers[0].comand: unknown field".into()],
            ..running("web-n1")
        };
        let init = PodReport {
            phase: "Pending".into(),
            reason: "Init:0/1".into(),
            since: "2026-01-01T00:00:00Z".into(),
            update: Some(crate::pod::report::UpdateReport {
                reason: "Terminating".into(),
                since: "2026-01-01T00:02:00Z".into(),
                ..Default::default()
            }),
            ..running("init-n1")
        };
        let unready = PodReport {
            ready: 0,
            waits_for: vec!["container c: the readiness probe does not succeed".into()],
            ..running("unready-n1")
        };
        let status = NodeStatus {
            pods: vec![creating, init, unready],
            ..NodeStatus::default()
        };
        let page = page(&status, now(), false).unwrap();
        let notes = page.split_once("\n\n").unwrap().1;
        let expected = "\
default/web-n1: container a: ContainerCreating for 2m
default/web-n1: container b: Pulling for 2m: the image \"b:1\" is being pulled
default/web-n1: under way: RunPodSandbox for 95s
default/web-n1: container b: under way: PullImage for 95s
default/web-n1: warning: /m/web.yaml:10:5: spec.containers[0].comand: unknown field
default/init-n1: Init:0/1 for 2m5s
default/init-n1: its update waits for 5s: Terminating
default/unready-n1: not Ready: container c: the readiness probe does not succeed
";
        assert_eq!(notes, expected);
        assert!(page.lines().all(|line| line == line.trim_end()), "{page}");
    }

    #[test]
    fn the_table_shows_pods_then_what_they_wait_for_then_what_was_refused() {
        let rejected = PodReport {
            namespace: "default".into(),
            name: "big-n1".into(),
            phase: "Failed".into(),
            reason: "OutOfcpu".into(),
            message: "it asks\nfor \u{1b}[31mtoo much".into(),
            total: 1,
            path: "/m/big.yaml".into(),
            ..PodReport::default()
        };
        let updating = PodReport {
            update: Some(crate::pod::report::UpdateReport {
                uid: "u".into(),
                reason: "ErrImagePull".into(),
                message: "no such image".into(),
                ..Default::default()
            }),
            ..running("web-n1")
        };
        let status = NodeStatus {
            pods: vec![updating, rejected],
            refused: vec![RefusedReport {
                path: "/m/web.bak".into(),
                problems: vec!["3:5: spec: \u{9b}wrong".into()],
                keeps: Some("default/x-n1".into()),
            }],
            ..NodeStatus::default()
        };
        let expected = "\
NAMESPACE   POD      READY   STATUS     RESTARTS   AGE    SOURCE
default     web-n1   1/1     Running    0          2m5s   /m/web.yaml
default     big-n1   0/1     OutOfcpu   0          -      /m/big.yaml

default/web-n1: its update waits: ErrImagePull: no such image
default/big-n1: OutOfcpu: it asks
for ^[[31mtoo much

Refused:
/m/web.bak:3:5: spec: \\u{9b}wrong
  default/x-n1 runs on as it was last accepted from there
";
        assert_eq!(page(&status, now(), false).unwrap(), expected);
    }
}
