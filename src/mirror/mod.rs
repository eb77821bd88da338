//! The node at an API server: seen from there, not controlled from there.
//!
//! Nothing on the node waits for this or depends on it. On each connection everything is listed
//! again, so that whatever happened on either side while there was none comes right: the Node and its
//! lease, a mirror Pod for each static Pod, and the events.

mod api;
mod bounded;
mod certificate;
mod connection;
mod error;
mod events;
mod kubeconfig;
mod last_reports;
pub mod metrics;
mod node;
mod object;
mod others;
mod patch;
mod plan;
mod plugin;
mod pods;
mod refusal_log;
mod refusals;
mod seen_pods;
#[cfg(test)]
mod tests;
mod tls;
mod watch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::manifest::PodKey;
use crate::pod::task::Context;
use crate::source::Desired;
use crate::units::time::scaled;
use api::Api;
use connection::{Connection, WatchedFiles};
use error::{ApiError, ErrorKind};
pub use last_reports::{REPORT_LIMIT, wait_until_reported};
pub(crate) use node::DEFAULT_THRESHOLDS;
pub use node::{Thresholds, VERSION};
pub use object::{NodeIdentity, mirror};
pub use patch::status_patch;
use refusal_log::RefusalLog;

/// Back-off before an API server that is unreachable is tried again, at first and at most.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(30);
/// Wait before a certificate that was not issued is requested again.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Updates of the watches that are not handled yet.
const UPDATES: usize = 16;
/// Folder of the client certificate, below the root directory.
const PKI: &str = "pki";

/// Settings of the connection to an API server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApiServerSettings {
    /// Kubeconfig of the API server.
    pub kubeconfig: PathBuf,
    /// Kubeconfig for requesting a certificate, used while the other does not exist.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// The folder for client certificates; `None` for the one that the kubeconfig names, or else one
    /// below the root directory.
    pub certificate_folder: Option<PathBuf>,
    /// True if the client certificate is renewed.
    pub rotate_certificates: bool,
    /// True if the Node is created if it is missing.
    pub register_node: bool,
    /// The taints that it is made with.
    pub taints: Vec<Taint>,
    /// ID of the machine at its cloud provider.
    pub provider_id: Option<String>,
    /// Interval between measurements of the machine for the Node's status.
    pub measure_interval: Duration,
    /// Amounts below which the node is under pressure.
    pub thresholds: Thresholds,
    /// Interval between reports of an unchanged status.
    pub report_interval: Duration,
    /// For how many seconds its lease holds.
    pub lease_seconds: u32,
    /// The port on which the node serves what kubectl asks it for, if it does.
    pub port: Option<u16>,
}

/// Snapshot of the state at the API server, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// True if the API server is reachable.
    pub connected: bool,
    /// Mirror Pods that it has.
    pub mirrors: usize,
    /// The reports' count of changes up to which the mirror Pods have been updated, or were refused.
    pub reported: u64,
    /// The Pods for which it does not do something, with what it says.
    pub refused: BTreeMap<PodKey, String>,
}

/// Local state that is reported to the API server.
struct Local {
    settings: ApiServerSettings,
    context: Arc<Context>,
    desired: tokio::sync::watch::Receiver<Option<Desired>>,
    /// Set once every Pod was observed for the first time.
    synced: tokio::sync::watch::Receiver<Option<Instant>>,
    requests: Arc<AtomicU64>,
}

/// State that outlives a connection.
#[derive(Default)]
struct RetainedState {
    link: ConnectionState,
    /// A new credential of the exec plugin's, for the next connection.
    credential: Option<plugin::PluginCredential>,
    pods: pods::RetainedPods,
    outbox: events::Outbox,
    measured: node::Measured,
}

/// State of the connection to the API server, and of its log messages.
#[derive(Debug, Default)]
struct ConnectionState {
    is_reachable: Option<bool>,
}

impl ConnectionState {
    fn record_unreachable(&mut self, error: &ApiError) {
        if self.is_reachable.replace(false) != Some(false) {
            warn!(%error, "API server is unreachable, static Pods keep running");
        }
    }

    fn record_reachable(&mut self) {
        if self.is_reachable.replace(true) != Some(true) {
            info!("API server is reachable");
        }
    }
}

/// Reason for the end of a connection.
enum Disconnect {
    /// The API server is unreachable.
    Failed(ApiError),
    /// Files or settings of the connection changed.
    Changed,
    /// The exec plugin gave a new credential.
    Renewed,
}

/// A node at an API server.
pub struct Mirror {
    local: Local,
    numbers: tokio::sync::watch::Sender<Numbers>,
    client: ClientSender,
}

/// The way to the API server, for others who ask it; nothing before the first connection.
pub type ClientSender = tokio::sync::watch::Sender<Option<kube::Client>>;

impl Mirror {
    /// `desired` is what the manifests want; `synced` is set once every Pod was observed for
    /// the first time; `client` is notified of each connection.
    #[must_use]
    pub fn new(
        settings: ApiServerSettings,
        context: Arc<Context>,
        desired: tokio::sync::watch::Receiver<Option<Desired>>,
        synced: tokio::sync::watch::Receiver<Option<Instant>>,
        client: ClientSender,
    ) -> Self {
        Self {
            local: Local {
                settings,
                context,
                desired,
                synced,
                requests: Arc::default(),
            },
            numbers: tokio::sync::watch::channel(Numbers::default()).0,
            client,
        }
    }

    /// Returns the latest snapshot of the state at the API server.
    #[must_use]
    pub fn numbers(&self) -> tokio::sync::watch::Receiver<Numbers> {
        self.numbers.subscribe()
    }

    /// Counts the requests that the API server was sent.
    #[must_use]
    pub fn requests(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.local.requests)
    }

    /// Keeps the node at the API server for as long as the agent runs.
    pub async fn keep(self) {
        let mut retained = RetainedState::default();
        let mut delay = RETRY;
        loop {
            let began = Instant::now();
            let ended = match self.connect(retained.credential.take()).await {
                Ok(connection) => {
                    self.client.send_replace(Some(connection.api.client()));
                    Box::pin(self.session(&connection, &mut retained)).await
                }
                Err(error) => Disconnect::Failed(error),
            };
            let error = match ended {
                Disconnect::Failed(error) => error,
                Disconnect::Changed => {
                    info!("API server connection settings changed, reconnecting");
                    continue;
                }
                Disconnect::Renewed => {
                    debug!("Exec plugin returned a new credential, reconnecting");
                    continue;
                }
            };
            retained.link.record_unreachable(&error);
            self.numbers
                .send_modify(|numbers| numbers.connected = false);
            if began.elapsed() >= GOOD {
                delay = RETRY;
            }
            self.rest(scaled(delay, 0.5 + fastrand::f64() / 2.0)).await;
            delay = delay.saturating_mul(2).min(RETRY_MAX);
        }
    }

    /// Waits, but no longer than until the kubeconfig changes.
    async fn rest(&self, pause: Duration) {
        let settings = &self.local.settings;
        let bootstrap = settings.bootstrap_kubeconfig.clone();
        let files =
            WatchedFiles::snapshot([settings.kubeconfig.clone()].into_iter().chain(bootstrap));
        let _ = tokio::time::timeout(pause, files.change()).await;
    }

    /// Gets ready to ask the API server, with a certificate that is got first if there is none.
    async fn connect(
        &self,
        fresh: Option<plugin::PluginCredential>,
    ) -> Result<Connection, ApiError> {
        let settings = &self.local.settings;
        let kubeconfig = &settings.kubeconfig;
        let folder = self.certificate_folder();
        if let Some(bootstrap) = &settings.bootstrap_kubeconfig
            && !certificate::is_usable(kubeconfig)
            && !certificate::write_kubeconfig(bootstrap, kubeconfig, &folder)?
        {
            let requests = Arc::clone(&self.local.requests);
            let first = Connection::open(bootstrap, None, None, requests).await?;
            let node = &self.local.context.node_name;
            certificate::ask(&first.api, &folder, node).await?;
        }
        // Stamped before it is read, so that one that comes in between ends the connection too.
        let newest = WatchedFiles::snapshot([certificate::current(&folder)]);
        let renewed = self.renewed(&folder);
        let requests = Arc::clone(&self.local.requests);
        let renewed = renewed.as_deref();
        let mut connection = Connection::open(kubeconfig, renewed, fresh, requests).await?;
        connection.files.add(newest);
        Ok(connection)
    }

    fn certificate_folder(&self) -> PathBuf {
        let Local {
            settings, context, ..
        } = &self.local;
        let own = context.facts.paths.root.join(PKI);
        certificate::folder(
            settings.certificate_folder.as_deref(),
            &settings.kubeconfig,
            own,
        )
    }

    /// A certificate that takes the place of an older one that the kubeconfig shows.
    fn renewed(&self, folder: &Path) -> Option<PathBuf> {
        let settings = &self.local.settings;
        let current = certificate::current(folder);
        let newest = certificate::Validity::of_file(&current)?;
        let mut kubeconfig = kubeconfig::read(&settings.kubeconfig).ok()?;
        let shown = certificate::shown(&mut kubeconfig)?;
        (settings.rotate_certificates && newest.until > shown.until).then_some(current)
    }

    /// Everything that is done on one connection; gives what ended it.
    async fn session(&self, connection: &Connection, retained: &mut RetainedState) -> Disconnect {
        let local = &self.local;
        let RetainedState {
            link,
            credential,
            pods,
            outbox,
            measured,
        } = retained;
        let api = &connection.api;
        let name = &local.context.node_name;
        let (identity_sender, identity) = tokio::sync::watch::channel(None);
        let (pod_sender, pod_updates) = mpsc::channel(UPDATES);
        let (node_sender, node_updates) = mpsc::channel(UPDATES);
        let registration = node::Registration::new(local, api.clone(), identity_sender, measured);
        let known = identity.clone();
        let controller = pods::Pods::new(local, api.clone(), known, pods, &self.numbers);
        let all = async {
            let ended = tokio::try_join!(
                watch::watch(api, node::NODES, ("metadata.name", name), node_sender),
                watch::watch(api, pods::PODS, ("spec.nodeName", name), pod_sender),
                registration.keep(node_updates),
                controller.keep(pod_updates),
                node::renew(api, identity, local.settings.lease_seconds),
                events::send_all(local, api, outbox),
                self.renew_certificate(api),
                self.report_when_reachable(api, link),
            );
            match ended {
                Ok((never, ..)) => match never {},
                Err(error) => error,
            }
        };
        tokio::select! {
            error = all => Disconnect::Failed(error),
            () = connection.files.change() => Disconnect::Changed,
            renewed = connection.renewed() => match renewed {
                Ok(renewed) => {
                    *credential = Some(renewed);
                    Disconnect::Renewed
                }
                Err(error) => Disconnect::Failed(error),
            },
        }
    }

    /// Logs that the API server is reachable, once it is.
    async fn report_when_reachable(
        &self,
        api: &Api,
        link: &mut ConnectionState,
    ) -> Result<Infallible, ApiError> {
        api.answered().await;
        link.record_reachable();
        self.numbers.send_modify(|numbers| numbers.connected = true);
        std::future::pending().await
    }

    /// Renews the client certificate in time, if that is wanted. The connection ends when there is a
    /// new one, whatever the kubeconfig shows itself.
    async fn renew_certificate(&self, api: &Api) -> Result<Infallible, ApiError> {
        let settings = &self.local.settings;
        let folder = self.certificate_folder();
        let mut refusals = RefusalLog::new("to renew the client certificate");
        while settings.rotate_certificates
            && let Some(validity) = self.shown(&folder)
        {
            certificate::wait_until_due(validity, fastrand::f64()).await;
            let node = &self.local.context.node_name;
            match certificate::ask(api, &folder, node).await {
                Ok(()) => refusals.accepted(),
                Err(error) if error.kind == ErrorKind::Unreachable => return Err(error),
                Err(error) => refusals.refused(&error),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        std::future::pending().await
    }

    /// The validity of the certificate that is shown to the API server.
    fn shown(&self, folder: &Path) -> Option<certificate::Validity> {
        if let Some(renewed) = self.renewed(folder) {
            return certificate::Validity::of_file(&renewed);
        }
        certificate::shown(&mut kubeconfig::read(&self.local.settings.kubeconfig).ok()?)
    }
}
