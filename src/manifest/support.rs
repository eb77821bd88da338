//! What of a Pod this version carries out: one table of fields. A field that is not in it is refused
//! by name, never ignored.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::Document;
use super::{Problem, path};

/// The fields that are carried out, `[]` for any item of a list. What lies below an entry is carried
/// out with it.
const SUPPORTED: [&str; 57] = [
    "apiVersion",
    "kind",
    "metadata.name",
    "metadata.namespace",
    "metadata.labels",
    "metadata.annotations",
    "metadata.generateName",
    "spec.automountServiceAccountToken",
    "spec.containers[].args",
    "spec.containers[].command",
    "spec.containers[].env[].name",
    "spec.containers[].env[].value",
    "spec.containers[].image",
    "spec.containers[].imagePullPolicy",
    "spec.containers[].lifecycle.preStop.exec",
    "spec.containers[].lifecycle.preStop.httpGet",
    "spec.containers[].lifecycle.preStop.sleep",
    "spec.containers[].name",
    "spec.containers[].ports[].containerPort",
    "spec.containers[].ports[].hostIP",
    "spec.containers[].ports[].hostPort",
    "spec.containers[].ports[].name",
    "spec.containers[].ports[].protocol",
    "spec.containers[].stdin",
    "spec.containers[].stdinOnce",
    "spec.containers[].terminationMessagePath",
    "spec.containers[].terminationMessagePolicy",
    "spec.containers[].tty",
    "spec.containers[].volumeMounts[].mountPath",
    "spec.containers[].volumeMounts[].name",
    "spec.containers[].volumeMounts[].readOnly",
    "spec.containers[].workingDir",
    "spec.dnsConfig",
    "spec.dnsPolicy",
    "spec.enableServiceLinks",
    "spec.hostAliases",
    "spec.hostIPC",
    "spec.hostNetwork",
    "spec.hostPID",
    "spec.hostname",
    "spec.nodeName",
    "spec.preemptionPolicy",
    "spec.priority",
    "spec.priorityClassName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.shareProcessNamespace",
    "spec.subdomain",
    "spec.terminationGracePeriodSeconds",
    "spec.tolerations[].effect",
    "spec.tolerations[].key",
    "spec.tolerations[].operator",
    "spec.tolerations[].tolerationSeconds",
    "spec.tolerations[].value",
    "spec.volumes[].hostPath.path",
    "spec.volumes[].hostPath.type",
    "spec.volumes[].name",
];

/// Objects that are carried out as long as they are empty, and lists whose emptiness says so.
const SUPPORTED_EMPTY: [&str; 4] = [
    "spec.containers[].lifecycle.preStop",
    "spec.containers[].volumeMounts[]",
    "spec.containers[].ports[]",
    "spec.volumes[].emptyDir",
];

/// Fields of an object that was read from an API server, which say nothing about what is wanted.
const WITHOUT_EFFECT: [&str; 6] = [
    "metadata.creationTimestamp",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
    "metadata.uid",
    "status",
];

/// Fields that name objects on an API server, which a static Pod cannot use (Kubernetes, Create static
/// Pods).
const API_OBJECTS: [&str; 14] = [
    "spec.serviceAccountName",
    "spec.serviceAccount",
    "spec.resourceClaims",
    "spec.imagePullSecrets",
    "spec.volumes[].configMap",
    "spec.volumes[].secret",
    "spec.volumes[].persistentVolumeClaim",
    "spec.volumes[].ephemeral",
    "spec.volumes[].projected.sources[].serviceAccountToken",
    "spec.volumes[].projected.sources[].clusterTrustBundle",
    "spec.containers[].envFrom[].configMapRef",
    "spec.containers[].envFrom[].secretRef",
    "spec.containers[].env[].valueFrom.configMapKeyRef",
    "spec.containers[].env[].valueFrom.secretKeyRef",
];

/// The fields that this version does not carry out, the outermost of each; what is unknown altogether
/// is not among them.
pub(super) fn unsupported(document: &Document, unknown: &[Problem]) -> Vec<Problem> {
    let mut fields = BTreeSet::new();
    walk(&document.value, "", "", &mut |field, pattern| {
        let known = !path::ancestors(field).any(|f| unknown.iter().any(|u| u.field == f));
        if known && !is_supported(pattern) && !is_among(&WITHOUT_EFFECT, pattern) {
            fields.insert(outermost(field));
        }
    });
    let problem = |field: String| {
        let reason = refusal(&field);
        document.places.problem_with_key(field, reason)
    };
    fields.into_iter().map(problem).collect()
}

/// Why a field that is not carried out is refused.
fn refusal(field: &str) -> &'static str {
    if is_among(&API_OBJECTS, &pattern_of(field)) {
        return "a static Pod cannot use objects of an API server";
    }
    "this version of podkeeper does not support the field"
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

fn is_supported(pattern: &str) -> bool {
    is_among(&SUPPORTED, pattern) || SUPPORTED_EMPTY.contains(&pattern)
}

fn is_among(table: &[&str], pattern: &str) -> bool {
    table.iter().any(|entry| covers(entry, pattern))
}

/// Whether a path is the entry's, or lies below it.
fn covers(entry: &str, pattern: &str) -> bool {
    let rest = pattern.strip_prefix(entry);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The outermost field around this one that is not carried out in any part.
fn outermost(field: &str) -> String {
    let around = path::ancestors(field).take_while(|f| !leads_to_supported(&pattern_of(f)));
    around.last().unwrap_or(field).to_owned()
}

fn leads_to_supported(pattern: &str) -> bool {
    pattern.is_empty() || SUPPORTED.iter().any(|entry| covers(pattern, entry))
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
    let names = SUPPORTED
        .iter()
        .chain(&WITHOUT_EFFECT)
        .flat_map(|entry| entry.split(['.', '[', ']']));
    let likeness =
        |known: &&str| strsim::damerau_levenshtein(&known.to_lowercase(), &name.to_lowercase());
    let best = names.filter(|n| !n.is_empty()).min_by_key(likeness)?;
    (likeness(&best) <= 1 + name.len() / 4).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_field_that_is_not_carried_out_is_named() {
        for (field, named) in [
            ("spec.securityContext.runAsUser", "spec.securityContext"),
            (
                "spec.containers[1].resources.limits.cpu",
                "spec.containers[1].resources",
            ),
            (
                "spec.volumes[0].emptyDir.medium",
                "spec.volumes[0].emptyDir",
            ),
            (
                "spec.containers[0].lifecycle.postStart.exec.command[0]",
                "spec.containers[0].lifecycle.postStart",
            ),
        ] {
            assert_eq!(outermost(field), named);
        }
    }

    #[test]
    fn what_lies_below_a_supported_field_is_supported() {
        assert!(is_supported("metadata.labels[a.b/c]"));
        assert!(is_supported("spec.containers[].command[]"));
        assert!(!is_supported("spec.containers[].envFrom[].prefix"));
        assert!(!is_supported("spec.hostnameOverride"));
        assert_eq!(
            pattern_of("spec.containers[12].env[0].name"),
            "spec.containers[].env[].name"
        );
    }

    #[test]
    fn a_mistyped_name_is_recognised() {
        assert_eq!(nearest_known("imagePullPolcy"), Some("imagePullPolicy"));
        assert_eq!(nearest_known("comand"), Some("command"));
        assert_eq!(nearest_known("banana"), None);
    }
}
