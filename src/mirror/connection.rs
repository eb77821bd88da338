//! The connection to the API server, as a kubeconfig file configures it. Everything that the file names is
//! read
//! again for each connection, and a change of any of it is noticed.

#[cfg(test)]
mod tests;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use base64::Engine as _;
use hyper::Request;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{AuthInfo, ExecConfig, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder, service_fn};
use tracing::debug;

use super::api::Api;
use super::bounded::{Bound, Bounded};
use super::error::{ApiError, chain};
use super::kubeconfig::{authorize, read};
use super::plugin::{self, PluginCredential};
use super::tls;

/// Interval between checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time limit for connecting to a server.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Interval of keep-alive probes on an idle connection, which is dead after so many without a reply.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 2;
/// A credential with a time of its own is renewed this long before it is over, but not more often than this.
const RENEW: SignedDuration = SignedDuration::from_secs(30);
const RENEW_PAUSE: Duration = Duration::from_secs(10);
/// Interval between checks of the clock, which may jump on a machine.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Connections that nobody uses are kept for this long; the lease is renewed more often.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// A connection, and what it was made from.
pub(super) struct Connection {
    pub(super) api: Api,
    pub(super) files: WatchedFiles,
    /// The exec plugin that gave the credential, and when that is over.
    plugin: Option<(ExecConfig, Option<Timestamp>)>,
}

/// Files as they were when they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WatchedFiles(Vec<(PathBuf, Option<ContentStamp>)>);

/// Identity of a file's content: device, inode, size, and time of change.
type ContentStamp = (u64, u64, u64, i64, i64);

impl WatchedFiles {
    /// These files as they are now.
    pub(super) fn snapshot(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(
            paths
                .into_iter()
                .map(|path| (path.clone(), stamp(&path)))
                .collect(),
        )
    }

    /// These too.
    pub(super) fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// True if any of the files changed, appeared or disappeared.
    fn changed(&self) -> bool {
        self.0.iter().any(|(path, then)| stamp(path) != *then)
    }

    /// Waits until any of them changes.
    pub(super) async fn change(&self) {
        while !self.changed() {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }
}

fn stamp(path: &Path) -> Option<ContentStamp> {
    let found = fs::metadata(path).ok()?;
    let changed = (found.ctime(), found.ctime_nsec());
    Some((found.dev(), found.ino(), found.size(), changed.0, changed.1))
}

impl Connection {
    /// Reads the kubeconfig and prepares requests to its server. `certificate` is a PEM file with a
    /// certificate and its key that is used in place of one that the kubeconfig holds itself.
    /// Nothing is sent yet; an exec plugin is called, unless there is a `fresh` credential of it.
    ///
    /// # Errors
    /// A file cannot be read or makes no sense, or the exec plugin fails or takes too long.
    pub(super) async fn open(
        kubeconfig: &Path,
        certificate: Option<&Path>,
        mut fresh: Option<PluginCredential>,
        requests: Arc<AtomicU64>,
    ) -> Result<Self, ApiError> {
        loop {
            let requests = Arc::clone(&requests);
            let fresh = fresh.take();
            let opened = Self::open_now(kubeconfig, certificate, fresh, requests).await?;
            if let Some(connection) = opened {
                return Ok(connection);
            }
        }
    }

    /// The same; nothing if a file changes before it is done.
    async fn open_now(
        kubeconfig: &Path,
        certificate: Option<&Path>,
        fresh: Option<PluginCredential>,
        requests: Arc<AtomicU64>,
    ) -> Result<Option<Self>, ApiError> {
        let mut files = vec![kubeconfig.to_owned()];
        let mut found = read(kubeconfig)?;
        if let Some(certificate) = certificate {
            files.push(certificate.to_owned());
            show(&mut found, certificate);
        }
        refuse_proxy(&found)?;
        refuse_auth_provider(&mut found)?;
        prefer_token_file(&mut found);
        files.extend(named_files(&found));
        // Before they are read, so that a change in between is seen as one.
        let files = WatchedFiles::snapshot(files);
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(found, &options).await;
        let config = config.map_err(|e| {
            ApiError::unreachable(format!("{}: {}", kubeconfig.display(), chain(&e)))
        })?;
        let mut config = config;
        let mut plugin = None;
        if let Some(exec) = exec_plugin(&mut config.auth_info) {
            let credential = if let Some(fresh) = fresh {
                fresh
            } else {
                tokio::select! {
                    printed = plugin::run(&exec) => printed.map_err(|e| of_plugin(kubeconfig, &e))?,
                    () = files.change() => return Ok(None),
                }
            };
            plugin = Some((exec, credential.expires));
            show_credential(&mut config.auth_info, credential);
        }
        authorize(&mut config)?;
        let api = Api::new(client(&config)?, requests);
        Ok(Some(Self { api, files, plugin }))
    }

    /// Waits until the exec plugin's credential is nearly over, and gets another one.
    ///
    /// # Errors
    /// It is over, and the plugin gives no other.
    pub(super) async fn renewed(&self) -> Result<PluginCredential, ApiError> {
        let Some((exec, Some(expires))) = &self.plugin else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(RENEW_PAUSE).await;
            let left = expires
                .duration_since(Timestamp::now())
                .saturating_sub(RENEW);
            if left.is_positive() {
                tokio::time::sleep(left.unsigned_abs().min(CLOCK_CHECK_INTERVAL)).await;
                continue;
            }
            match plugin::run(exec).await {
                Ok(credential) => return Ok(credential),
                Err(error) if Timestamp::now() < *expires => {
                    debug!(%error, "Exec plugin returned no new credential yet");
                }
                Err(error) => return Err(ApiError::unreachable(error.to_string())),
            }
        }
    }
}

fn of_plugin(kubeconfig: &Path, error: &plugin::PluginError) -> ApiError {
    ApiError::unreachable(format!("{}: {error}", kubeconfig.display()))
}

/// Takes the exec plugin that is to give the credential; what stands in the kubeconfig itself comes before.
fn exec_plugin(user: &mut AuthInfo) -> Option<ExecConfig> {
    let exec = user.exec.take()?;
    let has_password = user.username.is_some() && user.password.is_some();
    let has_own = has_password || user.token.is_some() || user.token_file.is_some();
    (!has_own).then_some(exec)
}

/// Shows what an exec plugin printed.
fn show_credential(user: &mut AuthInfo, credential: PluginCredential) {
    user.token = credential.token.map(Into::into);
    let encode = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
    let certificate = credential.client_certificate_data.map(encode);
    let key = credential.client_key_data.map(encode);
    if let (Some(certificate), Some(key)) = (certificate, key) {
        user.client_certificate_data = Some(certificate);
        user.client_key_data = Some(key.into());
    }
}

/// The user of the current context.
pub(super) fn user(kubeconfig: &mut Kubeconfig) -> Option<&mut AuthInfo> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == *current)?;
    let user = context.context.as_ref()?.user.clone()?;
    let mut users = kubeconfig.auth_infos.iter_mut();
    users.find(|u| u.name == user)?.auth_info.as_mut()
}

/// Shows this certificate where the kubeconfig holds one.
fn show(kubeconfig: &mut Kubeconfig, certificate: &Path) {
    let Some(user) = user(kubeconfig) else {
        return;
    };
    let path = certificate.display().to_string();
    user.client_certificate_data = None;
    user.client_key_data = None;
    user.client_certificate = Some(path.clone());
    user.client_key = Some(path);
}

/// Prefers the token file where a user has both, as long as it can be read (Kubernetes, `tokenFile` of a
/// kubeconfig).
fn prefer_token_file(kubeconfig: &mut Kubeconfig) {
    if let Some(user) = user(kubeconfig)
        && user
            .token_file
            .as_ref()
            .is_some_and(|f| fs::read(f).is_ok())
    {
        user.token = None;
    }
}

fn named_files(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = kubeconfig
        .clusters
        .iter()
        .filter_map(|c| c.cluster.as_ref());
    let mut files: Vec<&String> = clusters
        .filter_map(|c| c.certificate_authority.as_ref())
        .collect();
    for user in kubeconfig
        .auth_infos
        .iter()
        .filter_map(|u| u.auth_info.as_ref())
    {
        files.extend(&user.client_certificate);
        files.extend(&user.client_key);
        files.extend(&user.token_file);
    }
    files.into_iter().map(PathBuf::from).collect()
}

fn refuse_proxy(kubeconfig: &Kubeconfig) -> Result<(), ApiError> {
    let mut clusters = kubeconfig
        .clusters
        .iter()
        .filter_map(|c| c.cluster.as_ref());
    if clusters.any(|cluster| cluster.proxy_url.is_some()) {
        return Err(ApiError::unreachable(
            "the kubeconfig has a proxy-url, expected none: podkeeper asks the API server directly",
        ));
    }
    Ok(())
}

/// Providers of the time before exec plugins: the kubelet has none of them any more, and one of them would
/// run a program without a limit.
fn refuse_auth_provider(kubeconfig: &mut Kubeconfig) -> Result<(), ApiError> {
    let provider = user(kubeconfig).and_then(|user| user.auth_provider.as_ref());
    match provider {
        Some(provider) => Err(ApiError::unreachable(format!(
            "the kubeconfig has the auth-provider {:?}, expected none: use an exec plugin",
            provider.name
        ))),
        None => Ok(()),
    }
}

/// A client of its own making: the library's usual one tries again by itself and writes a log line
/// for each failure, which are both ours to do.
fn client(config: &Config) -> Result<Client, ApiError> {
    let wrong = |e: kube::Error| ApiError::unreachable(chain(&e));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIME));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let connector = tls::connector(config, connector)?;
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIME)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .build::<_, Body>(connector);
    let client = service_fn(move |request: Request<Body>| {
        let bound = Bound::of(&request);
        let response = client.request(request);
        async move {
            let response = response.await?;
            let bound = bound.for_status(response.status());
            Ok::<_, hyper_util::client::legacy::Error>(
                response.map(|body| Bounded::new(body, bound)),
            )
        }
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer().map_err(wrong)?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
