//! The Pods that are measured, and those compared doing the same with them.

use anyhow::Result;

use crate::bare::{BareCalls, Ends};
use crate::node::{Node, Programs};
use crate::observer::Logs;
use crate::results::Who;

pub(crate) const IMAGE: &str = "localhost/podkeeper/busybox:1";

/// Kind of a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It writes a line and ends at once when asked to.
    Plain,
    /// It ignores SIGTERM and has a grace period of two seconds.
    Stubborn,
    /// As plain, with an exec probe every ten seconds.
    ExecProbe,
    /// It serves HTTP, with a probe every ten seconds.
    HttpProbe,
}

impl Kind {
    pub(crate) fn manifest(self, name: &str) -> String {
        let script = match self {
            Self::Plain | Self::ExecProbe => "trap 'exit 0' TERM; echo up; sleep 1000000 & wait",
            Self::Stubborn => "trap '' TERM; echo up; sleep 1000000",
            Self::HttpProbe => "echo up; exec httpd -f -p 8080 -h /etc",
        };
        let mut container = serde_json::json!({
            "name": "c", "image": IMAGE, "command": ["sh", "-c", script],
        });
        let probe = match self {
            Self::Plain | Self::Stubborn => None,
            Self::ExecProbe => Some(serde_json::json!({"exec": {"command": ["true"]}})),
            Self::HttpProbe => {
                Some(serde_json::json!({"httpGet": {"path": "/passwd", "port": 8080}}))
            }
        };
        if let Some(mut probe) = probe {
            probe["periodSeconds"] = 10.into();
            container["livenessProbe"] = probe;
        }
        let mut spec = serde_json::json!({"containers": [container]});
        if self == Self::Stubborn {
            spec["terminationGracePeriodSeconds"] = 2.into();
        }
        let metadata = serde_json::json!({"name": name});
        serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
            .to_string()
    }
}

/// One of those compared, on its node.
pub(crate) struct Competitor {
    pub(crate) node: Node,
    pub(crate) logs: Logs,
    bare: Option<BareCalls>,
}

impl Competitor {
    pub(crate) async fn start(programs: &Programs, who: Who) -> Result<Self> {
        let node = Node::start(programs, who).await?;
        Ok(Self {
            logs: Logs::new(&node),
            bare: (who == Who::Bare).then(|| BareCalls::new(&node)),
            node,
        })
    }

    /// Starts a Pod and waits for the first line of its log.
    pub(crate) async fn start_pod(&mut self, name: &str, kind: Kind) -> Result<()> {
        let manifest = kind.manifest(name);
        if let Some(bare) = &self.bare {
            return tokio::try_join!(bare.start(name, &manifest), self.logs.line(name, 0))
                .map(|_| ());
        }
        self.node.put(name, &manifest)?;
        self.logs.line(name, 0).await
    }

    /// The ends of containers; they have to be followed before one is killed.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.bare.as_ref().map(BareCalls::ends)
    }

    /// Waits for the first line of the container that comes after a killed one.
    pub(crate) async fn restarted(&mut self, name: &str, ends: Option<Ends>) -> Result<()> {
        if let (Some(bare), Some(mut ends)) = (&self.bare, ends) {
            return tokio::try_join!(bare.restart(name, &mut ends), self.logs.line(name, 1))
                .map(|_| ());
        }
        self.logs.line(name, 1).await
    }

    /// Has a Pod stopped and removed; the bare calls are made on the side.
    pub(crate) fn stop_pod(&self, name: &str) -> Result<()> {
        let Some(bare) = self.bare.clone() else {
            return self.node.remove(name);
        };
        let name = name.to_owned();
        tokio::spawn(async move {
            if let Err(error) = bare.stop(&name).await {
                eprintln!("bare CRI: {error:#}");
            }
        });
        Ok(())
    }

    /// The bare calls, where these are what is measured.
    pub(crate) fn bare(&self) -> Option<&BareCalls> {
        self.bare.as_ref()
    }
}
