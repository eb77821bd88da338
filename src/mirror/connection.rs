//! The way to the API server, as a kubeconfig file tells it. Everything that the file names is read
//! again for each connection, and a change of any of it is noticed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Semaphore;
use tower::{BoxError, ServiceBuilder};

use super::api::Api;
use super::error::{Error, chain};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a server may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// A connection on which nothing comes is looked after this often, and is dead after so many looks.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_LOOKS: u32 = 2;
/// How long an exec plugin may take.
const PLUGIN_TIME: Duration = Duration::from_secs(60);
/// Exec plugins that may be under way at a time: one that hangs cannot be ended from here.
static PLUGINS: Semaphore = Semaphore::const_new(4);
/// Connections that nobody uses are kept for this long; the lease is renewed more often.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// A connection, and the files that it was made from.
pub(super) struct Connection {
    pub(super) api: Api,
    pub(super) files: Files,
}

/// Files as they were when they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, Option<Stamp>)>);

/// What tells one state of a file from another: device, inode, size, and time of change.
type Stamp = (u64, u64, u64, i64, i64);

impl Files {
    /// These files as they are now.
    pub(super) fn look(paths: impl IntoIterator<Item = PathBuf>) -> Self {
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

    /// Whether any of them changed, came or went.
    fn changed(&self) -> bool {
        self.0.iter().any(|(path, then)| stamp(path) != *then)
    }

    /// Waits until any of them changes.
    pub(super) async fn change(&self) {
        while !self.changed() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let changed = (found.ctime(), found.ctime_nsec());
    Some((found.dev(), found.ino(), found.size(), changed.0, changed.1))
}

impl Connection {
    /// Reads the kubeconfig and gets ready to ask its server. `certificate` is a PEM file with a
    /// certificate and its key that is shown in place of one that the kubeconfig holds itself.
    /// Nothing is sent yet; an exec plugin is called.
    ///
    /// # Errors
    /// A file cannot be read or makes no sense, or the exec plugin fails or takes too long.
    pub(super) async fn open(
        kubeconfig: &Path,
        certificate: Option<&Path>,
        requests: Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        loop {
            let requests = Arc::clone(&requests);
            if let Some(connection) = Self::open_now(kubeconfig, certificate, requests).await? {
                return Ok(connection);
            }
        }
    }

    /// The same; nothing if a file changes before it is done.
    async fn open_now(
        kubeconfig: &Path,
        certificate: Option<&Path>,
        requests: Arc<AtomicU64>,
    ) -> Result<Option<Self>, Error> {
        let mut files = vec![kubeconfig.to_owned()];
        let mut found = read(kubeconfig)?;
        if let Some(certificate) = certificate {
            files.push(certificate.to_owned());
            show(&mut found, certificate);
        }
        refuse_proxy(&found)?;
        prefer_token_file(&mut found);
        files.extend(named_files(&found));
        // Before they are read, so that a change in between is seen as one.
        let files = Files::look(files);
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(found, &options).await;
        let config =
            config.map_err(|e| Error::away(format!("{}: {}", kubeconfig.display(), chain(&e))))?;
        // An exec plugin is a program that may take its time, or hang.
        let made = async {
            let place = PLUGINS.acquire().await;
            // The place is free once the plugin has ended, which may be long after anybody waits for it.
            tokio::task::spawn_blocking(move || (client(&config), place)).await
        };
        let made = tokio::time::timeout(PLUGIN_TIME, made);
        let client = tokio::select! {
            made = made => made,
            () = files.change() => return Ok(None),
        };
        let client = client.map_err(|_| {
            let path = kubeconfig.display();
            Error::away(format!(
                "{path}: the exec plugin has not answered within {PLUGIN_TIME:?}"
            ))
        })?;
        let (client, _) = client.map_err(|e| Error::away(e.to_string()))?;
        let api = Api::new(client?, requests);
        Ok(Some(Self { api, files }))
    }
}

/// Reads a kubeconfig; the paths in it are meant from its folder.
pub(super) fn read(kubeconfig: &Path) -> Result<Kubeconfig, Error> {
    let found = Kubeconfig::read_from(kubeconfig);
    found.map_err(|e| Error::away(chain(&e)))
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

/// Where a user has both, the token in the file counts while it can be read (Kubernetes, `tokenFile` of a
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

fn refuse_proxy(kubeconfig: &Kubeconfig) -> Result<(), Error> {
    let mut clusters = kubeconfig
        .clusters
        .iter()
        .filter_map(|c| c.cluster.as_ref());
    if clusters.any(|cluster| cluster.proxy_url.is_some()) {
        return Err(Error::away(
            "the kubeconfig has a proxy-url, expected none: podkeeper asks the API server directly",
        ));
    }
    Ok(())
}

/// A client of its own making: the library's usual one tries again by itself and writes a log line
/// for each failure, which are both ours to do.
fn client(config: &Config) -> Result<Client, Error> {
    let wrong = |e: kube::Error| Error::away(chain(&e));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIME));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(KEEPALIVE_LOOKS));
    let connector = config.rustls_https_connector_with_connector(connector);
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIME)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .build::<_, Body>(connector.map_err(wrong)?);
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

    /// Begins to connect by a plugin that hangs for as long as the folder is there, and waits until it does.
    async fn hanging(folder: &TempDir) -> tokio::task::JoinHandle<Result<(), Error>> {
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
            let opened = Connection::open(&path, None, Arc::default()).await;
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
