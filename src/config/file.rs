//! `KubeletConfiguration` files: a main one, and drop-ins that win over it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::manifest::document::{self, Document};
use crate::manifest::{Problem, path};
use crate::units::duration::parse_duration;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A text; the empty one does not leave the default, but says that there is to be none.
    TextOrNone,
    Texts,
    /// Header names with lists of values.
    Headers,
    Duration,
    Count,
    /// A number from 0, which means none, to 65535.
    Port,
    /// A number of this much or more, which 0 does not leave at its default.
    AtLeast(u64),
    /// The same from 0 to 100.
    Percent,
    Bool,
    /// Taints of a Node, each an object.
    Taints,
    OneOf(&'static [&'static str]),
}

/// The fields that are carried out.
pub(super) const FIELDS: [(&str, Kind); 45] = [
    ("staticPodPath", Kind::Text),
    ("fileCheckFrequency", Kind::Duration),
    ("staticPodURL", Kind::Text),
    ("staticPodURLHeader", Kind::Headers),
    ("httpCheckFrequency", Kind::Duration),
    ("containerRuntimeEndpoint", Kind::Text),
    ("podLogsDir", Kind::Text),
    ("containerLogMaxSize", Kind::Text),
    ("containerLogMaxFiles", Kind::AtLeast(2)),
    ("containerLogMonitorInterval", Kind::Duration),
    ("imageGCHighThresholdPercent", Kind::Percent),
    ("imageGCLowThresholdPercent", Kind::Percent),
    ("imageMinimumGCAge", Kind::Duration),
    ("imageMaximumGCAge", Kind::Duration),
    ("clusterDNS", Kind::Texts),
    ("clusterDomain", Kind::Text),
    ("resolvConf", Kind::TextOrNone),
    ("cgroupDriver", Kind::OneOf(&["cgroupfs", "systemd"])),
    ("seccompDefault", Kind::Bool),
    ("rotateCertificates", Kind::Bool),
    ("allowedUnsafeSysctls", Kind::Texts),
    ("maxPods", Kind::Count),
    ("port", Kind::Port),
    ("tlsCertFile", Kind::Text),
    ("tlsPrivateKeyFile", Kind::Text),
    (
        "tlsMinVersion",
        Kind::OneOf(&["VersionTLS12", "VersionTLS13"]),
    ),
    ("tlsCipherSuites", Kind::Texts),
    ("registerNode", Kind::Bool),
    ("registerWithTaints", Kind::Taints),
    ("nodeLeaseDurationSeconds", Kind::Count),
    ("authentication.anonymous.enabled", Kind::Bool),
    ("authentication.webhook.enabled", Kind::Bool),
    ("authentication.webhook.cacheTTL", Kind::Duration),
    ("authentication.x509.clientCAFile", Kind::Text),
    (
        "authorization.mode",
        Kind::OneOf(&["AlwaysAllow", "Webhook"]),
    ),
    ("authorization.webhook.cacheAuthorizedTTL", Kind::Duration),
    ("authorization.webhook.cacheUnauthorizedTTL", Kind::Duration),
    ("streamingConnectionIdleTimeout", Kind::Duration),
    ("readOnlyPort", Kind::Port),
    ("address", Kind::Text),
    ("healthzPort", Kind::Port),
    ("healthzBindAddress", Kind::Text),
    ("crashLoopBackOff.maxContainerRestartPeriod", Kind::Duration),
    ("logging.format", Kind::OneOf(&["text", "json"])),
    ("logging.verbosity", Kind::Count),
];

/// One field as it is set, and by what.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    pub(super) value: Value,
    /// The file.
    pub(super) file: PathBuf,
    /// `file:line:column: field`.
    pub(super) place: String,
}

/// All that the files say.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    /// The fields that are carried out.
    given: BTreeMap<&'static str, Given>,
    /// Those that are not, with what was probably meant.
    pub(super) ignored: Vec<String>,
}

impl Files {
    /// Reads the main file and the drop-ins.
    ///
    /// # Errors
    /// A file cannot be read, or something in it is wrong: every problem with its place.
    pub(super) fn read(main: Option<&Path>, folder: Option<&Path>) -> anyhow::Result<Self> {
        let mut files = Self::default();
        for file in main
            .map(Path::to_owned)
            .into_iter()
            .chain(drop_ins(folder)?)
        {
            files.add(&file)?;
        }
        files.ignored.sort();
        files.ignored.dedup();
        Ok(files)
    }

    pub(super) fn get(&self, field: &str) -> Option<&Given> {
        self.given.get(field)
    }

    /// Takes in one file, which wins over those before it.
    fn add(&mut self, file: &Path) -> anyhow::Result<()> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let document = document::read_one(&bytes, KIND);
        let problems = document.and_then(|document| {
            let problems = self.take(file, &document);
            if problems.is_empty() {
                Ok(())
            } else {
                Err(problems)
            }
        });
        if let Err(problems) = problems {
            let lines = problems.iter().map(|problem| place(file, problem));
            bail!("{}", lines.collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }

    fn take(&mut self, file: &Path, document: &Document) -> Vec<Problem> {
        let mut problems = check_kind(document);
        if !problems.is_empty() {
            return problems;
        }
        for (field, value) in leaves(&document.value) {
            let known = FIELDS.iter().find(|(known, _)| *known == field);
            let Some((known, kind)) = known else {
                self.ignored.push(ignored(&field));
                continue;
            };
            // As the kubelet has it: nothing, zero and, for most, the empty text leave the default.
            if value.is_null() || (value == "" && *kind != Kind::TextOrNone) {
                continue;
            }
            match check(value, *kind) {
                Err(message) => problems.push(document.spans.problem(&field, message)),
                Ok(false) => {}
                Ok(true) => self.set(known, value, file, document),
            }
        }
        problems
    }

    fn set(&mut self, field: &'static str, value: &Value, file: &Path, document: &Document) {
        let place = place(file, &document.spans.problem(field, ""));
        let mut given = Given {
            value: value.clone(),
            file: file.to_owned(),
            place: place.trim_end_matches([':', ' ']).to_owned(),
        };
        // Of an object, each key wins for itself.
        if let (Some(before), Value::Object(new)) = (self.given.remove(field), &mut given.value)
            && let Value::Object(mut all) = before.value
        {
            all.append(new);
            *new = all;
        }
        self.given.insert(field, given);
    }
}

/// `*.conf`, by name.
fn drop_ins(folder: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let Some(folder) = folder else {
        return Ok(vec![]);
    };
    let wrong = || format!("--config-dir: cannot read {}", folder.display());
    let mut files = vec![];
    for entry in fs::read_dir(folder).with_context(wrong)? {
        let path = entry.with_context(wrong)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A problem as a compiler would write it.
fn place(file: &Path, problem: &Problem) -> String {
    let gap = if problem.line == 0 { ": " } else { ":" };
    format!("{}{gap}{problem}", file.display())
}

fn check_kind(document: &Document) -> Vec<Problem> {
    if !document.value.is_object() {
        let message = format!("expected a {KIND} (an object with apiVersion and kind)");
        return vec![document.spans.problem("", message)];
    }
    let mut problems = vec![];
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let message = match &document.value[field] {
            Value::String(found) if found == expected => continue,
            Value::Null => format!("missing, expected {expected:?}"),
            found => format!("found {found}, expected {expected:?}"),
        };
        problems.push(document.spans.problem(field, message));
    }
    problems
}

/// The fields with their paths: an object of which only some fields are carried out is taken field by
/// field, all else as it is.
fn leaves(value: &Value) -> Vec<(String, &Value)> {
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, _)| !["kind", "apiVersion"].contains(&name.as_str()));
    let mut leaves = vec![];
    for (name, value) in fields {
        add_leaves(path::key("", name), value, &mut leaves);
    }
    leaves
}

fn add_leaves<'a>(path: String, value: &'a Value, leaves: &mut Vec<(String, &'a Value)>) {
    let within = |known: &str| {
        known
            .strip_prefix(&path)
            .is_some_and(|k| k.starts_with('.'))
    };
    match value {
        Value::Object(inner) if FIELDS.iter().any(|(known, _)| within(known)) => {
            for (name, value) in inner {
                add_leaves(path::key(&path, name), value, leaves);
            }
        }
        _ => leaves.push((path, value)),
    }
}

fn ignored(field: &str) -> String {
    let likeness = |known: &&str| strsim::damerau_levenshtein(known, field);
    let known = FIELDS.iter().map(|(known, _)| *known);
    match known.min_by_key(likeness) {
        Some(known) if likeness(&known) <= 2 => format!("{field} (did you mean {known}?)"),
        _ => field.to_owned(),
    }
}

/// Whether a value says something, of the right type.
fn check(value: &Value, kind: Kind) -> Result<bool, String> {
    let wrong = |expected: &str| Err(format!("found {value}, expected {expected}"));
    match (kind, value) {
        (Kind::Text | Kind::TextOrNone, Value::String(_)) | (Kind::Bool, Value::Bool(_)) => {
            Ok(true)
        }
        (Kind::Text | Kind::TextOrNone, _) => wrong("a string"),
        (Kind::Texts, Value::Array(list)) if list.iter().all(Value::is_string) => {
            Ok(!list.is_empty())
        }
        (Kind::Texts, _) => wrong("a list of strings"),
        (Kind::Headers, Value::Object(map)) => {
            let texts = |v: &Value| v.as_array().is_some_and(|l| l.iter().all(Value::is_string));
            if map.values().all(texts) {
                return Ok(!map.is_empty());
            }
            // Without the values, which may be secrets.
            Err("expected a list of strings for each header".to_owned())
        }
        (Kind::Headers, _) => Err("expected headers with lists of values".to_owned()),
        (Kind::Duration, Value::String(text)) => Ok(!parse_duration(text)?.is_zero()),
        (Kind::Duration, _) => wrong("a duration such as 20s or 1m30s"),
        (Kind::Count, Value::Number(n)) if n.as_u64().is_some() => Ok(n.as_u64() != Some(0)),
        (Kind::Count, _) => wrong("a number, 0 or more"),
        (Kind::Port, Value::Number(n)) if n.as_u64().is_some_and(|n| n <= 65535) => Ok(true),
        (Kind::Port, _) => wrong("a port, 0 to 65535"),
        (Kind::AtLeast(least), Value::Number(n)) if n.as_u64().is_some_and(|n| n >= least) => {
            Ok(true)
        }
        (Kind::AtLeast(least), _) => wrong(&format!("a number, {least} or more")),
        (Kind::Percent, Value::Number(n)) if n.as_u64().is_some_and(|n| n <= 100) => Ok(true),
        (Kind::Percent, _) => wrong("a number from 0 to 100"),
        (Kind::Bool, _) => wrong("true or false"),
        (Kind::Taints, Value::Array(list)) if list.iter().all(is_taint) => Ok(true),
        (Kind::Taints, _) => wrong("a list of taints with key, value and effect"),
        (Kind::OneOf(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(true),
        (Kind::OneOf(words), _) => wrong(&format!("one of {}", words.join(", "))),
    }
}

/// Whether this is a taint as far as its form goes: a key and an effect, with a value or without.
fn is_taint(value: &Value) -> bool {
    value["key"].is_string()
        && value["effect"].is_string()
        && (value["value"].is_null() || value["value"].is_string())
}
