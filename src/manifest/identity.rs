//! Identity of a static Pod: its name on this node, and its UID.

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::hex::hex;

use super::{CONFIG_SOURCE, PodKey, SourceKind, WrittenDocument};

/// Half of SHA-256 is plenty to distinguish versions of Pods.
const UID_BYTES: usize = 16;

/// The UID of a document on a node: 32 hex digits. It depends on what the document says, not on how it
/// is laid out.
pub(super) fn uid(document: &WrittenDocument, node_name: &str) -> String {
    uid_with(document, node_name, &[])
}

/// The same for a Pod that refers to objects, of which `objects` is a digest.
pub(super) fn uid_with(document: &WrittenDocument, node_name: &str, objects: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(document.as_str());
    hash.update([0]);
    hash.update(node_name);
    if !objects.is_empty() {
        hash.update([0]);
        hash.update(objects);
    }
    let digits = hash.finalize();
    hex(&digits[..UID_BYTES])
}

/// Gives the Pod what every static Pod on this node has, and returns its key.
pub(super) fn identify(pod: &mut Pod, uid: &str, node_name: &str, source: SourceKind) -> PodKey {
    let metadata = &mut pod.metadata;
    let key = key(
        metadata.name.as_deref().unwrap_or_default(),
        metadata.namespace.as_deref(),
        node_name,
    );
    metadata.name = Some(key.name.clone());
    metadata.namespace = Some(key.namespace.clone());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), source.as_str().to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node_name.to_owned());
    tolerate_all(spec.tolerations.get_or_insert_default());
    set_uid(&mut pod.metadata, uid);
    key
}

/// Adds the toleration of a static Pod, in place of one that differs at most in how long it holds.
fn tolerate_all(tolerations: &mut Vec<Toleration>) {
    let own = Toleration {
        effect: Some("NoExecute".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    let same = |t: &&mut Toleration| {
        t.effect == own.effect && t.operator == own.operator && empty(&t.key) && empty(&t.value)
    };
    let mut found = false;
    for toleration in tolerations.iter_mut().filter(same) {
        *toleration = own.clone();
        found = true;
    }
    if !found {
        tolerations.reserve_exact(1);
        tolerations.push(own);
    }
}

/// Sets a Pod's UID, in both fields that hold it.
pub(super) fn set_uid(metadata: &mut ObjectMeta, uid: &str) {
    metadata.uid = Some(uid.to_owned());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.hash".to_owned(), uid.to_owned());
}

/// Which Pod on this node a manifest with this name and namespace is about.
pub(super) fn key(name: &str, namespace: Option<&str>, node_name: &str) -> PodKey {
    let namespace = namespace.filter(|n| !n.is_empty()).unwrap_or("default");
    PodKey {
        namespace: namespace.to_owned(),
        name: format!("{name}-{node_name}").to_lowercase(),
    }
}
