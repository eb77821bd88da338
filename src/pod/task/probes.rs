//! The probes of running containers: kept going, and their results taken over.

use tracing::info;

use super::PodTask;
use crate::pod::events::EventKind;
use crate::pod::plan::rules::{Restart, restart};
use crate::pod::state::observed::{Container, Exit, State};
use crate::probe::{Health, ProbeResult, ProbeUpdate, ProbedContainer, Which};

impl PodTask {
    /// Keeps the probes of what runs going, and takes over what they say.
    pub(super) fn sync_probes(&mut self) {
        let (context, state) = (&self.context, &self.state);
        let of_host = context.facts.identity.ips.first();
        let of_host = of_host.as_deref().unwrap_or("127.0.0.1");
        let mut known = vec![];
        for container in self.observed.containers.iter().filter(|c| !c.gone) {
            let State::Running { started_at } = container.state else {
                continue;
            };
            let Some(version) = state.pod(&container.uid) else {
                continue;
            };
            let spec = version.container(&container.name);
            let sandbox = self.observed.sandbox(&container.sandbox);
            let (Some(spec), Some(sandbox)) = (spec, sandbox) else {
                continue;
            };
            let history = state.history(&container.uid);
            let before = history
                .filter(|h| h.started.contains(&container.id))
                .map(|h| Health {
                    started: true,
                    ready: h.ready.contains(&container.id),
                    failed: None,
                });
            let clock = &context.clock;
            let age = clock.now().since(clock.monotonic_of(started_at));
            let ends = state.is_terminating(&container.uid);
            let which = if ends { Which::Readiness } else { Which::All };
            let ip = sandbox.ips.first().map_or(of_host, String::as_str);
            known.push((container, spec, ip, age, which, before));
        }
        let wanted: Vec<ProbedContainer<'_>> = known
            .iter()
            .map(
                |(container, spec, ip, age, which, before)| ProbedContainer {
                    container_id: &container.id,
                    uid: &container.uid,
                    spec,
                    ip,
                    age: *age,
                    which: *which,
                    known: before.as_ref(),
                },
            )
            .collect();
        self.probes.sync(&wanted);
        let known = self.state.probes.iter();
        let known = known.map(|(id, health)| (id.as_str(), health));
        if !known.eq(self.probes.results()) {
            let results = self.probes.results();
            self.state.probes = results
                .map(|(id, health)| (id.into(), health.clone()))
                .collect();
        }
    }

    /// Logs a change of what a probe finds, and records its event.
    pub(super) fn record_probe_change(&self, update: &ProbeUpdate) {
        let ProbeUpdate {
            container,
            kind,
            result,
            event,
            ..
        } = update;
        let known = self
            .observed
            .container(&update.container_id.as_str().into());
        if let (Some(event), Some(known)) = (event, known) {
            let (uid, warning) = (&known.uid, EventKind::Warning);
            self.event(uid, Some(container), warning, event.reason, &event.message);
        }
        let message = event.as_ref().map_or("", |event| event.message.as_str());
        match result {
            Some(ProbeResult::Failure) => {
                info!(pod = %self.key, container, ?kind, said = message, "Probe failed");
            }
            Some(ProbeResult::Success) => {
                info!(pod = %self.key, container, ?kind, "Probe succeeded");
            }
            None => {}
        }
    }

    /// Records the event of a container that ended so and is not started again at once.
    pub(super) fn record_back_off(&self, container: &Container, exit: &Exit) {
        let Some(version) = self.state.pod(&container.uid) else {
            return;
        };
        let again = restart(self.view(), version, container, exit);
        if matches!(again, Restart::At(_, delay) if !delay.is_zero()) {
            let (uid, name) = (&container.uid, &container.name);
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({uid})",
                self.key.name, self.key.namespace
            );
            self.event(uid, Some(name), EventKind::Warning, "BackOff", &message);
        }
    }
}
