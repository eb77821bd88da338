//! Hearing of changes at the manifest path, through inotify.
//!
//! An event only ever asks for a relist, and which files are just being written. The folder itself
//! and every folder above it are watched, so that a folder that comes, goes or is replaced causes events
//! as well. Where inotify reports nothing (links into other folders, network file systems, limits
//! reached) the periodic relist finds the change; nothing here is needed for correctness.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

use super::files::is_ignored;
use super::limits;

use crate::units::time::Later;

/// A file that was written to, but not closed, is taken when this long nothing was written.
const QUIET: Duration = Duration::from_millis(200);

/// A file that is written to without end is taken as it is after this time.
const MAX_UNSETTLED: Duration = Duration::from_secs(3);

/// Number of attempts to set up watches while the folders change; the periodic relist comes anyway.
const MAX_ARMINGS: usize = 5;

/// The most reads of events at a time, more than a full queue takes; a flood of events is dropped
/// with its queue.
const MAX_READS: usize = 2048;

/// Role of a watched folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum WatchRole {
    /// Manifests: all names, or the one that is the manifest path itself.
    Manifests(Option<OsString>),
    /// The name of the folder below it on the way to the manifests.
    Ancestor(OsString),
}

impl WatchRole {
    fn mask(&self) -> WatchMask {
        let names = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR
            | WatchMask::MASK_ADD;
        match self {
            Self::Manifests(_) => names | WatchMask::MODIFY | WatchMask::CLOSE_WRITE,
            Self::Ancestor(_) => names,
        }
    }
}

/// A folder to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WatchedDirectory {
    folder: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    role: WatchRole,
}

/// The existing folders to watch for a manifest path, which must be absolute.
fn directories(manifest_path: &Path) -> Vec<WatchedDirectory> {
    let is_folder = fs::metadata(manifest_path).is_ok_and(|meta| meta.is_dir());
    let mut below: Option<&OsStr> = None;
    let mut directories = Vec::new();
    for folder in manifest_path.ancestors() {
        let role = match below {
            None if is_folder => Some(WatchRole::Manifests(None)),
            None => None,
            Some(name) if !is_folder && Some(folder) == manifest_path.parent() => {
                Some(WatchRole::Manifests(Some(name.to_owned())))
            }
            Some(name) => Some(WatchRole::Ancestor(name.to_owned())),
        };
        let meta = fs::metadata(folder).ok().filter(fs::Metadata::is_dir);
        if let (Some(role), Some(meta)) = (role, meta) {
            let identity = (meta.dev(), meta.ino());
            directories.push(WatchedDirectory {
                folder: folder.to_owned(),
                identity,
                role,
            });
        }
        below = folder.file_name();
    }
    directories
}

/// Times of the first and the last event of a file being written.
#[derive(Debug, Clone, Copy)]
struct Writing {
    first: Instant,
    last: Instant,
}

impl Writing {
    fn due(self) -> Instant {
        self.last.later(QUIET).min(self.first.later(MAX_UNSETTLED))
    }
}

/// Pending events since the last relist.
#[derive(Debug, Default)]
pub(super) struct PendingEvents {
    /// Something may have changed.
    pub(super) relist: bool,
    /// The watched folders are not the right ones any more, or events were lost.
    rearm: bool,
    /// Names with events since the last relist began.
    touched: HashSet<OsString>,
    /// The files that are being written to.
    writing: HashMap<OsString, Writing>,
}

impl PendingEvents {
    /// Begins a relist: events from now on may have come too late for it. Returns the names that had
    /// events before.
    pub(super) fn begin_relist(&mut self) -> HashSet<OsString> {
        self.relist = false;
        std::mem::take(&mut self.touched)
    }

    /// True if there was an event for a file since the relist began.
    pub(super) fn was_touched(&self, name: &OsStr) -> bool {
        self.touched.contains(name)
    }

    /// True if a file is being written and should not be read yet.
    pub(super) fn is_being_written(&self, name: &OsStr, now: Instant) -> bool {
        self.writing
            .get(name)
            .is_some_and(|writing| now < writing.due())
    }

    /// True if a file has been written to for so long that the wait for it is over.
    pub(super) fn waited_long(&self, name: &OsStr, now: Instant) -> bool {
        self.writing
            .get(name)
            .is_some_and(|writing| now >= writing.first.later(MAX_UNSETTLED))
    }

    /// A file is being written to.
    pub(super) fn wrote(&mut self, name: &OsStr, now: Instant) {
        let writing = Writing {
            first: now,
            last: now,
        };
        self.writing.entry(name.to_owned()).or_insert(writing).last = now;
    }

    /// A file is complete, or gone.
    pub(super) fn finished(&mut self, name: &OsStr) {
        self.writing.remove(name);
    }

    /// Forgets all files but those for which `present` holds.
    pub(super) fn retain(&mut self, present: impl Fn(&OsStr) -> bool) {
        self.writing.retain(|name, _| present(name));
    }

    /// Time when the first file that is being written is to be read.
    pub(super) fn due(&self) -> Option<Instant> {
        self.writing.values().map(|writing| writing.due()).min()
    }

    /// Takes in one event, of the folder watched in `roles`.
    fn record(&mut self, mask: EventMask, roles: &[WatchRole], name: Option<&OsStr>, now: Instant) {
        let lost = EventMask::Q_OVERFLOW
            | EventMask::UNMOUNT
            | EventMask::IGNORED
            | EventMask::DELETE_SELF
            | EventMask::MOVE_SELF;
        if mask.intersects(lost) {
            self.rearm = true;
            self.relist = true;
        }
        for role in roles {
            match (role, name) {
                (_, None) => self.relist = true,
                (WatchRole::Ancestor(child), Some(name)) => self.relist |= child == name,
                (WatchRole::Manifests(None), Some(name)) => {
                    self.record_file(mask, name, is_ignored(name), now);
                }
                (WatchRole::Manifests(Some(only)), Some(name)) if only == name => {
                    self.record_file(mask, name, false, now);
                }
                (WatchRole::Manifests(Some(_)), Some(_)) => {}
            }
        }
    }

    /// Takes in an event of one name among the manifests. Names that are no manifests count only
    /// when they come or go: manifests may be links through them.
    fn record_file(&mut self, mask: EventMask, name: &OsStr, ignored: bool, now: Instant) {
        self.touched.insert(name.to_owned());
        let content = EventMask::MODIFY | EventMask::CLOSE_WRITE | EventMask::ATTRIB;
        if ignored {
            self.relist |= !mask.intersects(content);
            return;
        }
        if mask.contains(EventMask::MODIFY) {
            self.wrote(name, now);
            return;
        }
        self.relist = true;
        if mask.contains(EventMask::CREATE) && !mask.contains(EventMask::ISDIR) {
            self.wrote(name, now);
        } else if !mask.contains(EventMask::ATTRIB) {
            self.finished(name);
        }
    }
}

/// One inotify instance and the folders that it watches.
#[derive(Debug)]
struct Armed<I> {
    inotify: I,
    /// The folders that are watched: fewer than asked for where one could not be.
    directories: Vec<WatchedDirectory>,
    roles: HashMap<WatchDescriptor, Vec<WatchRole>>,
}

impl Armed<Inotify> {
    /// Touches the folders, so that it may hang.
    fn new(wanted: &[WatchedDirectory]) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut roles: HashMap<_, Vec<_>> = HashMap::new();
        let mut directories = Vec::new();
        for directory in wanted {
            match inotify
                .watches()
                .add(&directory.folder, directory.role.mask())
            {
                Ok(watch) => {
                    roles.entry(watch).or_default().push(directory.role.clone());
                    directories.push(directory.clone());
                }
                Err(error) if is_limit(&error) => return Err(error),
                // The folder has gone or is not ours to read: listing it shows which.
                Err(_) => {}
            }
        }
        Ok(Self {
            inotify,
            directories,
            roles,
        })
    }

    /// Must run inside the runtime.
    fn register(self) -> io::Result<Armed<AsyncFd<Inotify>>> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of types that change their descriptor; \
                      Inotify owns one and keeps it"
        )]
        let inotify = AsyncFd::new(self.inotify)?;
        Ok(Armed {
            inotify,
            directories: self.directories,
            roles: self.roles,
        })
    }
}

/// Update of the watched folders, on a thread of its own since touching them may hang.
#[derive(Debug)]
pub(super) struct Arming {
    manifest_path: PathBuf,
    /// The folders that are watched; `None` when new watches are needed in any case.
    directories: Option<Vec<WatchedDirectory>>,
}

/// Result of setting up watches: `None` when the right folders are watched already.
#[derive(Debug)]
pub(super) struct NewWatches(Option<io::Result<Armed<Inotify>>>);

impl Arming {
    /// Watches the folders that there are now, if those are not the ones watched already.
    pub(super) fn run(mut self) -> NewWatches {
        let mut new = None;
        for _ in 0..MAX_ARMINGS {
            let directories = directories(&self.manifest_path);
            if self.directories.as_ref() == Some(&directories) {
                break;
            }
            match Armed::new(&directories) {
                Ok(armed) => {
                    self.directories = Some(armed.directories.clone());
                    new = Some(Ok(armed));
                }
                Err(error) => return NewWatches(Some(Err(error))),
            }
        }
        NewWatches(new)
    }
}

/// True if inotify as a whole is not available, rather than for one folder.
fn is_limit(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let limits = [
        Errno::NOSPC,
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOSYS,
    ];
    limits
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The watches of a manifest path.
#[derive(Debug)]
pub(super) struct Watch {
    manifest_path: PathBuf,
    /// `None` while inotify cannot be had.
    armed: Option<Armed<AsyncFd<Inotify>>>,
    /// It was logged that inotify cannot be had.
    is_reported: bool,
    /// The watches are those of the relist before.
    is_unbroken: bool,
    pub(super) pending: PendingEvents,
}

impl Watch {
    /// Watches that report nothing until [`Watch::adopt`].
    pub(super) fn new(manifest_path: PathBuf) -> Self {
        Self {
            manifest_path,
            armed: None,
            is_reported: false,
            is_unbroken: false,
            pending: PendingEvents::default(),
        }
    }

    /// True if watches are set up.
    pub(super) fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// True if no event was missed since the relist before, as far as inotify reports changes at all.
    pub(super) fn is_unbroken(&self) -> bool {
        self.is_unbroken
    }

    /// A relist begins: takes in what came before it. Gives what brings the watches up to date, and the
    /// names that had events.
    pub(super) fn begin_relist(&mut self) -> (Arming, HashSet<OsString>) {
        self.drain(Instant::now());
        let changed_names = self.pending.begin_relist();
        let armed = self.armed.as_ref().filter(|_| !self.pending.rearm);
        let arming = Arming {
            manifest_path: self.manifest_path.clone(),
            directories: armed.map(|armed| armed.directories.clone()),
        };
        (arming, changed_names)
    }

    /// Listens to the new watches from now on. Must run inside the runtime.
    pub(super) fn adopt(&mut self, NewWatches(new): NewWatches) {
        self.is_unbroken = new.is_none() && self.is_armed();
        let Some(new) = new else { return };
        self.pending = PendingEvents::default();
        self.armed = None;
        match new.and_then(Armed::register) {
            Ok(armed) => self.armed = Some(armed),
            Err(error) => return self.report_unavailable(&error),
        }
        if std::mem::take(&mut self.is_reported) {
            info!("inotify is available again");
        }
    }

    fn report_unavailable(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_reported, true) {
            let path = self.manifest_path.display();
            let advice = limits::advice(error);
            warn!(%path, %error, advice, "inotify is unavailable, changes are found by the periodic relist only");
        }
    }

    /// Takes in all events that have come.
    pub(super) fn drain(&mut self, now: Instant) {
        let Some(armed) = &mut self.armed else { return };
        let mut buffer = [0; 4096];
        for _ in 0..MAX_READS {
            match armed.inotify.get_mut().read_events(&mut buffer) {
                Ok(events) => {
                    for event in events {
                        let roles = armed.roles.get(&event.wd).map_or(&[][..], Vec::as_slice);
                        self.pending.record(event.mask, roles, event.name, now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.pending.rearm = true;
                    }
                    return;
                }
            }
        }
        self.pending.relist = true;
        self.pending.rearm = true;
    }

    /// Waits for events and takes them in; for ever while inotify cannot be had. May be cancelled.
    pub(super) async fn listen(&mut self) {
        let Some(armed) = &mut self.armed else {
            return std::future::pending().await;
        };
        match armed.inotify.readable_mut().await {
            // What comes after this is seen as readable again, and what came before is drained.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => self.pending.rearm = true,
        }
        self.drain(Instant::now());
    }
}
