//! `podkeeper version`: the versions of this program, of the running agent and of the container runtime.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::agent::Agent;
use super::{print, printable, single_threaded};
use crate::server::{AgentVersion, fetch};
use crate::text::printable_json;

#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    #[command(flatten)]
    agent: Agent,

    /// Show only the version of this program
    #[arg(long)]
    client: bool,

    /// Output format
    #[arg(long, short, value_enum)]
    output: Option<VersionFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VersionFormat {
    Json,
    Yaml,
}

pub(super) fn version(arguments: &VersionArgs) -> anyhow::Result<ExitCode> {
    let agent = (!arguments.client).then(|| {
        let run_dir = &arguments.agent.run_dir;
        let fetched = async { fetch::<AgentVersion>(run_dir, "/v1/version").await };
        let mut fetched = single_threaded()?.block_on(fetched)?;
        fetched
            .pop()
            .ok_or(anyhow::anyhow!("the agent's response is empty"))
    });
    let agent = agent.map(|agent| agent.map_err(|error| format!("{error:#}")));
    let text = match arguments.output {
        None => page(agent.as_ref()),
        Some(VersionFormat::Json) => {
            printable_json(&serde_json::to_string_pretty(&document(agent.as_ref()))?) + "\n"
        }
        Some(VersionFormat::Yaml) => serde_yaml::to_string(&document(agent.as_ref()))?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the lines of the versions; `None` is an agent that was not asked.
fn page(agent: Option<&Result<AgentVersion, String>>) -> String {
    let mut lines = vec![format!("Client Version: v{}", env!("CARGO_PKG_VERSION"))];
    match agent {
        Some(Ok(agent)) => {
            lines.push(format!("Agent Version: v{}", agent.version));
            lines.push(format!("Kubernetes Version: {}", agent.kubernetes));
            lines.push(match &agent.runtime {
                Some(runtime) => {
                    let (name, version, api) =
                        (&runtime.name, &runtime.version, &runtime.api_version);
                    format!("Runtime Version: {name}://{version} (CRI {api})")
                }
                None => format!("Runtime Version: unknown: {}", agent.runtime_error),
            });
        }
        Some(Err(error)) => lines.push(format!("Agent Version: unknown: {error}")),
        None => {}
    }
    lines
        .into_iter()
        .map(|line| printable(&line) + "\n")
        .collect()
}

fn document(agent: Option<&Result<AgentVersion, String>>) -> Value {
    let mut document =
        json!({"clientVersion": {"gitVersion": concat!("v", env!("CARGO_PKG_VERSION"))}});
    match agent {
        Some(Ok(agent)) => {
            document["agentVersion"] = json!({"gitVersion": format!("v{}", agent.version)});
            document["kubernetesVersion"] = json!({"gitVersion": agent.kubernetes});
            match &agent.runtime {
                Some(runtime) => document["runtimeVersion"] = json!(runtime),
                None => document["runtimeError"] = json!(agent.runtime_error),
            }
        }
        Some(Err(error)) => document["agentError"] = json!(error),
        None => {}
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::RuntimeVersion;

    #[test]
    fn versions_are_shown_as_far_as_they_are_known() {
        let runtime = RuntimeVersion {
            name: "containerd".into(),
            version: "v2.1.4".into(),
            api_version: "v1".into(),
        };
        let agent = AgentVersion {
            version: "0.1.0".into(),
            kubernetes: "v1.36.0".into(),
            runtime: Some(runtime),
            runtime_error: String::new(),
        };
        let client = concat!("Client Version: v", env!("CARGO_PKG_VERSION"), "\n");
        let of_agent = "Agent Version: v0.1.0\nKubernetes Version: v1.36.0\n";
        assert_eq!(page(None), client);
        assert_eq!(
            page(Some(&Ok(agent.clone()))),
            format!("{client}{of_agent}Runtime Version: containerd://v2.1.4 (CRI v1)\n")
        );
        let found = document(Some(&Ok(agent.clone())));
        assert_eq!(found["agentVersion"]["gitVersion"], "v0.1.0");
        assert_eq!(found["runtimeVersion"]["apiVersion"], "v1");
        let without = AgentVersion {
            runtime: None,
            runtime_error: "it hangs".into(),
            ..agent
        };
        assert_eq!(
            page(Some(&Ok(without))),
            format!("{client}{of_agent}Runtime Version: unknown: it hangs\n")
        );
        let down = Err("no podkeeper runs here".to_owned());
        let expected = format!("{client}Agent Version: unknown: no podkeeper runs here\n");
        assert_eq!(page(Some(&down)), expected);
        assert_eq!(
            document(Some(&down))["agentError"],
            "no podkeeper runs here"
        );
    }
}
