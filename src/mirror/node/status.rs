//! Status of the Node: pure functions of the measurements.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSwapStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::measure::Measured;
use crate::mirror::ApiServerSettings;
use crate::translate::NodeFacts;

/// The version of Kubernetes whose rules this agent follows, and its own behind it, as other
/// distributions of the node agent write theirs.
pub const VERSION: &str = concat!("v1.36.0+podkeeper.", env!("CARGO_PKG_VERSION"));
/// Prefix of the resource names of huge pages, followed by the size of a page.
const HUGE_PAGES: &str = "hugepages-";
/// Node-declared features that this agent implements.
const DECLARED: [&str; 1] = ["RestartAllContainersOnContainerExits"];

/// The Node as it is made.
pub(super) fn node(facts: &NodeFacts, settings: &ApiServerSettings, status: NodeStatus) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(facts.identity.name.clone()),
            labels: Some(facts.identity.labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(settings.taints.clone()).filter(|t| !t.is_empty()),
            provider_id: settings.provider_id.clone(),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

/// The status as of now. `before` is what the API server has, for the times of changes; `port` is where
/// the node serves what kubectl asks it for, if it does.
pub(super) fn status(
    facts: &NodeFacts,
    measured: &Measured,
    before: &NodeStatus,
    port: Option<u16>,
    now: jiff::Timestamp,
) -> NodeStatus {
    let capacity = capacity(facts, measured, before);
    NodeStatus {
        addresses: Some(addresses(facts)),
        allocatable: Some(allocatable(&capacity, facts, measured)),
        capacity: Some(capacity),
        conditions: Some(conditions(measured, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            // The API server writes the port 0 where there is none.
            kubelet_endpoint: Some(DaemonEndpoint {
                port: port.unwrap_or_default().into(),
            }),
        }),
        declared_features: Some(DECLARED.map(str::to_owned).into()),
        features: measured
            .supplemental_groups_policy
            .map(|known| NodeFeatures {
                supplemental_groups_policy: Some(known),
            }),
        images: Some(measured.images.clone()).filter(|images| {
            let has_images = before.images.as_ref().is_some_and(|i| !i.is_empty());
            has_images || !images.is_empty()
        }),
        node_info: Some(info(facts, measured)),
        runtime_handlers: Some(handlers(facts)).filter(|h| !h.is_empty()),
        ..NodeStatus::default()
    }
}

fn addresses(facts: &NodeFacts) -> Vec<NodeAddress> {
    let address = |kind: &str, address: &str| NodeAddress {
        type_: kind.to_owned(),
        address: address.to_owned(),
    };
    let ips = facts.identity.ips.all();
    let ips = ips.iter().map(|ip| address("InternalIP", ip));
    let name = [address("Hostname", &facts.identity.name)];
    ips.chain(name).collect()
}

/// Merges the machine's capacity. Resources that others advertise there stay (Kubernetes, Advertise Extended
/// Resources for a Node); huge pages of a size that the machine does not have are removed.
fn capacity(
    facts: &NodeFacts,
    measured: &Measured,
    before: &NodeStatus,
) -> BTreeMap<String, Quantity> {
    let others = before.capacity.iter().flatten();
    let others = others.filter(|(name, _)| !name.starts_with(HUGE_PAGES));
    let others = others.map(|(name, amount)| (name.clone(), amount.clone()));
    let memory = bytes(facts.capacity.memory >> 10);
    let storage = bytes(facts.capacity.ephemeral_storage >> 10);
    let fixed = [
        ("cpu".to_owned(), Quantity(facts.capacity.cpus.to_string())),
        ("memory".to_owned(), Quantity(memory)),
        ("ephemeral-storage".to_owned(), Quantity(storage)),
        (
            "pods".to_owned(),
            Quantity(facts.capacity.max_pods.to_string()),
        ),
    ];
    let huge_pages = measured.huge_pages.iter().map(|(size, pages)| {
        let name = format!("{HUGE_PAGES}{}", bytes(*size));
        (name, Quantity(bytes(size.saturating_mul(*pages))))
    });
    others.chain(fixed).chain(huge_pages).collect()
}

/// All of it may be given to Pods: nothing is kept back, and the agent itself is small. Only memory that
/// is reserved as huge pages is nobody's otherwise.
fn allocatable(
    capacity: &BTreeMap<String, Quantity>,
    facts: &NodeFacts,
    measured: &Measured,
) -> BTreeMap<String, Quantity> {
    let memory = facts.capacity.memory_beside(&measured.huge_pages) >> 10;
    let mut allocatable = capacity.clone();
    allocatable.insert("memory".to_owned(), Quantity(bytes(memory)));
    allocatable
}

/// An amount of KiB as the API server writes it, with the largest unit that divides it.
fn bytes(kibibytes: u64) -> String {
    let (mut amount, mut units) = (kibibytes, ["Ki", "Mi", "Gi", "Ti", "Pi"].iter());
    let mut unit = units.next().unwrap_or(&"");
    if amount == 0 {
        return "0".to_owned();
    }
    while amount.is_multiple_of(1024)
        && let Some(larger) = units.next()
    {
        (amount, unit) = (amount / 1024, larger);
    }
    format!("{amount}{unit}")
}

fn info(facts: &NodeFacts, measured: &Measured) -> NodeSystemInfo {
    let label = |name: &str| facts.identity.labels.get(name).cloned().unwrap_or_default();
    let host = &measured.host;
    NodeSystemInfo {
        architecture: label("kubernetes.io/arch"),
        operating_system: label("kubernetes.io/os"),
        boot_id: host.boot_id.clone(),
        machine_id: host.machine_id.clone(),
        system_uuid: host.system_uuid.clone(),
        kernel_version: host.kernel_version.clone(),
        os_image: host.os_image.clone(),
        container_runtime_version: measured.runtime_version.clone(),
        kubelet_version: VERSION.to_owned(),
        swap: (measured.swap > 0).then(|| NodeSwapStatus {
            capacity: i64::try_from(measured.swap).ok(),
        }),
        ..NodeSystemInfo::default()
    }
}

fn handlers(facts: &NodeFacts) -> Vec<NodeRuntimeHandler> {
    let handlers = facts.runtime.handlers().into_iter();
    let handlers = handlers.map(|(name, features)| NodeRuntimeHandler {
        name: Some(name),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    });
    handlers.collect()
}

/// A condition's type, whether it holds, its reason and message. Types and reasons are those that
/// tools read (Kubernetes, Node Status, "Conditions").
type ConditionRow = (&'static str, bool, &'static str, String);

fn conditions(
    measured: &Measured,
    before: &NodeStatus,
    now: jiff::Timestamp,
) -> Vec<NodeCondition> {
    let word = |good: bool, is_good: &'static str, is_bad: &'static str| {
        if good { is_good } else { is_bad }
    };
    let pressure = measured.pressure;
    let (memory, disk, ids) = (pressure.memory, pressure.disk, pressure.process_ids);
    let all: [ConditionRow; 4] = [
        (
            "MemoryPressure",
            memory,
            word(
                !memory,
                "KubeletHasSufficientMemory",
                "KubeletHasInsufficientMemory",
            ),
            format!(
                "podkeeper has {} memory available",
                word(!memory, "sufficient", "insufficient")
            ),
        ),
        (
            "DiskPressure",
            disk,
            word(!disk, "KubeletHasNoDiskPressure", "KubeletHasDiskPressure"),
            format!("podkeeper has {}disk pressure", word(!disk, "no ", "")),
        ),
        (
            "PIDPressure",
            ids,
            word(!ids, "KubeletHasSufficientPID", "KubeletHasInsufficientPID"),
            format!(
                "podkeeper has {} PID available",
                word(!ids, "sufficient", "insufficient")
            ),
        ),
        match &measured.not_ready {
            None => (
                "Ready",
                true,
                "KubeletReady",
                "podkeeper is posting ready status".to_owned(),
            ),
            Some(why) => ("Ready", false, "KubeletNotReady", why.clone()),
        },
    ];
    all.map(|condition| since(condition, before, now)).into()
}

/// Returns a condition with the time since when it has been so.
fn since(condition: ConditionRow, before: &NodeStatus, now: jiff::Timestamp) -> NodeCondition {
    let (kind, holds, reason, message) = condition;
    let status = if holds { "True" } else { "False" };
    let known = before.conditions.iter().flatten();
    let mut known = known.filter(|c| c.type_ == kind && c.status == status);
    let since = known.find_map(|c| c.last_transition_time.clone());
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    }
}

/// True if everything in `ours` is in `theirs` too, ignoring the times of conditions.
pub(super) fn says_the_same(ours: &NodeStatus, theirs: &NodeStatus) -> bool {
    let fields = |status: &NodeStatus| serde_json::to_value(timeless(status)).unwrap_or_default();
    let (ours, theirs) = (fields(ours), fields(theirs));
    let mut ours = ours.as_object().into_iter().flatten();
    ours.all(
        |(name, value)| match (name.as_str(), value, &theirs[name]) {
            ("conditions", Value::Array(wanted), Value::Array(found)) => {
                wanted.iter().all(|condition| found.contains(condition))
            }
            (_, wanted, found) => wanted == found,
        },
    )
}

/// A status that was reported without becoming the API server's, and the status that it has instead. An older
/// API server does not know every field: the fields that it drops are not reported for ever.
#[derive(Debug, Default)]
pub(super) struct NoOpStatus(Option<(NodeStatus, NodeStatus)>);

impl NoOpStatus {
    /// Records the API server's status after ours was reported.
    pub(super) fn record(&mut self, reported: &NodeStatus, answered: &NodeStatus) {
        let differs = !says_the_same(reported, answered);
        self.0 = differs.then(|| (timeless(reported), timeless(answered)));
    }

    /// True if replacing that status by this one is known to be a no-op.
    pub(super) fn is_known(&self, ours: &NodeStatus, theirs: &NodeStatus) -> bool {
        let known = self.0.as_ref();
        known.is_some_and(|(reported, left)| {
            *reported == timeless(ours) && *left == timeless(theirs)
        })
    }
}

fn timeless(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    status
}

/// The strategic merge patch that makes this the Node's status, which was `before`. Conditions of others
/// stay.
pub(super) fn status_patch(status: &NodeStatus, before: &NodeStatus) -> Value {
    let before = [
        ("capacity", &before.capacity),
        ("allocatable", &before.allocatable),
    ];
    let mut status = serde_json::to_value(status).unwrap_or_default();
    if let Some(addresses) = status["addresses"].as_array_mut() {
        // They would be merged by their type, of which there can be two.
        addresses.push(json!({"$patch": "replace"}));
    }
    for (field, before) in before {
        for name in before.iter().flatten().map(|(name, _)| name) {
            // A resource that is left out would stay.
            if status[field].get(name).is_none() {
                status[field][name] = Value::Null;
            }
        }
    }
    json!({"status": status})
}
