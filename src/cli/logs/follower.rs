//! Following the logs of containers.

use std::io::{self, Write};
use std::time::Duration;

use super::folder;
use super::output::ContainerOutput;
use crate::cli::agent::{self, Agent, containers, status};
use crate::logs::Cursor;
use crate::manifest::PodKey;
use crate::server::{Lines, PodDetail, PodDetails, PodName};

/// Interval at which a followed log is checked for more.
const INTERVAL: Duration = Duration::from_millis(100);

/// Follower of a container's log, over restarts and over updates of its Pod.
pub(super) struct LogFollower<'a> {
    agent: &'a Agent,
    name: PodName,
    cursor: Cursor,
    container: String,
    /// The Pod as last reported; `None` once it is gone.
    pod: Option<PodDetail>,
    /// Changes of the Pod; `None` while no agent runs, which ends no container.
    changes: Option<Lines<PodDetails>>,
    out: ContainerOutput,
}

impl<'a> LogFollower<'a> {
    pub(super) fn new(
        agent: &'a Agent,
        pod: PodDetail,
        container: String,
        cursor: Cursor,
        out: ContainerOutput,
    ) -> Self {
        let key = PodKey {
            namespace: pod.report.namespace.clone(),
            name: pod.report.name.clone(),
        };
        Self {
            agent,
            name: PodName::of(&key),
            cursor,
            container,
            pod: Some(pod),
            changes: None,
            out,
        }
    }

    /// Prints the log until the container has ended for good, or as much was printed as may be.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let Some(more) = self.read_on()? else {
                return Ok(());
            };
            if !more && self.is_over() {
                return Ok(());
            }
            if self.changes.is_none() {
                self.changes = self.agent.follow_pod(&self.name).await.ok();
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                change = next(&mut self.changes) => self.update(change?),
            }
        }
    }

    /// Prints what is new; returns true if there was anything, or `None` once as much was printed as may be.
    fn read_on(&mut self) -> io::Result<Option<bool>> {
        let is_running = self.is_running();
        let cursor = &mut self.cursor;
        let read = self.out.until_limit(|out| {
            let more = cursor.read_on(out)?;
            if !more && !is_running {
                cursor.flush(out)?;
            }
            Ok(more)
        });
        let read = read?;
        self.out.flush()?;
        Ok(read)
    }

    fn update(&mut self, change: Option<PodDetails>) {
        let Some(mut details) = change else {
            self.changes = None;
            return;
        };
        if details.waiting_for.is_some() {
            return;
        }
        self.pod = details.pods.pop();
        if let Some(pod) = &self.pod {
            self.cursor.go_on_in(folder(pod, &self.container));
        }
    }

    /// Returns whether an instance of the container is running, as last reported.
    fn is_running(&self) -> bool {
        let status = self
            .pod
            .as_ref()
            .and_then(|pod| status(pod, &self.container));
        let state = status.and_then(|status| status.state.as_ref());
        state.is_some_and(|state| state.running.is_some())
    }

    /// Returns whether the container has ended for good.
    fn is_over(&self) -> bool {
        let Some(pod) = &self.pod else {
            return true;
        };
        let Some(spec) = containers(pod).find(|c| c.name == self.container) else {
            return true;
        };
        let ended = ["Succeeded", "Failed"].contains(&pod.report.phase.as_str());
        let mains = agent::spec(pod).map_or(&[][..], |s| &s.containers);
        let is_main = mains.iter().any(|c| c.name == self.container);
        let is_init = !is_main && spec.restart_policy.as_deref() != Some("Always");
        let done = status(pod, &self.container).is_some_and(|s| s.ready);
        ended || is_init && done
    }
}

/// Waits for the next change; for ever while no agent runs.
async fn next(changes: &mut Option<Lines<PodDetails>>) -> anyhow::Result<Option<PodDetails>> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}
