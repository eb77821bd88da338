//! `podkeeper run`: the agent itself. Everything is read and checked first, then built, then run.

use std::collections::BTreeMap;
use std::io;
use std::iter;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::log_limit::LogLimit;
use super::root_dir;
use super::service::Manager;
use super::single_threaded;
use super::text::LogWriter;
use crate::config::{Config, Flags, LogFormat, Setting};
use crate::cri::Client;
use crate::host::blocking::limited;
use crate::host::{cgroup, machine};
use crate::mirror::Mirror;
use crate::node::supervisor::Pulse;
use crate::node::{image_gc, kubelet, log_keeper, runtime, supervisor};
use crate::pod::admission::Ledger;
use crate::pod::credentials::CredentialFiles;
use crate::pod::events::Events;
use crate::pod::image::Images;
use crate::pod::limiter::Limiter;
use crate::pod::moment::Clock;
use crate::pod::reports::Reports;
use crate::pod::task::Context;
use crate::server::{Audience, Metrics, Server, State, serve_https, serve_port};
use crate::source::Sources;
use crate::source::url::shown;
use crate::translate::{HostIps, NodeFacts};

/// The time in which the files of the configuration have to be read at a reload.
const CONFIG_LIMIT: Duration = Duration::from_secs(30);
/// Open files that are enough whatever callers do.
const MAX_FILES: u64 = 65_536;

pub(super) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    leave_no_core_dump();
    let config = Config::load(flags)?;
    let log_level = start_logging(config.log_format, config.log_level);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    raise_file_limit();
    if let Some(id) = kubelet::find_beside() {
        bail!(
            "a kubelet runs on this node (process {id}): it would kill Pods that it does not know. \
             Stop it first, for good with: systemctl disable --now kubelet"
        );
    }
    let manager = Manager::new();
    let _lock = root_dir::lock(&config.paths.root, &manager)?;
    let runtime = single_threaded()?;
    let ended = runtime.block_on(async {
        let server = Server::bind(&config.run_dir).await?;
        let Sources { directory, url } = &config.sources;
        info!(
            version = env!("CARGO_PKG_VERSION"),
            node = config.node_name,
            manifests = directory
                .as_ref()
                .map(|source| source.path.display().to_string()),
            manifest_url = url.as_ref().map(|source| shown(&source.url)),
            "podkeeper starts"
        );
        let (sources_sender, sources) = watch::channel(config.sources.clone());
        let (pulse_sender, pulse) = watch::channel(None);
        let (settings_sender, settings) = watch::channel(config.settings.clone());
        let reloader = Reloader {
            flags: flags.clone(),
            settings: settings_sender,
            sources: sources_sender,
            log_level,
            manager: manager.clone(),
        };
        tokio::spawn(reloader.run()?);
        tokio::spawn(manager.clone().keep_told(pulse));
        let channels = Channels {
            sources,
            settings,
            pulse: pulse_sender,
        };
        tokio::select! {
            result = agent(config, server, channels) => result,
            name = asked_to_end() => {
                manager.tell_stopping();
                info!(signal = name?, "ending, the Pods keep running");
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    // Whatever else is under way may end at any instant, and what hangs, such as an exec plugin or a
    // file system, is not to keep the agent from ending.
    runtime.shutdown_background();
    ended
}

/// Raises the limit of open files as far as it may be, up to what callers, Pods and watches could need: systemd
/// gives a service 1024 unless it raises that itself.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MAX_FILES).min(MAX_FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            debug!(%error, "cannot raise the limit of open files");
        }
    }
}

/// Keeps the agent's memory, in which there are Secrets, out of core dumps. A handler of dumps is not bound by
/// the limit of their size, so that the process is no such one either.
fn leave_no_core_dump() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Neither can fail for a process that gives something up.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// What changes while the agent runs.
struct Channels {
    sources: watch::Receiver<Sources>,
    settings: watch::Receiver<Vec<Setting>>,
    pulse: Pulse,
}

/// The agent's parts, put together.
async fn agent(config: Config, server: Server, channels: Channels) -> anyhow::Result<ExitCode> {
    let metrics = Metrics::default();
    let freshness = metrics.freshness.clone();
    let desired = Sources::follow(channels.sources, &config.paths.root, freshness);
    let (context_sender, context) = watch::channel(None);
    let pulse = channels.pulse.subscribe();
    let state = State::new(
        desired.clone(),
        context,
        pulse,
        channels.settings,
        metrics.clone(),
    );
    let state = Arc::new(state);
    for (flag, address, audience) in [
        ("healthz-port", config.ports.healthz, Audience::Health),
        ("read-only-port", config.ports.read_only, Audience::Reader),
    ] {
        if let Some(address) = address {
            tokio::spawn(serve_port(flag, address, audience, Arc::clone(&state)));
        }
    }
    tokio::spawn(server.serve(Arc::clone(&state)));
    let (client_sender, client) = watch::channel(None);
    serve_node_api(&config, state, client);
    let (log_rotation, image_gc) = (config.log_rotation, config.image_gc);
    let api_server = config.api_server.clone();
    let context = build(config, &metrics).await?;
    context_sender.send_replace(Some(Arc::clone(&context)));
    tokio::spawn(log_keeper::keep(Arc::clone(&context), log_rotation));
    let passed = channels.pulse.subscribe();
    let wanted = desired.clone();
    tokio::spawn(image_gc::keep(
        Arc::clone(&context),
        wanted,
        passed,
        image_gc,
    ));
    if let Some(settings) = api_server {
        let (context, desired) = (Arc::clone(&context), desired.clone());
        let passed = channels.pulse.subscribe();
        let mirror = Mirror::new(settings, context, desired, passed, client_sender);
        let follow = metrics.mirror.clone();
        tokio::spawn(follow.follow(mirror.numbers(), mirror.requests()));
        tokio::spawn(mirror.keep());
    }
    supervisor::supervise(context, desired, channels.pulse).await;
    bail!("the source of manifests ended")
}

/// Serves the node's API, if it is to be. That it cannot be served is no reason to do without the agent.
fn serve_node_api(
    config: &Config,
    state: Arc<State>,
    client: watch::Receiver<Option<kube::Client>>,
) {
    let Some(settings) = config.https.clone() else {
        return;
    };
    let addresses = host_ips(&config.node.addresses).all();
    let names = iter::once(config.node_name.clone())
        .chain(addresses)
        .collect();
    let paths = config.paths.clone();
    tokio::spawn(async move {
        if let Err(error) = serve_https(settings, &paths, names, state, client).await {
            let error = format!("{error:#}");
            error!(
                error,
                "the node's API is not served, the Pods run all the same"
            );
        }
    });
}

/// What the Pods' tasks share, once the runtime answers.
async fn build(config: Config, metrics: &Metrics) -> anyhow::Result<Arc<Context>> {
    let client = Client::measured(config.endpoint, metrics.calls.clone());
    let runtime = runtime::wait_for_runtime(&client, config.cgroup_driver).await?;
    let facts = NodeFacts {
        cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain: config.cluster_domain,
        cgroup_driver: runtime.cgroup_driver,
        cgroup_unified: cgroup::is_unified(&config.paths.cgroups),
        swap_controller: cgroup::has_swap_controller(&config.paths.cgroups),
        hugepage_sizes: cgroup::hugepage_sizes(),
        huge_pages: machine::huge_pages(),
        max_pods: config.node.max_pods,
        memory_capacity: machine::memory_capacity(),
        cpus: machine::cpus(),
        ephemeral_storage: machine::disk_capacity(&config.paths.root),
        host_ips: host_ips(&config.node.addresses),
        seccomp_default: config.node.seccomp_default,
        runtime_name: runtime.name,
        runtime: runtime.reported.into(),
        runtime_classes: config.node.runtime_classes,
        labels: node_labels(&config.node_name, config.node.labels),
        node_name: config.node_name.clone(),
        allowed_unsafe_sysctls: config.node.allowed_unsafe_sysctls,
        apparmor: machine::has_apparmor(),
        selinux: machine::has_selinux(),
        paths: config.paths,
    };
    let context = Arc::new(Context {
        client,
        mark: facts.paths.mark(),
        node_name: config.node_name,
        resolv_conf: config.resolv_conf,
        images: Images::new(CredentialFiles::of_node(&facts.paths.root)),
        facts,
        ledger: Ledger::default(),
        limiter: Limiter::new(config.runtime_concurrency),
        clock: Clock::default(),
        reports: Reports::default(),
        events: Events::default(),
        metrics: metrics.pods.clone(),
        longest_backoff: config.life.longest_backoff,
        rollback_after: config.life.rollback_after,
    });
    let (client, facts) = (context.client.clone(), context.facts.clone());
    let changed = Arc::clone(&context);
    let on_change = move || changed.ledger.node_changed();
    tokio::spawn(runtime::keep_features(
        client,
        facts,
        runtime.connection,
        on_change,
    ));
    Ok(context)
}

/// The labels that every node has, under their older names too, and those given (Kubernetes, Well-Known
/// Labels).
fn node_labels(name: &str, given: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let own = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.into_iter().chain(given).collect()
}

/// The node's addresses: those given, or those from which it would reach others.
fn host_ips(given: &[IpAddr]) -> HostIps {
    if given.is_empty() {
        return HostIps::found_by(machine::addresses);
    }
    let given: Vec<String> = given.iter().map(ToString::to_string).collect();
    given.into()
}

async fn asked_to_end() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

type LogLevel = reload::Handle<EnvFilter, Registry>;

/// Reads the configuration again when asked to (`SIGHUP`), and changes what can change without a
/// restart.
struct Reloader {
    flags: Flags,
    /// The settings in force.
    settings: watch::Sender<Vec<Setting>>,
    sources: watch::Sender<Sources>,
    log_level: LogLevel,
    manager: Manager,
}

impl Reloader {
    /// Listens from now on; the future never ends.
    fn run(self) -> anyhow::Result<impl Future<Output = ()>> {
        let mut asked = signal(SignalKind::hangup())?;
        Ok(async move {
            while asked.recv().await.is_some() {
                self.manager.tell_reloading();
                let flags = self.flags.clone();
                let load = move || Config::load(&flags);
                let loaded = limited("the configuration", CONFIG_LIMIT, load).await;
                match loaded.map_err(Into::into).flatten() {
                    Ok(config) => self.apply(config),
                    Err(error) => {
                        let error = format!("{error:#}");
                        error!(
                            error,
                            "the configuration is refused, the one before stays in force"
                        );
                    }
                }
                self.manager.tell_reloaded();
            }
        })
    }

    fn apply(&self, config: Config) {
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let mut changed = vec![];
        let new = config.settings;
        self.settings
            .send_modify(|settings| changed = exchange(settings, new));
        // Its only error is that nothing is logged any more.
        let _ = self.log_level.reload(filter(config.log_level));
        let sources = config.sources;
        let exchanged = self.sources.send_if_modified(|current| {
            let differs = *current != sources;
            *current = sources;
            differs
        });
        let changed = changed.join(", ");
        info!(changed, exchanged, "configuration read again");
    }
}

/// Takes over the new settings that can change; gives the names of those that do.
fn exchange(settings: &mut [Setting], new: Vec<Setting>) -> Vec<&'static str> {
    let mut changed = vec![];
    for new in new {
        let Some(old) = settings.iter_mut().find(|old| old.name == new.name) else {
            continue;
        };
        if new.reloadable {
            if new.value != old.value {
                changed.push(new.name);
            }
            *old = new;
        } else if new.value != old.value {
            let (setting, value, given) = (new.name, &old.value, &new.value);
            warn!(
                setting,
                value, given, "the setting changes only at the agent's next start"
            );
        }
    }
    changed
}

/// Starts logging; the handle changes the level.
fn start_logging(format: LogFormat, level: tracing::Level) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(|| LogWriter);
    let all = Registry::default().with(filter).with(LogLimit::default());
    match format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            all.with(lines.with_ansi(io::stderr().is_terminal())).init();
        }
        LogFormat::Json => all.with(lines.json().flatten_event(true)).init(),
    }
    handle
}

/// Libraries' own chatter is for debugging them, not the node.
fn filter(level: tracing::Level) -> EnvFilter {
    EnvFilter::new(format!("warn,kube_client=error,podkeeper={level}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_labels_of_every_node_and_those_given() {
        let labels = node_labels("n1", [("disk".to_owned(), "ssd".to_owned())].into());
        for name in ["os", "arch"] {
            let value = &labels[&format!("kubernetes.io/{name}")];
            assert_eq!(
                labels.get(&format!("beta.kubernetes.io/{name}")),
                Some(value)
            );
        }
        assert_eq!(labels["kubernetes.io/hostname"], "n1");
        assert_eq!(labels["disk"], "ssd");
        assert_eq!(labels.len(), 6);
    }
}
