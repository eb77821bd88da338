//! Manifests in a directory, or in one file.
//!
//! Each relist reads the whole state and gives a whole [`Desired`]; events and time only say when to
//! relist. The invariants: a Pod goes only when its file was missing twice while the folder could be
//! read; what is published was read from files without events of a writer; and what does not
//! answer, one file or the whole folder, keeps what was accepted from it and holds up nothing else.

mod absences;
mod crowd;
mod known;
mod listing;
mod objects;
mod reader;
mod relist;
mod store_writer;
mod survey;
mod usage;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep_until;

use self::listing::{ListRequest, Listing};
pub use self::objects::duplicate_objects;
use self::reader::FileReader;
use self::relist::Directory;
use self::store_writer::StoreWriter;
use super::files::{self, MAX_BYTES, ReadOutcome, is_ignored};
use super::log::publish;
use super::mounts::MountWatch;
use super::{Desired, LastRead};
use crate::host::blocking::{UNLIMITED, limited};
use crate::units::time::Later;

/// Relists for events are at least this far apart, so that a burst costs few.
const RELIST_GAP: Duration = Duration::from_millis(5);

/// The least time between a relist, or a look at the mounts, and a look at them for a change. Every container that
/// starts or ends changes the mounts of the node, and the kernel takes the longer to list them the more containers
/// there are.
const MOUNTS_GAP: Duration = Duration::from_millis(500);
/// A look at the mounts is followed by at least this many times as long as it took without one, up to
/// [`MAX_MOUNTS_GAP`].
const MOUNTS_REST: u32 = 1000;
const MAX_MOUNTS_GAP: Duration = Duration::from_secs(3);

/// A relist that takes longer is not repeated at every change of any mount, wherever links may lead.
const CHEAP: Duration = Duration::from_millis(50);

/// The longest rest after a relist that took long.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// The shortest period of relists.
const MIN_PERIOD: Duration = Duration::from_millis(10);

/// The time in which the directory has to be listed.
const LIST_LIMIT: Duration = Duration::from_secs(5);

/// Directory of manifests, and settings of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySource {
    /// A directory of manifests, or one manifest.
    pub path: PathBuf,
    /// The node's name, in lower case.
    pub node_name: String,
    /// Interval of the periodic relist, whatever inotify reports; the kubelet's `fileCheckFrequency`.
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
    /// The channel gets its first value after the first full relist, and then all that is wanted,
    /// each time that something changed. Must run on a runtime with time and I/O.
    ///
    /// # Panics
    /// Panics if reading a manifest does.
    pub async fn run(self, sender: watch::Sender<Option<Desired>>) {
        self.run_recording(sender, LastRead::default()).await;
    }

    /// The same, and records each successful read of the manifests.
    pub(super) async fn run_recording(
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
/// Returns the reason why the file cannot be read.
pub fn read_manifest(path: &Path) -> Result<Vec<u8>, String> {
    match files::read(CWD, path.as_os_str(), None) {
        ReadOutcome::Content { bytes, .. } => Ok(bytes),
        ReadOutcome::Unusable(problem) => Err(problem),
        ReadOutcome::Folder => Err("is a folder; a manifest must be a regular file".to_owned()),
        ReadOutcome::Nothing | ReadOutcome::Unchanged | ReadOutcome::Unanswered => {
            Err("does not exist".to_owned())
        }
    }
}

/// Reads a manifest that is named on a command line, where `-` is standard input.
///
/// # Errors
/// Returns the reason why it cannot be read.
pub fn read_given(path: &Path) -> Result<Vec<u8>, String> {
    match path.to_str() {
        Some("-") => read_standard_input(),
        _ => read_manifest(path),
    }
}

/// Reads one manifest from standard input, of at most 10 MiB too.
fn read_standard_input() -> Result<Vec<u8>, String> {
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

/// Returns the manifests of a folder by the rules of the source, in the order of their names.
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

/// Relists, publishes, stores and waits, until the last receiver is dropped.
async fn follow(
    config: DirectorySource,
    sender: watch::Sender<Option<Desired>>,
    read: LastRead,
) -> Result<(), JoinError> {
    let period = config.rescan.max(MIN_PERIOD);
    let (mut directory, store) = spawn_blocking(|| Directory::open(config)).await?;
    let mut writer = StoreWriter::new(store);
    let mut reader = FileReader::new();
    let mounts = MountWatch::new();
    // Writes before the folder was watched caused no events.
    let mut by_event = false;
    loop {
        let Some(listing) = list(&mut directory, &mut writer, &mounts, &sender).await? else {
            return writer.finish().await;
        };
        let now = Instant::now();
        let relist;
        (directory, reader, relist) = spawn_blocking(move || {
            let relist = directory.relist(&mut reader, listing, now, !by_event);
            (directory, reader, relist)
        })
        .await?;
        let desired = relist.desired;
        if desired.unreadable.is_empty() {
            read.now();
        }
        writer.set_entries(directory.store_entries(&desired));
        if relist.sure || sender.borrow().is_some() {
            publish(&sender, desired);
        }
        writer.start();

        // Relists of a large folder leave others as much time as they take.
        let took = now.elapsed();
        let soonest = Instant::now().later(took.clamp(RELIST_GAP, MAX_PAUSE));
        let due = relist
            .again
            .map_or(now.later(period), |again| again.min(now.later(period)));
        let mut mounts_due = Instant::now().later(MOUNTS_GAP);
        loop {
            tokio::select! {
                () = sender.closed() => return writer.finish().await,
                done = writer.done() => done?,
                () = sleep_until(due.max(soonest).into()) => { by_event = false; break }
                () = mounts.changed_after(mounts_due) => {
                    let may_matter = took <= CHEAP && directory.may_be_anywhere();
                    let looked = Instant::now();
                    if may_matter || directory.is_on_other_mounts() {
                        by_event = false;
                        break;
                    }
                    let rest = looked.elapsed().saturating_mul(MOUNTS_REST);
                    mounts_due = Instant::now().later(rest.clamp(MOUNTS_GAP, MAX_MOUNTS_GAP));
                },
                () = reader.wake.notified() => { by_event = false; break }
                () = directory.watch.listen() => if directory.watch.pending.relist {
                    by_event = true;
                    break;
                }
            }
        }
        sleep_until(soonest.into()).await;
    }
}

/// Lists the folder, however long that takes. Once the limit has passed, what was accepted counts, and
/// it is tried again beside what hangs when the path leads over other mounts. Returns `None` when the last
/// receiver was dropped.
async fn list(
    directory: &mut Directory,
    writer: &mut StoreWriter,
    mounts: &MountWatch,
    sender: &watch::Sender<Option<Desired>>,
) -> Result<Option<Listing>, JoinError> {
    let since = Instant::now();
    loop {
        let mount_ids = directory.record_mounts();
        let request = directory.begin_relist();
        let subject = format!("{} over mounts {mount_ids:?}", directory.path().display());
        let listing = limited(subject.as_str(), UNLIMITED, move || {
            ListRequest::run(request)
        });
        tokio::pin!(listing);
        loop {
            tokio::select! {
                listed = &mut listing => match listed {
                    Ok(listing) => return Ok(Some(listing)),
                    // It ends no sooner than in a year.
                    Err(_) => break,
                },
                () = sender.closed() => return Ok(None),
                done = writer.done() => done?,
                () = sleep_until(since.later(LIST_LIMIT).into()), if !directory.is_unanswered() => {
                    publish(sender, directory.unanswered(since));
                }
                () = mounts.changed() => {
                    if directory.is_on_other_mounts() {
                        break;
                    }
                }
            }
        }
    }
}
