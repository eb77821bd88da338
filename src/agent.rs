//! The agent's composition: the configuration is read and checked completely, then the parts are built, then
//! they run.
//!
//! Every part is a task of one thread that lives as long as the agent: nothing of Pods' ends with it, so that
//! none has to be stopped. Parts get each other's state by `watch` channels and the shared [`Context`]; what
//! asks the agent (local socket, ports, the node's API) is served before the runtime answers.

mod log_limit;
mod logging;
mod node_facts;
pub(crate) mod preflight;
mod process;
mod reload;
mod reset;
mod root_dir;
mod stop;
mod systemd;

use std::iter;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::{Config, Flags};
use crate::cri::Client;
use crate::host::blocking::{pooled, single_threaded_runtime};
use crate::host::cni;
use crate::image::Images;
use crate::mirror::{self, Mirror};
use crate::node::supervisor::Heartbeat;
use crate::node::{container_log_manager, image_gc, kubelet, runtime, supervisor};
use crate::pod::admission::Allocations;
use crate::pod::events::Events;
use crate::pod::folder;
use crate::pod::kubelet_pods::KubeletPods;
use crate::pod::limiter::Limiter;
use crate::pod::reports::Reports;
use crate::pod::shutdown::NodeShutdown;
use crate::pod::state::time::Clock;
use crate::pod::task::{Context, FirstSyncs, PodRequests};
use crate::server::{AgentMetrics, Audience, Server, ServerState, serve_https, serve_port};
use crate::source::url::shown;
use crate::source::{LastRun, Sources};
use node_facts::{host_ips, node_facts};
use reload::{LiveSettings, Reloader};
pub(crate) use reset::reset;
use systemd::Systemd;

/// Longest wait for the folder of networks' addresses.
const ADDRESSES_LIMIT: Duration = Duration::from_secs(5);

/// Runs the agent until a signal asks it to stop.
///
/// # Errors
/// The configuration is refused, another agent or a kubelet manages the node's Pods, or a part that the agent
/// cannot do without fails.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    process::disable_core_dumps();
    let config = Config::load(flags)?;
    let log_level = logging::start(config.log_format, config.log_level);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    process::raise_file_limit();
    refuse_kubelet()?;
    let systemd = Systemd::connect();
    let _lock = root_dir::lock(&config.paths.root, &systemd)?;
    let runtime = single_threaded_runtime()?;
    let ended = runtime.block_on(async {
        let server = Server::bind(&config.run_dir).await?;
        log_start(&config);
        let (reloader, live) = Reloader::new(flags, &config, log_level, systemd.clone());
        let (heartbeat_sender, heartbeat) = watch::channel(None);
        tokio::spawn(reloader.run()?);
        tokio::spawn(systemd.clone().follow(heartbeat));
        let shutdown = NodeShutdown::default();
        let stopped = stop::stopped(systemd, shutdown.clone(), config.shutdown.clone());
        tokio::select! {
            result = run_parts(config, server, live, heartbeat_sender, shutdown) => result,
            result = stopped => result.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        }
    });
    // Whatever else is under way may end at any instant, and what hangs, such as an exec plugin or a
    // file system, is not to keep the agent from ending.
    runtime.shutdown_background();
    ended
}

/// Refuses to run beside a kubelet.
fn refuse_kubelet() -> anyhow::Result<()> {
    if let Some(id) = kubelet::find_beside() {
        bail!(
            "a kubelet runs on this node (process {id}): it would kill Pods that it does not know. \
             Stop it first, for good with: systemctl disable --now kubelet"
        );
    }
    Ok(())
}

/// Gives back the addresses of which a power cut has left no owner.
async fn remove_empty_addresses() {
    let remove = || cni::remove_empty_addresses(Path::new(cni::ADDRESSES));
    match pooled("addresses of networks", ADDRESSES_LIMIT, remove).await {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => info!(
            count,
            "Removed addresses that a power cut left without an owner"
        ),
        Ok(Err(error)) => warn!(%error, "Failed to read the addresses of networks"),
        Err(error) => warn!(%error, "Failed to read the addresses of networks"),
    }
}

fn log_start(config: &Config) {
    let Sources { directory, url } = &config.sources;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_name,
        manifests = directory
            .as_ref()
            .map(|source| source.path.display().to_string()),
        manifest_url = url.as_ref().map(|source| shown(&source.url)),
        "Starting podkeeper"
    );
}

/// Builds the agent's parts and runs them: sources, servers, then, once the runtime answers, housekeeping, the
/// mirror at the API server, and the supervisor of Pods' tasks. They end once all Pods are stopped, where the machine
/// shuts down.
async fn run_parts(
    config: Config,
    server: Server,
    live: LiveSettings,
    heartbeat: Heartbeat,
    shutdown: NodeShutdown,
) -> anyhow::Result<ExitCode> {
    let metrics = AgentMetrics::default();
    let freshness = metrics.freshness.clone();
    let paths = config.paths.clone();
    let last_run: LastRun = Arc::new(move |key| folder::last_run(&paths, key));
    let desired = Sources::follow(live.sources, &config.paths.root, freshness, last_run);
    let (context_sender, context) = watch::channel(None);
    let state = Arc::new(ServerState::new(
        desired.clone(),
        context,
        heartbeat.subscribe(),
        live.configz,
        metrics.clone(),
    ));
    let (api_client_sender, api_client) = watch::channel(None);
    serve(&config, server, &state, api_client);

    // No sandbox is made before, and the runtime does not wait for it.
    let context = async {
        let context = build_context(&config, &metrics, shutdown.clone());
        tokio::join!(context, remove_empty_addresses()).0
    };
    let context = tokio::select! {
        context = context => context?,
        _ = shutdown.requested() => {
            warn!("Container runtime is unreachable, no Pod can be stopped");
            return Ok(ExitCode::SUCCESS);
        }
    };
    context_sender.send_replace(Some(Arc::clone(&context)));
    if config.shutdown.is_some() {
        let facts = context.facts.clone();
        tokio::spawn(node_facts::keep_cgroups_until_shutdown(facts));
    }
    tokio::spawn(container_log_manager::run(
        Arc::clone(&context),
        config.log_rotation,
    ));
    tokio::spawn(image_gc::keep(
        Arc::clone(&context),
        desired.clone(),
        heartbeat.subscribe(),
        config.image_gc,
    ));
    let mut numbers = None;
    if let Some(settings) = config.api_server {
        let (context, desired) = (Arc::clone(&context), desired.clone());
        let heartbeat = heartbeat.subscribe();
        let mirror = Mirror::new(settings, context, desired, heartbeat, api_client_sender);
        let follow = metrics.mirror.clone();
        numbers = Some(mirror.numbers());
        tokio::spawn(follow.follow(mirror.numbers(), mirror.requests()));
        tokio::spawn(mirror.keep());
    }
    if !supervisor::supervise(Arc::clone(&context), desired, heartbeat).await {
        bail!("the source of manifests ended");
    }
    if let Some(numbers) = numbers {
        mirror::wait_until_reported(numbers, &context.reports).await;
    }
    info!("Done stopping Pods, the shutdown of the machine goes on");
    Ok(ExitCode::SUCCESS)
}

/// Serves the local socket, the local ports and the node's API, as far as they are configured.
fn serve(
    config: &Config,
    server: Server,
    state: &Arc<ServerState>,
    api_client: watch::Receiver<Option<kube::Client>>,
) {
    for (flag, address, audience) in [
        ("healthz-port", config.ports.healthz, Audience::Health),
        ("read-only-port", config.ports.read_only, Audience::Reader),
    ] {
        if let Some(address) = address {
            tokio::spawn(serve_port(flag, address, audience, Arc::clone(state)));
        }
    }
    tokio::spawn(server.serve(Arc::clone(state)));
    let Some(settings) = config.https.clone() else {
        return;
    };
    let addresses = host_ips(&config.node).all();
    let names = iter::once(config.node_name.clone())
        .chain(addresses)
        .collect();
    let (paths, state) = (config.paths.clone(), Arc::clone(state));
    tokio::spawn(async move {
        // Pods are managed without the node's API as well.
        if let Err(error) = serve_https(settings, &paths, names, state, api_client).await {
            let error = format!("{error:#}");
            error!(error, "Failed to serve the node's API, Pods keep running");
        }
    });
}

/// Builds what the Pods' tasks share, once the runtime answers.
async fn build_context(
    config: &Config,
    metrics: &AgentMetrics,
    shutdown: NodeShutdown,
) -> anyhow::Result<Arc<Context>> {
    let client = Client::measured(config.endpoint.clone(), metrics.calls.clone());
    let runtime = runtime::wait_for_runtime(&client, config.cgroup_driver).await?;
    let facts = node_facts(config, &runtime);
    let context = Arc::new(Context {
        client: client.clone(),
        owner_label: facts.paths.owner_label(),
        node_name: config.node_name.clone(),
        resolv_conf: config.resolv_conf.clone(),
        kubelet_pods: KubeletPods::new(config.node.take_over_kubelet_pods),
        images: Images::new(
            &facts.paths,
            config.life.image_pull_timeout,
            config.credential_providers.clone(),
        ),
        facts: facts.clone(),
        allocations: Allocations::default(),
        limiter: Limiter::new(config.runtime_concurrency),
        first_syncs: FirstSyncs::default(),
        clock: Clock::default(),
        shutdown,
        requests: PodRequests::default(),
        reports: Reports::default(),
        events: Events::default(),
        metrics: metrics.pods.clone(),
        longest_backoff: config.life.longest_backoff,
        rollback_after: config.life.rollback_after,
    });
    let changed = Arc::clone(&context);
    tokio::spawn(runtime::keep_features(
        client,
        facts,
        runtime.connection,
        move || changed.allocations.node_changed(),
    ));
    Ok(context)
}
