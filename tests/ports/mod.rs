//! Ports for agents under test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// An address of this machine that nobody listens on just now, and that no other test of this program
/// is given. It lies below those that the machine takes for calls to others.
pub(crate) fn free() -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time look in places of their own.
    let own = u16::try_from(std::process::id() % 1000).unwrap();
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + own * 20 + number % 20;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
