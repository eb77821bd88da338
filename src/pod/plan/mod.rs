//! The planner: from what is wanted and what is observed to the next step for one Pod.
//!
//! Pure, and it holds all the rules: which version runs, restart policy, backoff, what is kept and
//! what goes. Invariants, tested as properties: from any state it reaches the wanted one in a bounded
//! number of steps; it never stops a healthy container of an unchanged Pod; it never has two live
//! containers of one name. The order of the rules stands here, and the rules in files by their subject.

mod clean_up;
mod images;
mod order;
mod outcome;
mod restart;
pub mod rules;
mod start;
mod step;
mod stop;
mod takeover;
#[cfg(test)]
pub(in crate::pod) mod tests;
pub(in crate::pod) mod waiting;

pub use images::{WantedImage, image_volumes, volume_holder, wanted_images};
pub use order::{HeldBy, held_by};
pub use outcome::Outcome;
pub use restart::{RestartChoice, choose_instances};
pub use step::Step;
pub use takeover::kept_version;

use self::rules::{deadline, is_finished, restart_all_due};
use self::start::Start;
use self::stop::SANDBOX_STOP;
use self::takeover::OBJECTS_COME;
use crate::manifest::objects::{container_start_errors, start_errors, volume_start_errors};
use crate::manifest::{StaticPod, Uid};
use crate::pod::state::View;
use crate::pod::state::time::MonotonicTime;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

/// The planner's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The step to execute now; `None` if all is as it should be or has to wait.
    pub step: Option<Step>,
    /// Time of the next plan even if nothing happens until then.
    pub wake: Option<MonotonicTime>,
}

/// Works out the next step.
#[must_use]
pub fn plan(view: View<'_>) -> Plan {
    let mut planner = Planner { view, wake: None };
    let step = planner.next();
    Plan {
        wake: if step.is_some() { None } else { planner.wake },
        step,
    }
}

/// Returns true if something is not to wait until single containers of this version have been stopped: that it is on
/// its way out, which has a grace period of its own, or that another can be made ready.
#[must_use]
pub fn is_urgent(view: View<'_>, uid: &Uid) -> bool {
    match plan(view).step {
        Some(Step::Terminate { .. }) => true,
        Some(
            Step::Admit { uid: other }
            | Step::EnsureImage { uid: other, .. }
            | Step::CheckVolumes { uid: other }
            | Step::TakeTurn { uid: other },
        ) => other != *uid,
        _ => false,
    }
}

struct Planner<'a> {
    view: View<'a>,
    wake: Option<MonotonicTime>,
}

impl Planner<'_> {
    fn next(&mut self) -> Option<Step> {
        if self.view.state.shutdown.is_some() {
            return self.shut_down();
        }
        if let Some(step) = self.start_again() {
            return Some(step);
        }
        let kept = kept_version(self.view);
        let leaving = self.leaving(kept);
        for uid in &leaving {
            if let Some(step) = self.stop(uid) {
                return Some(step);
            }
        }
        if leaving.iter().any(|uid| self.holds_processes(uid)) {
            return None;
        }
        // The wanted version first, the remains of the old one after: that makes the gap short.
        let step = match (self.view.wanted, kept) {
            // Nothing of the kept version may block the wanted one.
            (Some(wanted), Some(kept)) => self.prepare(wanted).or_else(|| self.run(kept)),
            (Some(wanted), None) if self.can_run(wanted, &leaving) => self.run(wanted),
            _ => None,
        };
        step.or_else(|| leaving.iter().find_map(|uid| self.clear(uid)))
    }

    /// Returns true if nothing that an earlier instance of the same version left has to go first.
    fn can_run(&self, version: &StaticPod, leaving: &[&Uid]) -> bool {
        let uid = &version.uid;
        !leaving.contains(&uid) && !self.view.state.is_being_cleaned_up(uid)
    }

    /// Brings a version up and keeps it up.
    fn run(&mut self, version: &StaticPod) -> Option<Step> {
        let observed = self.view.observed;
        let uid = &version.uid;
        if is_finished(self.view, version) {
            return self.wind_up(version);
        }
        if let Some(step) = self.fail(version) {
            return Some(step);
        }
        if observed.has_none_of(uid) && self.is_held_for_objects(version) {
            return self.report_missing(version);
        }
        if observed.has_none_of(uid) && !self.view.state.is_admitted(uid) {
            return self.admit(uid);
        }
        // Where the version was over until now, its sandbox may be on its way out.
        let current = observed.ready_sandbox(uid);
        let current = current.filter(|sandbox| !self.is_being_stopped(sandbox));
        if let Some(due) = restart_all_due(self.view, version) {
            let waits = self.must_wait_until(due);
            return (!waits).then(|| Step::RestartAll { uid: uid.clone() });
        }
        let stray = self.stray(uid, current);
        let waits_for_strays = !stray.is_empty();
        let step = self.clear_the_way(uid, current, stray);
        if step.is_some() || waits_for_strays || self.waits_for_stops(uid, current) {
            return step;
        }
        if let Some(step) = self.stop_requested(uid).or_else(|| self.stop_failed(uid)) {
            return Some(step);
        }
        let wants: Vec<(&ContainerSpec, Start)> = self
            .due(version, current)
            .into_iter()
            .filter(|spec| container_start_errors(version, &spec.name).is_empty())
            .filter_map(|spec| Some((spec, self.wanted_start(version, spec, current)?)))
            .collect();
        let image = self.image_for(version, &wants);
        if image.is_some() {
            return image;
        }
        let step = match current {
            Some(sandbox) => self.start_first_of(version, wants, sandbox),
            // Its images are checked first, and that takes no time.
            None if wants
                .iter()
                .any(|(spec, _)| self.is_checking(version, spec)) =>
            {
                None
            }
            None if self.is_held(version) => None,
            None => self.run_sandbox(uid),
        };
        step.or_else(|| self.report_missing(version))
            .or_else(|| self.collect_garbage(version))
    }

    /// Returns true if a version waits as a whole for objects that no manifest has. As with the kubelet it does
    /// for those behind its volumes, and a variable blocks its container alone. Once a manifest has what
    /// is missing another version comes, so one that came with its objects is given the time to do so.
    fn is_held_for_objects(&mut self, version: &StaticPod) -> bool {
        if start_errors(version).is_empty() {
            return false;
        }
        let starts = |spec: &ContainerSpec| container_start_errors(version, &spec.name).is_empty();
        let can_start = match version.init_containers().first() {
            Some(first) => starts(first),
            None => version.containers().iter().any(starts),
        };
        if !can_start || !volume_start_errors(version).is_empty() {
            return true;
        }
        let seen = self.view.state.first_seen(&version.uid);
        seen.is_some_and(|seen| self.must_wait_until(seen.monotonic.after(OBJECTS_COME)))
    }

    /// A version that has run for longer than it may has failed (API reference,
    /// `activeDeadlineSeconds`).
    fn fail(&mut self, version: &StaticPod) -> Option<Step> {
        let due = deadline(self.view, version)?;
        if self.must_wait_until(due) {
            return None;
        }
        Some(Step::Fail {
            uid: version.uid.clone(),
            reason: "DeadlineExceeded",
            message: "Pod was active on the node longer than the specified deadline".to_owned(),
        })
    }

    /// A step to find out whether a version can run here, unless it was found not to.
    fn admit(&self, uid: &Uid) -> Option<Step> {
        let rejected = self.view.state.rejection(uid).is_some();
        (!rejected).then(|| Step::Admit { uid: uid.clone() })
    }

    /// The step for the first of these ids that did not just fail.
    fn first_of<Id>(&mut self, ids: Vec<Id>, step: impl Fn(Id) -> Step) -> Option<Step> {
        ids.into_iter().find_map(|id| self.unless_failing(step(id)))
    }

    /// The step, unless it is under way or failed a short while ago.
    fn unless_failing(&mut self, step: Step) -> Option<Step> {
        let Some(subject) = step.subject() else {
            return Some(step);
        };
        if let Some(begun) = self.view.state.under_way.get(&subject) {
            // From then on it counts as one that hangs.
            self.must_wait_until(begun.after(SANDBOX_STOP));
            return None;
        }
        match self.view.state.failures.get(&subject) {
            Some(failure) if self.must_wait_until(failure.retry) => None,
            _ => Some(step),
        }
    }

    fn must_wait_until(&mut self, due: MonotonicTime) -> bool {
        let early = due > self.view.now;
        if early {
            self.wake = Some(self.wake.map_or(due, |wake| wake.min(due)));
        }
        early
    }
}
