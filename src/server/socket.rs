//! The Unix socket of the command line.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixStream};

use super::listen::{self, LIMITS};
use super::router::{Audience, answer};
use super::state::State;

/// The socket's name in the run folder.
const SOCKET: &str = "podkeeper.sock";

/// Where an agent with this run folder answers.
pub(super) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET)
}

/// The socket, bound and guarded, before anybody is served.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds the socket in `run_dir`, in place of one that a dead agent left.
    ///
    /// # Errors
    /// The folder or socket cannot be made, or another agent answers there.
    pub async fn bind(run_dir: &Path) -> anyhow::Result<Self> {
        let path = socket(run_dir);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir);
        made.with_context(|| format!("cannot make {}", run_dir.display()))?;
        if UnixStream::connect(&path).await.is_ok() {
            bail!(
                "another podkeeper answers on {}; give this one its own --run-dir",
                path.display()
            );
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path);
        let listener = listener.with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Serves callers for ever.
    pub async fn serve(self, state: Arc<State>) {
        let answer = move |request: &_| answer(request, &state, Audience::Owner);
        listen::serve(&self.listener, LIMITS, answer).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that stays behind is replaced by the next agent.
        let _ = fs::remove_file(&self.path);
    }
}
