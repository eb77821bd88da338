//! What the answers are made from, and the shapes of those for the command line.

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

use super::metrics::Metrics;
use super::select::PodName;
use crate::host::cgroup::CgroupDriver;
use crate::manifest::{PodKey, Problem};
use crate::node::supervisor::is_alive;
use crate::pod::events::Event;
use crate::pod::report::{PodReport, Told};
use crate::pod::reports::Reports;
use crate::pod::task::Context;
use crate::source::Desired;

/// Callers at a time that are told of changes as they come.
const MAX_FOLLOWERS: usize = 32;

/// Manifests that do not answer for this long are a fault of the node's.
const MAX_UNANSWERED: Duration = Duration::from_secs(30);

/// The most of them that are named.
const MAX_SHOWN: usize = 10;

const UNLOOKED: &str = "not every Pod was looked at yet";

/// Everything that `podkeeper ps` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The Pods, by namespace and name.
    pub pods: Vec<PodReport>,
    /// Manifests that are not carried out as they stand.
    pub refused: Vec<RefusedReport>,
    /// How many more manifests are refused than are listed.
    #[serde(default)]
    pub unlisted: usize,
    /// Why manifests cannot be read just now, for each source that cannot.
    pub unreadable: Vec<String>,
    /// What the agent waits for before it can do anything.
    pub waiting_for: Option<String>,
}

/// A manifest that is not carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReport {
    /// The file, or the URL.
    pub path: String,
    /// What is wrong, each as `line:column: field: message`.
    pub problems: Vec<String>,
    /// The Pod whose last accepted version runs on, as `namespace/name`.
    pub keeps: Option<String>,
}

/// The Pods that somebody meant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodDetails {
    /// They, by namespace and name.
    pub pods: Vec<PodDetail>,
    /// All Pods of the node, as `namespace/name`.
    pub names: Vec<String>,
    /// The container runtime's socket, as `unix:///…`; empty until it answered.
    pub endpoint: String,
    /// What the agent waits for before it can do anything.
    pub waiting_for: Option<String>,
}

/// Everything about one Pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodDetail {
    /// In few words.
    pub report: PodReport,
    /// As the API has it, with its status; nothing if its manifest is not known.
    pub pod: Option<Pod>,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// When each container that waits is tried again, in nanoseconds since the epoch.
    pub until: BTreeMap<String, i64>,
    /// The folder of its containers' logs.
    pub logs: PathBuf,
}

/// A Pod as a list of the API has it: a list's items do not say what they are.
#[derive(Debug, Serialize)]
struct Item {
    metadata: ObjectMeta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

/// What the answers are made from.
#[derive(Debug)]
pub struct State {
    /// What the manifests want; nothing until they were read for the first time.
    pub(super) desired: watch::Receiver<Option<Desired>>,
    /// What the tasks tell; nothing until the runtime answered for the first time.
    pub(super) context: watch::Receiver<Option<Arc<Context>>>,
    /// When the supervisor last went round.
    pub(super) pulse: watch::Receiver<Option<Instant>>,
    /// The `KubeletConfiguration` in force.
    configz: watch::Receiver<Value>,
    metrics: Metrics,
    /// The list of Pods as it was at a count of changes: who does not read on costs no copy of his own.
    pod_list: Mutex<Option<(u64, Bytes)>>,
    pub(super) followers: Arc<Semaphore>,
}

impl State {
    /// From the agent's parts.
    #[must_use]
    pub fn new(
        desired: watch::Receiver<Option<Desired>>,
        context: watch::Receiver<Option<Arc<Context>>>,
        pulse: watch::Receiver<Option<Instant>>,
        configz: watch::Receiver<Value>,
        metrics: Metrics,
    ) -> Self {
        Self {
            desired,
            context,
            pulse,
            configz,
            metrics,
            pod_list: Mutex::default(),
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        }
    }

    /// What the agent waits for before it can do anything.
    fn waiting_for(&self) -> Option<&'static str> {
        if self.context.borrow().is_none() {
            return Some("the container runtime does not answer yet");
        }
        let unread = self.desired.borrow().is_none();
        unread.then_some("the manifests are being read for the first time")
    }

    /// Whether the agent works.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn health(&self) -> Result<(), String> {
        if is_alive(&self.pulse) {
            return match self.unanswered() {
                Some(what) => Err(what),
                None => Ok(()),
            };
        }
        let started = self.pulse.borrow().is_some();
        let waiting = self.waiting_for().filter(|_| !started);
        Err(waiting
            .unwrap_or(if started {
                "the supervisor does not go round"
            } else {
                UNLOOKED
            })
            .to_owned())
    }

    /// The manifests that have not answered for long.
    fn unanswered(&self) -> Option<String> {
        let desired = self.desired.borrow();
        let unanswered = desired.iter().flat_map(|desired| &desired.unanswered);
        let waited = unanswered.map(|what| (what.path.display(), what.since.elapsed()));
        let long: Vec<_> = waited
            .filter(|(_, waited)| *waited >= MAX_UNANSWERED)
            .map(|(path, waited)| format!("{path} has not answered for {}s", waited.as_secs()))
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
        (!long.is_empty()).then(|| format!("{what}; what was accepted from there keeps running"))
    }

    pub(super) fn node_status(&self) -> NodeStatus {
        let context = self.context.borrow().clone();
        let waiting_for = self.waiting_for();
        let desired = self.desired.borrow().clone().unwrap_or_default();
        let refused = desired.refused.into_iter().map(|refused| RefusedReport {
            path: refused.origin.to_string(),
            problems: refused.problems.iter().map(said).collect(),
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

    /// The Pods that are meant, or all.
    pub(super) fn details(&self, name: Option<&PodName>) -> PodDetails {
        let unlooked = self.pulse.borrow().is_none();
        let waiting_for = self.waiting_for();
        let waiting_for = waiting_for.or(unlooked.then_some(UNLOOKED));
        let waiting_for = waiting_for.map(str::to_owned);
        let Some(context) = self.context.borrow().clone() else {
            return PodDetails {
                waiting_for,
                ..PodDetails::default()
            };
        };
        let told = context.reports.told();
        let keys = told.iter().map(|(key, _)| key.clone());
        let selected: Vec<PodKey> = match name {
            Some(name) => name.select(&context.node_name, keys),
            None => keys.collect(),
        };
        let meant = told.iter().filter(|(key, _)| selected.contains(key));
        PodDetails {
            pods: meant
                .map(|(key, told)| detail(&context, key, told))
                .collect(),
            names: told.iter().map(|(key, _)| key.to_string()).collect(),
            endpoint: context.client.endpoint().to_string(),
            waiting_for,
        }
    }

    /// The events after this number, of the Pods that are meant or of all, oldest first.
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

    /// All Pods as the API has them: a v1 `PodList`.
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
        let told = context.as_ref().map_or(vec![], |c| c.reports.told());
        let pods = told.iter().filter_map(|(_, told)| told.pod());
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

    /// The `KubeletConfiguration` in force, as the kubelet shows it.
    pub(super) fn configz(&self) -> Value {
        let mut fields = self.configz.borrow().clone();
        if let Some(context) = &*self.context.borrow() {
            // The runtime has the last word on this one.
            let driver = match context.facts.cgroup_driver {
                CgroupDriver::Cgroupfs => "cgroupfs",
                CgroupDriver::Systemd => "systemd",
            };
            fields["cgroupDriver"] = json!(driver);
        }
        json!({"kubeletconfig": fields})
    }

    /// All metrics in Prometheus' text form.
    pub(super) fn metrics(&self) -> prometheus::Result<String> {
        self.metrics.text(self)
    }
}

/// What is wrong or dubious, with the word for it where it is a warning.
fn said(problem: &Problem) -> String {
    let Problem { line, column, .. } = *problem;
    let said = problem.to_string();
    match (problem.is_warning(), line) {
        (false, _) => said,
        (true, 0) => format!("warning: {said}"),
        (true, _) => {
            let place = format!("{line}:{column}: ");
            let said = said.strip_prefix(&place).unwrap_or(&said);
            format!("{place}warning: {said}")
        }
    }
}

fn detail(context: &Context, key: &PodKey, told: &Told) -> PodDetail {
    PodDetail {
        report: told.current_report(),
        pod: told.pod(),
        terminating: told.terminating,
        until: told
            .until
            .iter()
            .map(|(name, due)| (name.clone(), context.clock.wall_of(*due)))
            .collect(),
        logs: context.facts.paths.pod_logs(key, &told.report.uid),
    }
}
