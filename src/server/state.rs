//! State of the agent that the servers read, and the schemas of the local API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::metrics::AgentMetrics;
use super::select::PodName;
use crate::host::cgroup::CgroupDriver;
use crate::manifest::{PodKey, Problem};
use crate::node::supervisor::is_alive;
use crate::pod::events::Event;
use crate::pod::report::{PodReport, PodSnapshot};
use crate::pod::reports::Reports;
use crate::pod::task::Context;
use crate::source::Desired;

/// Maximum number of callers that follow changes.
const MAX_FOLLOWERS: usize = 32;

/// Time after which manifests that cannot be read are reported as a fault of the node.
const UNREADABLE_LIMIT: Duration = Duration::from_secs(30);

/// Maximum number of them that are named.
const MAX_SHOWN: usize = 10;

const NOT_SYNCED: &str = "not every Pod is synced yet";

/// Status of the node, which `podkeeper ps` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The Pods, by namespace and name.
    pub pods: Vec<PodReport>,
    /// Refused manifests.
    pub refused: Vec<RefusedReport>,
    /// Number of refused manifests that are not listed.
    #[serde(default)]
    pub unlisted: usize,
    /// Error of each source that cannot be read at present.
    pub unreadable: Vec<String>,
    /// Reason for which the agent cannot start Pods yet.
    pub waiting_for: Option<String>,
}

/// A refused manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReport {
    /// The file, or the URL.
    pub path: String,
    /// The problems, each as `line:column: field: message`.
    pub problems: Vec<String>,
    /// The Pod whose last accepted version keeps running, as `namespace/name`.
    pub keeps: Option<String>,
}

/// Details of selected Pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodDetails {
    /// The selected Pods, by namespace and name.
    pub pods: Vec<PodDetail>,
    /// All Pods of the node, as `namespace/name`.
    pub names: Vec<String>,
    /// Socket of the container runtime, as `unix:///…`; empty until it is connected.
    pub endpoint: String,
    /// Reason for which the agent cannot start Pods yet.
    pub waiting_for: Option<String>,
}

/// Details of one Pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodDetail {
    /// Summary of the Pod.
    pub report: PodReport,
    /// The Pod of the API, with its status; `None` if its manifest is not known.
    pub pod: Option<Pod>,
    /// The Pod is being terminated.
    pub terminating: bool,
    /// Time of each waiting container's next start, in nanoseconds since the epoch.
    pub until: BTreeMap<String, i64>,
    /// Directory of its containers' logs.
    pub logs: PathBuf,
}

/// An item of a `PodList`, without kind and API version, as in the API.
#[derive(Debug, Serialize)]
struct Item {
    metadata: ObjectMeta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

/// State of the agent that the servers read.
#[derive(Debug)]
pub struct ServerState {
    /// Desired Pods; `None` until the manifests were read for the first time.
    pub(super) desired: watch::Receiver<Option<Desired>>,
    /// Reports of the Pods' tasks; `None` until the runtime is connected.
    pub(super) context: watch::Receiver<Option<Arc<Context>>>,
    /// Time of the supervisor's last heartbeat.
    pub(super) heartbeat: watch::Receiver<Option<Instant>>,
    /// The `KubeletConfiguration` in force.
    configz: watch::Receiver<Value>,
    metrics: AgentMetrics,
    /// The serialized `PodList` of one count of changes, shared by all callers.
    pod_list: Mutex<Option<(u64, Bytes)>>,
    pub(super) followers: Arc<Semaphore>,
}

impl ServerState {
    /// Creates the state from the agent's parts.
    #[must_use]
    pub fn new(
        desired: watch::Receiver<Option<Desired>>,
        context: watch::Receiver<Option<Arc<Context>>>,
        heartbeat: watch::Receiver<Option<Instant>>,
        configz: watch::Receiver<Value>,
        metrics: AgentMetrics,
    ) -> Self {
        Self {
            desired,
            context,
            heartbeat,
            configz,
            metrics,
            pod_list: Mutex::default(),
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        }
    }

    /// Reason for which the agent cannot start Pods yet.
    fn waiting_for(&self) -> Option<&'static str> {
        if self.context.borrow().is_none() {
            return Some("the container runtime is not connected yet");
        }
        let unread = self.desired.borrow().is_none();
        unread.then_some("the manifests are being read for the first time")
    }

    /// Returns the agent's health.
    ///
    /// # Errors
    /// The reason for which the agent is not healthy.
    pub(super) fn health(&self) -> Result<(), String> {
        if is_alive(&self.heartbeat) {
            return match self.unreadable() {
                Some(what) => Err(what),
                None => Ok(()),
            };
        }
        let started = self.heartbeat.borrow().is_some();
        let waiting = self.waiting_for().filter(|_| !started);
        Err(waiting
            .unwrap_or(if started {
                "the supervisor is stuck"
            } else {
                NOT_SYNCED
            })
            .to_owned())
    }

    /// Returns the manifests that could not be read for long.
    fn unreadable(&self) -> Option<String> {
        let desired = self.desired.borrow();
        let unanswered = desired.iter().flat_map(|desired| &desired.unanswered);
        let waited = unanswered.map(|what| (what.path.display(), what.since.elapsed()));
        let long: Vec<_> = waited
            .filter(|(_, waited)| *waited >= UNREADABLE_LIMIT)
            .map(|(path, waited)| format!("{path} has not responded for {}s", waited.as_secs()))
            .collect();
        let (more, shown) = (
            long.len().saturating_sub(MAX_SHOWN),
            &long[..long.len().min(MAX_SHOWN)],
        );
        let more = if more > 0 {
            format!(", and {more} more")
        } else {
            String::new()
        };
        let what = shown.join(", ") + &more;
        (!long.is_empty()).then(|| format!("{what}; its accepted Pods keep running"))
    }

    pub(super) fn node_status(&self) -> NodeStatus {
        let context = self.context.borrow().clone();
        let waiting_for = self.waiting_for();
        let desired = self.desired.borrow().clone().unwrap_or_default();
        let refused = desired.refused.into_iter().map(|refused| RefusedReport {
            path: refused.origin.to_string(),
            problems: refused.problems.iter().map(message).collect(),
            keeps: refused.keeps.map(|key| key.to_string()),
        });
        NodeStatus {
            pods: context
                .map(|c| Reports::all(&c.reports))
                .unwrap_or_default(),
            refused: refused.collect(),
            unlisted: desired.unlisted,
            unreadable: desired.unreadable,
            waiting_for: waiting_for.map(str::to_owned),
        }
    }

    /// Returns the details of the selected Pods, or of all.
    pub(super) fn details(&self, name: Option<&PodName>) -> PodDetails {
        let not_synced = self.heartbeat.borrow().is_none();
        let waiting_for = self.waiting_for();
        let waiting_for = waiting_for.or(not_synced.then_some(NOT_SYNCED));
        let waiting_for = waiting_for.map(str::to_owned);
        let Some(context) = self.context.borrow().clone() else {
            return PodDetails {
                waiting_for,
                ..PodDetails::default()
            };
        };
        let reports = context.reports.snapshots();
        let keys = reports.iter().map(|(key, _)| key.clone());
        let selected: Vec<PodKey> = match name {
            Some(name) => name.select(&context.node_name, keys),
            None => keys.collect(),
        };
        let selected = reports.iter().filter(|(key, _)| selected.contains(key));
        PodDetails {
            pods: selected
                .map(|(key, report)| detail(&context, key, report))
                .collect(),
            names: reports.iter().map(|(key, _)| key.to_string()).collect(),
            endpoint: context.client.endpoint().to_string(),
            waiting_for,
        }
    }

    /// Returns the events after this number, of the selected Pods or of all, oldest first.
    pub(super) fn events(&self, since: u64, name: Option<&PodName>) -> Vec<Event> {
        let Some(context) = self.context.borrow().clone() else {
            return vec![];
        };
        let mut events = context.events.since(since);
        if let Some(name) = name {
            events.retain(|event| {
                let key = PodKey {
                    namespace: event.namespace.clone(),
                    name: event.name.clone(),
                };
                name.means(&context.node_name, &key)
            });
        }
        events
    }

    /// Returns all Pods as a v1 `PodList`.
    pub(super) fn pod_list(&self) -> serde_json::Result<Bytes> {
        let context = self.context.borrow().clone();
        let changes = context
            .as_ref()
            .map_or(0, |c| *c.reports.changes().borrow());
        let mut kept = self.pod_list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, list)) = kept.as_ref().filter(|_| context.is_some())
            && *of == changes
        {
            return Ok(list.clone());
        }
        let reports = context.as_ref().map_or(vec![], |c| c.reports.snapshots());
        let pods = reports.iter().filter_map(|(_, report)| report.pod());
        let items = pods.map(|pod| Item {
            metadata: pod.metadata,
            spec: pod.spec,
            status: pod.status,
        });
        let items: Vec<Item> = items.collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        let list = Bytes::from(serde_json::to_vec(&list)?);
        *kept = Some((changes, list.clone()));
        Ok(list)
    }

    /// Returns the `KubeletConfiguration` in force, as the kubelet's `/configz` does.
    pub(super) fn configz(&self) -> Value {
        let mut fields = self.configz.borrow().clone();
        if let Some(context) = &*self.context.borrow() {
            // The runtime's own report wins.
            let driver = match context.facts.cgroup_driver {
                CgroupDriver::Cgroupfs => "cgroupfs",
                CgroupDriver::Systemd => "systemd",
            };
            fields["cgroupDriver"] = json!(driver);
        }
        json!({"kubeletconfig": fields})
    }

    /// Returns all metrics in Prometheus' text format.
    pub(super) fn metrics(&self) -> prometheus::Result<String> {
        self.metrics.text(self)
    }
}

/// A problem as text; warnings are marked as such.
fn message(problem: &Problem) -> String {
    let Problem { line, column, .. } = *problem;
    let message = problem.to_string();
    match (problem.is_warning(), line) {
        (false, _) => message,
        (true, 0) => format!("warning: {message}"),
        (true, _) => {
            let place = format!("{line}:{column}: ");
            let rest = message.strip_prefix(&place).unwrap_or(&message);
            format!("{place}warning: {rest}")
        }
    }
}

fn detail(context: &Context, key: &PodKey, reported: &PodSnapshot) -> PodDetail {
    PodDetail {
        report: reported.current_report(),
        pod: reported.pod(),
        terminating: reported.terminating,
        until: reported
            .until
            .iter()
            .map(|(name, due)| (name.clone(), context.clock.wall_of(*due)))
            .collect(),
        logs: context.facts.paths.pod_logs(key, &reported.report.uid),
    }
}
