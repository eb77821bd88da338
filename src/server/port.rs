//! TCP ports.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tracing::{info, warn};

use super::listen::{self, LIMITS};
use super::router::{Audience, handle};
use super::state::ServerState;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause before a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves a port for ever. A port that cannot be opened does not stop the agent: it is logged once, and tried
/// again. `flag` is the port's flag, without its dashes.
pub async fn serve_port(
    flag: &'static str,
    address: SocketAddr,
    audience: Audience,
    state: Arc<ServerState>,
) {
    let listener = bind(flag, address).await;
    listen::serve(&listener, LIMITS, move |request| {
        std::future::ready(handle(&request, &state, audience))
    })
    .await;
}

/// Opens a port, however long that takes.
pub(super) async fn bind(flag: &'static str, address: SocketAddr) -> TcpListener {
    let mut is_logged = false;
    loop {
        match listen_on(address).await {
            Ok(listener) if is_logged => {
                info!(%address, "Port is open");
                return listener;
            }
            Ok(listener) => return listener,
            Err(error) if !is_logged => {
                warn!(
                    %address, %error,
                    "Failed to open the port, retrying every {} s; --{flag}=0 disables it",
                    RETRY.as_secs()
                );
                is_logged = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens on an address. The unspecified address accepts both families, whichever it is written in, as with
/// the kubelet: in a cluster of IPv6 nodes the API server connects by that. A machine without IPv6 is reached
/// by IPv4 alone.
async fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip().is_unspecified() {
        match listen_on_all(address.port()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {}
            listener => return listener,
        }
    }
    TcpListener::bind(address).await
}

fn listen_on_all(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    // Else it would be as the machine's `net.ipv6.bindv6only` says.
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let has_ipv6 = TcpListener::bind("[::1]:0").await.is_ok();
        for (address, reached, not_reached) in [
            ("0.0.0.0:0", vec!["127.0.0.1", "::1"], vec![]),
            ("[::]:0", vec!["127.0.0.1", "::1"], vec![]),
            ("127.0.0.1:0", vec!["127.0.0.1"], vec!["::1"]),
        ] {
            let listener = bind("port", address.parse().unwrap()).await;
            let port = listener.local_addr().unwrap().port();
            let reaches = async |host: &&str| TcpStream::connect((*host, port)).await.is_ok();
            for host in reached
                .iter()
                .filter(|host| has_ipv6 || !host.contains(':'))
            {
                assert!(reaches(host).await, "{address} from {host}");
            }
            for host in &not_reached {
                assert!(!reaches(host).await, "{address} from {host}");
            }
        }
    }
}
