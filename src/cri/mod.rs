//! The container runtime interface: generated stubs and our client of them, and as much of containerd's own
//! services as CRI has nothing for.

mod calls;
pub(crate) mod capabilities;
mod client;
mod codec;
mod containerd;
mod endpoint;
mod entry;
mod error;
pub(crate) mod streaming;

use std::fmt;

pub use calls::Calls;
pub use capabilities::{Capabilities, HandlerFeatures, Reported, RuntimeFeatures};
pub use client::Client;
pub use codec::Codec;
pub use containerd::PullLease;
pub use endpoint::{Endpoint, WELL_KNOWN};
pub use entry::{ListEntry, Listable};
pub(crate) use error::rpc_error;
pub use error::{Error, if_found};

/// Makes a module of the messages and stubs that are generated from a contract in `proto/`.
macro_rules! generated {
    ($(#[$doc:meta])* $visibility:vis mod $name:ident = $package:literal;) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            clippy::all,
            clippy::pedantic,
            reason = "generated code"
        )]
        $visibility mod $name {
            tonic::include_proto!($package);
        }
    };
}

pub(crate) use generated;

generated! {
    /// Messages and stubs generated from `proto/cri_v1.proto`.
    pub mod v1 = "runtime.v1";
}

generated! {
    /// Messages and stubs generated from `proto/containerd_events_v1.proto`.
    pub mod containerd_events = "containerd.services.events.v1";
}

generated! {
    /// Messages and stubs generated from `proto/containerd_leases_v1.proto`.
    mod containerd_leases = "containerd.services.leases.v1";
}

generated! {
    /// Messages and stubs generated from `proto/containerd_snapshots_v1.proto`.
    mod containerd_snapshots = "containerd.services.snapshots.v1";
}

impl fmt::Debug for v1::AuthConfig {
    /// Without what it holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").finish_non_exhaustive()
    }
}
