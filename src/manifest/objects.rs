//! `ConfigMap`s and `Secret`s that stand in manifests themselves.
//!
//! They serve the Pods of their namespace that come from the same source, and never come from an API
//! server. What a Pod refers to is part of the Pod: another content makes another UID, so another Pod.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, KeyToPath, Pod, VolumeProjection};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::decode::{check_metadata, kind_of};
use super::document::Document;
use super::expansion::too_large;
use super::validate::is_dns_subdomain;
use super::{Problem, StaticPod, add, identity, path, volumes};

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

/// A `ConfigMap` or `Secret` as a manifest has it. Its `Debug` form does not show what it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// Which it is.
    pub key: ObjectKey,
    /// Data of the object.
    pub entries: Arc<Entries>,
    /// Warnings about the object.
    pub warnings: Vec<Problem>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.key, f)
    }
}

/// The objects of one source.
pub type ObjectSet = BTreeMap<ObjectKey, Arc<Entries>>;

/// The objects that one Pod refers to, by name: each either there, or missing.
///
/// Never shows a Secret's content in its `Debug` form.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// `ConfigMap`s; `None` where no manifest has one of this name.
    pub config_maps: BTreeMap<String, Option<Arc<Entries>>>,
    /// `Secret`s; `None` where no manifest has one of this name.
    pub secrets: BTreeMap<String, Option<Arc<Entries>>>,
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
        self.config_maps.is_empty() && self.secrets.is_empty()
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}

/// The content of one object on disk: in base64.
pub(crate) struct StoredEntries(pub(crate) Entries);

impl Serialize for StoredEntries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|(key, value)| (key, STANDARD.encode(value))),
        )
    }
}

impl<'de> Deserialize<'de> for StoredEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let bytes = |(key, text): (String, String)| Ok((key, STANDARD.decode(text)?));
        let entries: Result<_, base64::DecodeError> = texts.into_iter().map(bytes).collect();
        entries.map(Self).map_err(D::Error::custom)
    }
}

/// On disk.
#[derive(Serialize, Deserialize)]
struct SerializedObject {
    config_maps: BTreeMap<String, Option<StoredEntries>>,
    secrets: BTreeMap<String, Option<StoredEntries>>,
}

impl Serialize for Objects {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = |objects: &BTreeMap<String, Option<Arc<Entries>>>| {
            let objects = objects.iter().map(|(name, entries)| {
                let entries = entries.as_deref().cloned();
                (name.clone(), entries.map(StoredEntries))
            });
            objects.collect()
        };
        let stored = SerializedObject {
            config_maps: all(&self.config_maps),
            secrets: all(&self.secrets),
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Objects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = SerializedObject::deserialize(deserializer)?;
        let all = |objects: BTreeMap<String, Option<StoredEntries>>| {
            let objects = objects.into_iter();
            let objects = objects.map(|(name, entries)| (name, entries.map(|e| Arc::new(e.0))));
            objects.collect()
        };
        Ok(Self {
            config_maps: all(stored.config_maps),
            secrets: all(stored.secrets),
        })
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
    match object_key(document).filter(|_| reader.problems.is_empty()) {
        Some(key) => Ok(Object {
            key,
            entries: Arc::new(reader.entries),
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
            // That it is of another type is told already.
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

/// A field of a Pod that refers to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    kind: ObjectKind,
    name: String,
    /// The key that it needs; the whole object otherwise.
    key: Option<String>,
    optional: bool,
    field: String,
}

/// Every reference of a Pod to an object.
fn references(pod: &Pod) -> Vec<Reference> {
    let mut found = vec![];
    let Some(spec) = &pod.spec else {
        return found;
    };
    let inits = spec.init_containers.iter().flatten().enumerate();
    let inits = inits.map(|(i, c)| (path::index("spec.initContainers", i), c));
    let mains = spec.containers.iter().enumerate();
    let mains = mains.map(|(i, c)| (path::index("spec.containers", i), c));
    for (field, container) in inits.chain(mains) {
        of_container(&field, container, &mut found);
    }
    let used = volumes::used(spec);
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let before = found.len();
        let field = path::index("spec.volumes", i);
        let config_map = volume.config_map.as_ref();
        let config_map = config_map.map(|s| (&*s.name, s.optional, s.items.as_deref()));
        let secret = volume.secret.as_ref();
        let secret = secret.map(|s| {
            let name = s.secret_name.as_deref().unwrap_or_default();
            (name, s.optional, s.items.as_deref())
        });
        of_sources(&field, config_map, secret, &mut found);
        let parts = volume.projected.as_ref().and_then(|p| p.sources.as_deref());
        for (j, part) in parts.into_iter().flatten().enumerate() {
            let sources = path::key(&path::key(&field, "projected"), "sources");
            of_projection(&path::index(&sources, j), part, &mut found);
        }
        // What no container mounts is not prepared: there is nothing to wait for.
        if !used.contains(volume.name.as_str()) {
            for reference in &mut found[before..] {
                reference.optional = true;
            }
        }
    }
    found
}

fn of_container(field: &str, container: &Container, found: &mut Vec<Reference>) {
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        let at = path::index(&path::key(field, "envFrom"), i);
        let config_map = source.config_map_ref.as_ref();
        let config_map = config_map.map(|r| (ObjectKind::ConfigMap, &r.name, r.optional));
        let secret = source.secret_ref.as_ref();
        let secret = secret.map(|r| (ObjectKind::Secret, &r.name, r.optional));
        for (kind, name, optional) in config_map.into_iter().chain(secret) {
            let inner = match kind {
                ObjectKind::ConfigMap => "configMapRef",
                ObjectKind::Secret => "secretRef",
            };
            found.push(Reference {
                kind,
                name: name.clone(),
                key: None,
                optional: optional == Some(true),
                field: path::key(&at, inner),
            });
        }
    }
    for (i, variable) in container.env.iter().flatten().enumerate() {
        let at = path::index(&path::key(field, "env"), i);
        if let Some(source) = &variable.value_from {
            of_variable(&path::key(&at, "valueFrom"), source, found);
        }
    }
}

fn of_variable(field: &str, source: &EnvVarSource, found: &mut Vec<Reference>) {
    if let Some(r) = &source.config_map_key_ref {
        found.push(Reference {
            kind: ObjectKind::ConfigMap,
            name: r.name.clone(),
            key: Some(r.key.clone()),
            optional: r.optional == Some(true),
            field: path::key(field, "configMapKeyRef"),
        });
    }
    if let Some(r) = &source.secret_key_ref {
        found.push(Reference {
            kind: ObjectKind::Secret,
            name: r.name.clone(),
            key: Some(r.key.clone()),
            optional: r.optional == Some(true),
            field: path::key(field, "secretKeyRef"),
        });
    }
}

fn of_projection(field: &str, part: &VolumeProjection, found: &mut Vec<Reference>) {
    let config_map = part.config_map.as_ref();
    let config_map = config_map.map(|s| (&*s.name, s.optional, s.items.as_deref()));
    let secret = part.secret.as_ref();
    let secret = secret.map(|s| (&*s.name, s.optional, s.items.as_deref()));
    of_sources(field, config_map, secret, found);
}

/// An object that files are made of: its name, whether it may be missing, and the keys that count.
type ObjectSource<'a> = (&'a str, Option<bool>, Option<&'a [KeyToPath]>);

fn of_sources(
    field: &str,
    config_map: Option<ObjectSource<'_>>,
    secret: Option<ObjectSource<'_>>,
    found: &mut Vec<Reference>,
) {
    for (kind, inner, source) in [
        (ObjectKind::ConfigMap, "configMap", config_map),
        (ObjectKind::Secret, "secret", secret),
    ] {
        if let Some((name, optional, items)) = source {
            let at = path::key(field, inner);
            of_items(kind, name, optional, items, &at, found);
        }
    }
}

fn of_items(
    kind: ObjectKind,
    name: &str,
    optional: Option<bool>,
    items: Option<&[KeyToPath]>,
    field: &str,
    found: &mut Vec<Reference>,
) {
    let reference = |key: Option<String>| Reference {
        kind,
        name: name.to_owned(),
        key,
        optional: optional == Some(true),
        field: field.to_owned(),
    };
    match items.filter(|items| !items.is_empty()) {
        None => found.push(reference(None)),
        Some(items) => found.extend(items.iter().map(|i| reference(Some(i.key.clone())))),
    }
}

/// The Pod with the objects that it refers to, and the UID that comes of them; as it is if it refers to
/// none.
#[must_use]
pub fn attach(pod: &Arc<StaticPod>, set: &ObjectSet) -> Arc<StaticPod> {
    let namespace = &pod.key.namespace;
    let find = |kind, name: &str| {
        let key = ObjectKey {
            kind,
            namespace: namespace.clone(),
            name: name.to_owned(),
        };
        set.get(&key).cloned()
    };
    let mut objects = Objects::default();
    for Reference { kind, name, .. } in references(&pod.pod) {
        let entries = find(kind, &name);
        match kind {
            ObjectKind::ConfigMap => objects.config_maps.insert(name, entries),
            ObjectKind::Secret => objects.secrets.insert(name, entries),
        };
    }
    with(pod, objects)
}

/// The Pod with these objects.
#[must_use]
pub fn with(pod: &Arc<StaticPod>, objects: Objects) -> Arc<StaticPod> {
    if objects.is_empty() {
        return Arc::clone(pod);
    }
    let mut pod = StaticPod::clone(pod);
    let spec = pod.pod.spec.as_ref();
    let node = spec.and_then(|s| s.node_name.clone()).unwrap_or_default();
    let uid = identity::uid_with(&pod.document, &node, &digest(&objects));
    identity::set_uid(&mut pod.pod, &uid);
    pod.uid = uid;
    pod.objects = Arc::new(objects);
    Arc::new(pod)
}

/// Digest that the UID of a Pod includes besides its document: each object's name and content, or its
/// absence.
fn digest(objects: &Objects) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for (kind, all) in [("c", &objects.config_maps), ("s", &objects.secrets)] {
        for (name, entries) in all {
            add(kind.as_bytes());
            add(name.as_bytes());
            let count = entries.as_ref().map_or(u64::MAX, |e| e.len() as u64);
            add(&count.to_be_bytes());
            for (key, value) in entries.iter().flat_map(|e| e.iter()) {
                add(key.as_bytes());
                add(value);
            }
        }
    }
    hash.finalize().into()
}

/// Something that a Pod refers to and cannot do without, and that no manifest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    kind: ObjectKind,
    name: String,
    /// The key that the object lacks; nothing where there is no such object.
    key: Option<String>,
    field: String,
    /// The part of the Pod that refers to it.
    pub user: User,
}

/// A part of a Pod that can refer to an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// The volume of this name.
    Volume(String),
    /// The variables of the container of this name.
    Container(String),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind, name, field, ..
        } = self;
        match &self.key {
            None => write!(f, "{field}: no manifest has the {kind} {name:?}"),
            Some(key) => write!(f, "{field}: the {kind} {name:?} has no key {key:?}"),
        }
    }
}

impl Missing {
    /// The same in the kubelet's words (`pkg/kubelet/kubelet_pods.go`, `pkg/volume/configmap`).
    #[must_use]
    pub fn event_message(&self, namespace: &str) -> String {
        let Self {
            kind, name, user, ..
        } = self;
        let lower = kind.to_string().to_lowercase();
        match (&self.key, user) {
            (None, _) => format!("{lower} {name:?} not found"),
            (Some(key), User::Container(_)) => {
                format!("couldn't find key {key} in {kind} {namespace}/{name}")
            }
            (Some(key), User::Volume(_)) => match kind {
                ObjectKind::ConfigMap => {
                    format!("configmap references non-existent config key: {key}")
                }
                ObjectKind::Secret => format!("references non-existent secret key: {key}"),
            },
        }
    }
}

/// Returns the part of the Pod that a reference at this field belongs to.
fn user_of(field: &str, pod: &Pod) -> Option<User> {
    let spec = pod.spec.as_ref()?;
    let (list, rest) = field.strip_prefix("spec.")?.split_once('[')?;
    let index: usize = rest.split_once(']')?.0.parse().ok()?;
    let container = |list: &[Container]| Some(User::Container(list.get(index)?.name.clone()));
    match list {
        "volumes" => {
            let volumes = spec.volumes.as_deref().unwrap_or_default();
            Some(User::Volume(volumes.get(index)?.name.clone()))
        }
        "initContainers" => container(spec.init_containers.as_deref().unwrap_or_default()),
        _ => container(&spec.containers),
    }
}

/// Returns the required objects that the Pod refers to and no manifest has.
#[must_use]
pub fn missing(pod: &StaticPod) -> Vec<Missing> {
    if pod.objects.is_empty() {
        return vec![];
    }
    let is_missing = |r: &Reference| {
        let entries = pod.objects.get(r.kind, &r.name);
        let has_it = match (entries, &r.key) {
            (None, _) => false,
            (Some(entries), Some(key)) => entries.contains_key(key),
            (Some(_), None) => true,
        };
        !r.optional && !has_it
    };
    let references = references(&pod.pod).into_iter().filter(is_missing);
    let missing = references.filter_map(|r| {
        let is_there = pod.objects.get(r.kind, &r.name).is_some();
        Some(Missing {
            user: user_of(&r.field, &pod.pod)?,
            kind: r.kind,
            name: r.name,
            key: r.key.filter(|_| is_there),
            field: r.field,
        })
    });
    missing.collect()
}

/// The same as texts with their fields; and what of it a container cannot have in its texts, since they would
/// be too large.
#[must_use]
pub fn start_errors(pod: &StaticPod) -> Vec<String> {
    start_errors_of(pod, |_| true)
}

/// The same for the Pod's volumes alone.
#[must_use]
pub fn volume_start_errors(pod: &StaticPod) -> Vec<String> {
    start_errors_of(pod, |user| matches!(user, User::Volume(_)))
}

/// The same for the variables of one container.
#[must_use]
pub fn container_start_errors(pod: &StaticPod, name: &str) -> Vec<String> {
    start_errors_of(
        pod,
        |user| matches!(user, User::Container(of) if of == name),
    )
}

fn start_errors_of(pod: &StaticPod, is_meant: impl Fn(&User) -> bool) -> Vec<String> {
    let missing = missing(pod).into_iter().filter(|m| is_meant(&m.user));
    let mut start_errors: Vec<String> = missing.map(|m| m.to_string()).collect();
    start_errors.dedup();
    start_errors.extend(too_large_texts(pod, is_meant));
    start_errors
}

/// The containers' texts that are too large with what they refer to.
fn too_large_texts(pod: &StaticPod, is_meant: impl Fn(&User) -> bool) -> Vec<String> {
    // Without objects the manifest was refused for it.
    let Some(spec) = pod.pod.spec.as_ref().filter(|_| !pod.objects.is_empty()) else {
        return vec![];
    };
    let inits = spec.init_containers.iter().flatten().enumerate();
    let inits = inits.map(|(index, container)| ("spec.initContainers", index, container));
    let mains = spec.containers.iter().enumerate();
    let mains = mains.map(|(index, container)| ("spec.containers", index, container));
    let all = inits.chain(mains);
    let all = all.filter(|(.., container)| is_meant(&User::Container(container.name.clone())));
    let found = all.filter_map(|(list, index, container)| {
        let found = too_large(container, &pod.objects)?;
        let field = path::join(&path::index(list, index), &found.field);
        Some(format!("{field}: {found}"))
    });
    found.collect()
}
