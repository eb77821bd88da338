//! The rules of the Kubernetes API for Pods that can bite a static Pod, each with its field's path
//! (API reference; the words for names are those of Kubernetes, Object Names and IDs).
//!
//! Invalid values are refused. Values that the API accepts but that can hardly be intended give a warning.

mod annotations;
mod container;
mod env;
mod hook;
mod metadata;
mod mounts;
mod names;
mod pod;
mod projected;
mod resources;
mod scheduling;
mod security;
mod volume;

use k8s_openapi::api::core::v1::Pod;

use super::document::Spans;
use super::{Problem, add, hints, path, shown};

pub(crate) use names::{
    LABEL_VALUE, QUALIFIED_NAME, is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name,
};

/// Findings about a Pod.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// Everything that is wrong with a Pod whose types are right and whose defaults are set, and what is
/// dubious.
pub(super) fn validate(pod: &Pod, node_name: &str, spans: &Spans) -> Findings {
    let mut validator = Validator {
        spans,
        found: Findings::default(),
    };
    validator.metadata(pod, node_name);
    if let Some(spec) = &pod.spec {
        validator.spec(spec, node_name);
    }
    validator.found
}

/// The path of a field.
#[derive(Clone)]
struct FieldPath(String);

impl FieldPath {
    fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// A field of this object, or an entry of this map.
    fn key(&self, name: &str) -> Self {
        Self(path::key(&self.0, name))
    }

    /// An item of this list.
    fn index(&self, index: usize) -> Self {
        Self(path::index(&self.0, index))
    }

    /// The items of one of this object's lists, with their paths.
    fn items<'a, T>(
        &self,
        name: &str,
        list: impl IntoIterator<Item = &'a Vec<T>>,
    ) -> Vec<(Self, &'a T)> {
        let list_field = self.key(name);
        let items = list.into_iter().flatten().enumerate();
        items.map(|(i, item)| (list_field.index(i), item)).collect()
    }
}

struct Validator<'a> {
    spans: &'a Spans,
    found: Findings,
}

impl Validator<'_> {
    fn refuse(&mut self, field: &FieldPath, message: impl Into<String>) {
        let problem = self.spans.problem(&field.0, message);
        add(&mut self.found.problems, problem);
    }

    fn warn(&mut self, field: &FieldPath, message: impl Into<String>) {
        let problem = self.spans.problem(&field.0, message);
        add(&mut self.found.warnings, problem.warning());
    }

    /// Refuses unless the rule holds for what was found.
    fn expect(&mut self, holds: bool, field: &FieldPath, found: &str, expected: &str) {
        if !holds {
            self.refuse(field, unexpected(found, expected));
        }
    }

    /// Something has to be there; whether it is.
    fn required(&mut self, field: &FieldPath, found: &str, expected: &str) -> bool {
        if found.is_empty() {
            self.refuse(field, format!("missing, expected {expected}"));
        }
        !found.is_empty()
    }

    /// One of a few words.
    fn one_of(&mut self, field: &FieldPath, found: Option<&str>, expected: &[&str]) {
        let found = found.unwrap_or_default();
        if !expected.contains(&found) {
            let words = expected.iter().filter(|word| !word.is_empty()).copied();
            let expected = format!("one of {}", words.collect::<Vec<_>>().join(", "));
            self.refuse(field, unexpected(found, &expected));
        }
    }

    /// One of a few words, or nothing.
    fn one_of_if_set(&mut self, field: &FieldPath, found: Option<&str>, expected: &[&str]) {
        if found.is_some() {
            self.one_of(field, found, expected);
        }
    }

    /// A number within bounds.
    fn within(&mut self, field: &FieldPath, found: i64, least: i64, most: i64) {
        if !(least..=most).contains(&found) {
            self.refuse(field, format!("found {found}, expected {least} to {most}"));
        }
    }

    fn twice(&mut self, field: &FieldPath, found: &str, what: &str) {
        let found = shown(found);
        self.refuse(
            field,
            format!("found {found} twice, expected each {what} once"),
        );
    }

    fn dns_label(&mut self, field: &FieldPath, name: &str) {
        let good = names::is_dns_label(name);
        self.expect(good, field, name, names::DNS_LABEL);
    }

    fn dns_subdomain(&mut self, field: &FieldPath, name: &str) {
        let good = is_dns_subdomain(name);
        self.expect(good, field, name, names::DNS_SUBDOMAIN);
    }

    fn qualified_name(&mut self, field: &FieldPath, name: &str) {
        let good = names::is_qualified_name(name);
        self.expect(good, field, name, names::QUALIFIED_NAME);
    }

    fn label_value(&mut self, field: &FieldPath, value: &str) {
        let good = names::is_label_value(value);
        self.expect(good, field, value, names::LABEL_VALUE);
    }

    /// A relative path without `..`, which cannot leave what it is below.
    fn path_below(&mut self, field: &FieldPath, path: &str) {
        if path.starts_with('/') {
            self.refuse(field, unexpected(path, "a relative path"));
        }
        self.no_parent(field, path);
    }

    /// The same for a file that the agent writes, whose own names begin with `..`.
    fn file_path(&mut self, field: &FieldPath, path: &str) {
        if !self.required(field, path, "a relative path") {
            return;
        }
        self.path_below(field, path);
        if path.starts_with("..") && !names::has_parent(path) {
            self.refuse(
                field,
                unexpected(path, "a name that does not begin with '..'"),
            );
        }
    }

    fn no_parent(&mut self, field: &FieldPath, path: &str) {
        if names::has_parent(path) {
            self.refuse(field, unexpected(path, "a path without '..'"));
        }
        self.path_fits(field, path);
    }

    /// No file system has longer names, and the kernel takes no longer paths.
    fn path_fits(&mut self, field: &FieldPath, path: &str) {
        let longest = path.split('/').map(str::len).max().unwrap_or(0);
        if longest > names::MAX_FILE_NAME {
            let most = names::MAX_FILE_NAME;
            let message = format!("has a name of {longest} bytes, expected at most {most}");
            self.refuse(field, message);
        } else if path.len() > names::MAX_PATH {
            let (length, most) = (path.len(), names::MAX_PATH);
            let message = format!("is {length} bytes long, expected at most {most}");
            self.refuse(field, message);
        }
    }
}

/// Says that one thing was found and another expected.
fn unexpected(found: &str, expected: &str) -> String {
    let hint = hints::of_template(found);
    format!("found {}, expected {expected}{hint}", shown(found))
}
