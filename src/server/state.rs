//! State of the agent that the servers read, and the schemas of the local API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::https::stats::Stats;
use super::metrics::AgentMetrics;
use super::select::PodFilter;
use super::{kubelet_metrics, probe_metrics};
use crate::host::cgroup::CgroupDriver;
use crate::manifest::{PodKey, Problem};
use crate::node::supervisor::is_alive;
use crate::pod::events::Event;
use crate::pod::report::{PodReport, PodSnapshot};
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

/// [`NodeStatus`] as it is sent: the report of a Pod is made while it is written, so that not all are there at once.
pub(super) struct NodeStatusView {
    snapshots: Vec<Arc<PodSnapshot>>,
    rest: NodeStatus,
}

impl Serialize for NodeStatusView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { snapshots, rest } = self;
        let mut fields = serializer.serialize_struct("NodeStatus", 5)?;
        fields.serialize_field("pods", &PodReports(snapshots))?;
        fields.serialize_field("refused", &rest.refused)?;
        fields.serialize_field("unlisted", &rest.unlisted)?;
        fields.serialize_field("unreadable", &rest.unreadable)?;
        fields.serialize_field("waiting_for", &rest.waiting_for)?;
        fields.end()
    }
}

/// The list of the Pods' reports.
struct PodReports<'a>(&'a [Arc<PodSnapshot>]);

impl Serialize for PodReports<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|snapshot| snapshot.current_report()))
    }
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
    pub(super) followers: Arc<Semaphore>,
    /// Usage for the local API, whose rates no scraper of another port cuts short.
    pub(super) stats: Stats,
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
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            stats: Stats::default(),
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

    /// Returns the status of the node with the matching Pods. What was refused belongs to no Pod, and is there where
    /// none is filtered out.
    pub(super) fn node_status(&self, filter: &PodFilter) -> NodeStatusView {
        let mut rest = NodeStatus {
            waiting_for: self.waiting_for().map(str::to_owned),
            ..NodeStatus::default()
        };
        let desired = self.desired.borrow();
        if let Some(desired) = desired.as_ref().filter(|_| filter.is_empty()) {
            let refused = desired.refused.iter().map(|refused| RefusedReport {
                path: refused.origin.to_string(),
                problems: refused.problems.iter().map(message).collect(),
                keeps: refused.keeps.as_ref().map(ToString::to_string),
            });
            rest.refused = refused.collect();
            rest.unlisted = desired.unlisted;
            rest.unreadable.clone_from(&desired.unreadable);
        }
        NodeStatusView {
            snapshots: self.selected(filter),
            rest,
        }
    }

    /// Returns the snapshots of the matching Pods, by namespace and name.
    fn selected(&self, filter: &PodFilter) -> Vec<Arc<PodSnapshot>> {
        let Some(context) = self.context.borrow().clone() else {
            return vec![];
        };
        let all = context.reports.snapshots();
        let selected = filter.select(&context.node_name, all).into_iter();
        selected.map(|(_, snapshot)| snapshot).collect()
    }

    /// Returns the snapshots of all Pods, by namespace and name.
    pub(super) fn snapshots(&self) -> Vec<Arc<PodSnapshot>> {
        let context = self.context.borrow();
        let all = context.iter().flat_map(|c| c.reports.snapshots());
        all.map(|(_, snapshot)| snapshot).collect()
    }

    /// Returns the details of the matching Pods.
    pub(super) fn details(&self, filter: &PodFilter) -> PodDetails {
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
        let names = reports.iter().map(|(key, _)| key.to_string()).collect();
        let selected = filter.select(&context.node_name, reports);
        PodDetails {
            pods: selected
                .iter()
                .map(|(key, report)| detail(&context, key, report))
                .collect(),
            names,
            endpoint: context.client.endpoint().to_string(),
            waiting_for,
        }
    }

    /// Returns the events after this number, oldest first, of Pods with the filter's name and namespace: those of a Pod
    /// that is gone have no labels.
    pub(super) fn events(&self, since: u64, filter: &PodFilter) -> Vec<Event> {
        let Some(context) = self.context.borrow().clone() else {
            return vec![];
        };
        let mut events = context.events.since(since);
        if let Some(namespace) = &filter.namespace {
            events.retain(|event| event.namespace == *namespace);
        }
        if let Some(name) = &filter.name {
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
        let own = self.metrics.text(self)?;
        Ok(own + &kubelet_metrics::text(&self.metrics, self))
    }

    /// Returns the metrics of the probes in the same format.
    pub(super) fn probe_metrics(&self) -> String {
        probe_metrics::page(&self.metrics.pods.probes)
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
