//! Ports of the machine's network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{info, warn};

use super::listen::{self, LIMITS};
use super::router::{Audience, answer};
use super::state::State;

/// How long a port that cannot be had is left alone.
const RETRY: Duration = Duration::from_secs(5);

/// Serves callers on a port for ever. One that cannot be had is no reason to do without the agent: it
/// is named once, and tried again. `flag` is the port's flag, without its dashes.
pub async fn serve_port(
    flag: &'static str,
    address: SocketAddr,
    audience: Audience,
    state: Arc<State>,
) {
    let listener = bind(flag, address).await;
    listen::serve(&listener, LIMITS, move |request| {
        answer(request, &state, audience)
    })
    .await;
}

/// Opens a port, however long that takes.
pub(super) async fn bind(flag: &'static str, address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) if told => {
                info!(%address, "the port is open now");
                return listener;
            }
            Ok(listener) => return listener,
            Err(error) if !told => {
                warn!(
                    %address, %error,
                    "cannot open the port, trying again every {} s; --{flag}=0 does without it",
                    RETRY.as_secs()
                );
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}
