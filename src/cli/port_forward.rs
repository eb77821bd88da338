//! `podkeeper port-forward`: local ports whose connections go to ports of a Pod.
//!
//! Each connection is made in the network namespace of the Pod's sandbox, as the runtime's streaming server does
//! it: no connection can keep another one waiting, and all of them go on while the runtime is restarted. After an update
//! or a restart of the Pod, new connections go to its new sandbox.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore};

use super::agent::{Agent, containers, full_name};
use super::container::connect;
use super::{block_on, complain, print};
use crate::cri::{Client, v1};
use crate::host::netns;
use crate::server::{PodDetail, PodName};
use crate::translate::labels;

/// Maximum number of connections at a time; others wait.
const MAX_CONNECTIONS: usize = 256;
/// Maximum number of lines about connections that wait to be written.
const MAX_LINES: usize = 256;
/// Pause after a failed accept, as when there are too many open files.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct PortForwardArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// Ports to forward, by number or name; a local port that is left out is the same, or with `:REMOTE` any that is free
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    ports: Vec<PortArg>,

    /// Addresses to listen on, separated by commas
    #[arg(
        long,
        value_name = "ADDRESSES",
        value_delimiter = ',',
        default_value = "localhost",
        value_parser = addresses
    )]
    address: Vec<LocalAddress>,
}

/// Ports as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortArg {
    /// 0 for any; `None` for the remote one.
    local: Option<u16>,
    remote: String,
}

impl FromStr for PortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, remote) = match text.split_once(':') {
            None => (None, text),
            Some(("", remote)) => (Some(0), remote),
            Some((local, remote)) => {
                let local = local.parse().ok().filter(|port| *port > 0);
                let expected = || format!("found local port {text:?}, expected 1 to 65535");
                (Some(local.ok_or_else(expected)?), remote)
            }
        };
        if remote.is_empty() || remote.contains(':') {
            return Err(format!("found {text:?}, expected [LOCAL:]REMOTE"));
        }
        Ok(Self {
            local,
            remote: remote.to_owned(),
        })
    }
}

/// Address to listen on, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LocalAddress {
    /// IPv4 and IPv6, as far as the machine has them.
    Localhost,
    Ip(IpAddr),
}

fn addresses(text: &str) -> Result<LocalAddress, String> {
    match text {
        "localhost" => Ok(LocalAddress::Localhost),
        text => {
            let ip = text.parse().map(LocalAddress::Ip);
            ip.map_err(|_| format!("found {text:?}, expected an IP address or localhost"))
        }
    }
}

/// The network of a Pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SandboxNetwork {
    /// Path of its namespace; `None` for the host's network.
    namespace: Option<PathBuf>,
}

/// Lines about connections, written on a thread of its own: a terminal that is stopped, or a pipe that nobody reads,
/// keeps no connection waiting. While too many lines wait, more are lost.
#[derive(Debug, Clone)]
struct ConnectionLines(mpsc::SyncSender<ConnectionLine>);

#[derive(Debug)]
enum ConnectionLine {
    Handled(String),
    Failed(String),
}

impl ConnectionLines {
    fn new(write: impl Fn(ConnectionLine) + Send + 'static) -> Self {
        let (to, lines) = mpsc::sync_channel(MAX_LINES);
        thread::spawn(move || lines.into_iter().for_each(write));
        Self(to)
    }

    fn add(&self, line: ConnectionLine) {
        let _ = self.0.try_send(line);
    }
}

impl ConnectionLine {
    fn write(self) {
        match self {
            // Output that nobody reads ends no connection.
            Self::Handled(line) => drop(print(&line)),
            Self::Failed(line) => complain(&line),
        }
    }
}

/// The Pod, and its network as it was last found.
#[derive(Debug)]
struct ForwardTarget {
    agent: Agent,
    pod: PodName,
    network: Mutex<Option<SandboxNetwork>>,
    lines: ConnectionLines,
}

pub(super) fn port_forward(arguments: PortForwardArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let (pod, details) = arguments.agent.pod(&arguments.pod).await?;
        let target = Arc::new(ForwardTarget {
            network: Mutex::new(Some(network(&connect(&details.endpoint)?, &pod).await?)),
            agent: arguments.agent,
            pod: arguments.pod,
            lines: ConnectionLines::new(ConnectionLine::write),
        });
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        for port in &arguments.ports {
            let remote = remote(&pod, &port.remote)?;
            let mut local = port.local.unwrap_or(remote);
            for address in &arguments.address {
                for listener in listen(*address, &mut local).await? {
                    let place = listener.local_addr()?;
                    print(&format!("Forwarding from {place} -> {remote}\n"))?;
                    let (target, permits) = (Arc::clone(&target), Arc::clone(&permits));
                    tokio::spawn(serve(listener, remote, target, permits));
                }
            }
        }
        // Before, Ctrl-C ends the process by itself.
        signal(SignalKind::interrupt())?.recv().await;
        Ok(ExitCode::SUCCESS)
    }))
}

/// Returns the number of a port of the Pod.
fn remote(pod: &PodDetail, port: &str) -> anyhow::Result<u16> {
    if port.bytes().all(|b| b.is_ascii_digit()) {
        let number = port.parse().ok().filter(|port| *port > 0);
        return number.with_context(|| format!("found remote port {port}, expected 1 to 65535"));
    }
    let all = containers(pod).flat_map(|c| c.ports.iter().flatten());
    let mut tcp = all.filter(|p| {
        p.protocol
            .as_deref()
            .is_none_or(|protocol| protocol == "TCP")
    });
    let found = tcp.find(|p| p.name.as_deref() == Some(port));
    let number = found.and_then(|p| p.container_port.try_into().ok());
    number.with_context(|| format!("Pod {} has no TCP port named {port}", full_name(pod)))
}

/// Listens on a port of an address; on any free one if it is 0, which it is set to.
async fn listen(address: LocalAddress, port: &mut u16) -> anyhow::Result<Vec<TcpListener>> {
    let ips = match address {
        LocalAddress::Localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        LocalAddress::Ip(ip) => vec![ip],
    };
    let (mut listeners, mut errors) = (vec![], vec![]);
    for ip in ips {
        let place = SocketAddr::new(ip, *port);
        match TcpListener::bind(place).await {
            Ok(listener) => {
                *port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(error) => errors.push(format!("{place}: {error}")),
        }
    }
    if listeners.is_empty() {
        bail!("unable to listen on port {port}: {}", errors.join(", "));
    }
    Ok(listeners)
}

/// Forwards the connections of a local port.
async fn serve(
    listener: TcpListener,
    remote: u16,
    target: Arc<ForwardTarget>,
    permits: Arc<Semaphore>,
) {
    let local = listener.local_addr().map_or(0, |place| place.port());
    loop {
        let mut connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                let line = format!("Failed to accept a connection on port {local}: {error}");
                target.lines.add(ConnectionLine::Failed(line));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // A port that nobody uses needs none. Nobody closes it.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let target = Arc::clone(&target);
        tokio::spawn(async move {
            let line = format!("Handling connection for {local}\n");
            target.lines.add(ConnectionLine::Handled(line));
            if let Err(error) = forward(&mut connection, remote, &target).await {
                let line = format!("An error occurred forwarding {local} -> {remote}: {error:#}");
                target.lines.add(ConnectionLine::Failed(line));
            }
            drop(permit);
        });
    }
}

async fn forward(
    connection: &mut TcpStream,
    remote: u16,
    target: &ForwardTarget,
) -> anyhow::Result<()> {
    let mut upstream = target.connect(remote).await?;
    let _ = connection.set_nodelay(true);
    match copy_bidirectional(connection, &mut upstream).await {
        // Each side may end a connection as it likes.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => Ok(ended.map(drop)?),
    }
}

impl ForwardTarget {
    /// Connects to a port in the sandbox that was last found or, where that fails, in the present one. The host's network
    /// does not go away with a sandbox: there the present one is looked up first.
    async fn connect(&self, port: u16) -> anyhow::Result<TcpStream> {
        let known = self.network.lock().await.clone();
        let known = known.filter(|network| network.namespace.is_some());
        let failed = match known.clone() {
            Some(network) => match netns::connect(network.namespace, port).await {
                Ok(connection) => return Ok(connection),
                Err(error) => Some(error),
            },
            None => None,
        };
        let (pod, details) = self.agent.pod(&self.pod).await?;
        let network = network(&connect(&details.endpoint)?, &pod).await?;
        if let Some(error) = failed.filter(|_| known.as_ref() == Some(&network)) {
            return Err(error.into());
        }
        *self.network.lock().await = Some(network.clone());
        Ok(netns::connect(network.namespace, port).await?)
    }
}

/// Returns the network of the Pod's present sandbox.
async fn network(client: &Client, pod: &PodDetail) -> anyhow::Result<SandboxNetwork> {
    let report = &pod.report;
    let selector = [
        (labels::POD_NAMESPACE, &report.namespace),
        (labels::POD_NAME, &report.name),
        (labels::POD_UID, &report.uid),
    ];
    let selector = selector.map(|(key, value)| (key.to_owned(), value.clone()));
    let ready = v1::PodSandboxStateValue {
        state: v1::PodSandboxState::SandboxReady.into(),
    };
    let filter = v1::PodSandboxFilter {
        state: Some(ready),
        label_selector: selector.into(),
        ..v1::PodSandboxFilter::default()
    };
    let message = v1::ListPodSandboxRequest {
        filter: Some(filter),
    };
    let sandboxes = client.list_pod_sandbox(message).await?.items;
    let newest = sandboxes.into_iter().max_by_key(|s| s.created_at);
    let newest = newest.with_context(|| format!("Pod {} is not running", full_name(pod)))?;
    let message = v1::PodSandboxStatusRequest {
        pod_sandbox_id: newest.id,
        verbose: true,
    };
    let found = client.pod_sandbox_status(message).await?;
    let options = found.status.and_then(|s| s.linux?.namespaces?.options);
    if options.is_some_and(|options| options.network() == v1::NamespaceMode::Node) {
        return Ok(SandboxNetwork { namespace: None });
    }
    let path = namespace(&found.info);
    let path = path.context("the container runtime does not report the Pod's network namespace")?;
    Ok(SandboxNetwork {
        namespace: Some(path),
    })
}

/// Returns the path of a sandbox's network namespace, from containerd's details.
fn namespace(info: &HashMap<String, String>) -> Option<PathBuf> {
    let info: Value = serde_json::from_str(info.get("info")?).ok()?;
    let all = info["runtimeSpec"]["linux"]["namespaces"].as_array()?;
    let network = all.iter().find(|n| n["type"] == "network")?;
    let path = network["path"].as_str().filter(|path| !path.is_empty())?;
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        let port = |local, remote: &str| {
            Ok(PortArg {
                local,
                remote: remote.to_owned(),
            })
        };
        for (text, expected) in [
            ("80", port(None, "80")),
            ("8080:80", port(Some(8080), "80")),
            (":80", port(Some(0), "80")),
            ("8080:http", port(Some(8080), "http")),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", ":", "80:", "0:80", "65536:80", "a:80", "1:2:3"] {
            text.parse::<PortArg>().unwrap_err();
        }
    }

    #[test]
    fn a_remote_port_is_a_number_or_the_name_of_a_tcp_port() {
        let ports = json!([
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "http", "containerPort": 80},
        ]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "ports": ports}]}});
        let pod = PodDetail {
            pod: serde_json::from_value(pod).unwrap(),
            ..PodDetail::default()
        };
        assert_eq!(remote(&pod, "8080").unwrap(), 8080);
        assert_eq!(remote(&pod, "http").unwrap(), 80);
        for port in ["dns", "0", "65536", "web"] {
            remote(&pod, port).unwrap_err();
        }
    }

    #[test]
    fn lines_that_nobody_reads_keep_nothing_waiting() {
        let (go_on, wait) = mpsc::channel::<()>();
        let (written, lines) = mpsc::channel();
        let stuck = ConnectionLines::new(move |line| {
            let _ = wait.recv();
            let _ = written.send(line);
        });
        for _ in 0..2 * MAX_LINES {
            stuck.add(ConnectionLine::Handled(String::new()));
        }
        drop((go_on, stuck));
        let count = lines.into_iter().count();
        assert!((MAX_LINES..=MAX_LINES + 1).contains(&count), "{count}");
    }

    #[test]
    fn the_namespace_is_the_one_that_the_runtime_reports() {
        let info = |spec: &str| HashMap::from([("info".to_owned(), spec.to_owned())]);
        let spec = r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/a"}]}}}"#;
        assert_eq!(namespace(&info(spec)), Some("/run/netns/a".into()));
        assert_eq!(namespace(&info("{}")), None);
        assert_eq!(namespace(&HashMap::new()), None);
    }
}
