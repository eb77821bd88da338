//! The postStart hooks of containers. They run beside the task's steps; one that an earlier agent did not
//! see to its end runs again.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{info, warn};

use super::PodTask;
use crate::manifest::StaticPod;
use crate::pod::events::EventKind;
use crate::pod::plan::{Outcome, Step};
use crate::pod::state::PostStart;
use crate::pod::state::observed::{Container, ContainerId, State};
use crate::probe::hook;
use crate::probe::hook::POST_START_FAILED;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

/// A postStart hook of a container; gives the container's ID and the hook's result.
pub(super) type PostStartHook = BoxFuture<'static, (ContainerId, Result<(), String>)>;

impl PodTask {
    /// Records, on disk too, that the postStart hook of a container is not done, if it has one.
    pub(super) async fn expect_post_start(
        &mut self,
        step: &Step,
        spec: &ContainerSpec,
        id: &ContainerId,
    ) {
        let lifecycle = spec.lifecycle.as_ref();
        if lifecycle.is_some_and(|l| l.post_start.is_some()) {
            self.outcome(step, Outcome::PostStart(id.clone()));
            self.record_histories().await;
        }
    }

    /// Runs the hooks again that ran when an earlier agent ended.
    pub(super) fn resume_post_starts(&mut self) {
        let hooks = self.state.post_starts.iter();
        let interrupted = hooks.filter(|(_, hook)| **hook == PostStart::Interrupted);
        let ids: Vec<ContainerId> = interrupted.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let known = self.observed.container(&id);
            let running = known.filter(|c| matches!(c.state, State::Running { .. }));
            let version = running.and_then(|c| Some((self.version(&c.uid)?, c.name.clone())));
            let Some((version, name)) = version else {
                continue;
            };
            if let Some(spec) = version.container(&name) {
                info!(pod = %self.key, container = name, "Running the interrupted postStart hook again");
                self.begin_post_start(&version, spec, &id);
            }
        }
    }

    /// Begins the hook after a container's start, if it has one. The Pod's task goes on meanwhile.
    pub(super) fn begin_post_start(
        &mut self,
        version: &StaticPod,
        spec: &ContainerSpec,
        id: &ContainerId,
    ) {
        let lifecycle = spec.lifecycle.as_ref();
        if lifecycle.is_none_or(|l| l.post_start.is_none()) {
            return;
        }
        let hooks = &mut self.state.post_starts;
        hooks.insert(id.clone(), PostStart::Running);
        let client = self.context.client.clone();
        let (spec, id, ip) = (spec.clone(), id.clone(), self.pod_ip(&version.uid));
        let step = self.under_way(&version.uid, Some(&spec.name), "PostStartHook");
        let hook = async move {
            let _step = step;
            let result = hook::post_start(&client, &spec, &id, &ip, Duration::MAX).await;
            (id, result)
        };
        self.post_starts.push(hook.boxed());
    }

    /// Records the result of a container's postStart hook.
    pub(super) fn post_started(&mut self, id: &ContainerId, result: Result<(), String>) {
        let known = self.observed.container(id);
        if let (Some(Container { uid, name, .. }), Err(error)) = (known, &result) {
            warn!(pod = %self.key, container = name, error, "PostStart hook failed");
            let (kind, message) = (EventKind::Warning, POST_START_FAILED);
            self.event(uid, Some(name), kind, "FailedPostStartHook", message);
        }
        let uid = known.map(|c| c.uid.clone());
        self.state.post_start_ended(uid.as_ref(), id, result);
    }
}
