//! The node's API over HTTPS, which an API server asks on behalf of `kubectl logs`, `exec`, `attach`,
//! `port-forward` and `top`: the paths are the kubelet's.
//!
//! Everybody is asked who he is, and the API server whether he may. What a caller may cost is bounded as
//! on every other port; streams and logs go on for longer, and there are only so many of them. Whatever
//! fails here, the Pods run on.

mod answer;
mod cache;
mod caller;
mod guard;
mod logs;
mod query;
mod refusal;
mod settings;
mod stats;
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

use super::callers::Phase;
use super::listen::{LIMITS, Limits, accept_all, serve_one};
use super::port::bind;
use super::state::State;
use crate::host::blocking::blocking;
use crate::translate::Paths;
use answer::Answers;
use caller::Caller;
use guard::Guard;
pub use settings::{Authorization, Settings};
use streams::Streams;
use tls::Tls;
pub use tls::known_cipher_suites;

/// A call may wait for the API server and the runtime.
const CALL_TIME: Duration = Duration::from_secs(60);
/// A command for `kubectl exec` stands in the request's line, which may have 64 KiB.
const HEADERS: usize = 128 * 1024;

/// Serves the node's API for ever. `names` are the node's own, first, and its addresses; `api` is the way
/// to the API server while there is one.
///
/// # Errors
/// There is no serving certificate and none can be made.
pub async fn serve_https(
    settings: Settings,
    paths: &Paths,
    names: Vec<String>,
    state: Arc<State>,
    api: watch::Receiver<Option<kube::Client>>,
) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let tls = Arc::new(Tls::new(&settings, &paths.root, &names)?);
    let node_name = names.into_iter().next().unwrap_or_default();
    let guard = Guard::new(Arc::clone(&settings), node_name, api);
    let streams = Streams::new(settings.idle_timeout);
    let answers = Arc::new(Answers::new(guard, state, streams));
    let limits = Limits {
        headers: HEADERS,
        call_time: CALL_TIME,
        ..LIMITS
    };
    let listener = bind("port", settings.address).await;
    accept_all(&listener, limits, move |stream, place| {
        let (tls, answers) = (Arc::clone(&tls), Arc::clone(&answers));
        async move {
            place.set_phase(Phase::Handshake);
            let secured = tokio::time::timeout(limits.header_time, secure(&tls, stream)).await;
            let (stream, caller) = match secured {
                Ok(Ok(secured)) => secured,
                Ok(Err(error)) => return debug!(%error, "a connection was not secured"),
                Err(_) => return debug!("a caller took too long to secure his connection"),
            };
            place.set_phase(Phase::Talking);
            let answer = move |request| {
                let (answers, caller) = (Arc::clone(&answers), caller.clone());
                async move { answers.answer(request, caller.as_ref()).await }
            };
            serve_one(stream, limits, answer, place).await;
        }
    })
    .await;
    Ok(())
}

/// Secures a connection, and tells who is at its other end if he shows it.
async fn secure(
    tls: &Arc<Tls>,
    stream: TcpStream,
) -> anyhow::Result<(TlsStream<TcpStream>, Option<Caller>)> {
    // Keystrokes are not to wait for each other.
    stream.set_nodelay(true)?;
    let tls = Arc::clone(tls);
    let config = blocking(move || tls.config()).await?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates();
    let caller = shown.and_then(<[_]>::first);
    let caller = caller.and_then(Caller::of_certificate);
    Ok((stream, caller))
}
