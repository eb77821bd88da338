//! The Unix socket of the local API.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hyper::Request;
use hyper::body::Incoming;
use tokio::net::{UnixListener, UnixStream};

use super::listen::{self, LIMITS};
use super::plan;
use super::requests::{self, Action};
use super::router::{Audience, handle};
use super::runtime::{self, RuntimePath};
use super::state::ServerState;

/// Name of the socket in the run directory.
const SOCKET: &str = "podkeeper.sock";

/// Returns the socket of the agent with this run directory.
pub(super) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET)
}

/// The bound socket, with its permissions set, before any connection is served.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds the socket in `run_dir`, replacing one that a dead agent left.
    ///
    /// # Errors
    /// The directory or socket cannot be created, or another agent listens there.
    pub async fn bind(run_dir: &Path) -> anyhow::Result<Self> {
        let path = socket(run_dir);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir);
        made.with_context(|| format!("cannot create {}", run_dir.display()))?;
        check_owned(run_dir)?;
        if UnixStream::connect(&path).await.is_ok() {
            bail!(
                "another podkeeper listens on {}; give this one its own --run-dir",
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

    /// Serves connections for ever.
    pub async fn serve(self, state: Arc<ServerState>) {
        let handle = move |request: Request<Incoming>| {
            let state = Arc::clone(&state);
            async move {
                let path = request.uri().path();
                if let Some(action) = Action::of(path) {
                    return requests::respond(&request, action, &state).await;
                }
                match RuntimePath::of(path) {
                    None if path == plan::PATH => plan::respond(request, &state).await,
                    Some(path) => runtime::respond(&request, path, &state).await,
                    None => handle(&request, &state, Audience::Owner),
                }
            }
        };
        listen::serve(&self.listener, LIMITS, handle).await;
    }
}

/// Checks that no other user can write to the directory: one that can could serve in the agent's place.
fn check_owned(run_dir: &Path) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(run_dir);
    let found = found.with_context(|| format!("cannot stat {}", run_dir.display()))?;
    let (owner, own) = (found.uid(), rustix::process::geteuid().as_raw());
    let found = match found.mode() & 0o7777 {
        _ if !found.is_dir() => "not a directory".to_owned(),
        mode if owner != own || mode & 0o022 != 0 => {
            format!("a folder of user {owner} with mode {mode:04o}")
        }
        _ => return Ok(()),
    };
    bail!(
        "run-dir {}: found {found}, expected a directory of user {own} that nobody else can write to; \
         remove it, or set its owner and mode (0700)",
        run_dir.display()
    );
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that stays behind is replaced by the next agent.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    #[tokio::test]
    async fn a_run_folder_is_the_agents_alone() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let folder = |name: &str, mode: u32, owner: u32| {
            fs::create_dir(at(name)).unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
            chown(at(name), Some(owner), None).unwrap();
        };
        folder("closed", 0o700, 0);
        folder("read", 0o755, 0);
        folder("group", 0o770, 0);
        folder("all", 0o1777, 0);
        folder("other", 0o700, 1000);
        symlink("closed", at("link")).unwrap();
        for name in ["new", "closed", "read"] {
            Server::bind(&at(name)).await.unwrap();
        }
        for (name, found) in [
            ("group", "user 0 with mode 0770"),
            ("all", "user 0 with mode 1777"),
            ("other", "user 1000 with mode 0700"),
            ("link", "not a directory"),
        ] {
            let error = Server::bind(&at(name)).await.unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
            assert_eq!(fs::read_dir(at(name)).unwrap().count(), 0, "{name}");
        }
    }
}
