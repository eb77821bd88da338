//! The Pods of this node that the API server has, by what its list, its watch and its responses say.

use std::collections::{BTreeMap, BTreeSet};

use super::bounded::MAX_ITEMS;
use super::object::SeenPod;
use crate::manifest::PodKey;

/// All Pods of this node that the API server has.
#[derive(Debug)]
pub(super) struct SeenPods {
    /// The name of this node.
    node: String,
    /// `None` until they were listed.
    all: Option<BTreeMap<PodKey, SeenPod>>,
    /// Those of them that are mirror Pods of this node.
    mirrors: usize,
    /// The API server's UIDs of Pods that were deleted and that late changes may still be about.
    deleted: BTreeSet<String>,
}

impl SeenPods {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            all: None,
            mirrors: 0,
            deleted: BTreeSet::new(),
        }
    }

    /// Returns true once all Pods were listed.
    pub(super) fn is_listed(&self) -> bool {
        self.all.is_some()
    }

    pub(super) fn get(&self, key: &PodKey) -> Option<&SeenPod> {
        self.all.as_ref()?.get(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &PodKey> {
        self.all.iter().flat_map(BTreeMap::keys)
    }

    /// The number of mirror Pods of this node.
    pub(super) fn mirrors(&self) -> usize {
        self.mirrors
    }

    /// Takes in a list of all Pods. Returns those that were there before.
    pub(super) fn listed(&mut self, pods: Vec<SeenPod>) -> impl Iterator<Item = PodKey> + use<> {
        self.deleted.clear();
        let all: BTreeMap<_, _> = pods.into_iter().map(|p| (p.key.clone(), p)).collect();
        self.mirrors = all.values().filter(|pod| self.is_mirror(pod)).count();
        let before = self.all.replace(all);
        before.into_iter().flatten().map(|(key, _)| key)
    }

    /// Takes in a Pod that was created or changed. Returns true if that is news.
    pub(super) fn changed(&mut self, pod: SeenPod) -> bool {
        let Some(all) = &self.all else {
            return false;
        };
        let known = all.get(&pod.key);
        let is_late =
            self.deleted.contains(&pod.uid) || known.is_some_and(|known| pod.is_older_than(known));
        // A server that lists ever more Pods is not believed for ever.
        let fits = all.len() < MAX_ITEMS || known.is_some();
        if is_late || !fits || known == Some(&pod) {
            return false;
        }
        let before = known.is_some_and(|known| self.is_mirror(known));
        self.count(before, self.is_mirror(&pod));
        let all = self.all.get_or_insert_default();
        all.insert(pod.key.clone(), pod);
        true
    }

    /// Takes in that the Pod with this UID is gone. Returns true if that is news.
    pub(super) fn gone(&mut self, key: &PodKey, uid: &str) -> bool {
        self.deleted.remove(uid);
        self.remove(key, uid)
    }

    /// Forgets the Pod with this UID, which was deleted just now.
    pub(super) fn deleted(&mut self, key: &PodKey, uid: String) {
        self.remove(key, &uid);
        self.deleted.insert(uid);
    }

    fn remove(&mut self, key: &PodKey, uid: &str) -> bool {
        let is_known = self.get(key).is_some_and(|known| known.uid == uid);
        let all = self.all.as_mut().filter(|_| is_known);
        let Some(removed) = all.and_then(|all| all.remove(key)) else {
            return false;
        };
        self.count(self.is_mirror(&removed), false);
        true
    }

    fn is_mirror(&self, pod: &SeenPod) -> bool {
        pod.mirror_owner(&self.node).is_some()
    }

    fn count(&mut self, before: bool, now: bool) {
        let others = self.mirrors.saturating_sub(usize::from(before));
        self.mirrors = others.saturating_add(usize::from(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::object::NodeIdentity;

    fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    /// A mirror Pod of this node.
    fn mirror(name: &str, uid: &str, version: u64) -> SeenPod {
        SeenPod {
            key: key(name),
            uid: uid.to_owned(),
            resource_version: Some(version.to_string()),
            mirrors: Some("static".to_owned()),
            owner: Some(Box::new(NodeIdentity {
                name: "n1".to_owned(),
                uid: "node".to_owned(),
            })),
            ..SeenPod::default()
        }
    }

    #[test]
    fn mirror_pods_are_counted_as_they_come_and_go() {
        let mut seen = SeenPods::new("n1");
        assert!(!seen.changed(mirror("a", "1", 1)), "nothing was listed");
        let other = SeenPod {
            mirrors: None,
            ..mirror("c", "3", 1)
        };
        let before = seen.listed(vec![
            mirror("a", "1", 1),
            mirror("b", "2", 1),
            other.clone(),
        ]);
        assert_eq!((before.count(), seen.mirrors()), (0, 2));
        assert!(!seen.changed(other.clone()), "no news");
        let ours = SeenPod {
            resource_version: Some("2".to_owned()),
            ..mirror("c", "3", 2)
        };
        assert!(seen.changed(ours));
        assert!(!seen.changed(other), "an older state");
        assert_eq!(seen.mirrors(), 3);
        assert!(!seen.gone(&key("a"), "9"), "another Pod of this name");
        assert!(seen.gone(&key("a"), "1"));
        seen.deleted(&key("b"), "2".to_owned());
        assert!(!seen.changed(mirror("b", "2", 5)), "it was deleted");
        assert_eq!(seen.mirrors(), 1);
        assert!(seen.changed(mirror("b", "4", 6)));
        let before: Vec<PodKey> = seen.listed(vec![]).collect();
        assert_eq!((before, seen.mirrors()), (vec![key("b"), key("c")], 0));
    }
}
