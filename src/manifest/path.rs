//! Paths of fields, as Kubernetes writes them: `spec.containers[0].image`,
//! `metadata.labels[example.com/app]`.

/// The path of a field of an object. Names that are no plain words stand in brackets.
pub(crate) fn key(of: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match of {
        _ if name.is_empty() || !name.chars().all(plain) => format!("{of}[{name}]"),
        "" => name.to_owned(),
        of => format!("{of}.{name}"),
    }
}

/// The path of an item of a list.
pub(crate) fn index(of: &str, index: usize) -> String {
    format!("{of}[{index}]")
}

/// The path of a field below another one.
pub(crate) fn join(of: &str, field: &str) -> String {
    match of {
        "" => field.to_owned(),
        of if field.is_empty() || field.starts_with('[') => format!("{of}{field}"),
        of => format!("{of}.{field}"),
    }
}

/// The path itself, then the path of what is around it, and so on to the document.
pub(crate) fn ancestors(field: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(field), |field| {
        if field.is_empty() {
            return None;
        }
        let cut = if field.ends_with(']') {
            field.rfind('[')
        } else {
            field.rfind('.')
        };
        Some(&field[..cut.unwrap_or(0)])
    })
}

/// Whether one field is the other, or lies around it or below it.
pub(super) fn concerns(field: &str, other: &str) -> bool {
    let below = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
    };
    below(field, other) || below(other, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_kubernetes_writes_them() {
        let containers = key(&key("", "spec"), "containers");
        assert_eq!(
            key(&index(&containers, 0), "image"),
            "spec.containers[0].image"
        );
        assert_eq!(key("metadata.labels", "a.b/c"), "metadata.labels[a.b/c]");
    }

    #[test]
    fn ancestors_lead_out_to_the_document() {
        let found: Vec<_> = ancestors("spec.list[0].labels[a.b/c]").collect();
        let expected = [
            "spec.list[0].labels[a.b/c]",
            "spec.list[0].labels",
            "spec.list[0]",
            "spec.list",
            "spec",
            "",
        ];
        assert_eq!(found, expected);
    }
}
