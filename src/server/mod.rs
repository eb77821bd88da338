//! The agent's HTTP servers: the local API on a Unix socket that only root can reach, for the command line,
//! and ports for health, metrics, configuration and Pods, where they are configured.
//!
//! The `router` maps each request to a response, at once and without changing anything; what changes a Pod is in
//! `requests`, and comes over the Unix socket alone. `listen` limits what a caller may cost: connections, headers,
//! and time.

mod callers;
mod client;
mod follow;
mod https;
mod kubelet_metrics;
mod listen;
mod metrics;
mod page;
mod plan;
mod pod_list;
mod port;
mod probe_metrics;
mod requests;
mod router;
mod runtime;
mod select;
mod selector;
mod socket;
mod state;
mod wire;

pub use client::{Lines, fetch, fetch_status, follow, send, send_with};
pub use https::stats::{AmountsInUse, ContainerInUse, PodInUse, TopReport};
pub use https::{Authorization, HttpsSettings, known_cipher_suites, serve_https};
pub use metrics::AgentMetrics;
pub use plan::{ManifestPlan, PlanRequest, PlannedFile, PodPlan, RefusedPlan};
pub use port::serve_port;
pub use requests::{PauseResponse, RestartResponse};
pub use router::Audience;
pub use runtime::{AgentVersion, RuntimeVersion};
pub use select::{PodFilter, PodName};
pub use selector::LabelSelector;
pub use socket::Server;
pub use state::{NodeStatus, PodDetail, PodDetails, RefusedReport, ServerState};
