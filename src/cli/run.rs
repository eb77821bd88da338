//! `podkeeper run`: the agent itself. Everything is read and checked first, then built, then run.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tracing::info;
use tracing_subscriber::EnvFilter;

use super::single_threaded;
use crate::config::{Config, Flags, LogFormat};
use crate::cri::Client;
use crate::node::{cgroup, kubelet, runtime, supervisor};
use crate::pod::image::Images;
use crate::pod::moment::Clock;
use crate::pod::reports::Reports;
use crate::pod::task::Context;
use crate::server::{Server, State};
use crate::source::directory::DirectorySource;
use crate::translate::NodeFacts;

pub(super) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    start_logging(flags.log_format, flags.log_level);
    let config = Config::from_flags(flags)?;
    if let Some(id) = kubelet::find_beside() {
        bail!(
            "a kubelet runs on this node (process {id}): it would kill Pods that it does not know. \
             Stop it first, for good with: systemctl disable --now kubelet"
        );
    }
    let _lock = lock_root(&config.paths.root)?;
    single_threaded()?.block_on(async {
        let server = Server::bind(&config.run_dir).await?;
        info!(
            version = env!("CARGO_PKG_VERSION"),
            node = config.node_name,
            manifests = %config.manifest_path.display(),
            "podkeeper starts"
        );
        tokio::select! {
            result = agent(config, server) => result,
            name = asked_to_end() => {
                info!(signal = name?, "ending, the Pods keep running");
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// The agent's parts, put together.
async fn agent(config: Config, server: Server) -> anyhow::Result<ExitCode> {
    let source = DirectorySource {
        path: config.manifest_path.clone(),
        node_name: config.node_name.clone(),
        rescan: config.file_check_frequency,
        state: config.paths.root.join("manifests"),
    };
    let desired = source.spawn();
    let (context_sender, context) = watch::channel(None);
    let state = State {
        desired: desired.clone(),
        reports: context,
    };
    tokio::spawn(server.serve(Arc::new(state)));
    let context = build(config).await?;
    context_sender.send_replace(Some(Arc::clone(&context)));
    supervisor::supervise(context, desired).await;
    bail!("the source of manifests ended")
}

/// What the Pods' tasks share, once the runtime answers.
async fn build(config: Config) -> anyhow::Result<Arc<Context>> {
    let client = Client::new(config.endpoint);
    let runtime = runtime::wait_for_runtime(&client).await?;
    let facts = NodeFacts {
        paths: config.paths,
        cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain: config.cluster_domain,
        cgroup_driver: runtime.cgroup_driver,
        cgroup_unified: cgroup::is_unified(),
        swap_controller: cgroup::has_swap_controller(),
        hugepage_sizes: cgroup::hugepage_sizes(),
    };
    Ok(Arc::new(Context {
        client,
        mark: facts.paths.mark(),
        facts,
        node_name: config.node_name,
        resolv_conf: config.resolv_conf,
        images: Images::default(),
        limiter: Semaphore::new(config.runtime_concurrency),
        clock: Clock::default(),
        reports: Reports::default(),
    }))
}

/// Makes the root directory and takes hold of it; a second agent on it is refused. The hold ends with
/// the process, however that ends.
fn lock_root(root: &Path) -> anyhow::Result<File> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(root);
    made.with_context(|| format!("cannot make the root directory {}", root.display()))?;
    let path = root.join("lock");
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another podkeeper runs with the root directory {}; give this one its own --root-dir",
            root.display()
        ),
        Err(fs::TryLockError::Error(e)) => Err(e).context("cannot lock the root directory"),
    }
}

async fn asked_to_end() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

fn start_logging(format: LogFormat, level: tracing::Level) {
    // Libraries' own chatter is for debugging them, not the node.
    let filter = EnvFilter::new(format!("warn,podkeeper={level}"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false);
    let lines = lines.with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            lines.with_ansi(io::stderr().is_terminal()).init();
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
