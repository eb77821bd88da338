//! The container of a command that opens streams into it.

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Container;

use super::agent::{Agent, choose, containers, full_name, status};
use crate::cri::Client;
use crate::server::{PodDetail, PodName};

/// The container of a command.
#[derive(Debug, Args)]
pub(super) struct ContainerArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// Name of the container, if there are several
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
}

/// Running container, and the runtime that runs it.
#[derive(Debug)]
pub(super) struct RunningContainer {
    pub(super) client: Client,
    /// The runtime's ID.
    pub(super) id: String,
    /// Its part of the Pod's spec, if that is known.
    pub(super) spec: Option<Container>,
}

impl ContainerArgs {
    /// Finds the container.
    ///
    /// # Errors
    /// There is no such Pod or container, or it is not running.
    pub(super) async fn find(&self) -> anyhow::Result<RunningContainer> {
        find(&self.agent, &self.pod, self.container.as_deref()).await
    }
}

/// Finds a container by the names of its Pod and of itself.
///
/// # Errors
/// There is no such Pod or container, or it is not running.
pub(super) async fn find(
    agent: &Agent,
    pod: &PodName,
    container: Option<&str>,
) -> anyhow::Result<RunningContainer> {
    let (pod, details) = agent.pod(pod).await?;
    let name = choose(&pod, container)?;
    let spec = containers(&pod).find(|c| c.name == name);
    Ok(RunningContainer {
        client: connect(&details.endpoint)?,
        id: running(&pod, &name)?.to_owned(),
        spec: spec.cloned(),
    })
}

/// Returns a client of the runtime that the agent uses.
///
/// # Errors
/// The agent is not connected to one.
pub(super) fn connect(endpoint: &str) -> anyhow::Result<Client> {
    let endpoint = endpoint.parse().map_err(anyhow::Error::msg);
    let endpoint = endpoint.context("the container runtime is not connected yet")?;
    Ok(Client::new(endpoint))
}

/// Returns the ID of a running container.
fn running<'a>(pod: &'a PodDetail, container: &str) -> anyhow::Result<&'a str> {
    let status = status(pod, container);
    let state = status.and_then(|s| s.state.as_ref());
    let id = status.and_then(|s| s.container_id.as_deref());
    match (state.and_then(|s| s.running.as_ref()), id) {
        (Some(_), Some(id)) => Ok(id.split_once("://").map_or(id, |(_, id)| id)),
        _ => bail!(
            "container {container} of Pod {} is not running; `podkeeper describe {}` shows the reason",
            full_name(pod),
            full_name(pod)
        ),
    }
}
