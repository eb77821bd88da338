//! What containers said, from the files that the runtime writes: for `podkeeper logs`, and for who asks
//! the node over HTTPS.

mod cursor;
mod files;
mod lines;

use std::path::Path;

use k8s_openapi::api::core::v1::ContainerStatus;

pub(crate) use cursor::Cursor;
pub(crate) use lines::Wanted;

/// The instance of a container whose log in this folder is meant, if there is one: the newest, or the one
/// that ran before it.
pub(crate) fn instance(
    folder: &Path,
    status: Option<&ContainerStatus>,
    previous: bool,
) -> Option<u32> {
    let attempts = files::attempts(folder);
    if !previous {
        return attempts.last().copied();
    }
    let known = status.and_then(|s| u32::try_from(s.restart_count).ok());
    let newest = attempts.last().copied().max(known);
    // One that waits to be started again is not there yet; the last one is the one before it.
    let state = status.and_then(|s| s.state.as_ref());
    let waits = state.is_some_and(|s| s.waiting.is_some());
    let mut before = attempts.iter().rev().copied();
    before.find(|attempt| waits || Some(*attempt) < newest)
}
