//! `podkeeper pause` and `podkeeper resume`: stop a Pod until it is resumed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::agent::{Agent, full_name};
use super::wait::{until_paused, until_ready};
use super::{block_on, print, printable};
use crate::server::{PauseResponse, PodName, send};
use crate::units::duration::parse_duration;

#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// Wait until the Pod is stopped, or ready again
    #[arg(long)]
    wait: bool,

    /// Timeout of --wait
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2m")]
    timeout: Duration,
}

pub(super) fn pause(arguments: &PauseArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let pod = request(arguments, "pause", ["paused", "is paused already"]).await?;
        if arguments.wait {
            let message = until_paused(&arguments.agent, &pod, arguments.timeout).await?;
            print(&(printable(&message) + "\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }))
}

pub(super) fn resume(arguments: &PauseArgs) -> anyhow::Result<ExitCode> {
    block_on(Box::pin(async {
        let pod = request(arguments, "resume", ["resumed", "is not paused"]).await?;
        if arguments.wait {
            let message = until_ready(&arguments.agent, &pod, arguments.timeout).await?;
            print(&(printable(&message) + "\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }))
}

/// Sends the request, and says what came of it, in one of two ways; returns the Pod's full name.
async fn request(
    arguments: &PauseArgs,
    action: &str,
    [done, unchanged]: [&str; 2],
) -> anyhow::Result<PodName> {
    let PauseArgs { agent, .. } = arguments;
    let (pod, _) = agent.pod(&arguments.pod).await?;
    let name = full_name(&pod);
    let path = format!("/v1/pods/{action}?pod={name}");
    let response: PauseResponse = send(&agent.run_dir, &path).await?;
    let said = if response.changed { done } else { unchanged };
    print(&printable(&format!("{name} {said}\n")))?;
    name.parse().map_err(anyhow::Error::msg)
}
