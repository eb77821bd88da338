//! Restart of containers on request.

use std::sync::Arc;

use tracing::info;

use super::{PodTask, RequestRefused, RestartRequest};
use crate::manifest::StaticPod;
use crate::pod::events::EventKind;
use crate::pod::plan::{choose_instances, kept_version};

impl PodTask {
    /// Has containers replaced, and responds once the Pod's report shows it. The planner does the rest.
    pub(super) fn restart(&mut self, request: RestartRequest) {
        let result = self.begin_restart(request.container.as_deref());
        if result.is_ok() {
            self.publish();
        }
        // Who asked may have gone.
        let _ = request.reply.send(result);
    }

    fn begin_restart(&mut self, name: Option<&str>) -> Result<Vec<String>, RequestRefused> {
        let refused =
            |why: &str| RequestRefused(format!("Pod {} cannot be restarted: {why}", self.key));
        if self.state.shutdown.is_some() {
            return Err(refused("the machine shuts down"));
        }
        let Some(version) = self.version_to_restart() else {
            let paused = self.pause.is_some() && self.asked.is_some();
            let why = if paused {
                "it is paused"
            } else {
                "it is being stopped"
            };
            return Err(refused(why));
        };
        let choice = choose_instances(self.view(), &version, name);
        let choice = choice.map_err(|why| refused(&why))?;
        let uid = &version.uid;
        if choice.was_finished {
            // It gave back what it took when it was over, and another Pod may have it now.
            let admitted = self
                .context
                .allocations
                .admit(&self.context.facts, &version);
            admitted.map_err(|r| refused(&format!("{}: {}", r.reason, r.message)))?;
        }
        self.state.request_restart(uid, &choice);
        self.begin_trial_again();
        let names = choice.containers.join(", ");
        info!(pod = %self.key, containers = names, "Restarting containers on request");
        for container in &choice.containers {
            let message = format!("Container {container} is restarted on request");
            let (name, kind) = (Some(container.as_str()), EventKind::Normal);
            self.event(uid, name, kind, "RestartRequested", &message);
        }
        Ok(choice.containers)
    }

    /// Returns the version that runs, or comes to run.
    fn version_to_restart(&self) -> Option<Arc<StaticPod>> {
        let view = self.view();
        let version = kept_version(view).or(view.wanted)?;
        let is_terminating = self.state.is_terminating(&version.uid);
        (!is_terminating).then(|| Arc::clone(version))
    }
}
