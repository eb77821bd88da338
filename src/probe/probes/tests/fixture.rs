//! A Pod whose probes are answered by a script, on a clock that only timers move.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::{Container, ExecAction, Probe};
use tokio::time::{Instant, sleep, timeout};

use crate::cri::Client;
use crate::probe::probes::{ProbeSubject, Run};
use crate::probe::{Health, ProbeKind, ProbeOutcome, ProbeUpdate, ProbedContainer, Probes, Which};

pub(super) const ID: &str = "first";

/// Containers whose probes are answered as a test says.
#[derive(Default)]
pub(super) struct Script {
    /// By the kind's name and the container's id; success where there is none.
    pub(super) answers: BTreeMap<(String, String), ProbeOutcome>,
    /// Response time of this kind of probe.
    pub(super) pauses: BTreeMap<String, Duration>,
    /// Every round that was begun: kind, container, address, time.
    pub(super) rounds: Vec<(String, String, String, Duration)>,
}

pub(super) struct Node {
    pub(super) script: Arc<Mutex<Script>>,
    pub(super) probes: Probes,
    pub(super) began: Instant,
}

impl Node {
    pub(super) fn new() -> Self {
        let script = Arc::<Mutex<Script>>::default();
        let began = Instant::now();
        let answers = Arc::clone(&script);
        let run: Run = Arc::new(move |subject: Arc<ProbeSubject>| {
            let script = Arc::clone(&answers);
            async move {
                let action = subject.probe.exec.clone().unwrap();
                let kind = action.command.unwrap().concat();
                let (id, ip) = (
                    subject.target.container_id.clone(),
                    subject.target.ip.clone(),
                );
                let pause = {
                    let mut script = script.lock().unwrap();
                    let at = began.elapsed();
                    script.rounds.push((kind.clone(), id.clone(), ip, at));
                    script.pauses.get(&kind).copied()
                };
                sleep(pause.unwrap_or_default()).await;
                let script = script.lock().unwrap();
                let answer = script.answers.get(&(kind, id)).cloned();
                answer.unwrap_or(ProbeOutcome::Success)
            }
            .boxed()
        });
        let client = Client::new("unix:///nowhere.sock".parse().unwrap());
        Self {
            script,
            probes: Probes::with(client, run),
            began,
        }
    }

    pub(super) fn answer(&self, kind: ProbeKind, id: &str, outcome: ProbeOutcome) {
        let mut script = self.script.lock().unwrap();
        script
            .answers
            .insert((kind.to_string(), id.to_owned()), outcome);
    }

    pub(super) fn pause(&self, kind: ProbeKind, pause: Duration) {
        let mut script = self.script.lock().unwrap();
        script.pauses.insert(kind.to_string(), pause);
    }

    /// Times of a container's probes, in seconds from the beginning.
    pub(super) fn rounds(&self, kind: ProbeKind, id: &str) -> Vec<u64> {
        let script = self.script.lock().unwrap();
        let rounds = script.rounds.iter();
        let rounds = rounds.filter(|(k, i, ..)| *k == kind.to_string() && i == id);
        rounds.map(|(.., at)| at.as_secs()).collect()
    }

    /// Returns the changes reported in this much time.
    pub(super) async fn update(&mut self, during: Duration) -> Vec<ProbeUpdate> {
        let end = Instant::now() + during;
        let mut update = vec![];
        while let Ok(one) = timeout(end - Instant::now(), self.probes.next()).await {
            update.push(one);
        }
        update
    }

    pub(super) fn health(&self, id: &str) -> Health {
        self.probes.health(id).unwrap().clone()
    }
}

/// A probe that the script answers, with a round each second.
pub(super) fn probe(kind: ProbeKind, failures: i32) -> Probe {
    Probe {
        exec: Some(ExecAction {
            command: Some(vec![kind.to_string()]),
        }),
        period_seconds: Some(1),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// A container with these probes, each of which fails after the third failure.
pub(super) fn container(kinds: &[ProbeKind]) -> Container {
    let of = |kind| kinds.contains(&kind).then(|| probe(kind, 3));
    Container {
        name: "web".to_owned(),
        startup_probe: of(ProbeKind::Startup),
        liveness_probe: of(ProbeKind::Liveness),
        readiness_probe: of(ProbeKind::Readiness),
        ..Container::default()
    }
}

pub(super) fn wanted<'a>(container_id: &'a str, spec: &'a Container) -> ProbedContainer<'a> {
    ProbedContainer {
        uid: "u",
        container_id,
        spec,
        ip: "10.0.0.1",
        age: Duration::ZERO,
        which: Which::All,
        known: None,
    }
}

pub(super) fn failure() -> ProbeOutcome {
    ProbeOutcome::Failure("no".to_owned())
}

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) const READY: Health = Health {
    started: true,
    ready: true,
    failed: None,
};
