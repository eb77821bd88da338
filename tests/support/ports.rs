//! Ports for agents under test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// An address of this machine on whose port nobody listens just now, whatever the address, and that no
/// other test of this program is given.
pub(crate) fn free() -> SocketAddr {
    /// They lie below those that the machine takes for calls to others (32768 and up, unless set
    /// otherwise), and below those of the scripts in `hack/`.
    const FIRST: u32 = 12_000;
    const PORTS: u32 = 16_000;
    static COUNT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin in places of their own.
    let own = std::process::id() * 16;
    loop {
        let number = u32::from(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + (own + number) % PORTS;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
}
