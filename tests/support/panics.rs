//! Panics of the agent's own tasks: a release build aborts on each, so no test may pass over one.

use std::panic;
use std::sync::{Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};

static SEEN: Mutex<Vec<(ThreadId, String)>> = Mutex::new(vec![]);

/// Records panics from now on.
pub(crate) fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((thread::current().id(), info.to_string()));
            drop(seen);
            before(info);
        }));
    });
}

/// Panics on this thread: a test has the agent's tasks on its own, and what a thread of the agent's
/// panics with is thrown again in the task that waits for it.
pub(crate) fn seen() -> Vec<String> {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let here = seen.iter().filter(|(id, _)| *id == thread::current().id());
    here.map(|(_, message)| message.clone()).collect()
}
