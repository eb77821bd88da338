//! `podkeeper get`: Pods with their status, as the API has them.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::agent::{Agent, Selection, none};
use super::{names_of, print, single_threaded, yaml};
use crate::server::{PodDetail, PodName};
use crate::text::printable_json;

/// Kubectl's words for Pods, one of which may stand before their names.
const KINDS: [&str; 3] = ["pod", "pods", "po"];

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    agent: Agent,

    /// Names of the Pods, each NAME, NAME-NODE or NAMESPACE/NAME [default: all Pods]
    #[arg(value_name = "POD")]
    pods: Vec<PodName>,

    #[command(flatten)]
    selection: Selection,

    /// Output format
    #[arg(long, short, value_enum, default_value_t = GetFormat::Yaml)]
    output: GetFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GetFormat {
    Yaml,
    Json,
    /// The names alone, as pod/NAME
    Name,
}

pub(super) fn get(arguments: &GetArgs) -> anyhow::Result<ExitCode> {
    let (names, is_one) = names(&arguments.pods);
    let pods = single_threaded()?.block_on(select(arguments, names))?;
    let text = match arguments.output {
        GetFormat::Name => names_of(pods.iter().map(|pod| &pod.report)),
        GetFormat::Yaml => yaml(&document(&pods, is_one))?,
        GetFormat::Json => {
            let text = serde_json::to_string_pretty(&document(&pods, is_one))?;
            printable_json(&text) + "\n"
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the names without the word before them, and whether they are a single one.
fn names(given: &[PodName]) -> (&[PodName], bool) {
    let names = match given {
        [first, rest @ ..] if KINDS.contains(&first.to_string().as_str()) => rest,
        all => all,
    };
    (names, names.len() == 1)
}

/// Returns the Pods, in the order of their names on the command line.
async fn select(arguments: &GetArgs, names: &[PodName]) -> anyhow::Result<Vec<PodDetail>> {
    let GetArgs {
        agent, selection, ..
    } = arguments;
    if names.is_empty() {
        let details = agent.pods(&selection.filter(None)).await?;
        return Ok(details.pods);
    }
    let mut pods: Vec<PodDetail> = vec![];
    for name in names {
        let details = agent.pods(&selection.filter(Some(name))).await?;
        if details.pods.is_empty() {
            bail!("{}", none(name, &details));
        }
        for pod in details.pods {
            let name = (&pod.report.namespace, &pod.report.name);
            let mut known = pods
                .iter()
                .map(|pod| (&pod.report.namespace, &pod.report.name));
            if !known.any(|known| known == name) {
                pods.push(pod);
            }
        }
    }
    Ok(pods)
}

/// Returns the one Pod that was asked for by its name, or else a list.
fn document(pods: &[PodDetail], is_one: bool) -> Value {
    let known: Vec<&Pod> = pods.iter().filter_map(|pod| pod.pod.as_ref()).collect();
    match known.as_slice() {
        [pod] if is_one => json!(pod),
        all => json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": ""},
            "items": all,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodDetail {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}});
        PodDetail {
            pod: serde_json::from_value(pod).ok(),
            ..PodDetail::default()
        }
    }

    #[test]
    fn one_pod_by_its_name_is_the_object_and_all_others_are_in_a_list() {
        let one = document(&[pod("a")], true);
        assert_eq!(
            (&one["kind"], &one["metadata"]["name"]),
            (&json!("Pod"), &json!("a"))
        );
        for pods in [vec![], vec![pod("a")], vec![pod("a"), pod("b")]] {
            let list = document(&pods, pods.len() > 1);
            assert_eq!(list["kind"], "List");
            assert_eq!(list["items"].as_array().unwrap().len(), pods.len());
        }
    }

    #[test]
    fn the_word_for_pods_may_stand_before_their_names() {
        let parse = |line: &str| -> Vec<PodName> {
            let words = line.split_whitespace();
            words.map(|word| word.parse().unwrap()).collect()
        };
        for (line, expected) in [
            ("", ("", false)),
            ("pods", ("", false)),
            ("po web", ("web", true)),
            ("pod/web", ("web", true)),
            ("pod a b", ("a b", false)),
            ("web pod", ("web pod", false)),
        ] {
            let given = parse(line);
            let (found, is_one) = names(&given);
            assert_eq!(
                (found, is_one),
                (parse(expected.0).as_slice(), expected.1),
                "{line}"
            );
        }
    }
}
