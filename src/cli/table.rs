//! Tables, times and colours on a terminal.

use std::fmt::Write;
use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};

use crate::text::in_a_line;

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        let text = in_a_line(&text.into());
        Self { text, style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// A table. Columns only grow, so that rows written later line up with earlier ones.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    widths: [usize; N],
    colour: bool,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            widths: [0; N],
            colour,
        }
    }

    /// Returns the rows as lines with this indent.
    pub(super) fn lines(&mut self, indent: &str, rows: &[[Cell; N]]) -> String {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.text.chars().count().max(*width);
            }
        }
        let lines = rows.iter().map(|row| self.line(indent, row) + "\n");
        lines.collect()
    }

    fn line(&self, indent: &str, row: &[Cell; N]) -> String {
        let mut line = indent.to_owned();
        let filled = row.iter().rposition(|cell| !cell.text.is_empty());
        let last = filled.unwrap_or_default();
        for (at, (cell, width)) in row
            .iter()
            .zip(&self.widths)
            .enumerate()
            .take(last.saturating_add(1))
        {
            let Cell { text, style } = cell;
            let colour = self.colour && !style.is_plain();
            let text = if colour {
                format!("{style}{text}{style:#}")
            } else {
                text.clone()
            };
            line.push_str(&text);
            if at < last {
                let gap = width
                    .saturating_add(3)
                    .saturating_sub(cell.text.chars().count());
                // Writing to a text cannot fail.
                let _ = write!(line, "{:gap$}", "");
            }
        }
        line
    }
}

/// Style of a good state.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Style of a pending state.
pub(super) const UNDERWAY: Style = AnsiColor::Yellow.on_default();
/// Style of a failed state.
pub(super) const BAD: Style = AnsiColor::Red.on_default();

/// Returns whether standard output is a terminal.
pub(super) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Returns whether to write in colours: on a terminal that has them, unless `NO_COLOR` is set.
pub(super) fn in_colour() -> bool {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    on_terminal() && !no_colour && !dumb
}

/// Returns the age of a time in RFC 3339, in the largest unit, as `kubectl get` writes it.
pub(super) fn age(since: &str, now: jiff::Timestamp) -> String {
    let Ok(since) = since.parse::<jiff::Timestamp>() else {
        return "-".to_owned();
    };
    span(now.as_second().saturating_sub(since.as_second()))
}

/// Formats seconds in the largest unit, small numbers of it with the next smaller one, as `kubectl get` does
/// (Kubernetes, `duration.HumanDuration`).
pub(super) fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let seconds = seconds.max(0);
    let whole = |unit: i64, name: &str| format!("{}{name}", seconds.div_euclid(unit));
    let both = |unit: i64, name: &str, smaller: i64, its_name: &str| match seconds
        .rem_euclid(unit)
        .div_euclid(smaller)
    {
        0 => whole(unit, name),
        rest => format!("{}{rest}{its_name}", whole(unit, name)),
    };
    match seconds {
        _ if seconds < 2 * MINUTE => whole(1, "s"),
        _ if seconds < 10 * MINUTE => both(MINUTE, "m", 1, "s"),
        _ if seconds < 3 * HOUR => whole(MINUTE, "m"),
        _ if seconds < 8 * HOUR => both(HOUR, "h", MINUTE, "m"),
        _ if seconds < 2 * DAY => whole(HOUR, "h"),
        _ if seconds < 8 * DAY => both(DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => whole(DAY, "d"),
        _ if seconds < 8 * YEAR => both(YEAR, "y", DAY, "d"),
        _ => whole(YEAR, "y"),
    }
}

/// Formats a time in nanoseconds since the epoch as RFC 3339 in whole seconds; `-` for one out of range.
pub(super) fn time(nanos: i64) -> String {
    let time = jiff::Timestamp::from_second(nanos.div_euclid(1_000_000_000));
    time.map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_rows_end_where_their_text_does() {
        let mut table = Table::new(false);
        let rows = [["A", "B", "C"], ["long", "ä", ""]].map(|row| row.map(Cell::from));
        assert_eq!(table.lines("  ", &rows), "  A      B   C\n  long   ä\n");
        let later = [["x", "y", "z"].map(Cell::from)];
        assert_eq!(table.lines("", &later), "x      y   z\n");
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(true);
        let rows = [
            [Cell::styled("ok", GOOD), "x".into()],
            ["plain".into(), Cell::from("y")],
        ];
        let lines = table.lines("", &rows);
        assert_eq!(lines, "\u{1b}[32mok\u{1b}[0m      x\nplain   y\n");
    }

    #[test]
    fn ages_are_told_in_the_largest_unit() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (7200, "120m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 61, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600 + 3599, "47h"),
            (172_800, "2d"),
            (172_800 + 3600, "2d1h"),
            (8 * 86400 - 1, "7d23h"),
            (8 * 86400, "8d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (8 * 365 * 86400 - 1, "7y364d"),
            (8 * 365 * 86400, "8y"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(age("", jiff::Timestamp::UNIX_EPOCH), "-");
    }
}
