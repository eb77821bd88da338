//! `podkeeper events`: the events of Pods.

use std::process::ExitCode;

use clap::Args;

use super::agent::Agent;
use super::table::{BAD, Cell, Table, in_colour, time};
use super::{print, single_threaded};
use crate::pod::events::{Event, EventKind};
use crate::server::PodName;

/// Width of the column of Pods, while later names are unknown.
const POD_WIDTH: usize = 30;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    agent: Agent,

    /// Show only the events of this Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: Option<PodName>,

    /// Follow new events
    #[arg(long, short)]
    follow: bool,
}

pub(super) fn events(arguments: &EventsArgs) -> anyhow::Result<ExitCode> {
    single_threaded()?.block_on(async {
        let pod = arguments.pod.as_ref();
        let mut table = Table::new(in_colour());
        if !arguments.follow {
            let events = arguments.agent.events(pod).await?;
            let rows = events.iter().map(row);
            let rows: Vec<_> = std::iter::once(header(0)).chain(rows).collect();
            print(&table.lines("", &rows))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut events = arguments.agent.follow_events(pod).await?;
        print(&table.lines("", &[header(POD_WIDTH)]))?;
        while let Some(event) = events.next().await? {
            print(&table.lines("", &[row(&event)]))?;
        }
        anyhow::bail!("the agent has ended")
    })
}

/// Returns the header, with a column for the Pod of this width at least.
fn header(pod_width: usize) -> [Cell; 6] {
    let pod = format!("{:pod_width$}", "POD");
    // As wide as times and most reasons are, so that rows that come later line up.
    let (time, kind, reason) = ("LAST SEEN           ", "TYPE   ", "REASON    ");
    [time, kind, reason, &pod, "CONTAINER", "MESSAGE"].map(Cell::from)
}

fn row(event: &Event) -> [Cell; 6] {
    let kind = match event.kind {
        EventKind::Normal => Cell::from("Normal"),
        EventKind::Warning => Cell::styled("Warning", BAD),
    };
    [
        time(event.last).into(),
        kind,
        event.reason.clone().into(),
        format!("{}/{}", event.namespace, event.name).into(),
        container(event).into(),
        message(event).into(),
    ]
}

/// Returns the container of an event; empty for an event of the Pod.
pub(super) fn container(event: &Event) -> &str {
    let inside = event.field.split_once('{').map(|(_, inside)| inside);
    inside.map_or("", |inside| inside.trim_end_matches('}'))
}

/// Returns the message on one line, with the number of times.
pub(super) fn message(event: &Event) -> String {
    let message = event.message.replace('\n', " ");
    match event.count {
        0 | 1 => message,
        count => format!("{message} ({count} times since {})", time(event.first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_a_line_each_with_how_often_they_happened() {
        let started = Event {
            number: 1,
            namespace: "default".into(),
            name: "web-n1".into(),
            uid: "u".into(),
            field: "spec.containers{c}".into(),
            kind: EventKind::Normal,
            reason: "Started".into(),
            message: "Container started".into(),
            count: 1,
            first: 1_767_225_600_000_000_000,
            last: 1_767_225_600_000_000_000,
        };
        let failed = Event {
            field: String::new(),
            kind: EventKind::Warning,
            reason: "FailedMount".into(),
            message: "no such\npath".into(),
            count: 3,
            last: 1_767_225_665_999_999_999,
            ..started.clone()
        };
        let mut table = Table::new(false);
        let text = table.lines("", &[header(0), row(&started), row(&failed)]);
        let expected = "\
LAST SEEN              TYPE      REASON        POD              CONTAINER   MESSAGE
2026-01-01T00:00:00Z   Normal    Started       default/web-n1   c           Container started
2026-01-01T00:01:05Z   Warning   FailedMount   default/web-n1               no such path (3 times since 2026-01-01T00:00:00Z)
";
        assert_eq!(text, expected);
    }
}
