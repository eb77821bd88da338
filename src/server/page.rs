//! Prometheus' text format of measured values, each with the time of its measurement.

use std::fmt::Write;

/// A value with its labels, and the time of its measurement in milliseconds since the epoch, if it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    /// As in `{name="value"}`, or nothing.
    pub(super) labels: String,
    pub(super) value: String,
    pub(super) time: Option<i64>,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct MetricsPage(pub(super) String);

impl MetricsPage {
    /// Adds a metric, unless it has no values.
    pub(super) fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl Iterator<Item = Sample>,
    ) {
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for Sample {
            labels,
            value,
            time,
        } in samples
        {
            let time = time.map(|time| format!(" {time}")).unwrap_or_default();
            let _ = writeln!(self.0, "{name}{labels} {value}{time}");
        }
    }

    /// Adds the metric that reports whether the others could be measured. Without it, a reader could not see that
    /// nothing failed.
    pub(super) fn error(&mut self, name: &str, has_failed: bool) {
        let value = u8::from(has_failed).to_string();
        let sample = Sample {
            labels: String::new(),
            value,
            time: None,
        };
        let help = "1 if there was an error while getting container metrics, 0 otherwise";
        self.family(name, "gauge", help, [sample].into_iter());
    }
}

/// Formats labels, sorted by name.
pub(super) fn labels(labels: &[(&str, &str)]) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in labels.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{name}=\"{}\"", escaped(value));
    }
    text + "}"
}

/// A label's value: names of networks and images are others' (Prometheus, Text-based format).
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

/// Formats nanoseconds as seconds.
pub(super) fn seconds(nanoseconds: u64) -> String {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    format!("{seconds}.{rest:09}")
}

/// Milliseconds of a time in nanoseconds.
pub(super) fn milliseconds(nanoseconds: i64) -> i64 {
    nanoseconds / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_others_ends_a_label() {
        let found = labels(&[("image", "a\"b\\c\nd"), ("pod", "p")]);
        assert_eq!(found, r#"{image="a\"b\\c\nd",pod="p"}"#);
    }
}
