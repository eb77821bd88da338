//! The agent's configuration: flags and `KubeletConfiguration` files, read and checked completely before
//! anything starts.
//!
//! [`table`] defines every setting once. [`flags`] and [`file`] read what is given, [`values`] picks the value
//! in force of each setting, and [`Config::load`] puts them together to what the agent's parts take.
//! Nothing here starts anything, and reading the configuration again is the same as reading it first.

mod api;
mod configz;
mod credential_providers;
mod file;
mod flags;
mod housekeeping;
mod https;
mod kubelet;
mod life;
mod node;
mod ports;
mod setting;
mod shutdown;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod value_type;
mod values;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::bail;

pub use configz::kubelet_configuration;
pub use flags::Flags;
pub use life::LifeSettings;
pub use node::NodeSettings;
pub use ports::Ports;
pub use setting::Setting;

use crate::cri::Endpoint;
use crate::host::cgroup::CgroupDriver;
use crate::image::credentials::CredentialProvider;
use crate::manifest::is_dns_subdomain;
use crate::node::image_gc;
use crate::node::log_rotation::Rotation;
use crate::pod::shutdown::ShutdownPeriods;
use crate::source::Sources;
use crate::translate::{CgroupRoot, Paths};
use file::ConfigFields;
use values::{Inputs, Values};

/// Directory of the running agent's socket, unless set otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/podkeeper";

/// The agent's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sources of manifests.
    pub sources: Sources,
    /// Socket of the runtime.
    pub endpoint: Endpoint,
    /// The agent's directories, absolute.
    pub paths: Paths,
    /// Directory of the agent's own socket.
    pub run_dir: PathBuf,
    /// Name of the node, in lower case.
    pub node_name: String,
    /// DNS servers of the cluster.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, or empty.
    pub cluster_domain: String,
    /// Resolver configuration of the host; `None` if there is none.
    pub resolv_conf: Option<PathBuf>,
    /// Manager of cgroups, where the runtime does not report it.
    pub cgroup_driver: CgroupDriver,
    /// The cgroup that those of Pods are below.
    pub cgroup_root: CgroupRoot,
    /// Properties of the node, and limits for its Pods.
    pub node: NodeSettings,
    /// HTTP ports besides the agent's own socket.
    pub ports: Ports,
    /// The node's API; `None` if it is not served.
    pub https: Option<crate::server::HttpsSettings>,
    /// Restart back-off and rollback.
    pub life: LifeSettings,
    /// Programs that give credentials for registries.
    pub credential_providers: Vec<CredentialProvider>,
    /// Periods in which Pods are stopped before the machine shuts down; `None` if they are not.
    pub shutdown: Option<ShutdownPeriods>,
    /// Rotation of containers' logs.
    pub log_rotation: Rotation,
    /// Garbage collection of images.
    pub image_gc: image_gc::Policy,
    /// The API server; `None` if there is none.
    pub api_server: Option<crate::mirror::ApiServerSettings>,
    /// Maximum number of expensive calls of the runtime at a time.
    pub runtime_concurrency: Option<usize>,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Minimum level of log lines.
    pub log_level: tracing::Level,
    /// All settings by name, for people.
    pub settings: Vec<Setting>,
    /// Flags and fields that are given and have no effect, and settings that expose the node.
    pub warnings: Vec<String>,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

impl Config {
    /// Reads the files that the flags name, checks everything, and adds the defaults.
    ///
    /// # Errors
    /// A setting is invalid, or there is no source of manifests; the message names the flag, or the file, line and field.
    pub fn load(flags: &Flags) -> anyhow::Result<Self> {
        let config = Self::load_without_sources(flags)?;
        sources::require(&config.sources)?;
        Ok(config)
    }

    /// Does the same for what needs no source of manifests.
    ///
    /// # Errors
    /// A setting is invalid.
    pub fn load_without_sources(flags: &Flags) -> anyhow::Result<Self> {
        let files = ConfigFields::read(flags.config.as_deref(), flags.config_dir.as_deref())?;
        let values = &Values::resolve(&Inputs {
            flags: &flags.settings,
            files: &files,
        });
        let node_name = node_name(Some(values.get("hostname-override").text()))?;
        let paths = Paths {
            root: values.get("root-dir").path()?,
            logs: values.get("pod-logs-dir").path()?,
            container_logs: values.get("container-logs-dir").path()?,
            ..Paths::default()
        };
        let sources = sources::load(values, &node_name, &paths.root)?;
        let ports = Ports::load(values)?;
        let https = https::load(values)?;
        let port = https.as_ref().map(|https| https.address.port());
        let mut warnings = without_effect(flags, &files)?;
        let credential_providers = credential_providers::load(values)?;
        warnings.extend(credential_providers::warnings(&credential_providers));
        warnings.extend(ports.warning());
        warnings.extend(https.as_ref().and_then(https::warning));
        Ok(Self {
            sources,
            endpoint: values
                .get("container-runtime-endpoint")
                .parse(str::parse::<Endpoint>)?,
            paths,
            run_dir: values.get("run-dir").path()?,
            node_name,
            cluster_dns: values.get("cluster-dns").addresses()?,
            cluster_domain: values.get("cluster-domain").text(),
            resolv_conf: values.get("resolv-conf").optional_path()?,
            cgroup_driver: match values.get("cgroup-driver").text().as_str() {
                "systemd" => CgroupDriver::Systemd,
                _ => CgroupDriver::Cgroupfs,
            },
            cgroup_root: values.get("cgroup-root").parse(CgroupRoot::parse)?,
            node: NodeSettings::load(values)?,
            ports,
            https,
            life: LifeSettings::load(values)?,
            credential_providers,
            shutdown: shutdown::load(values)?,
            log_rotation: housekeeping::log_rotation(values)?,
            image_gc: housekeeping::image_gc(values)?,
            api_server: api::load(values, port)?,
            runtime_concurrency: values.get("runtime-concurrency").optional_number()?,
            log_format: match values.get("log-format").text().as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            log_level: values.get("log-level").level()?,
            settings: values.settings()?,
            warnings,
        })
    }
}

/// Warnings of the flags and fields that have no effect.
///
/// # Errors
/// A flag of the kubelet has a value that is refused.
fn without_effect(flags: &Flags, files: &ConfigFields) -> anyhow::Result<Vec<String>> {
    let mut warnings = vec![];
    for (of, names) in [
        ("flags of the kubelet", &flags.kubelet.without_effect()?),
        ("fields of the KubeletConfiguration", &files.ignored),
    ] {
        if !names.is_empty() {
            warnings.push(format!("{of} without effect here: {}", names.join(", ")));
        }
    }
    Ok(warnings)
}

/// The machine's host name.
fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

/// The node's name: as given, or the machine's host name; trimmed and in lower case.
///
/// # Errors
/// It is not a suffix that Pods' names can have (RFC 1123 subdomain).
pub fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let name = given.unwrap_or_else(host_name);
    let name = name.trim().to_lowercase();
    if !is_dns_subdomain(&name) {
        bail!(
            "--hostname-override: found {name:?}, expected letters, digits, '-' and '.', such as node1.example.com"
        );
    }
    Ok(name)
}
