//! Settings of the node's API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the node's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsSettings {
    /// Address of the port.
    pub address: SocketAddr,
    /// The serving certificate and its key, PEM; `None` for a self-signed one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// TLS 1.2 is not accepted.
    pub only_tls13: bool,
    /// Names of the accepted cipher suites of TLS 1.2; empty for all that are safe.
    pub cipher_suites: Vec<String>,
    /// Certificate authority of clients, PEM.
    pub client_ca_file: Option<PathBuf>,
    /// The API server authenticates bearer tokens.
    pub token_reviews: bool,
    /// Time for which its answer is cached.
    pub token_ttl: Duration,
    /// Callers without credentials are the user `system:anonymous`.
    pub anonymous: bool,
    /// Authorizer of authenticated callers.
    pub authorization: Authorization,
    /// Time for which a permission is cached.
    pub authorized_ttl: Duration,
    /// Time for which a denial is cached.
    pub unauthorized_ttl: Duration,
    /// Time after which an idle stream is closed.
    pub idle_timeout: Duration,
}

/// Authorizer of authenticated callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// The API server.
    Webhook,
    /// Nobody: an authenticated caller may do everything.
    AlwaysAllow,
}
