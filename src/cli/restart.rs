//! `podkeeper restart`: new instances of a Pod's containers.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::agent::{Agent, choose, full_name};
use super::wait::until_ready;
use super::{block_on, print, printable};
use crate::server::{PodName, RestartResponse, send};
use crate::units::duration::parse_duration;

#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// Restart only this container
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,

    /// Wait until the Pod is ready again
    #[arg(long)]
    wait: bool,

    /// Timeout of --wait
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2m")]
    timeout: Duration,
}

pub(super) fn restart(arguments: &RestartArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let RestartArgs { agent, .. } = arguments;
        let (pod, _) = agent.pod(&arguments.pod).await?;
        let name = full_name(&pod);
        let container = match arguments.container.as_deref() {
            Some(given) => format!("&container={}", choose(&pod, Some(given))?),
            None => String::new(),
        };
        let path = format!("/v1/pods/restart?pod={name}{container}");
        let restarted: RestartResponse = send(&agent.run_dir, &path).await?;
        let containers = restarted.containers.join(", ");
        let message = format!("{name}: restarting {containers}\n");
        print(&printable(&message))?;
        if arguments.wait {
            let name = name.parse().map_err(anyhow::Error::msg)?;
            let message = until_ready(agent, &name, arguments.timeout).await?;
            print(&(printable(&message) + "\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }))
}
