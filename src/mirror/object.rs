//! The mirror Pod: what is made for a static Pod, and what is seen of one (Kubernetes, Static Pods and
//! Well-Known Annotations).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::watch::WatchedObject;
use crate::manifest::PodKey;
use crate::pod::encoded_status::EncodedStatus;
use crate::pod::report::PodSnapshot;

/// The annotation that makes a Pod a mirror Pod; its value is the static Pod's UID.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

/// This node, as the API server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Its name.
    pub name: String,
    /// The Node's UID there.
    pub uid: String,
}

/// The mirror Pod of a static Pod, without its status, which the API server does not take with it;
/// `None` while no version of the Pod is known.
#[must_use]
pub fn mirror(snapshot: &PodSnapshot, node: &NodeIdentity) -> Option<Pod> {
    let Pod {
        metadata, mut spec, ..
    } = snapshot.pod()?;
    if let Some(spec) = &mut spec {
        // The API server works them out from the priority class, and refuses any others. They have no effect
        // on a node.
        (spec.priority, spec.preemption_policy) = (None, None);
    }
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), metadata.uid?);
    Some(Pod {
        metadata: ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.name.clone(),
                uid: node.uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    })
}

/// Fields kept of a Pod of this node that the API server has; the rest is dropped to save memory.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "ReceivedPod")]
pub(super) struct SeenPod {
    pub(super) key: PodKey,
    /// The API server's UID, which is another one than the static Pod's.
    pub(super) uid: String,
    pub(super) resource_version: Option<String>,
    /// The UID of the static Pod that it mirrors, if it is a mirror Pod.
    pub(super) mirrors: Option<String>,
    /// The Node that controls it.
    pub(super) owner: Option<Box<NodeIdentity>>,
    /// Somebody deleted it, and it waits for being finished.
    pub(super) is_leaving: bool,
    pub(super) status: EncodedStatus,
    /// Of a Pod that is no mirror Pod.
    pub(super) containers: Vec<SeenContainer>,
}

/// A Pod as the API server sends it.
#[derive(Deserialize)]
struct ReceivedPod {
    metadata: SeenMeta,
    /// Empty where it makes no sense, so that it is written again.
    #[serde(default, deserialize_with = "or_default")]
    status: PodStatus,
    #[serde(default, deserialize_with = "or_default")]
    spec: ReceivedSpec,
}

/// The part of a Pod's spec that counts.
#[derive(Default, Deserialize)]
struct ReceivedSpec {
    #[serde(default)]
    containers: Vec<SeenContainer>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct SeenContainer {
    pub(super) name: String,
    pub(super) image: String,
}

/// The part of [`ObjectMeta`] that counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SeenMeta {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    pub(super) owner_references: Option<Vec<OwnerReference>>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) deletion_timestamp: Option<IgnoredAny>,
}

/// A part of an object, or its default where a value is none of its type: one object that makes no sense is
/// not to keep all others of a list from being seen.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

impl From<ReceivedPod> for SeenPod {
    fn from(received: ReceivedPod) -> Self {
        let ReceivedPod {
            metadata,
            status,
            spec,
        } = received;
        let mirrors = metadata.annotations.and_then(|mut all| all.remove(MIRROR));
        let owners = metadata.owner_references.into_iter().flatten();
        let mut owners = owners.filter(|o| o.controller == Some(true) && o.kind == "Node");
        Self {
            key: PodKey {
                namespace: metadata.namespace.unwrap_or_default(),
                name: metadata.name.unwrap_or_default(),
            },
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version,
            owner: owners.next().map(|owner| {
                Box::new(NodeIdentity {
                    name: owner.name,
                    uid: owner.uid,
                })
            }),
            is_leaving: metadata.deletion_timestamp.is_some(),
            status: EncodedStatus::encode(&status),
            containers: match &mirrors {
                Some(_) => vec![],
                None => spec.containers,
            },
            mirrors,
        }
    }
}

impl WatchedObject for SeenPod {
    fn resource_version(&self) -> Option<&str> {
        self.resource_version.as_deref()
    }
}

impl SeenPod {
    /// The UID of the Node with this name, if that controls the Pod.
    pub(super) fn controlled_by(&self, node: &str) -> Option<&str> {
        let owner = self.owner.as_ref().filter(|owner| owner.name == node)?;
        Some(&owner.uid)
    }

    /// The UID of the Node with this name, if it is a mirror Pod that the Node controls.
    pub(super) fn mirror_owner(&self, node: &str) -> Option<&str> {
        self.mirrors.as_ref()?;
        self.controlled_by(node)
    }

    /// True if this is an older state of the same Pod.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        let version = |pod: &Self| pod.resource_version().and_then(|v| v.parse::<u64>().ok());
        self.uid == other.uid && version(self) < version(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse};

    #[test]
    fn a_mirror_has_no_priority_but_its_class() {
        let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {priority: 7, \
                        preemptionPolicy: Never, priorityClassName: high, containers: [{name: c, image: i}]}}";
        let accepted = parse(manifest.as_bytes(), "n1", SourceKind::File).unwrap();
        let snapshot = PodSnapshot {
            version: Some(accepted.pod.into()),
            ..PodSnapshot::default()
        };
        let node = NodeIdentity {
            name: "n1".into(),
            uid: "u".into(),
        };
        let spec = mirror(&snapshot, &node).unwrap().spec.unwrap();
        assert_eq!((spec.priority, spec.preemption_policy), (None, None));
        assert_eq!(spec.priority_class_name.as_deref(), Some("high"));
    }
}
