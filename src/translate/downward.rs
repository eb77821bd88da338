//! The downward API: a Pod's own fields and its containers' resources, as text (Kubernetes, Downward
//! API).

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceFieldSelector};

use super::resources::{container_limit, container_request, effective_limit};
use super::{NodeFacts, TranslateError, labels};
use crate::manifest::StaticPod;
use crate::units::quantity::{self, Quantity};

/// Data that a Pod has only once its sandbox exists: its addresses, the first one first, and its start time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The Pod's own; empty where it is on the host's network, and before its sandbox runs.
    pub pod: Vec<String>,
    /// First time that the Pod was seen, RFC 3339.
    pub seen: String,
}

/// A field of the Pod as text. Labels or annotations as a whole come as `key="value"` lines, sorted;
/// a label or annotation that is not there is empty.
///
/// # Errors
/// The downward API does not have the field.
pub fn field_value(
    facts: &NodeFacts,
    pod: &StaticPod,
    addresses: &Addresses,
    field_path: &str,
) -> Result<String, TranslateError> {
    let metadata = &pod.metadata;
    let spec = &pod.spec;
    // As the kubelet has it, a Pod that came from a source has this annotation like any other.
    let annotations = || {
        let mut annotations = metadata.annotations.clone().unwrap_or_default();
        annotations.insert(labels::CONFIG_SEEN.to_owned(), addresses.seen.clone());
        annotations
    };
    if let Some((map, key)) = subscript(field_path) {
        let value = match map {
            "metadata.labels" => metadata.labels.as_ref().and_then(|m| m.get(key)).cloned(),
            "metadata.annotations" => annotations().remove(key),
            _ => return Err(unknown(field_path)),
        };
        return Ok(value.unwrap_or_default());
    }
    let host_network = pod.is_on_host_network();
    let host_ips = facts.identity.ips.all();
    let pod_ips = if host_network {
        &host_ips
    } else {
        &addresses.pod
    };
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match field_path {
        "metadata.name" => pod.key.name.clone(),
        "metadata.namespace" => pod.key.namespace.clone(),
        "metadata.uid" => pod.uid.to_string(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(Some(&annotations())),
        "spec.nodeName" | "spec.host" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => String::new(),
        "status.hostIP" => first(&host_ips),
        "status.hostIPs" => host_ips.join(","),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => pod_ips.join(","),
        _ => return Err(unknown(field_path)),
    })
}

fn unknown(field_path: &str) -> TranslateError {
    TranslateError::UnknownField(field_path.to_owned())
}

/// `metadata.labels['app']` as what it is a part of, and the key.
fn subscript(field_path: &str) -> Option<(&str, &str)> {
    let (map, rest) = field_path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let quoted = |quote: char| key.strip_prefix(quote)?.strip_suffix(quote);
    Some((map, quoted('\'').or_else(|| quoted('"'))?))
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}={}", quoted(value));
    }
    text.pop();
    text
}

/// In double quotes, with what is not printable escaped as Go's `%q` does.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        let _ = match c {
            '"' | '\\' => write!(text, "\\{c}"),
            '\n' => write!(text, "\\n"),
            '\r' => write!(text, "\\r"),
            '\t' => write!(text, "\\t"),
            '\u{7}' => write!(text, "\\a"),
            '\u{8}' => write!(text, "\\b"),
            '\u{b}' => write!(text, "\\v"),
            '\u{c}' => write!(text, "\\f"),
            c if c < ' ' || c == '\u{7f}' => write!(text, "\\x{:02x}", c as u32),
            c if c.is_ascii() || is_printable(c) => write!(text, "{c}"),
            c if c <= '\u{ffff}' => write!(text, "\\u{:04x}", c as u32),
            c => write!(text, "\\U{:08x}", c as u32),
        };
    }
    text.push('"');
    text
}

/// True if Go prints a character beyond ASCII as it is: letters, marks, numbers, punctuation and symbols. The
/// standard library leaves the same ones alone, marks only behind something.
fn is_printable(c: char) -> bool {
    let behind: String = ['a', c].iter().collect();
    behind.escape_debug().eq(behind.chars())
}

/// Consumer of a resource field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceConsumer<'a> {
    /// A variable of this container.
    Variable(&'a str),
    /// A file of a volume.
    File,
}

/// A resource of a container of the Pod, divided by its divisor and rounded up; a variable that names no
/// container is about its own.
///
/// A limit that is not set counts as the node's allocatable amount. For a variable the Pod's limit as a whole
/// comes before that, and an init container that it names has none (the kubelet's
/// `defaultPodLimitsForDownwardAPI`, and the downward API volume's `CollectData`).
///
/// # Errors
/// No such container or resource.
pub fn resource_value(
    facts: &NodeFacts,
    pod: &StaticPod,
    asker: ResourceConsumer<'_>,
    selector: &ResourceFieldSelector,
) -> Result<String, TranslateError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let name = match (named, asker) {
        (Some(name), _) | (None, ResourceConsumer::Variable(name)) => name,
        (None, ResourceConsumer::File) => "",
    };
    let spec = &pod.spec;
    let container = pod.container(name);
    let container = container.ok_or_else(|| TranslateError::UnknownContainer(name.to_owned()))?;
    let has_defaults = asker == ResourceConsumer::File
        || named.is_none()
        || spec.containers.iter().any(|c| c.name == name);
    let amount = match selector.resource.split_once('.') {
        Some(("requests", name)) => container_request(container, name),
        Some(("limits", name)) => {
            let limit = match asker {
                ResourceConsumer::Variable(_) if has_defaults => limit(spec, container, name),
                _ => container_limit(container, name),
            };
            if limit.is_zero() && has_defaults {
                allocatable(facts, name)
            } else {
                limit
            }
        }
        _ => return Err(TranslateError::UnknownResource(selector.resource.clone())),
    };
    let divisor = selector.divisor.as_ref();
    let divisor = divisor.and_then(|d| quantity::parse(&d.0));
    let divisor = divisor.filter(|d| !d.is_zero()).unwrap_or(Quantity::of(1));
    let value = amount.divided_by(divisor);
    let value = value.ok_or(TranslateError::NegativeDivisor)?;
    Ok(value.to_string())
}

fn limit(spec: &PodSpec, container: &Container, name: &str) -> Quantity {
    if ["cpu", "memory"].contains(&name) {
        effective_limit(spec, container, name)
    } else {
        container_limit(container, name)
    }
}

fn allocatable(facts: &NodeFacts, name: &str) -> Quantity {
    let whole = |amount: u64| Quantity::of(i64::try_from(amount).unwrap_or(i64::MAX));
    match name {
        "cpu" => whole(facts.capacity.cpus.into()),
        "memory" => whole(facts.capacity.allocatable_memory()),
        "ephemeral-storage" => whole(facts.capacity.ephemeral_storage),
        _ => Quantity::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_as_a_whole_are_quoted_lines() {
        let map = BTreeMap::from([
            ("b".to_owned(), "line\none \"two\"".to_owned()),
            ("a".to_owned(), "é\u{1}".to_owned()),
            (
                "c".to_owned(),
                "e\u{301}'€\u{a0}\u{200b}\u{e0001}".to_owned(),
            ),
        ]);
        assert_eq!(
            lines(Some(&map)),
            "a=\"é\\x01\"\nb=\"line\\none \\\"two\\\"\"\nc=\"e\u{301}'€\\u00a0\\u200b\\U000e0001\""
        );
        assert_eq!(lines(None), "");
    }

    #[test]
    fn a_key_stands_in_brackets_and_quotes() {
        let found = subscript("metadata.labels['a.b/c']");
        assert_eq!(found, Some(("metadata.labels", "a.b/c")));
        assert_eq!(subscript("metadata.labels[a]"), None);
    }
}
