//! Hints for texts that are not YAML yet: tabs, and templates that were not rendered.
//!
//! Nothing here decides whether a text is good: a hint names what its parser stumbled over.

use super::Problem;
use super::spans::number;

/// Openings of templates that are rendered before YAML is parsed: Helm and Jinja, ERB, and shell.
const TEMPLATES: [&str; 4] = ["{{", "{%", "<%", "${"];
/// As many characters of a template as are shown.
const SHOWN: usize = 40;

/// Returns the hint for a text that looks like a template; empty for any other text.
pub(super) fn of_template(text: &str) -> &'static str {
    if TEMPLATES.iter().any(|begin| text.contains(begin)) {
        "; it looks like a template that was not filled in"
    } else {
        ""
    }
}

/// The problem of a text that is not YAML, with the tab or the template that it comes of, if there is one
/// where the parser stopped.
pub(super) fn explained(text: &str, problem: Problem) -> Problem {
    if !problem.message.starts_with("not ") {
        return problem;
    }
    // What a parser stumbles over stands at the line that it names, or before it; of a line that it has not
    // read to its end, right behind.
    let line = match problem.line {
        0 => u32::MAX,
        line => line,
    };
    let mut found = None;
    for suspect in Suspects::new(text) {
        let is_behind = suspect.line > line;
        if is_behind && (found.is_some() || suspect.line.saturating_sub(line) > 1) {
            break;
        }
        found = Some(suspect);
    }
    found.map_or(problem, |suspect| suspect.problem())
}

/// A position with text that no YAML can have.
struct Suspect<'a> {
    line: u32,
    column: u32,
    /// The template; nothing for a tab.
    template: Option<&'a str>,
}

impl Suspect<'_> {
    fn problem(&self) -> Problem {
        let message = match self.template {
            None => {
                "not YAML: found a tab, expected blanks: YAML is indented by blanks alone".into()
            }
            Some(template) => {
                let shown: String = template.trim_end().chars().take(SHOWN).collect();
                format!(
                    "not YAML: found a template, {shown:?}, expected a Pod: fill it in first, as helm \
                     template or envsubst do"
                )
            }
        };
        Problem {
            line: self.line,
            column: self.column,
            ..Problem::of_file(message)
        }
    }
}

/// The suspects of a text, from its beginning on, but for those in texts behind `|` and `>`.
struct Suspects<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    /// The indentation of the line that a text behind `|` or `>` belongs to.
    block: Option<usize>,
}

impl<'a> Suspects<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            lines: text.lines().enumerate(),
            block: None,
        }
    }

    /// The suspect of a line.
    fn of_line(&mut self, index: usize, line: &'a str) -> Option<Suspect<'a>> {
        let content = line.trim_start_matches(' ');
        let indent = line.len().saturating_sub(content.len());
        if content.trim().is_empty() || content.starts_with('#') {
            return None;
        }
        if self.block.is_some_and(|outer| indent > outer) {
            return None;
        }
        self.block = begins_block(content).then_some(indent);
        // The dashes of lists are indentation too.
        let inner = content.trim_start_matches("- ").trim_start_matches(' ');
        let at = |part: &str| Suspect {
            line: number(index.saturating_add(1)),
            column: number(line.len().saturating_sub(part.len()).saturating_add(1)),
            template: None,
        };
        let dashed = inner.strip_prefix('-').unwrap_or(inner);
        if dashed.starts_with('\t') {
            return Some(at(dashed));
        }
        let template = |part: &'a str| Suspect {
            template: Some(part),
            ..at(part)
        };
        if TEMPLATES.iter().any(|begin| inner.starts_with(begin)) {
            return Some(template(inner));
        }
        let (_, value) = inner.split_once(": ")?;
        let value = value.trim_start();
        // A plain text may begin with a dollar.
        let begins = TEMPLATES.iter().filter(|begin| **begin != "${");
        let is_template = begins.into_iter().any(|begin| value.starts_with(begin));
        is_template.then(|| template(value))
    }
}

impl<'a> Iterator for Suspects<'a> {
    type Item = Suspect<'a>;

    fn next(&mut self) -> Option<Suspect<'a>> {
        loop {
            let (index, line) = self.lines.next()?;
            if let Some(suspect) = self.of_line(index, line) {
                return Some(suspect);
            }
        }
    }
}

/// True if a block scalar begins after this line: it ends in `|` or `>`, possibly with indentation and
/// chomping indicators (`|-`, `>2`).
fn begins_block(content: &str) -> bool {
    let content = content.split(" #").next().unwrap_or_default().trim_end();
    let indicator = content.trim_end_matches(|c: char| c.is_ascii_digit() || c == '+' || c == '-');
    let Some(before) = indicator.strip_suffix(['|', '>']) else {
        return false;
    };
    before.is_empty() || before.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, line: u32) -> String {
        let problem = Problem {
            line,
            column: 1,
            ..Problem::of_file("not YAML: it is not")
        };
        let problem = explained(text, problem);
        let what = ["a tab", "a template"];
        let what = what.iter().find(|what| problem.message.contains(**what));
        format!(
            "{}:{} {}",
            problem.line,
            problem.column,
            what.unwrap_or(&"-")
        )
    }

    #[test]
    fn what_the_parser_stumbled_over_is_named() {
        for (text, line, expected) in [
            ("a:\n\tb: 1\n", 2, "2:1 a tab"),
            ("a:\n  b: 1\n  \tc: 1\n", 3, "3:3 a tab"),
            ("a:\n-\tb: 1\n", 2, "2:2 a tab"),
            (
                "{{- if .Values.a }}\na: 1\n{{- end }}\n",
                2,
                "1:1 a template",
            ),
            ("a:\n  b: {{ .Values.b }}\n", 2, "2:6 a template"),
            ("a:\n  - {{ .Values.b }}\n", 2, "2:5 a template"),
            ("a:\n  {% for b in c %}\n", 2, "2:3 a template"),
            ("a:\n  b: 1\n  ${C}\n", 3, "3:3 a template"),
            // Neither is wrong where a text stands, nor behind what is.
            ("a: |\n  {{ b }}\n  \tc\nd: [\n", 5, "5:1 -"),
            ("a: >-\n  ${b}\n[\n", 3, "3:1 -"),
            ("# {{ a }}\nb: [\n", 3, "3:1 -"),
            ("a: [\nb: c\nd: e\n{{ f }}\n", 2, "2:1 -"),
        ] {
            assert_eq!(found(text, line), expected, "{text}");
        }
    }
}
