//! `$(VAR)` in values, commands and arguments, as Kubernetes expands it: `$(NAME)` is the variable's
//! value, `$$` is `$`, and what names no variable stays as it is (API reference, `Container.command`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

use crate::cri::v1::KeyValue;

/// The environment of a container. A value sees the variables above it.
#[must_use]
pub(super) fn environment(container: &Container) -> Environment {
    let mut environment = Environment::default();
    for variable in container.env.iter().flatten() {
        let value = environment.expand(variable.value.as_deref().unwrap_or_default());
        environment.set(&variable.name, value);
    }
    environment
}

/// Variables in the order of their first mention; a name stands once, with its last value.
#[derive(Debug, Default)]
pub(super) struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    /// The text with its references expanded.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let name = after.strip_prefix('(').and_then(|s| s.split_once(')'));
            if let Some(tail) = after.strip_prefix('$') {
                out.push('$');
                rest = tail;
            } else if let Some((name, tail)) = name {
                match self.values.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest = tail;
            } else {
                out.push('$');
                rest = after;
            }
        }
        out.push_str(rest);
        out
    }

    /// Each text expanded.
    pub(super) fn expand_all(&self, texts: Option<&Vec<String>>) -> Vec<String> {
        texts
            .into_iter()
            .flatten()
            .map(|t| self.expand(t))
            .collect()
    }

    /// As the runtime takes it.
    pub(super) fn into_key_values(mut self) -> Vec<KeyValue> {
        let values = &mut self.values;
        let pair = |key: String| KeyValue {
            value: values.remove(&key).unwrap_or_default().into_bytes(),
            key,
        };
        self.order.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::EnvVar;

    fn container(env: &[(&str, &str)]) -> Container {
        let variable = |(name, value): &(&str, &str)| EnvVar {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
            ..EnvVar::default()
        };
        Container {
            env: Some(env.iter().map(variable).collect()),
            ..Container::default()
        }
    }

    #[test]
    fn references_expand_as_kubernetes_documents_it() {
        let environment = environment(&container(&[("A", "1"), ("B", "x$(A)y")]));
        for (text, expected) in [
            ("$(A)", "1"),
            ("$(A)$(B)", "1x1y"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(NONE)", "$(NONE)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("$()", "$()"),
            ("a$$b", "a$b"),
            ("ä$(A)ö", "ä1ö"),
        ] {
            assert_eq!(environment.expand(text), expected, "{text}");
        }
    }

    #[test]
    fn a_value_sees_only_what_stands_above_it() {
        let pairs = environment(&container(&[("A", "$(B)"), ("B", "2"), ("C", "$(B)")]));
        let pairs = pairs.into_key_values();
        let values: Vec<_> = pairs.iter().map(|kv| kv.value.as_slice()).collect();
        assert_eq!(values, [b"$(B)".as_slice(), b"2", b"2"]);
    }

    #[test]
    fn of_two_variables_with_one_name_the_last_counts() {
        let pairs = environment(&container(&[("A", "1"), ("B", "b"), ("A", "$(A)2")]));
        let pairs = pairs.into_key_values();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|kv| (kv.key.as_str(), kv.value.as_slice()))
            .collect();
        assert_eq!(pairs, [("A", b"12".as_slice()), ("B", b"b")]);
    }
}
