//! Reading of container logs, from the files that the runtime writes: for `podkeeper logs`, and for the node's API.

mod cursor;
mod files;
mod lines;

use std::io;

use k8s_openapi::api::core::v1::ContainerStatus;

use crate::host::untrusted::Location;

pub(crate) use cursor::Cursor;
pub(crate) use lines::LogOptions;

/// Returns the instance of a container whose log in this folder is wanted, if there is one: the newest, or the one
/// that ran before it.
pub(crate) fn instance(
    folder: &Location,
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

/// Checks that an instance's log can be read, if it is there.
///
/// # Errors
/// Something in its place is no log, such as a symlink or a named pipe.
pub(crate) fn check(folder: &Location, attempt: u32) -> io::Result<()> {
    match folder.open()?.open(format!("{attempt}.log")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
