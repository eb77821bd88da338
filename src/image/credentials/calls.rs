//! Runs of programs that all who want the same result share, a limited number at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::host::program::{self, ProgramError, ProgramOutput};

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

/// Programs that run at a time, or were killed and have not ended yet.
fn permits() -> Arc<Semaphore> {
    const MOST: usize = 16;
    static PLACES: OnceLock<Arc<Semaphore>> = OnceLock::new();
    Arc::clone(PLACES.get_or_init(|| Arc::new(Semaphore::new(MOST))))
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
/// It did not come to its end in time, or did not begin since others have not ended.
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
    let began = Instant::now();
    let permit = tokio::time::timeout(time, permits().acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return Err(
            "programs that were killed have not ended yet, so that no other one is started"
                .to_owned(),
        );
    };
    let left = time.saturating_sub(began.elapsed());
    let ended = program::run(command, input, left, permit).await;
    ended.map_err(|error| match error {
        ProgramError::TimedOut(_) => ProgramError::TimedOut(time).to_string(),
        other => other.to_string(),
    })
}
