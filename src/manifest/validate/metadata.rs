//! A Pod's metadata.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::start_after::{self, START_AFTER, START_AFTER_TIMEOUT};
use super::super::{ROLLBACK_AFTER, identity};
use super::names::{is_dns_subdomain, is_qualified_name};
use super::{FieldPath, Validator, names, unexpected};
use crate::units::duration::parse_duration;

/// All keys and values of annotations together.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// As long as a name may be.
const MAX_NAME: usize = 253;
/// Digits of a Pod's UID.
const UID: usize = 32;
/// The finalizers of Kubernetes itself, without a domain.
const FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
/// Seccomp profiles were once named by annotations.
const OLD_SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/";

/// Prefix of podkeeper's own annotations, and all of them.
const OWN_PREFIX: &str = "podkeeper.io/";
const OWN: [&str; 3] = [ROLLBACK_AFTER, START_AFTER, START_AFTER_TIMEOUT];

impl Validator<'_> {
    pub(super) fn metadata(&mut self, pod: &Pod, node_name: &str) {
        let field = FieldPath::new("metadata");
        let metadata = &pod.metadata;
        self.pod_name(&field.key("name"), metadata, node_name);
        if let Some(namespace) = metadata.namespace.as_deref().filter(|n| !n.is_empty()) {
            self.dns_label(&field.key("namespace"), namespace);
        }
        if let Some(prefix) = metadata.generate_name.as_deref().filter(|n| !n.is_empty()) {
            self.dns_subdomain(&field.key("generateName"), prefix.trim_end_matches('-'));
        }
        for (key, value) in metadata.labels.iter().flatten() {
            let field = field.key("labels").key(key);
            self.qualified_name(&field, key);
            self.label_value(&field, value);
        }
        self.annotations(&field.key("annotations"), metadata, node_name);
        self.known_annotations(&field.key("annotations"), pod);
        self.added_by_server(&field, metadata);
    }

    fn pod_name(&mut self, field: &FieldPath, metadata: &ObjectMeta, node_name: &str) {
        let name = metadata.name.as_deref().unwrap_or_default();
        if !self.required(field, name, "the Pod's name") {
            return;
        }
        // The API sees the full name alone, so this one may end in what cannot end a name.
        let full = format!("{name}-{}", node_name.to_lowercase());
        let length = full.len();
        // The folder of its logs is NAMESPACE_NAME_UID, which readers of logs take apart.
        let namespace = metadata.namespace.as_deref().filter(|n| !n.is_empty());
        let namespace = namespace.unwrap_or("default").len();
        let most = names::MAX_FILE_NAME.saturating_sub(namespace);
        let most = most.saturating_sub("__".len()).saturating_sub(UID);
        let most = most.min(MAX_NAME);
        if length > most {
            let own = most
                .saturating_sub(node_name.len())
                .saturating_sub("-".len());
            let message = format!(
                "is {length} characters long with the node's name {node_name:?}, expected at most {most}, \
                 so at most {own} without it: the folder of its logs, NAMESPACE_NAME_UID, is the name of a \
                 file, of at most {} characters",
                names::MAX_FILE_NAME
            );
            self.refuse(field, message);
        } else {
            self.expect(is_dns_subdomain(&full), field, name, names::DNS_SUBDOMAIN);
        }
    }

    fn annotations(&mut self, field: &FieldPath, metadata: &ObjectMeta, node_name: &str) {
        let mut size = 0_usize;
        for (key, value) in metadata.annotations.iter().flatten() {
            size = size.saturating_add(key.len()).saturating_add(value.len());
            // Upper case is taken in the domain of an annotation, though not of a label.
            let good = is_qualified_name(&key.to_lowercase());
            self.expect(good, &field.key(key), key, names::QUALIFIED_NAME);
            if key.starts_with(OLD_SECCOMP) {
                let message = "has no effect any more, use securityContext.seccompProfile";
                self.warn(&field.key(key), message);
            }
            let found = match key.as_str() {
                ROLLBACK_AFTER | START_AFTER_TIMEOUT => parse_duration(value).map(|_| ()),
                START_AFTER => {
                    let name = metadata.name.as_deref().unwrap_or_default();
                    let own = identity::key(name, metadata.namespace.as_deref(), node_name);
                    start_after::read_names(value, &own, node_name).map(|_| ())
                }
                other if other.starts_with(OWN_PREFIX) => {
                    let known = OWN.join(", ");
                    let message =
                        format!("unknown annotation, expected one of {known}. It has no effect");
                    self.warn(&field.key(key), message);
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(message) = found {
                self.refuse(&field.key(key), message);
            }
        }
        let has = |name| {
            metadata
                .annotations
                .as_ref()
                .is_some_and(|all| all.contains_key(name))
        };
        if has(START_AFTER_TIMEOUT) && !has(START_AFTER) {
            let message = format!("has no effect without {START_AFTER}");
            self.warn(&field.key(START_AFTER_TIMEOUT), message);
        }
        if size > MAX_ANNOTATIONS {
            let message = format!("hold {size} bytes, expected at most {MAX_ANNOTATIONS}");
            self.refuse(field, message);
        }
    }

    /// Checks fields that have no effect, which must be valid all the same.
    fn added_by_server(&mut self, field: &FieldPath, metadata: &ObjectMeta) {
        if let Some(generation) = metadata.generation.filter(|g| *g < 0) {
            let field = field.key("generation");
            self.refuse(&field, format!("found {generation}, expected 0 or more"));
        }
        let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
        for (field, finalizer) in field.items("finalizers", &metadata.finalizers) {
            self.qualified_name(&field, finalizer);
            let known = finalizer.contains('/') || FINALIZERS.contains(&finalizer.as_str());
            if is_qualified_name(finalizer) && !known {
                let expected = "a name with a domain, such as example.com/tidy";
                self.refuse(&field, unexpected(finalizer, expected));
            }
        }
        if ["orphan", "foregroundDeletion"]
            .iter()
            .all(|f| finalizers.iter().any(|g| f == g))
        {
            let message = "found orphan and foregroundDeletion, expected one of both";
            self.refuse(&field.key("finalizers"), message);
        }
        let mut controlled = false;
        for (field, owner) in field.items("ownerReferences", &metadata.owner_references) {
            for (name, value) in [
                ("apiVersion", &owner.api_version),
                ("kind", &owner.kind),
                ("name", &owner.name),
                ("uid", &owner.uid),
            ] {
                self.required(&field.key(name), value, "that of the owner");
            }
            let version = owner.api_version.as_str();
            let (group, number) = version.split_once('/').unwrap_or(("", version));
            if !version.is_empty() && (number.is_empty() || number.contains('/')) {
                let message = unexpected(version, "VERSION or GROUP/VERSION");
                self.refuse(&field.key("apiVersion"), message);
            }
            if (group, number, owner.kind.as_str()) == ("", "v1", "Event") {
                self.refuse(&field, "found an Event, which cannot own anything");
            }
            if owner.controller == Some(true) && std::mem::replace(&mut controlled, true) {
                let message = "found a second owner that is the controller, expected one at most";
                self.refuse(&field, message);
            }
        }
    }
}
