//! Reads the files of one folder on threads of their own, so that one that does not answer holds up no
//! other.
//!
//! One thread reads them one after the other. Only while it is stuck do others take the rest on. A file
//! that is not read within the limit is left to its thread: it is not asked for again as long as it
//! resolves to the same path, and its result counts at the relist after it came.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, readlinkat};
use tokio::sync::Notify;

use crate::source::files::{self, FileStamp, ReadOutcome};
use crate::source::mounts;

/// The time in which a file has to be read.
pub(super) const FILE_LIMIT: Duration = Duration::from_secs(1);
/// A file that takes this long no longer holds up the others.
const STUCK: Duration = Duration::from_millis(20);
/// The most files that hang at a time; others that may hang too are then not tried.
const MAX_HANGING: usize = 64;
/// The same for regular files, whose folder answered just now, and for files that did before.
const MAX_HANGING_KNOWN: usize = 128;
/// Files that are read ahead of the one that is taken in.
const CHANNEL: usize = 4;

/// A file to read.
#[derive(Debug)]
pub(super) struct ReadJob {
    pub(super) name: OsString,
    pub(super) inode: u64,
    pub(super) kind: FileType,
    /// The stamp by which it need not be read.
    pub(super) stamp: Option<FileStamp>,
}

/// Resolved path of a name: the result of a stuck thread no longer applies to the name once this differs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ResolvedPath {
    inode: u64,
    target: Option<PathBuf>,
    /// The numbers of the mounts that the target lies on.
    mounts: Vec<u64>,
}

impl ResolvedPath {
    fn of(shared: &Shared, job: &ReadJob) -> Self {
        let target = match job.kind {
            FileType::Symlink => readlinkat(&shared.folder, &job.name, vec![]).ok(),
            _ => None,
        };
        let target = target.map(|to| shared.path.join(OsString::from_vec(to.into_bytes())));
        let mounts = target
            .as_deref()
            .map(|to| mounts::on_path(&shared.mountinfo, to));
        Self {
            inode: job.inode,
            target,
            mounts: mounts.unwrap_or_default(),
        }
    }
}

/// A file that hangs, or that was read after its limit.
#[derive(Debug)]
struct Hanging {
    resolved: Option<ResolvedPath>,
    since: Instant,
    /// Result of the read, once it has ended.
    late: Option<ReadOutcome>,
}

/// Reads files.
#[derive(Debug)]
pub(super) struct FileReader {
    hanging: HashMap<OsString, Hanging>,
    late: (Sender<LateRead>, Receiver<LateRead>),
    /// Notified when a file that hung was read at last.
    pub(super) wake: Arc<Notify>,
    /// Number of threads that were abandoned.
    left: Arc<AtomicUsize>,
    /// Number of files that it was last asked to read.
    #[cfg(test)]
    pub(super) asked: usize,
}

/// Result of a read that exceeded its time limit.
#[derive(Debug)]
struct LateRead {
    name: OsString,
    resolved: Option<ResolvedPath>,
    found: ReadOutcome,
}

/// A read of one thread.
#[derive(Debug)]
struct Slot {
    name: OsString,
    resolved: Option<ResolvedPath>,
    since: Instant,
    /// Nobody waits for it any more.
    is_left: bool,
}

/// State shared by the threads of one relist.
#[derive(Debug)]
struct Shared {
    folder: Arc<OwnedFd>,
    /// Path of the folder, to resolve targets of links.
    path: PathBuf,
    mountinfo: String,
    threads: Mutex<Threads>,
    late: Sender<LateRead>,
    wake: Arc<Notify>,
    left: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Threads {
    queue: VecDeque<(ReadJob, Option<Hanging>)>,
    /// Current read of each thread; `None` while it hands over a result.
    slots: Vec<Option<Slot>>,
}

impl Threads {
    /// Removes files from the queue that would add to the stuck threads if too many are stuck, and adds their
    /// names to `rest`. Returns their number.
    fn thin_out(&mut self, stuck: usize, rest: &mut Vec<OsString>) -> usize {
        let before = self.queue.len();
        if stuck >= MAX_HANGING {
            self.queue.retain(|(job, hanging)| {
                let may_hang = job.kind != FileType::RegularFile && job.stamp.is_none();
                let is_kept = hanging.is_some() || (!may_hang && stuck < MAX_HANGING_KNOWN);
                if !is_kept {
                    rest.push(job.name.clone());
                }
                is_kept
            });
        }
        before.saturating_sub(self.queue.len())
    }

    /// True when every file that is being read takes this long, and one is.
    fn are_all_stuck(&self, time: Duration) -> bool {
        let youngest = self.slots.iter().flatten().map(|slot| slot.since).max();
        youngest.is_some_and(|since| since.elapsed() >= time)
    }
}

/// A file that was read, or that still hangs.
#[derive(Debug)]
struct ReadDone {
    name: OsString,
    found: ReadOutcome,
    hanging: Option<Hanging>,
}

impl FileReader {
    pub(super) fn new() -> Self {
        Self {
            hanging: HashMap::new(),
            late: channel(),
            wake: Arc::default(),
            left: Arc::default(),
            #[cfg(test)]
            asked: 0,
        }
    }

    /// The files that hang, and since when.
    pub(super) fn hanging(&self) -> impl Iterator<Item = (&OsString, Instant)> {
        let hangs = |h: &Hanging| h.late.is_none() && h.since.elapsed() >= FILE_LIMIT;
        let hanging = self.hanging.iter().filter(move |(_, h)| hangs(h));
        hanging.map(|(name, hanging)| (name, hanging.since))
    }

    /// Forgets all files but those for which `present` holds.
    pub(super) fn retain(&mut self, present: impl Fn(&OsStr) -> bool) {
        self.hanging.retain(|name, _| present(name));
    }

    /// Reads files in this order, but for those that hang, and gives each to `take` until that breaks
    /// off. Waits no longer than about two limits for all that hang together.
    pub(super) fn read(
        &mut self,
        folder: &Arc<OwnedFd>,
        path: &Path,
        jobs: Vec<ReadJob>,
        mut take: impl FnMut(OsString, ReadOutcome) -> ControlFlow<()>,
    ) {
        self.collect_late();
        #[cfg(test)]
        {
            self.asked = jobs.len();
        }
        if jobs.is_empty() {
            return;
        }
        let has_links = jobs.iter().any(|job| job.kind == FileType::Symlink);
        let queue = jobs.into_iter().map(|job| {
            let known = self.hanging.remove(&job.name);
            (job, known)
        });
        let mut threads = Threads {
            queue: queue.collect(),
            slots: vec![],
        };
        let mut rest = vec![];
        let left = self.left.load(Ordering::Relaxed);
        threads.thin_out(left, &mut rest);
        let outstanding = threads.queue.len();
        let shared = Arc::new(Shared {
            folder: Arc::clone(folder),
            path: path.to_owned(),
            mountinfo: has_links.then(mounts::mountinfo).unwrap_or_default(),
            threads: Mutex::new(threads),
            late: self.late.0.clone(),
            wake: Arc::clone(&self.wake),
            left: Arc::clone(&self.left),
        });
        let (sender, receiver) = sync_channel(CHANNEL);
        if shared.start_thread(&sender) {
            let channel = (&sender, &receiver);
            self.gather(&shared, channel, outstanding, &mut rest, &mut take);
            for name in rest {
                if take(name, ReadOutcome::Unanswered).is_break() {
                    break;
                }
            }
        }
        self.take_back(&shared);
    }

    /// Gives what the threads read, until all is read or what is left hangs; the names of that are added
    /// to `rest`.
    fn gather(
        &mut self,
        shared: &Arc<Shared>,
        (sender, receiver): (&SyncSender<ReadDone>, &Receiver<ReadDone>),
        mut outstanding: usize,
        rest: &mut Vec<OsString>,
        take: &mut impl FnMut(OsString, ReadOutcome) -> ControlFlow<()>,
    ) {
        while outstanding > 0 {
            if let Ok(done) = receiver.recv_timeout(STUCK) {
                outstanding = outstanding.saturating_sub(1);
                if let Some(hanging) = done.hanging {
                    self.hanging.insert(done.name.clone(), hanging);
                }
                if take(done.name, done.found).is_break() {
                    rest.clear();
                    return;
                }
                continue;
            }
            let mut threads = shared.threads();
            if !threads.are_all_stuck(STUCK) {
                continue;
            }
            let left = self.left.load(Ordering::Relaxed);
            let stuck = threads.slots.iter().flatten().count().saturating_add(left);
            outstanding = outstanding.saturating_sub(threads.thin_out(stuck, rest));
            let is_empty = threads.queue.is_empty();
            if is_empty && threads.are_all_stuck(FILE_LIMIT) {
                rest.extend(threads.slots.iter().flatten().map(|slot| slot.name.clone()));
                return;
            }
            drop(threads);
            if !is_empty && !shared.start_thread(sender) {
                return;
            }
        }
    }

    /// Leaves what is still being read to its threads, and takes back what was not begun.
    fn take_back(&mut self, shared: &Shared) {
        let mut threads = shared.threads();
        for (job, hanging) in threads.queue.drain(..) {
            self.hanging
                .extend(hanging.map(|hanging| (job.name, hanging)));
        }
        for slot in threads.slots.iter_mut().flatten() {
            slot.is_left = true;
            self.left.fetch_add(1, Ordering::Relaxed);
            let hanging = Hanging {
                resolved: slot.resolved.clone(),
                since: slot.since,
                late: None,
            };
            self.hanging.insert(slot.name.clone(), hanging);
        }
    }

    fn collect_late(&mut self) {
        for LateRead {
            name,
            resolved,
            found,
        } in self.late.1.try_iter()
        {
            let Some(hanging) = self.hanging.get_mut(&name) else {
                continue;
            };
            // One that was left at once did not know its way yet.
            if hanging.resolved.is_none() || hanging.resolved == resolved {
                hanging.resolved = resolved;
                hanging.late = Some(found);
            }
        }
    }
}

impl Shared {
    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when no thread can be had.
    fn start_thread(self: &Arc<Self>, done: &SyncSender<ReadDone>) -> bool {
        let mut threads = self.threads();
        let index = threads.slots.len();
        let (shared, done) = (Arc::clone(self), done.clone());
        let thread = thread::Builder::new().name("manifests".to_owned());
        let started = thread.spawn(move || shared.work(index, &done)).is_ok();
        if started {
            threads.slots.push(None);
        }
        started
    }

    fn work(&self, index: usize, done: &SyncSender<ReadDone>) {
        loop {
            let mut threads = self.threads();
            let Some((job, hanging)) = threads.queue.pop_front() else {
                return;
            };
            threads.slots[index] = Some(Slot {
                name: job.name.clone(),
                resolved: None,
                since: Instant::now(),
                is_left: false,
            });
            drop(threads);
            let resolved = ResolvedPath::of(self, &job);
            if let Some(slot) = &mut self.threads().slots[index] {
                slot.resolved = Some(resolved.clone());
            }
            let (found, hanging) = match hanging {
                // A thread that hung before it knew the way says nothing of another.
                Some(hanging) if hanging.resolved.as_ref().is_none_or(|old| *old == resolved) => {
                    match hanging.late {
                        Some(found) => (found, None),
                        None => (ReadOutcome::Unanswered, Some(hanging)),
                    }
                }
                _ => {
                    let folder = self.folder.as_fd();
                    (files::read(folder, &job.name, job.stamp.as_ref()), None)
                }
            };
            let name = job.name;
            if self.threads().slots[index]
                .take()
                .is_some_and(|slot| slot.is_left)
            {
                self.left.fetch_sub(1, Ordering::Relaxed);
                let resolved = Some(resolved);
                // The reader may have gone.
                let _ = self.late.send(LateRead {
                    name,
                    resolved,
                    found,
                });
                self.wake.notify_one();
                return;
            }
            let read = ReadDone {
                name,
                found,
                hanging,
            };
            if done.send(read).is_err() {
                return;
            }
        }
    }
}
