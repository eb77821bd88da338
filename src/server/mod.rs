//! What the running agent answers: to its own command line over a Unix socket that only root can reach,
//! and, on ports where it is told to, whether it works, its metrics, its configuration and its Pods.
//!
//! The `router` turns each request into an answer, at once and without changing anything. What a caller
//! may cost is bounded in `listen`, whoever he is: connections, headers, and the time for them.

mod callers;
mod client;
mod follow;
mod https;
mod listen;
mod metrics;
mod port;
mod router;
mod select;
mod socket;
mod state;
mod wire;

pub use client::{Lines, fetch, fetch_status, follow};
pub use https::{Authorization, Settings as HttpsSettings, known_cipher_suites, serve_https};
pub use metrics::Metrics;
pub use port::serve_port;
pub use router::Audience;
pub use select::PodName;
pub use socket::Server;
pub use state::{NodeStatus, PodDetail, PodDetails, RefusedReport, State};
