//! The promises that the planner keeps, in the words of Kubernetes' documentation (Pod Lifecycle, Init
//! Containers, Sidecar Containers, Container Lifecycle Hooks) and without the planner's own rules.

use k8s_openapi::api::core::v1::Container as ContainerSpec;

use super::world::World;
use crate::manifest::StaticPod;
use crate::pod::plan::Step;
use crate::pod::state::PostStart;
use crate::pod::state::observed::{Container, State};
use crate::probe::ProbeKind;

/// A promise that was not kept, for people.
pub(super) type Broken = Result<(), String>;

fn is_sidecar(spec: &ContainerSpec) -> bool {
    spec.restart_policy.as_deref() == Some("Always")
}

fn require(holds: bool, promise: &str) -> Broken {
    if holds {
        Ok(())
    } else {
        Err(promise.to_owned())
    }
}

impl World {
    fn newest_of<'a>(&'a self, pod: &StaticPod, name: &str) -> Option<&'a Container> {
        let all = self.observed.containers_of(&pod.uid);
        all.filter(|c| c.name == name).max_by_key(|c| c.attempt)
    }

    /// Returns true if a container that has ended runs again: by the restart rules, then its own restart
    /// policy, then the Pod's; or since all containers are restarted.
    fn runs_again(&self, pod: &StaticPod, spec: &ContainerSpec, container: &Container) -> bool {
        let code = container.exit().unwrap().code;
        if self.state.is_replaced(container) {
            return true;
        }
        let is_init = pod
            .init_containers()
            .iter()
            .any(|init| init.name == spec.name);
        if is_init && is_sidecar(spec) {
            return true;
        }
        if is_init && code == 0 {
            return false;
        }
        let rules = spec.restart_policy_rules.iter().flatten();
        let mut codes = rules.filter_map(|rule| rule.exit_codes.as_ref()?.values.as_ref());
        if codes.any(|codes| codes.contains(&code)) {
            return true;
        }
        let of_pod = pod.spec.restart_policy.as_deref();
        // What does not work has failed, whatever its exit code is after its stop.
        let has_failed = code != 0 || self.state.failed_instance(container).is_some();
        match spec.restart_policy.as_deref().or(of_pod) {
            Some("Never") => false,
            Some("OnFailure") => has_failed,
            _ => !is_init || has_failed,
        }
    }

    /// Returns the exit code of a container that has ended and does not run again.
    fn stays_over(&self, pod: &StaticPod, spec: &ContainerSpec) -> Option<i32> {
        let newest = self.newest_of(pod, &spec.name)?;
        let code = newest.exit()?.code;
        (!self.runs_again(pod, spec, newest)).then_some(code)
    }

    /// Returns true if a Pod is over: an init container failed for good, or all of its own containers are.
    pub(super) fn is_over(&self, pod: &StaticPod) -> bool {
        let is_over = |spec| self.stays_over(pod, spec);
        let inits = pod
            .init_containers()
            .iter()
            .filter(|spec| !is_sidecar(spec));
        let has_finished = self.state.finished(&pod.uid).is_some();
        has_finished
            || inits.filter_map(is_over).any(|code| code != 0)
            || pod.containers().iter().all(|spec| is_over(spec).is_some())
    }

    /// Returns true if a hook after the start of a container is not done.
    fn is_hooked(&self, container: &Container) -> bool {
        let hook = self.state.post_starts.get(&container.id);
        matches!(hook, Some(PostStart::Running | PostStart::Interrupted))
    }

    /// Returns true if a container is to be restarted because a probe or its hook failed.
    fn is_failing(&self, container: &Container) -> bool {
        let hook = self.state.post_starts.get(&container.id);
        let failed = self.state.health(&container.id).failed;
        matches!(hook, Some(PostStart::Failed(_)))
            || failed.is_some_and(|failed| failed.kind != ProbeKind::Readiness)
            || self.state.failed_instance(container).is_some()
    }

    /// Checks that a container which a step starts may run now.
    pub(super) fn check_start(&self, step: &Step) -> Broken {
        let (uid, name, sandbox) = match step {
            Step::RunContainer {
                uid,
                container,
                sandbox,
                ..
            } => (uid, container, sandbox.clone()),
            Step::StartContainer { uid, container, id } => {
                let known = self.observed.containers.iter().find(|c| c.id == *id);
                (uid, container, known.unwrap().sandbox.clone())
            }
            _ => return Ok(()),
        };
        let beside = self.live().into_iter().any(|c| c.name == *name);
        require(!beside, "no container starts beside a live one of its name")?;
        let pod = self.state.pod(uid).unwrap();
        require(!self.is_over(pod), "nothing of a Pod that is over starts")?;
        let all: Vec<&ContainerSpec> = pod
            .init_containers()
            .iter()
            .chain(pod.containers())
            .collect();
        let place = all.iter().position(|spec| spec.name == *name).unwrap();
        let (spec, is_main) = (all[place], place >= pod.init_containers().len());
        if let Some(newest) = self.newest_of(pod, name)
            && newest.exit().is_some()
        {
            // Init containers run once in each sandbox.
            let is_elsewhere = !is_main && newest.sandbox != sandbox;
            let again = is_elsewhere || self.runs_again(pod, spec, newest);
            require(again, "a container runs again only as its policy says")?;
        }
        self.check_order(pod, &all[..place], is_main, &sandbox)
    }

    /// Checks that the containers which come before one are done, or run.
    fn check_order(
        &self,
        pod: &StaticPod,
        before: &[&ContainerSpec],
        is_main: bool,
        sandbox: &str,
    ) -> Broken {
        let here = |spec: &ContainerSpec| {
            let newest = self.newest_of(pod, &spec.name);
            newest.filter(|c| c.sandbox == sandbox && !self.state.is_replaced(c))
        };
        let is_initialized = pod.containers().iter().any(|spec| here(spec).is_some());
        for (place, spec) in before.iter().enumerate() {
            let newest = here(spec);
            if place >= pod.init_containers().len() {
                let is_hooked = newest.is_some_and(|c| c.is_live() && self.is_hooked(c));
                require(!is_hooked, "containers wait for the hooks of those before")?;
            } else if is_main && is_initialized {
                // All that comes before was done once.
            } else if is_sidecar(spec) {
                let is_up = newest.is_some_and(|c| self.is_up(c));
                require(is_initialized || is_up, "containers wait for sidecars")?;
            } else {
                let is_done = newest.and_then(|c| c.exit()).is_some_and(|e| e.code == 0);
                require(
                    is_initialized || is_done,
                    "containers wait for init containers",
                )?;
            }
        }
        Ok(())
    }

    /// Returns true if a container runs, has started and is not to be restarted.
    fn is_up(&self, container: &Container) -> bool {
        matches!(container.state, State::Running { .. })
            && self.state.health(&container.id).started
            && !self.is_hooked(container)
            && !self.is_failing(container)
    }

    /// Checks that a step stops no healthy container of a Pod that is wanted as it is.
    pub(super) fn check_stop(&self, step: &Step) -> Broken {
        let Some(pod) = self.wanted.as_ref() else {
            return Ok(());
        };
        if self.state.is_terminating(&pod.uid) {
            return Ok(());
        }
        let is_stopped = |c: &&Container| match step {
            Step::Terminate { uid } => *uid == pod.uid,
            Step::StopContainers { ids, .. } => ids.contains(&c.id),
            Step::StopSandbox { id } | Step::RemoveSandbox { id } => c.sandbox == *id,
            Step::RemoveContainer { id } => c.id == *id,
            _ => false,
        };
        let sandbox = self.observed.ready_sandbox(&pod.uid).map(|s| &s.id);
        let is_healthy = |c: &Container| {
            let is_newest = self.newest_of(pod, &c.name).is_some_and(|n| n.id == c.id);
            matches!(c.state, State::Running { .. })
                && is_newest
                && sandbox == Some(&c.sandbox)
                && !self.is_failing(c)
                && !self.state.is_replaced(c)
        };
        let mut stopped = self.observed.containers_of(&pod.uid).filter(is_stopped);
        let is_healthy = stopped.any(is_healthy);
        require(
            !is_healthy || self.is_over(pod),
            "no healthy container of an unchanged Pod is stopped",
        )
    }

    /// Checks what there is of a Pod once nothing is left to do.
    pub(super) fn check_end(&self, pod: &StaticPod) -> Broken {
        let live = self.live();
        let sandbox = self.observed.ready_sandbox(&pod.uid);
        if self.is_over(pod) {
            require(live.is_empty(), "nothing of a Pod that is over runs")?;
            return require(sandbox.is_none(), "a Pod that is over has no sandbox");
        }
        let sandbox = sandbox.ok_or("a Pod that is not over has a sandbox")?;
        let is_running = |spec: &ContainerSpec| {
            let newest = self.newest_of(pod, &spec.name);
            newest.is_some_and(|c| c.sandbox == sandbox.id && self.is_up(c))
        };
        for spec in pod.containers() {
            let is_over = self.stays_over(pod, spec).is_some();
            require(
                is_over || is_running(spec),
                "each container runs or is over",
            )?;
        }
        let here = |spec: &ContainerSpec| {
            let newest = self.newest_of(pod, &spec.name);
            newest.is_some_and(|c| c.sandbox == sandbox.id)
        };
        let is_initialized = pod.containers().iter().any(here);
        for spec in pod.init_containers() {
            let is_done = self.stays_over(pod, spec) == Some(0) || is_initialized;
            let holds = if is_sidecar(spec) {
                is_running(spec)
            } else {
                is_done
            };
            require(holds, "init containers are done, and sidecars run")?;
        }
        let mut names: Vec<&str> = live.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        require(names.len() == count, "no two live containers of one name")?;
        let all_running = live
            .iter()
            .all(|c| matches!(c.state, State::Running { .. }));
        require(all_running, "the runtime has lost track of no container")
    }
}
