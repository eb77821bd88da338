//! Reads the files of one folder on threads of their own, so that one that does not answer holds up no
//! other.
//!
//! One thread reads them one after the other. Only while it is stuck do others take the rest on. A file
//! that is not read within the limit is left to its thread: it is not asked for again as long as it
//! leads to the same place, and what comes of it in the end counts at the look after that.

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

use crate::source::files::{self, Found, Stamp};
use crate::source::mounts;

/// The time in which a file has to be read.
pub(super) const FILE_LIMIT: Duration = Duration::from_secs(1);
/// A file that takes this long no longer holds up the others.
const STUCK: Duration = Duration::from_millis(20);
/// The most files that hang at a time; others that may hang too are then not tried.
const MAX_HANGING: usize = 64;
/// The same for regular files, whose folder answered just now.
const MAX_HANGING_REGULAR: usize = 128;
/// Files that are read ahead of the one that is taken in.
const CHANNEL: usize = 4;

/// A file to read.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) name: OsString,
    pub(super) inode: u64,
    pub(super) kind: FileType,
    /// The stamp by which it need not be read.
    pub(super) stamp: Option<Stamp>,
}

/// Where a name leads: a thread that hangs there says nothing of the name once this is another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    inode: u64,
    target: Option<PathBuf>,
    /// The numbers of the mounts that the target lies on.
    mounts: Vec<u64>,
}

impl Way {
    fn of(shared: &Shared, job: &Job) -> Self {
        let target = match job.kind {
            FileType::Symlink => readlinkat(&shared.folder, &job.name, vec![]).ok(),
            _ => None,
        };
        let target = target.map(|to| shared.path.join(OsString::from_vec(to.into_bytes())));
        let mounts = target
            .as_deref()
            .map(|to| mounts::on_the_way(&shared.mountinfo, to));
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
    way: Option<Way>,
    since: Instant,
    /// What came of it in the end.
    late: Option<Found>,
}

/// Reads files.
#[derive(Debug)]
pub(super) struct Reader {
    hanging: HashMap<OsString, Hanging>,
    late: (Sender<Late>, Receiver<Late>),
    /// Notified when a file that hung was read at last.
    pub(super) wake: Arc<Notify>,
    /// How many threads were left to their files.
    left: Arc<AtomicUsize>,
}

/// What came of a file after its limit.
#[derive(Debug)]
struct Late {
    name: OsString,
    way: Option<Way>,
    found: Found,
}

/// What one thread reads.
#[derive(Debug)]
struct Slot {
    name: OsString,
    way: Option<Way>,
    since: Instant,
    /// Nobody waits for it any more.
    is_left: bool,
}

/// What the threads of one look share.
#[derive(Debug)]
struct Shared {
    folder: Arc<OwnedFd>,
    /// Where the folder is found, for targets of links.
    path: PathBuf,
    mountinfo: String,
    threads: Mutex<Threads>,
    late: Sender<Late>,
    wake: Arc<Notify>,
    left: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Threads {
    queue: VecDeque<(Job, Option<Hanging>)>,
    /// What each thread reads; nothing while it hands over what it read.
    slots: Vec<Option<Slot>>,
}

impl Threads {
    /// True when every file that is being read takes this long, and one is.
    fn are_all_stuck(&self, time: Duration) -> bool {
        let youngest = self.slots.iter().flatten().map(|slot| slot.since).max();
        youngest.is_some_and(|since| since.elapsed() >= time)
    }
}

/// A file that was read, or that still hangs.
#[derive(Debug)]
struct Done {
    name: OsString,
    found: Found,
    hanging: Option<Hanging>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            hanging: HashMap::new(),
            late: channel(),
            wake: Arc::default(),
            left: Arc::default(),
        }
    }

    /// The files that hang, and since when.
    pub(super) fn hanging(&self) -> impl Iterator<Item = (&OsString, Instant)> {
        let hanging = self.hanging.iter().filter(|(_, h)| h.late.is_none());
        hanging.map(|(name, hanging)| (name, hanging.since))
    }

    /// Forgets all files but those for which `present` holds.
    pub(super) fn retain(&mut self, present: impl Fn(&OsStr) -> bool) {
        self.hanging.retain(|name, _| present(name));
    }

    /// Reads files in this order, but for those that hang, and gives each to `take` until that breaks
    /// off. Returns how many were not given. Waits no longer than about two limits for all that hang
    /// together.
    pub(super) fn read(
        &mut self,
        folder: &Arc<OwnedFd>,
        path: &Path,
        jobs: Vec<Job>,
        mut take: impl FnMut(OsString, Found) -> ControlFlow<()>,
    ) -> usize {
        self.collect_late();
        let total = jobs.len();
        let mut unread = total;
        let has_links = jobs.iter().any(|job| job.kind == FileType::Symlink);
        let queue = jobs.into_iter().map(|job| {
            let known = self.hanging.remove(&job.name);
            (job, known)
        });
        let threads = Threads {
            queue: queue.collect(),
            slots: vec![],
        };
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
        let mut give = |name, found| {
            unread -= 1;
            take(name, found)
        };
        if shared.start_thread(&sender) {
            let rest = self.gather(&shared, (&sender, &receiver), total, &mut give);
            for name in rest {
                if give(name, Found::Unanswered).is_break() {
                    break;
                }
            }
        }
        self.take_back(&shared);
        unread
    }

    /// Gives what the threads read, until all is read or the rest hangs. Returns the names of the rest.
    fn gather(
        &mut self,
        shared: &Arc<Shared>,
        (sender, receiver): (&SyncSender<Done>, &Receiver<Done>),
        mut outstanding: usize,
        give: &mut impl FnMut(OsString, Found) -> ControlFlow<()>,
    ) -> Vec<OsString> {
        let mut rest = vec![];
        while outstanding > rest.len() {
            if let Ok(done) = receiver.recv_timeout(STUCK) {
                outstanding -= 1;
                if let Some(hanging) = done.hanging {
                    self.hanging.insert(done.name.clone(), hanging);
                }
                if give(done.name, done.found).is_break() {
                    return vec![];
                }
                continue;
            }
            let mut threads = shared.threads();
            if !threads.are_all_stuck(STUCK) {
                continue;
            }
            self.thin_out(&mut threads, &mut rest);
            let is_empty = threads.queue.is_empty();
            if is_empty && threads.are_all_stuck(FILE_LIMIT) {
                rest.extend(threads.slots.iter().flatten().map(|slot| slot.name.clone()));
                return rest;
            }
            drop(threads);
            if !is_empty && !shared.start_thread(sender) {
                return rest;
            }
        }
        rest
    }

    /// Where too many files hang, takes those out of the queue that may hang too.
    fn thin_out(&mut self, threads: &mut Threads, rest: &mut Vec<OsString>) {
        let stuck = threads.slots.iter().flatten().count() + self.left.load(Ordering::Relaxed);
        if stuck < MAX_HANGING {
            return;
        }
        for (job, hanging) in std::mem::take(&mut threads.queue) {
            if job.kind == FileType::RegularFile && stuck < MAX_HANGING_REGULAR {
                threads.queue.push_back((job, hanging));
                continue;
            }
            if let Some(hanging) = hanging {
                self.hanging.insert(job.name.clone(), hanging);
            }
            rest.push(job.name);
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
                way: slot.way.clone(),
                since: slot.since,
                late: None,
            };
            self.hanging.insert(slot.name.clone(), hanging);
        }
    }

    fn collect_late(&mut self) {
        for Late { name, way, found } in self.late.1.try_iter() {
            if let Some(hanging) = self.hanging.get_mut(&name).filter(|h| h.way == way) {
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
    fn start_thread(self: &Arc<Self>, done: &SyncSender<Done>) -> bool {
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

    fn work(&self, index: usize, done: &SyncSender<Done>) {
        loop {
            let mut threads = self.threads();
            let Some((job, hanging)) = threads.queue.pop_front() else {
                return;
            };
            threads.slots[index] = Some(Slot {
                name: job.name.clone(),
                way: None,
                since: Instant::now(),
                is_left: false,
            });
            drop(threads);
            let way = Way::of(self, &job);
            if let Some(slot) = &mut self.threads().slots[index] {
                slot.way = Some(way.clone());
            }
            let (found, hanging) = match hanging {
                // A thread that hung before it knew the way says nothing of another.
                Some(hanging) if hanging.way.as_ref().is_none_or(|old| *old == way) => {
                    match hanging.late {
                        Some(found) => (found, None),
                        None => (Found::Unanswered, Some(hanging)),
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
                let way = Some(way);
                // The reader may have gone.
                let _ = self.late.send(Late { name, way, found });
                self.wake.notify_one();
                return;
            }
            let read = Done {
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
