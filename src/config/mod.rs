//! What the agent was told: flags, read completely and checked before anything starts.

mod duration;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

pub use duration::parse_duration;

use crate::cri::Endpoint;
use crate::manifest::is_dns_subdomain;
use crate::translate::Paths;

/// The flags of `podkeeper run`, as typed. Those that the kubelet has are spelled as there.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Directory with Pod manifests, or one manifest file
    #[arg(long, value_name = "PATH")]
    pub pod_manifest_path: PathBuf,

    /// How often the manifests are read again even if nothing seems to have changed
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    pub file_check_frequency: Duration,

    /// Unix socket of the container runtime [default: the first of the well-known sockets that is
    /// there, `unix:///run/containerd/containerd.sock` before all others]
    #[arg(long, value_name = "ENDPOINT")]
    pub container_runtime_endpoint: Option<Endpoint>,

    /// Folder for everything that the agent keeps
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podkeeper")]
    pub root_dir: PathBuf,

    /// Folder for the Pods' logs
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    pub pod_logs_dir: PathBuf,

    /// Folder for the socket on which the running agent answers
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Name of this node [default: the machine's host name, in lower case]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// Name servers for Pods with the DNS policy `ClusterFirst`; repeatable, or separated by commas
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,

    /// Domain in which Pods look names up first
    #[arg(long, value_name = "DOMAIN", default_value = "")]
    pub cluster_domain: String,

    /// The host's resolver configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,

    /// How many sandboxes and containers are made, started or stopped at a time [default: twice the
    /// number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub runtime_concurrency: Option<u16>,

    /// How log lines are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// The least serious lines to write: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
}

/// Where the running agent's socket is, unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/podkeeper";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// What the agent works with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory with manifests, or one manifest; absolute.
    pub manifest_path: PathBuf,
    /// How often manifests are read again.
    pub file_check_frequency: Duration,
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
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Dear calls of the runtime at a time.
    pub runtime_concurrency: usize,
}

impl Config {
    /// Checks the flags and fills in what they leave open.
    ///
    /// # Errors
    /// A value makes no sense; the message names the flag.
    pub fn from_flags(flags: Flags) -> anyhow::Result<Self> {
        let absolute = |flag: &str, path: PathBuf| {
            let absolute = std::path::absolute(&path);
            let absolute = absolute.with_context(|| format!("{flag}: {}", path.display()))?;
            // However it is written, with a slash at its end or not, it is the same folder.
            anyhow::Ok(absolute.components().collect::<PathBuf>())
        };
        if flags.file_check_frequency.is_zero() {
            bail!("--file-check-frequency: found 0s, expected a time to wait, such as 20s");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            manifest_path: absolute("--pod-manifest-path", flags.pod_manifest_path)?,
            file_check_frequency: flags.file_check_frequency,
            endpoint: flags
                .container_runtime_endpoint
                .unwrap_or_else(Endpoint::find),
            paths: Paths {
                root: absolute("--root-dir", flags.root_dir)?,
                logs: absolute("--pod-logs-dir", flags.pod_logs_dir)?,
            },
            run_dir: absolute("--run-dir", flags.run_dir)?,
            node_name: node_name(flags.hostname_override)?,
            cluster_dns: flags.cluster_dns,
            cluster_domain: flags.cluster_domain,
            resolv_conf: flags.resolv_conf,
            runtime_concurrency: flags.runtime_concurrency.map_or(2 * cores, usize::from),
        })
    }
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
        Config::from_flags(Line::try_parse_from(words)?.flags)
    }

    #[test]
    fn flags_are_taken_in_both_forms_as_the_kubelet_spells_them() {
        for line in [
            "--pod-manifest-path=/m/ --file-check-frequency=1m30s --cluster-dns=10.254.0.10 \
             --cluster-domain=kube.local --hostname-override=My-Node1 --root-dir=/r \
             --container-runtime-endpoint=unix:///c.sock",
            "--pod-manifest-path /m/ --file-check-frequency 1m30s --cluster-dns 10.254.0.10 \
             --cluster-domain kube.local --hostname-override My-Node1 --root-dir /r \
             --container-runtime-endpoint unix:///c.sock",
        ] {
            let config = config(line).unwrap();
            assert_eq!(config.manifest_path, PathBuf::from("/m"));
            assert_eq!(config.file_check_frequency, Duration::from_secs(90));
            assert_eq!(
                config.cluster_dns,
                ["10.254.0.10".parse::<IpAddr>().unwrap()]
            );
            assert_eq!(config.cluster_domain, "kube.local");
            assert_eq!(config.node_name, "my-node1");
            assert_eq!(config.paths.root, PathBuf::from("/r"));
            assert_eq!(config.endpoint.to_string(), "unix:///c.sock");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_flags_name() {
        for (line, flag) in [
            ("", "--pod-manifest-path"),
            (
                "--pod-manifest-path=/m --file-check-frequency=0s",
                "--file-check-frequency",
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
        ] {
            let error = config(line).unwrap_err().to_string();
            assert!(error.contains(flag), "{line}: {error}");
        }
    }
}
