//! Any state that a runtime, earlier agents and other clients may have left, with any Pods.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::events::End;
use super::static_pod;
use super::world::World;
use crate::manifest::{ContainerRole, PackedPod, StaticPod};
use crate::pod::state::observed::State;
use crate::pod::state::{PostStart, Termination};
use crate::probe::{Failed, Health, ProbeKind};

/// Number of versions of the Pod.
const VERSIONS: usize = 3;
/// Names of init containers and sidecars.
const INITS: [&str; 2] = ["i", "j"];
/// Names of a Pod's own containers.
const MAINS: [&str; 2] = ["a", "b"];
/// The exit code for which a restart rule restarts the container.
const RESTART: i32 = 42;
/// The exit code for which a restart rule restarts all containers of the Pod.
const RESTART_ALL: i32 = 88;

/// A container that some runtime has.
#[derive(Debug, Clone)]
struct AnyInstance {
    /// Place of its sandbox.
    sandbox: usize,
    /// Place of its name among those of its Pod.
    name: usize,
    attempt: u32,
    state: usize,
    /// State of its hook or its probes, where it has these.
    trouble: usize,
}

/// A world in any state, with what is still to happen in it.
pub(super) fn any_world() -> impl Strategy<Value = World> {
    let sandbox = (0..VERSIONS, any::<bool>());
    let wanted = prop_oneof![1 => Just(None), 5 => (0..VERSIONS).prop_map(Some)];
    let left = (
        proptest::collection::vec(any_spec(), VERSIONS),
        proptest::collection::vec(sandbox, 0..4),
        proptest::collection::vec(any_instance(), 0..8),
        proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), VERSIONS),
    );
    let to_come = (
        proptest::collection::vec(any_ends(), INITS.len() + MAINS.len()),
        0..3u32,
        proptest::collection::vec(proptest::bool::weighted(0.2), 0..12),
        prop_oneof![Just(0), Just(137)],
    );
    (wanted, left, to_come).prop_map(|(wanted, left, to_come)| {
        let (specs, sandboxes, instances, known) = left;
        let pods = specs.into_iter().enumerate();
        let pods = pods.map(|(index, spec)| static_pod(&format!("u{index}"), spec));
        let pods: Vec<Arc<StaticPod>> = pods.collect();
        let mut world = World::new(wanted.map(|index| Arc::clone(&pods[index])));
        for (index, (pod, ready)) in sandboxes.into_iter().enumerate() {
            let attempt = u32::try_from(index).unwrap();
            world.sandbox(&pods[pod].uid, attempt, ready);
        }
        for (pod, (is_known, _, _)) in pods.iter().zip(&known) {
            if *is_known {
                world.state.version_mut(&pod.uid).pod = Some(PackedPod::from(pod));
            }
        }
        for instance in instances {
            add(&mut world, &pods, &instance);
        }
        for (pod, (_, is_terminating, is_replaced)) in pods.iter().zip(known) {
            leave(&mut world, pod, is_terminating, is_replaced);
        }
        let (ends, failed_pulls, faults, stop_code) = to_come;
        let names = INITS.iter().chain(&MAINS).map(ToString::to_string);
        world.ends = names.zip(ends).collect();
        (world.failed_pulls, world.stop_code) = (failed_pulls, stop_code);
        world.faults = faults;
        world
    })
}

/// Any specification of a Pod, as far as the planner knows of it.
fn any_spec() -> impl Strategy<Value = Value> {
    let own = prop_oneof![
        4 => Just(Value::Null),
        1 => Just(json!("Always")),
        1 => Just(json!("OnFailure")),
        1 => Just(json!("Never")),
    ];
    let init = (any::<bool>(), any_rule(), any_checks());
    let main = (own, any_rule(), any_checks());
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (
        policy,
        proptest::collection::vec(init, 0..=INITS.len()),
        proptest::collection::vec(main, 1..=MAINS.len()),
    )
        .prop_map(|(policy, inits, mains)| {
            let inits = INITS.iter().zip(inits);
            let inits = inits.map(|(name, (is_sidecar, rule, checks))| {
                if is_sidecar {
                    return container(name, &json!("Always"), &Value::Null, checks);
                }
                // Init containers have neither probes nor hooks.
                container(name, &Value::Null, &rule, [false; 3])
            });
            let mains = MAINS.iter().zip(mains);
            let mains =
                mains.map(|(name, (own, rule, checks))| container(name, &own, &rule, checks));
            json!({
                "restartPolicy": policy,
                "initContainers": inits.collect::<Vec<_>>(),
                "containers": mains.collect::<Vec<_>>(),
            })
        })
}

/// A postStart hook, a startup probe and a liveness probe, or none.
fn any_checks() -> impl Strategy<Value = [bool; 3]> {
    proptest::array::uniform3(proptest::bool::weighted(0.3))
}

fn any_rule() -> impl Strategy<Value = Value> {
    let rule = |action: &str, code: i32| {
        let codes = json!({"operator": "In", "values": [code]});
        Just(json!([{"action": action, "exitCodes": codes}]))
    };
    prop_oneof![
        4 => Just(Value::Null),
        1 => rule("Restart", RESTART),
        1 => rule("RestartAllContainers", RESTART_ALL),
    ]
}

fn container(name: &str, policy: &Value, rules: &Value, checks: [bool; 3]) -> Value {
    let command = json!({"exec": {"command": ["true"]}});
    let [hook, startup, liveness] = checks.map(|there| there.then_some(&command));
    let mut container = json!({"name": name, "image": "image"});
    if !policy.is_null() {
        container["restartPolicy"] = policy.clone();
    }
    if !rules.is_null() {
        container["restartPolicyRules"] = rules.clone();
    }
    if let Some(hook) = hook {
        container["lifecycle"] = json!({"postStart": hook});
    }
    if let Some(probe) = startup {
        container["startupProbe"] = probe.clone();
    }
    if let Some(probe) = liveness {
        container["livenessProbe"] = probe.clone();
    }
    container
}

fn any_ends() -> impl Strategy<Value = Vec<End>> {
    let end = prop_oneof![
        4 => prop_oneof![Just(0), Just(1), Just(RESTART), Just(RESTART_ALL)].prop_map(End::Exit),
        1 => Just(End::Liveness),
        1 => Just(End::Startup),
        1 => Just(End::PostStart),
    ];
    proptest::collection::vec(end, 0..3)
}

fn any_instance() -> impl Strategy<Value = AnyInstance> {
    (0..3usize, 0..4usize, 0..3u32, 0..6usize, 0..3usize).prop_map(
        |(sandbox, name, attempt, state, trouble)| AnyInstance {
            sandbox,
            name,
            attempt,
            state,
            trouble,
        },
    )
}

/// Adds a container, unless its sandbox is missing or its name is taken.
fn add(world: &mut World, pods: &[Arc<StaticPod>], instance: &AnyInstance) {
    let Some(sandbox) = world.observed.sandboxes.get(instance.sandbox).cloned() else {
        return;
    };
    let uid = &sandbox.uid;
    let pod = pods.iter().find(|pod| pod.uid == *uid).unwrap();
    let specs: Vec<_> = pod.all_containers().collect();
    let spec = specs[instance.name % specs.len()];
    let taken = world.observed.history_of(uid, &spec.name);
    if taken.iter().any(|c| c.attempt == instance.attempt) {
        return;
    }
    let state = match instance.state {
        0 => State::Created,
        1 | 2 => State::Running { started_at: 1 },
        3 => world.ended(0),
        4 => world.ended(1),
        _ => State::Unknown,
    };
    let is_running = matches!(state, State::Running { .. });
    let id = world.container(uid, &sandbox.id, &spec.name, instance.attempt, state);
    if !is_running || pod.role(&spec.name) == ContainerRole::Init {
        return;
    }
    if spec.lifecycle.is_some() {
        let hook = match instance.trouble {
            0 => PostStart::Interrupted,
            1 => PostStart::Failed("it failed".into()),
            _ => return,
        };
        world.state.post_starts.insert(id.into(), hook);
    } else if spec.liveness_probe.is_some() && instance.trouble == 0 {
        let failed = Failed {
            kind: ProbeKind::Liveness,
            message: String::new(),
        };
        let health = Health {
            started: true,
            ready: false,
            failed: Some(failed),
        };
        world.state.probes.insert(id.into(), health);
    } else if spec.startup_probe.is_some() && instance.trouble == 1 {
        world.state.probes.insert(id.into(), Health::unknown(spec));
    }
}

/// Leaves of a version what an earlier agent had begun: its termination, or a restart of all its containers.
fn leave(world: &mut World, pod: &StaticPod, is_terminating: bool, is_replaced: bool) {
    if world.observed.has_none_of(&pod.uid) {
        return;
    }
    let version = world.state.version_mut(&pod.uid);
    if is_terminating {
        version.termination = Some(Termination::Adopted);
    } else if is_replaced {
        for container in world.observed.containers_of(&pod.uid) {
            version.history_mut().replace(container);
        }
    }
}
