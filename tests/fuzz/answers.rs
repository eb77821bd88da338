//! Any bytes, taken for what a container runtime answers: the Pod's state, the next step and everything
//! that is reported of it are worked out from them without a panic.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use podkeeper::cri::v1;
use podkeeper::manifest::{PackedPod, SourceKind, StaticPod, parse};
use podkeeper::pod::backoff::MAXIMUM;
use podkeeper::pod::encoded_status::EncodedStatus;
use podkeeper::pod::identity::{is_valid_container, is_valid_sandbox};
use podkeeper::pod::observe::{Role, container, digest, listed_container, listed_sandbox, sandbox};
use podkeeper::pod::plan::{is_urgent, plan};
use podkeeper::pod::report::report;
use podkeeper::pod::state::observed::Observed;
use podkeeper::pod::state::time::Clock;
use podkeeper::pod::state::{Admission, Image, PodState, View};
use podkeeper::source::{DesiredPod, Origin};
use podkeeper::translate::{ImageUser, NodeFacts};
use prost::Message;

const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  \
     activeDeadlineSeconds: 100\n  \
     initContainers: [{name: i, image: i}, {name: s, image: i, restartPolicy: Always}]\n  \
     containers: [{name: c, image: i, livenessProbe: {exec: {command: [x]}}}, {name: d, image: i}]\n";

/// Two versions of a Pod.
static VERSIONS: LazyLock<[Arc<StaticPod>; 2]> = LazyLock::new(|| {
    let other = MANIFEST.replace("100", "200");
    [MANIFEST, &other].map(|text| {
        let accepted = parse(text.as_bytes(), "n", SourceKind::File);
        accepted.expect("it is a good manifest").pod
    })
});

/// Fields that are bytes of a length, as everything that a runtime lists is.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [kind, length, rest @ ..] = bytes else {
            return None;
        };
        let (part, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        Some((*kind, part))
    })
}

fuzz_target!(|bytes: &[u8]| {
    let clock = Clock::default();
    let mut observed = Observed::default();
    for (kind, part) in parts(bytes) {
        take(&clock, kind, part, &mut observed);
    }
    // Most that is observed belongs to the Pod.
    let [old, new] = &*VERSIONS;
    let names = ["i", "s", "c", "d"];
    for (index, container) in observed.containers.iter_mut().enumerate() {
        if container.name.len() < 8 {
            container.name = names[index % names.len()].into();
        }
        let sandbox = observed.sandboxes.get(index / names.len());
        container.sandbox = sandbox
            .map(|sandbox| sandbox.id.clone())
            .unwrap_or_default();
        container
            .uid
            .clone_from(&if index % 3 == 2 { old } else { new }.uid);
    }
    for (index, sandbox) in observed.sandboxes.iter_mut().enumerate() {
        sandbox
            .uid
            .clone_from(&if index % 3 == 2 { old } else { new }.uid);
    }
    for wanted in [None, Some(new)] {
        live(&clock, &observed, wanted);
    }
});

fn take(clock: &Clock, kind: u8, part: &[u8], observed: &mut Observed) {
    match kind % 4 {
        0 => {
            if let Ok(status) = v1::ContainerStatus::decode(part) {
                observed.containers.push(container(clock, &status));
            }
        }
        1 => {
            if let Ok(status) = v1::PodSandboxStatus::decode(part) {
                observed.sandboxes.push(sandbox(clock, status));
            }
        }
        2 => {
            if let Ok(item) = v1::Container::decode(part) {
                let _ = is_valid_container(&item);
                let role = [Role::Wanted, Role::Replaced, Role::Leaving][part.len() % 3];
                observed
                    .containers
                    .extend(listed_container(clock, &item, role));
            }
        }
        _ => {
            if let Ok(item) = v1::PodSandbox::decode(part) {
                let _ = is_valid_sandbox(&item);
                observed.sandboxes.push(listed_sandbox(clock, &item));
            }
        }
    }
}

/// Works out what to do and what to report, now and at the times that the planner asks for.
fn live(clock: &Clock, observed: &Observed, wanted: Option<&Arc<StaticPod>>) {
    let mut state = PodState::default();
    state.wall.follow(clock);
    for version in &*VERSIONS {
        let known = state.version_mut(&version.uid);
        known.pod = Some(PackedPod::from(version));
        known.on_disk = true;
        known.takeover.volumes_checked = true;
        known.admission = Admission::Admitted;
        for name in ["i", "s", "c", "d"] {
            let ready = Image::Ready {
                reference: "i".into(),
                user: ImageUser::default(),
                pulled: false,
            };
            known.images.insert(name.into(), ready);
        }
    }
    let facts = NodeFacts::default();
    let desired = wanted.map(|pod| DesiredPod {
        pod: PackedPod::from(pod),
        origin: Origin::File("/m/p.yaml".into()),
        warnings: vec![],
    });
    let mut now = clock.now();
    for _ in 0..4 {
        let view = View {
            wanted,
            observed,
            state: &state,
            now,
            longest_backoff: MAXIMUM,
        };
        let wake = plan(view).wake;
        for version in &*VERSIONS {
            let _ = is_urgent(view, &version.uid);
        }
        let key = &VERSIONS[0].key;
        let told = report(view, &facts, key, desired.as_ref());
        // What is kept of a status is all of it.
        assert_eq!(EncodedStatus::from(&told.status.decode()), told.status);
        let there = observed.containers.len() + observed.sandboxes.len();
        assert_eq!(digest(observed).len(), there);
        let Some(wake) = wake else { break };
        now = wake;
    }
}
