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

/// The path of what a field or an item belongs to.
pub(super) fn parent(field: &str) -> &str {
    let end = match field.strip_suffix(']') {
        Some(inside) => inside.rfind('['),
        None => field.rfind('.'),
    };
    &field[..end.unwrap_or(0)]
}

/// The path without the numbers of lists' items: `spec.containers[].image`.
pub(super) fn without_numbers(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    for part in field.split_inclusive('[') {
        let (inside, rest) = part.split_once(']').unwrap_or(("", part));
        let number = !inside.is_empty() && inside.bytes().all(|b| b.is_ascii_digit());
        match (number, part.contains(']')) {
            (true, _) => text.push(']'),
            (false, true) => text.extend([inside, "]"]),
            (false, false) => {}
        }
        text.push_str(rest);
    }
    text
}

/// True if the fields are the same, or one contains the other.
pub(super) fn concerns(field: &str, other: &str) -> bool {
    is_inside(field, other) || is_inside(other, field)
}

/// True if a field is the other, or lies below it.
pub(super) fn is_inside(field: &str, other: &str) -> bool {
    let rest = field.strip_prefix(other);
    rest.is_some_and(|rest| other.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
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
    fn paths_lead_to_what_is_around_a_field() {
        for (field, around) in [
            ("spec.containers[0].image", "spec.containers[0]"),
            ("spec.containers[0]", "spec.containers"),
            ("metadata.labels[a.b/c]", "metadata.labels"),
            ("spec", ""),
            ("", ""),
        ] {
            assert_eq!(parent(field), around);
        }
    }

    #[test]
    fn paths_are_compared_without_the_numbers_of_items() {
        for (field, without) in [
            (
                "spec.containers[10].env[2].name",
                "spec.containers[].env[].name",
            ),
            (
                "items[1].metadata.labels[a.b/c]",
                "items[].metadata.labels[a.b/c]",
            ),
            ("spec", "spec"),
            ("a[", "a["),
        ] {
            assert_eq!(without_numbers(field), without);
        }
    }
}
