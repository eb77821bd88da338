//! The record of a version: its manifest as written and where that came from. It stands in the Pod's folder,
//! so that the version can be carried on, or ended properly, after the agent died.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::manifest::objects::{self, Objects};
use crate::manifest::{self, PodKey, SourceKind, StaticPod, WrittenDocument};

/// The record of a Pod that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's full name.
    pub name: String,
    /// The node's name when it was accepted.
    pub node: String,
    /// The manifest it came from.
    pub path: String,
    /// First time that it was seen, RFC 3339.
    pub seen: String,
    /// The kind of source that it came from.
    #[serde(default)]
    pub source: SourceKind,
    /// The document as written.
    pub document: WrittenDocument,
    /// The `ConfigMap`s and `Secret`s that it refers to, as they were.
    #[serde(default, skip_serializing_if = "has_none")]
    pub objects: Arc<Objects>,
}

impl Record {
    /// The Pod's key.
    #[must_use]
    pub fn key(&self) -> PodKey {
        PodKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// The Pod, if this version of the agent still accepts it.
    #[must_use]
    pub fn version(&self) -> Option<Arc<StaticPod>> {
        let document = self.document.as_str().as_bytes();
        let accepted = manifest::parse(document, &self.node, self.source).ok()?;
        Some(objects::with(&accepted.pod, Arc::clone(&self.objects)))
    }
}

fn has_none(objects: &Arc<Objects>) -> bool {
    objects.is_empty()
}
