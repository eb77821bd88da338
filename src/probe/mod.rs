//! Running probes and hooks.
//!
//! [`run`] carries out one probe, once. [`ProbeState`] is pure: outcomes go in, results come out by
//! the thresholds. [`Probes`] is what one Pod's task owns: it keeps every wanted probe going, each as
//! a small task of its own, and returns their results. [`hook`] runs `postStart` and `preStop`.
//!
//! Nothing here changes anything in the runtime; what a result means for a container is the planner's
//! business. Connections are made for one probe and closed after it.

mod dial;
mod exec;
mod grpc;
pub mod hook;
mod http;
mod metrics;
mod probes;
mod schedule;
mod state;
mod task;
mod tls;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cri::Client;

pub use metrics::ProbeMetrics;
pub(crate) use metrics::{DURATION_LIMITS, ProbeCounter, RESULTS};
pub use probes::{Failed, Health, ProbeEvent, ProbeUpdate, ProbedContainer, Probes, Which};
pub use state::{ProbeKind, ProbeResult, ProbeState};
pub(crate) use tls::NoVerification;

/// The most that is read of what a probe answers, in bytes; the reference agent's.
const MAX_OUTPUT: usize = 10 * 1024;

/// Target of a container's probes and hooks.
#[derive(Debug, Clone)]
pub struct ProbeTarget {
    /// The runtime, for commands.
    pub client: Client,
    /// The runtime's id of the container.
    pub container_id: String,
    /// The Pod's address; the node's on the host's network.
    pub ip: String,
    /// The container's ports that have a name.
    pub ports: BTreeMap<String, u16>,
}

impl ProbeTarget {
    /// Target for the running container `container_id`, created from `spec`.
    #[must_use]
    pub fn new(client: &Client, container_id: &str, spec: &Container, ip: &str) -> Self {
        Self {
            client: client.clone(),
            container_id: container_id.to_owned(),
            ip: ip.to_owned(),
            ports: named_ports(spec),
        }
    }

    /// The number of a port that may be given by its name. As the reference agent does, a name that no
    /// port has may be a number.
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => {
                let named = self.ports.get(name).copied();
                named.or_else(|| name.parse().ok())
            }
        };
        number.filter(|n| *n != 0).ok_or_else(|| match port {
            IntOrString::Int(number) => format!("invalid port number: {number}"),
            IntOrString::String(name) => {
                let names: Vec<&str> = self.ports.keys().map(String::as_str).collect();
                format!("found the port {name:?}, expected a number or one of the container's port names {names:?}")
            }
        })
    }

    /// The host that an action names, or the Pod.
    fn host<'a>(&'a self, named: Option<&'a str>) -> &'a str {
        named.filter(|h| !h.is_empty()).unwrap_or(&self.ip)
    }
}

fn named_ports(spec: &Container) -> BTreeMap<String, u16> {
    let ports = spec.ports.iter().flatten();
    let named = ports.filter_map(|p| {
        let number = u16::try_from(p.container_port).ok()?;
        Some((p.name.clone()?, number))
    });
    named.collect()
}

/// Outcome of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It succeeded.
    Success,
    /// It succeeded with a warning, whose text this is.
    Warning(String),
    /// It failed, with what was answered or why nothing was.
    Failure(String),
    /// It could not be executed, which says nothing about the container: the outcome is dropped.
    Error(String),
}

/// Carries out one probe, once, within its `timeoutSeconds` (Kubernetes, Configure Liveness, Readiness
/// and Startup Probes). What it says is worded as the reference agent does.
pub async fn run(probe: &Probe, target: &ProbeTarget) -> ProbeOutcome {
    run_round(probe, target, &exec::OpenCall::default()).await
}

/// Carries out one round of a probe, whose commands' calls may stay `open` between its rounds.
async fn run_round(probe: &Probe, target: &ProbeTarget, open: &exec::OpenCall) -> ProbeOutcome {
    let limit = seconds(probe.timeout_seconds).max(Duration::from_secs(1));
    if let Some(action) = &probe.exec {
        return exec::probe(target, action, limit, open).await;
    }
    if let Some(action) = &probe.http_get {
        return http::probe(target, action, limit).await;
    }
    if let Some(action) = &probe.tcp_socket {
        return dial::probe(target, action, limit).await;
    }
    if let Some(action) = &probe.grpc {
        return grpc::probe(target, action, limit).await;
    }
    ProbeOutcome::Error("found no handler, expected exec, httpGet, tcpSocket or grpc".to_owned())
}

/// A field in whole seconds; nothing where it is not set.
fn seconds(field: Option<i32>) -> Duration {
    Duration::from_secs(field.and_then(|s| u64::try_from(s).ok()).unwrap_or(0))
}

/// The beginning of an output, as text.
fn start_of(output: &[u8]) -> String {
    let start = output.get(..MAX_OUTPUT).unwrap_or(output);
    String::from_utf8_lossy(start).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_a_number_or_a_name_of_the_container() {
        let endpoint = "unix:///nowhere.sock".parse().unwrap();
        let target = ProbeTarget {
            client: Client::new(endpoint),
            container_id: String::new(),
            ip: "10.0.0.1".to_owned(),
            ports: BTreeMap::from([("web".to_owned(), 8080)]),
        };
        let port = |given: &str| target.port(&IntOrString::String(given.to_owned()));
        assert_eq!(target.port(&IntOrString::Int(81)), Ok(81));
        assert_eq!(port("web"), Ok(8080));
        assert_eq!(port("8081"), Ok(8081));
        assert!(port("metrics").is_err_and(|e| e.contains("\"metrics\"") && e.contains("\"web\"")));
        for wrong in [0, -1, 65536] {
            assert!(target.port(&IntOrString::Int(wrong)).is_err(), "{wrong}");
        }
    }
}
