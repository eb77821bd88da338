//! How the node's API is served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How the node's API is served, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub address: SocketAddr,
    /// The serving certificate and its key, PEM; `None` for one of our own making.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether TLS 1.2 is not taken.
    pub only_tls13: bool,
    /// The cipher suites that are taken with TLS 1.2, by name; empty for all that are safe.
    pub cipher_suites: Vec<String>,
    /// The authority of client certificates that are taken, PEM.
    pub client_ca_file: Option<PathBuf>,
    /// Whether the API server is asked whose a token is.
    pub token_reviews: bool,
    /// How long its answer holds.
    pub token_ttl: Duration,
    /// Whether who proves nothing is somebody too: `system:anonymous`.
    pub anonymous: bool,
    /// Who decides what a known caller may do.
    pub authorization: Authorization,
    /// How long it holds that somebody may do something.
    pub authorized_ttl: Duration,
    /// How long it holds that he may not.
    pub unauthorized_ttl: Duration,
    /// A stream on which nothing moves is ended after this.
    pub idle_timeout: Duration,
}

/// Who decides what a known caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// The API server.
    Webhook,
    /// Nobody: whoever is known may do everything.
    AlwaysAllow,
}
