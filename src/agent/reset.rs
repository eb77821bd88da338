//! Reset of a node: an agent without manifests, which ends once nothing of its Pods is left.
//!
//! Pods are removed by the same tasks as when a manifest is removed: with their hooks and grace periods, and over
//! failures of the runtime. Only what carries the owner label of this root directory is touched. Certificates,
//! credentials and seccomp profiles in the root directory stay.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::systemd::Systemd;
use super::{build_context, logging, root_dir};
use crate::config::{Config, Flags};
use crate::host::blocking::single_threaded_runtime;
use crate::host::cgroup::{self, CgroupDriver};
use crate::image;
use crate::node::supervisor::{self, HeartbeatReceiver};
use crate::pod::folder;
use crate::pod::observe::{Listed, owner};
use crate::pod::report::PodReport;
use crate::pod::shutdown::NodeShutdown;
use crate::pod::task::Context;
use crate::server::AgentMetrics;
use crate::source::{Desired, Sources};
use crate::translate::{Paths, all_pods_cgroup_paths};
use crate::units::duration::format_duration;
use crate::volume;

/// Time for the runtime's first response, and where nothing says that there are Pods.
const FIRST_RESPONSE: Duration = Duration::from_secs(120);
const WITHOUT_PODS: Duration = Duration::from_secs(5);
/// Pause between two looks at what is left.
const PAUSE: Duration = Duration::from_millis(100);

/// Stops and removes all Pods of the agent with this configuration, and its state about them. Waits for that as long
/// as `limit`.
///
/// # Errors
/// The configuration is refused, the agent runs, the runtime does not respond, or a Pod is not removed in time.
pub(crate) fn reset(flags: &Flags, limit: Duration) -> anyhow::Result<()> {
    let config = Config::load_without_sources(flags)?;
    logging::start(config.log_format, config.log_level);
    let root = &config.paths.root;
    if folder::is_locked(root) {
        bail!(
            "podkeeper runs with the root directory {}; stop it first, for good with: systemctl disable --now podkeeper",
            root.display()
        );
    }
    let lock = root_dir::lock(root, &Systemd::connect())?;
    let runtime = single_threaded_runtime()?;
    let removed = runtime.block_on(remove_pods(&config, limit));
    runtime.shutdown_background();
    removed?;
    remove_state(&config.paths)?;
    drop(lock);
    info!("Removed all Pods");
    Ok(())
}

/// Removes the Pods, and the cgroups that held theirs.
async fn remove_pods(config: &Config, limit: Duration) -> anyhow::Result<()> {
    let folders = folder::list(&config.paths).context("cannot read the Pods' folders")?;
    let (has_pods, metrics) = (!folders.is_empty(), AgentMetrics::default());
    let first = if has_pods {
        FIRST_RESPONSE
    } else {
        WITHOUT_PODS
    };
    let first = first.min(limit);
    let Ok(context) = timeout(
        first,
        build_context(config, &metrics, NodeShutdown::default()),
    )
    .await
    else {
        let endpoint = &config.endpoint;
        if has_pods {
            bail!(
                "Timed out waiting for the container runtime at {endpoint}: its Pods may still run"
            );
        }
        warn!(%endpoint, "Container runtime is unreachable, and there is no folder of a Pod");
        return Ok(());
    };
    let context = context?;
    // The sender lives as long as the supervisor is to.
    let (_sender, desired) = watch::channel(Some(Desired::default()));
    let (heartbeat, observed) = watch::channel(None);
    tokio::spawn(supervisor::supervise(
        Arc::clone(&context),
        desired,
        heartbeat,
    ));
    if timeout(limit, wait_removed(&context, observed))
        .await
        .is_err()
    {
        let left: Vec<String> = context.reports.all().iter().map(describe).collect();
        bail!(
            "Timed out after {} waiting for Pods to be removed: {}",
            format_duration(limit),
            left.join("; ")
        );
    }
    remove_cgroups(&context)
}

/// Waits until the runtime has nothing of the Pods, and each is cleaned up.
async fn wait_removed(context: &Context, mut observed: HeartbeatReceiver) {
    // The supervisor lives as long as the process.
    let _ = observed.wait_for(Option::is_some).await;
    loop {
        if context.reports.keys().is_empty()
            && let Ok(listed) = Listed::fetch(&context.client, &context.owner_label, None).await
            && !has_pods(&context.owner_label, &listed)
        {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Returns `true` if one of these is a Pod's of ours: what carries the label and no Pod's name is not.
fn has_pods(owner_label: &str, listed: &Listed) -> bool {
    let sandboxes = listed.sandboxes.iter().map(|sandbox| &sandbox.labels);
    let containers = listed.containers.iter().map(|container| &container.labels);
    sandboxes
        .chain(containers)
        .any(|labels| owner(owner_label, labels).is_some())
}

fn describe(report: &PodReport) -> String {
    let cleanup = report.cleanup.as_ref();
    let reason = cleanup.map_or(&report.reason, |cleanup| &cleanup.message);
    format!(
        "{}/{}: {} {reason}",
        report.namespace, report.name, report.phase
    )
}

/// Removes the cgroups of all Pods and of the QoS classes, unless somebody else's Pods are in them.
fn remove_cgroups(context: &Context) -> anyhow::Result<()> {
    let facts = &context.facts;
    // The runtime may have had another driver before.
    for driver in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd] {
        for path in all_pods_cgroup_paths(driver, &facts.cgroup_root) {
            cgroup::remove_unused(&facts.paths.cgroups, &path)?;
        }
    }
    Ok(())
}

/// Removes what the agent keeps of accepted manifests, and the folders that are empty then.
fn remove_state(paths: &Paths) -> anyhow::Result<()> {
    let kept = [
        Sources::directory_state(&paths.root),
        Sources::url_state(&paths.root),
        paths.rollbacks(),
        paths.pauses(),
        paths.holds(),
        image::pull_records_folder(&paths.root),
    ];
    for folder in kept {
        volume::remove_tree(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    // A folder of a Pod that is not ours stays, and so does the one around it.
    for folder in [
        paths.pods(),
        paths.logs.clone(),
        paths.container_logs.clone(),
    ] {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}
