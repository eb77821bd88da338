//! The planner against an API server that exists only here: its rules as a table, and what it comes
//! to from any state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use super::{CREATE_GAP, MirrorStep, Next, PATCH_GAP, PodView, RequestState, plan};
use crate::manifest::{PackedPod, PodKey, StaticPod};
use crate::mirror::object::{MIRROR, NodeIdentity, SeenPod, mirror};
use crate::pod::encoded_status::EncodedStatus;
use crate::pod::report::PodSnapshot;

fn key(name: &str) -> PodKey {
    PodKey {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn node() -> NodeIdentity {
    NodeIdentity {
        name: "n1".into(),
        uid: "node-uid".into(),
    }
}

/// Report of a Pod whose version has this UID.
fn snapshot(name: &str, version: &str, phase: &str) -> PodSnapshot {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(version.to_owned()),
        labels: Some([("app".to_owned(), "web".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let version = StaticPod {
        key: key(name),
        uid: version.into(),
        metadata: Box::new(metadata),
        ..StaticPod::default()
    };
    PodSnapshot {
        version: Some(PackedPod::from(&version)),
        status: EncodedStatus::from(&PodStatus {
            phase: Some(phase.to_owned()),
            ..PodStatus::default()
        }),
        ..PodSnapshot::default()
    }
}

/// A Pod at the API server: a mirror of a version, by a Node with this UID, in a phase.
fn seen(name: &str, uid: &str, version: Option<&str>, owner: &str, phase: &str) -> SeenPod {
    SeenPod {
        key: key(name),
        uid: uid.to_owned(),
        mirrors: version.map(str::to_owned),
        owner: Some(Box::new(NodeIdentity {
            name: "n1".to_owned(),
            uid: owner.to_owned(),
        })),
        status: in_phase(phase),
        ..SeenPod::default()
    }
}

fn in_phase(phase: &str) -> EncodedStatus {
    EncodedStatus::from(&PodStatus {
        phase: Some(phase.to_owned()),
        ..PodStatus::default()
    })
}

/// The requests that are due, and the time when the first of the others is.
#[derive(Debug, Default, PartialEq)]
struct Plans {
    steps: Vec<(PodKey, MirrorStep)>,
    wake: Option<Instant>,
}

/// All that the planner looks at, owned.
struct PlannerInput {
    snapshots: BTreeMap<PodKey, Arc<PodSnapshot>>,
    wanted: BTreeSet<PodKey>,
    complete: bool,
    seen: BTreeMap<PodKey, SeenPod>,
    state: RequestState,
    settled: bool,
    now: Instant,
}

impl PlannerInput {
    fn new(snapshot: Option<PodSnapshot>, seen: Option<SeenPod>) -> Self {
        Self {
            snapshots: snapshot
                .into_iter()
                .map(|t| (key("web-n1"), Arc::new(t)))
                .collect(),
            wanted: BTreeSet::new(),
            complete: true,
            seen: seen.into_iter().map(|s| (s.key.clone(), s)).collect(),
            state: RequestState::default(),
            settled: true,
            now: Instant::now(),
        }
    }

    fn next(&self, key: &PodKey) -> Next {
        plan(&PodView {
            snapshot: self.snapshots.get(key).map(AsRef::as_ref),
            seen: self.seen.get(key),
            may_start: self.wanted.contains(key) || !self.complete,
            node: &node(),
            no_op: self.state.no_op.get(key),
            settled: self.settled,
        })
    }

    fn plan(&self) -> Plans {
        let mut plans = Plans::default();
        let keys: BTreeSet<&PodKey> = self.snapshots.keys().chain(self.seen.keys()).collect();
        for key in keys {
            let Next::Step(step) = self.next(key) else {
                continue;
            };
            match self.state.earliest(key, &step) {
                Some(at) if at > self.now => {
                    plans.wake = plans.wake.into_iter().chain([at]).min();
                }
                _ => plans.steps.push((key.clone(), step)),
            }
        }
        plans
    }

    /// The one step that is to be taken, in a word.
    fn step(&self) -> &'static str {
        match self.plan().steps.as_slice() {
            [] => "nothing",
            [(_, MirrorStep::Create)] => "create",
            [(_, MirrorStep::Patch(_))] => "patch",
            [(_, MirrorStep::Delete(_))] => "delete",
            more => panic!("{more:?}"),
        }
    }

    /// Does what an API server does with a step.
    fn take(&mut self, key: &PodKey, step: MirrorStep, new_uid: &str) {
        match step {
            MirrorStep::Create => {
                assert!(!self.seen.contains_key(key), "there is one already");
                let Pod { metadata, .. } = mirror(&self.snapshots[key], &node()).unwrap();
                let annotations = metadata.annotations.unwrap();
                let owner = &metadata.owner_references.unwrap()[0];
                let pod = SeenPod {
                    key: key.clone(),
                    uid: new_uid.to_owned(),
                    mirrors: annotations.get(MIRROR).cloned(),
                    owner: Some(Box::new(NodeIdentity {
                        name: owner.name.clone(),
                        uid: owner.uid.clone(),
                    })),
                    status: in_phase("Pending"),
                    ..SeenPod::default()
                };
                self.seen.insert(key.clone(), pod);
            }
            MirrorStep::Patch(patch) => {
                let pod = self.seen.get_mut(key).unwrap();
                assert_eq!(patch["metadata"]["uid"], pod.uid);
                pod.status = in_phase(patch["status"]["phase"].as_str().unwrap());
            }
            MirrorStep::Answer(_) => panic!("there is no spec to answer with"),
            MirrorStep::Delete(uid) => {
                assert_eq!(self.seen.remove(key).unwrap().uid, uid);
            }
        }
    }
}

fn leaving(mut pod: SeenPod) -> SeenPod {
    pod.is_leaving = true;
    pod
}

// Longer than other functions: one table, a row for each state.
#[test]
fn each_state_has_its_step() {
    let running = || Some(snapshot("web-n1", "v1", "Running"));
    let ending = || {
        running().map(|snapshot| PodSnapshot {
            terminating: true,
            ..snapshot
        })
    };
    let ours = |version, phase| seen("web-n1", "u", Some(version), "node-uid", phase);
    let foreign = || seen("web-n1", "u", None, "node-uid", "Running");
    let old_node = || seen("web-n1", "u", Some("v1"), "old-node-uid", "Running");
    let check = |what: &str, snapshot, seen, expected| {
        assert_eq!(PlannerInput::new(snapshot, seen).step(), expected, "{what}");
    };
    check("a Pod without a mirror", running(), None, "create");
    check(
        "its mirror is as it should be",
        running(),
        Some(ours("v1", "Running")),
        "nothing",
    );
    check(
        "its status is another one",
        running(),
        Some(ours("v1", "Pending")),
        "patch",
    );
    check(
        "it mirrors another version",
        running(),
        Some(ours("v0", "Running")),
        "delete",
    );
    check(
        "it belongs to a Node that was",
        running(),
        Some(old_node()),
        "delete",
    );
    check(
        "somebody deletes it",
        running(),
        Some(leaving(ours("v1", "Running"))),
        "delete",
    );
    check(
        "a Pod that ends, without a mirror",
        ending(),
        None,
        "nothing",
    );
    check(
        "a Pod that ends is still shown",
        ending(),
        Some(ours("v1", "Pending")),
        "patch",
    );
    check(
        "a mirror without a Pod",
        None,
        Some(ours("v1", "Running")),
        "delete",
    );
    check(
        "a mirror of a Node that was",
        None,
        Some(old_node()),
        "delete",
    );
    check("a Pod that is no mirror", None, Some(foreign()), "nothing");
    check(
        "a foreign Pod that is deleted",
        None,
        Some(leaving(foreign())),
        "nothing",
    );
    check(
        "a Pod of which no version is known",
        Some(PodSnapshot::default()),
        None,
        "nothing",
    );
}

#[test]
fn a_mirror_stays_until_it_is_known_that_its_pod_is_gone() {
    let mirror = seen("web-n1", "u", Some("v1"), "node-uid", "Running");
    let mut world = PlannerInput::new(None, Some(mirror));
    let next = |world: &PlannerInput| world.next(&key("web-n1"));
    world.complete = false;
    assert_eq!(next(&world), Next::Stay, "not every Pod has been observed");
    world.complete = true;
    world.wanted.insert(key("web-n1"));
    assert_eq!(next(&world), Next::Stay, "its Pod is about to start");
    world.wanted.clear();
    assert_eq!(world.step(), "delete");
}

#[test]
fn pods_that_others_control_are_never_touched() {
    let mirror = || seen("web-n1", "u", Some("v1"), "node-uid", "Running");
    let of_other_node = SeenPod {
        owner: Some(Box::new(NodeIdentity {
            name: "n2".into(),
            ..node()
        })),
        ..mirror()
    };
    let of_none = SeenPod {
        owner: None,
        ..mirror()
    };
    for pod in [of_other_node, of_none] {
        assert_eq!(PlannerInput::new(None, Some(pod)).step(), "nothing");
    }
}

#[test]
fn the_node_that_controls_a_pod_is_its_only_owner_that_counts() {
    let pod_of = |owner: serde_json::Value| -> SeenPod {
        let metadata = json!({"name": "web-n1", "ownerReferences": [owner]});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    };
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true});
    assert_eq!(pod_of(node.clone()).controlled_by("n1"), Some("u"));
    for (field, value) in [
        ("name", json!("n2")),
        ("kind", json!("ReplicaSet")),
        ("controller", json!(false)),
        ("controller", json!(null)),
    ] {
        let mut owner = node.clone();
        owner[field] = value;
        assert_eq!(pod_of(owner.clone()).controlled_by("n1"), None, "{owner}");
    }
}

#[test]
fn statuses_are_told_when_they_rest_and_at_most_once_a_second() {
    let mirror = seen("web-n1", "u", Some("v1"), "node-uid", "Pending");
    let mut world = PlannerInput::new(Some(snapshot("web-n1", "v1", "Running")), Some(mirror));
    world.settled = false;
    assert_eq!(world.next(&key("web-n1")), Next::Settle);
    world.settled = true;
    let earlier = world.now.checked_sub(Duration::from_millis(300)).unwrap();
    world.state.patched.insert(key("web-n1"), earlier);
    let Plans { steps, wake } = world.plan();
    assert_eq!((steps.len(), wake), (0, Some(earlier + PATCH_GAP)));
    world.now = earlier + PATCH_GAP;
    assert_eq!(world.step(), "patch");
}

#[test]
fn a_step_waits_after_a_failure() {
    let mut world = PlannerInput::new(Some(snapshot("web-n1", "v1", "Running")), None);
    let later = world.now + Duration::from_secs(5);
    world.state.not_before.insert(key("web-n1"), later);
    assert_eq!(
        world.plan(),
        Plans {
            steps: vec![],
            wake: Some(later),
        }
    );
    world.state.not_before.clear();
    world.state.created.insert(key("web-n1"), world.now);
    assert_eq!(world.plan().wake, Some(world.now + CREATE_GAP));
}

#[test]
fn a_patch_that_changed_nothing_is_not_sent_again() {
    let mirror = seen("web-n1", "u", Some("v1"), "node-uid", "Pending");
    let mut world = PlannerInput::new(Some(snapshot("web-n1", "v1", "Running")), Some(mirror));
    let patch = json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}});
    world.state.no_op.insert(key("web-n1"), patch);
    assert_eq!(world.step(), "nothing");
    world
        .snapshots
        .insert(key("web-n1"), Arc::new(snapshot("web-n1", "v1", "Failed")));
    assert_eq!(world.step(), "patch");
}

#[test]
fn the_mirror_carries_what_admission_and_selectors_look_for() {
    let mut snapshot = snapshot("web-n1", "v1", "Running");
    snapshot.report.seen = "2026-01-02T03:04:05Z".into();
    let mirror = serde_json::to_value(mirror(&snapshot, &node()).unwrap()).unwrap();
    let expected = json!({
        "name": "web-n1", "namespace": "default", "labels": {"app": "web"},
        "annotations": {
            "kubernetes.io/config.mirror": "v1",
            "kubernetes.io/config.seen": "2026-01-02T03:04:05Z",
        },
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid",
            "controller": true}],
    });
    assert_eq!(mirror["metadata"], expected);
    assert_eq!(mirror["status"], serde_json::Value::Null);
}

/// A Pod as it may be reported: version, phase, and whether it ends.
fn any_snapshot() -> impl Strategy<Value = Option<(u8, u8, bool)>> {
    proptest::option::of((0..2_u8, 0..2_u8, any::<bool>()))
}

/// A Pod as it may be seen: a mirror or not, of a version, by this Node or one that was, in a phase,
/// and whether it is being deleted.
fn any_seen() -> impl Strategy<Value = Option<(bool, u8, bool, u8, bool)>> {
    let one = (
        any::<bool>(),
        0..3_u8,
        any::<bool>(),
        0..2_u8,
        any::<bool>(),
    );
    proptest::option::of(one)
}

const PHASES: [&str; 2] = ["Pending", "Running"];

proptest! {
    /// From any state a few steps lead to one mirror for each Pod that exists, as it is reported, and
    /// to none for others; and nothing else is ever touched.
    #[test]
    fn from_any_state_the_mirrors_come_right(
        pods in proptest::collection::vec((any_snapshot(), any_seen()), 1..5)
    ) {
        let mut world = PlannerInput::new(None, None);
        for (n, (as_reported, as_seen)) in pods.iter().enumerate() {
            let name = format!("p{n}-n1");
            if let Some((version, phase, terminating)) = *as_reported {
                let snapshot = snapshot(&name, &format!("v{version}"), PHASES[usize::from(phase)]);
                let snapshot = PodSnapshot { terminating, ..snapshot };
                world.snapshots.insert(key(&name), Arc::new(snapshot));
            }
            if let Some((is_mirror, version, owned, phase, is_leaving)) = *as_seen {
                let version = is_mirror.then(|| format!("v{version}"));
                let owner = if owned { "node-uid" } else { "old" };
                let phase = PHASES[usize::from(phase)];
                let pod = seen(&name, &format!("u{n}"), version.as_deref(), owner, phase);
                let pod = if is_leaving { leaving(pod) } else { pod };
                world.seen.insert(key(&name), pod);
            }
        }
        let foreign = |seen: &BTreeMap<PodKey, SeenPod>| -> Vec<SeenPod> {
            seen.values().filter(|p| p.mirrors.is_none()).cloned().collect()
        };
        let before = foreign(&world.seen);
        for round in 0..4 {
            let mut taken = false;
            for (key, step) in world.plan().steps {
                // Where a foreign Pod has the name, making ours is refused for ever.
                if step == MirrorStep::Create && world.seen.contains_key(&key) {
                    continue;
                }
                world.take(&key, step, &format!("new{round}"));
                taken = true;
            }
            if !taken {
                break;
            }
            prop_assert!(round < 3, "delete, create, patch are enough");
        }
        prop_assert_eq!(foreign(&world.seen), before);
        for (key, snapshot) in &world.snapshots {
            let mirror = world.seen.get(key).filter(|p| p.mirrors.is_some());
            let taken = world.seen.get(key).is_some_and(|p| p.mirrors.is_none());
            match mirror {
                None => prop_assert!(snapshot.terminating || taken, "{key} has no mirror"),
                Some(mirror) => {
                    let uid = snapshot.version.as_ref().map(|v| v.uid.as_str());
                    prop_assert_eq!(mirror.mirrors.as_deref(), uid);
                    prop_assert_eq!(mirror.controlled_by("n1"), Some("node-uid"));
                    prop_assert_eq!(mirror.status.decode().phase, snapshot.status.decode().phase);
                    prop_assert!(!mirror.is_leaving);
                }
            }
        }
        let orphans = world.seen.iter().filter(|(key, pod)| {
            pod.mirrors.is_some() && !world.snapshots.contains_key(*key)
        });
        prop_assert_eq!(orphans.count(), 0);
    }
}

#[test]
fn a_mirror_whose_container_comes_back_after_its_end_for_good_is_made_anew() {
    let ended = |code: i32| json!({"terminated": {"exitCode": code}});
    let (runs, waits) = (
        json!({"running": {}}),
        json!({"waiting": {"reason": "Paused"}}),
    );
    for (policy, before, now, step) in [
        ("Never", ended(0), runs.clone(), "delete"),
        ("Never", ended(1), waits.clone(), "delete"),
        ("OnFailure", ended(0), waits.clone(), "delete"),
        ("OnFailure", ended(1), runs.clone(), "patch"),
        ("Always", ended(0), runs.clone(), "patch"),
        ("Never", runs, waits, "patch"),
        ("Never", ended(0), ended(1), "patch"),
    ] {
        let status = |state: &serde_json::Value| -> PodStatus {
            let status = json!({"name": "c", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state});
            serde_json::from_value(json!({"containerStatuses": [status]})).unwrap()
        };
        let mut snapshot = snapshot("web-n1", "v1", "Running");
        let mut version = StaticPod::clone(snapshot.version.as_ref().unwrap().get());
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]});
        version.spec = serde_json::from_value(spec).unwrap();
        (snapshot.version, snapshot.status) = (
            Some(PackedPod::from(&version)),
            EncodedStatus::from(&status(&now)),
        );
        let mut seen = seen("web-n1", "m1", Some("v1"), "node-uid", "Running");
        seen.status = EncodedStatus::from(&status(&before));
        let found = PlannerInput::new(Some(snapshot), Some(seen)).step();
        assert_eq!(found, step, "{policy}: {before} {now}");
    }
}
