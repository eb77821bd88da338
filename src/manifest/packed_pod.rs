//! A Pod that was accepted, in little memory while nobody works with it.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::objects::{self, Objects, UsedObject};
use super::{PodKey, StartAfter, StaticPod, Uid, WrittenDocument};
use crate::json;

/// A Pod that was accepted, with its metadata and spec as JSON. As a [`StaticPod`] they take seven kilobytes even of a
/// small Pod, and every Pod of the node has one for as long as it is there. Copies share all of it.
pub struct PackedPod {
    packed: Arc<Packed>,
    /// The Pod from its first use by [`PackedPod::get`] until [`PackedPod::rest`].
    in_use: OnceLock<Arc<StaticPod>>,
}

/// The parts of a packed Pod that are at hand at any time.
pub struct Packed {
    /// Namespace and full name.
    pub key: PodKey,
    /// UID.
    pub uid: Uid,
    /// The document as it was written.
    pub document: WrittenDocument,
    /// The `ConfigMap`s and `Secret`s that it refers to.
    pub objects: Arc<Objects>,
    /// The Pods that are to be Ready before it starts for the first time.
    pub start_after: Option<Arc<StartAfter>>,
    /// Names of those objects.
    pub(super) uses: Box<[UsedObject]>,
    /// Metadata and spec.
    json: Box<[u8]>,
    /// The Pod itself, where that JSON says something else.
    kept: Option<Arc<StaticPod>>,
    /// The Pod while anybody has it.
    unpacked: Mutex<Weak<StaticPod>>,
}

/// The parts of a Pod that are written as JSON.
#[derive(Default, Serialize, Deserialize)]
struct Parts<M = Box<ObjectMeta>, S = Box<PodSpec>> {
    metadata: M,
    spec: S,
}

impl PackedPod {
    /// Returns the Pod. It takes some microseconds where nobody has it.
    #[must_use]
    pub fn unpack(&self) -> Arc<StaticPod> {
        if let Some(pod) = self.in_use.get().or(self.kept.as_ref()) {
            return Arc::clone(pod);
        }
        let mut unpacked = self.unpacked();
        if let Some(pod) = unpacked.upgrade() {
            return pod;
        }
        // It was tried when it was written.
        let pod = Arc::new(self.decode().unwrap_or_default());
        *unpacked = Arc::downgrade(&pod);
        pod
    }

    /// Returns the Pod, and keeps it at hand until [`PackedPod::rest`].
    #[must_use]
    pub fn get(&self) -> &Arc<StaticPod> {
        self.in_use.get_or_init(|| self.unpack())
    }

    /// Keeps nothing but the JSON until the Pod is used again.
    pub fn rest(&mut self) {
        self.in_use.take();
    }

    /// Returns true while anybody has the Pod unpacked.
    #[must_use]
    pub fn is_unpacked(&self) -> bool {
        self.kept.is_some() || self.packed.unpacked().strong_count() > 0
    }

    /// Returns true if both are copies of one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.packed, &other.packed)
    }
}

impl Packed {
    fn unpacked(&self) -> MutexGuard<'_, Weak<StaticPod>> {
        self.unpacked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decode(&self) -> Option<StaticPod> {
        let Parts { metadata, spec } = json::from_slice(&self.json).ok()?;
        Some(StaticPod {
            key: self.key.clone(),
            uid: self.uid.clone(),
            metadata,
            spec,
            document: self.document.clone(),
            objects: Arc::clone(&self.objects),
            start_after: self.start_after.clone(),
        })
    }
}

impl From<&StaticPod> for PackedPod {
    fn from(pod: &StaticPod) -> Self {
        let (metadata, spec) = (&*pod.metadata, &*pod.spec);
        let json = serde_json::to_vec(&Parts { metadata, spec }).unwrap_or_default();
        let mut packed = Packed {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            document: pod.document.clone(),
            objects: Arc::clone(&pod.objects),
            start_after: pod.start_after.clone(),
            uses: objects::used(&pod.spec),
            json: json.into_boxed_slice(),
            kept: None,
            unpacked: Mutex::default(),
        };
        // What runs is never to depend on this.
        if packed.decode().as_ref() != Some(pod) {
            packed.kept = Some(Arc::new(pod.clone()));
        }
        Self {
            packed: Arc::new(packed),
            in_use: OnceLock::new(),
        }
    }
}

impl From<&Arc<StaticPod>> for PackedPod {
    fn from(pod: &Arc<StaticPod>) -> Self {
        let packed = Self::from(&**pod);
        *packed.unpacked() = Arc::downgrade(pod);
        packed
    }
}

impl From<Arc<StaticPod>> for PackedPod {
    fn from(pod: Arc<StaticPod>) -> Self {
        Self::from(&pod)
    }
}

impl Clone for PackedPod {
    fn clone(&self) -> Self {
        Self {
            packed: Arc::clone(&self.packed),
            in_use: OnceLock::new(),
        }
    }
}

impl Deref for PackedPod {
    type Target = Packed;

    fn deref(&self) -> &Packed {
        &self.packed
    }
}

impl PartialEq for PackedPod {
    fn eq(&self, other: &Self) -> bool {
        let Packed {
            key,
            uid,
            document,
            objects,
            start_after,
            uses: _,
            json,
            kept,
            unpacked: _,
        } = &**self;
        // What is compared is shared mostly: all Pods of the node are with each change of one.
        self.is_same(other)
            || (*key == other.key
                && *uid == other.uid
                && *json == other.json
                && *kept == other.kept
                && *document == other.document
                && *objects == other.objects
                && *start_after == other.start_after)
    }
}

impl fmt::Debug for PackedPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unpack().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::manifest::{SourceKind, parse};

    fn pod() -> Arc<StaticPod> {
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {}, annotations: {a: b}}, spec: {\
            volumes: [{name: v}], initContainers: [{name: i, image: i, env: []}], containers: [{name: c, image: i, \
            envFrom: [{configMapRef: {name: m}}], volumeMounts: [{name: v, mountPath: /v}], resources: {limits: \
            {cpu: 100m}}, livenessProbe: {httpGet: {port: web}}, ports: [{name: web, containerPort: 80}]}]}}";
        parse(text.as_bytes(), "n", SourceKind::File).unwrap().pod
    }

    #[test]
    fn a_pod_is_the_same_once_it_was_packed() {
        let pod = pod();
        let packed = PackedPod::from(&*pod);
        assert!(!packed.is_unpacked(), "JSON says the same");
        assert_eq!(packed.unpack(), pod);
        assert_eq!((&packed.key, &packed.uid), (&pod.key, &pod.uid));
        assert_eq!(format!("{packed:?}"), format!("{pod:?}"));
        let mut other = StaticPod::clone(&pod);
        other.spec.hostname = Some("h".to_owned());
        assert_ne!(PackedPod::from(&other), packed);
        assert_eq!(PackedPod::from(&pod), packed);
    }

    #[test]
    fn a_pod_that_json_changes_is_kept_as_it_is() {
        let mut pod = StaticPod::clone(&pod());
        // Times have whole seconds in JSON.
        pod.metadata.creation_timestamp = Some(Time(Timestamp::from_nanosecond(1).unwrap()));
        let packed = PackedPod::from(&pod);
        assert_eq!(*packed.unpack(), pod);
        assert!(packed.is_unpacked());
        assert_ne!(packed, PackedPod::from(&*self::pod()));
    }

    #[test]
    fn a_pod_is_unpacked_once_for_all_and_only_while_it_is_used() {
        let mut packed = PackedPod::from(pod());
        let copy = packed.clone();
        assert!(packed.is_same(&copy) && !packed.is_unpacked());
        assert!(Arc::ptr_eq(packed.get(), &copy.unpack()));
        assert!(copy.is_unpacked());
        packed.rest();
        assert!(!copy.is_unpacked() && !packed.is_unpacked());
        let used = copy.get();
        assert!(Arc::ptr_eq(used, &packed.unpack()));
    }
}
