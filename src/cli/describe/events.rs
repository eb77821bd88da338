//! Recent events of the Pod.

use jiff::Timestamp;

use super::page::Page;
use crate::cli::events::{container, message};
use crate::cli::table::{Cell, Table, span};
use crate::pod::events::Event;

/// Maximum number of events.
const RECENT: usize = 20;

pub(super) fn describe(page: &mut Page, events: &[Event], now: Timestamp) {
    if events.is_empty() {
        page.line("Events:         none since the agent started");
        return;
    }
    page.line("Events:");
    let mut rows = vec![["AGE", "TYPE", "REASON", "CONTAINER", "MESSAGE"].map(Cell::from)];
    let recent = &events[events.len().saturating_sub(RECENT)..];
    rows.extend(recent.iter().map(|event| {
        let ago = now
            .as_second()
            .saturating_sub(event.last.div_euclid(1_000_000_000));
        [
            span(ago),
            format!("{:?}", event.kind),
            event.reason.clone(),
            container(event).to_owned(),
            message(event),
        ]
        .map(Cell::from)
    }));
    page.text += &Table::new(false).lines("  ", &rows);
}
