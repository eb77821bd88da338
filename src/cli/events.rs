//! `podkeeper events`: the events of Pods.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::agent::Agent;
use super::table::{BAD, Cell, Table, in_colour, time};
use super::{block_on, print, yaml};
use crate::pod::events::{Event, EventKind};
use crate::server::{PodFilter, PodName};
use crate::text::printable_json;

/// Width of the column of Pods, while later names are unknown.
const POD_WIDTH: usize = 30;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    agent: Agent,

    /// Show only the events of this Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: Option<PodName>,

    /// Only events of this namespace [default: of all]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

    /// Follow new events
    #[arg(long, short, visible_alias = "watch")]
    follow: bool,

    /// Output format: the events as the API has them
    #[arg(long, short, value_enum)]
    output: Option<EventsFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventsFormat {
    Json,
    Yaml,
}

impl EventsFormat {
    fn text(self, document: &Value) -> anyhow::Result<String> {
        Ok(match self {
            Self::Json => printable_json(&serde_json::to_string_pretty(document)?) + "\n",
            Self::Yaml => yaml(document)?,
        })
    }
}

/// Prints the events as a list of the API; those that are followed one by one.
async fn documents(
    arguments: &EventsArgs,
    filter: &PodFilter,
    output: EventsFormat,
) -> anyhow::Result<ExitCode> {
    if !arguments.follow {
        let events = arguments.agent.events(filter).await?;
        let items: Vec<Value> = events.iter().map(document).collect();
        let list = json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": ""},
            "items": items,
        });
        print(&output.text(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut events = arguments.agent.follow_events(filter).await?;
    while let Some(event) = events.next().await? {
        let separator = match output {
            EventsFormat::Json => "",
            EventsFormat::Yaml => "---\n",
        };
        print(&format!("{separator}{}", output.text(&document(&event))?))?;
    }
    anyhow::bail!("the agent has ended")
}

/// Returns an event as the API has it.
fn document(event: &Event) -> Value {
    let kind = match event.kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    };
    let mut about = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": event.namespace,
        "name": event.name,
        "uid": event.uid,
    });
    if !event.field.is_empty() {
        about["fieldPath"] = json!(event.field);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": event.namespace,
            "name": format!("{}.{:016x}", event.name, event.first),
            "creationTimestamp": time(event.first),
        },
        "involvedObject": about,
        "type": kind,
        "reason": event.reason,
        "message": event.message,
        "count": event.count,
        "firstTimestamp": time(event.first),
        "lastTimestamp": time(event.last),
        "source": {"component": "podkeeper"},
    })
}

pub(super) fn events(arguments: &EventsArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let filter = PodFilter {
            name: arguments.pod.clone(),
            namespace: arguments.namespace.clone(),
            selector: None,
        };
        if let Some(output) = arguments.output {
            return documents(arguments, &filter, output).await;
        }
        let mut table = Table::new(in_colour());
        if !arguments.follow {
            let events = arguments.agent.events(&filter).await?;
            let rows = events.iter().map(row);
            let rows: Vec<_> = std::iter::once(header(0)).chain(rows).collect();
            print(&table.lines("", &rows))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut events = arguments.agent.follow_events(&filter).await?;
        print(&table.lines("", &[header(POD_WIDTH)]))?;
        while let Some(event) = events.next().await? {
            print(&table.lines("", &[row(&event)]))?;
        }
        anyhow::bail!("the agent has ended")
    }))
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
        let found = document(&failed);
        assert_eq!(found["involvedObject"]["name"], "web-n1");
        assert_eq!(found["involvedObject"].get("fieldPath"), None);
        assert_eq!(
            (&found["type"], &found["count"]),
            (&json!("Warning"), &json!(3))
        );
        assert_eq!(found["lastTimestamp"], "2026-01-01T00:01:05Z");
        let found = document(&started);
        assert_eq!(found["involvedObject"]["fieldPath"], "spec.containers{c}");
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
