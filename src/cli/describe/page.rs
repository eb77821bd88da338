//! A page of fields, each on its line and indented below its parent.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;

use crate::cli::table::span;
use crate::text::in_a_line;

/// Column of values, from that of their names.
const COLUMN: usize = 16;

/// A page of text.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) text: String,
}

/// An indented part of a page.
#[derive(Debug)]
pub(super) struct Section<'a> {
    page: &'a mut Page,
    indent: usize,
}

impl Page {
    /// Returns a part below the last line.
    pub(super) fn indented(&mut self) -> Section<'_> {
        Section {
            page: self,
            indent: 2,
        }
    }

    fn whole(&mut self) -> Section<'_> {
        Section {
            page: self,
            indent: 0,
        }
    }

    pub(super) fn line(&mut self, text: &str) {
        self.whole().line(text);
    }

    pub(super) fn field(&mut self, name: &str, value: impl AsRef<str>) {
        self.whole().field(name, value);
    }

    pub(super) fn list(&mut self, name: &str, values: &[String]) {
        self.whole().list(name, values);
    }
}

impl Section<'_> {
    pub(super) fn indented(&mut self) -> Section<'_> {
        Section {
            indent: self.indent.saturating_add(2),
            page: &mut *self.page,
        }
    }

    pub(super) fn line(&mut self, text: &str) {
        let (indent, text) = (self.indent, in_a_line(text));
        // Writing to a text cannot fail.
        let _ = writeln!(self.page.text, "{:indent$}{text}", "");
    }

    /// Writes a field; one without a value is left out, and further lines of the value are below the first.
    pub(super) fn field(&mut self, name: &str, value: impl AsRef<str>) {
        let mut name = format!("{name}:");
        for line in value.as_ref().lines() {
            let width = COLUMN;
            self.line(format!("{name:width$}{line}").trim_end());
            name.clear();
        }
    }

    /// Writes a field with several values, each on its line.
    pub(super) fn list(&mut self, name: &str, values: &[String]) {
        self.field(name, values.join("\n"));
    }
}

/// Returns `name=value` of each.
pub(super) fn pairs(map: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let pairs = map.into_iter().flatten();
    pairs.map(|(key, value)| format!("{key}={value}")).collect()
}

/// Formats a time in RFC 3339 with its age; empty for an invalid one.
pub(super) fn since(time: &str, now: Timestamp) -> String {
    let Ok(parsed) = time.parse::<Timestamp>() else {
        return String::new();
    };
    let whole = Timestamp::from_second(parsed.as_second()).unwrap_or(parsed);
    let ago = span(now.as_second().saturating_sub(parsed.as_second()));
    format!("{whole} ({ago} ago)")
}
