//! Runs of programs that all who want the same result share, a limited number at a time.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::host::program::{self, ProgramOutput};

/// Variables of systemd that are for the agent alone.
const NOT_PASSED_ON: [&str; 7] = [
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Runs of one program that go on at a time, or were killed and have not ended yet.
const MOST: usize = 4;

/// The permits of a program, which has its own: none waits for others.
fn permits(program: &OsStr) -> Arc<Semaphore> {
    static PLACES: Mutex<BTreeMap<OsString, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());
    // A panic while holding the lock cannot leave the map half changed.
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    // Each run holds its own.
    places.retain(|_, permits| Arc::strong_count(permits) > 1);
    let permits = places.entry(program.to_owned());
    Arc::clone(permits.or_insert_with(|| Arc::new(Semaphore::new(MOST))))
}

/// The outcome of a call: its result, or an error message.
pub(super) type CallResult<T> = Result<T, String>;

type SharedCall<T> = BoxFuture<'static, CallResult<T>>;

/// Calls that are under way, by what they are about. One that nobody waits for any more is dropped.
pub(super) struct SharedCalls<T>(Mutex<HashMap<String, WeakShared<SharedCall<T>>>>);

impl<T> Default for SharedCalls<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> std::fmt::Debug for SharedCalls<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedCalls")
    }
}

impl<T: Clone + Send + Sync + 'static> SharedCalls<T> {
    /// The call about this that is under way, or a new one.
    pub(super) fn join(
        &self,
        about: &str,
        new: impl Future<Output = CallResult<T>> + Send + 'static,
    ) -> Shared<SharedCall<T>> {
        // A panic while holding the lock cannot leave the map half changed.
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, call| call.upgrade().is_some_and(|c| c.peek().is_none()));
        if let Some(call) = under_way.get(about).and_then(WeakShared::upgrade) {
            return call;
        }
        let call = new.boxed().shared();
        if let Some(weak) = call.downgrade() {
            under_way.insert(about.to_owned(), weak);
        }
        call
    }
}

/// Runs a program, with the agent's environment but for what systemd gives it, and a home.
///
/// # Errors
/// It did not come to its end in time, or did not begin in this time since earlier runs of it have not ended.
pub(super) async fn run(
    mut command: Command,
    input: Vec<u8>,
    time: Duration,
) -> Result<ProgramOutput, String> {
    for name in NOT_PASSED_ON {
        command.env_remove(name);
    }
    if std::env::var_os("HOME").is_none()
        && let Some(home) = std::env::home_dir()
    {
        command.env("HOME", home);
    }
    let permits = permits(command.as_std().get_program());
    let permit = tokio::time::timeout(time, permits.acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return Err(format!(
            "was not started, since {MOST} earlier runs of it have not ended"
        ));
    };
    let ended = program::run(command, input, time, permit).await;
    ended.map_err(|error| error.to_string())
}
