//! The flags of `podkeeper run`, as typed. Those that the kubelet has are spelled as there.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use reqwest::header::{HeaderName, HeaderValue};

use crate::cri::Endpoint;
use crate::units::duration::parse_duration;

/// The flags of `podkeeper run`.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// `KubeletConfiguration` file (`kubelet.config.k8s.io/v1beta1`); flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder of drop-ins, `*.conf`, each a `KubeletConfiguration` that wins over --config and over
    /// those before it by name
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,

    /// Directory with Pod manifests, or one manifest file
    #[arg(long, value_name = "PATH")]
    pub pod_manifest_path: Option<PathBuf>,

    /// How often the manifests are read again even if nothing seems to have changed [default: 20s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub file_check_frequency: Option<Duration>,

    /// URL of a document with Pods
    #[arg(long, value_name = "URL")]
    pub manifest_url: Option<String>,

    /// Headers to ask for it with, NAME:VALUE; repeatable, or separated by commas
    #[arg(long, value_name = "HEADERS", value_parser = parse_headers)]
    pub manifest_url_header: Vec<Headers>,

    /// How often to ask for it [default: 20s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub http_check_frequency: Option<Duration>,

    /// Certificates to trust for it in place of the system's, PEM
    #[arg(long, value_name = "FILE")]
    pub manifest_url_ca_file: Option<PathBuf>,

    /// Certificate to show its server, PEM
    #[arg(long, value_name = "FILE")]
    pub manifest_url_client_cert_file: Option<PathBuf>,

    /// Key of that certificate, PEM, unless it stands in the same file
    #[arg(long, value_name = "FILE", requires = "manifest_url_client_cert_file")]
    pub manifest_url_client_key_file: Option<PathBuf>,

    /// File with a bearer token for its server
    #[arg(long, value_name = "FILE")]
    pub manifest_url_token_file: Option<PathBuf>,

    /// minisign public key; with any, only documents signed by one of them count; repeatable
    #[arg(long, value_name = "FILE")]
    pub manifest_url_public_key: Vec<PathBuf>,

    /// Unix socket of the container runtime [default: the first of the well-known sockets that is
    /// there, `unix:///run/containerd/containerd.sock` before all others]
    #[arg(long, value_name = "ENDPOINT")]
    pub container_runtime_endpoint: Option<Endpoint>,

    /// Folder for everything that the agent keeps [default: /var/lib/podkeeper]
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<PathBuf>,

    /// Folder for the Pods' logs [default: /var/log/pods]
    #[arg(long, value_name = "DIR")]
    pub pod_logs_dir: Option<PathBuf>,

    /// Folder for links to containers' logs, where log shippers look [default: /var/log/containers]
    #[arg(long, value_name = "DIR")]
    pub container_logs_dir: Option<PathBuf>,

    /// Folder for the socket on which the running agent answers [default: /run/podkeeper]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Port on which Pods, metrics and the configuration can be read [default: 0, which is none]
    #[arg(long, value_name = "PORT")]
    pub read_only_port: Option<u16>,

    /// Address of --port and --read-only-port [default: all addresses for the one, 127.0.0.1 for the
    /// other]
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,

    /// Port of the node's API over HTTPS, for kubectl logs, exec, attach, port-forward and top; 0 is none
    /// [default: 10250 with --kubeconfig]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Serving certificate of --port, PEM [default: one that the agent makes for itself]
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// Key of --tls-cert-file, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,

    /// Oldest version of TLS that is taken at --port: `VersionTLS12` or `VersionTLS13` [default:
    /// `VersionTLS12`]
    #[arg(long, value_name = "VERSION", value_parser = ["VersionTLS12", "VersionTLS13"])]
    pub tls_min_version: Option<String>,

    /// Cipher suites that are taken there with TLS 1.2; repeatable, or separated by commas [default: all
    /// that are safe]
    #[arg(long, value_name = "SUITES", value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,

    /// Authority of client certificates that are taken at --port, PEM
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,

    /// Ask the API server whose a bearer token is [default: true with --kubeconfig]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub authentication_token_webhook: Option<bool>,

    /// How long its answer holds [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub authentication_token_webhook_cache_ttl: Option<Duration>,

    /// Take who proves nothing for the user system:anonymous [default: false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,

    /// Who decides what callers of --port may do: the API server, or nobody [default: Webhook]
    #[arg(long, value_enum, value_name = "MODE")]
    pub authorization_mode: Option<Mode>,

    /// How long it holds that somebody may do something [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub authorization_webhook_cache_authorized_ttl: Option<Duration>,

    /// How long it holds that he may not [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Option<Duration>,

    /// When a stream into a container is ended on which nothing moves [default: 4h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub streaming_connection_idle_timeout: Option<Duration>,

    /// Port that tells whether the agent works; 0 is none [default: 10248]
    #[arg(long, value_name = "PORT")]
    pub healthz_port: Option<u16>,

    /// Address of --healthz-port [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub healthz_bind_address: Option<IpAddr>,

    /// Name of this node [default: the machine's host name, in lower case]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// Name servers for Pods with the DNS policy `ClusterFirst`; repeatable, or separated by commas
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,

    /// Domain in which Pods look names up first
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,

    /// The host's resolver configuration; with an empty name there is none, and Pods that would have it look
    /// names up on this machine only [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE", value_parser = path_or_none)]
    pub resolv_conf: Option<PathBuf>,

    /// Who manages cgroups, where the runtime does not tell [default: cgroupfs]
    #[arg(long, value_enum, value_name = "DRIVER")]
    pub cgroup_driver: Option<Driver>,

    /// Addresses of this node, as Pods see them; repeatable, or separated by commas [default: those
    /// from which the machine reaches others]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,

    /// Labels of this node, NAME=VALUE, which a Pod's nodeSelector must match; repeatable, or
    /// separated by commas
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub node_labels: Vec<String>,

    /// Handler of the container runtime for the Pods of a runtime class, CLASS=HANDLER; repeatable, or
    /// separated by commas
    #[arg(long, value_name = "CLASSES", value_delimiter = ',')]
    pub runtime_class: Vec<String>,

    /// Give containers that ask for no seccomp profile the runtime's default one [default: false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub seccomp_default: Option<bool>,

    /// Sysctls that Pods may set besides the safe ones; a `*` at the end stands for anything;
    /// repeatable, or separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,

    /// How many Pods may be on the node [default: 110]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pods: Option<u32>,

    /// The size from which a container's log is rotated; negative for never [default: 10Mi]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub container_log_max_size: Option<String>,

    /// How many files of a container's log are kept, at least 2 [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    pub container_log_max_files: Option<u16>,

    /// How often the containers' logs are looked at [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub container_log_monitor_interval: Option<Duration>,

    /// The usage of the images' disk in percent from which images that nothing uses are removed; 100
    /// for never [default: 85]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    pub image_gc_high_threshold: Option<u8>,

    /// The usage in percent down to which they are removed [default: 80]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    pub image_gc_low_threshold: Option<u8>,

    /// How long an image stays at least, however full the disk is [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub minimum_image_ttl_duration: Option<Duration>,

    /// How long an image may be unused before it is removed, however empty the disk is; 0 for as long
    /// as it likes [default: 0]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub image_maximum_gc_age: Option<Duration>,
    /// File that tells the way to an API server, where the node and its Pods are to be seen
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// File that tells the way for asking for a client certificate, while --kubeconfig is not there or
    /// its certificate is over
    #[arg(long, value_name = "FILE")]
    pub bootstrap_kubeconfig: Option<PathBuf>,

    /// Folder for client certificates [default: the one that the kubeconfig names, or `pki` in
    /// --root-dir]
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,

    /// Have the client certificate renewed in time [default: true with --bootstrap-kubeconfig]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub rotate_certificates: Option<bool>,

    /// Make the Node at the API server if it is not there [default: true with --kubeconfig]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub register_node: Option<bool>,

    /// Taints to make it with, KEY=VALUE:EFFECT; repeatable, or separated by commas [default:
    /// podkeeper.io/static-only:NoSchedule]
    #[arg(long, value_name = "TAINTS", value_delimiter = ',')]
    pub register_with_taints: Vec<String>,

    /// For how many seconds the Node's lease holds, which is renewed four times as often [default: 40]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub node_lease_duration_seconds: Option<u32>,

    /// How many sandboxes and containers are made, started or stopped at a time [default: twice the
    /// number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub runtime_concurrency: Option<u16>,

    /// The longest wait before a container that keeps stopping is started again [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_container_restart_period: Option<Duration>,

    /// Take an update back that is not Ready within this time, unless its Pod says otherwise in the
    /// annotation podkeeper.io/rollback-after [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub rollback_after: Option<Duration>,

    /// How log lines are written [default: text]
    #[arg(
        long,
        visible_alias = "logging-format",
        value_enum,
        value_name = "FORMAT"
    )]
    pub log_format: Option<LogFormat>,

    /// The least serious lines to write: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<tracing::Level>,

    /// The kubelet's way to say --log-level: 4 and more is debug, 8 and more is trace
    #[arg(long = "v", short = 'v', value_name = "N")]
    pub verbosity: Option<u8>,

    /// What is taken without being carried out.
    #[command(flatten)]
    pub without_effect: WithoutEffect,
}

/// Flags of the kubelet that its usual command lines have and that this version does not carry out.
/// They are taken and named in a warning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct WithoutEffect {
    #[arg(long, hide = true)]
    pub pod_infra_container_image: Option<String>,
    #[arg(long, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub fail_swap_on: Option<bool>,
}

impl WithoutEffect {
    /// What of it was given, with why it does nothing.
    pub(super) fn given(&self) -> Vec<String> {
        const IMAGE: &str = "the sandbox's image is a setting of the runtime";
        const SWAP: &str = "swap is no reason not to start";
        let all = [
            (
                self.pod_infra_container_image.is_some(),
                "pod-infra-container-image",
                IMAGE,
            ),
            (self.fail_swap_on.is_some(), "fail-swap-on", SWAP),
        ];
        let given = all.into_iter().filter(|(given, ..)| *given);
        given
            .map(|(_, flag, why)| format!("--{flag} ({why})"))
            .collect()
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Who decides what callers may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Mode {
    /// The API server.
    Webhook,
    /// Nobody: whoever is known may do everything.
    AlwaysAllow,
}

/// Who manages cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// Whoever needs a cgroup makes it.
    Cgroupfs,
    /// systemd is asked for slices.
    Systemd,
}

/// Headers of a request, in order.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

/// A path that may be empty, which says that there is to be none.
#[allow(clippy::unnecessary_wraps, reason = "as flags are parsed")]
fn path_or_none(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}

/// Reads `NAME:VALUE,NAME:VALUE`.
fn parse_headers(text: &str) -> Result<Headers, String> {
    let one = |pair: &str| {
        let (name, value) = pair.split_once(':').ok_or("expected NAME:VALUE")?;
        header(name.trim(), value.trim())
    };
    text.split(',').map(one).collect()
}

/// One header. What is wrong is said without the value, which may be a secret.
///
/// # Errors
/// The name or value is none that HTTP can carry.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let found = HeaderName::from_bytes(name.as_bytes());
    let found = found.map_err(|_| format!("found {name:?}, expected the name of a header"))?;
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| format!("the value of {name} has characters that a header cannot have"))?;
    value.set_sensitive(true);
    Ok((found, value))
}
