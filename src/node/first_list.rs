//! The list of what the runtime has when the agent starts, with what other agents left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tracing::warn;

use crate::cri::{Error, v1};
use crate::host::blocking::limited;
use crate::host::log_once::LogOnce;
use crate::pod::folder;
use crate::pod::observe::Listed;
use crate::pod::task::Context;
use crate::translate::labels;

/// Longest wait before another try to list what the runtime has.
const RELIST_MAX: Duration = Duration::from_secs(5);
/// Limit for finding out if another agent runs.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// Lists what the runtime has, however long it takes to answer, and records what a kubelet left.
pub(super) async fn first_list(context: &Context) -> Listed {
    let mut delay = Duration::from_millis(200);
    let mut problems = LogOnce::default();
    loop {
        match first_list_now(context).await {
            Ok((everything, listed)) => {
                warn_of_others(context, &everything).await;
                return listed;
            }
            Err(error) => {
                if problems.should_log("list", Some(&error.to_string())) {
                    warn!(%error, "Failed to list sandboxes and containers, trying again");
                }
            }
        }
        tokio::time::sleep(delay).await;
        delay = delay.saturating_mul(2).min(RELIST_MAX);
    }
}

/// Lists all sandboxes, and the sandboxes and containers that carry our owner label.
async fn first_list_now(context: &Context) -> Result<(Vec<v1::PodSandbox>, Listed), Error> {
    let everything = v1::ListPodSandboxRequest::default();
    let everything = context.client.list_pod_sandbox(everything).await?.items;
    context.kubelet_pods.record(&everything);
    let listed = Listed::fetch(&context.client, &context.owner_label, None).await?;
    Ok((everything, listed))
}

/// Warns of Pods of an agent with another root directory that does not run: they are left alone, which surprises
/// those who changed the root directory of this agent.
async fn warn_of_others(context: &Context, everything: &[v1::PodSandbox]) {
    let owner_labels = everything
        .iter()
        .filter_map(|s| s.labels.get(labels::ROOT_DIR));
    let others: BTreeSet<&String> = owner_labels
        .filter(|m| **m != context.owner_label)
        .collect();
    // An agent that runs manages its own Pods; several on one node surprise nobody.
    let mut left = vec![];
    for root_dir in others {
        // The path comes from a label, so that it may lie anywhere.
        let root = PathBuf::from(root_dir);
        let is_locked = limited(root_dir.as_str(), LOCK_LIMIT, move || {
            folder::is_locked(&root)
        });
        if !is_locked.await.unwrap_or_default() {
            left.push(root_dir.as_str());
        }
    }
    if !left.is_empty() {
        warn!(
            root_dirs = left.join(", "),
            "Found Pods of agents with other root directories that do not run, leaving them alone"
        );
    }
}
