//! Environment variables and where their values come from (Kubernetes, Downward API, for the fields).

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVarSource, FileKeySelector, ObjectFieldSelector, PodSpec,
    ResourceFieldSelector,
};

use super::super::defaults::is_huge_pages;
use super::super::expansion::too_large;
use super::super::objects::Objects;
use super::super::requests::all_containers;
use super::super::{path, shown};
use super::{FieldPath, Validator, names, unexpected};

/// The fields that a variable can have.
const VARIABLE_FIELDS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    // Its name of old.
    "spec.host",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields that a file of a volume can have.
pub(super) const FILE_FIELDS: [&str; 5] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
];
/// Divisors allowed for amounts of memory and storage.
const BYTE_DIVISORS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

impl Validator<'_> {
    pub(super) fn environment(&mut self, field: &FieldPath, container: &Container, spec: &PodSpec) {
        for (field, variable) in field.items("env", &container.env) {
            let name_field = field.key("name");
            if self.required(&name_field, &variable.name, "the variable's name") {
                self.variable_name(&name_field, &variable.name);
            }
            if let Some(source) = &variable.value_from {
                let field = field.key("valueFrom");
                if variable.value.as_ref().is_some_and(|v| !v.is_empty()) {
                    self.refuse(&field, "found with a value as well, expected one of both");
                }
                self.variable_source(&field, source, spec);
            }
        }
        for (field, source) in field.items("envFrom", &container.env_from) {
            self.env_from(&field, source);
        }
        if let Some(found) = too_large(container, &Objects::default()) {
            let field = FieldPath(path::join(&field.0, &found.field));
            self.refuse(&field, found.to_string());
        }
    }

    fn variable_name(&mut self, field: &FieldPath, name: &str) {
        let good = names::is_variable_name(name);
        self.expect(good, field, name, names::VARIABLE_NAME);
    }

    fn variable_source(&mut self, field: &FieldPath, source: &EnvVarSource, spec: &PodSpec) {
        self.one_source(
            field,
            &[
                ("fieldRef", source.field_ref.is_some()),
                ("resourceFieldRef", source.resource_field_ref.is_some()),
                ("configMapKeyRef", source.config_map_key_ref.is_some()),
                ("secretKeyRef", source.secret_key_ref.is_some()),
                ("fileKeyRef", source.file_key_ref.is_some()),
            ],
        );
        if let Some(selector) = &source.field_ref {
            self.pod_field(&field.key("fieldRef"), selector, &VARIABLE_FIELDS);
        }
        if let Some(selector) = &source.resource_field_ref {
            self.resource_field(&field.key("resourceFieldRef"), selector, spec);
        }
        let config_map = source.config_map_key_ref.as_ref();
        let config_map = config_map.map(|s| ("configMapKeyRef", &s.name, &s.key));
        let secret = source.secret_key_ref.as_ref();
        let secret = secret.map(|s| ("secretKeyRef", &s.name, &s.key));
        for (kind, name, key) in config_map.into_iter().chain(secret) {
            let field = field.key(kind);
            self.object_name(&field.key("name"), name);
            self.object_key(&field.key("key"), key);
        }
        if let Some(selector) = &source.file_key_ref {
            self.file_key(&field.key("fileKeyRef"), selector, spec);
        }
    }

    /// The name of a `ConfigMap` or `Secret`.
    pub(super) fn object_name(&mut self, field: &FieldPath, name: &str) {
        if self.required(field, name, "the object's name") {
            self.dns_subdomain(field, name);
        }
    }

    pub(super) fn object_key(&mut self, field: &FieldPath, key: &str) {
        if self.required(field, key, "a key of the object") {
            let good = names::is_object_key(key);
            self.expect(good, field, key, names::OBJECT_KEY);
        }
    }

    /// Exactly one of the kinds of source is given.
    fn one_source(&mut self, field: &FieldPath, kinds: &[(&str, bool)]) {
        let mut given = kinds.iter().filter(|(_, given)| *given);
        let names: Vec<_> = kinds.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        match (given.next(), given.next()) {
            (None, _) => self.refuse(field, format!("names no source, expected one of {names}")),
            (Some((first, _)), Some((second, _))) => {
                let message = format!("found {first} and {second}, expected one of {names}");
                self.refuse(field, message);
            }
            _ => {}
        }
    }

    fn file_key(&mut self, field: &FieldPath, selector: &FileKeySelector, spec: &PodSpec) {
        let path_field = field.key("path");
        if self.required(&path_field, &selector.path, "a path in the volume") {
            self.path_below(&path_field, &selector.path);
        }
        let key_field = field.key("key");
        if self.required(
            &key_field,
            &selector.key,
            "the name of a variable in the file",
        ) {
            self.variable_name(&key_field, &selector.key);
        }
        let volume_field = field.key("volumeName");
        let name = &selector.volume_name;
        if !self.required(&volume_field, name, "the name of a volume") {
            return;
        }
        let volume = spec.volumes.iter().flatten().find(|v| v.name == *name);
        match volume.map(|v| v.empty_dir.is_some()) {
            Some(true) => {}
            Some(false) => {
                let message = unexpected(name, "a volume of the kind emptyDir");
                self.refuse(&volume_field, message);
            }
            None => {
                let message = unexpected(name, "the name of one of spec.volumes");
                self.refuse(&volume_field, message);
            }
        }
    }

    fn env_from(&mut self, field: &FieldPath, source: &EnvFromSource) {
        if let Some(prefix) = source.prefix.as_deref().filter(|p| !p.is_empty()) {
            self.variable_name(&field.key("prefix"), prefix);
        }
        let config_map = source.config_map_ref.as_ref();
        let secret = source.secret_ref.as_ref();
        self.one_source(
            field,
            &[
                ("configMapRef", config_map.is_some()),
                ("secretRef", secret.is_some()),
            ],
        );
        let names = [
            ("configMapRef", config_map.map(|r| &r.name)),
            ("secretRef", secret.map(|r| &r.name)),
        ];
        for (kind, name) in names {
            if let Some(name) = name {
                self.object_name(&field.key(kind).key("name"), name);
            }
        }
    }

    /// Checks a reference to a field of the Pod, one of those that are supported here.
    pub(super) fn pod_field(
        &mut self,
        field: &FieldPath,
        selector: &ObjectFieldSelector,
        known: &[&str],
    ) {
        let version = selector.api_version.as_deref().unwrap_or_default();
        if version != "v1" {
            // The API reports it for the field's path, which it cannot understand then.
            self.refuse(
                field,
                format!("found apiVersion {version:?}, expected \"v1\""),
            );
            return;
        }
        let field = field.key("fieldPath");
        let path = selector.field_path.as_str();
        if !self.required(&field, path, "a field of the Pod such as metadata.name") {
            return;
        }
        let entry = path.strip_suffix("']").and_then(|p| p.split_once("['"));
        let Some((map, key)) = entry else {
            if !known.contains(&path) {
                let expected = format!(
                    "one of {}, metadata.labels['KEY'], metadata.annotations['KEY']",
                    known.join(", ")
                );
                self.refuse(&field, unexpected(path, &expected));
            }
            return;
        };
        let key = match map {
            "metadata.labels" => key.to_owned(),
            "metadata.annotations" => key.to_lowercase(),
            _ => {
                let expected = "metadata.labels['KEY'] or metadata.annotations['KEY']";
                self.refuse(&field, unexpected(path, expected));
                return;
            }
        };
        self.qualified_name(&field, &key);
    }

    /// A request or limit of a container.
    pub(super) fn resource_field(
        &mut self,
        field: &FieldPath,
        selector: &ResourceFieldSelector,
        spec: &PodSpec,
    ) {
        let container = selector.container_name.as_deref().unwrap_or_default();
        let known = all_containers(spec).any(|c| c.name == container);
        if !container.is_empty() && !known {
            let message = unexpected(container, "the name of one of the Pod's containers");
            self.warn(&field.key("containerName"), message);
        }
        let resource = selector.resource.as_str();
        let kind = resource.split_once('.');
        let kind = kind.filter(|(side, _)| ["limits", "requests"].contains(side));
        let divisors: &[&str] = match kind.map(|(_, kind)| kind) {
            Some("cpu") => &["1", "1m"],
            Some("memory" | "ephemeral-storage") => &BYTE_DIVISORS,
            Some(kind) if is_huge_pages(kind) => &BYTE_DIVISORS,
            _ => {
                let expected = "limits or requests of cpu, memory, ephemeral-storage or hugepages-SIZE, such as limits.cpu";
                self.refuse(&field.key("resource"), unexpected(resource, expected));
                return;
            }
        };
        let divisor = selector.divisor.as_ref().map_or("0", |d| d.0.as_str());
        if divisor != "0" && !divisors.contains(&divisor) {
            let message = format!(
                "found {}, expected one of {} for {resource}",
                shown(divisor),
                divisors.join(", ")
            );
            self.refuse(&field.key("divisor"), message);
        }
    }
}
