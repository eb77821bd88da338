//! The node's API over HTTPS, which an API server calls for `kubectl logs`, `exec`, `attach`, `port-forward`
//! and `top`: the paths are the kubelet's.
//!
//! Every caller is authenticated, and authorized by the API server. What a caller may cost is limited as on
//! every other port; streams and logs take longer, and their number is limited. Whatever fails here, the Pods
//! keep running.

mod cache;
mod caller;
mod guard;
mod handlers;
mod logs;
mod query;
mod refusal;
mod settings;
pub(super) mod stats;
mod streams;
mod target;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::callers::ConnectionPhase;
use super::listen::{LIMITS, Limits, accept_all, serve_one};
use super::port::bind;
use super::state::ServerState;
use crate::host::blocking::blocking;
use crate::translate::Paths;
use caller::ClientCertificate;
use guard::Guard;
use handlers::Handlers;
pub use settings::{Authorization, HttpsSettings};
use streams::Streams;
use tls::Tls;
pub use tls::known_cipher_suites;

/// Timeout of a call, which may wait for the API server and the runtime.
const CALL_TIME: Duration = Duration::from_secs(60);
/// Maximum size of headers: the request line has the command of `kubectl exec`, up to 64 KiB.
const HEADERS: usize = 128 * 1024;

/// Serves the node's API for ever. `names` are the node's own, first, and its addresses; `api` is the client
/// of the API server while there is one.
///
/// # Errors
/// There is no serving certificate and none can be created.
pub async fn serve_https(
    settings: HttpsSettings,
    paths: &Paths,
    names: Vec<String>,
    state: Arc<ServerState>,
    api: watch::Receiver<Option<kube::Client>>,
) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let tls = Arc::new(Tls::new(&settings, &paths.root, &names)?);
    let node_name = names.into_iter().next().unwrap_or_default();
    let guard = Guard::new(Arc::clone(&settings), node_name, api);
    let streams = Streams::new(settings.idle_timeout);
    let handlers = Arc::new(Handlers::new(guard, state, streams));
    let limits = Limits {
        headers: HEADERS,
        call_time: CALL_TIME,
        ..LIMITS
    };
    let listener = bind("port", settings.address).await;
    accept_all(&listener, limits, move |stream, place| {
        let (tls, handlers) = (Arc::clone(&tls), Arc::clone(&handlers));
        async move {
            place.set_phase(ConnectionPhase::Handshake);
            let secured = tokio::time::timeout(limits.header_time, secure(&tls, stream)).await;
            let (stream, certificate) = match secured {
                Ok(Ok(secured)) => secured,
                Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
                Err(_) => return debug!("TLS handshake timed out"),
            };
            place.set_phase(ConnectionPhase::Talking);
            let handle = move |request| {
                let (handlers, certificate) = (Arc::clone(&handlers), certificate.clone());
                async move { handlers.handle(request, &certificate).await }
            };
            serve_one(stream, limits, handle, place).await;
        }
    })
    .await;
    Ok(())
}

/// Performs the TLS handshake; returns the client's certificate with the connection.
async fn secure(
    tls: &Arc<Tls>,
    stream: TcpStream,
) -> anyhow::Result<(TlsStream<TcpStream>, ClientCertificate)> {
    // Keystrokes must not wait for each other.
    stream.set_nodelay(true)?;
    let tls = Arc::clone(tls);
    let config = blocking(move || tls.config()).await?;
    let acceptor = TlsAcceptor::from(Arc::clone(&config.server));
    let stream = acceptor.accept(stream).await?;
    let certificate = config.client(stream.get_ref().1);
    Ok((stream, certificate))
}
