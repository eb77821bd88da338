//! `$(VAR)` in values, commands and arguments, as Kubernetes expands it: `$(NAME)` is the variable's
//! value, `$$` is `$`, and what names no variable stays as it is (API reference, `Container.command`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVarSource};

use super::downward::{ResourceConsumer, field_value, resource_value};
use super::{ContainerInstance, NodeFacts, TranslateError};
use crate::cri::v1::KeyValue;
use crate::manifest::StaticPod;
use crate::manifest::expansion::{MAX_EXPANDED, Piece, pieces};
use crate::manifest::objects::Entries;

/// The most bytes of a path.
const MAX_PATH: usize = 4096;

/// Which variable of which file: the volume, the path in it, and the key.
pub type EnvFileKey = (String, String, String);

/// The environment of a container: what whole objects give, then the variables of its own, which win.
/// A value sees the variables above it.
///
/// # Errors
/// A variable refers to an object or key that does not exist.
pub(super) fn environment(
    facts: &NodeFacts,
    pod: &StaticPod,
    container: &Container,
    instance: &ContainerInstance,
) -> Result<Environment, TranslateError> {
    let mut environment = Environment::default();
    for source in container.env_from.iter().flatten() {
        environment.take_all(pod, source)?;
    }
    for variable in container.env.iter().flatten() {
        let written = variable.value.as_deref().unwrap_or_default();
        let value = match &variable.value_from {
            Some(source) if written.is_empty() => {
                let value = referred(facts, pod, container, instance, source);
                value.and_then(|value| {
                    let size = value.as_ref().map_or(0, String::len);
                    environment.reserve(size).map(|()| value)
                })
            }
            _ => environment.expand(written).map(Some),
        };
        let value = value.map_err(|e| e.of_field(format!("env {:?}", variable.name)))?;
        if let Some(value) = value {
            environment.set(&variable.name, value);
        }
    }
    Ok(environment)
}

/// The value that a source gives; `None` where it is optional and not there.
fn referred(
    facts: &NodeFacts,
    pod: &StaticPod,
    container: &Container,
    instance: &ContainerInstance,
    source: &EnvVarSource,
) -> Result<Option<String>, TranslateError> {
    if let Some(field) = &source.field_ref {
        let value = field_value(facts, pod, &instance.addresses, &field.field_path);
        return value.map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let asker = ResourceConsumer::Variable(&container.name);
        return resource_value(facts, pod, asker, selector).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let entries = pod.objects.config_map(&key.name);
        return entry("ConfigMap", &key.name, entries, &key.key, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        let entries = pod.objects.secret(&key.name);
        return entry("Secret", &key.name, entries, &key.key, key.optional);
    }
    let Some(file) = &source.file_key_ref else {
        return Ok(Some(String::new()));
    };
    let key = (
        file.volume_name.clone(),
        file.path.clone(),
        file.key.clone(),
    );
    match instance.env_files.get(&key) {
        Some(value) => Ok(Some(value.clone())),
        None if file.optional == Some(true) => Ok(None),
        None => Err(TranslateError::MissingFileKey {
            volume: file.volume_name.clone(),
            path: file.path.clone(),
            key: file.key.clone(),
        }),
    }
}

fn entry(
    kind: &'static str,
    name: &str,
    entries: Option<&Entries>,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, TranslateError> {
    match entries.and_then(|entries| entries.get(key)) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None if entries.is_some() => Err(TranslateError::MissingKey {
            kind,
            name: name.to_owned(),
            key: key.to_owned(),
        }),
        None => Err(TranslateError::MissingObject {
            kind,
            name: name.to_owned(),
        }),
    }
}

/// Variables in the order of their first mention; a name stands once, with its last value.
#[derive(Debug)]
pub(super) struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
    /// The bytes that the container's texts may still have.
    bytes_left: usize,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            order: vec![],
            values: BTreeMap::new(),
            bytes_left: MAX_EXPANDED,
        }
    }
}

impl Environment {
    /// Reserves the size of a text of the container's.
    ///
    /// # Errors
    /// There is not so much left.
    fn reserve(&mut self, size: usize) -> Result<(), TranslateError> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(size)
            .ok_or(TranslateError::TextTooLarge(MAX_EXPANDED))?;
        Ok(())
    }

    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    /// Every entry of an object as a variable.
    fn take_all(&mut self, pod: &StaticPod, source: &EnvFromSource) -> Result<(), TranslateError> {
        let config_map = source.config_map_ref.as_ref();
        let config_map = config_map.map(|r| ("ConfigMap", &r.name, r.optional));
        let secret = source.secret_ref.as_ref();
        let secret = secret.map(|r| ("Secret", &r.name, r.optional));
        let Some((kind, name, optional)) = config_map.or(secret) else {
            return Ok(());
        };
        let entries = match kind {
            "Secret" => pod.objects.secret(name),
            _ => pod.objects.config_map(name),
        };
        let Some(entries) = entries else {
            if optional == Some(true) {
                return Ok(());
            }
            let name = name.clone();
            return Err(TranslateError::MissingObject { kind, name }.of_field("envFrom"));
        };
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in entries {
            let value = String::from_utf8_lossy(value).into_owned();
            let reserved = self.reserve(value.len());
            reserved.map_err(|e| e.of_field(format!("envFrom: {kind} {name:?}")))?;
            self.set(&format!("{prefix}{key}"), value);
        }
        Ok(())
    }

    /// The text with its references expanded, each to something: what an empty one leaves of a path
    /// would be another path (the kubelet's `ExpandContainerVolumeMounts`, with its message).
    ///
    /// # Errors
    /// It refers to a variable that is not there, or empty.
    pub(super) fn expand_known(&self, text: &str) -> Result<String, TranslateError> {
        let mut missing = BTreeSet::new();
        let expanded = self.expand_with(text, MAX_PATH, |name, value| {
            if value.is_none_or(str::is_empty) {
                missing.insert(name.to_owned());
            }
        });
        if !missing.is_empty() {
            let missing: Vec<String> = missing.into_iter().collect();
            return Err(TranslateError::MissingVariables(missing));
        }
        expanded.ok_or(TranslateError::PathTooLong(MAX_PATH))
    }

    /// The text with its references expanded.
    ///
    /// # Errors
    /// The container's texts have too many bytes with it.
    pub(super) fn expand(&mut self, text: &str) -> Result<String, TranslateError> {
        let expanded = self.expand_with(text, self.bytes_left, |_, _| ());
        let expanded = expanded.ok_or(TranslateError::TextTooLarge(MAX_EXPANDED))?;
        self.reserve(expanded.len())?;
        Ok(expanded)
    }

    /// The text with its references expanded; `None` where it would have more bytes than `limit`.
    fn expand_with(
        &self,
        text: &str,
        limit: usize,
        mut on_name: impl FnMut(&str, Option<&str>),
    ) -> Option<String> {
        let mut out = String::new();
        for piece in pieces(text) {
            let texts = match piece {
                Piece::Text(text) => ["", text, ""],
                Piece::Reference(name) => {
                    let value = self.values.get(name).map(String::as_str);
                    on_name(name, value);
                    value.map_or(["$(", name, ")"], |value| ["", value, ""])
                }
            };
            for text in texts {
                if text.len() > limit.saturating_sub(out.len()) {
                    return None;
                }
                out.push_str(text);
            }
        }
        Some(out)
    }

    /// Each text of one of the container's fields expanded.
    ///
    /// # Errors
    /// The container's texts have too many bytes with one of them.
    pub(super) fn expand_all(
        &mut self,
        field: &str,
        texts: Option<&Vec<String>>,
    ) -> Result<Vec<String>, TranslateError> {
        let texts = texts.into_iter().flatten().enumerate();
        let expanded = texts.map(|(index, text)| {
            let text = self.expand(text);
            text.map_err(|e| e.of_field(format!("{field}[{index}]")))
        });
        expanded.collect()
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

    fn try_environment(container: &Container) -> Result<Environment, TranslateError> {
        let pod = StaticPod {
            key: crate::manifest::PodKey {
                namespace: "n".into(),
                name: "p".into(),
            },
            uid: "u".into(),
            ..StaticPod::default()
        };
        let (facts, instance) = (NodeFacts::default(), ContainerInstance::default());
        super::environment(&facts, &pod, container, &instance)
    }

    fn environment(container: &Container) -> Environment {
        try_environment(container).unwrap()
    }

    #[test]
    fn all_texts_of_a_container_share_one_limit() {
        let half = "x".repeat(MAX_EXPANDED / 2);
        let variables = [("A", half.as_str()), ("B", "$(A)"), ("C", "$(A)")];
        let error = try_environment(&container(&variables))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("env \"C\": "), "{error}");
        let mut environment = environment(&container(&variables[..2]));
        let args = vec![String::new(), "x".to_owned()];
        let error = environment
            .expand_all("args", Some(&args))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("args[1]: "), "{error}");
        let error = environment.expand_known("$(A)").unwrap_err().to_string();
        assert!(error.contains("more than 4096 bytes"), "{error}");
        assert_eq!(environment.expand_known("a/b").unwrap(), "a/b");
    }

    #[test]
    fn references_expand_as_kubernetes_documents_it() {
        let mut environment = environment(&container(&[("A", "1"), ("B", "x$(A)y")]));
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
            assert_eq!(environment.expand(text).unwrap(), expected, "{text}");
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
