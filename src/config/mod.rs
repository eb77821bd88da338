//! What the agent was told: flags and `KubeletConfiguration` files, read completely and checked before
//! anything starts.

mod api;
mod configz;
mod file;
mod flags;
mod housekeeping;
mod https;
pub(crate) mod kubelet;
mod life;
mod node;
#[cfg(test)]
mod number_tests;
mod ports;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use reqwest::Url;
use serde::Serialize;
use serde_json::Value;

pub use configz::kubelet_configuration;
pub use flags::{Driver, Flags, Headers, LogFormat};
pub use life::LifeSettings;
pub use node::NodeSettings;
pub use ports::Ports;

use crate::cri::Endpoint;
use crate::host::cgroup::CgroupDriver;
use crate::manifest::is_dns_subdomain;
use crate::node::image_gc;
use crate::node::log_rotation::Rotation;
use crate::source::Sources;
use crate::source::directory::DirectorySource;
use crate::source::url::{Request, UrlSource, shown};
use crate::translate::Paths;
use crate::units::duration::parse_duration;
use file::{Files, Given};

/// Where the running agent's socket is, unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/podkeeper";

/// How often sources of manifests are looked at.
const CHECK_FREQUENCY: Duration = Duration::from_secs(20);

/// What the agent works with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where manifests come from: at least one source.
    pub sources: Sources,
    /// The runtime.
    pub endpoint: Endpoint,
    /// The agent's folders, absolute.
    pub paths: Paths,
    /// The folder of the agent's own socket.
    pub run_dir: PathBuf,
    /// The node's name, lower case.
    pub node_name: String,
    /// Name servers of the cluster.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, or empty.
    pub cluster_domain: String,
    /// The host's resolver configuration, if it is to have one.
    pub resolv_conf: Option<PathBuf>,
    /// Who manages cgroups, where the runtime does not tell.
    pub cgroup_driver: CgroupDriver,
    /// What the node is said to be and to allow.
    pub node: NodeSettings,
    /// Where the agent can be asked over HTTP, besides its own socket.
    pub ports: Ports,
    /// How the node's API is served; `None` if it is not.
    pub https: Option<crate::server::HttpsSettings>,
    /// How Pods are kept alive.
    pub life: LifeSettings,
    /// How containers' logs are rotated.
    pub log_rotation: Rotation,
    /// When images are removed.
    pub image_gc: image_gc::Policy,
    /// How to be at an API server; `None` to be at none.
    pub api_server: Option<crate::mirror::Settings>,
    /// Dear calls of the runtime at a time.
    pub runtime_concurrency: usize,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// The least serious log lines to write.
    pub log_level: tracing::Level,
    /// All settings, for people.
    pub settings: Vec<Setting>,
    /// What was given and is not carried out.
    pub warnings: Vec<String>,
}

/// One setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The flag, without its dashes.
    pub name: &'static str,
    /// The field of the `KubeletConfiguration`, if it has one.
    pub field: Option<&'static str>,
    /// The value, without secrets; empty where there is none.
    pub value: String,
    /// `flag`, `default`, or the file that sets it.
    pub from: String,
    /// It can change without a restart of the agent.
    pub reloadable: bool,
}

/// Who says a value.
#[derive(Debug, Clone)]
enum From {
    Flag(&'static str),
    File(Given),
    Default,
}

impl From {
    /// The same, with the flag to give in place of the default.
    fn or_flag(self, flag: &'static str) -> Self {
        match self {
            Self::Default => Self::Flag(flag),
            given => given,
        }
    }
}

impl fmt::Display for From {
    /// Where to look for the mistake.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::File(given) => f.write_str(&given.place),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Puts flags before files before defaults, and notes where each value came from.
struct Resolver {
    files: Files,
    settings: Vec<Setting>,
    /// The field that goes with each flag.
    fields: BTreeMap<&'static str, &'static str>,
}

impl Resolver {
    /// The value that counts: the flag's; else the file's, by `read`; else the default.
    fn pick<T>(
        &mut self,
        flag: &'static str,
        given: Option<T>,
        field: Option<&'static str>,
        read: impl Fn(&Given) -> Result<T, String>,
    ) -> anyhow::Result<(Option<T>, From)> {
        self.fields.extend(field.map(|field| (flag, field)));
        if let Some(value) = given {
            return Ok((Some(value), From::Flag(flag)));
        }
        let Some(given) = field.and_then(|field| self.files.get(field)) else {
            return Ok((None, From::Default));
        };
        let value = read(given).map_err(|why| anyhow!("{}: {why}", given.place))?;
        Ok((Some(value), From::File(given.clone())))
    }

    fn note(&mut self, name: &'static str, value: impl fmt::Display, from: &From) {
        let reloadable = name.starts_with("manifest-url")
            || matches!(
                name,
                "pod-manifest-path" | "file-check-frequency" | "http-check-frequency" | "log-level"
            );
        self.settings.push(Setting {
            name,
            field: self.fields.get(name).copied(),
            value: value.to_string(),
            from: match from {
                From::Flag(_) => "flag".to_owned(),
                From::Default => "default".to_owned(),
                From::File(given) => given.file.display().to_string(),
            },
            reloadable,
        });
    }

    /// Notes a setting that only a flag can make.
    fn note_flag(&mut self, flag: &'static str, value: String) {
        let from = match value.as_str() {
            "" => From::Default,
            _ => From::Flag(flag),
        };
        self.note(flag, value, &from);
    }

    /// A path that has a default; one in a file is meant from the file's folder.
    fn path(
        &mut self,
        flag: &'static str,
        given: Option<PathBuf>,
        field: Option<&'static str>,
        default: &str,
    ) -> anyhow::Result<PathBuf> {
        let beside = |given: &Given| {
            let folder = given.file.parent().unwrap_or(Path::new("/"));
            Ok(match text(given) {
                none if none.is_empty() => PathBuf::new(),
                path => folder.join(path),
            })
        };
        let (path, from) = self.pick(flag, given, field, beside)?;
        let path = path.unwrap_or_else(|| default.into());
        if path.as_os_str().is_empty() {
            self.note(flag, "", &from);
            return Ok(path);
        }
        let path = absolute(&from, &path)?;
        self.note(flag, path.display(), &from);
        Ok(path)
    }

    /// A path without a default.
    fn optional_path(
        &mut self,
        flag: &'static str,
        given: Option<PathBuf>,
        field: Option<&'static str>,
    ) -> anyhow::Result<Option<PathBuf>> {
        let path = self.path(flag, given, field, "")?;
        Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
    }

    fn period(
        &mut self,
        flag: &'static str,
        given: Option<Duration>,
        field: &'static str,
        default: Duration,
    ) -> anyhow::Result<Duration> {
        let (period, from) = self.duration(flag, given, field, default)?;
        if period.is_zero() {
            bail!("{from}: found 0s, expected a time to wait, such as 20s");
        }
        Ok(period)
    }

    fn duration(
        &mut self,
        flag: &'static str,
        given: Option<Duration>,
        field: &'static str,
        default: Duration,
    ) -> anyhow::Result<(Duration, From)> {
        let read = |given: &Given| parse_duration(&text(given));
        let (duration, from) = self.pick(flag, given, Some(field), read)?;
        let duration = duration.unwrap_or(default);
        if duration.is_zero() {
            self.note(flag, "0s", &from);
        } else {
            self.note(flag, format_args!("{duration:?}"), &from);
        }
        Ok((duration, from))
    }

    fn word(
        &mut self,
        flag: &'static str,
        given: Option<String>,
        field: &'static str,
    ) -> anyhow::Result<String> {
        let (word, from) = self.pick(flag, given, Some(field), |given| Ok(text(given)))?;
        let word = word.unwrap_or_default();
        self.note(flag, &word, &from);
        Ok(word)
    }

    fn switch(
        &mut self,
        flag: &'static str,
        given: Option<bool>,
        field: &'static str,
        default: bool,
    ) -> anyhow::Result<bool> {
        let (on, from) = self.pick(flag, given, Some(field), is_on)?;
        let on = on.unwrap_or(default);
        self.note(flag, on, &from);
        Ok(on)
    }

    fn list(&mut self, flag: &'static str, paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        let from = if paths.is_empty() {
            From::Default
        } else {
            From::Flag(flag)
        };
        let paths = paths.iter().map(|path| absolute(&from, path));
        let paths = paths.collect::<anyhow::Result<Vec<_>>>()?;
        let names: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        self.note(flag, names.join(","), &from);
        Ok(paths)
    }
}

impl Config {
    /// Reads the files that the flags name, checks everything, and fills in what is left open.
    ///
    /// # Errors
    /// Something makes no sense; the message names the flag, or the file, line and field.
    pub fn load(flags: &Flags) -> anyhow::Result<Self> {
        let files = Files::read(flags.config.as_deref(), flags.config_dir.as_deref())?;
        let mut warnings = vec![];
        let without_effect = flags.without_effect.given();
        if !without_effect.is_empty() {
            let what = without_effect.join(", ");
            warnings.push(format!("flags of the kubelet without effect here: {what}"));
        }
        if !files.ignored.is_empty() {
            let what = files.ignored.join(", ");
            warnings.push(format!(
                "fields of the KubeletConfiguration without effect here: {what}"
            ));
        }
        let mut from = Resolver {
            files,
            settings: vec![],
            fields: BTreeMap::new(),
        };

        let (node_name, node_from) = match flags.hostname_override.clone() {
            Some(name) => (node_name(Some(name))?, From::Flag("hostname-override")),
            None => (node_name(None)?, From::Default),
        };
        from.note("hostname-override", &node_name, &node_from);
        let root = from.path(
            "root-dir",
            flags.root_dir.clone(),
            None,
            "/var/lib/podkeeper",
        )?;
        let run_dir = from.path("run-dir", flags.run_dir.clone(), None, DEFAULT_RUN_DIR)?;
        let logs = flags.pod_logs_dir.clone();
        let logs = from.path("pod-logs-dir", logs, Some("podLogsDir"), "/var/log/pods")?;
        let container_logs = flags.container_logs_dir.clone();
        let default = "/var/log/containers";
        let container_logs = from.path("container-logs-dir", container_logs, None, default)?;
        let sources = sources(&mut from, flags, &node_name, &root)?;
        let endpoint = endpoint(&mut from, flags)?;
        let cluster_dns = cluster_dns(&mut from, flags)?;
        let cluster_domain = flags.cluster_domain.clone();
        let cluster_domain = from.word("cluster-domain", cluster_domain, "clusterDomain")?;
        let resolv_conf = flags.resolv_conf.clone();
        let field = Some("resolvConf");
        let resolv_conf = from.path("resolv-conf", resolv_conf, field, "/etc/resolv.conf")?;
        let resolv_conf = Some(resolv_conf).filter(|path| !path.as_os_str().is_empty());
        let cgroup_driver = cgroup_driver(&mut from, flags)?;
        let node = NodeSettings::load(&mut from, flags)?;
        let ports = Ports::load(&mut from, flags)?;
        warnings.extend(ports.warning());
        let https = https::load(&mut from, flags, flags.kubeconfig.is_some())?;
        warnings.extend(https.as_ref().and_then(https::warning));
        let log_rotation = housekeeping::log_rotation(&mut from, flags)?;
        let image_gc = housekeeping::image_gc(&mut from, flags)?;
        let port = https.as_ref().map(|https| https.address.port());
        let api_server = api::load(&mut from, flags, port)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let concurrency = flags.runtime_concurrency.map(usize::from);
        let at = concurrency.map_or(From::Default, |_| From::Flag("runtime-concurrency"));
        let runtime_concurrency = concurrency.unwrap_or(cores.saturating_mul(2));
        from.note("runtime-concurrency", runtime_concurrency, &at);
        let life = LifeSettings::load(&mut from, flags)?;
        let (log_format, log_level) = logging(&mut from, flags)?;
        from.settings.sort_by_key(|setting| setting.name);
        Ok(Self {
            sources,
            endpoint,
            paths: Paths {
                root,
                logs,
                container_logs,
                ..Paths::default()
            },
            run_dir,
            node_name,
            cluster_dns,
            cluster_domain,
            resolv_conf,
            cgroup_driver,
            node,
            ports,
            https,
            life,
            log_rotation,
            image_gc,
            api_server,
            runtime_concurrency,
            log_format,
            log_level,
            settings: from.settings,
            warnings,
        })
    }
}

fn sources(
    from: &mut Resolver,
    flags: &Flags,
    node_name: &str,
    root: &Path,
) -> anyhow::Result<Sources> {
    let path = flags.pod_manifest_path.clone();
    let path = from.optional_path("pod-manifest-path", path, Some("staticPodPath"))?;
    let rescan = flags.file_check_frequency;
    let field = "fileCheckFrequency";
    let rescan = from.period("file-check-frequency", rescan, field, CHECK_FREQUENCY)?;
    let directory = path.map(|path| DirectorySource {
        path,
        node_name: node_name.to_owned(),
        rescan,
        state: Sources::directory_state(root),
    });

    let (url, at) = from.pick(
        "manifest-url",
        flags.manifest_url.clone(),
        Some("staticPodURL"),
        |given| Ok(text(given)),
    )?;
    let url = url
        .filter(|url| !url.is_empty())
        .map(|url| parse_url(&url, &at))
        .transpose()?;
    from.note(
        "manifest-url",
        url.as_ref().map(shown).unwrap_or_default(),
        &at,
    );
    let headers = headers(from, flags)?;
    let period = from.period(
        "http-check-frequency",
        flags.http_check_frequency,
        "httpCheckFrequency",
        CHECK_FREQUENCY,
    )?;
    let mut file = |flag, path: &Option<PathBuf>| from.optional_path(flag, path.clone(), None);
    let request = Request {
        ca_file: file("manifest-url-ca-file", &flags.manifest_url_ca_file)?,
        client_cert: file(
            "manifest-url-client-cert-file",
            &flags.manifest_url_client_cert_file,
        )?,
        client_key: file(
            "manifest-url-client-key-file",
            &flags.manifest_url_client_key_file,
        )?,
        token_file: file("manifest-url-token-file", &flags.manifest_url_token_file)?,
        headers,
        ..Request::default()
    };
    let public_keys = from.list("manifest-url-public-key", &flags.manifest_url_public_key)?;
    if url.is_none() {
        let given = |setting: &&Setting| {
            setting.from == "flag" && setting.name.starts_with("manifest-url-")
        };
        if let Some(setting) = from.settings.iter().find(given) {
            bail!(
                "--{}: expected --manifest-url (or staticPodURL) beside it",
                setting.name
            );
        }
    }
    let url = url.map(|url| UrlSource {
        url,
        request,
        public_keys,
        period,
        node_name: node_name.to_owned(),
        state: Sources::url_state(root),
    });
    if directory.is_none() && url.is_none() {
        bail!(
            "there are no manifests to run: give --pod-manifest-path=DIRECTORY, --manifest-url=URL, or \
             a --config file with staticPodPath or staticPodURL"
        );
    }
    Ok(Sources { directory, url })
}

/// A flag's headers win over the file's altogether.
fn headers(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Headers> {
    let given = (!flags.manifest_url_header.is_empty()).then(|| flags.manifest_url_header.concat());
    let read = |given: &Given| {
        let mut headers = vec![];
        for (name, values) in given.value.as_object().into_iter().flatten() {
            for value in values
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                headers.push(flags::header(name, value)?);
            }
        }
        Ok(headers)
    };
    let (headers, at) = from.pick(
        "manifest-url-header",
        given,
        Some("staticPodURLHeader"),
        read,
    )?;
    let headers: Headers = headers.unwrap_or_default();
    let names: Vec<_> = headers
        .iter()
        .map(|(name, _)| format!("{name}: <hidden>"))
        .collect();
    from.note("manifest-url-header", names.join(", "), &at);
    Ok(headers)
}

fn parse_url(text: &str, from: &From) -> anyhow::Result<Url> {
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // Not as it was found: it may hold a password.
    url.ok_or_else(|| {
        let scheme = text.split(':').next().unwrap_or_default();
        anyhow!("{from}: found a URL that begins with {scheme:?}, expected one such as https://example.com/pods.yaml")
    })
}

fn endpoint(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Endpoint> {
    let given = flags.container_runtime_endpoint.clone();
    let field = Some("containerRuntimeEndpoint");
    let (endpoint, at) = from.pick("container-runtime-endpoint", given, field, |given| {
        text(given).parse()
    })?;
    let endpoint = endpoint.unwrap_or_else(Endpoint::find);
    from.note("container-runtime-endpoint", &endpoint, &at);
    Ok(endpoint)
}

fn cluster_dns(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Vec<IpAddr>> {
    let given = (!flags.cluster_dns.is_empty()).then(|| flags.cluster_dns.clone());
    let read = |given: &Given| {
        let texts = given
            .value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let address = |text: &str| {
            text.parse()
                .map_err(|_| format!("found {text:?}, expected an IP address"))
        };
        texts.map(address).collect()
    };
    let (servers, at) = from.pick("cluster-dns", given, Some("clusterDNS"), read)?;
    let servers: Vec<IpAddr> = servers.unwrap_or_default();
    let texts: Vec<_> = servers.iter().map(ToString::to_string).collect();
    from.note("cluster-dns", texts.join(","), &at);
    Ok(servers)
}

fn cgroup_driver(from: &mut Resolver, flags: &Flags) -> anyhow::Result<CgroupDriver> {
    let read = |given: &Given| {
        Ok(if given.value == "systemd" {
            Driver::Systemd
        } else {
            Driver::Cgroupfs
        })
    };
    let (driver, at) = from.pick(
        "cgroup-driver",
        flags.cgroup_driver,
        Some("cgroupDriver"),
        read,
    )?;
    let (driver, name) = match driver {
        Some(Driver::Systemd) => (CgroupDriver::Systemd, "systemd"),
        Some(Driver::Cgroupfs) | None => (CgroupDriver::Cgroupfs, "cgroupfs"),
    };
    from.note("cgroup-driver", name, &at);
    Ok(driver)
}

fn logging(from: &mut Resolver, flags: &Flags) -> anyhow::Result<(LogFormat, tracing::Level)> {
    let read = |given: &Given| {
        Ok(if given.value == "json" {
            LogFormat::Json
        } else {
            LogFormat::Text
        })
    };
    let (format, at) = from.pick("log-format", flags.log_format, Some("logging.format"), read)?;
    let format = format.unwrap_or_default();
    from.note("log-format", format!("{format:?}").to_lowercase(), &at);

    let of_flags = flags.log_level.or(flags.verbosity.map(|v| level(v.into())));
    let read = |given: &Given| Ok(level(given.value.as_u64().unwrap_or_default()));
    let (found, at) = from.pick("log-level", of_flags, Some("logging.verbosity"), read)?;
    let found = found.unwrap_or(tracing::Level::INFO);
    from.note("log-level", found.to_string().to_lowercase(), &at);
    Ok((format, found))
}

/// The kubelet's verbosity in our levels.
fn level(verbosity: u64) -> tracing::Level {
    match verbosity {
        0..4 => tracing::Level::INFO,
        4..8 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    }
}

/// Whether a field that is true or false is true; reading the file has seen to its type.
#[allow(
    clippy::unnecessary_wraps,
    reason = "one of several ways to read a field"
)]
fn is_on(given: &Given) -> Result<bool, String> {
    Ok(given.value == Value::Bool(true))
}

fn text(given: &Given) -> String {
    given.value.as_str().unwrap_or_default().to_owned()
}

/// However it is written, with a slash at its end or not, it is the same path.
fn absolute(from: &From, path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path);
    let absolute = absolute.with_context(|| format!("{from}: {}", path.display()))?;
    Ok(absolute.components().collect())
}

/// The node's name: as given, or the machine's host name; trimmed and in lower case.
///
/// # Errors
/// It is no name that Pods' names can end in (RFC 1123 subdomain).
pub fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let name = given.unwrap_or_else(|| {
        let uname = rustix::system::uname();
        uname.nodename().to_string_lossy().into_owned()
    });
    let name = name.trim().to_lowercase();
    if !is_dns_subdomain(&name) {
        bail!(
            "--hostname-override: found {name:?}, expected letters, digits, '-' and '.', such as node1.example.com"
        );
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn config(line: &str) -> anyhow::Result<Config> {
        let words = std::iter::once("podkeeper").chain(line.split_whitespace());
        Config::load(&Line::try_parse_from(words)?.flags)
    }

    /// The configuration of flags, and of fields of a file.
    pub(super) fn with_fields(flags: &str, fields: &str) -> anyhow::Result<Config> {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        let file = format!("{head}{fields}\n");
        let line = format!("--pod-manifest-path=/m --config=@/c {flags}");
        with_files(&[("c", &file)], &line)
    }

    /// The configuration of files by their names, and the flags `line`, in which `@` is their folder.
    fn with_files(files: &[(&str, &str)], line: &str) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let at = folder.path().display().to_string();
        let config = config(&line.replace('@', &at))
            .map_err(|error| anyhow!("{}", format!("{error:#}").replace(&at, "@")));
        config.map(|mut config| {
            for setting in &mut config.settings {
                setting.from = setting.from.replace(&at, "@");
                setting.value = setting.value.replace(&at, "@");
            }
            config
        })
    }

    fn kubelet(fields: &str) -> String {
        format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}")
    }

    /// A setting as `value from`.
    fn setting(config: &Config, name: &str) -> String {
        let found = config.settings.iter().find(|setting| setting.name == name);
        let found = found.unwrap_or_else(|| panic!("no setting {name}"));
        format!("{} {}", found.value, found.from)
    }

    fn directory(config: &Config) -> &DirectorySource {
        config.sources.directory.as_ref().unwrap()
    }

    fn url(config: &Config) -> &UrlSource {
        config.sources.url.as_ref().unwrap()
    }

    #[test]
    fn flags_are_taken_in_both_forms_as_the_kubelet_spells_them() {
        for line in [
            "--pod-manifest-path=/m/ --file-check-frequency=1m30s --cluster-dns=10.254.0.10 \
             --cluster-domain=kube.local --hostname-override=My-Node1 --root-dir=/r \
             --container-runtime-endpoint=unix:///c.sock --manifest-url=http://h/p --v=4 \
             --http-check-frequency=5s --manifest-url-header=a:1,b:2 --manifest-url-header=a:3",
            "--pod-manifest-path /m/ --file-check-frequency 1m30s --cluster-dns 10.254.0.10 \
             --cluster-domain kube.local --hostname-override My-Node1 --root-dir /r \
             --container-runtime-endpoint unix:///c.sock --manifest-url http://h/p -v 4 \
             --http-check-frequency 5s --manifest-url-header a:1,b:2 --manifest-url-header a:3",
        ] {
            let config = config(line).unwrap();
            assert_eq!(directory(&config).path, PathBuf::from("/m"));
            assert_eq!(directory(&config).rescan, Duration::from_secs(90));
            assert_eq!(
                config.cluster_dns,
                ["10.254.0.10".parse::<IpAddr>().unwrap()]
            );
            assert_eq!(config.cluster_domain, "kube.local");
            assert_eq!(config.node_name, "my-node1");
            assert_eq!(config.paths.root, PathBuf::from("/r"));
            assert_eq!(config.endpoint.to_string(), "unix:///c.sock");
            assert_eq!(config.log_level, tracing::Level::DEBUG);
            let url = url(&config);
            assert_eq!(url.url.as_str(), "http://h/p");
            assert_eq!(url.period, Duration::from_secs(5));
            let headers = url.request.headers.iter();
            let headers =
                headers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
            assert_eq!(headers.collect::<Vec<_>>(), ["a=1", "b=2", "a=3"]);
            assert_eq!(config.warnings, [""; 0]);
        }
    }

    #[test]
    fn the_command_line_of_the_promise_is_taken_as_written() {
        let config = config(
            "--cluster-dns=10.254.0.10 --cluster-domain=kube.local \
             --pod-manifest-path=/etc/kubelet.d/ --manifest-url=http://h/pods.yaml",
        );
        let config = config.unwrap();
        assert_eq!(directory(&config).path, PathBuf::from("/etc/kubelet.d"));
        assert_eq!(url(&config).url.as_str(), "http://h/pods.yaml");
        assert_eq!(setting(&config, "http-check-frequency"), "20s default");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_flags_name() {
        for (line, expected) in [
            (
                "",
                "there are no manifests to run: give --pod-manifest-path=DIRECTORY",
            ),
            (
                "--pod-manifest-path=/m --file-check-frequency=0s",
                "--file-check-frequency: found 0s",
            ),
            (
                "--pod-manifest-path=/m --file-check-frequency=fast",
                "--file-check-frequency",
            ),
            ("--pod-manifest-path=/m --cluster-dns=here", "--cluster-dns"),
            (
                "--pod-manifest-path=/m --hostname-override=a_b",
                "--hostname-override",
            ),
            (
                "--pod-manifest-path=/m --container-runtime-endpoint=x",
                "--container-runtime-endpoint",
            ),
            (
                "--pod-manifest-path=/m --runtime-concurrency=0",
                "--runtime-concurrency",
            ),
            (
                "--manifest-url=ftp://user:secret@h/x",
                "--manifest-url: found a URL that begins with \"ftp\"",
            ),
            ("--manifest-url=/pods.yaml", "--manifest-url: found a URL"),
            (
                "--manifest-url=http://h --manifest-url-header=secret",
                "expected NAME:VALUE",
            ),
            (
                "--manifest-url=http://h --manifest-url-header=a b:1",
                "--manifest-url-header",
            ),
            (
                "--pod-manifest-path=/m --manifest-url-ca-file=/c",
                "--manifest-url-ca-file: expected --manifest-url",
            ),
            (
                "--manifest-url=http://h --manifest-url-client-key-file=/k",
                "--manifest-url-client-cert-file",
            ),
            (
                "--pod-manifest-path=/m --container-log-max-size=big",
                "--container-log-max-size: found \"big\", expected a size such as 10Mi",
            ),
            (
                "--pod-manifest-path=/m --container-log-max-size=0",
                "--container-log-max-size: found \"0\", expected a size such as 10Mi",
            ),
            (
                "--pod-manifest-path=/m --container-log-max-files=1",
                "--container-log-max-files",
            ),
            (
                "--pod-manifest-path=/m --container-log-monitor-interval=0s",
                "--container-log-monitor-interval: found 0s",
            ),
            (
                "--pod-manifest-path=/m --image-gc-high-threshold=101",
                "--image-gc-high-threshold",
            ),
            (
                "--pod-manifest-path=/m --image-gc-high-threshold=80",
                "--image-gc-low-threshold: found 80, expected less than the high threshold, 80",
            ),
            (
                "--pod-manifest-path=/m --image-maximum-gc-age=2m",
                "--image-maximum-gc-age: found 120s, expected more than the minimum age, 120s",
            ),
            (
                "--pod-manifest-path=/m --bootstrap-kubeconfig=/b",
                "--bootstrap-kubeconfig: expected --kubeconfig",
            ),
            (
                "--pod-manifest-path=/m --kubeconfig=/k --register-with-taints=a=b:Sometimes",
                "--register-with-taints: found \"a=b:Sometimes\", expected KEY=VALUE:EFFECT",
            ),
            ("--config=/nowhere/c.yaml", "cannot read /nowhere/c.yaml"),
            (
                "--pod-manifest-path=/m --config-dir=/nowhere",
                "--config-dir: cannot read /nowhere",
            ),
        ] {
            let error = format!("{:#}", config(line).unwrap_err());
            assert!(error.contains(expected), "{line}: {error}");
            assert!(!error.contains("user:secret"), "{error}");
        }
    }

    /// As kubeadm 1.34 writes it, with a URL.
    const KUBEADM: &str = "\
authentication:
  anonymous:
    enabled: false
authorization:
  mode: Webhook
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: \"\"
cpuManagerReconcilePeriod: 0s
fileCheckFrequency: 0s
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging:
  flushFrequency: 0
  verbosity: 0
resolvConf: /run/systemd/resolve/resolv.conf
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
staticPodURL: https://h/pods.yaml
staticPodURLHeader:
  X-Node: [one, two]
";

    #[test]
    fn an_empty_resolver_configuration_is_none() {
        let default = with_fields("", "").unwrap();
        let default = default.resolv_conf.unwrap();
        assert_eq!(default, Path::new("/etc/resolv.conf"));
        let of_file = with_fields("", "resolvConf: \"\"").unwrap();
        assert_eq!(of_file.resolv_conf, None);
        assert_eq!(setting(&of_file, "resolv-conf"), " @/c");
        let of_flag = with_fields("--resolv-conf=", "resolvConf: /r").unwrap();
        assert_eq!(of_flag.resolv_conf, None);
    }

    #[test]
    fn a_kubeadm_node_starts_as_it_is() {
        let config = with_files(
            &[("config.yaml", &kubelet(KUBEADM))],
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
             --kubeconfig=/etc/kubernetes/kubelet.conf --config=@/config.yaml \
             --container-runtime-endpoint=unix:///run/containerd/containerd.sock --node-ip=10.0.0.7 \
             --pod-infra-container-image=registry.k8s.io/pause:3.10 --register-node=false \
             --hostname-override=node1",
        );
        let config = config.unwrap();
        for (name, expected) in [
            (
                "pod-manifest-path",
                "/etc/kubernetes/manifests @/config.yaml",
            ),
            ("manifest-url", "https://h/pods.yaml @/config.yaml"),
            (
                "manifest-url-header",
                "x-node: <hidden>, x-node: <hidden> @/config.yaml",
            ),
            ("file-check-frequency", "20s default"),
            ("http-check-frequency", "20s default"),
            ("cluster-dns", "10.96.0.10 @/config.yaml"),
            ("cluster-domain", "cluster.local @/config.yaml"),
            (
                "resolv-conf",
                "/run/systemd/resolve/resolv.conf @/config.yaml",
            ),
            ("cgroup-driver", "systemd @/config.yaml"),
            (
                "container-runtime-endpoint",
                "unix:///run/containerd/containerd.sock flag",
            ),
            ("log-level", "info default"),
            ("minimum-image-ttl-duration", "120s default"),
            ("image-maximum-gc-age", "0s default"),
        ] {
            assert_eq!(setting(&config, name), expected, "{name}");
        }
        assert_eq!(setting(&config, "node-ip"), "10.0.0.7 flag");
        assert_eq!(config.cgroup_driver, CgroupDriver::Systemd);
        assert_eq!(config.warnings.len(), 2, "{:#?}", config.warnings);
        assert_eq!(
            config.warnings[0],
            "flags of the kubelet without effect here: --pod-infra-container-image (the sandbox's image \
             is a setting of the runtime)"
        );
        assert_eq!(
            config.warnings[1],
            "fields of the KubeletConfiguration without effect here: cpuManagerReconcilePeriod, \
             logging.flushFrequency"
        );
        for (name, expected) in [
            ("kubeconfig", "/etc/kubernetes/kubelet.conf flag"),
            (
                "bootstrap-kubeconfig",
                "/etc/kubernetes/bootstrap-kubelet.conf flag",
            ),
            ("rotate-certificates", "true @/config.yaml"),
            ("register-node", "false flag"),
        ] {
            assert_eq!(setting(&config, name), expected, "{name}");
        }
    }

    #[test]
    fn an_api_server_is_asked_only_where_a_kubeconfig_tells_the_way() {
        let none = config("--pod-manifest-path=/m").unwrap();
        assert_eq!(none.api_server, None);
        assert_eq!(setting(&none, "register-node"), "false default");
        let line = "--pod-manifest-path=/m --kubeconfig=/k";
        let api = config(line).unwrap().api_server.unwrap();
        assert!(api.register_node && !api.rotate_certificates);
        let taint = |taint: &k8s_openapi::api::core::v1::Taint| {
            let value = taint.value.clone().unwrap_or_default();
            format!("{}={value}:{}", taint.key, taint.effect)
        };
        let taints = |config: crate::mirror::Settings| -> Vec<String> {
            config.taints.iter().map(taint).collect()
        };
        assert_eq!(taints(api), ["podkeeper.io/static-only=:NoSchedule"]);
        let given = format!("{line} --register-with-taints=a=b:NoExecute,c:PreferNoSchedule");
        let api = config(&given).unwrap().api_server.unwrap();
        assert_eq!(taints(api), ["a=b:NoExecute", "c=:PreferNoSchedule"]);
        let file = "registerNode: false\nnodeLeaseDurationSeconds: 60\nregisterWithTaints:\n\
                    - {key: a, value: b, effect: NoExecute}\n- {key: c, effect: PreferNoSchedule}\n";
        let told = tests::with_fields("--kubeconfig=/k", file).unwrap();
        let told = told.api_server.unwrap();
        assert!(!told.register_node);
        assert_eq!(told.lease_seconds, 60);
        assert_eq!(taints(told), ["a=b:NoExecute", "c=:PreferNoSchedule"]);
        let told = tests::with_fields("--kubeconfig=/k", "registerWithTaints: []").unwrap();
        assert_eq!(taints(told.api_server.unwrap()), [""; 0]);
        for (field, expected) in [
            ("registerWithTaints: [a]", "expected a list of taints"),
            (
                "registerWithTaints: [{key: a, effect: Never}]",
                "registerWithTaints: found \"a:Never\", expected KEY=VALUE:EFFECT",
            ),
            (
                "nodeLeaseDurationSeconds: 4000000000",
                "expected a smaller number",
            ),
        ] {
            let error = tests::with_fields("--kubeconfig=/k", field).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected), "{error}");
        }
        let none = config(&format!("{line} --register-with-taints=")).unwrap();
        assert_eq!(taints(none.api_server.unwrap()), [""; 0]);
        let api = config(&format!("{line} --bootstrap-kubeconfig=/b")).unwrap();
        assert!(api.api_server.unwrap().rotate_certificates);
    }

    #[test]
    fn flags_win_over_drop_ins_and_they_over_the_file() {
        let config = with_files(
            &[
                (
                    "config.yaml",
                    &kubelet(
                        "staticPodPath: pods\nclusterDomain: a\nhttpCheckFrequency: 1s\nstaticPodURLHeader: {a: ['1'], b: ['1']}\n",
                    ),
                ),
                (
                    "conf.d/20-b.conf",
                    "{\"apiVersion\": \"kubelet.config.k8s.io/v1beta1\", \"kind\": \"KubeletConfiguration\", \"clusterDomain\": \"c\", \"staticPodURLHeader\": {\"b\": [\"2\"]}}",
                ),
                (
                    "conf.d/10-a.conf",
                    &kubelet("clusterDomain: b\nhttpCheckFrequency: 2s\n"),
                ),
                ("conf.d/30-c.yaml", "not looked at"),
            ],
            "--config=@/config.yaml --config-dir=@/conf.d --manifest-url=http://h/ --http-check-frequency=3s",
        );
        let config = config.unwrap();
        assert_eq!(
            setting(&config, "pod-manifest-path"),
            "@/pods @/config.yaml"
        );
        assert_eq!(setting(&config, "cluster-domain"), "c @/conf.d/20-b.conf");
        assert_eq!(setting(&config, "http-check-frequency"), "3s flag");
        let headers = url(&config).request.headers.iter();
        let headers = headers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        assert_eq!(headers.collect::<Vec<_>>(), ["a=1", "b=2"]);
    }

    #[test]
    fn housekeeping_is_set_as_the_kubelets_is() {
        let defaults = config("--pod-manifest-path=/m").unwrap();
        let rotation = Rotation {
            max_size: Some(10 << 20),
            max_files: 5,
            interval: Duration::from_secs(10),
        };
        let policy = image_gc::Policy {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            max_age: None,
        };
        assert_eq!(defaults.log_rotation, rotation);
        assert_eq!(defaults.image_gc, policy);
        let links = &defaults.paths.container_logs;
        assert_eq!(links, Path::new("/var/log/containers"));
        let file = "containerLogMaxSize: 1M\ncontainerLogMaxFiles: 3\ncontainerLogMonitorInterval: 3s\n\
                    imageGCHighThresholdPercent: 9\nimageGCLowThresholdPercent: 0\n\
                    imageMinimumGCAge: 1m\nimageMaximumGCAge: 24h\n";
        let given = with_files(
            &[("config.yaml", &kubelet(file))],
            "--config=@/config.yaml --pod-manifest-path=/m --container-logs-dir=/links",
        );
        let given = given.unwrap();
        let rotation = Rotation {
            max_size: Some(1_000_000),
            max_files: 3,
            interval: Duration::from_secs(3),
        };
        let policy = image_gc::Policy {
            high_percent: 9,
            low_percent: 0,
            min_age: Duration::from_secs(60),
            max_age: Some(Duration::from_secs(24 * 3600)),
        };
        assert_eq!(given.log_rotation, rotation);
        assert_eq!(given.image_gc, policy);
        assert_eq!(given.paths.container_logs, Path::new("/links"));
        assert_eq!(given.warnings, [""; 0]);
        for (line, name, expected) in [
            (
                "--container-log-max-size=1Gi",
                "container-log-max-size",
                "1Gi",
            ),
            (
                "--container-log-max-size=-1",
                "container-log-max-size",
                "-1",
            ),
            (
                "--container-log-max-size -1",
                "container-log-max-size",
                "-1",
            ),
            (
                "--container-log-max-files=9",
                "container-log-max-files",
                "9",
            ),
            (
                "--image-gc-high-threshold=100",
                "image-gc-high-threshold",
                "100",
            ),
            ("--image-gc-low-threshold=0", "image-gc-low-threshold", "0"),
            (
                "--minimum-image-ttl-duration=0s",
                "minimum-image-ttl-duration",
                "0s",
            ),
            (
                "--image-maximum-gc-age=48h",
                "image-maximum-gc-age",
                "172800s",
            ),
        ] {
            let given = config(&format!("--pod-manifest-path=/m {line}")).unwrap();
            assert_eq!(setting(&given, name), format!("{expected} flag"), "{line}");
        }
        let never = config("--pod-manifest-path=/m --container-log-max-size=-1").unwrap();
        assert_eq!(never.log_rotation.max_size, None);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_place() {
        for (text, expected) in [
            (
                kubelet("staticPodPath: 7\n"),
                "@/c:3:16: staticPodPath: found 7, expected a string",
            ),
            (
                kubelet("clusterDNS: 10.0.0.1\n"),
                "@/c:3:13: clusterDNS: found \"10.0.0.1\", expected a list of strings",
            ),
            (
                kubelet("clusterDNS: [here]\n"),
                "@/c:3:13: clusterDNS: found \"here\", expected an IP address",
            ),
            (
                kubelet("httpCheckFrequency: 20\n"),
                "@/c:3:21: httpCheckFrequency: found 20, expected a duration",
            ),
            (
                kubelet("httpCheckFrequency: fast\n"),
                "@/c:3:21: httpCheckFrequency: found \"fast\", expected a duration",
            ),
            (
                kubelet("cgroupDriver: none\n"),
                "@/c:3:15: cgroupDriver: found \"none\", expected one of cgroupfs, systemd",
            ),
            (
                kubelet("logging: {format: xml}\n"),
                "@/c:3:19: logging.format: found \"xml\", expected one of text, json",
            ),
            (
                kubelet("staticPodURL: ftp://h/\n"),
                "@/c:3:15: staticPodURL: found a URL that begins with \"ftp\"",
            ),
            (
                kubelet("staticPodURLHeader: {a: secret}\n"),
                "@/c:3:21: staticPodURLHeader: expected a list of strings for each header",
            ),
            (
                kubelet("containerRuntimeEndpoint: tcp://h\n"),
                "@/c:3:27: containerRuntimeEndpoint: found \"tcp://h\", expected the runtime's Unix socket",
            ),
            (
                kubelet("containerLogMaxSize: lots\n"),
                "@/c:3:22: containerLogMaxSize: found \"lots\", expected a size such as 10Mi",
            ),
            (
                kubelet("containerLogMaxFiles: 1\n"),
                "@/c:3:23: containerLogMaxFiles: found 1, expected a number, 2 or more",
            ),
            (
                kubelet("imageGCLowThresholdPercent: 120\n"),
                "@/c:3:29: imageGCLowThresholdPercent: found 120, expected a number from 0 to 100",
            ),
            (
                kubelet("imageGCHighThresholdPercent: 50\nimageGCLowThresholdPercent: 60\n"),
                "@/c:4:29: imageGCLowThresholdPercent: found 60, expected less than the high threshold, 50",
            ),
            (
                kubelet("clusterDomain: a\nclusterDomain: b\n"),
                "@/c:4:1: clusterDomain: the field is given twice",
            ),
            (
                "kind: KubeletConfiguration\n".to_owned(),
                "@/c:1:1: apiVersion: missing, expected \"kubelet.config.k8s.io/v1beta1\"",
            ),
            (
                kubelet("").replace("v1beta1", "v1"),
                "@/c:1:13: apiVersion: found \"kubelet.config.k8s.io/v1\", expected",
            ),
            ("[]".to_owned(), "@/c:1:1: expected a KubeletConfiguration"),
            (
                String::new(),
                "@/c: found nothing in the file, expected a KubeletConfiguration",
            ),
            ("a: [".to_owned(), "@/c:"),
        ] {
            let error = with_files(&[("c", &text)], "--config=@/c --pod-manifest-path=/m");
            let error = error
                .err()
                .unwrap_or_else(|| panic!("{text} was taken"))
                .to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let config = with_files(
            &[("c", &kubelet("staticPodPaht: /m\npodsPerCore: 3\n"))],
            "--config=@/c --pod-manifest-path=/m",
        );
        let limited = with_files(
            &[("c", &kubelet("maxPods: 3\n"))],
            "--config=@/c --pod-manifest-path=/m",
        );
        assert_eq!(limited.unwrap().node.max_pods, 3);
        let warning = "fields of the KubeletConfiguration without effect here: podsPerCore, \
                       staticPodPaht (did you mean staticPodPath?)";
        assert_eq!(config.unwrap().warnings, [warning]);
    }

    #[test]
    fn a_flag_of_the_kubelet_that_is_not_there_is_known_by_name_and_no_flag_is_listed_twice() {
        use clap::CommandFactory;
        for flag in [
            "--memory-manager-policy=Static",
            "--rotate-server-certificates=true",
            "--eviction-hard=memory.available<5%",
        ] {
            let advice = kubelet::advice(flag).unwrap();
            assert!(
                advice.contains("is a flag of the kubelet that podkeeper does not have"),
                "{advice}"
            );
            assert!(advice.contains("leave it out"), "{advice}");
        }
        assert_eq!(kubelet::advice("--no-such-flag"), None);
        for argument in Line::command().get_arguments() {
            let flag = format!("--{}", argument.get_long().unwrap_or_default());
            assert_eq!(kubelet::advice(&flag), None, "{flag} is there");
        }
    }
}
