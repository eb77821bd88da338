//! The agent's root directory: created when needed, and locked by one agent at a time.
//!
//! Nothing starts without it, since it holds the state of an earlier agent. It may lie on a mount that does not
//! answer: the agent then waits, and logs that.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tracing::{info, warn};

use super::systemd::Systemd;
use crate::pod::folder;
use crate::source::mounts;

/// Time after which a root directory counts as not answering.
const LIMIT: Duration = Duration::from_secs(5);
/// Time between two log lines about that.
const REPEAT: Duration = Duration::from_secs(60);

/// Creates the root directory and locks it; a second agent on it is refused. The lock ends with the process, however
/// that ends.
///
/// Waits for a directory that does not answer for as long as it takes. After 5 s that is logged and sent to systemd.
/// It is tried again, beside the call that hangs, when other mounts are on the way to it.
///
/// # Errors
/// It cannot be created, or belongs to another agent.
pub(super) fn lock(root: &Path, systemd: &Systemd) -> anyhow::Result<File> {
    let since = Instant::now();
    let mut last_line = None;
    loop {
        let way = way_to(root);
        let (sender, receiver) = sync_channel(1);
        let path = root.to_owned();
        let thread = thread::Builder::new().name("root-dir".to_owned());
        let attempt = move || {
            // Nobody waits for it any more once another attempt was made.
            let _ = sender.send(lock_now(&path));
        };
        thread
            .spawn(attempt)
            .context("cannot start a thread for the root directory")?;
        loop {
            match receiver.recv_timeout(LIMIT) {
                Ok(locked) => {
                    if last_line.is_some() {
                        systemd.notify_status("");
                        info!(root_dir = %root.display(), "Root directory responds");
                    }
                    return locked;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("cannot lock the root directory {}", root.display())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if last_line.is_none_or(|last: Instant| last.elapsed() >= REPEAT) {
                last_line = Some(Instant::now());
                systemd.notify_status("Waiting for the root directory, which does not respond");
                warn!(
                    root_dir = %root.display(),
                    seconds = since.elapsed().as_secs(),
                    "Root directory does not respond, as on a mount that hangs: no Pod is managed before it does"
                );
            }
            if way_to(root) != way {
                break;
            }
        }
    }
}

/// Returns the mounts on the way to it.
fn way_to(root: &Path) -> Vec<u64> {
    let root = std::path::absolute(root).unwrap_or_else(|_| PathBuf::from(root));
    mounts::on_path(&mounts::mountinfo(), &root)
}

fn lock_now(root: &Path) -> anyhow::Result<File> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(root);
    made.with_context(|| format!("cannot make the root directory {}", root.display()))?;
    let path = root.join("lock");
    let others = || folder::belongs_to_another(root).context("cannot read the root directory");
    if !path.exists() && others()? {
        bail!(
            "the root directory {} has Pods of another agent, such as a kubelet: their folders would be \
             cleared away. Give podkeeper its own --root-dir",
            root.display()
        );
    }
    let mut lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    if let Err(error) = &lock
        && error.kind() == io::ErrorKind::ReadOnlyFilesystem
    {
        // What runs is managed all the same; only NFS cannot lock a file that is open for reading.
        warn!(root_dir = %root.display(), "Root directory is read-only: Pods keep running, new and changed ones wait");
        lock = File::open(&path);
    }
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another podkeeper runs with the root directory {}; give this one its own --root-dir",
            root.display()
        ),
        Err(fs::TryLockError::Error(e)) => Err(e).context("cannot lock the root directory"),
    }
}
