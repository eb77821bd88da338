//! Which file each `ConfigMap` and `Secret` comes from.
//!
//! The rule is that of Pods: of several files that define one object, names with a usual ending come
//! first, then the file that it already comes from, then the order of names. What is in use is never
//! taken over by a newcomer of equal standing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::known::KnownManifest;
use crate::manifest::objects::{
    Object, ObjectContent, ObjectKey, ObjectKind, ObjectSet, attach_packed,
};
use crate::manifest::{PackedPod, PodKey, Problem};
use crate::source::candidates::{has_usual_extension, order};
use crate::source::store::ObjectInUse;
use crate::source::{Desired, Origin, Refused};

/// Which objects count.
#[derive(Debug)]
pub(super) struct AllocatedObjects {
    /// Those that do.
    pub(super) objects: ObjectSet,
    /// Files with one that does not.
    pub(super) refused: Vec<Refused>,
    /// One that counted before does not any more.
    pub(super) is_less: bool,
}

/// The file that each object comes from, and its content.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<ObjectKey, (PathBuf, ObjectContent)>);

impl Owners {
    /// Restores an object that was in use before the agent's start.
    pub(super) fn restore(&mut self, kept: &ObjectInUse) {
        let owner = (kept.path.clone(), kept.content.clone());
        self.0.insert(kept.key.clone(), owner);
    }

    /// Settles which objects count, and refuses the others.
    pub(super) fn allocate<'a>(
        &mut self,
        known: impl Iterator<Item = &'a KnownManifest>,
    ) -> AllocatedObjects {
        let mut candidates: BTreeMap<&ObjectKey, Vec<(&KnownManifest, &Object)>> = BTreeMap::new();
        for known in known {
            for object in &known.objects {
                let of_key = candidates.entry(&object.key).or_default();
                of_key.push((known, object));
            }
        }
        let mut set = ObjectSet::new();
        let mut owners = BTreeMap::new();
        let mut refused = vec![];
        for (key, mut candidates) in candidates {
            candidates.sort_by_cached_key(|(known, object)| self.rank(known, object));
            let mut candidates = candidates.into_iter();
            let Some((winner, object)) = candidates.next() else {
                continue;
            };
            let path = &winner.candidate.path;
            set.insert(key.clone(), object.content.clone());
            owners.insert(key.clone(), (path.clone(), object.content.clone()));
            // While the winner may be gone, the others wait.
            for (loser, _) in
                candidates.filter(|(loser, _)| !winner.candidate.gone && !loser.candidate.gone)
            {
                refused.push(Refused {
                    origin: Origin::File(loser.candidate.path.clone()),
                    problems: vec![duplicate(key, &loser.candidate.path, path)],
                    keeps: None,
                });
            }
        }
        let is_less = self.0.keys().any(|key| !owners.contains_key(key));
        self.0 = owners;
        AllocatedObjects {
            objects: set,
            refused,
            is_less,
        }
    }

    /// The files that objects come from.
    pub(super) fn files(&self) -> HashSet<&Path> {
        self.0.values().map(|(path, _)| path.as_path()).collect()
    }

    /// Sorts the file that an object comes from first. One with the same content goes before others,
    /// since a file may have been renamed.
    fn rank(&self, known: &KnownManifest, object: &Object) -> impl Ord + use<> {
        let KnownManifest { candidate, .. } = known;
        let owner = self.0.get(&object.key);
        let owns = owner.is_some_and(|(path, _)| *path == candidate.path);
        let same = owner.is_some_and(|(_, content)| *content == object.content);
        (
            candidate.gone && !owns,
            !has_usual_extension(&candidate.path),
            !owns,
            !same,
            order(&candidate.path),
        )
    }

    /// The objects that a Pod refers to, to be kept over a restart.
    pub(super) fn used_by(&self, pod: &PackedPod) -> Vec<ObjectInUse> {
        let of_kind = |kind| {
            move |name: &String| ObjectKey {
                kind,
                namespace: pod.key.namespace.clone(),
                name: name.clone(),
            }
        };
        let config_maps = pod.objects.config_maps.keys();
        let secrets = pod.objects.secrets.keys();
        let secrets: BTreeSet<_> = secrets.chain(pod.objects.pull_secrets.keys()).collect();
        let config_maps = config_maps.map(of_kind(ObjectKind::ConfigMap));
        let keys = config_maps.chain(secrets.into_iter().map(of_kind(ObjectKind::Secret)));
        let kept = keys.filter_map(|key| {
            let (path, content) = self.0.get(&key)?;
            Some(ObjectInUse {
                path: path.clone(),
                key,
                content: content.clone(),
            })
        });
        kept.collect()
    }
}

/// The Pods that refer to objects, as they were at the last relist: without and with these. One stays the same Pod
/// while neither it nor its objects change, which no relist has to work out.
#[derive(Debug, Default)]
pub(super) struct AttachedPods(HashMap<PodKey, (PackedPod, PackedPod)>);

impl AttachedPods {
    /// Gives each wanted Pod its objects.
    pub(super) fn attach(&mut self, desired: &mut Desired, objects: &ObjectSet) {
        let mut before = std::mem::take(&mut self.0);
        for (key, wanted) in Arc::make_mut(&mut desired.pods) {
            let known = before.remove(key);
            let known = known.filter(|(bare, _)| bare.is_same(&wanted.pod));
            let known = known.map(|(_, attached)| attached);
            let attached = attach_packed(&wanted.pod, objects, known.as_ref());
            let bare = std::mem::replace(&mut wanted.pod, attached.clone());
            if !bare.is_same(&attached) {
                self.0.insert(key.clone(), (bare, attached));
            }
        }
    }
}

/// Returns the files with a `ConfigMap` or `Secret` that another one has already, each with its problem,
/// where none of them is in use.
pub fn duplicate_objects<'a>(
    objects: impl IntoIterator<Item = (&'a Path, &'a ObjectKey)>,
) -> Vec<(PathBuf, Problem)> {
    let mut objects: Vec<_> = objects.into_iter().collect();
    objects.sort_by_key(|(path, _)| (!has_usual_extension(path), order(path)));
    let mut owners: BTreeMap<&ObjectKey, &Path> = BTreeMap::new();
    let again = objects.into_iter().filter_map(|(path, key)| {
        let winner = *owners.entry(key).or_insert(path);
        (winner != path).then(|| (path.to_owned(), duplicate(key, path, winner)))
    });
    again.collect()
}

fn duplicate(key: &ObjectKey, path: &Path, winner: &Path) -> Problem {
    let field = "metadata.name".to_owned();
    let (path, winner) = (path.display(), winner.display());
    let again = "remove one of the two or give it another name";
    let message =
        format!("{key} is defined by {winner} already, so {path} does not count; {again}");
    Problem {
        field,
        ..Problem::of_file(message)
    }
}
