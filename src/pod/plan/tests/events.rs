//! Events in containers that no step brings about: hooks end, probes find something, and containers exit.

use super::world::World;
use crate::manifest::ContainerRole;
use crate::pod::state::PostStart;
use crate::pod::state::observed::{Container, State};
use crate::probe::{Failed, Health, ProbeKind};

/// The end of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It exits by itself, with this code.
    Exit(i32),
    /// Its liveness probe fails, if it has one.
    Liveness,
    /// Its startup probe fails, if it has one.
    Startup,
    /// Its postStart hook fails, if it has one.
    PostStart,
}

impl World {
    /// Has the next event happen in a container that runs. Returns false if there is none.
    pub(super) fn happen(&mut self) -> bool {
        let running = self.observed.containers.iter();
        let running = running.filter(|c| matches!(c.state, State::Running { .. }));
        let running: Vec<Container> = running.cloned().collect();
        let happened = running.iter().any(|container| self.happen_in(container));
        self.record_histories();
        happened
    }

    fn happen_in(&mut self, container: &Container) -> bool {
        let (id, name) = (&container.id, &container.name);
        let (hook, health) = (self.state.post_starts.get(id), self.state.health(id));
        if health.failed.is_some() || matches!(hook, Some(PostStart::Failed(_))) {
            // It is to be stopped, and does nothing else until then.
            return false;
        }
        let is_hooked = hook.is_some();
        let next = self.ends.get(name).and_then(|ends| ends.last().copied());
        match next {
            Some(End::PostStart) if is_hooked => self.end_hook(container, Err("it failed".into())),
            _ if is_hooked => {
                self.end_hook(container, Ok(()));
                return true;
            }
            Some(End::Startup) if !health.started => self.fail_probe(id, ProbeKind::Startup),
            _ if !health.started => {
                let health = Health {
                    started: true,
                    ready: true,
                    failed: None,
                };
                self.state.probes.insert(id.clone(), health);
                return true;
            }
            Some(End::Liveness) if self.has_liveness_probe(container) => {
                self.fail_probe(id, ProbeKind::Liveness);
            }
            Some(End::Exit(code)) => self.set_state(id, self.ended(code)),
            // It has no such probe or hook.
            Some(End::Liveness | End::Startup | End::PostStart) => {}
            None => return self.succeed(container),
        }
        self.ends.get_mut(name).and_then(Vec::pop);
        true
    }

    fn end_hook(&mut self, container: &Container, result: Result<(), String>) {
        let (uid, id) = (&container.uid, &container.id);
        self.state.post_start_ended(Some(uid), id, result);
    }

    fn has_liveness_probe(&self, container: &Container) -> bool {
        let spec = self.spec(container);
        spec.is_some_and(|spec| spec.liveness_probe.is_some())
    }

    fn fail_probe(&mut self, id: &str, kind: ProbeKind) {
        let failed = Failed {
            kind,
            message: String::new(),
        };
        let health = Health {
            started: kind == ProbeKind::Liveness,
            ready: false,
            failed: Some(failed),
        };
        self.state.probes.insert(id.into(), health);
    }

    /// An init container succeeds. Returns false if it is none, and runs on.
    fn succeed(&mut self, container: &Container) -> bool {
        let (uid, name) = (&container.uid, &container.name);
        let pod = self.state.pod(uid);
        let is_init = pod.is_some_and(|pod| pod.role(name) == ContainerRole::Init);
        if is_init {
            self.set_state(&container.id, self.ended(0));
        }
        is_init
    }
}
