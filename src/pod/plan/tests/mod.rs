//! The planner against a runtime that exists only here: properties from any state, and its rules as
//! tables.

mod any;
mod events;
mod expected;
mod order;
mod properties;
mod requested;
mod restarts;
mod updates;
mod world;

pub(in crate::pod) use world::World;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::manifest::{PodKey, StaticPod};

/// Names of the containers of [`version`].
const NAMES: [&str; 2] = ["a", "b"];

/// A Pod with this UID and specification.
fn static_pod(uid: &str, spec: Value) -> Arc<StaticPod> {
    Arc::new(StaticPod {
        key: PodKey {
            namespace: "default".into(),
            name: "web-n1".into(),
        },
        uid: uid.into(),
        spec: serde_json::from_value(spec).unwrap(),
        ..StaticPod::default()
    })
}

/// A Pod of two containers, with this UID and restart policy.
fn version(uid: &str, policy: &str) -> Arc<StaticPod> {
    let containers = NAMES.map(|name| json!({"name": name, "image": "image"}));
    static_pod(
        uid,
        json!({"restartPolicy": policy, "containers": containers}),
    )
}
