//! Starting: the sandbox, and the containers that are due, each once its images are there.

use std::time::Duration;

use super::images::{image_volumes, is_image_ready};
use super::rules::{Restart, restart, restart_backoff};
use super::{Planner, Step, waiting};
use crate::manifest::is_sidecar;
use crate::manifest::{ContainerRole, StaticPod, Uid};
use crate::pod::state::observed::{Container, ContainerId, Exit, Sandbox, State};
use crate::pod::state::{Image, PostStart, Subject};
use k8s_openapi::api::core::v1::Container as ContainerSpec;

/// A sandbox that died is replaced at once, but if that one dies as well not before it was this old:
/// making sandboxes is the most expensive thing a runtime does.
const SANDBOX_INTERVAL: Duration = Duration::from_secs(5);
/// Dead sandboxes of a version that cannot be stopped, as where the network plugin is gone, before no more are made.
const MAX_UNSTOPPED: usize = 5;

/// The start of a container that is due.
pub(super) enum Start {
    /// It is made and only has to be started.
    Existing(ContainerId),
    /// It is made first.
    New {
        attempt: u32,
        backoff: Option<Duration>,
    },
}

impl Planner<'_> {
    /// The containers that may run now: those that must come first until the first that is not done,
    /// and the Pod's own once all are. Where one of its own was made in this sandbox, all were done
    /// (Kubernetes, Init Containers, and Sidecar Containers). Nothing comes after a container whose
    /// hook after its start still runs.
    pub(super) fn due<'v>(
        &self,
        version: &'v StaticPod,
        current: Option<&Sandbox>,
    ) -> Vec<&'v ContainerSpec> {
        let state = self.view.state;
        let here = |name: &str| {
            let history = self.view.observed.history_of(&version.uid, name);
            let last = history.into_iter().next();
            last.filter(|c| current.is_some_and(|s| s.id == c.sandbox) && !state.is_replaced(c))
        };
        let hooked = |c: &Container| {
            let hook = state.post_starts.get(&c.id);
            c.is_live() && matches!(hook, Some(PostStart::Running | PostStart::Interrupted))
        };
        let initialized = version.containers().iter().any(|c| here(&c.name).is_some());
        let mut due = vec![];
        for spec in version.init_containers() {
            let last = here(&spec.name);
            let done = match (is_sidecar(spec), last.map(|c| &c.state)) {
                (true, container_state) => {
                    due.push(spec);
                    let started = last.is_some_and(|c| {
                        let works = state.failed_instance(c).is_none() && !hooked(c);
                        works && state.health(&c.id).started
                    });
                    matches!(container_state, Some(State::Running { .. })) && started
                }
                (false, Some(State::Exited(exit))) if exit.code == 0 => true,
                (false, _) if initialized => true,
                (false, _) => {
                    due.push(spec);
                    false
                }
            };
            if !done && !initialized {
                return due;
            }
        }
        for spec in version.containers() {
            due.push(spec);
            if here(&spec.name).is_some_and(hooked) {
                break;
            }
        }
        due
    }

    /// A step towards the images of what has to be made.
    pub(super) fn image_for(
        &mut self,
        version: &StaticPod,
        wants: &[(&ContainerSpec, Start)],
    ) -> Option<Step> {
        let made = wants
            .iter()
            .filter(|(_, start)| matches!(start, Start::New { .. }));
        let own = made
            .clone()
            .find_map(|(spec, _)| self.ensure_image(version, &spec.name));
        let mut volumes = made.flat_map(|(spec, _)| image_volumes(version, spec));
        own.or_else(|| volumes.find_map(|holder| self.ensure_image(version, &holder)))
    }

    pub(super) fn run_sandbox(&mut self, uid: &Uid) -> Option<Step> {
        if self.view.state.kubelet_pod {
            return self.unless_failing(Step::TakeOverKubeletPod { uid: uid.clone() });
        }
        let of_version = self.view.observed.sandboxes_of(uid);
        if of_version.filter(|s| self.needs_stop(s)).count() >= MAX_UNSTOPPED {
            // Their stops are tried again, and nothing of another try would be stopped either.
            return None;
        }
        let newest = self.view.observed.newest_sandbox(uid);
        let subject = Subject::Sandbox(uid.clone());
        if let Some(dead) = newest.filter(|s| s.attempt > 0) {
            let made = self.view.state.last_start(&subject, dead.created);
            if self.must_wait_until(made.after(SANDBOX_INTERVAL)) {
                return None;
            }
        }
        let next = newest.map_or(0, |s| s.attempt.saturating_add(1));
        let step = Step::RunSandbox {
            uid: uid.clone(),
            attempt: self.view.state.free_attempt(&subject, next),
        };
        self.unless_failing(step)
    }

    /// Returns the start of a container that is due now; one that must wait sets the alarm.
    pub(super) fn wanted_start(
        &mut self,
        version: &StaticPod,
        spec: &ContainerSpec,
        current: Option<&Sandbox>,
    ) -> Option<Start> {
        let history = self.view.observed.history_of(&version.uid, &spec.name);
        let subject = Subject::Container(version.uid.clone(), spec.name.clone());
        let next = history.first().map_or(0, |c| c.attempt.saturating_add(1));
        let attempt = self.view.state.free_attempt(&subject, next);
        let Some(last) = history.first() else {
            let backoff = None;
            return Some(Start::New { attempt, backoff });
        };
        let is_here = current.is_some_and(|s| s.id == last.sandbox);
        match &last.state {
            State::Running { .. } | State::Unknown => None,
            State::Created if is_here => Some(Start::Existing(last.id.clone())),
            // Made in a sandbox that died before it was started: it never ran, so nothing is owed.
            State::Created => Some(Start::New {
                attempt,
                backoff: last.backoff,
            }),
            State::Exited(exit) => self.start_after(version, last, exit, is_here, attempt),
        }
    }

    /// Returns the start of a container whose `last` instance ended so, if it is due now. `is_here` says that
    /// the instance was in the current sandbox.
    fn start_after(
        &mut self,
        version: &StaticPod,
        last: &Container,
        exit: &Exit,
        is_here: bool,
        attempt: u32,
    ) -> Option<Start> {
        let new = |backoff| Some(Start::New { attempt, backoff });
        let restart = restart(self.view, version, last, exit);
        // Its sandbox died before it ran: nothing is owed for that either.
        let has_run = exit.started_at > 0 || last.gone;
        if !is_here && !has_run && restart != Restart::Never {
            return new(last.backoff);
        }
        // What must come first comes first in every sandbox.
        if !is_here && exit.code == 0 && version.role(&last.name) == ContainerRole::Init {
            return new(None);
        }
        match restart {
            Restart::Never => None,
            Restart::At(due, _) if self.must_wait_until(due) => {
                // The status of a start that failed changes before.
                let retry = waiting::retry(self.view, version, &last.name);
                retry.map(|retry| self.must_wait_until(retry));
                None
            }
            Restart::At(..) => new(restart_backoff(self.view, version, last, exit).recorded),
        }
    }

    /// Starts the first container that can be. Those of a new sandbox start in the manifest's order: one
    /// whose image is being pulled blocks those after it, as with the kubelet. One that ran before
    /// waits for nobody.
    pub(super) fn start_first_of(
        &mut self,
        version: &StaticPod,
        wants: Vec<(&ContainerSpec, Start)>,
        sandbox: &Sandbox,
    ) -> Option<Step> {
        let mut is_blocked = false;
        for (spec, start) in wants {
            is_blocked = is_blocked || self.is_pulling(version, spec);
            if is_blocked && matches!(start, Start::New { attempt: 0, .. }) {
                continue;
            }
            let step = self.start(version, spec, sandbox, start);
            if step.is_some() {
                return step;
            }
        }
        None
    }

    fn is_pulling(&self, version: &StaticPod, spec: &ContainerSpec) -> bool {
        self.is_checking(version, spec)
            || self.has_image(version, spec, |image| {
                matches!(image, Image::Pulling { .. })
            })
    }

    pub(super) fn is_checking(&self, version: &StaticPod, spec: &ContainerSpec) -> bool {
        self.has_image(version, spec, |image| matches!(image, Image::Checking(_)))
    }

    /// Returns true if one of the images that a container needs is in such a state.
    fn has_image(
        &self,
        version: &StaticPod,
        spec: &ContainerSpec,
        test: impl Fn(&Image) -> bool,
    ) -> bool {
        let mut holders = image_volumes(version, spec).chain([spec.name.clone()]);
        holders.any(|holder| {
            let image = self.view.state.image(&version.uid, &holder);
            image.is_some_and(&test)
        })
    }

    fn start(
        &mut self,
        version: &StaticPod,
        spec: &ContainerSpec,
        sandbox: &Sandbox,
        start: Start,
    ) -> Option<Step> {
        let uid = version.uid.clone();
        let container = spec.name.clone();
        let step = match start {
            Start::Existing(id) => Step::StartContainer { uid, container, id },
            Start::New { attempt, backoff } => {
                let state = self.view.state;
                let volumes = image_volumes(version, spec);
                let mut holders = volumes.chain([container.clone()]);
                if !holders.all(|holder| is_image_ready(state, version, &holder)) {
                    return None;
                }
                Step::RunContainer {
                    uid,
                    sandbox: sandbox.id.clone(),
                    container,
                    attempt,
                    backoff,
                }
            }
        };
        self.unless_failing(step)
    }

    /// A step towards a container's image, if one is due.
    pub(super) fn ensure_image(&mut self, version: &StaticPod, container: &str) -> Option<Step> {
        match self.view.state.image(&version.uid, container) {
            Some(Image::Ready { .. } | Image::Checking(_) | Image::Pulling { .. }) => {
                return None;
            }
            Some(Image::Failed { retry, .. }) if self.must_wait_until(*retry) => return None,
            Some(Image::Failed { .. }) | None => {}
        }
        Some(Step::EnsureImage {
            uid: version.uid.clone(),
            container: container.to_owned(),
        })
    }
}
