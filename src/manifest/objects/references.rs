//! References of a Pod to `ConfigMap`s and `Secret`s, and what it lacks of them.
//!
//! Pure: a Pod with its objects in, references and messages out. An optional reference, and one of a
//! volume that no container mounts, never keeps a Pod from starting.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, KeyToPath, LocalObjectReference, PodSpec, VolumeProjection,
};

use super::pull_secrets::TYPES;
use super::{ObjectContent, ObjectKind};
use crate::manifest::document::Spans;
use crate::manifest::expansion::too_large;
use crate::manifest::{Problem, StaticPod, path, volumes};

/// A field of a Pod that refers to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    kind: ObjectKind,
    name: String,
    /// The key that it needs; the whole object otherwise.
    key: Option<String>,
    optional: bool,
    field: String,
    /// Use of the object.
    used_for: ReferenceUse,
}

/// An object that a Pod refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::manifest) struct UsedObject {
    pub(super) kind: ObjectKind,
    pub(super) name: String,
    /// Use of the object.
    pub(super) used_for: ReferenceUse,
}

/// Use of an object that a Pod refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::manifest) enum ReferenceUse {
    /// Variables and volumes.
    Data,
    /// Credentials for pulls of images.
    Pulls,
}

/// The fields of a Pod that refer to an object.
pub(in crate::manifest) fn fields(spec: &PodSpec) -> impl Iterator<Item = String> {
    references(spec)
        .into_iter()
        .map(|reference| reference.field)
}

/// The objects that a Pod refers to, each use of each once.
pub(in crate::manifest) fn used(spec: &PodSpec) -> Box<[UsedObject]> {
    let used = references(spec).into_iter();
    let used: BTreeSet<UsedObject> = used
        .map(|reference| UsedObject {
            kind: reference.kind,
            name: reference.name,
            used_for: reference.used_for,
        })
        .collect();
    used.into_iter().collect()
}

/// Every reference of a Pod to an object.
fn references(spec: &PodSpec) -> Vec<Reference> {
    let mut found = pull_secrets(spec);
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

/// The references to Secrets with credentials for registries.
fn pull_secrets(spec: &PodSpec) -> Vec<Reference> {
    let secrets = spec.image_pull_secrets.iter().flatten().enumerate();
    let secrets = secrets.filter(|(_, secret)| !secret.name.is_empty());
    let reference = |(i, secret): (usize, &LocalObjectReference)| Reference {
        kind: ObjectKind::Secret,
        name: secret.name.clone(),
        key: None,
        optional: false,
        field: path::index("spec.imagePullSecrets", i),
        used_for: ReferenceUse::Pulls,
    };
    secrets.map(reference).collect()
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
                used_for: ReferenceUse::Data,
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
            used_for: ReferenceUse::Data,
        });
    }
    if let Some(r) = &source.secret_key_ref {
        found.push(Reference {
            kind: ObjectKind::Secret,
            name: r.name.clone(),
            key: Some(r.key.clone()),
            optional: r.optional == Some(true),
            field: path::key(field, "secretKeyRef"),
            used_for: ReferenceUse::Data,
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
        used_for: ReferenceUse::Data,
    };
    match items.filter(|items| !items.is_empty()) {
        None => found.push(reference(None)),
        Some(items) => found.extend(items.iter().map(|i| reference(Some(i.key.clone())))),
    }
}

/// Something that a Pod refers to and cannot do without, and that no manifest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    kind: ObjectKind,
    name: String,
    /// The key that the object lacks; nothing where there is no such object.
    key: Option<String>,
    /// The type of the object, where it is none with credentials for registries.
    other_type: Option<Arc<str>>,
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
    /// The pulls of its images.
    Pulls,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

impl Missing {
    fn message(&self) -> String {
        let Self { kind, name, .. } = self;
        if let Some(found) = &self.other_type {
            let expected = TYPES.map(|(name, _)| name).join(" or ");
            return format!("the {kind} {name:?} has the type {found:?}, expected {expected}");
        }
        match &self.key {
            None => format!("no manifest has the {kind} {name:?}"),
            Some(key) => format!("the {kind} {name:?} has no key {key:?}"),
        }
    }

    /// Returns true if the object is there, but none with credentials for registries.
    pub(in crate::manifest) fn is_of_other_type(&self) -> bool {
        self.other_type.is_some()
    }

    /// The same as a problem of the Pod's manifest.
    pub(in crate::manifest) fn problem(&self, spans: &Spans) -> Problem {
        spans.problem(&self.field, self.message())
    }

    /// The same in the kubelet's words (`pkg/kubelet/kubelet_pods.go`, `pkg/volume/configmap`).
    #[must_use]
    pub fn event_message(&self, namespace: &str) -> String {
        let Self {
            kind, name, user, ..
        } = self;
        let lower = kind.to_string().to_lowercase();
        match (&self.key, user) {
            (_, User::Pulls) => format!(
                "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
            ),
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
fn user_of(field: &str, spec: &PodSpec) -> Option<User> {
    let (list, rest) = field.strip_prefix("spec.")?.split_once('[')?;
    let index: usize = rest.split_once(']')?.0.parse().ok()?;
    let container = |list: &[Container]| Some(User::Container(list.get(index)?.name.clone()));
    match list {
        "imagePullSecrets" => Some(User::Pulls),
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
        if r.used_for == ReferenceUse::Pulls {
            let secret = pod.objects.pull_secret(&r.name);
            return secret.is_none_or(|secret| secret.layout().is_none());
        }
        let entries = pod.objects.get(r.kind, &r.name);
        let has_it = match (entries, &r.key) {
            (None, _) => false,
            (Some(entries), Some(key)) => entries.contains_key(key),
            (Some(_), None) => true,
        };
        !r.optional && !has_it
    };
    let references = references(&pod.spec).into_iter().filter(is_missing);
    let missing = references.filter_map(|r| {
        let is_there = pod.objects.get(r.kind, &r.name).is_some();
        let secret = pod.objects.pull_secret(&r.name);
        let secret = secret.filter(|_| r.used_for == ReferenceUse::Pulls);
        Some(Missing {
            other_type: secret.map(ObjectContent::type_or_default),
            user: user_of(&r.field, &pod.spec)?,
            kind: r.kind,
            name: r.name,
            key: r.key.filter(|_| is_there),
            field: r.field,
        })
    });
    missing.collect()
}

/// Returns the messages of [`missing`] with their fields, and those of containers' texts that are too large
/// with the objects that they refer to.
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
    if pod.objects.is_empty() {
        return vec![];
    }
    let spec = &pod.spec;
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
