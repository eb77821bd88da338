//! Syntax of names (Kubernetes, Object Names and IDs, and Labels and Selectors; the fields' own descriptions
//! for the rest).

pub(super) const DNS_LABEL: &str =
    "at most 63 lower-case letters, digits and '-', with a letter or digit at both ends";
pub(super) const DNS_SUBDOMAIN: &str = "at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part";
pub(crate) const QUALIFIED_NAME: &str =
    "a name such as app or example.com/app, of at most 63 letters, digits, '-', '_' and '.'";
pub(crate) const LABEL_VALUE: &str =
    "at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends";
pub(super) const PORT_NAME: &str =
    "at most 15 lower-case letters, digits and single '-', with at least one letter";
pub(super) const VARIABLE_NAME: &str = "printable ASCII without '='";
pub(super) const OBJECT_KEY: &str =
    "at most 253 letters, digits, '-', '_' and '.', not beginning with '..'";
pub(super) const SYSCTL: &str =
    "the name of a sysctl such as net.ipv4.tcp_syncookies, of at most 253 characters";
pub(super) const HEADER: &str = "the name of a header, of letters, digits and '-'";

/// As long as a file's name may be, in bytes.
pub(super) const MAX_FILE_NAME: usize = 255;
/// As long as a path may be, in bytes; the kernel counts the end of the text too.
pub(super) const MAX_PATH: usize = 4095;
const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;
const MAX_PORT_NAME: usize = 15;

/// An RFC 1123 label in lower case.
pub(crate) fn is_dns_label(name: &str) -> bool {
    name.len() <= MAX_LABEL && is_dns_part(name)
}

/// True if this is an RFC 1123 subdomain in lower case, as Pods and nodes are named.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN && name.split('.').all(is_dns_part)
}

fn is_dns_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !part.is_empty() && part.chars().all(plain) && !part.starts_with('-') && !part.ends_with('-')
}

/// A domain to search, where names may have underscores and end in a dot.
pub(super) fn is_search_domain(domain: &str) -> bool {
    let name = domain.strip_suffix('.').unwrap_or(domain);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let end = |c: char| c != '-';
    let part = |part: &str| part.chars().all(plain) && part.starts_with(end) && part.ends_with(end);
    domain == "." || name.len() <= MAX_SUBDOMAIN && name.split('.').all(part)
}

/// The key of a label, with or without a domain before it.
pub(crate) fn is_qualified_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified_part(name),
        None => is_qualified_part(name),
    }
}

pub(crate) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified_part(value)
}

fn is_qualified_part(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let end = |c: char| c.is_ascii_alphanumeric();
    name.len() <= MAX_LABEL
        && name.chars().all(plain)
        && name.starts_with(end)
        && name.ends_with(end)
}

/// The name of a port (RFC 6335).
pub(super) fn is_port_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= MAX_PORT_NAME
        && name.chars().all(plain)
        && name.contains(|c: char| c.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-')
}

pub(super) fn is_variable_name(name: &str) -> bool {
    let good = |c: char| (c.is_ascii_graphic() || c == ' ') && c != '=';
    !name.is_empty() && name.chars().all(good)
}

/// The key of an entry of a `ConfigMap` or `Secret`.
pub(super) fn is_object_key(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let reserved = key == "." || key.starts_with("..");
    !key.is_empty() && key.len() <= MAX_SUBDOMAIN && !reserved && key.chars().all(plain)
}

/// The name of a sysctl, with dots or slashes.
pub(super) fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let plain = |c: char| alphanumeric(c) || "-_".contains(c);
    let part = |part: &str| {
        part.chars().all(plain) && part.starts_with(alphanumeric) && part.ends_with(alphanumeric)
    };
    name.len() <= MAX_SUBDOMAIN && name.split(['.', '/']).all(part)
}

pub(super) fn is_header(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !name.is_empty() && name.chars().all(plain)
}

pub(super) fn has_parent(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_what_is_none() {
        type Rule = fn(&str) -> bool;
        let long = "a".repeat(64);
        for (rule, good, bad) in [
            (
                is_dns_label as Rule,
                ["a", "a-1"],
                ["a.b", "A", "-a", "", &long],
            ),
            (
                is_dns_subdomain,
                ["a.b-c", "1.2"],
                ["a..b", "a.", "_a", "", "a.-b"],
            ),
            (
                is_search_domain,
                [".", "_tcp.a_b.c."],
                ["", "..", "-a.b", "A", "a..b"],
            ),
            (
                is_qualified_name,
                ["a.b_c", "x.y/Z"],
                ["a/b/c", "/a", "X/a", "a b", &long],
            ),
            (
                is_port_name,
                ["http", "h-2"],
                ["80", "a--b", "-a", "Http", "a234567890123456"],
            ),
            (
                is_variable_name,
                ["A", "a b.c"],
                ["a=b", "", "é", "\t", "a\n"],
            ),
            (
                is_object_key,
                ["a.b", ".a_B"],
                ["..a", ".", "", "a/b", "a b"],
            ),
            (
                is_sysctl,
                ["net.ipv4.a_b", "net/core/x-1"],
                ["Net.x", "a..b", "", ".a", "a b"],
            ),
            (is_header, ["X-A", "a"], ["", "a b", "a_b", "a:", "é"]),
        ] {
            for name in good {
                assert!(rule(name), "{name:?}");
            }
            for name in bad {
                assert!(!rule(name), "{name:?}");
            }
        }
    }
}
