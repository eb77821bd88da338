//! The runtime's endpoint: a Unix socket, as given or found among the well-known ones.

use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Sockets of runtimes that speak CRI, in the order of the search. The first is the default.
pub const WELL_KNOWN: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
];

/// A runtime's Unix socket, written `unix:///run/containerd/containerd.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// Absolute path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.0
    }

    /// Finds the first of [`WELL_KNOWN`] that is a socket; the default where there is none yet.
    #[must_use]
    pub fn find() -> Self {
        Self::find_among(WELL_KNOWN.iter().map(Path::new))
    }

    fn find_among<'a>(candidates: impl Iterator<Item = &'a Path> + Clone) -> Self {
        let is_socket = |path: &&Path| {
            path.metadata()
                .is_ok_and(|meta| meta.file_type().is_socket())
        };
        let found = candidates.clone().find(is_socket);
        let default = candidates.into_iter().next();
        Self(found.or(default).map(Path::to_owned).unwrap_or_default())
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `unix:///absolute/path`, or the bare absolute path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self(PathBuf::from(path)));
        }
        Err(format!(
            "found {text:?}, expected the runtime's Unix socket as unix:///run/containerd/containerd.sock"
        ))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_endpoint_is_a_unix_url_or_an_absolute_path() {
        for text in ["unix:///run/x.sock", "/run/x.sock"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.socket(), Path::new("/run/x.sock"));
            assert_eq!(endpoint.to_string(), "unix:///run/x.sock");
        }
        for text in ["tcp://127.0.0.1:1", "run/x.sock", "unix://x.sock", ""] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn the_first_socket_that_is_there_is_found_and_else_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let [default, file, socket] = ["default", "file", "socket"].map(|n| dir.path().join(n));
        let candidates = [default.as_path(), file.as_path(), socket.as_path()];
        std::fs::write(&file, "").unwrap();
        let find = || Endpoint::find_among(candidates.iter().copied());
        assert_eq!(find().socket(), default);
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(find().socket(), socket);
    }
}
