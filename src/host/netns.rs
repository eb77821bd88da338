//! Connections in other network namespaces.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Timeout of a connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a port of the loopback device in the network namespace at this path, or in this process' own.
///
/// # Errors
/// There is no such namespace, nothing listens there, or there is no response.
pub(crate) async fn connect(
    namespace: Option<PathBuf>,
    port: u16,
) -> io::Result<tokio::net::TcpStream> {
    let (connected, connection) = oneshot::channel();
    // A thread of its own, which ends with this: one of a pool would stay in the namespace.
    let connect = move || {
        let enter = |path| move_into(&File::open(path)?);
        let entered = namespace.map_or(Ok(()), enter);
        // Nobody may wait for it any more.
        let _ = connected.send(entered.and_then(|()| dial(port)));
    };
    thread::Builder::new().spawn(connect)?;
    let connection = connection.await.map_err(io::Error::other)??;
    connection.set_nonblocking(true)?;
    // Keystrokes must not wait for each other.
    connection.set_nodelay(true)?;
    tokio::net::TcpStream::from_std(connection)
}

fn move_into(namespace: &File) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
}

/// Tries IPv4 first, whose error counts where neither works, as with containerd.
fn dial(port: u16) -> io::Result<TcpStream> {
    let dial = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), TIMEOUT);
    dial(Ipv4Addr::LOCALHOST.into())
        .or_else(|error| dial(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::TcpListener;
    use std::process::Command;
    use std::time::Instant;

    #[tokio::test]
    async fn either_loopback_address_will_do() {
        for ip in ["127.0.0.1", "[::1]"] {
            let Ok(listener) = TcpListener::bind(format!("{ip}:0")) else {
                // There is no IPv6.
                continue;
            };
            let address = listener.local_addr().unwrap();
            let connection = connect(None, address.port()).await.unwrap();
            assert_eq!(connection.peer_addr().unwrap(), address);
        }
    }

    #[tokio::test]
    async fn a_port_outside_of_the_namespace_is_not_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut inside = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()
            .unwrap();
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        let id = inside.id().to_string();
        let until = Instant::now() + Duration::from_secs(60);
        while of(&id).unwrap() == of("self").unwrap() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let namespace = format!("/proc/{id}/ns/net");
        let connected = connect(Some(namespace.into()), port).await;
        inside.kill().unwrap();
        inside.wait().unwrap();
        connected.unwrap_err();
        connect(None, port).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_network_namespace_is_an_error() {
        // Outside, there is something to connect to.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for path in ["/no/such/namespace", "/proc/self/ns/mnt", "/dev/null"] {
            connect(Some(path.into()), port).await.unwrap_err();
        }
    }
}
