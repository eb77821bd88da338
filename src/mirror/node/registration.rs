//! Keeps the Node at the API server: created if it is missing, its status reported when it changes and every
//! few minutes.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus, Taint};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::measure::Measured;
use super::status::{self, NoOpStatus};
use crate::mirror::Local;
use crate::mirror::api::{Api, PatchType};
use crate::mirror::error::{ApiError, ErrorKind};
use crate::mirror::events::record_node_shutdown;
use crate::mirror::object::{NodeIdentity, SeenMeta, or_default};
use crate::mirror::refusal_log::RefusalLog;
use crate::mirror::watch::{ObjectUpdate, WatchedObject};
use crate::pod::shutdown::NODE_MESSAGE;
use crate::units::time::Later;

/// Interval between retries of labels that were refused.
const LABEL_INTERVAL: Duration = Duration::from_secs(300);
/// API path of Nodes.
pub(in crate::mirror) const NODES: &str = "/api/v1/nodes";

/// Fields kept of the Node that the API server has.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::mirror) struct SeenNode {
    metadata: SeenMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: NodeSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: NodeStatus,
}

impl WatchedObject for SeenNode {
    fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

/// State of the Node at the API server.
#[derive(Debug)]
enum NodeState {
    /// Not listed yet.
    Nothing,
    /// There is none.
    Missing,
    /// The Node exists.
    There(Box<SeenNode>),
}

/// The controller of the Node on one connection.
pub(in crate::mirror) struct Registration<'a> {
    local: &'a Local,
    api: Api,
    identity: watch::Sender<Option<NodeIdentity>>,
    measured: &'a mut Measured,
    seen: NodeState,
    /// Time when the labels are to be updated; `None` once they were.
    label_at: Option<Instant>,
    /// Time when the status was reported.
    reported_at: Option<Instant>,
    no_op: NoOpStatus,
    /// True once it was seen that the machine shuts down.
    shuts_down: bool,
    /// True once it has an event for that.
    has_event: bool,
    creations: RefusalLog,
    label_updates: RefusalLog,
    updates: RefusalLog,
}

impl<'a> Registration<'a> {
    /// `identity` is notified of the name and UID that the API server knows this node by.
    pub(in crate::mirror) fn new(
        local: &'a Local,
        api: Api,
        identity: watch::Sender<Option<NodeIdentity>>,
        measured: &'a mut Measured,
    ) -> Self {
        Self {
            local,
            api,
            identity,
            measured,
            seen: NodeState::Nothing,
            label_at: Some(Instant::now()),
            reported_at: None,
            no_op: NoOpStatus::default(),
            shuts_down: false,
            has_event: false,
            creations: RefusalLog::new("to create the Node"),
            label_updates: RefusalLog::new("to update the labels of the Node"),
            updates: RefusalLog::new("to update the Node"),
        }
    }

    /// Keeps the Node until the API server is unreachable.
    pub(in crate::mirror) async fn keep(
        mut self,
        mut updates: mpsc::Receiver<ObjectUpdate<SeenNode>>,
    ) -> Result<Infallible, ApiError> {
        let mut timer = tokio::time::interval(self.local.settings.measure_interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let context = &self.local.context;
            let measure = tokio::select! {
                Some(seen) = updates.recv() => self.see(seen),
                _ = timer.tick() => true,
                // Its status says so at once.
                _ = context.shutdown.requested(), if !self.shuts_down => {
                    self.shuts_down = true;
                    false
                }
            };
            if measure {
                let context = &self.local.context;
                let root = &context.facts.paths.root;
                let thresholds = &self.local.settings.thresholds;
                *self.measured =
                    Measured::now(&context.client, root, thresholds, self.measured).await;
            }
            self.go_on().await?;
            if self.shuts_down && !std::mem::replace(&mut self.has_event, true) {
                self.record_shutdown().await?;
            }
        }
    }

    /// Records the shutdown as an event of the Node, once it shows in its status.
    ///
    /// # Errors
    /// The API server is unreachable.
    async fn record_shutdown(&self) -> Result<(), ApiError> {
        let node = &self.local.context.node_name;
        match record_node_shutdown(&self.api, node).await {
            Err(error) if error.kind == ErrorKind::Unreachable => Err(error),
            // The log has it all the same.
            _ => Ok(()),
        }
    }

    /// Takes in what was seen. Returns true if the Node changed.
    fn see(&mut self, seen: ObjectUpdate<SeenNode>) -> bool {
        let seen = match seen {
            ObjectUpdate::All(nodes) => nodes.into_iter().next(),
            ObjectUpdate::There(node) => Some(node),
            ObjectUpdate::Gone(_) => {
                warn!("Node was deleted");
                None
            }
        };
        let name = &self.local.context.node_name;
        let identity = seen.as_ref().map(|node| NodeIdentity {
            name: name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
        });
        let is_new = self.identity.send_if_modified(|known| {
            let is_new = *known != identity;
            *known = identity;
            is_new
        });
        if is_new {
            self.label_at = Some(Instant::now());
            self.reported_at = None;
            self.check_taints(seen.as_ref());
        }
        let first = matches!(self.seen, NodeState::Nothing);
        self.seen = seen.map_or(NodeState::Missing, |node| NodeState::There(Box::new(node)));
        is_new || first
    }

    /// A Node keeps the taints that it was made with, by this agent or another.
    fn check_taints(&self, seen: Option<&SeenNode>) {
        let Some(node) = seen else {
            return;
        };
        let there = node.spec.taints.as_deref().unwrap_or_default();
        let has = |taint: &&Taint| {
            let alike = |t: &Taint| (&t.key, &t.effect) == (&taint.key, &taint.effect);
            !there.iter().any(alike)
        };
        if let Some(taint) = self.local.settings.taints.iter().find(has) {
            warn!(
                taint = taint.key,
                "Node was created without this taint: Pods that the scheduler binds to it do not run. \
                 Taint it, or delete the Node to have it created again"
            );
        }
    }

    async fn go_on(&mut self) -> Result<(), ApiError> {
        let result = match &self.seen {
            NodeState::Missing if self.local.settings.register_node => self.make().await,
            NodeState::There(_) => self.bring_up_to_date().await,
            _ => Ok(()),
        };
        match result {
            Err(error) if error.kind == ErrorKind::Unreachable => Err(error),
            _ => Ok(()),
        }
    }

    async fn make(&mut self) -> Result<(), ApiError> {
        let Local {
            settings, context, ..
        } = self.local;
        let status = self.status(&NodeStatus::default());
        let node = status::node(&context.facts, settings, status);
        match self.api.create::<SeenNode>(NODES, &node).await {
            Ok(node) => {
                info!(node = context.node_name, "Registered Node");
                self.creations.accepted();
                self.see(ObjectUpdate::There(node));
                self.label_at = None;
                self.reported_at = Some(Instant::now());
                Ok(())
            }
            // The watch will report it.
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => {
                self.creations.refused(&error);
                Err(error)
            }
        }
    }

    fn status(&self, before: &NodeStatus) -> NodeStatus {
        let Local {
            settings, context, ..
        } = self.local;
        let now = jiff::Timestamp::now();
        let mut measured = self.measured.clone();
        if context.shutdown.is_requested() {
            measured.not_ready = Some(NODE_MESSAGE.to_owned());
        }
        status::status(&context.facts, &measured, before, settings.port, now)
    }

    async fn bring_up_to_date(&mut self) -> Result<(), ApiError> {
        let result = self.change().await;
        match &result {
            Ok(()) => self.updates.accepted(),
            Err(error) if matches!(error.kind, ErrorKind::Refused(_)) => {
                self.updates.refused(error);
            }
            Err(_) => {}
        }
        result
    }

    async fn change(&mut self) -> Result<(), ApiError> {
        if self.label_at.is_some_and(|at| at <= Instant::now()) {
            self.update_labels().await?;
        }
        let NodeState::There(seen) = &self.seen else {
            return Ok(());
        };
        let status = self.status(&seen.status);
        let is_due = self
            .reported_at
            .is_none_or(|reported_at| reported_at.elapsed() >= self.local.settings.report_interval);
        let differs = !status::says_the_same(&status, &seen.status);
        if is_due || differs && !self.no_op.is_known(&status, &seen.status) {
            let path = format!("{NODES}/{}/status", self.local.context.node_name);
            let change = status::status_patch(&status, &seen.status);
            let node: SeenNode = self.api.patch(&path, PatchType::Strategic, &change).await?;
            self.reported_at = Some(Instant::now());
            self.no_op.record(&status, &node.status);
            self.seen = NodeState::There(Box::new(node));
        }
        Ok(())
    }

    /// Updates the Node's labels. A refused label keeps nothing else of the Node from being reported.
    ///
    /// # Errors
    /// The API server is unreachable.
    async fn update_labels(&mut self) -> Result<(), ApiError> {
        let NodeState::There(seen) = &self.seen else {
            return Ok(());
        };
        let facts = &self.local.context.facts;
        let wanted = &facts.identity.labels;
        let there = seen.metadata.labels.as_ref();
        let differs = |(key, value): (&String, &String)| {
            there.and_then(|labels| labels.get(key)) != Some(value)
        };
        if wanted.iter().any(differs) {
            let path = format!("{NODES}/{}", facts.identity.name);
            let change = json!({"metadata": {"labels": wanted}});
            let changed: Result<IgnoredAny, ApiError> =
                self.api.patch(&path, PatchType::Merge, &change).await;
            match changed {
                Err(error) if error.kind == ErrorKind::Unreachable => return Err(error),
                Err(error) if matches!(error.kind, ErrorKind::Refused(_)) => {
                    self.label_updates.refused(&error);
                    self.label_at = Some(Instant::now().later(LABEL_INTERVAL));
                    return Ok(());
                }
                // It may do better at the next try.
                Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
        self.label_updates.accepted();
        self.label_at = None;
        Ok(())
    }
}
