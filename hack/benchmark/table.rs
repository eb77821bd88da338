//! The table of results, as text for a terminal and as Markdown.

use crate::results::{Row, Run, Who};

/// Those with a figure in any row.
pub(crate) fn present(rows: &[Row]) -> Vec<Who> {
    let has_figure = |who: &Who| rows.iter().any(|r| r.value(*who).is_some());
    Who::ALL.into_iter().filter(has_figure).collect()
}

/// Name and version of the runtime, without what packagers add to it.
pub(crate) fn runtime(run: &Run) -> String {
    let version = run.containerd.split(['+', '~']).next().unwrap_or_default();
    format!("containerd {version}")
}

/// One line about what was measured.
pub(crate) fn heading(run: &Run) -> String {
    let kubelet = match &run.kubelet {
        Some(version) => format!(" · kubelet {version}"),
        None => String::new(),
    };
    format!(
        "podkeeper {}{kubelet} · {} · {} cores · Linux {} · {}",
        run.podkeeper,
        runtime(run),
        run.cores,
        run.kernel,
        run.date
    )
}

fn header(who: &[Who]) -> Vec<String> {
    let mut cells = vec![String::new()];
    cells.extend(who.iter().map(|w| w.title().to_owned()));
    let others = who.iter().filter(|w| **w != Who::Podkeeper);
    cells.extend(others.map(|w| format!("podkeeper / {}", w.title())));
    cells
}

fn cells(row: &Row, who: &[Who]) -> Vec<String> {
    let mut cells = vec![row.name.clone()];
    if !row.note.is_empty() {
        cells[0] = format!("{} ({})", row.name, row.note);
    }
    for who in who {
        cells.push(row.text(*who));
    }
    for who in who.iter().filter(|w| **w != Who::Podkeeper) {
        let ratio = row.ratio(*who).map(|r| match r {
            r if r < 0.0005 => "< 0.001".to_owned(),
            r if r < 0.0995 => format!("{r:.3}"),
            r => format!("{r:.2}"),
        });
        cells.push(ratio.unwrap_or_default());
    }
    cells
}

/// The table in columns.
pub(crate) fn text(run: &Run) -> String {
    let who = present(&run.rows);
    let mut lines = vec![header(&who)];
    lines.extend(run.rows.iter().map(|r| cells(r, &who)));
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max();
    let widths: Vec<usize> = (0..lines[0].len()).filter_map(width).collect();
    let mut text = format!("{}\n", heading(run));
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The table in Markdown.
pub(crate) fn markdown(run: &Run) -> String {
    let who = present(&run.rows);
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let header = header(&who);
    let rule: String = header.iter().skip(1).map(|_| " ---: |").collect();
    let mut text = line(header) + "| --- |" + &rule + "\n";
    for row in &run.rows {
        text += &line(cells(row, &who));
    }
    text
}
