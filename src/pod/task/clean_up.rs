//! Removing what is no longer needed: sandboxes and containers in the runtime, and the folders, logs and
//! cgroups of a version on the node.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::background::FILES;
use super::error::{StepError, node_failure, timed_out};
use super::{Context, PodTask};
use crate::cri::{if_found, v1};
use crate::host::blocking::{self, blocking, pooled};
use crate::host::{cgroup, cni};
use crate::manifest::{PodKey, Uid};
use crate::pod::folder;
use crate::pod::identity::ValidUid;
use crate::pod::limiter::{CallKind, Class};
use crate::pod::state::observed::{Container, ContainerId, SandboxId};
use crate::translate::{CgroupRoot, pod_cgroup_paths, qos_cpu_shares};

/// The same for the removal of what a Pod left, which may be much.
const REMOVAL: Duration = Duration::from_secs(120);

impl PodTask {
    /// Starts over with a version that is gone, if it is wanted again.
    pub(super) fn cleaned_up(&mut self, uid: &Uid) {
        info!(pod = %self.key, uid = uid.as_str(), "Removed Pod");
        self.effects.forget(uid);
        if let Some(wanted) = self.wanted.as_ref().filter(|w| w.pod.uid == *uid) {
            let version = wanted.pod.clone();
            self.state.version_mut(uid).pod = Some(version);
            self.seen_at(uid, self.context.clock.wall_now());
        }
    }

    /// Updates the CPU shares of the QoS classes to what the Pods that are left request.
    pub(super) async fn update_cpu_shares(&mut self) {
        let (context, key) = (Arc::clone(&self.context), self.key.clone());
        let update = move || update_cpu_shares(&context);
        let shared = self.own_files(blocking(update)).await;
        // They have more than they need until the next Pod starts or goes.
        if let Some(error) = self.complaints.record("CPU shares", &shared) {
            warn!(pod = %key, error, "Failed to update QoS CPU shares");
        }
    }
}

pub(super) async fn stop_sandbox(context: Arc<Context>, id: SandboxId) -> Result<(), StepError> {
    let stop = async || {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_string(),
        };
        let stop = context.client.stop_pod_sandbox(request);
        let stopped = context
            .limiter
            .run(Class::Stop, CallKind::StopSandbox, stop);
        if_found(stopped.await).map(drop)
    };
    let stopped = stop().await;
    let is_torn = matches!(&stopped, Err(error) if error.message().contains("cached result"));
    if is_torn && remove_torn_results(&id).await {
        return Ok(stop().await?);
    }
    Ok(stopped?)
}

/// Removes the results of network plugins that a power cut has torn. Returns true if there were any.
async fn remove_torn_results(id: &SandboxId) -> bool {
    let sandbox = id.clone();
    let remove = move || cni::remove_torn_results(Path::new(cni::RESULTS), &sandbox);
    let removed = pooled(cni::RESULTS, FILES, remove).await;
    let removed = matches!(removed, Ok(Ok(1..)));
    if removed {
        warn!(
            sandbox = id.as_str(),
            "Removed the CNI result of a sandbox that was not on disk when the machine stopped"
        );
    }
    removed
}

pub(super) async fn remove_sandbox(context: Arc<Context>, id: SandboxId) -> Result<(), StepError> {
    let request = v1::RemovePodSandboxRequest {
        pod_sandbox_id: id.into(),
    };
    let remove = context.client.remove_pod_sandbox(request);
    let limiter = &context.limiter;
    if_found(limiter.run(Class::Cleanup, CallKind::Remove, remove).await)?;
    Ok(())
}

/// Removes a container, and its files where it is `known` whose they are.
pub(super) async fn remove_container(
    context: Arc<Context>,
    key: PodKey,
    id: ContainerId,
    known: Option<Container>,
) -> Result<(), StepError> {
    let request = v1::RemoveContainerRequest {
        container_id: id.to_string(),
    };
    let remove = context.client.remove_container(request);
    let limiter = &context.limiter;
    if_found(limiter.run(Class::Cleanup, CallKind::Remove, remove).await)?;
    let Some(known) = known else {
        return Ok(());
    };
    let paths = context.facts.paths.clone();
    let owner = key.clone();
    let remove = move || {
        let Container {
            uid, name, attempt, ..
        } = &known;
        let uid = ValidUid::parse(uid)?;
        folder::remove_container(&paths, &key, &uid, name, *attempt)
    };
    let subject = blocking::FileSubject::of(&owner, &id, format!("removal of container {id}"));
    let removed = pooled(subject, REMOVAL, remove).await;
    let removed = removed.map_err(timed_out("FailedRemoval"))?;
    removed.map_err(node_failure("FailedRemoval"))
}

/// Removes all that a version has on the node, and releases its allocations.
pub(super) async fn clean_up(
    context: Arc<Context>,
    key: PodKey,
    uid: Uid,
) -> Result<(), StepError> {
    let subject = blocking::FileSubject::of(&key, &uid, format!("clean-up of {uid}"));
    let valid = ValidUid::parse(&uid).map_err(io::Error::from);
    let valid = valid.map_err(node_failure("FailedRemoval"))?;
    let clear = move || {
        let Context {
            facts, allocations, ..
        } = &*context;
        remove_cgroups(&context, &valid)?;
        folder::remove(&facts.paths, &key, &valid)?;
        allocations.release(&key, &uid);
        if let Err(error) = update_cpu_shares(&context) {
            // The next Pod that starts or goes reports it.
            debug!(pod = %key, %error, "Failed to update QoS CPU shares");
        }
        Ok(())
    };
    let cleaned_up = pooled(subject, REMOVAL, clear).await;
    let cleaned_up = cleaned_up.map_err(timed_out("FailedRemoval"))?;
    cleaned_up.map_err(node_failure("FailedRemoval"))
}

/// Removes the cgroups of the Pods of a UID.
pub(super) fn remove_cgroups(context: &Context, uid: &ValidUid) -> io::Result<()> {
    let facts = &context.facts;
    // A Pod of before --cgroup-root was set has its cgroup elsewhere.
    let roots = BTreeSet::from([facts.cgroup_root.clone(), CgroupRoot::default()]);
    for root in &roots {
        for path in pod_cgroup_paths(facts.cgroup_driver, root, uid.as_str()) {
            cgroup::remove(&facts.paths.cgroups, &path)?;
        }
    }
    Ok(())
}

/// Updates the CPU shares of the QoS classes to what the Pods that are left request.
pub(super) fn update_cpu_shares(context: &Context) -> io::Result<()> {
    let facts = &context.facts;
    let driver = facts.cgroup_driver;
    cgroup::update_shares(&facts.paths.cgroups, driver, || {
        qos_cpu_shares(
            driver,
            &facts.cgroup_root,
            context.allocations.burstable_cpu(),
        )
    })
}
