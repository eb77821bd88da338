//! The connection to the API server, as a kubeconfig file configures it. Everything that the file names is
//! read
//! again for each connection, and a change of any of it is noticed.

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
use super::plugin::{self, PluginCredential};

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
        let config = config
            .map_err(|e| ApiError::away(format!("{}: {}", kubeconfig.display(), chain(&e))))?;
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
                Err(error) => return Err(ApiError::away(error.to_string())),
            }
        }
    }
}

fn of_plugin(kubeconfig: &Path, error: &plugin::PluginError) -> ApiError {
    ApiError::away(format!("{}: {error}", kubeconfig.display()))
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

/// Reads a kubeconfig; the paths in it are meant from its folder.
pub(super) fn read(kubeconfig: &Path) -> Result<Kubeconfig, ApiError> {
    let found = Kubeconfig::read_from(kubeconfig);
    found.map_err(|e| ApiError::away(chain(&e)))
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
        return Err(ApiError::away(
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
        Some(provider) => Err(ApiError::away(format!(
            "the kubeconfig has the auth-provider {:?}, expected none: use an exec plugin",
            provider.name
        ))),
        None => Ok(()),
    }
}

/// A client of its own making: the library's usual one tries again by itself and writes a log line
/// for each failure, which are both ours to do.
fn client(config: &Config) -> Result<Client, ApiError> {
    let wrong = |e: kube::Error| ApiError::away(chain(&e));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIME));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let connector = config.rustls_https_connector_with_connector(connector);
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIME)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .build::<_, Body>(connector.map_err(wrong)?);
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
        .option_layer(config.auth_layer().map_err(wrong)?)
        .layer(config.extra_headers_layer().map_err(wrong)?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::plugin::PLUGIN_TIME;
    use tempfile::TempDir;

    /// Writes a kubeconfig with this user, in place of the one before.
    fn write(folder: &TempDir, user: &str) -> PathBuf {
        let path = folder.path().join("kubeconfig");
        let text = format!(
            "clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:1'}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             current-context: x\nusers: [{{name: u, user: {user}}}]\n"
        );
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    #[test]
    fn a_kubeconfig_that_is_too_deep_or_grows_without_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let first = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        let laughs = (1..20).fold(first, |text, i| {
            let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
            text + &format!("a{i}: &a{i} [{aliases}]\n")
        });
        let texts = [
            "[".repeat(1 << 20),
            "{a: ".repeat(1 << 18),
            "{\"a\":".repeat(1 << 18),
            "- ".repeat(1 << 19),
            "? ".repeat(1 << 19),
            "a: &a [*a]\n".to_owned(),
            format!("users: {}", "[".repeat(1 << 20)),
            format!("{laughs}users: *a19\n"),
            format!("clusters: [{{name: c, cluster: {}", "{a: ".repeat(1 << 18)),
        ];
        for text in texts {
            fs::write(&path, &text).unwrap();
            let is_read = read(&path).is_ok();
            assert!(!is_read || text.len() < 1 << 16, "{}", &text[..20]);
        }
    }

    /// Begins to connect by a plugin that hangs for as long as the folder is there, and waits until it does.
    async fn hanging(folder: &TempDir) -> tokio::task::JoinHandle<Result<(), ApiError>> {
        let begun = folder.path().join("begun");
        let script = format!(
            ": > {0}; while [ -e {0} ]; do sleep 0.1; done",
            begun.display()
        );
        let user = format!(
            "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, interactiveMode: Never, \
             args: [-c, '{script}']}}}}"
        );
        let path = write(folder, &user);
        let opened = tokio::spawn(async move {
            let opened = Connection::open(&path, None, None, Arc::default()).await;
            opened.map(|_| ())
        });
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        opened
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_given_up_when_the_kubeconfig_changes() {
        let folder = tempfile::tempdir().unwrap();
        let opened = hanging(&folder).await;
        write(&folder, "{token: t}");
        assert_eq!(opened.await.unwrap(), Ok(()));
        drop(folder);
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_given_up_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let opened = hanging(&folder).await;
        tokio::time::pause();
        tokio::time::advance(PLUGIN_TIME).await;
        let error = opened.await.unwrap().unwrap_err().to_string();
        assert!(
            error.contains("the exec plugin has not answered"),
            "{error}"
        );
        drop(folder);
    }

    /// An API server whose every response begins so and never ends; gives its port.
    async fn endless(begin: &'static str) -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let mut chunk =
                        format!("{begin}\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
                    while stream.write_all(&chunk).await.is_ok() {
                        chunk = [b"10000\r\n", &vec![b'x'; 0x10000][..], b"\r\n"].concat();
                    }
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn a_response_that_never_ends_is_not_read_on_and_is_told_of() {
        use futures_util::StreamExt;
        use serde_json::Value;

        use crate::mirror::error::ErrorKind;
        for begin in ["HTTP/1.1 200 OK", "HTTP/1.1 500 Internal Server Error"] {
            let folder = tempfile::tempdir().unwrap();
            let path = write(&folder, "{token: t}");
            let port = endless(begin).await;
            let text = fs::read_to_string(&path).unwrap();
            fs::write(
                &path,
                text.replace("127.0.0.1:1", &format!("127.0.0.1:{port}")),
            )
            .unwrap();
            let connection = Connection::open(&path, None, None, Arc::default())
                .await
                .unwrap();
            let api = &connection.api;
            let object = api.get::<Value>("/api/v1/nodes/n").await.unwrap_err();
            let list = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn";
            let list_error = api.get::<Value>(list).await.unwrap_err();
            let watched = match api.watch::<Value>(&format!("{list}&watch=true")).await {
                Ok(mut events) => events.next().await.unwrap().unwrap_err(),
                Err(error) => error,
            };
            for error in [object, list_error, watched] {
                assert_eq!(error.kind, ErrorKind::Refused(413), "{begin}: {error}");
                assert!(error.message.contains("found more than"), "{error}");
            }
            // Reviews of callers go the same way.
            let path = "/apis/authentication.k8s.io/v1/tokenreviews";
            let review = Request::post(path).body(vec![]).unwrap();
            let error = api.client().request::<Value>(review).await.unwrap_err();
            let error = ApiError::from(error);
            assert!(error.message.contains("more than 1048576 bytes"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_provider_of_old_is_refused_and_runs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ran = folder.path().join("ran");
        let user = format!(
            "{{auth-provider: {{name: gcp, config: {{cmd-path: touch, cmd-args: {}}}}}}}",
            ran.display()
        );
        let opened = Connection::open(&write(&folder, &user), None, None, Arc::default()).await;
        let error = opened.map(drop).unwrap_err().to_string();
        assert!(
            error.contains("auth-provider \"gcp\", expected none"),
            "{error}"
        );
        assert!(!ran.exists());
    }

    #[test]
    fn the_token_in_a_file_counts_where_there_are_two() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "f").unwrap();
        for (user, kept) in [
            ("{token: t, tokenFile: file}", false),
            ("{token: t, tokenFile: none}", true),
            ("{token: t}", true),
        ] {
            let mut found = read(&write(&folder, user)).unwrap();
            prefer_token_file(&mut found);
            let user_found = super::user(&mut found).unwrap();
            assert_eq!(user_found.token.is_some(), kept, "{user}");
        }
    }
}
