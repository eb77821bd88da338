//! Blocking file work off the tasks' thread: without a limit where only local disks are
//! touched, and with one where a path may lie on a mount that does not answer.
//!
//! Work with a limit never runs on the runtime's blocking pool, so that what hangs there takes
//! nobody's place, and at most one operation for each subject is under way. A thread that hangs in
//! the kernel cannot be ended: it is left behind, and its subject counts as hanging until it returns.
//! An owner of many subjects, a Pod that is edited again and again, never leaves so many behind that
//! others get no thread.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, Id, Runtime};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::units::time::{LONGEST, Later};

/// The most operations with a limit that are under way in the whole process, hanging ones included.
const MAX_THREADS: usize = 1024;

/// Threads of the runtime's blocking pool: more than can hang.
const POOL: usize = 1536;

/// Time for which a thread of the pool waits for more work: each has some 80 KiB of stack in memory.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Operations on the pool that begin before one of them has ended or is slow. More make nothing faster, and each takes
/// a thread.
const PLACES: usize = 8;

/// Time after which an operation is slow, as on a disk that is: it makes place for another, since such disks do
/// several in the time of one.
const SLOW: Duration = Duration::from_millis(100);

/// The wait before another try to get a thread.
const RETRY: Duration = Duration::from_millis(50);

/// Limit of work that may take any time, and that its caller awaits beside other things.
pub(crate) const UNLIMITED: Duration = LONGEST;

/// Builds a runtime for one thread, since the agent waits far more than it works.
///
/// # Errors
/// Any I/O error.
pub(crate) fn single_threaded_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(POOL)
        .thread_keep_alive(KEEP_ALIVE)
        .build()
}

thread_local! {
    /// The places of the runtime that this thread runs.
    static FREE: Arc<Semaphore> = Arc::new(Semaphore::new(PLACES));
}

/// Runs file work off the tasks' thread, as soon as there is a place for it.
///
/// # Panics
/// Panics if the work does.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Nobody closes it.
    let place = FREE.with(Arc::clone).acquire_owned().await.ok();
    let mut work = tokio::task::spawn_blocking(work);
    let done = if let Ok(done) = timeout(SLOW, &mut work).await {
        done
    } else {
        drop(place);
        work.await
    };
    done.unwrap_or_else(|e| resume_unwind(e.into_panic()))
}

/// Subject of file work: operations on equal subjects run one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FileSubject {
    /// Owner of the threads that hang: a Pod, or the subject itself.
    owner: String,
    /// Part that distinguishes subjects of one name: a Pod's UID.
    part: String,
    /// Path or description, for errors.
    name: String,
}

impl FileSubject {
    /// Creates a subject of an owner that may have many.
    pub(crate) fn of(owner: &impl ToString, part: &str, name: String) -> Self {
        Self {
            owner: owner.to_string(),
            part: part.to_owned(),
            name,
        }
    }
}

impl From<&str> for FileSubject {
    fn from(name: &str) -> Self {
        Self::of(&name, "", name.to_owned())
    }
}

/// Error of file work that did not end within its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} has not answered for {}", seconds(*waited))]
pub(crate) struct TimedOut {
    /// Path or description that the caller gave.
    pub(crate) subject: String,
    /// Time since the operation that hangs began.
    pub(crate) waited: Duration,
}

impl TimedOut {
    fn since(subject: &FileSubject, start: Instant) -> Self {
        Self {
            subject: subject.name.clone(),
            waited: start.elapsed(),
        }
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        whole => format!("{whole}s"),
    }
}

/// Runs file work on a thread of its own and waits for it, but no longer than `limit`.
///
/// `subject` is what the work touches and what an error names, for instance a path or a Pod's folder.
/// Operations on one subject run one after the other. While one hangs beyond its own limit, later ones
/// fail at once without being started, and so do others of an owner of which as many hang as threads are
/// free. When the future is dropped, or the limit has passed, work that was started still runs to its end,
/// and its result is dropped.
///
/// # Errors
/// The work, or earlier work on the same subject, did not end in time.
///
/// # Panics
/// Panics if the work does.
pub(crate) async fn limited<T: Send + 'static>(
    subject: impl Into<FileSubject>,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let (turn, span) = Turn::begin(subject.into(), limit).await?;
    let result = spawn(turn, span.end, work).await;
    let result = result.ok_or_else(|| span.timed_out())?;
    match timeout_at(span.end, result).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(panic))) => resume_unwind(panic),
        // The thread sends a result before it ends, so that only the limit can pass.
        Ok(Err(_)) | Err(_) => Err(span.timed_out()),
    }
}

/// Runs file work with a limit on the runtime's blocking pool: for work that every Pod has all the time,
/// and of which little hangs at a time. The pool is larger than what may hang. Time that a test has paused
/// stands still meanwhile.
///
/// # Errors
/// The work, or earlier work on the same subject, did not end in time.
///
/// # Panics
/// Panics if the work does.
pub(crate) async fn pooled<T: Send + 'static>(
    subject: impl Into<FileSubject>,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let (turn, span) = Turn::begin(subject.into(), limit).await?;
    let work = blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    let done = timeout_at(span.end, work).await;
    done.map_err(|_| span.timed_out())
}

/// Starts the work on its own thread; `None` when no thread could be had until `end`.
async fn spawn<T: Send + 'static>(
    turn: Turn,
    end: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<oneshot::Receiver<thread::Result<T>>> {
    let (sender, receiver) = oneshot::channel();
    // A thread that cannot be started drops what it was given, so that it is given a share only.
    let job = Arc::new(Mutex::new(Some((turn, work, sender))));
    loop {
        let share = Arc::clone(&job);
        let run = move || {
            let job = share.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((turn, work, sender)) = job {
                let done = catch_unwind(AssertUnwindSafe(work));
                drop(turn);
                // The caller may have gone.
                let _ = sender.send(done);
            }
        };
        let thread = thread::Builder::new().name("files".to_owned());
        if thread.spawn(run).is_ok() {
            return Some(receiver);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep_until(Instant::now().later(RETRY).min(end)).await;
    }
}

/// Operation that is under way.
#[derive(Debug, Clone)]
struct Operation {
    start: Instant,
    end: Instant,
    /// Closed when the operation has ended.
    ended: watch::Receiver<()>,
}

/// All operations that are under way, by the runtime of their callers and by subject: agents in one process,
/// as in tests, may have Pods of one name.
type Operations = HashMap<(Id, FileSubject), Operation>;

static UNDER_WAY: LazyLock<Mutex<Operations>> = LazyLock::new(Mutex::default);

fn under_way() -> MutexGuard<'static, Operations> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reason why an operation cannot be started.
#[derive(Debug)]
enum Taken {
    /// Another one on the same subject.
    By(Operation),
    /// As many of the same owner hang as threads are free, the oldest of them since this time.
    Hanging(Instant),
    /// All threads are taken.
    AllThreads,
}

/// Subject and times of one call, its wait for a turn included.
#[derive(Debug)]
struct CallSpan {
    subject: FileSubject,
    start: Instant,
    end: Instant,
}

impl CallSpan {
    fn timed_out(&self) -> TimedOut {
        TimedOut::since(&self.subject, self.start)
    }
}

/// Permission to work on a subject, until it is dropped.
#[derive(Debug)]
struct Turn {
    subject: (Id, FileSubject),
    /// Dropped after the subject is free, which notifies those who wait for it.
    _ended: watch::Sender<()>,
}

impl Turn {
    /// Waits for a turn on the subject; the limit begins with the wait.
    async fn begin(subject: FileSubject, limit: Duration) -> Result<(Self, CallSpan), TimedOut> {
        let start = Instant::now();
        let end = start.later(limit);
        let turn = Self::wait(&subject, start, end).await?;
        Ok((
            turn,
            CallSpan {
                subject,
                start,
                end,
            },
        ))
    }

    /// Waits until no other operation on the subject is under way and a thread is free.
    async fn wait(subject: &FileSubject, start: Instant, end: Instant) -> Result<Self, TimedOut> {
        loop {
            match Self::take(subject, start, end) {
                Ok(turn) => return Ok(turn),
                Err(Taken::By(mut other)) => {
                    let until = other.end.min(end);
                    if timeout_at(until, other.ended.changed()).await.is_err() {
                        return Err(TimedOut::since(subject, other.start));
                    }
                }
                Err(Taken::Hanging(oldest)) => return Err(TimedOut::since(subject, oldest)),
                Err(Taken::AllThreads) if Instant::now() >= end => {
                    return Err(TimedOut::since(subject, start));
                }
                Err(Taken::AllThreads) => {
                    sleep_until(Instant::now().later(RETRY).min(end)).await;
                }
            }
        }
    }

    fn take(subject: &FileSubject, start: Instant, end: Instant) -> Result<Self, Taken> {
        let subject = (Handle::current().id(), subject.clone());
        let mut under_way = under_way();
        if let Some(other) = under_way.get(&subject) {
            return Err(Taken::By(other.clone()));
        }
        let now = Instant::now();
        let same_owner =
            |(id, other): &(Id, FileSubject)| *id == subject.0 && other.owner == subject.1.owner;
        let others = under_way.iter().filter(|(other, _)| same_owner(other));
        let hanging: Vec<Instant> = others
            .filter(|(_, other)| other.end <= now)
            .map(|(_, other)| other.start)
            .collect();
        let free = MAX_THREADS.saturating_sub(under_way.len());
        if let Some(oldest) = hanging.iter().min().filter(|_| hanging.len() >= free) {
            return Err(Taken::Hanging(*oldest));
        }
        if free == 0 {
            return Err(Taken::AllThreads);
        }
        let (sender, ended) = watch::channel(());
        under_way.insert(subject.clone(), Operation { start, end, ended });
        Ok(Self {
            subject,
            _ended: sender,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        under_way().remove(&self.subject);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    /// The clock of these stands still while file work is under way.
    #[tokio::test(start_paused = true)]
    async fn quick_work_takes_few_threads() {
        let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let work = |_| {
            let counts = Arc::clone(&counts);
            tokio::spawn(blocking(move || {
                let (now, most) = &*counts;
                most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                thread::sleep(Duration::from_millis(1));
                now.fetch_sub(1, Relaxed);
            }))
        };
        for work in (0..100).map(work).collect::<Vec<_>>() {
            work.await.unwrap();
        }
        assert!(counts.1.load(Relaxed) <= PLACES, "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_work_makes_place_for_other_work() {
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let slow = |_| {
            let hang = Arc::clone(&hang);
            tokio::spawn(blocking(move || hang.lock().unwrap().recv().is_ok()))
        };
        let slow: Vec<_> = (0..PLACES).map(slow).collect();
        let other = tokio::spawn(blocking(|| 1));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!other.is_finished());
        tokio::time::advance(SLOW).await;
        assert_eq!(other.await.unwrap(), 1);
        drop(release);
        for slow in slow {
            assert!(!slow.await.unwrap());
        }
    }

    #[tokio::test]
    async fn work_that_hangs_is_started_once_and_named() {
        let (release, hang) = mpsc::channel::<()>();
        let error = limited("/dead/a", SHORT, move || hang.recv())
            .await
            .unwrap_err();
        assert_eq!(error.subject, "/dead/a");
        assert!(error.waited >= SHORT, "{error:?}");
        for _ in 0..1000 {
            let error = limited("/dead/a", LONG, || panic!("started beside what hangs")).await;
            assert!(error.is_err());
        }
        assert_eq!(limited("/dead/b", LONG, || 1).await, Ok(1), "others go on");
        release.send(()).unwrap();
        while limited("/dead/a", LONG, || ()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_on_one_subject_runs_one_after_the_other() {
        static UNDER_WAY: Mutex<()> = Mutex::new(());
        let work = || {
            let alone = UNDER_WAY.try_lock();
            thread::yield_now();
            alone.is_ok()
        };
        let all: Vec<_> = (0..50)
            .map(|_| tokio::spawn(limited("/one", LONG, work)))
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), Ok(true));
        }
    }

    #[tokio::test]
    async fn an_owner_of_much_that_hangs_leaves_threads_to_others() {
        let subject = |owner: &str, part: usize| {
            FileSubject::of(&owner, &part.to_string(), format!("check of {owner}"))
        };
        let mut hanging = vec![];
        for owner in ["a", "b", "c"] {
            for part in 0.. {
                let (release, hang) = mpsc::channel::<()>();
                let (started, has_started) = mpsc::channel();
                let work = move || {
                    started.send(()).unwrap();
                    hang.recv().is_ok()
                };
                let error = limited(subject(owner, part), Duration::ZERO, work).await;
                assert_eq!(error.unwrap_err().subject, format!("check of {owner}"));
                if has_started.recv().is_err() {
                    break;
                }
                hanging.push(release);
            }
            let healthy = subject("healthy", 0);
            assert_eq!(limited(healthy, LONG, || 1).await, Ok(1));
        }
        assert!(hanging.len() > MAX_THREADS / 2, "{}", hanging.len());
        hanging.clear();
        while limited(subject("a", 0), LONG, || ()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn dropped_work_holds_its_subject_until_it_has_ended() {
        let (release, hang) = mpsc::channel::<()>();
        let (started, has_started) = oneshot::channel();
        let work = tokio::spawn(limited("/dropped", LONG, move || {
            started.send(()).unwrap();
            hang.recv()
        }));
        has_started.await.unwrap();
        work.abort();
        assert!(limited("/dropped", SHORT, || ()).await.is_err());
        release.send(()).unwrap();
        assert_eq!(limited("/dropped", LONG, || ()).await, Ok(()));
    }

    #[test]
    fn the_error_reads_as_a_sentence() {
        let waited = Duration::from_millis(12_345);
        let subject = "/srv/nfs".to_owned();
        let error = TimedOut { subject, waited }.to_string();
        assert_eq!(error, "/srv/nfs has not answered for 12s");
    }
}
