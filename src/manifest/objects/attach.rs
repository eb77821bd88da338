//! A Pod with the objects that it refers to.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::references::{ReferenceUse, UsedObject, used};
use super::{ObjectKey, ObjectKind, ObjectSet, Objects};
use crate::manifest::{PackedPod, StaticPod, identity};

/// The Pod with the objects that it refers to, and the UID that comes of them; as it is if it refers to
/// none.
#[must_use]
pub fn attach(pod: &Arc<StaticPod>, set: &ObjectSet) -> Arc<StaticPod> {
    with(pod, found(&used(&pod.spec), &pod.key.namespace, set).into())
}

/// The same of a packed Pod; `before` is what it gave for the same Pod before, which is still right if the objects are
/// the same.
#[must_use]
pub fn attach_packed(pod: &PackedPod, set: &ObjectSet, before: Option<&PackedPod>) -> PackedPod {
    let objects = found(&pod.uses, &pod.key.namespace, set);
    match before.filter(|before| *before.objects == objects) {
        Some(before) => before.clone(),
        None if objects.is_empty() => pod.clone(),
        None => with(&pod.unpack(), objects.into()).into(),
    }
}

/// Returns these objects of the set.
fn found(used: &[UsedObject], namespace: &str, set: &ObjectSet) -> Objects {
    let mut objects = Objects::default();
    for UsedObject {
        kind,
        name,
        used_for,
    } in used
    {
        let key = ObjectKey {
            kind: *kind,
            namespace: namespace.to_owned(),
            name: name.clone(),
        };
        let content = set.get(&key).cloned();
        let name = key.name;
        if *used_for == ReferenceUse::Pulls {
            objects.pull_secrets.insert(name, content);
            continue;
        }
        let entries = content.map(|content| content.entries);
        match kind {
            ObjectKind::ConfigMap => objects.config_maps.insert(name, entries),
            ObjectKind::Secret => objects.secrets.insert(name, entries),
        };
    }
    objects
}

/// The Pod with these objects.
#[must_use]
pub fn with(pod: &Arc<StaticPod>, objects: Arc<Objects>) -> Arc<StaticPod> {
    if objects.is_empty() {
        return Arc::clone(pod);
    }
    let mut pod = StaticPod::clone(pod);
    if !objects.has_no_data() {
        let node = pod.spec.node_name.as_deref().unwrap_or_default();
        let uid = identity::uid_with(&pod.document, node, &digest(&objects));
        identity::set_uid(&mut pod.metadata, &uid);
        pod.uid = uid.into();
    }
    pod.objects = objects;
    Arc::new(pod)
}

/// Digest that the UID of a Pod includes besides its document: each object's name and content, or its
/// absence. Credentials for registries change while a Pod runs, and are left out.
fn digest(objects: &Objects) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for (kind, all) in [("c", &objects.config_maps), ("s", &objects.secrets)] {
        for (name, entries) in all {
            add(kind.as_bytes());
            add(name.as_bytes());
            let count = entries.as_ref().map_or(u64::MAX, |e| e.len() as u64);
            add(&count.to_be_bytes());
            for (key, value) in entries.iter().flat_map(|e| e.iter()) {
                add(key.as_bytes());
                add(value);
            }
        }
    }
    hash.finalize().into()
}
