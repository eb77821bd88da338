//! Measured figures, as the JSON file holds them: raw samples, from which the table and the chart are drawn.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Those compared, in the order of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    Podkeeper,
    Kubelet,
    Bare,
}

impl Who {
    pub(crate) const ALL: [Self; 3] = [Self::Podkeeper, Self::Kubelet, Self::Bare];

    /// Name for readers.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Podkeeper => "podkeeper",
            Self::Kubelet => "kubelet",
            Self::Bare => "bare CRI",
        }
    }

    /// Name of folders and cgroups.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Podkeeper => "podkeeper",
            Self::Kubelet => "kubelet",
            Self::Bare => "bare",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Seconds,
    Mebibytes,
    /// Of one core.
    Percent,
    Kibibytes,
    Count,
}

impl Unit {
    /// Writes a value with as many digits as it is good for.
    pub(crate) fn format(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 0.0995 => format!("{:.1} ms", value * 1000.0),
            Self::Seconds if value < 0.9995 => format!("{:.0} ms", value * 1000.0),
            Self::Seconds if value < 9.995 => format!("{value:.2} s"),
            Self::Seconds => format!("{value:.1} s"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Percent if value < 9.995 => format!("{value:.2} %"),
            Self::Percent => format!("{value:.1} %"),
            Self::Kibibytes => format!("{value:.0} KiB"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// Figure of a row that is made of its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Statistic {
    Median,
    P99,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) statistic: Statistic,
    pub(crate) samples: BTreeMap<Who, Vec<f64>>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
}

impl Row {
    /// The row's figure of one of those compared, unless it has none.
    pub(crate) fn value(&self, who: Who) -> Option<f64> {
        let samples = self.samples.get(&who).filter(|s| !s.is_empty())?;
        Some(match self.statistic {
            Statistic::Median => percentile(samples, 50),
            Statistic::P99 => percentile(samples, 99),
        })
    }

    /// The 10th and 90th percentile of the samples of a median; the least and the greatest of fewer than ten.
    pub(crate) fn spread(&self, who: Who) -> Option<(f64, f64)> {
        let samples = self.samples.get(&who).filter(|s| s.len() > 1)?;
        let ends = if samples.len() < 10 {
            (0, 100)
        } else {
            (10, 90)
        };
        (self.statistic == Statistic::Median)
            .then(|| (percentile(samples, ends.0), percentile(samples, ends.1)))
    }

    /// The figure of one of those compared with its spread, as text; empty if it has none.
    pub(crate) fn text(&self, who: Who) -> String {
        let Some(value) = self.value(who).map(|v| self.unit.format(v)) else {
            return String::new();
        };
        let Some((low, high)) = self.spread(who) else {
            return value;
        };
        let (low, high) = (self.unit.format(low), self.unit.format(high));
        let unit = |text: &str| text.rsplit_once(' ').map(|(_, unit)| unit.to_owned());
        let number = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
        if unit(&low) != unit(&high) {
            format!("{value} ({low}–{high})")
        } else if unit(&low) != unit(&value) {
            format!("{value} ({}–{high})", number(&low))
        } else {
            format!("{value} ({}–{})", number(&low), number(&high))
        }
    }

    /// The ratio of podkeeper's figure to another one's.
    pub(crate) fn ratio(&self, to: Who) -> Option<f64> {
        let (ours, other) = (self.value(Who::Podkeeper)?, self.value(to)?);
        (other > 0.0).then(|| ours / other)
    }
}

/// Rows that grow sample by sample.
#[derive(Default)]
pub(crate) struct Rows(pub(crate) Vec<Row>);

impl Rows {
    /// Adds a sample to the row of this name, which is a new one at first.
    pub(crate) fn add(&mut self, name: &str, unit: Unit, who: Who, value: f64) {
        let found = self.0.iter().position(|r| r.name == name);
        let index = found.unwrap_or_else(|| {
            self.0.push(Row {
                name: name.to_owned(),
                unit,
                statistic: Statistic::Median,
                samples: BTreeMap::new(),
                note: String::new(),
            });
            self.0.len() - 1
        });
        self.0[index].samples.entry(who).or_default().push(value);
    }

    /// Sets the note of the row of this name.
    pub(crate) fn note(&mut self, name: &str, note: String) {
        if let Some(row) = self.0.iter_mut().find(|r| r.name == name) {
            row.note = note;
        }
    }
}

/// Results on one version of containerd.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// As the runtime reports it.
    pub(crate) containerd: String,
    pub(crate) podkeeper: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kubelet: Option<String>,
    /// Day in UTC, `2026-01-31`.
    pub(crate) date: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) rows: Vec<Row>,
}

/// Value that `percent` of the samples do not exceed (nearest rank); `0` is the least one. There is at least one
/// sample.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_of_their_rank() {
        let samples: Vec<f64> = (1..=50).rev().map(f64::from).collect();
        let ranks = [0, 10, 50, 99, 100].map(|percent| percentile(&samples, percent).to_string());
        assert_eq!(ranks, ["1", "5", "25", "50", "50"]);
    }

    #[test]
    fn a_spread_has_the_unit_of_its_figure_where_that_is_the_same() {
        let text = |samples: &[f64]| {
            let row = Row {
                name: String::new(),
                unit: Unit::Seconds,
                statistic: Statistic::Median,
                samples: BTreeMap::from([(Who::Kubelet, samples.to_vec())]),
                note: String::new(),
            };
            row.text(Who::Kubelet)
        };
        assert_eq!(text(&[0.2]), "200 ms");
        assert_eq!(text(&[0.1, 0.2, 0.3]), "200 ms (100–300)");
        assert_eq!(text(&[0.1, 0.2, 3.0]), "200 ms (100 ms–3.00 s)");
    }

    #[test]
    fn values_have_three_digits_or_so() {
        let seconds = |value| Unit::Seconds.format(value);
        assert_eq!(
            [
                seconds(0.0712),
                seconds(0.1574),
                seconds(2.345),
                seconds(10.12)
            ],
            ["71.2 ms", "157 ms", "2.35 s", "10.1 s"]
        );
        assert_eq!(Unit::Percent.format(0.127), "0.13 %");
    }
}
