//! The agent for an hour of changes without a pause, on a real containerd: what it has of memory, files and
//! threads, and what it leaves on the node, is sampled meanwhile and may not grow.
//!
//! Arguments: the podkeeper program, the runtime's endpoint, a work folder, for how many minutes, a file for the
//! curve. `hack/soak` brings the runtime up and runs this.

#![allow(
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "counts and sizes are far smaller than what a float holds exactly"
)]

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use podkeeper::cri::{Client, v1};
use podkeeper::manifest::{SourceKind, parse};
use podkeeper::translate::labels;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

mod agent_process;
mod process;

use agent_process::AgentProcess;

const NODE: &str = "soak";
const IMAGE: &str = "localhost/podkeeper/busybox:1";
/// Pods that change, in so many rows beside each other; each row changes one of its Pods at a time.
const PODS: usize = 24;
const ROWS: usize = 4;
/// Every so many rounds of a Pod its manifest is removed, and put back when nothing of it is left.
const REMOVED_EVERY: usize = 5;
const SAMPLE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(120);
/// Time without changes at the end.
const QUIET: Duration = Duration::from_secs(30);

/// One sample; also the names of its columns.
const COLUMNS: [&str; 9] = [
    "seconds",
    "changes",
    "VmRSS",
    "RssAnon",
    "threads",
    "open files",
    "state files",
    "sandboxes",
    "containers",
];

/// Bounds of what is more in the last tenth than in the first settled one: a share of it, and so much beside.
const BOUNDS: [(&str, f64, f64); 6] = [
    ("RssAnon", 0.10, 1e6),
    ("threads", 0.0, 4.0),
    ("open files", 0.0, 8.0),
    ("state files", 0.10, 20.0),
    ("sandboxes", 0.10, 4.0),
    ("containers", 0.10, 8.0),
];

type Sample = [f64; COLUMNS.len()];

struct Soak {
    client: Client,
    folder: PathBuf,
    agent: AgentProcess,
    changes: Cell<usize>,
    begun: Instant,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("missing: {what}"));
    let podkeeper = PathBuf::from(next("the podkeeper program")?);
    let endpoint = next("the runtime's endpoint")?;
    let folder = PathBuf::from(next("a work folder")?);
    let minutes: u64 = next("how many minutes")?.parse()?;
    let curve = PathBuf::from(next("a file for the curve")?);
    let hostname = format!("--hostname-override={NODE}");
    let flags = [hostname.as_str(), "--healthz-port=0"];
    fs::create_dir_all(&folder)?;
    // As the owner label has it.
    let folder = folder.canonicalize()?;
    let client = Client::new(endpoint.parse().map_err(anyhow::Error::msg)?);
    let soak = Soak {
        client,
        agent: AgentProcess::start(&podkeeper, &folder, &endpoint, &flags)?,
        folder,
        changes: Cell::new(0),
        begun: Instant::now(),
    };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    println!("{}", COLUMNS.map(|name| format!("{name:>12}")).concat());
    let rows = futures_util::future::try_join_all((0..ROWS).map(|row| soak.changes(row, end)));
    let (samples, _) = futures_util::future::try_join(soak.samples(end), rows).await?;
    fs::write(curve, svg(&samples))?;
    soak.check_quiet().await?;
    compare(&samples)?;
    soak.check_removed().await
}

impl Soak {
    /// Changes the Pods of a row by turns: a new version each round, then a kill of its container; the first kill
    /// of a version is the only one without a back-off.
    async fn changes(&self, row: usize, end: Instant) -> anyhow::Result<()> {
        for round in 0.. {
            for pod in (row..PODS).step_by(ROWS) {
                if Instant::now() >= end {
                    break;
                }
                let name = format!("pod-{pod:02}");
                if round > 0 && (round + pod) % REMOVED_EVERY == 0 {
                    fs::remove_file(self.manifest(&name))?;
                    self.until_gone(&name).await?;
                    self.changed();
                }
                let uid = self.put(&name, round)?;
                let id = self.until_runs(&uid, 0).await?;
                self.changed();
                self.kill(&id).await?;
                self.until_runs(&uid, 1).await?;
                self.changed();
            }
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.folder.join("manifests").join(format!("{name}.yaml"))
    }

    /// Renames a manifest in; gives the UID of its version.
    fn put(&self, name: &str, round: usize) -> anyhow::Result<String> {
        let script = "trap 'exit 0' TERM; echo up; sleep 1000000 & wait";
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 2, \
             volumes: [{{name: v, emptyDir: {{}}}}], containers: [{{name: c, image: {IMAGE:?}, \
             command: [sh, -c, \"{script}\"], env: [{{name: ROUND, value: '{round}'}}], \
             volumeMounts: [{{name: v, mountPath: /v}}]}}]}}}}"
        );
        let accepted = parse(text.as_bytes(), NODE, SourceKind::File);
        let accepted = accepted.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let beside = self.folder.join(name);
        fs::write(&beside, text)?;
        fs::rename(beside, self.manifest(name))?;
        Ok(accepted.pod.uid.to_string())
    }

    /// Waits until the only running container of a version is this attempt; gives its id.
    async fn until_runs(&self, uid: &str, attempt: u32) -> anyhow::Result<String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let all = self.containers(labels::POD_UID, uid).await?;
            let mut running = all
                .into_iter()
                .filter(|c| c.state() == v1::ContainerState::ContainerRunning);
            if let (Some(one), None) = (running.next(), running.next())
                && one.metadata.is_some_and(|m| m.attempt == attempt)
            {
                return Ok(one.id);
            }
            sleep(POLL).await;
        }
        bail!("timed out: attempt {attempt} of {uid} does not run")
    }

    async fn until_gone(&self, name: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let full = format!("{name}-{NODE}");
        while begun.elapsed() < PATIENCE {
            let sandboxes = self.sandboxes(&[(labels::POD_NAME, &full)]).await?;
            if sandboxes == 0 {
                return Ok(());
            }
            sleep(POLL).await;
        }
        bail!("timed out: {name} is not removed")
    }

    async fn containers(&self, label: &str, value: &str) -> anyhow::Result<Vec<v1::Container>> {
        let selector = HashMap::from([(label.to_owned(), value.to_owned())]);
        let filter = v1::ContainerFilter {
            label_selector: selector,
            ..v1::ContainerFilter::default()
        };
        let request = v1::ListContainersRequest {
            filter: Some(filter),
        };
        Ok(self.client.list_containers(request).await?.containers)
    }

    /// The number of sandboxes with these labels.
    async fn sandboxes(&self, labels: &[(&str, &str)]) -> anyhow::Result<usize> {
        let labels = labels
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()));
        let filter = v1::PodSandboxFilter {
            label_selector: labels.collect(),
            ..v1::PodSandboxFilter::default()
        };
        let request = v1::ListPodSandboxRequest {
            filter: Some(filter),
        };
        Ok(self.client.list_pod_sandbox(request).await?.items.len())
    }

    /// Kills the main process of a container.
    async fn kill(&self, id: &str) -> anyhow::Result<()> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = self.client.container_status(request).await?;
        let info = answer.info.get("info").context("no info")?;
        let info: serde_json::Value = serde_json::from_str(info)?;
        let process = info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let process = process.and_then(Pid::from_raw).context("no process")?;
        Ok(kill_process(process, Signal::KILL)?)
    }

    async fn samples(&self, end: Instant) -> anyhow::Result<Vec<Sample>> {
        let mut samples = vec![];
        while Instant::now() < end {
            sleep(SAMPLE).await;
            let sample = self.sample().await?;
            println!("{}", sample.map(|value| format!("{value:>12}")).concat());
            samples.push(sample);
        }
        Ok(samples)
    }

    async fn sample(&self) -> anyhow::Result<Sample> {
        let owner = (labels::ROOT_DIR, self.folder.join("root"));
        let owner = (owner.0, owner.1.display().to_string());
        let folders = ["root", "logs", "container-logs", "run"];
        let files = folders.map(|name| files(&self.folder.join(name)));
        let numbers = [
            self.begun.elapsed().as_secs(),
            self.changes.get() as u64,
            self.agent.memory("VmRSS")?,
            self.agent.memory("RssAnon")?,
            self.agent.threads()?,
            self.agent.open_files()? as u64,
            files.iter().sum(),
            self.sandboxes(&[(owner.0, &owner.1)]).await? as u64,
            self.containers(owner.0, &owner.1).await?.len() as u64,
        ];
        Ok(numbers.map(|number| number as f64))
    }

    /// Without changes, nothing is there beside one sandbox and two containers of each Pod, one of them over.
    async fn check_quiet(&self) -> anyhow::Result<()> {
        sleep(QUIET).await;
        let sample = self.sample().await?;
        println!(
            "{}  quiet",
            sample.map(|value| format!("{value:>12}")).concat()
        );
        let (sandboxes, containers) = (sample[column("sandboxes")], sample[column("containers")]);
        ensure!(
            sandboxes == PODS as f64,
            "{sandboxes} sandboxes of {PODS} Pods"
        );
        ensure!(
            containers == 2.0 * PODS as f64,
            "{containers} containers of {PODS} Pods"
        );
        Ok(())
    }

    /// Nothing is left once all manifests are removed.
    async fn check_removed(&self) -> anyhow::Result<()> {
        for pod in 0..PODS {
            fs::remove_file(self.manifest(&format!("pod-{pod:02}")))?;
        }
        let begun = Instant::now();
        loop {
            let sample = self.sample().await?;
            let left = ["root/pods", "logs", "container-logs"];
            let left = left.map(|name| files(&self.folder.join(name)));
            if sample[column("sandboxes")] == 0.0 && left == [0, 0, 0] {
                println!(
                    "{}  removed",
                    sample.map(|value| format!("{value:>12}")).concat()
                );
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "left after the removal: {sample:?}, {left:?}"
            );
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The number of files and folders below a folder.
fn files(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + files(&entry.path()),
        _ => 1,
    });
    below.sum()
}

fn column(name: &str) -> usize {
    let at = COLUMNS.iter().position(|column| *column == name);
    at.expect("it is one of the columns")
}

/// Compares the last tenth of the samples with the first after the agent has settled: the second tenth.
fn compare(samples: &[Sample]) -> anyhow::Result<()> {
    let tenth = samples.len() / 10;
    ensure!(tenth > 0, "too short to compare: at least 2 minutes");
    let mut grown = vec![];
    println!();
    for (name, share, beside) in BOUNDS {
        let median = |samples: &[Sample]| {
            let mut values: Vec<f64> = samples.iter().map(|sample| sample[column(name)]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let first = median(&samples[tenth..2 * tenth]);
        let last = median(&samples[samples.len() - tenth..]);
        let bound = first * (1.0 + share) + beside;
        println!("{name:<12} {first:>12} -> {last:>12}, at most {bound:.0}");
        if last > bound {
            grown.push(name);
        }
    }
    ensure!(grown.is_empty(), "grown: {}", grown.join(", "));
    Ok(())
}

/// The curve of the agent's memory over the changes.
fn svg(samples: &[Sample]) -> String {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 240.0;
    let last = samples.last().copied().unwrap_or_default();
    let most = samples
        .iter()
        .map(|s| s[column("VmRSS")])
        .fold(1e6, f64::max)
        * 1.1;
    let line = |name: &str, colour: &str| {
        let mut points = String::new();
        for sample in samples {
            let x = 40.0 + sample[0] / last[0].max(1.0) * WIDTH;
            let y = 20.0 + HEIGHT - sample[column(name)] / most * HEIGHT;
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        format!("<polyline fill='none' stroke='{colour}' points='{points}'/>\n")
    };
    let text = |x: f64, y: f64, text: &str| format!("<text x='{x}' y='{y}'>{text}</text>\n");
    [
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 800 300' font-family='sans-serif' font-size='12'>\n",
        &format!("<rect x='40' y='20' width='{WIDTH}' height='{HEIGHT}' fill='none' stroke='#999'/>\n"),
        &line("VmRSS", "#1f77b4"),
        &line("RssAnon", "#d62728"),
        &text(45.0, 15.0, &format!("{:.0} MB", most / 1e6)),
        &text(480.0, 15.0, "blue: resident, red: its own"),
        &text(40.0, 280.0, &format!("0 … {:.0} s, {} changes", last[0], last[1])),
        "</svg>\n",
    ]
    .concat()
}
