//! What of a Pod this version carries out: one table of fields. A field that is not in it is refused
//! by name, never ignored.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::document::Document;
use super::{Problem, path};

/// Fields that are not carried out, `[]` for any item of a list, and why not.
const UNSUPPORTED: [(&str, &str); 27] = [
    ("spec.resourceClaims", API_OBJECT),
    ("spec.serviceAccount", API_OBJECT),
    ("spec.serviceAccountName", API_OBJECT),
    ("spec.imagePullSecrets", API_OBJECT),
    ("spec.volumes[].awsElasticBlockStore", NOT_HERE),
    ("spec.volumes[].azureDisk", NOT_HERE),
    ("spec.volumes[].azureFile", NOT_HERE),
    ("spec.volumes[].cephfs", NOT_HERE),
    ("spec.volumes[].cinder", NOT_HERE),
    ("spec.volumes[].csi", NOT_HERE),
    ("spec.volumes[].ephemeral", API_OBJECT),
    ("spec.volumes[].fc", NOT_HERE),
    ("spec.volumes[].flexVolume", NOT_HERE),
    ("spec.volumes[].flocker", NOT_HERE),
    ("spec.volumes[].gcePersistentDisk", NOT_HERE),
    ("spec.volumes[].gitRepo", NOT_HERE),
    ("spec.volumes[].glusterfs", NOT_HERE),
    ("spec.volumes[].iscsi", NOT_HERE),
    ("spec.volumes[].nfs", NOT_HERE),
    ("spec.volumes[].persistentVolumeClaim", API_OBJECT),
    ("spec.volumes[].photonPersistentDisk", NOT_HERE),
    ("spec.volumes[].portworxVolume", NOT_HERE),
    (
        "spec.volumes[].projected.sources[].clusterTrustBundle",
        API_OBJECT,
    ),
    (
        "spec.volumes[].projected.sources[].serviceAccountToken",
        API_OBJECT,
    ),
    ("spec.volumes[].quobyte", NOT_HERE),
    ("spec.volumes[].rbd", NOT_HERE),
    ("spec.volumes[].scaleIO", NOT_HERE),
];
const API_OBJECT: &str = "a static Pod cannot use objects of an API server";
const NOT_HERE: &str = "this version of podkeeper does not support the field";

/// Fields of an object that was read from an API server, which say nothing about what is wanted.
const WITHOUT_EFFECT: [&str; 6] = [
    "metadata.creationTimestamp",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
    "metadata.uid",
    "status",
];

/// The fields that are not carried out, the outermost of each.
pub(super) fn unsupported(document: &Document) -> Vec<Problem> {
    let mut fields = BTreeMap::new();
    walk(&document.value, "", "", &mut |field, pattern| {
        let reason = UNSUPPORTED.iter().find(|(entry, _)| covers(entry, pattern));
        if let Some((entry, reason)) = reason {
            fields.insert(cut_to(field, entry), *reason);
        }
    });
    let problem = |(field, reason)| document.places.problem_with_key(field, reason);
    fields.into_iter().map(problem).collect()
}

/// The part of a path that an entry is about.
fn cut_to(field: &str, entry: &str) -> String {
    let mut around = path::ancestors(field);
    around
        .find(|f| pattern_of(f) == entry)
        .unwrap_or(field)
        .to_owned()
}

/// Warnings about fields that have no effect here.
pub(super) fn without_effect(document: &Document) -> Vec<Problem> {
    let mut fields = BTreeSet::new();
    walk(&document.value, "", "", &mut |_, pattern| {
        let named = WITHOUT_EFFECT.iter().find(|f| covers(f, pattern));
        fields.extend(named.copied());
    });
    let message = "set by an API server, it has no effect here";
    let fields = fields.into_iter();
    fields
        .map(|f| document.places.problem(f, message))
        .collect()
}

/// Calls back for every value that says something: scalars but no empty strings, and empty lists and
/// objects where their being there means something.
fn walk(value: &Value, field: &str, pattern: &str, on_value: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(map) if map.is_empty() => empty(field, pattern, on_value),
        Value::Array(list) if list.is_empty() => empty(field, pattern, on_value),
        Value::Object(map) => {
            for (name, inner) in map {
                let (field, pattern) = (path::key(field, name), path::key(pattern, name));
                walk(inner, &field, &pattern, on_value);
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                walk(
                    inner,
                    &path::index(field, i),
                    &format!("{pattern}[]"),
                    on_value,
                );
            }
        }
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        _ => on_value(field, pattern),
    }
}

/// An empty `resources` or `initContainers` is as good as none; an empty volume source or probe is not.
fn empty(field: &str, pattern: &str, on_value: &mut impl FnMut(&str, &str)) {
    let around = path::ancestors(pattern).nth(1).unwrap_or_default();
    let outer = ["metadata", "spec", "spec.containers[]"].contains(&around);
    if !outer || pattern.ends_with("Probe") {
        on_value(field, pattern);
    }
}

/// Whether a path is the entry's, or lies below it.
fn covers(entry: &str, pattern: &str) -> bool {
    let rest = pattern.strip_prefix(entry);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A path with the numbers of its lists' items taken out.
fn pattern_of(field: &str) -> String {
    let mut pattern = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('[') {
        let (inside, tail) = after.split_once(']').unwrap_or((after, ""));
        let number = inside.bytes().all(|b| b.is_ascii_digit());
        pattern.push_str(before);
        pattern.push('[');
        pattern.push_str(if number { "" } else { inside });
        pattern.push(']');
        rest = tail;
    }
    pattern + rest
}

/// The name of a known field that is most like this one.
pub(super) fn nearest_known(name: &str) -> Option<&'static str> {
    let names = ["imagePullPolicy", "command", "image", "args"];
    let likeness =
        |known: &&str| strsim::damerau_levenshtein(&known.to_lowercase(), &name.to_lowercase());
    let best = names.into_iter().min_by_key(likeness)?;
    (likeness(&best) <= 1 + name.len() / 4).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_its_numbers_is_a_pattern() {
        assert_eq!(
            pattern_of("spec.containers[12].env[0].name"),
            "spec.containers[].env[].name"
        );
        assert_eq!(
            cut_to("spec.volumes[1].nfs.path", "spec.volumes[].nfs"),
            "spec.volumes[1].nfs"
        );
    }

    #[test]
    fn a_mistyped_name_is_recognised() {
        assert_eq!(nearest_known("imagePullPolcy"), Some("imagePullPolicy"));
        assert_eq!(nearest_known("comand"), Some("command"));
        assert_eq!(nearest_known("banana"), None);
    }
}
