//! `ConfigMap`s and `Secret`s that stand in manifests themselves.
//!
//! They serve the Pods of their namespace that come from the same source, and never come from an API
//! server. What a Pod refers to is part of the Pod: another content makes another UID, so another Pod.

mod attach;
mod pull_secrets;
pub(super) mod references;
mod stored;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decode::{check_metadata, kind_of};
use super::document::Document;
use super::validate::is_dns_subdomain;
use super::{Problem, add, path};

pub use attach::{attach, attach_packed, with};
pub use pull_secrets::{PullSecret, PullSecrets};
pub use references::{
    Missing, User, container_start_errors, missing, start_errors, volume_start_errors,
};
pub(super) use references::{UsedObject, used};
pub(crate) use stored::StoredEntries;

/// As much as the API lets an object hold.
const MAX_SIZE: usize = 1 << 20;
/// As long as a key may be.
const MAX_KEY: usize = 253;

/// Data of a `ConfigMap` or `Secret`: keys and bytes.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ObjectKind {
    /// Settings.
    ConfigMap,
    /// Confidential data.
    Secret,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// `ConfigMap` or `Secret`.
    pub kind: ObjectKind,
    /// The namespace, `default` unless the manifest says otherwise.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        write!(f, "{kind} {namespace}/{name}")
    }
}

/// Content of a `ConfigMap` or `Secret`. Its `Debug` form does not show it.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectContent {
    /// The type of a `Secret`; empty where it has none.
    pub secret_type: Arc<str>,
    /// Data of the object.
    pub entries: Arc<Entries>,
}

impl fmt::Debug for ObjectContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectContent")
            .field("secret_type", &self.secret_type)
            .finish_non_exhaustive()
    }
}

/// A `ConfigMap` or `Secret` as a manifest has it. Its `Debug` form does not show what it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// Which it is.
    pub key: ObjectKey,
    /// Content of the object.
    pub content: ObjectContent,
    /// Warnings about the object.
    pub warnings: Vec<Problem>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.key, f)
    }
}

/// The objects of one source.
pub type ObjectSet = BTreeMap<ObjectKey, ObjectContent>;

/// The objects that one Pod refers to, by name: each either there, or missing.
///
/// Never shows a Secret's content in its `Debug` form.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// `ConfigMap`s; `None` where no manifest has one of this name.
    pub config_maps: BTreeMap<String, Option<Arc<Entries>>>,
    /// `Secret`s; `None` where no manifest has one of this name.
    pub secrets: BTreeMap<String, Option<Arc<Entries>>>,
    /// `Secret`s of `imagePullSecrets`; `None` where no manifest has one of this name. They are no part of a version:
    /// another content counts at the next pull.
    pub pull_secrets: BTreeMap<String, Option<ObjectContent>>,
}

impl Objects {
    /// The content of a `ConfigMap`, if there is one of this name.
    #[must_use]
    pub fn config_map(&self, name: &str) -> Option<&Entries> {
        self.config_maps.get(name)?.as_deref()
    }

    /// The content of a `Secret`, if there is one of this name.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<&Entries> {
        self.secrets.get(name)?.as_deref()
    }

    fn get(&self, kind: ObjectKind, name: &str) -> Option<&Entries> {
        match kind {
            ObjectKind::ConfigMap => self.config_map(name),
            ObjectKind::Secret => self.secret(name),
        }
    }

    /// True if the Pod refers to no objects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.has_no_data() && self.pull_secrets.is_empty()
    }

    /// True if the Pod refers to no objects for its variables and volumes.
    fn has_no_data(&self) -> bool {
        self.config_maps.is_empty() && self.secrets.is_empty()
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .field("pull_secrets", &self.pull_secrets.keys())
            .finish()
    }
}

/// The kind of object that a document is, if it is one of the two.
pub(super) fn object_kind(document: &Document) -> Option<ObjectKind> {
    match document.value["kind"].as_str()? {
        "ConfigMap" => Some(ObjectKind::ConfigMap),
        "Secret" => Some(ObjectKind::Secret),
        _ => None,
    }
}

/// Key of the object that a document describes, as far as it can be read.
pub(super) fn object_key(document: &Document) -> Option<ObjectKey> {
    let metadata = &document.value["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
    let namespace = metadata["namespace"].as_str().filter(|n| !n.is_empty());
    Some(ObjectKey {
        kind: object_kind(document)?,
        namespace: namespace.unwrap_or("default").to_owned(),
        name: name.to_owned(),
    })
}

/// Reads a `ConfigMap` or `Secret`. No message shows what it holds.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn read_object(document: &Document, kind: ObjectKind) -> Result<Object, Vec<Problem>> {
    let (mut problems, warnings) = check_metadata(document);
    problems.extend(document.spans.repeated(|_| true));
    let mut reader = ObjectReader {
        document,
        entries: Entries::new(),
        problems,
        warnings,
    };
    reader.head();
    reader.fields(kind);
    let size: usize = reader
        .entries
        .iter()
        .map(|(k, v)| k.len().saturating_add(v.len()))
        .fold(0, usize::saturating_add);
    if size > MAX_SIZE {
        let message = format!("holds {size} bytes, expected at most {MAX_SIZE}");
        reader.refuse("", message);
    }
    if kind == ObjectKind::Secret {
        reader.pull_secret();
    }
    match object_key(document).filter(|_| reader.problems.is_empty()) {
        Some(key) => Ok(Object {
            key,
            content: ObjectContent {
                secret_type: reader.secret_type().into(),
                entries: Arc::new(reader.entries),
            },
            warnings: reader.warnings,
        }),
        None => Err(reader.problems),
    }
}

struct ObjectReader<'a> {
    document: &'a Document,
    entries: Entries,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl ObjectReader<'_> {
    fn refuse(&mut self, field: &str, message: impl Into<String>) {
        let problem = self.document.spans.problem(field, message);
        add(&mut self.problems, problem);
    }

    /// The type of a `Secret`; empty where it has none.
    fn secret_type(&self) -> &str {
        self.document.value["type"].as_str().unwrap_or_default()
    }

    /// Checks the credentials for registries that a `Secret` of their types has.
    fn pull_secret(&mut self) {
        let checked = pull_secrets::check(self.secret_type(), &self.entries);
        let data = self.document.value["stringData"].as_object();
        for (key, finding) in checked {
            let is_text = data.is_some_and(|data| data.contains_key(key));
            let field = path::key(if is_text { "stringData" } else { "data" }, key);
            match finding {
                Ok(warning) => {
                    let problem = self.document.spans.problem(&field, warning);
                    add(&mut self.warnings, problem.warning());
                }
                Err(message) => self.refuse(&field, message),
            }
        }
    }

    fn head(&mut self) {
        let value = &self.document.value;
        if value["apiVersion"] != "v1" {
            let message = format!("found {}, expected \"v1\"", value["apiVersion"]);
            self.refuse("apiVersion", message);
        }
        let metadata = &value["metadata"];
        match &metadata["name"] {
            Value::String(name) if is_dns_subdomain(name) => {}
            Value::String(name) => {
                let message = format!(
                    "found {name:?}, expected at most 253 lower-case letters, digits, '-' and '.'"
                );
                self.refuse("metadata.name", message);
            }
            Value::Null => self.refuse("metadata.name", "missing, expected the object's name"),
            // That it is of another type is reported already.
            _ => {}
        }
        let namespace = &metadata["namespace"];
        let label = |n: &str| n.len() <= 63 && !n.contains('.') && is_dns_subdomain(n);
        if namespace
            .as_str()
            .is_some_and(|n| !n.is_empty() && !label(n))
        {
            let message = format!("found {namespace}, expected the name of a namespace");
            self.refuse("metadata.namespace", message);
        }
    }

    fn fields(&mut self, kind: ObjectKind) {
        let document = self.document;
        for (name, value) in document.value.as_object().into_iter().flatten() {
            match (name.as_str(), kind) {
                // stringData comes after data, since it wins.
                ("apiVersion" | "kind" | "metadata", _) | ("stringData", ObjectKind::Secret) => {}
                ("type", ObjectKind::Secret) if value.is_string() || value.is_null() => {}
                ("type", ObjectKind::Secret) => {
                    let message = format!("found {}, expected a string", kind_of(value));
                    self.refuse(name, message);
                }
                ("immutable", _) if value.is_boolean() || value.is_null() => {}
                ("immutable", _) => {
                    let message = format!("found {}, expected true or false", kind_of(value));
                    self.refuse(name, message);
                }
                ("data", ObjectKind::ConfigMap) => self.take("data", value, plain),
                ("binaryData", ObjectKind::ConfigMap) => self.take("binaryData", value, decoded),
                ("data", ObjectKind::Secret) => self.take("data", value, decoded),
                _ => {
                    let message = "unknown field, it has no effect";
                    let problem = document
                        .spans
                        .problem_with_key(path::key("", name), message);
                    add(&mut self.warnings, problem.warning());
                }
            }
        }
        if kind == ObjectKind::ConfigMap {
            let texts = document.value["data"].as_object();
            let texts = texts.into_iter().flatten().map(|(key, _)| key);
            for key in texts.filter(|key| !document.value["binaryData"][*key].is_null()) {
                let at = path::key("binaryData", key);
                self.refuse(&at, "found in data as well, expected each key once");
            }
        }
        if kind == ObjectKind::Secret {
            self.take("stringData", &document.value["stringData"], plain);
        }
    }

    fn take(&mut self, field: &str, value: &Value, read: fn(&str) -> Result<Vec<u8>, String>) {
        let Value::Object(map) = value else {
            if !value.is_null() {
                let message = format!("found {}, expected keys with texts", kind_of(value));
                self.refuse(field, message);
            }
            return;
        };
        for (key, value) in map {
            let at = path::key(field, key);
            if !is_key(key) {
                let message = "found a key with other characters than letters, digits, '-', '_' and \
                               '.', or one that is too long";
                self.refuse(&at, message);
                continue;
            }
            let read = match value {
                Value::String(text) => read(text),
                // Nothing is an empty value, as in the API.
                Value::Null => Ok(vec![]),
                other => Err(format!(
                    "found {}, expected a text: put it in quotes",
                    kind_of(other)
                )),
            };
            match read {
                Ok(bytes) => {
                    self.entries.insert(key.clone(), bytes);
                }
                Err(message) => self.refuse(&at, message),
            }
        }
    }
}

fn is_key(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let reserved = key == "." || key.starts_with("..");
    !key.is_empty() && key.len() <= MAX_KEY && !reserved && key.chars().all(plain)
}

#[allow(clippy::unnecessary_wraps, reason = "one of two ways to read a value")]
fn plain(text: &str) -> Result<Vec<u8>, String> {
    Ok(text.as_bytes().to_vec())
}

fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let joined: String = text.split_ascii_whitespace().collect();
    let wrong = |_| "found no base64, expected base64; plain texts stand in stringData".to_owned();
    STANDARD.decode(joined).map_err(wrong)
}
