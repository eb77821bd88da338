//! The benchmark: podkeeper beside the kubelet and beside the same work done with bare CRI calls, each on the
//! same kind of node. `hack/bench` builds what is needed and runs this.

mod bare;
mod chart;
mod many;
mod node;
mod observer;
mod one;
mod pods;
mod results;
mod table;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::node::{Node, Programs};
use crate::results::{Row, Rows, Run, Who};

/// Parts of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Start, restart and stop of one Pod.
    One,
    /// Many Pods up and down, and the agent's usage while they run.
    Many,
    /// The agent's CPU with many probes.
    Probes,
    /// With an API server.
    Api,
}

/// Measures, or draws what was measured.
#[derive(Debug, Parser)]
enum Arguments {
    /// Measures on one version of containerd and writes the results as JSON.
    Measure(Measure),
    /// Prints the tables of results.
    Report {
        /// Files that were written before, one for each version of containerd.
        files: Vec<PathBuf>,
        /// Prints the tables as Markdown.
        #[arg(long)]
        markdown: bool,
        /// Writes them to this document, between the lines that hold the figures, and the chart beside it.
        #[arg(long)]
        docs: Option<PathBuf>,
    },
}

#[derive(Debug, Parser)]
struct Measure {
    /// The program that is measured.
    #[arg(long)]
    podkeeper: PathBuf,
    /// The kubelet that it is compared with.
    #[arg(long)]
    kubelet: Option<PathBuf>,
    /// Version of containerd, as hack/containerd names it.
    #[arg(long, default_value = "2.1")]
    version: String,
    /// Folder for the nodes' files.
    #[arg(long)]
    work: PathBuf,
    /// File for the results.
    #[arg(long)]
    out: PathBuf,
    /// Parts that are measured.
    #[arg(long, value_delimiter = ',', default_values = ["one", "many", "probes", "api"])]
    parts: Vec<Part>,
    /// Rounds of one Pod.
    #[arg(long, default_value_t = 50)]
    repeats: usize,
    /// Numbers of Pods; the agents' usage is measured with the first one.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 250])]
    pods: Vec<usize>,
    /// Concurrencies of the bare calls.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 4, 8, 16, 32, 64])]
    concurrencies: Vec<usize>,
    /// Rounds of many Pods.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Keeps the rows of the file for the results that are not measured now.
    #[arg(long)]
    keep: bool,
    /// Seconds of idling.
    #[arg(long, default_value_t = 60)]
    idle: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Measure(measure) => {
            let run = measure.run().await?;
            println!("{}", table::text(&run));
        }
        Arguments::Report {
            files,
            markdown,
            docs,
        } => {
            let read = |file: &PathBuf| Ok(serde_json::from_slice(&fs::read(file)?)?);
            let runs: Vec<Run> = files.iter().map(read).collect::<Result<_>>()?;
            if let Some(document) = docs {
                write_docs(&document, &runs)?;
            } else if markdown {
                println!("{}", figures(&runs));
            } else {
                for run in &runs {
                    println!("{}", table::text(run));
                }
            }
        }
    }
    Ok(())
}

/// Rows that were measured before, with new ones in place of those of the same names.
fn merged(mut rows: Vec<Row>, new: Vec<Row>) -> Vec<Row> {
    for row in new {
        match rows.iter_mut().find(|r| r.name == row.name) {
            Some(before) => *before = row,
            None => rows.push(row),
        }
    }
    rows
}

/// The tables in Markdown, each below a line about what was measured.
fn figures(runs: &[Run]) -> String {
    let of = |run| format!("{}\n\n{}", table::heading(run), table::markdown(run));
    runs.iter().map(of).collect::<Vec<_>>().join("\n")
}

/// Puts the figures into a document, and the chart beside it.
fn write_docs(document: &Path, runs: &[Run]) -> Result<()> {
    const BEGIN: &str = "<!-- figures -->\n";
    const END: &str = "<!-- end of the figures -->\n";
    let text = fs::read_to_string(document)?;
    let missing = || format!("{} has no lines {BEGIN} and {END}", document.display());
    let (before, rest) = text.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    fs::write(
        document,
        format!("{before}{BEGIN}{}{END}{after}", figures(runs)),
    )?;
    Ok(fs::write(document.with_extension("svg"), chart::svg(runs))?)
}

impl Measure {
    async fn run(&self) -> Result<Run> {
        let programs = Programs {
            podkeeper: self.podkeeper.canonicalize()?,
            kubelet: self.kubelet.clone(),
            containerd: self.version.clone(),
            api_server: false,
            work: self.work.clone(),
        };
        let mut who = Who::ALL.to_vec();
        who.retain(|w| *w != Who::Kubelet || self.kubelet.is_some());
        let containerd = Node::start(&programs, Who::Bare)
            .await?
            .runtime_version()
            .await?;
        let mut run = self.empty_run(containerd)?;
        let mut rows = Rows::default();
        if self.parts.contains(&Part::One) {
            let measured = one::rows(&programs, &who, self.repeats).await?;
            rows.0.extend(measured);
            self.save(&mut run, &rows)?;
        }
        for (index, pods) in self.pods.iter().enumerate() {
            let settings = many::Settings {
                pods: *pods,
                concurrencies: self.concurrencies.clone(),
                idle: (index == 0).then_some(self.idle),
            };
            for _ in 0..self.rounds {
                if self.parts.contains(&Part::Many) {
                    many::measure(&programs, &who, &settings, &mut rows).await?;
                    self.save(&mut run, &rows)?;
                }
            }
        }
        let pods = *self.pods.first().context("no number of Pods")?;
        if self.parts.contains(&Part::Probes) {
            usage::probes(&programs, &who, pods, self.idle, &mut rows).await?;
            self.save(&mut run, &rows)?;
        }
        if self.parts.contains(&Part::Api) {
            usage::api(&programs, &who, pods, self.idle, &mut rows).await?;
            self.save(&mut run, &rows)?;
        }
        Ok(run)
    }

    /// The run with the rows that are kept, of which there are none unless that is wanted.
    fn empty_run(&self, containerd: String) -> Result<Run> {
        let mut rows = vec![];
        if self.keep && self.out.exists() {
            rows = serde_json::from_slice::<Run>(&fs::read(&self.out)?)?.rows;
        }
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Run {
            containerd,
            podkeeper: last_word(&self.podkeeper)?,
            kubelet: self.kubelet.as_deref().map(last_word).transpose()?,
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            cores: std::thread::available_parallelism()?.get(),
            kernel: kernel.trim().to_owned(),
            rows,
        })
    }

    /// Writes what is measured so far, so that a failure later does not lose it.
    fn save(&self, run: &mut Run, rows: &Rows) -> Result<()> {
        run.rows = merged(std::mem::take(&mut run.rows), rows.0.clone());
        Ok(fs::write(&self.out, serde_json::to_vec_pretty(run)?)?)
    }
}

/// Version of a program: the last word of what it says of itself.
fn last_word(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output()?.stdout;
    let output = String::from_utf8(output)?;
    Ok(output
        .split_whitespace()
        .last()
        .unwrap_or_default()
        .trim_start_matches('v')
        .to_owned())
}
