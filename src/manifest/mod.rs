//! Bytes to static Pods: decode, default, validate, identify.
//!
//! Pure: nothing here reads a file or the clock. The invariant is that a [`StaticPod`] can be
//! carried out as it stands, and that its UID depends on the document as written and on the node's
//! name alone.

mod decode;
mod defaults;
pub(crate) mod docker_config;
pub(crate) mod document;
pub(crate) mod expansion;
mod fields;
mod hints;
mod identity;
mod kubelet_differences;
mod list;
#[cfg(test)]
mod numbers;
pub mod objects;
mod packed_pod;
pub(crate) mod path;
pub mod priority;
mod requests;
mod schema;
mod spans;
mod spelling;
mod start_after;
mod static_pod;
mod validate;
pub(crate) mod volumes;
mod written;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use decode::{Decoded, Suggestion};
use document::Document;

pub use kubelet_differences::kubelet_differences;
pub use packed_pod::PackedPod;
pub use requests::{all_containers, is_sidecar};
pub use start_after::{START_AFTER, START_AFTER_TIMEOUT, StartAfter};
pub use static_pod::{ContainerRole, PullPolicy, RestartPolicy, StaticPod, Uid};
pub use written::WrittenDocument;

pub use list::{Manifest, ObjectEntry, Parsed, PodEntry, parse_all, parse_file};
pub(crate) use validate::{
    LABEL_VALUE, QUALIFIED_NAME, is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name,
};

/// Nobody mends more problems than this at once.
const MAX_PROBLEMS: usize = 100;
/// Longer texts are not shown whole in messages.
const SHOWN: usize = 100;

/// The annotation with which a Pod has an update taken back that is not Ready within a duration.
pub const ROLLBACK_AFTER: &str = "podkeeper.io/rollback-after";

/// Annotation with the kind of source.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// Which Pod: its namespace and its full name, which ends in the node's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodKey {
    /// The namespace, `default` unless the manifest says otherwise.
    pub namespace: String,
    /// `NAME-NODENAME`.
    pub name: String,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Severity {
    /// The manifest is refused.
    #[default]
    Error,
    /// The manifest is accepted, but a value may not be what was meant.
    Warning,
}

/// An error or a warning at one position of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problem {
    /// Severity of the problem.
    pub severity: Severity,
    /// Line, from 1; 0 if there is no position.
    pub line: u32,
    /// Column in characters, from 1; 0 if there is no position.
    pub column: u32,
    /// Path of the field as Kubernetes writes it, `spec.containers[0].image`; empty for the whole.
    pub field: String,
    /// The message: the value found, the value expected, and the way to fix it.
    pub message: String,
}

/// An accepted manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The Pod.
    pub pod: Arc<StaticPod>,
    /// Warnings, which do not keep the Pod from running.
    pub warnings: Vec<Problem>,
}

/// Kind of a manifest's source, as `kubernetes.io/config.source` has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A file.
    #[default]
    File,
    /// A web document.
    Http,
}

/// Reads one static Pod for the node of this name.
///
/// # Errors
/// Everything that is wrong with it; what it says then has no effect at all.
pub fn parse(bytes: &[u8], node_name: &str, source: SourceKind) -> Result<Accepted, Vec<Problem>> {
    parse_document(&document::read_one(bytes, "Pod")?, node_name, source)
}

fn parse_document(
    document: &Document,
    node_name: &str,
    source: SourceKind,
) -> Result<Accepted, Vec<Problem>> {
    let Decoded {
        mut pod,
        mut problems,
        mut warnings,
        left_out,
        refused_in,
        suggestions,
    } = decode::decode(document)?;
    defaults::set_defaults(&mut pod);
    let found = validate::validate(&pod, node_name, &document.spans);
    // What is missing only because it was of another type, or refused, is not reported again.
    let is_reported = |p: &Problem| {
        left_out.iter().any(|field| path::concerns(&p.field, field))
            || refused_in.contains(&p.field)
    };
    problems.extend(found.problems.into_iter().filter(|p| !is_reported(p)));
    for suggestion in &suggestions {
        blame(suggestion, &mut problems, &mut warnings);
    }
    warnings.extend(found.warnings);
    // Of a field that is wrong it does not matter that it has no effect.
    let wrong = |w: &Problem| problems.iter().any(|p| path::is_inside(&p.field, &w.field));
    warnings.retain(|w| !wrong(w));
    warnings.sort_by_key(|p| (p.line, p.column));
    if !problems.is_empty() {
        // An unknown field may be the very reason, as a mistyped name is.
        problems.append(&mut warnings);
        problems.sort_by_key(|p| (p.line == 0, p.line, p.column));
        problems.dedup();
        return Err(problems);
    }
    let written = WrittenDocument::from(&document.value);
    let uid = identity::uid(&written, node_name);
    let key = identity::identify(&mut pod, &uid, node_name, source);
    let pod = StaticPod {
        key,
        uid: uid.into(),
        metadata: Box::new(pod.metadata),
        spec: Box::new(pod.spec.unwrap_or_default()),
        document: written,
        objects: Arc::default(),
        start_after: None,
    };
    let start_after = StartAfter::of(&pod, node_name, &document.spans);
    let pod = StaticPod {
        start_after: start_after.map(Arc::new),
        ..pod
    };
    Ok(Accepted {
        pod: Arc::new(pod),
        warnings,
    })
}

/// Attributes a missing field to the misspelled or misplaced name that explains it, so that one cause gives
/// one finding.
fn blame(suggestion: &Suggestion, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let Suggestion {
        field,
        meant,
        anywhere,
    } = suggestion;
    let missing = |problem: &Problem| {
        let at = if *anywhere {
            path::without_numbers(&problem.field)
        } else {
            problem.field.clone()
        };
        let inside = path::is_inside(&at, meant);
        let empty = ["names no source", "does nothing"];
        let empty = empty.iter().any(|words| problem.message.starts_with(words));
        inside && problem.message.starts_with("missing")
            || empty && problem.field == path::parent(meant) && !anywhere
    };
    let warning = warnings.iter().position(|w| w.field == *field);
    if let Some(at) = warning.filter(|_| problems.iter().any(missing)) {
        problems.retain(|problem| !missing(problem));
        problems.push(Problem {
            severity: Severity::Error,
            ..warnings.remove(at)
        });
    }
}

/// Adds a problem, unless there are too many already; the last one then says so.
fn add(problems: &mut Vec<Problem>, problem: Problem) {
    match problems.len() {
        ..MAX_PROBLEMS => problems.push(problem),
        MAX_PROBLEMS => problems.push(Problem::of_file("there is more, which is left out here")),
        _ => {}
    }
}

/// A text in quotes, cut if it is long.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

impl SourceKind {
    /// As the annotation has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

impl Problem {
    /// A problem with the file as a whole.
    #[must_use]
    pub fn of_file(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }

    /// The same as a warning.
    #[must_use]
    pub fn warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    /// True if the problem is a warning.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }
}

impl fmt::Display for Problem {
    /// `line:column: field: message`, without the parts that are not there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
