//! The chart of results: an SVG with a column for each version of containerd.

use std::fmt::Write as _;

use crate::results::{Row, Run, Who};
use crate::table::{present, runtime};

/// The rows that are drawn, by a part of their names, and their labels. `#` stands for the number of Pods.
const ROWS: [(&str, &str); 16] = [
    ("start: manifest", "start of a Pod"),
    ("restart: ", "restart after a kill"),
    ("restart, 99", "restart, 99th percentile"),
    (
        "stop: manifest removed → no process",
        "stop: no process left",
    ),
    ("stop: manifest removed → nothing", "stop: nothing left"),
    (" Pods up →", "# Pods up"),
    (" Pods down → no process", "# Pods down: no process left"),
    (" Pods down → nothing", "# Pods down: nothing left"),
    ("resident memory, no Pod", "memory, no Pod"),
    ("resident memory, ", "memory, # Pods"),
    ("own (anonymous) memory, no Pod", "own memory, no Pod"),
    ("own (anonymous) memory, ", "own memory, # Pods"),
    (": CPU of the idle agent", "CPU, # Pods idle"),
    (" exec probe each: CPU of the agent", "CPU, # exec probes"),
    (" HTTP probe each: CPU of the agent", "CPU, # HTTP probes"),
    ("API requests in a minute", "API requests in a minute"),
];

const LABELS: usize = 210;
const COLUMN: usize = 320;
/// The longest bar; the rest of a column is for its figure.
const BAR: f64 = 225.0;
const STEP: usize = 13;
const GAP: usize = 11;
const HEAD: usize = 58;

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #1f2328 } \
.title { font-weight: 600 } \
.figure { font-size: 11px; fill: #59636e } \
.podkeeper { fill: #1a7f5a } .kubelet { fill: #4a78c8 } .bare { fill: #b3bac2 } \
@media (prefers-color-scheme: dark) { \
text { fill: #e6edf3 } .figure { fill: #9198a1 } \
.podkeeper { fill: #3fb68b } .kubelet { fill: #6c9bea } .bare { fill: #6e7681 } }";

/// Draws the runs.
pub(crate) fn svg(runs: &[Run]) -> String {
    let drawn = drawn(runs);
    let who: Vec<Who> = Who::ALL
        .into_iter()
        .filter(|w| runs.iter().any(|r| present(&r.rows).contains(w)))
        .collect();
    // As high as its row with the most bars.
    let height_of = |name: &str| {
        let rows = runs.iter().flat_map(|r| &r.rows).filter(|r| r.name == name);
        let bars = rows.map(|r| who.iter().filter(|w| r.value(**w).is_some()).count());
        bars.max().unwrap_or_default() * STEP
    };
    let heights = drawn.iter().map(|(name, _)| height_of(name) + GAP);
    let (width, height) = (LABELS + runs.len() * COLUMN, HEAD + heights.sum::<usize>());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"Results of hack/bench\">\n\
         <style>{STYLE}</style>\n"
    );
    legend(&mut out, &who);
    for (column, run) in runs.iter().enumerate() {
        let x = LABELS + column * COLUMN;
        text(&mut out, x, 40, "title", &runtime(run));
    }
    let mut top = HEAD;
    for (name, label) in &drawn {
        let height = height_of(name);
        text(&mut out, 0, top + height / 2 + 3, "label", label);
        for (column, run) in runs.iter().enumerate() {
            if let Some(row) = run.rows.iter().find(|r| r.name == *name) {
                bars(&mut out, row, &who, LABELS + column * COLUMN, top);
            }
        }
        top += height + GAP;
    }
    out + "</svg>\n"
}

/// Names and labels of the rows that are drawn, in the order of [`ROWS`], each once.
fn drawn(runs: &[Run]) -> Vec<(String, String)> {
    let mut drawn: Vec<(String, String)> = vec![];
    for (part, label) in ROWS {
        for row in runs.iter().flat_map(|r| &r.rows) {
            if row.name.contains(part) && drawn.iter().all(|(name, _)| *name != row.name) {
                let words = row.name.split(' ');
                let pods = words
                    .clone()
                    .zip(words.skip(1))
                    .find(|(_, next)| *next == "Pods");
                let pods = pods.map_or("", |(number, _)| number);
                drawn.push((row.name.clone(), label.replace('#', pods)));
            }
        }
    }
    drawn
}

fn legend(out: &mut String, who: &[Who]) {
    for (index, who) in who.iter().enumerate() {
        let x = LABELS + index * 100;
        let class = who.name();
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"8\" width=\"10\" height=\"10\" rx=\"2\"/>"
        );
        text(out, x + 15, 17, "label", who.title());
    }
}

/// Draws the figures of one row; the greatest has the longest bar.
fn bars(out: &mut String, row: &Row, who: &[Who], x: usize, top: usize) {
    let values = who.iter().filter_map(|w| row.value(*w));
    let greatest = values.fold(0.0, f64::max);
    let figures = who.iter().filter_map(|w| Some((*w, row.value(*w)?)));
    for (index, (who, value)) in figures.enumerate() {
        let y = top + index * STEP;
        let part = if greatest > 0.0 {
            value / greatest
        } else {
            0.0
        };
        let length = (part * BAR).max(1.0);
        let class = who.name();
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"11\" rx=\"2\"/>"
        );
        let end = length + 5.0;
        let _ = writeln!(
            out,
            "<text class=\"figure\" x=\"{x}\" dx=\"{end:.1}\" y=\"{}\">{}</text>",
            y + 10,
            row.unit.format(value)
        );
    }
}

fn text(out: &mut String, x: usize, y: usize, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::{Statistic, Unit};

    #[test]
    fn bars_are_as_long_as_the_figures_are_great() {
        let row = Row {
            name: "100 Pods up → all have their first log line".to_owned(),
            unit: Unit::Seconds,
            statistic: Statistic::Median,
            samples: BTreeMap::from([(Who::Podkeeper, vec![10.0]), (Who::Kubelet, vec![20.0])]),
            note: String::new(),
        };
        let run = Run {
            containerd: "2.1".to_owned(),
            podkeeper: "1".to_owned(),
            kubelet: None,
            date: "2026-01-31".to_owned(),
            cores: 2,
            kernel: "6".to_owned(),
            rows: vec![row],
        };
        let svg = svg(&[run]);
        assert!(svg.contains(">100 Pods up<"), "{svg}");
        assert!(
            svg.contains("class=\"podkeeper\" x=\"210\" y=\"58\" width=\"112.5\""),
            "{svg}"
        );
        assert!(
            svg.contains("class=\"kubelet\" x=\"210\" y=\"71\" width=\"225.0\""),
            "{svg}"
        );
        assert!(!svg.contains("bare CRI"), "{svg}");
    }
}
