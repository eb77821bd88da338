//! `podkeeper top`: CPU and memory that the node, its Pods and their containers use.

use std::cmp::Reverse;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::agent::{Agent, Selection};
use super::table::{Cell, Table, on_terminal};
use super::{print, single_threaded};
use crate::server::{AmountsInUse, PodFilter, PodInUse, PodName, TopReport, fetch};
use crate::text::printable_json;

/// Time between two measurements, of which the rate of the CPU time is the difference.
const INTERVAL: Duration = Duration::from_millis(1500);
/// Clears a terminal, and moves the cursor to its corner.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    agent: Agent,

    /// What to show [default: both]
    #[arg(value_enum, value_name = "WHAT")]
    what: Option<TopSubject>,

    /// Name of a Pod: NAME, NAME-NODE or NAMESPACE/NAME [default: all Pods]
    #[arg(value_name = "POD")]
    pod: Option<PodName>,

    #[command(flatten)]
    selection: Selection,

    /// Show the containers of Pods
    #[arg(long)]
    containers: bool,

    /// Order of Pods [default: by namespace and name]
    #[arg(long, value_enum, value_name = "AMOUNT")]
    sort_by: Option<TopOrder>,

    /// Show it anew every 1.5 seconds
    #[arg(long, short)]
    watch: bool,

    /// Output format [default: a table]
    #[arg(long, short, value_enum)]
    output: Option<TopFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TopSubject {
    #[value(aliases = ["nodes", "no"])]
    Node,
    #[value(aliases = ["pods", "po"])]
    Pod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TopOrder {
    Cpu,
    Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TopFormat {
    Json,
}

pub(super) fn top(arguments: &TopArgs) -> anyhow::Result<ExitCode> {
    single_threaded()?.block_on(async {
        let filter = arguments.selection.filter(arguments.pod.as_ref());
        // The rate of the CPU time is known from the second one on.
        measure(arguments, &filter).await?;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let report = measure(arguments, &filter).await?;
            let text = match arguments.output {
                Some(TopFormat::Json) => printable_json(&serde_json::to_string(&report)?) + "\n",
                None => page(&report, arguments),
            };
            let clear = arguments.watch && arguments.output.is_none() && on_terminal();
            print(&(if clear { CLEAR } else { "" }.to_owned() + &text))?;
            if !arguments.watch {
                return Ok(ExitCode::SUCCESS);
            }
        }
    })
}

/// Has the agent measure; the Pods come in the order that was asked for.
async fn measure(arguments: &TopArgs, filter: &PodFilter) -> anyhow::Result<TopReport> {
    let path = filter.path("/v1/stats", &[]);
    let mut reports = fetch::<TopReport>(&arguments.agent.run_dir, &path).await?;
    let mut report = reports.pop().context("the agent's response is empty")?;
    if let Some(name) = arguments.pod.as_ref().filter(|_| report.pods.is_empty()) {
        anyhow::bail!("there is no Pod {name}");
    }
    match arguments.sort_by {
        Some(TopOrder::Cpu) => report.pods.sort_by_key(|pod| Reverse(pod.in_use.nano_cpus)),
        Some(TopOrder::Memory) => report.pods.sort_by_key(|pod| Reverse(pod.in_use.memory)),
        None => {}
    }
    Ok(report)
}

fn page(report: &TopReport, arguments: &TopArgs) -> String {
    let mut parts = vec![];
    // Who asks for Pods alone does not want the node.
    let of_pods = arguments.pod.is_some() || arguments.containers;
    let what = arguments.what.or(of_pods.then_some(TopSubject::Pod));
    if what != Some(TopSubject::Pod) {
        parts.push(node(report));
    }
    if what != Some(TopSubject::Node) {
        parts.push(if arguments.containers {
            containers(&report.pods)
        } else {
            pods(&report.pods)
        });
    }
    parts.join("\n")
}

fn node(report: &TopReport) -> String {
    let in_use = report.in_use;
    let cpus = report.milli_cpus.saturating_mul(1_000_000);
    let header = ["NODE", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
    let row = [
        report.node.clone(),
        cpu(in_use),
        percent(in_use.nano_cpus, cpus),
        memory(in_use),
        percent(in_use.memory, report.memory),
    ];
    Table::new(false).lines("", &[header.map(Cell::from), row.map(Cell::from)])
}

fn pods(pods: &[PodInUse]) -> String {
    let mut rows = vec![["NAMESPACE", "POD", "CPU(cores)", "MEMORY(bytes)"].map(Cell::from)];
    rows.extend(pods.iter().map(|pod| {
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        [namespace, name, cpu(pod.in_use), memory(pod.in_use)].map(Cell::from)
    }));
    Table::new(false).lines("", &rows)
}

fn containers(pods: &[PodInUse]) -> String {
    let header = [
        "NAMESPACE",
        "POD",
        "CONTAINER",
        "CPU(cores)",
        "MEMORY(bytes)",
    ];
    let mut rows = vec![header.map(Cell::from)];
    for pod in pods {
        rows.extend(pod.containers.iter().map(|container| {
            let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
            let in_use = container.in_use;
            let row = [
                namespace,
                name,
                container.name.clone(),
                cpu(in_use),
                memory(in_use),
            ];
            row.map(Cell::from)
        }));
    }
    Table::new(false).lines("", &rows)
}

/// Formats CPU time per second in thousandths of a CPU, rounded up as kubectl does.
fn cpu(in_use: AmountsInUse) -> String {
    let milli = in_use.nano_cpus.map(|nano| nano.div_ceil(1_000_000));
    milli.map_or_else(unknown, |milli| format!("{milli}m"))
}

/// Formats memory in MiB, rounded down as kubectl does.
fn memory(in_use: AmountsInUse) -> String {
    let mebibytes = in_use.memory.map(|bytes| bytes / (1 << 20));
    mebibytes.map_or_else(unknown, |mebibytes| format!("{mebibytes}Mi"))
}

fn percent(part: Option<u64>, whole: u64) -> String {
    let percent = part.and_then(|part| part.saturating_mul(100).checked_div(whole));
    percent.map_or_else(unknown, |percent| format!("{percent}%"))
}

fn unknown() -> String {
    "<unknown>".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ContainerInUse;

    fn report() -> TopReport {
        let in_use = AmountsInUse {
            nano_cpus: Some(20_500_000),
            memory: Some(5 << 20),
        };
        let container = ContainerInUse {
            name: "c".into(),
            in_use: AmountsInUse {
                nano_cpus: None,
                ..in_use
            },
        };
        let pod = PodInUse {
            namespace: "default".into(),
            name: "web-n1".into(),
            in_use,
            containers: vec![container],
        };
        TopReport {
            node: "n1".into(),
            in_use: AmountsInUse {
                nano_cpus: Some(500_000_000),
                memory: Some(1 << 30),
            },
            milli_cpus: 4000,
            memory: 1 << 33,
            pods: vec![pod],
        }
    }

    #[test]
    fn amounts_are_written_as_kubectl_top_does() {
        let report = report();
        assert_eq!(
            node(&report),
            "NODE   CPU(cores)   CPU(%)   MEMORY(bytes)   MEMORY(%)\n\
             n1     500m         12%      1024Mi          12%\n"
        );
        assert_eq!(
            pods(&report.pods),
            "NAMESPACE   POD      CPU(cores)   MEMORY(bytes)\n\
             default     web-n1   21m          5Mi\n"
        );
        assert_eq!(
            containers(&report.pods),
            "NAMESPACE   POD      CONTAINER   CPU(cores)   MEMORY(bytes)\n\
             default     web-n1   c           <unknown>    5Mi\n"
        );
    }
}
