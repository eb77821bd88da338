//! Manifests in a directory, or in one file.
//!
//! Each look reads the whole state and gives a whole [`Desired`]; events and time only say when to
//! look. The invariants: a Pod goes only when its file was missing twice while the folder could be
//! read; and what is published was read from files that nobody was heard writing to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::sleep_until;
use tracing::warn;

use super::claims::{Claim, Standing, order, settle};
use super::files::{self, Entry, Found, MAX_BYTES, Stamp, is_ignored};
use super::log::publish;
use super::store::{Keep, Remembered, Store};
use super::watch::Watch;
use super::{Desired, LastRead, Origin, Refused};
use crate::manifest::objects::{Object, ObjectKey, ObjectSet, attach};
use crate::manifest::{self, Accepted, Manifest, Problem, SourceKind, StaticPod};
use crate::units::time::Later;

/// A file is gone when it is missing at two looks this far apart: tools delete a file and write it
/// anew, and a listing can miss a file that is renamed meanwhile.
const CONFIRM: Duration = Duration::from_millis(10);

/// The same for a file that was only put aside, as editors do before they write it anew, and for
/// all files when the folder itself was replaced and may still be filling.
const CONFIRM_ASIDE: Duration = Duration::from_millis(500);

/// Looks for events are at least this far apart, so that a burst costs few.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// A file found changed without an event is taken when it is at least this old.
const SETTLED: Duration = Duration::from_millis(200);

/// The shortest period of looks.
const MIN_PERIOD: Duration = Duration::from_millis(10);

/// Where manifests are, and how to follow them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySource {
    /// A directory of manifests, or one manifest.
    pub path: PathBuf,
    /// The node's name, in lower case.
    pub node_name: String,
    /// How often to look whatever inotify says; the kubelet's `fileCheckFrequency`.
    pub rescan: Duration,
    /// The folder where accepted manifests are kept over restarts; made when needed.
    pub state: PathBuf,
}

impl DirectorySource {
    /// Follows the manifests in a task of its own on the current runtime; see
    /// [`DirectorySource::run`].
    #[must_use]
    pub fn spawn(self) -> watch::Receiver<Option<Desired>> {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(self.run(sender));
        receiver
    }

    /// Follows the manifests until the last receiver is dropped, and ends with everything stored.
    ///
    /// The channel gets its first value after the first full look, and then all that is wanted,
    /// each time that something changed. Must run on a runtime with time and I/O.
    ///
    /// # Panics
    /// When reading a manifest does.
    pub async fn run(self, sender: watch::Sender<Option<Desired>>) {
        self.run_telling(sender, LastRead::default()).await;
    }

    /// The same, and tells each time that the manifests were read well.
    pub(super) async fn run_telling(
        mut self,
        sender: watch::Sender<Option<Desired>>,
        read: LastRead,
    ) {
        // A path that cannot be made absolute is found unreadable soon enough.
        let path = std::path::absolute(&self.path).unwrap_or(self.path);
        self.path = path.components().collect();
        // Any other error is that the runtime has ended.
        if let Err(Ok(panic)) = follow(self, sender, read)
            .await
            .map_err(JoinError::try_into_panic)
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Reads one manifest by the rules of the source: a regular file of at most 10 MiB.
///
/// # Errors
/// Why the file is not read.
pub fn read_manifest(path: &Path) -> Result<Vec<u8>, String> {
    match files::read(CWD, path.as_os_str(), None) {
        Found::Content { bytes, .. } => Ok(bytes),
        Found::Unusable(problem) => Err(problem),
        Found::Folder => Err("is a folder; a manifest must be a regular file".to_owned()),
        Found::Nothing | Found::Unchanged => Err("does not exist".to_owned()),
    }
}

/// Reads one manifest from standard input, of at most 10 MiB too.
///
/// # Errors
/// Why it is not read.
pub fn read_standard_input() -> Result<Vec<u8>, String> {
    let mut bytes = vec![];
    let read = io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes);
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(_) if bytes.len() as u64 > MAX_BYTES => Err(format!(
            "is larger than {MAX_BYTES} bytes, more than any manifest"
        )),
        Ok(_) => Ok(bytes),
    }
}

/// The manifests of a folder by the rules of the source, in the order of their names.
///
/// # Errors
/// The folder cannot be read.
pub fn manifests_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = vec![];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !is_ignored(&entry.file_name()) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Looks, publishes, stores and waits, until nobody listens any more.
async fn follow(
    config: DirectorySource,
    sender: watch::Sender<Option<Desired>>,
    read: LastRead,
) -> Result<(), JoinError> {
    let period = config.rescan.max(MIN_PERIOD);
    let (mut directory, store) = spawn_blocking(|| Directory::open(config)).await?;
    let mut keeper = Keeper::new(store);
    // What was written before the folder was watched was not heard of.
    let mut heard = false;
    loop {
        let now = Instant::now();
        let look;
        (directory, look) = spawn_blocking(move || {
            let look = directory.look(now, !heard);
            (directory, look)
        })
        .await?;
        if look.desired.unreadable.is_empty() {
            read.now();
        }
        keeper.want(directory.to_keep(&look.desired));
        if look.sure || sender.borrow().is_some() {
            publish(&sender, look.desired);
        }
        keeper.start();

        let due = look
            .again
            .map_or(now.later(period), |again| again.min(now.later(period)));
        loop {
            tokio::select! {
                () = sender.closed() => return keeper.finish().await,
                done = keeper.done() => done?,
                () = sleep_until(due.into()) => { heard = false; break }
                () = directory.watch.listen() => if directory.watch.heard.look {
                    sleep_until(now.later(BETWEEN_LOOKS).into()).await;
                    heard = true;
                    break;
                }
            }
        }
    }
}

/// Brings the store in line with what runs, in the background, one write at a time.
struct Keeper {
    wanted: BTreeMap<PathBuf, Keep>,
    /// The store while nothing is written.
    idle: Option<Store>,
    /// The store while it is being written.
    busy: Option<JoinHandle<(Store, io::Result<()>)>>,
    /// What was logged of the last failure.
    complaint: Option<String>,
}

impl Keeper {
    fn new(store: Store) -> Self {
        Self {
            wanted: BTreeMap::new(),
            idle: Some(store),
            busy: None,
            complaint: None,
        }
    }

    fn want(&mut self, wanted: BTreeMap<PathBuf, Keep>) {
        self.wanted = wanted;
    }

    /// Starts writing, if nothing is being written and something is to be.
    fn start(&mut self) {
        if let Some(mut store) = self.idle.take_if(|store| store.differs(&self.wanted)) {
            let wanted = self.wanted.clone();
            self.busy = Some(spawn_blocking(move || {
                let result = store.keep(&wanted);
                (store, result)
            }));
        }
    }

    /// Waits for the write under way, for ever if there is none, and starts the next. A failed
    /// write waits for the next look. May be cancelled.
    async fn done(&mut self) -> Result<(), JoinError> {
        let Some(busy) = &mut self.busy else {
            return std::future::pending().await;
        };
        let outcome = busy.await;
        self.busy = None;
        let (store, result) = outcome?;
        self.idle = Some(store);
        let complaint = result.err().map(|error| error.to_string());
        if let Some(error) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            warn!(
                error,
                "accepted manifests cannot be kept for the agent's next start"
            );
        }
        self.complaint = complaint;
        if self.complaint.is_none() {
            self.start();
        }
        Ok(())
    }

    /// Writes what is still to be written.
    async fn finish(mut self) -> Result<(), JoinError> {
        self.start();
        while self.busy.is_some() {
            self.done().await?;
        }
        Ok(())
    }
}

/// What a look gave.
struct Look {
    desired: Desired,
    /// No file's absence is still to be confirmed, and no file's content waited for.
    sure: bool,
    /// When to look again before the period is over.
    again: Option<Instant>,
}

/// What is known of one manifest path.
#[derive(Debug)]
struct Known {
    claim: Claim,
    /// The `ConfigMap`s and `Secret`s that the file last had while it was good.
    objects: Vec<Object>,
    /// The content that the claim's standing comes from.
    seen: Option<Seen>,
    /// The inode of the name itself; 0 while not known.
    inode: u64,
    /// When it was first found missing.
    gone_since: Option<Instant>,
    /// It is missing, but was put aside under a name that is no manifest's.
    aside: bool,
    /// Why the stored version cannot run any more.
    lapsed: Option<Problem>,
}

/// A file's content as it was read.
#[derive(Debug, Clone, Copy)]
struct Seen {
    stamp: Stamp,
    /// The stamp may not show a change since.
    racy: bool,
    digest: [u8; 32],
}

impl Known {
    fn new(path: PathBuf) -> Self {
        let claim = Claim {
            path,
            standing: Standing::Unread,
            held: None,
            gone: false,
        };
        Self {
            claim,
            objects: vec![],
            seen: None,
            inode: 0,
            gone_since: None,
            aside: false,
            lapsed: None,
        }
    }

    /// What the store remembers of a path, with the document read by today's rules.
    fn remembered(remembered: Remembered, node_name: &str) -> Self {
        let mut known = Self::new(remembered.path);
        match parse(remembered.document.to_string().as_bytes(), node_name) {
            Ok(accepted) => known.claim.held = Some(accepted.pod),
            Err(problems) => {
                let why: Vec<_> = problems
                    .iter()
                    .map(|problem| format!("{} {}", problem.field, problem.message))
                    .collect();
                let message = format!(
                    "the last accepted version, of Pod {}, is not accepted by this version of the \
                     agent and cannot be kept running: {}",
                    remembered.key,
                    why.join("; ").trim(),
                );
                let problem = Problem::of_file(message);
                known.lapsed = Some(problem.clone());
                known.claim.standing = Standing::Refused(vec![problem]);
            }
        }
        known
    }

    fn refuse(&mut self, mut problems: Vec<Problem>) {
        problems.extend(self.lapsed.clone());
        self.claim.standing = Standing::Refused(problems);
    }

    fn accept(&mut self, manifest: Manifest) {
        self.lapsed = None;
        for object in &manifest.objects {
            for warning in &object.warnings {
                let file = self.claim.path.display();
                warn!(%file, object = %object.key, %warning, "a dubious manifest");
            }
        }
        self.objects = manifest.objects;
        self.claim.standing = match manifest.pod {
            Some(accepted) => Standing::Accepted(accepted),
            None => Standing::NoPod,
        };
    }

    /// The stamp by which the file need not be read again.
    fn trusted_stamp(&self) -> Option<&Stamp> {
        self.seen
            .as_ref()
            .filter(|seen| !seen.racy)
            .map(|seen| &seen.stamp)
    }

    /// The stamp of what was last read.
    fn stamp(&self) -> Option<&Stamp> {
        self.seen.as_ref().map(|seen| &seen.stamp)
    }
}

fn parse(bytes: &[u8], node_name: &str) -> Result<Accepted, Vec<Problem>> {
    manifest::parse(bytes, node_name, SourceKind::File)
}

fn duplicate_object(key: &ObjectKey, path: &Path, winner: &Path) -> Problem {
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

/// The files with a `ConfigMap` or `Secret` that another one has already, each with what to say of that.
pub fn duplicate_objects<'a>(
    objects: impl IntoIterator<Item = (&'a Path, &'a ObjectKey)>,
) -> Vec<(PathBuf, Problem)> {
    let mut objects: Vec<_> = objects.into_iter().collect();
    objects.sort_by_key(|(path, _)| order(path));
    let mut owners: BTreeMap<&ObjectKey, &Path> = BTreeMap::new();
    let again = objects.into_iter().filter_map(|(path, key)| {
        let winner = *owners.entry(key).or_insert(path);
        (winner != path).then(|| (path.to_owned(), duplicate_object(key, path, winner)))
    });
    again.collect()
}

/// The manifest path and all that is known of it.
struct Directory {
    manifest_path: PathBuf,
    node_name: String,
    watch: Watch,
    known: BTreeMap<PathBuf, Known>,
    /// Device and inode of the folder at the last look that could read it.
    identity: Option<(u64, u64)>,
    /// When the folder was last found replaced.
    replaced: Option<Instant>,
}

/// The folder to look into: whole, or for one name.
struct Place {
    folder: OwnedFd,
    only: Option<OsString>,
}

impl Directory {
    /// Reads the store. What was accepted under another manifest path is not wanted any more.
    fn open(config: DirectorySource) -> (Self, Store) {
        let (store, remembered) = Store::open(config.state);
        let path = &config.path;
        let known = remembered
            .into_iter()
            .filter(|r| r.path == *path || r.path.parent() == Some(path))
            .map(|r| (r.path.clone(), Known::remembered(r, &config.node_name)))
            .collect();
        let directory = Self {
            watch: Watch::new(path.clone()),
            manifest_path: config.path,
            node_name: config.node_name,
            known,
            identity: None,
            replaced: None,
        };
        (directory, store)
    }

    /// Reads the state and settles who gets which Pod. `unheard` is for a look that no event asked
    /// for: what changed then may be half written.
    fn look(&mut self, now: Instant, unheard: bool) -> Look {
        self.watch.refresh();
        self.watch.heard.begin_look();
        let cautious = unheard || !self.watch.is_armed();
        let unreadable = match self
            .place()
            .and_then(|place| self.survey(&place, now, cautious))
        {
            Ok(unreadable) => unreadable,
            Err(error) => {
                self.forget_absences();
                Some(self.describe(error))
            }
        };
        self.confirm_absences(now);

        let mut desired = settle(self.known.values().map(|known| &known.claim), unreadable);
        self.hold(&desired);
        self.attach(&mut desired);
        let absences = self
            .known
            .values()
            .filter_map(|known| self.confirm_at(known));
        let again = absences.chain(self.watch.heard.due()).min();
        let again = if self.watch.heard.look {
            Some(now.later(BETWEEN_LOOKS))
        } else {
            again
        };
        let all_there = self.known.values().all(|known| !known.claim.gone);
        let sure = all_there && self.watch.heard.due().is_none();
        Look {
            desired,
            sure,
            again,
        }
    }

    /// Opens the folder to look into. A path that manifests were read under is a folder; otherwise
    /// one that is no folder is a manifest itself.
    fn place(&self) -> Result<Place, Errno> {
        let path = &self.manifest_path;
        let error = match files::open_folder(path) {
            Ok(folder) => return Ok(Place { folder, only: None }),
            Err(error) => error,
        };
        let was_folder = self.known.keys().any(|known| known != path);
        let is_file = self.known.contains_key(path) || error == Errno::NOTDIR;
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if is_file && !was_folder => {
                let folder = files::open_folder(parent)?;
                Ok(Place {
                    folder,
                    only: Some(name.to_owned()),
                })
            }
            _ => Err(error),
        }
    }

    /// Why the manifests cannot be read.
    fn describe(&self, error: Errno) -> String {
        let path = self.manifest_path.display();
        if self.known.values().any(|known| known.claim.held.is_some()) {
            return format!(
                "{path} cannot be read: {error}; what was accepted from it keeps running"
            );
        }
        match error {
            Errno::NOENT => format!("{path} does not exist; waiting for it"),
            error => format!("{path} cannot be read: {error}; waiting for it"),
        }
    }

    /// Takes in everything that the folder holds. Gives what is missing where the one manifest is.
    fn survey(
        &mut self,
        place: &Place,
        now: Instant,
        cautious: bool,
    ) -> Result<Option<String>, Errno> {
        let folder = place.folder.as_fd();
        let identity = files::identity(folder)?;
        let entries = match &place.only {
            Some(name) => files::find(folder, name)?.into_iter().collect(),
            None => files::list(folder)?,
        };
        if self
            .identity
            .replace(identity)
            .is_some_and(|before| before != identity)
        {
            self.replaced = Some(now);
        }
        let (aside, entries): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .filter(|entry| entry.kind != FileType::Directory)
            .partition(|entry| place.only.is_none() && is_ignored(&entry.name));

        let mut present = HashMap::new();
        let mut readings = Vec::new();
        for entry in entries {
            match self.read(place, &entry, now) {
                Some(Found::Nothing) => continue,
                Some(found) => readings.push((entry.name.clone(), found)),
                None => {}
            }
            present.insert(entry.name, entry.inode);
        }
        // Whoever wrote to a file before it was read was heard of by now.
        self.watch.drain(now);
        for (name, found) in readings {
            if self.watch.heard.was_touched(&name) {
                self.watch.heard.look = true;
            } else if !self.take_in(place, &name, found, now, cautious) {
                present.remove(&name);
            }
        }
        self.watch.heard.retain(|name| present.contains_key(name));
        self.note_absences(place, &present, &aside, now);
        let waiting = place.only.is_some() && present.is_empty();
        Ok(waiting.then(|| self.describe_missing()))
    }

    fn describe_missing(&self) -> String {
        format!(
            "{} does not exist; waiting for it",
            self.manifest_path.display()
        )
    }

    /// The manifest path that a name in the folder stands for.
    fn path_of(&self, place: &Place, name: &OsStr) -> PathBuf {
        match place.only {
            Some(_) => self.manifest_path.clone(),
            None => self.manifest_path.join(name),
        }
    }

    /// Reads one file, unless it is being written to. A link is never written to itself.
    fn read(&self, place: &Place, entry: &Entry, now: Instant) -> Option<Found> {
        if entry.kind != FileType::Symlink && self.watch.heard.is_being_written(&entry.name, now) {
            return None;
        }
        let known = self.known.get(&self.path_of(place, &entry.name));
        let stamp = known.and_then(Known::trusted_stamp);
        Some(files::read(place.folder.as_fd(), &entry.name, stamp))
    }

    /// Takes in what reading a file gave. False when there is no manifest under this name.
    fn take_in(
        &mut self,
        place: &Place,
        name: &OsStr,
        found: Found,
        now: Instant,
        cautious: bool,
    ) -> bool {
        let path = self.path_of(place, name);
        let heard = &mut self.watch.heard;
        let holds = self
            .known
            .get(&path)
            .is_some_and(|known| known.claim.held.is_some());
        let problem = match found {
            Found::Nothing => return false,
            Found::Folder if !holds => return false,
            Found::Folder => "is a symbolic link to a folder".to_owned(),
            Found::Unusable(problem) => problem,
            Found::Unchanged => {
                heard.finished(name);
                return true;
            }
            Found::Content {
                stamp,
                bytes,
                steady,
            } => {
                let wall = SystemTime::now();
                let new = self.known.get(&path).and_then(Known::stamp) != Some(&stamp);
                let young = cautious && new && stamp.modified_within(SETTLED, wall);
                if (young || !steady) && !heard.waited_long(name, now) {
                    heard.wrote(name, now);
                    return true;
                }
                heard.finished(name);
                let racy = stamp.racy(wall);
                let seen = Seen {
                    stamp,
                    racy,
                    digest: Sha256::digest(&bytes).into(),
                };
                self.take_content(path, seen, &bytes);
                return true;
            }
        };
        heard.finished(name);
        let known = self
            .known
            .entry(path)
            .or_insert_with_key(|path| Known::new(path.clone()));
        known.seen = None;
        known.refuse(vec![Problem::of_file(problem)]);
        true
    }

    /// Takes in a file's content, which is parsed only when it is another one.
    fn take_content(&mut self, path: PathBuf, seen: Seen, bytes: &[u8]) {
        let known = self
            .known
            .entry(path)
            .or_insert_with_key(|path| Known::new(path.clone()));
        let before = known.seen.replace(seen);
        if before.is_some_and(|before| before.digest == seen.digest) {
            return;
        }
        match manifest::parse_file(bytes, &self.node_name) {
            Ok(manifest) => known.accept(manifest),
            Err(problems) => known.refuse(problems),
        }
    }

    /// Notes which manifests are missing and since when. A broken one that was only renamed takes
    /// the version that it held along.
    fn note_absences(
        &mut self,
        place: &Place,
        present: &HashMap<OsString, u64>,
        aside: &[Entry],
        now: Instant,
    ) {
        let present: HashMap<PathBuf, u64> = present
            .iter()
            .map(|(name, inode)| (self.path_of(place, name), *inode))
            .collect();
        for (path, known) in &mut self.known {
            if let Some(inode) = present.get(path) {
                known.inode = *inode;
                known.gone_since = None;
            } else {
                known.gone_since.get_or_insert(now);
            }
            known.claim.gone = known.gone_since.is_some();
        }
        for path in self.missing() {
            self.pass_on_held(&path);
        }
        let aside: HashSet<u64> = aside.iter().map(|entry| entry.inode).collect();
        for known in self.known.values_mut() {
            known.aside = known.claim.gone && aside.contains(&known.inode);
        }
    }

    fn missing(&self) -> Vec<PathBuf> {
        let missing = self.known.iter().filter(|(_, known)| known.claim.gone);
        missing.map(|(path, _)| path.clone()).collect()
    }

    /// Where a missing file is found under another name, broken, its last accepted version goes
    /// with it.
    fn pass_on_held(&mut self, missing: &Path) {
        let Some((seen, held)) = self
            .known
            .get(missing)
            .and_then(|old| Some((old.seen?, old.claim.held.clone()?)))
        else {
            return;
        };
        let heir = self.known.values_mut().find(|known| {
            !known.claim.gone
                && known.claim.held.is_none()
                && matches!(known.claim.standing, Standing::Refused(_))
                && known
                    .seen
                    .is_some_and(|new| new.stamp.same_content(&seen.stamp))
        });
        if let Some(heir) = heir {
            heir.claim.held = Some(held);
            self.known.remove(missing);
        }
    }

    /// While the folder cannot be read, nothing is known to be missing.
    fn forget_absences(&mut self) {
        self.watch.heard.retain(|_| false);
        for known in self.known.values_mut() {
            known.gone_since = None;
            known.claim.gone = false;
        }
    }

    /// When a missing file counts as gone.
    fn confirm_at(&self, known: &Known) -> Option<Instant> {
        let since = known.gone_since?;
        let replaced = self.replaced.map(|replaced| replaced.later(CONFIRM_ASIDE));
        let wait = if known.aside { CONFIRM_ASIDE } else { CONFIRM };
        Some(since.later(wait).max(replaced.unwrap_or(since)))
    }

    /// Lets go of the files that were missing for long enough.
    fn confirm_absences(&mut self, now: Instant) {
        let gone: Vec<PathBuf> = self
            .known
            .iter()
            .filter(|(_, known)| self.confirm_at(known).is_some_and(|at| at <= now))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.known.remove(&path);
        }
    }

    /// Remembers which version is carried out from which file.
    fn hold(&mut self, desired: &Desired) {
        let mut held: HashMap<&Path, &Arc<StaticPod>> = desired
            .pods
            .values()
            .filter_map(|wanted| Some((wanted.origin.file()?, &wanted.pod)))
            .collect();
        for (path, known) in &mut self.known {
            known.claim.held = held.remove(path.as_path()).cloned();
        }
    }

    /// Gives every Pod the objects that it refers to. Of two of one name the file counts that would
    /// count for Pods.
    fn attach(&self, desired: &mut Desired) {
        let mut known: Vec<&Known> = self.known.values().collect();
        known.sort_by_key(|known| order(&known.claim.path));
        let mut owners: BTreeMap<&ObjectKey, &Path> = BTreeMap::new();
        let mut set = ObjectSet::new();
        for (path, object) in known
            .iter()
            .flat_map(|k| k.objects.iter().map(|o| (k.claim.path.as_path(), o)))
        {
            match owners.get(&object.key) {
                None => {
                    owners.insert(&object.key, path);
                    set.insert(object.key.clone(), Arc::clone(&object.entries));
                }
                Some(winner) => desired.refused.push(Refused {
                    origin: Origin::File(path.to_owned()),
                    problems: vec![duplicate_object(&object.key, path, winner)],
                    keeps: None,
                }),
            }
        }
        desired.refused.sort_by(|a, b| a.origin.cmp(&b.origin));
        for wanted in desired.pods.values_mut() {
            wanted.pod = attach(&wanted.pod, &set);
        }
    }

    /// What the store is to hold: what runs, and what this version of the agent could not read.
    fn to_keep(&self, desired: &Desired) -> BTreeMap<PathBuf, Keep> {
        let lapsed = self
            .known
            .iter()
            .filter(|(_, known)| known.lapsed.is_some());
        let lapsed = lapsed.map(|(path, _)| (path.clone(), Keep::AsItIs));
        let runs = desired.pods.values();
        let runs = runs.filter_map(|w| {
            let path = w.origin.file()?.to_owned();
            Some((path, Keep::Version(Arc::clone(&w.pod))))
        });
        lapsed.chain(runs).collect()
    }
}
