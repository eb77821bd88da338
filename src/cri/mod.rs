//! The container runtime interface: generated stubs and our client of them, and containerd's own events for
//! versions without those of CRI.

mod calls;
pub(crate) mod capabilities;
mod client;
mod endpoint;
mod error;

use std::fmt;

pub use calls::Calls;
pub use capabilities::{Capabilities, HandlerFeatures, Reported, RuntimeFeatures};
pub use client::Client;
pub use endpoint::{Endpoint, WELL_KNOWN};
pub(crate) use error::rpc_error;
pub use error::{Error, if_found};

/// Messages and stubs generated from `proto/cri_v1.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Messages and stubs generated from `proto/containerd_events_v1.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod containerd_events {
    tonic::include_proto!("containerd.services.events.v1");
}

impl fmt::Debug for v1::AuthConfig {
    /// Without what it holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").finish_non_exhaustive()
    }
}
