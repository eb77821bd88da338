//! File work, which may block, off the tasks' thread: without a limit where only local disks are
//! touched, and with one where a path may lie on a mount that does not answer.
//!
//! Work with a limit never runs on the runtime's blocking pool, so that what hangs there takes
//! nobody's place, and at most one operation for each subject is under way. A thread that hangs in
//! the kernel cannot be ended: it is left behind, and its subject counts as hanging until it returns.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::units::time::{LONGEST, Later};

/// The most operations with a limit that are under way in the whole process, hanging ones included.
const MAX_THREADS: usize = 256;

/// The wait before another try to get a thread.
const RETRY: Duration = Duration::from_millis(50);

/// The limit of work that may take as long as it does, and is waited for beside other things.
pub(crate) const UNLIMITED: Duration = LONGEST;

/// Runs file work off the tasks' thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => resume_unwind(e.into_panic()),
    }
}

/// File work that did not end within its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} has not answered for {}", seconds(*waited))]
pub(crate) struct TimedOut {
    /// The path, or what else the caller named.
    pub(crate) subject: String,
    /// Time since the operation that hangs began.
    pub(crate) waited: Duration,
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
/// fail at once without being started. When the future is dropped, or the limit has passed, work
/// that was started still runs to its end, and its result is dropped.
///
/// # Errors
/// The work, or earlier work on the same subject, did not end in time.
///
/// # Panics
/// When the work does.
pub(crate) async fn limited<T: Send + 'static>(
    subject: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    let end = start.later(limit);
    let turn = Turn::wait(subject, start, end).await?;
    let timed_out = || TimedOut {
        subject: subject.to_owned(),
        waited: start.elapsed(),
    };
    let result = spawn(turn, end, work).await.ok_or_else(timed_out)?;
    match timeout_at(end, result).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(panic))) => resume_unwind(panic),
        // The thread sends a result before it ends, so that only the limit can pass.
        Ok(Err(_)) | Err(_) => Err(timed_out()),
    }
}

/// The same on the runtime's blocking pool: for work that every Pod has all the time, and of which little hangs
/// at a time. The pool is larger than what may hang. Time that a test has paused stands still meanwhile.
///
/// # Errors
/// The work, or earlier work on the same subject, did not end in time.
///
/// # Panics
/// When the work does.
pub(crate) async fn pooled<T: Send + 'static>(
    subject: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    let end = start.later(limit);
    let turn = Turn::wait(subject, start, end).await?;
    let work = blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    timeout_at(end, work).await.map_err(|_| TimedOut {
        subject: subject.to_owned(),
        waited: start.elapsed(),
    })
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

/// An operation that is under way.
#[derive(Debug, Clone)]
struct UnderWay {
    start: Instant,
    end: Instant,
    /// Closed when the operation has ended.
    ended: watch::Receiver<()>,
}

/// All operations that are under way, by the runtime of their callers and by subject: agents in one process,
/// as in tests, may have Pods of one name.
type AllUnderWay = HashMap<(Id, String), UnderWay>;

static UNDER_WAY: LazyLock<Mutex<AllUnderWay>> = LazyLock::new(Mutex::default);

fn under_way() -> MutexGuard<'static, AllUnderWay> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to work on a subject, until it is dropped.
#[derive(Debug)]
struct Turn {
    subject: (Id, String),
    /// Dropped after the subject is free, which notifies those who wait for it.
    _ended: watch::Sender<()>,
}

impl Turn {
    /// Waits until nobody else works on the subject and a thread is free.
    async fn wait(subject: &str, start: Instant, end: Instant) -> Result<Self, TimedOut> {
        let timed_out = |since: Instant| TimedOut {
            subject: subject.to_owned(),
            waited: since.elapsed(),
        };
        loop {
            let other = match Self::take(subject, start, end) {
                Ok(turn) => return Ok(turn),
                Err(other) => other,
            };
            if let Some(mut other) = other {
                let until = other.end.min(end);
                if timeout_at(until, other.ended.changed()).await.is_err() {
                    return Err(timed_out(other.start));
                }
            } else if Instant::now() >= end {
                return Err(timed_out(start));
            } else {
                sleep_until(Instant::now().later(RETRY).min(end)).await;
            }
        }
    }

    /// Takes the subject; the error is who has it, or nothing when all threads are taken.
    fn take(subject: &str, start: Instant, end: Instant) -> Result<Self, Option<UnderWay>> {
        let subject = (Handle::current().id(), subject.to_owned());
        let mut under_way = under_way();
        if let Some(other) = under_way.get(&subject) {
            return Err(Some(other.clone()));
        }
        if under_way.len() >= MAX_THREADS {
            return Err(None);
        }
        let (sender, ended) = watch::channel(());
        under_way.insert(subject.clone(), UnderWay { start, end, ended });
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
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

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
