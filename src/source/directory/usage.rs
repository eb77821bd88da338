//! Use of a manifest directory as a whole, against its limits.
//!
//! Objects in use count first and stay. A newcomer that exceeds a limit is refused and nothing of it is kept
//! in memory. Copies of objects in use are not counted: the file that counts is settled after a relist.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::known::KnownManifest;
use crate::manifest::objects::ObjectKey;
use crate::manifest::{Manifest, PodKey, Problem};

/// The most Pods of one folder.
pub(super) const MAX_PODS: usize = 5000;
/// The most bytes of the files in use, together.
pub(super) const MAX_TOTAL: u64 = 64 << 20;
/// The bytes of new content in each relist: more is left to the next one, after copies were dropped.
const MAX_TAKEN: u64 = 16 << 20;

/// Resources in use during one relist.
#[derive(Debug, Default)]
pub(super) struct DirectoryUsage {
    pods: HashSet<PodKey>,
    objects: BTreeSet<ObjectKey>,
    bytes: u64,
    taken: u64,
}

impl DirectoryUsage {
    /// Counts the resources in use at the start of a relist. Files that are missing by now (`is_present`) may
    /// have been renamed, so that their bytes do not count.
    pub(super) fn of<'a>(
        known: impl Iterator<Item = &'a KnownManifest>,
        is_present: impl Fn(&Path) -> bool,
    ) -> Self {
        let mut usage = Self::default();
        for known in known.filter(|known| known.in_use) {
            usage
                .pods
                .extend(known.candidate.in_force.iter().map(|pod| pod.key.clone()));
            let keys = known.objects.iter().map(|object| object.key.clone());
            usage.objects.extend(keys);
            if is_present(&known.candidate.path) {
                usage.bytes = usage.bytes.saturating_add(known.size);
            }
        }
        usage
    }

    /// Returns the bytes in use.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns `true` once so much new content was read that the rest waits for the next relist.
    pub(super) fn is_relist_full(&self) -> bool {
        self.taken >= MAX_TAKEN
    }

    /// Checks whether a newcomer of `size` bytes can be taken in.
    ///
    /// # Errors
    /// It exceeds the limit of the bytes in use.
    pub(super) fn check_size(&self, size: u64) -> Result<(), Problem> {
        if self.bytes.saturating_add(size) > MAX_TOTAL {
            return Err(too_large(size));
        }
        Ok(())
    }

    /// Counts a file of `size` bytes, in place of the `known` one.
    ///
    /// # Errors
    /// The limit that it exceeds.
    pub(super) fn admit(
        &mut self,
        known: &KnownManifest,
        manifest: &Manifest,
        size: u64,
    ) -> Result<(), Problem> {
        let pod = manifest.pod.as_ref().map(|accepted| &accepted.pod.key);
        let new_pod = pod.filter(|key| !self.pods.contains(*key));
        let holds_pod = known.in_use && known.candidate.in_force.is_some();
        if let Some(key) = new_pod.filter(|_| !holds_pod && self.pods.len() >= MAX_PODS) {
            return Err(Problem::of_file(format!(
                "found {MAX_PODS} Pods in the directory already, the most that run from one: Pod {key} is not \
                 started before another manifest is removed"
            )));
        }
        let keys = manifest.objects.iter().map(|object| &object.key);
        let is_copy = new_pod.is_none() && keys.clone().all(|key| self.objects.contains(key));
        let before = if known.in_use { known.size } else { 0 };
        if known.in_use || !is_copy {
            let bytes = self.bytes.saturating_sub(before).saturating_add(size);
            if bytes > MAX_TOTAL && size > before {
                return Err(too_large(size));
            }
            self.bytes = bytes;
        }
        self.taken = self.taken.saturating_add(size);
        self.objects.extend(keys.cloned());
        self.pods.extend(pod.cloned());
        Ok(())
    }
}

fn too_large(size: u64) -> Problem {
    Problem::of_file(format!(
        "has {size} bytes, which is more than is left of the {} MiB for all manifests of the directory: make \
         ConfigMaps and Secrets smaller, or remove some",
        MAX_TOTAL >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{PackedPod, parse_file};

    const MIB: u64 = 1 << 20;

    fn pod(name: &str) -> Manifest {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]}}"
        );
        parse_file(text.as_bytes(), "n").unwrap()
    }

    fn config_map(name: &str) -> Manifest {
        let text =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{}}");
        parse_file(text.as_bytes(), "n").unwrap()
    }

    fn new() -> KnownManifest {
        KnownManifest::new("/m/new.yaml".into())
    }

    fn in_use(manifest: &Manifest, size: u64) -> KnownManifest {
        let mut known = new();
        known.candidate.in_force = manifest.pod.as_ref().map(|pod| PackedPod::from(&pod.pod));
        known.objects.clone_from(&manifest.objects);
        known.size = size;
        known.in_use = true;
        known
    }

    #[test]
    fn pods_above_the_limit_are_refused_but_for_what_takes_the_place_of_another() {
        let used: Vec<_> = (0..MAX_PODS)
            .map(|i| in_use(&pod(&format!("p{i}")), 1))
            .collect();
        let mut usage = DirectoryUsage::of(used.iter(), |_| true);
        let problem = usage.admit(&new(), &pod("more"), 1).unwrap_err();
        assert!(problem.message.contains("Pod default/more-n"), "{problem}");
        assert!(usage.admit(&new(), &pod("p7"), 1).is_ok(), "a copy");
        assert!(usage.admit(&used[3], &pod("p3"), 2).is_ok(), "an edit");
        assert!(
            usage.admit(&used[3], &pod("other"), 2).is_ok(),
            "another name"
        );
        assert!(usage.admit(&new(), &config_map("c"), 1).is_ok(), "no Pod");
    }

    #[test]
    fn bytes_above_the_limit_are_refused_and_what_is_in_use_stays() {
        let used = in_use(&config_map("a"), MAX_TOTAL - MIB);
        let mut usage = DirectoryUsage::of([&used].into_iter(), |_| true);
        assert!(usage.admit(&new(), &config_map("b"), MIB).is_ok());
        let problem = usage.admit(&new(), &config_map("c"), 1).unwrap_err();
        assert!(problem.message.contains("64 MiB"), "{problem}");
        assert!(usage.admit(&new(), &config_map("a"), MIB).is_ok(), "a copy");
        assert!(
            usage.admit(&used, &config_map("a"), MAX_TOTAL).is_err(),
            "larger"
        );
        assert!(usage.admit(&used, &config_map("a"), MIB).is_ok(), "smaller");
        assert!(usage.admit(&new(), &config_map("c"), MIB).is_ok());
        assert!(usage.bytes() <= MAX_TOTAL);
        let mut renamed = DirectoryUsage::of([&used].into_iter(), |_| false);
        assert!(renamed.admit(&new(), &config_map("a2"), MAX_TOTAL).is_ok());
        assert!(renamed.is_relist_full());
    }
}
