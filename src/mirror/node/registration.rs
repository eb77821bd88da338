//! Keeps the Node at the API server: made if it is missing, its status told when it changes and every
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
use super::status::{self, Vain};
use crate::mirror::Local;
use crate::mirror::api::{Api, PatchType};
use crate::mirror::complaint::Complaint;
use crate::mirror::error::{Error, ErrorKind};
use crate::mirror::object::{NodeIdentity, SeenMeta, or_default};
use crate::mirror::watch::{Object, Seen};
use crate::units::time::Later;

/// How often the machine is measured.
const LOOK: Duration = Duration::from_secs(10);
/// How often the status is told if nothing changes, and labels that were refused are tried again.
const TELL: Duration = Duration::from_secs(300);
/// Where Nodes are asked for.
pub(in crate::mirror) const NODES: &str = "/api/v1/nodes";

/// What is kept of the Node that the API server has.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::mirror) struct SeenNode {
    metadata: SeenMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: NodeSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: NodeStatus,
}

impl Object for SeenNode {
    fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

/// What is known of the Node at the API server.
#[derive(Debug)]
enum Known {
    /// It was not told yet.
    Nothing,
    /// There is none.
    Missing,
    /// It is there.
    There(Box<SeenNode>),
}

/// The keeper of the Node on one connection.
pub(in crate::mirror) struct Registration<'a> {
    local: &'a Local,
    api: Api,
    identity: watch::Sender<Option<NodeIdentity>>,
    measured: &'a mut Measured,
    seen: Known,
    /// When the labels are to be looked after; `None` once they were.
    label_at: Option<Instant>,
    /// When the status was told.
    told: Option<Instant>,
    vain: Vain,
    making: Complaint,
    labelling: Complaint,
    telling: Complaint,
}

impl<'a> Registration<'a> {
    /// `identity` is told what the API server knows this node by.
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
            seen: Known::Nothing,
            label_at: Some(Instant::now()),
            told: None,
            vain: Vain::default(),
            making: Complaint::new("to make the Node"),
            labelling: Complaint::new("to change the labels of the Node"),
            telling: Complaint::new("to change the Node"),
        }
    }

    /// Keeps the Node until the API server is away.
    pub(in crate::mirror) async fn keep(
        mut self,
        mut news: mpsc::Receiver<Seen<SeenNode>>,
    ) -> Result<Infallible, Error> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let measure = tokio::select! {
                Some(seen) = news.recv() => self.see(seen),
                _ = look.tick() => true,
            };
            if measure {
                let context = &self.local.context;
                let root = &context.facts.paths.root;
                *self.measured = Measured::now(&context.client, root, self.measured).await;
            }
            self.go_on().await?;
        }
    }

    /// Takes in what was seen. Tells whether there is a Node that is news.
    fn see(&mut self, seen: Seen<SeenNode>) -> bool {
        let seen = match seen {
            Seen::All(nodes) => nodes.into_iter().next(),
            Seen::There(node) => Some(node),
            Seen::Gone(_) => {
                warn!("the Node was deleted");
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
            self.told = None;
            self.look_at_taints(seen.as_ref());
        }
        let first = matches!(self.seen, Known::Nothing);
        self.seen = seen.map_or(Known::Missing, |node| Known::There(Box::new(node)));
        is_new || first
    }

    /// A Node keeps the taints that it was made with, by this agent or another.
    fn look_at_taints(&self, seen: Option<&SeenNode>) {
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
                "the Node was made without this taint: Pods that the scheduler puts here do not run. \
                 Taint it, or delete the Node to have it made anew"
            );
        }
    }

    async fn go_on(&mut self) -> Result<(), Error> {
        let result = match &self.seen {
            Known::Missing if self.local.settings.register_node => self.make().await,
            Known::There(_) => self.bring_up_to_date().await,
            _ => Ok(()),
        };
        match result {
            Err(error) if error.kind == ErrorKind::Away => Err(error),
            _ => Ok(()),
        }
    }

    async fn make(&mut self) -> Result<(), Error> {
        let Local {
            settings, context, ..
        } = self.local;
        let status = self.status(&NodeStatus::default());
        let node = status::node(&context.facts, &settings.taints, status);
        match self.api.create::<SeenNode>(NODES, &node).await {
            Ok(node) => {
                info!(node = context.node_name, "the Node is registered");
                self.making.clear();
                self.see(Seen::There(node));
                self.label_at = None;
                self.told = Some(Instant::now());
                Ok(())
            }
            // The news of it are on their way.
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => {
                self.making.say(&error);
                Err(error)
            }
        }
    }

    fn status(&self, before: &NodeStatus) -> NodeStatus {
        let Local {
            settings, context, ..
        } = self.local;
        let now = jiff::Timestamp::now();
        status::status(&context.facts, self.measured, before, settings.port, now)
    }

    async fn bring_up_to_date(&mut self) -> Result<(), Error> {
        let result = self.change().await;
        match &result {
            Ok(()) => self.telling.clear(),
            Err(error) if matches!(error.kind, ErrorKind::Refused(_)) => self.telling.say(error),
            Err(_) => {}
        }
        result
    }

    async fn change(&mut self) -> Result<(), Error> {
        if self.label_at.is_some_and(|at| at <= Instant::now()) {
            self.look_at_labels().await?;
        }
        let Known::There(seen) = &self.seen else {
            return Ok(());
        };
        let status = self.status(&seen.status);
        let is_due = self.told.is_none_or(|told| told.elapsed() >= TELL);
        let differs = !status::says_the_same(&status, &seen.status);
        if is_due || differs && !self.vain.is_known(&status, &seen.status) {
            let path = format!("{NODES}/{}/status", self.local.context.node_name);
            let change = status::status_patch(&status, &seen.status);
            let node: SeenNode = self.api.patch(&path, PatchType::Strategic, &change).await?;
            self.told = Some(Instant::now());
            self.vain.note(&status, &node.status);
            self.seen = Known::There(Box::new(node));
        }
        Ok(())
    }

    /// Gives the Node its labels. That one is refused keeps nothing else of the Node from being told.
    ///
    /// # Errors
    /// The API server is away.
    async fn look_at_labels(&mut self) -> Result<(), Error> {
        let Known::There(seen) = &self.seen else {
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
            let changed: Result<IgnoredAny, Error> =
                self.api.patch(&path, PatchType::Merge, &change).await;
            match changed {
                Err(error) if error.kind == ErrorKind::Away => return Err(error),
                Err(error) if matches!(error.kind, ErrorKind::Refused(_)) => {
                    self.labelling.say(&error);
                    self.label_at = Some(Instant::now().later(TELL));
                    return Ok(());
                }
                // It may do better at the next look.
                Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
        self.labelling.clear();
        self.label_at = None;
        Ok(())
    }
}
