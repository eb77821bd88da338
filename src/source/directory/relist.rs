//! One relist: what the folder holds now against what is known, and what is wanted after that.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::crowd::{BUDGET, Rest};
use super::known::KnownManifest;
use super::listing::{Contents, ListRequest, Listing};
use super::objects::{AllocatedObjects, AttachedPods, Owners};
use super::reader::FileReader;
use super::usage::DirectoryUsage;
use super::{DirectorySource, LIST_LIMIT, RELIST_GAP};
use crate::manifest::objects::Object;
use crate::manifest::{PackedPod, PodKey};
use crate::source::candidates::{ManifestState, allocate};
use crate::source::mounts::{MountIdentity, MountTable};
use crate::source::store::{Store, StoreEntry, StoredContext, StoredManifest};
use crate::source::watch::Watch;
use crate::source::{Desired, Unanswered};
use crate::units::time::Later;

/// Result of a relist.
pub(super) struct Relist {
    pub(super) desired: Desired,
    /// No file's absence is still to be confirmed, and no file's content waited for.
    pub(super) sure: bool,
    /// Time of the next relist, if it is before the end of the period.
    pub(super) again: Option<Instant>,
}

/// The manifest path and all that is known of it.
pub(super) struct Directory {
    pub(super) manifest_path: PathBuf,
    pub(super) node_name: String,
    pub(super) watch: Watch,
    pub(super) known: BTreeMap<PathBuf, KnownManifest>,
    /// Device and inode of the folder at the last relist that could read it.
    pub(super) identity: Option<(u64, u64)>,
    /// Time when the folder was last found replaced.
    pub(super) replaced: Option<Instant>,
    /// The mount that the folder lay on when it last had manifests.
    pub(super) mount: Option<Arc<MountIdentity>>,
    mounts: ManifestMounts,
    owners: Owners,
    attached: AttachedPods,
    pub(super) rest: Rest,
    /// Names with events before this relist.
    pub(super) changed_names: HashSet<OsString>,
    /// Not every file was read since the agent's start.
    pub(super) is_first_pass: bool,
    /// Files that were not read yet for want of time.
    pub(super) unread: usize,
    /// The Pods wanted at the last relist.
    pods: HashSet<PodKey>,
    /// Resources in use, against their limits.
    pub(super) usage: DirectoryUsage,
    /// Bytes in use at the last relist.
    bytes: u64,
    /// Files were refused for the limits of the folder since those were read again.
    pub(super) is_limit_reached: bool,
    /// Files that were refused are to be read again soon.
    reread: bool,
    /// Time since when the folder does not answer, once that is longer than the limit.
    unanswered: Option<Instant>,
}

/// The mounts that the manifests may lie on.
struct ManifestMounts {
    table: Arc<MountTable>,
    /// Their numbers as the last relist began.
    ids: Vec<u64>,
    /// A link may lead to any other mount.
    may_be_anywhere: bool,
}

impl ManifestMounts {
    fn new(path: &Path) -> Self {
        Self {
            table: Arc::new(MountTable::new(path.to_owned())),
            ids: vec![],
            may_be_anywhere: true,
        }
    }
}

impl Directory {
    /// Reads the store. What was accepted under another manifest path is no longer wanted.
    pub(super) fn open(config: DirectorySource) -> (Self, Store) {
        let (store, stored_manifests) = Store::open(config.state);
        let mut directory = Self {
            watch: Watch::new(config.path.clone()),
            mounts: ManifestMounts::new(&config.path),
            manifest_path: config.path,
            node_name: config.node_name,
            known: BTreeMap::new(),
            identity: None,
            replaced: None,
            mount: None,
            owners: Owners::default(),
            attached: AttachedPods::default(),
            rest: Rest::default(),
            changed_names: HashSet::new(),
            is_first_pass: true,
            unread: 0,
            pods: HashSet::new(),
            usage: DirectoryUsage::default(),
            bytes: 0,
            is_limit_reached: false,
            reread: false,
            unanswered: None,
        };
        for manifest in stored_manifests {
            if directory.has(&manifest.path) {
                directory.restore(manifest);
            }
        }
        (directory, store)
    }

    /// True for paths that manifests of this directory may have.
    fn has(&self, path: &Path) -> bool {
        path == self.manifest_path || path.parent() == Some(&self.manifest_path)
    }

    fn restore(&mut self, manifest: StoredManifest) {
        let context = manifest.context.clone();
        let known = KnownManifest::from_store(manifest, &self.node_name);
        let path = known.candidate.path.clone();
        match self.known.entry(path) {
            // An object in it was restored before.
            Entry::Occupied(mut entry) => {
                let objects = std::mem::take(&mut entry.get_mut().objects);
                let in_use = known.in_use || !objects.is_empty();
                entry.insert(KnownManifest {
                    objects,
                    in_use,
                    ..known
                });
            }
            Entry::Vacant(entry) => {
                entry.insert(known);
            }
        }
        for object in &context.objects {
            if !self.has(&object.path) {
                continue;
            }
            self.owners.restore(object);
            let path = object.path.clone();
            let known = self
                .known
                .entry(path)
                .or_insert_with_key(|p| KnownManifest::new(p.clone()));
            known.in_use = true;
            if known.objects.iter().all(|known| known.key != object.key) {
                known.objects.push(Object {
                    key: object.key.clone(),
                    content: object.content.clone(),
                    warnings: vec![],
                });
            }
        }
        self.mount = context.place.or(self.mount.take());
    }

    /// Notes the mounts that the manifests may lie on, and gives their numbers.
    pub(super) fn record_mounts(&mut self) -> Vec<u64> {
        self.mounts.ids = self.mounts.table.ids();
        self.mounts.ids.clone()
    }

    /// True when the manifests may lie on other mounts than at the beginning of the relist.
    pub(super) fn is_on_other_mounts(&self) -> bool {
        self.mounts.table.ids() != self.mounts.ids
    }

    /// True when any mount may be one that the manifests lie on.
    pub(super) fn may_be_anywhere(&self) -> bool {
        self.mounts.may_be_anywhere
    }

    pub(super) fn path(&self) -> &Path {
        &self.manifest_path
    }

    /// A relist begins: gives what is to be listed for it.
    pub(super) fn begin_relist(&mut self) -> ListRequest {
        let (arming, changed_names) = self.watch.begin_relist();
        self.changed_names.extend(changed_names);
        let path = self.manifest_path.clone();
        let names = self.known.keys().filter_map(|known| known.file_name());
        ListRequest {
            is_file: self.known.contains_key(&path),
            was_folder: self.known.keys().any(|known| *known != path),
            known: names.map(ToOwned::to_owned).collect(),
            path,
            arming,
            mounts: Arc::clone(&self.mounts.table),
        }
    }

    /// True while it was reported that the folder does not answer.
    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Returns the desired Pods while the folder is not responding.
    pub(super) fn unanswered(&mut self, since: Instant) -> Desired {
        self.unanswered = Some(since);
        self.forget_absences();
        let limit = LIST_LIMIT.as_secs();
        let why = self.describe(&format!("no answer within {limit}s"));
        let mut desired = self.allocate(Some(why));
        desired.unanswered.push(Unanswered {
            path: self.manifest_path.clone(),
            since,
        });
        desired
    }

    /// Takes in the listing, reads changed files and allocates each Pod to one file. `without_event` is for a
    /// relist that no event caused: what changed then may be half written.
    pub(super) fn relist(
        &mut self,
        reader: &mut FileReader,
        listing: Listing,
        now: Instant,
        without_event: bool,
    ) -> Relist {
        self.unanswered = None;
        self.reread = false;
        self.watch.adopt(listing.watches);
        let cautious = without_event || !self.watch.is_armed();
        let contents = listing.contents.as_ref();
        self.mounts.may_be_anywhere = !contents.is_ok_and(Contents::is_without_links);
        let unreadable = match listing.contents {
            Ok(contents) => self.survey(reader, &contents, now, cautious),
            Err(error) => {
                self.unread = 0;
                self.forget_absences();
                Some(self.describe_error(error))
            }
        };
        self.changed_names.clear();
        let is_partial = self.is_first_pass && self.unread > 0;
        self.confirm_absences(now, is_partial);
        let mut desired = self.allocate(unreadable);
        let hanging = reader.hanging().map(|(name, since)| Unanswered {
            path: self.manifest_path.join(name),
            since,
        });
        desired.unanswered = hanging.collect();
        desired.unanswered.sort_by(|a, b| a.path.cmp(&b.path));
        let all_there = self.known.values().all(|known| !known.candidate.gone);
        let sure = (all_there || is_partial) && self.watch.pending.due().is_none();
        Relist {
            desired,
            sure,
            again: self.again(now),
        }
    }

    /// Returns the time of the next relist, if it is before the end of the period.
    fn again(&self, now: Instant) -> Option<Instant> {
        if self.watch.pending.relist {
            return Some(now.later(RELIST_GAP));
        }
        let absences = self
            .known
            .values()
            .filter_map(|known| self.confirm_at(known));
        let unread = (self.unread > 0 || self.reread).then(|| now.later(BUDGET));
        absences.chain(self.watch.pending.due()).chain(unread).min()
    }

    /// Allocates Pods and objects to files.
    fn allocate(&mut self, unreadable: Option<String>) -> Desired {
        let mut desired = allocate(
            self.known.values().map(|known| &known.candidate),
            unreadable,
        );
        self.set_in_force(&desired);
        let settled = self.owners.allocate(self.known.values());
        let AllocatedObjects {
            objects,
            refused,
            is_less,
        } = settled;
        desired.refused.extend(refused);
        desired.refused.sort_by(|a, b| a.origin.cmp(&b.origin));
        self.attached.attach(&mut desired, &objects);
        let owners = self.owners.files();
        for (path, known) in &mut self.known {
            known.in_use = known.candidate.in_force.is_some() || owners.contains(path.as_path());
        }
        self.cut_rest(&mut desired, is_less);
        desired
    }

    /// Lists only so many refused files, and drops the problems of the others. `is_less` is true if an object is no
    /// longer in force.
    fn cut_rest(&mut self, desired: &mut Desired, is_less: bool) {
        let bytes = DirectoryUsage::of(self.known.values(), |_| true).bytes();
        let has_space = self.is_limit_reached && bytes < self.bytes;
        self.bytes = bytes;
        if has_space || is_less || self.pods.iter().any(|key| !desired.pods.contains_key(key)) {
            // Another file may have that Pod or object, or the limits admit another.
            self.rest.clear();
            let refused = |known: &&mut KnownManifest| {
                matches!(known.candidate.state, ManifestState::Refused(_))
            };
            for known in self.known.values_mut().filter(refused) {
                if let Some(seen) = &mut known.seen {
                    seen.forget_content();
                }
            }
            self.is_limit_reached = false;
            self.reread = true;
        }
        self.pods = desired.pods.keys().cloned().collect();
        let is_complete = self.unread == 0;
        self.rest.cut(desired, &mut self.known, is_complete);
    }

    /// The message for manifests that cannot be read for this reason.
    fn describe(&self, why: &str) -> String {
        let path = self.manifest_path.display();
        if self.has_accepted() {
            format!("Failed to read {path}: {why}; static Pods accepted from it keep running")
        } else {
            format!("Failed to read {path}: {why}; waiting for it")
        }
    }

    fn describe_error(&self, error: Errno) -> String {
        if error == Errno::NOENT && !self.has_accepted() {
            return self.describe_missing();
        }
        self.describe(&error.to_string())
    }

    pub(super) fn describe_missing(&self) -> String {
        format!(
            "{} does not exist; waiting for it",
            self.manifest_path.display()
        )
    }

    /// The reason for which a folder without manifests does not count, if there is one: it lies on another mount than those that
    /// were accepted from it.
    pub(super) fn describe_unmounted(&self, mount: &MountIdentity) -> Option<String> {
        let before = self
            .mount
            .as_ref()
            .filter(|before| !before.is_same(mount))?;
        let (before, now) = (before.describe(), mount.describe());
        let why = format!(
            "it is empty and on {now}, where the accepted manifests came from {before}, which is taken \
             for not mounted"
        );
        self.has_accepted().then(|| self.describe(&why))
    }

    fn has_accepted(&self) -> bool {
        self.known
            .values()
            .any(|known| known.candidate.in_force.is_some())
    }

    /// Records which version runs from which file.
    fn set_in_force(&mut self, desired: &Desired) {
        let mut in_force: HashMap<&Path, &PackedPod> = desired
            .pods
            .values()
            .filter_map(|wanted| Some((wanted.origin.file()?, &wanted.pod)))
            .collect();
        for (path, known) in &mut self.known {
            known.candidate.in_force = in_force.remove(path.as_path()).cloned();
        }
    }

    /// Returns the entries for the store: the running versions, and entries that this version of the agent
    /// could not read.
    pub(super) fn store_entries(&self, desired: &Desired) -> BTreeMap<PathBuf, StoreEntry> {
        let lapsed = self
            .known
            .iter()
            .filter(|(_, known)| known.lapsed.is_some());
        let lapsed = lapsed.map(|(path, _)| (path.clone(), StoreEntry::Unchanged));
        let runs = desired.pods.values();
        let runs = runs.filter_map(|w| {
            let path = w.origin.file()?.to_owned();
            let context = StoredContext {
                objects: self.owners.used_by(&w.pod),
                place: self.mount.clone(),
            };
            Some((path, StoreEntry::Version(w.pod.clone(), context)))
        });
        lapsed.chain(runs).collect()
    }
}
