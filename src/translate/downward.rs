//! The downward API: a Pod's own fields and its containers' resources, as text (Kubernetes, Downward
//! API).

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceFieldSelector};

use super::NodeFacts;
use super::resources::{container_limit, container_request, effective_limit};
use crate::manifest::StaticPod;
use crate::manifest::quantity::{self, Quantity};

/// The addresses of a Pod, which it has only once its sandbox runs. The first one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The Pod's own; empty where it is on the host's network.
    pub pod: Vec<String>,
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
) -> Result<String, String> {
    let metadata = &pod.pod.metadata;
    let spec = pod.pod.spec.as_ref();
    if let Some((map, key)) = subscript(field_path) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return Err(unknown(field_path)),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let host_network = spec.is_some_and(|s| s.host_network == Some(true));
    let pod_ips = if host_network {
        &facts.host_ips
    } else {
        &addresses.pod
    };
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match field_path {
        "metadata.name" => pod.key.name.clone(),
        "metadata.namespace" => pod.key.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" | "spec.host" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => String::new(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => pod_ips.join(","),
        _ => return Err(unknown(field_path)),
    })
}

fn unknown(field_path: &str) -> String {
    format!("the downward API has no field {field_path:?}")
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

/// Whether Go prints a character beyond ASCII as it is: letters, marks, numbers, punctuation and symbols.
/// The standard library leaves the same ones alone, marks only behind something.
fn is_printable(c: char) -> bool {
    let behind: String = ['a', c].iter().collect();
    behind.escape_debug().eq(behind.chars())
}

/// A resource of a container of the Pod, divided by its divisor and rounded up. `container` is whose
/// it is where the selector names none. Where no limit is set, the Pod's limit as a whole counts, and then
/// the node's allocatable amount.
///
/// # Errors
/// No such container or resource.
pub fn resource_value(
    facts: &NodeFacts,
    pod: &StaticPod,
    container: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let named = named.unwrap_or(container);
    let spec = pod.pod.spec.as_ref();
    let container = spec.and_then(|s| find_container(s, named));
    let container = container.ok_or_else(|| format!("there is no container {named:?}"))?;
    let amount = match selector.resource.split_once('.') {
        Some(("requests", name)) => container_request(container, name),
        Some(("limits", name)) => match limit(spec, container, name) {
            none if none.is_zero() => allocatable(facts, name),
            limit => limit,
        },
        _ => return Err(format!("there is no resource {:?}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref();
    let divisor = divisor.and_then(|d| quantity::parse(&d.0));
    let divisor = divisor.filter(|d| !d.is_zero()).unwrap_or(Quantity::of(1));
    let value = amount.divided_by(divisor);
    let value = value.ok_or_else(|| "the divisor is negative".to_owned())?;
    Ok(value.to_string())
}

fn find_container<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    let inits = spec.init_containers.iter().flatten();
    inits.chain(&spec.containers).find(|c| c.name == name)
}

fn limit(spec: Option<&PodSpec>, container: &Container, name: &str) -> Quantity {
    match spec {
        Some(spec) if ["cpu", "memory"].contains(&name) => effective_limit(spec, container, name),
        _ => container_limit(container, name),
    }
}

fn allocatable(facts: &NodeFacts, name: &str) -> Quantity {
    let whole = |amount: u64| Quantity::of(i64::try_from(amount).unwrap_or(i64::MAX));
    match name {
        "cpu" => whole(facts.cpus.into()),
        "memory" => whole(facts.memory_capacity),
        "ephemeral-storage" => whole(facts.ephemeral_storage),
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
