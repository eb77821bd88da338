//! A look at the node: its runtime's images and network, its ports and name servers. Every wait has a limit.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use crate::config::DEFAULT_RUN_DIR;
use crate::cri::v1::{ListImagesRequest, StatusRequest};
use crate::cri::{Client, Endpoint};
use crate::host::blocking::single_threaded_runtime;
use crate::server::fetch_status;

/// Longest wait for the runtime, for each of its calls.
const LIMIT: Duration = Duration::from_secs(5);
/// Default port of the health check.
const HEALTHZ_PORT: u16 = 10248;
/// First port that the sample may have.
const SAMPLE_PORT: u16 = 8080;
/// Ports that are tried one after the other.
const TRIES: u16 = 200;
/// The host's resolver configuration, and the one beside it that systemd-resolved writes for others.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Findings about the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Names of the images that the runtime has; `None` where it does not say.
    pub(super) images: Option<Vec<String>>,
    /// True if the network of Pods maps ports of the host.
    pub(super) maps_ports: bool,
    /// Port of the health check, where the default one is taken.
    pub(super) healthz_port: Option<u16>,
    /// Resolver configuration, where containers do not reach the default one's servers.
    pub(super) resolv_conf: Option<&'static str>,
    /// Free port for the sample.
    pub(super) sample_port: u16,
}

impl Look {
    /// Looks at the node, and at the runtime at this endpoint.
    ///
    /// # Errors
    /// The look cannot be begun.
    pub(super) fn new(endpoint: Endpoint) -> anyhow::Result<Self> {
        let runtime = single_threaded_runtime()?;
        let (images, maps_ports, agent_runs) = runtime.block_on(async {
            let client = Client::new(endpoint);
            let agent = fetch_status(Path::new(DEFAULT_RUN_DIR)).await;
            (
                images(&client).await,
                maps_ports(&client).await,
                agent.is_ok(),
            )
        });
        runtime.shutdown_background();
        let own = agent_runs || is_free("127.0.0.1", HEALTHZ_PORT);
        let resolv_conf = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let is_other = has_own_servers(&resolv_conf) && Path::new(RESOLVED).exists();
        Ok(Self {
            images,
            maps_ports,
            healthz_port: (!own).then(|| free_port("127.0.0.1", HEALTHZ_PORT)),
            resolv_conf: is_other.then_some(RESOLVED),
            sample_port: free_port("0.0.0.0", SAMPLE_PORT),
        })
    }
}

async fn images(client: &Client) -> Option<Vec<String>> {
    let request = ListImagesRequest::default();
    let answer = timeout(LIMIT, client.list_images(request))
        .await
        .ok()?
        .ok()?;
    let mut names: Vec<String> = answer
        .images
        .into_iter()
        .flat_map(|i| i.repo_tags)
        .collect();
    names.sort();
    Some(names)
}

/// Returns true if the runtime reports a network with the plugin that maps ports.
async fn maps_ports(client: &Client) -> bool {
    let request = StatusRequest { verbose: true };
    let Ok(Ok(answer)) = timeout(LIMIT, client.status(request)).await else {
        return false;
    };
    let network = answer.info.get("cniconfig");
    network.is_some_and(|network| network.contains("\"portmap\""))
}

fn is_free(address: &str, port: u16) -> bool {
    TcpListener::bind((address, port)).is_ok()
}

/// Returns the first free port from this one on, or this one where all are taken.
fn free_port(address: &str, first: u16) -> u16 {
    let mut ports = first..first.saturating_add(TRIES);
    ports.find(|port| is_free(address, *port)).unwrap_or(first)
}

/// Returns true if a resolver configuration names the machine itself, which no container reaches.
fn has_own_servers(text: &str) -> bool {
    text.lines().any(|line| {
        let server = line.trim().strip_prefix("nameserver").map(str::trim);
        server.is_some_and(|server| server.starts_with("127.") || server == "::1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_not_chosen() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_port("127.0.0.1", port), port);
        drop(taken);
        assert_eq!(free_port("127.0.0.1", port), port);
    }

    #[test]
    fn name_servers_of_the_machine_itself_are_known() {
        assert!(has_own_servers("search x\nnameserver 127.0.0.53\n"));
        assert!(has_own_servers(" nameserver ::1"));
        assert!(!has_own_servers(
            "nameserver 10.0.0.1\n#nameserver 127.0.0.1\n"
        ));
    }

    #[test]
    fn a_runtime_that_is_not_there_keeps_nothing_from_being_found() {
        let endpoint = "/nowhere/x.sock".parse().unwrap();
        let look = Look::new(endpoint).unwrap();
        assert_eq!((look.images, look.maps_ports), (None, false));
        assert!(look.sample_port >= SAMPLE_PORT);
    }
}
