//! The report of `podkeeper check` in each of its formats.

use std::fmt::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::manifest::Problem;
use crate::text::printable_json;

/// Format of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckFormat {
    /// A line for each finding, as compilers write them
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0, as code scanning services read it
    Sarif,
    /// Workflow commands of GitHub Actions
    Github,
}

/// The rule that a finding breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckRule {
    /// Meaning of a manifest to podkeeper.
    Manifest,
    /// Meaning of a manifest to a kubelet.
    Kubelet,
}

/// An error or a warning.
#[derive(Debug)]
pub(super) struct CheckFinding {
    problem: Problem,
    is_error: bool,
    rule: CheckRule,
}

/// A line of the report.
#[derive(Debug)]
pub(super) enum CheckEntry {
    CheckFinding(CheckFinding),
    /// A valid Pod or object.
    Valid(String),
}

/// The results of one file.
#[derive(Debug)]
pub(super) struct CheckedFile {
    pub(super) path: String,
    pub(super) entries: Vec<CheckEntry>,
}

/// The results of all files.
#[derive(Debug)]
pub(super) struct CheckReport {
    /// Directories without manifests.
    pub(super) empty: Vec<PathBuf>,
    pub(super) files: Vec<CheckedFile>,
}

impl CheckFinding {
    pub(super) fn new(problem: Problem, is_error: bool, rule: CheckRule) -> Self {
        Self {
            problem,
            is_error,
            rule,
        }
    }

    fn word(&self) -> &'static str {
        if self.is_error { "error" } else { "warning" }
    }

    /// Returns the field's path and the message.
    fn message(&self) -> String {
        let Problem { field, message, .. } = &self.problem;
        match field.as_str() {
            "" => message.clone(),
            field => format!("{field}: {message}"),
        }
    }
}

impl CheckRule {
    fn id(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Kubelet => "kubelet-difference",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Manifest => "Manifests are valid static Pods, and every field has an effect",
            Self::Kubelet => "Manifests mean the same to podkeeper and to a kubelet",
        }
    }
}

impl CheckedFile {
    fn findings(&self) -> impl Iterator<Item = &CheckFinding> {
        self.entries.iter().filter_map(|entry| match entry {
            CheckEntry::CheckFinding(finding) => Some(finding),
            CheckEntry::Valid(_) => None,
        })
    }

    fn valid(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry {
            CheckEntry::CheckFinding(_) => None,
            CheckEntry::Valid(what) => Some(what.as_str()),
        })
    }
}

impl CheckReport {
    /// Returns the number of errors.
    pub(super) fn errors(&self) -> usize {
        self.findings().filter(|(_, f)| f.is_error).count()
    }

    fn warnings(&self) -> usize {
        self.findings().filter(|(_, f)| !f.is_error).count()
    }

    fn findings(&self) -> impl Iterator<Item = (&CheckedFile, &CheckFinding)> {
        let files = self.files.iter();
        files.flat_map(|file| file.findings().map(move |finding| (file, finding)))
    }

    /// Returns a summary of one line.
    pub(super) fn summary(&self) -> String {
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        let valid: usize = self.files.iter().map(|file| file.valid().count()).sum();
        let parts = [
            count(self.files.len(), "file"),
            format!("{valid} valid"),
            count(self.errors(), "error"),
            count(self.warnings(), "warning"),
        ];
        format!("Checked {}: {}", parts[0], parts[1..].join(", "))
    }

    /// Returns the report in a format.
    ///
    /// # Errors
    /// JSON cannot be written, which does not happen.
    pub(super) fn text(&self, format: CheckFormat) -> anyhow::Result<String> {
        Ok(match format {
            CheckFormat::Text => self.lines()?,
            CheckFormat::Json => {
                printable_json(&serde_json::to_string_pretty(&self.json())?) + "\n"
            }
            CheckFormat::Sarif => {
                printable_json(&serde_json::to_string_pretty(&self.sarif())?) + "\n"
            }
            CheckFormat::Github => self.github(),
        })
    }

    fn lines(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        for folder in &self.empty {
            writeln!(text, "{}: good: no manifests", folder.display())?;
        }
        for file in &self.files {
            let path = &file.path;
            for entry in &file.entries {
                let finding = match entry {
                    CheckEntry::Valid(what) => {
                        writeln!(text, "{path}: good: {what}")?;
                        continue;
                    }
                    CheckEntry::CheckFinding(finding) => finding,
                };
                let (word, message) = (finding.word(), finding.message());
                match finding.problem.line {
                    0 => writeln!(text, "{path}: {word}: {message}")?,
                    line => {
                        let column = finding.problem.column;
                        writeln!(text, "{path}:{line}:{column}: {word}: {message}")?;
                    }
                }
            }
            if file.entries.is_empty() {
                writeln!(text, "{path}: good: no Pods")?;
            }
        }
        Ok(text)
    }

    fn json(&self) -> Value {
        let finding = |finding: &CheckFinding| {
            let Problem {
                line,
                column,
                field,
                message,
                ..
            } = &finding.problem;
            json!({
                "severity": finding.word(), "rule": finding.rule.id(), "line": line, "column": column,
                "field": field, "message": message,
            })
        };
        let file = |file: &CheckedFile| {
            json!({
                "path": file.path,
                "valid": file.valid().collect::<Vec<_>>(),
                "findings": file.findings().map(finding).collect::<Vec<_>>(),
            })
        };
        json!({
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
            "errors": self.errors(),
            "warnings": self.warnings(),
        })
    }

    /// Returns a log of the Static Analysis Results Interchange Format (OASIS, SARIF 2.1.0).
    fn sarif(&self) -> Value {
        let rules = [CheckRule::Manifest, CheckRule::Kubelet]
            .map(|rule| json!({"id": rule.id(), "shortDescription": {"text": rule.description()}}));
        let result = |(file, finding): (&CheckedFile, &CheckFinding)| {
            let mut place = json!({"artifactLocation": {"uri": uri(&file.path)}});
            if finding.problem.line > 0 {
                let Problem { line, column, .. } = finding.problem;
                place["region"] = json!({"startLine": line, "startColumn": column});
            }
            json!({
                "ruleId": finding.rule.id(), "level": finding.word(),
                "message": {"text": finding.message()},
                "locations": [{"physicalLocation": place}],
            })
        };
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "podkeeper", "version": env!("CARGO_PKG_VERSION"), "rules": rules,
                }},
                "columnKind": "unicodeCodePoints",
                "results": self.findings().map(result).collect::<Vec<_>>(),
            }],
        })
    }

    /// Returns the findings as GitHub's workflow commands, which show them at their lines of a pull request.
    fn github(&self) -> String {
        let line = |(file, finding): (&CheckedFile, &CheckFinding)| {
            let (word, path) = (finding.word(), property(&file.path));
            let place = match finding.problem.line {
                0 => String::new(),
                line => format!(",line={line},col={}", finding.problem.column),
            };
            format!(
                "::{word} file={path}{place}::{}\n",
                data(&finding.message())
            )
        };
        self.findings().map(line).collect()
    }
}

/// Escapes the message of a workflow command.
fn data(text: &str) -> String {
    let text = text.replace('%', "%25");
    text.replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Returns a path as a relative or absolute reference (RFC 3986): what is not allowed in one is percent-encoded.
fn uri(path: &str) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&byte);
    let mut uri = if path.starts_with('/') {
        "file://".to_owned()
    } else {
        String::new()
    };
    for byte in path.strip_prefix("./").unwrap_or(path).bytes() {
        if allowed(byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> CheckReport {
        let problem = Problem {
            line: 3,
            column: 7,
            field: "spec.x".to_owned(),
            message: "found 100%,\nexpected: less".to_owned(),
            ..Problem::default()
        };
        let finding = |is_error, rule| {
            CheckEntry::CheckFinding(CheckFinding::new(problem.clone(), is_error, rule))
        };
        let of_file = CheckFinding::new(Problem::of_file("empty"), true, CheckRule::Manifest);
        let file = |path: &str, entries| CheckedFile {
            path: path.to_owned(),
            entries,
        };
        CheckReport {
            empty: vec!["none".into()],
            files: vec![
                file(
                    "./a b,c.yaml",
                    vec![
                        finding(true, CheckRule::Manifest),
                        finding(false, CheckRule::Kubelet),
                    ],
                ),
                file("/m/d.yaml", vec![CheckEntry::CheckFinding(of_file)]),
                file(
                    "e.yaml",
                    vec![CheckEntry::Valid("Pod default/e-n1".to_owned())],
                ),
                file("f.yaml", vec![]),
            ],
        }
    }

    #[test]
    fn the_text_has_a_line_for_each_finding_and_the_summary_counts_them() {
        let text = report().text(CheckFormat::Text).unwrap();
        let expected = "none: good: no manifests\n\
            ./a b,c.yaml:3:7: error: spec.x: found 100%,\nexpected: less\n\
            ./a b,c.yaml:3:7: warning: spec.x: found 100%,\nexpected: less\n\
            /m/d.yaml: error: empty\n\
            e.yaml: good: Pod default/e-n1\n\
            f.yaml: good: no Pods\n";
        assert_eq!(text, expected);
        let expected = "Checked 4 files: 1 valid, 2 errors, 1 warning";
        assert_eq!(report().summary(), expected);
    }

    #[test]
    fn github_gets_commands_with_what_would_end_them_escaped() {
        let text = report().text(CheckFormat::Github).unwrap();
        let said = "spec.x: found 100%25,%0Aexpected: less";
        let expected = format!(
            "::error file=./a b%2Cc.yaml,line=3,col=7::{said}\n\
             ::warning file=./a b%2Cc.yaml,line=3,col=7::{said}\n\
             ::error file=/m/d.yaml::empty\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_every_file_and_finding() {
        let text = report().text(CheckFormat::Json).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["errors"], &json["warnings"]), (&json!(2), &json!(1)));
        let expected = json!({
            "severity": "warning", "rule": "kubelet-difference", "line": 3, "column": 7,
            "field": "spec.x", "message": "found 100%,\nexpected: less",
        });
        assert_eq!(json["files"][0]["findings"][1], expected);
        let expected = json!({"path": "e.yaml", "valid": ["Pod default/e-n1"], "findings": []});
        assert_eq!(json["files"][2], expected);
    }

    #[test]
    fn sarif_has_a_result_for_each_finding_at_its_place() {
        let text = report().text(CheckFormat::Sarif).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let results = json["runs"][0]["results"].as_array().unwrap();
        let levels: Vec<&Value> = results.iter().map(|result| &result["level"]).collect();
        assert_eq!(levels, ["error", "warning", "error"]);
        let place = |result: &Value| result["locations"][0]["physicalLocation"].clone();
        let expected = json!({
            "artifactLocation": {"uri": "a%20b,c.yaml"},
            "region": {"startLine": 3, "startColumn": 7},
        });
        assert_eq!(place(&results[0]), expected);
        let whole = json!({"artifactLocation": {"uri": "file:///m/d.yaml"}});
        assert_eq!(place(&results[2]), whole);
        let rules = json["runs"][0]["tool"]["driver"]["rules"]
            .as_array()
            .unwrap();
        let known = |result: &Value| rules.iter().any(|rule| rule["id"] == result["ruleId"]);
        assert!(results.iter().all(known), "{text}");
    }
}
