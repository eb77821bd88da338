//! Secrets with credentials for registries, which a Pod names in `imagePullSecrets` (Kubernetes, Secrets, "Docker
//! config Secrets").
//!
//! Pure. Credentials are read again at each pull, and no message shows any of them.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::{Entries, ObjectContent, Objects};
use crate::manifest::StaticPod;
use crate::manifest::docker_config::{Layout, read_login, read_object, take_entries};

/// The types of Secrets with credentials for registries, each with the key that holds them.
pub(super) const TYPES: [(&str, &str); 2] = [
    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
    ("kubernetes.io/dockercfg", ".dockercfg"),
];
/// The type of a Secret that names none.
const OPAQUE: &str = "Opaque";
/// Fields that name programs which keep credentials.
const HELPERS: [&str; 2] = ["credsStore", "credHelpers"];

impl ObjectContent {
    /// Returns the layout of the credentials for registries, if it is a Secret with such.
    pub(crate) fn layout(&self) -> Option<Layout> {
        layout_of(&self.secret_type)
    }

    /// Returns the type that the API gives to the Secret.
    pub(super) fn type_or_default(&self) -> Arc<str> {
        if self.secret_type.is_empty() {
            OPAQUE.into()
        } else {
            Arc::clone(&self.secret_type)
        }
    }
}

impl Objects {
    /// The content of a Secret with credentials for registries, if there is one of this name.
    pub(super) fn pull_secret(&self, name: &str) -> Option<&ObjectContent> {
        self.pull_secrets.get(name)?.as_ref()
    }
}

/// A Secret with credentials for registries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PullSecret {
    namespace: String,
    name: String,
    content: ObjectContent,
}

/// The Secrets with credentials for a Pod's pulls, in the order of `imagePullSecrets`.
pub type PullSecrets = Vec<PullSecret>;

impl PullSecret {
    /// Returns those of a Pod that are there. `newest` is the Pod as manifests have it now, whose content counts where
    /// it has a Secret too.
    #[must_use]
    pub fn of_pod(pod: &StaticPod, newest: Option<&Objects>) -> PullSecrets {
        let names = pod.spec.image_pull_secrets.iter().flatten();
        let secret = |name: &String| {
            let known = newest.and_then(|newest| newest.pull_secrets.get(name));
            let content = match known {
                Some(newest) => newest.as_ref(),
                None => pod.objects.pull_secret(name),
            };
            let content = content.filter(|content| content.layout().is_some())?;
            Some(Self {
                namespace: pod.key.namespace.clone(),
                name: name.clone(),
                content: content.clone(),
            })
        };
        names
            .filter_map(|reference| secret(&reference.name))
            .collect()
    }

    /// Returns the credentials as text, with their layout.
    ///
    /// # Errors
    /// They are no text.
    pub(crate) fn text(&self) -> Result<(&str, Layout), String> {
        let layout = self.content.layout().unwrap_or(Layout::Config);
        let key = key_of(&self.content.secret_type).unwrap_or_default();
        let bytes = self.content.entries.get(key);
        let text = std::str::from_utf8(bytes.map_or(&[][..], Vec::as_slice));
        Ok((text.map_err(|_| "is no text".to_owned())?, layout))
    }
}

impl fmt::Display for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn layout_of(secret_type: &str) -> Option<Layout> {
    match key_of(secret_type)? {
        ".dockercfg" => Some(Layout::Cfg),
        _ => Some(Layout::Config),
    }
}

fn key_of(secret_type: &str) -> Option<&'static str> {
    let mut types = TYPES.iter();
    types.find_map(|(name, key)| (*name == secret_type).then_some(*key))
}

/// Checks a Secret's data against its type, as the API does, and each entry of it. Returns findings by key: warnings
/// (`Ok`) and errors.
pub(super) fn check(
    secret_type: &str,
    entries: &Entries,
) -> Vec<(&'static str, Result<String, String>)> {
    let Some((key, layout)) = key_of(secret_type).zip(layout_of(secret_type)) else {
        let of_type = TYPES.iter().find(|(_, key)| entries.contains_key(*key));
        let warning = |(name, key): &(&str, &'static str)| {
            let message = format!("for imagePullSecrets the Secret needs the type {name:?}");
            (*key, Ok(message))
        };
        return of_type.map(warning).into_iter().collect();
    };
    let Some(bytes) = entries.get(key) else {
        let message =
            format!("missing, expected the credentials of a Secret of type {secret_type}");
        return vec![(key, Err(message))];
    };
    match check_config(bytes, layout) {
        Ok(warnings) => warnings.into_iter().map(|text| (key, Ok(text))).collect(),
        Err(errors) => errors.into_iter().map(|text| (key, Err(text))).collect(),
    }
}

/// Checks credentials; returns warnings.
///
/// # Errors
/// Everything that is wrong with them.
fn check_config(bytes: &[u8], layout: Layout) -> Result<Vec<String>, Vec<String>> {
    let text = std::str::from_utf8(bytes).map_err(|_| vec!["is no text".to_owned()])?;
    let fields = read_object(text).map_err(|message| vec![message])?;
    let helpers = HELPERS.into_iter().filter(|_| layout == Layout::Config);
    let helpers = helpers.filter(|field| fields.contains_key(*field));
    let warnings = helpers
        .map(|field| format!("{field} has no effect in a Secret: no program is run for it"))
        .collect();
    let entries = take_entries(fields, layout).map_err(|message| vec![message])?;
    let wrong = |(name, entry): (&String, &Value)| {
        let error = read_login(entry).err()?;
        Some(format!("the entry {name:?}: {error}"))
    };
    let entries = entries.unwrap_or_default();
    let errors: Vec<String> = entries.iter().filter_map(wrong).collect();
    if errors.is_empty() {
        Ok(warnings)
    } else {
        Err(errors)
    }
}
