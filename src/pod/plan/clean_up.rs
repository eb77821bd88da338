//! Removing what stopped: all that a version left, and the old instances of one that runs.

use super::{Planner, Step};
use crate::manifest::{StaticPod, Uid};
use crate::pod::state::Subject;
use crate::pod::state::observed::{ContainerId, Sandbox};

impl Planner<'_> {
    /// Removes what a stopped version left: in the runtime first, then on the node.
    pub(super) fn clear(&mut self, uid: &Uid) -> Option<Step> {
        let observed = self.view.observed;
        if self.is_cleaning() {
            return None;
        }
        let stopped = observed.sandboxes_of(uid).filter(|s| !self.needs_stop(s));
        let sandboxes = stopped.map(|s| s.id.clone()).collect();
        let step = self.first_of(sandboxes, |id| Step::RemoveSandbox { id });
        if step.is_some() {
            return step;
        }
        let containers = observed.containers_of(uid).map(|c| c.id.clone()).collect();
        let step = self.first_of(containers, |id| Step::RemoveContainer { id });
        if step.is_some() {
            return step;
        }
        let on_disk = self.view.state.is_on_disk(uid);
        if observed.has_none_of(uid) && on_disk {
            let step = Step::CleanUp { uid: uid.clone() };
            return self.unless_failing(step);
        }
        None
    }

    /// Removes containers and sandboxes that nobody needs any more. Of each name the newest container
    /// stays, and beside one that is not over the last one that is, for its log.
    pub(super) fn collect_garbage(&mut self, version: &StaticPod) -> Option<Step> {
        if self.is_cleaning() {
            return None;
        }
        let observed = self.view.observed;
        let uid = &version.uid;
        let mut old: Vec<ContainerId> = vec![];
        for spec in version.all_containers() {
            let history = observed.history_of(uid, &spec.name);
            let Some((newest, older)) = history.split_first() else {
                continue;
            };
            let mut kept = newest.exit().is_some();
            for container in older.iter().filter(|c| !c.is_live()) {
                if !kept && container.exit().is_some() {
                    kept = true;
                } else {
                    old.push(container.id.clone());
                }
            }
        }
        let step = self.first_of(old, |id| Step::RemoveContainer { id });
        if step.is_some() {
            return step;
        }
        let newest = observed.newest_sandbox(uid).map(|s| s.id.clone());
        let empty = |s: &&Sandbox| !observed.containers_of(uid).any(|c| c.sandbox == s.id);
        let old = observed
            .sandboxes_of(uid)
            .filter(|s| !s.ready)
            .filter(empty);
        let old = old.filter(|s| newest.as_ref() != Some(&s.id));
        self.first_of(old.map(|s| s.id.clone()).collect(), |id| {
            Step::RemoveSandbox { id }
        })
    }

    /// Returns true if something of the Pod is being removed: that goes on beside its steps, one at a time.
    fn is_cleaning(&self) -> bool {
        let mut under_way = self.view.state.under_way.keys();
        under_way.any(|subject| {
            matches!(
                subject,
                Subject::RemoveContainer(_) | Subject::RemoveSandbox(_) | Subject::CleanUp(_)
            )
        })
    }
}
