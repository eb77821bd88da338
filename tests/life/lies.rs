//! A runtime that reports success and changes nothing: each such step counts as failed, and comes again
//! ever more rarely.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use podkeeper::cri::v1::ContainerState;

use crate::agent::{Agent, SECOND, full, single};
use crate::runtime::{Fate, Life, Rule, Settings};

/// Counts lines of the log from warnings on.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Print;
        impl Visit for Print {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                println!("  {}={value:?}", field.name());
            }
        }
        println!("{}", event.metadata().level());
        event.record(&mut Print);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Methods that change the runtime.
const CHANGES: [&str; 8] = [
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "PullImage",
];

fn changes(agent: &Agent) -> usize {
    let calls = agent.runtime.calls();
    calls.iter().filter(|c| CHANGES.contains(&c.method)).count()
}

/// A Pod starts, is edited and removed, and each takes ten minutes; the runtime lies from the first start
/// or once the Pod runs. Gives the calls of each of these times.
async fn live_with(lie: impl Fn(&Agent), runs_first: bool, what: &str) {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let agent = Agent::start(Settings::containerd_2_1());
    let grace = "terminationGracePeriodSeconds: 1";
    if runs_first {
        agent.want(&[&single("", grace)]);
        agent.until_ready("p").await;
    }
    lie(&agent);
    let edited = single("env: [{name: A, value: b}]", grace);
    for wanted in [vec![single("", grace)], vec![edited], vec![]] {
        let (before, said) = (changes(&agent), warnings.0.load(Ordering::Relaxed));
        let manifests: Vec<&str> = wanted.iter().map(String::as_str).collect();
        agent.want(&manifests);
        tokio::time::sleep(600 * SECOND).await;
        let calls = changes(&agent) - before;
        let lines = warnings.0.load(Ordering::Relaxed) - said;
        println!("{what}, runs first: {runs_first}: {calls} calls, {lines} lines");
        // Two versions at most, each tried every 15 s at last.
        assert!(calls <= 100, "{what}: {calls} calls in ten minutes");
        assert!(
            lines <= 4,
            "{what}: {lines} lines of the log in ten minutes"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_changed_nothing_has_failed_whatever_the_runtime_says() {
    for method in CHANGES {
        for runs_first in [false, true] {
            let lie = |agent: &Agent| agent.runtime.rule(Rule::of(method, Fate::Nothing));
            live_with(lie, runs_first, method).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_in_a_state_that_nobody_knows_is_stopped_ever_more_rarely() {
    let lie = |agent: &Agent| {
        agent.runtime.change(|state| {
            for container in &mut state.containers {
                container.state = ContainerState::ContainerUnknown;
            }
        });
    };
    live_with(lie, true, "unknown").await;
}

#[tokio::test(start_paused = true)]
async fn ends_and_starts_without_a_time_do_not_end_the_back_off() {
    for no_start_times in [false, true] {
        let lie = |agent: &Agent| {
            agent.runtime.lives(|_, _, _| Life::ends(1));
            agent.runtime.change(|state| {
                state.no_end_times = true;
                for container in &mut state.containers {
                    container.life = Life::ends(1);
                    container.started_at *= i64::from(!no_start_times);
                }
            });
            if agent.runtime.look(|state| !state.containers.is_empty()) {
                agent.runtime.exit(&full("p"), "c", 1);
            }
        };
        for runs_first in [false, true] {
            live_with(lie, runs_first, "no end times").await;
        }
    }
}
