//! Costs of the agent with many Pods: the agent as a process of its own, on a runtime that this process serves
//! and that does nothing but answer. So all that is measured is the agent's.
//!
//! Arguments: the podkeeper program, a work folder, how many changes are measured, for how many seconds it
//! idles, then the numbers of Pods. Build it with `--release`; `hack/scale` does that.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts and sizes are far smaller than what a float holds exactly"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use podkeeper::cri::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

mod agent_process;
mod process;
#[path = "../tests/support/runtime/mod.rs"]
mod runtime;

use agent_process::AgentProcess;
use process::{TICK, status};
use runtime::{Runtime, Settings, State};

const NODE: &str = "scale";
const PATIENCE: Duration = Duration::from_secs(300);

/// Figures of one number of Pods. CPU is the agent's, of all its threads.
struct Measured {
    pods: usize,
    start: Duration,
    start_cpu: Duration,
    adopt_cpu: Duration,
    resident: u64,
    own: u64,
    relist_cpu: Duration,
    edit_cpu: Duration,
    restart_cpu: Duration,
    list_bytes: usize,
    list_memory: u64,
    ps_memory: u64,
    ps_agent_memory: u64,
    stop_cpu: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("missing: {what}"));
    let podkeeper = PathBuf::from(next("the podkeeper program")?);
    let work = PathBuf::from(next("a work folder")?);
    let changes: usize = next("how many changes")?.parse()?;
    let idle = Duration::from_secs(next("seconds of idling")?.parse()?);
    let mut all = vec![];
    for pods in arguments {
        let pods: usize = pods.parse()?;
        let folder = work.join(pods.to_string());
        let mut bench = Bench::start(&podkeeper, folder, pods).await?;
        all.push(bench.measure(changes, idle).await?);
        eprintln!("scale: {pods} Pods: done");
    }
    print(&all);
    Ok(())
}

/// One line for each figure, one column for each number of Pods.
fn print(all: &[Measured]) {
    let row = |name: &str, figure: &dyn Fn(&Measured) -> String| {
        let figures = all.iter().map(|m| format!("{:>12}", figure(m)));
        println!("{name:<44}{}", figures.collect::<String>());
    };
    let per_pod =
        |time: Duration, m: &Measured| format!("{:.2} ms", milliseconds(time) / m.pods as f64);
    let time = |time: Duration| format!("{:.2} ms", milliseconds(time));
    let size = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    row("Pods", &|m| m.pods.to_string());
    row("start of all: time", &|m| {
        format!("{:.1} s", m.start.as_secs_f64())
    });
    row("start of all: CPU for each Pod", &|m| {
        per_pod(m.start_cpu, m)
    });
    row("removal of all: CPU for each Pod", &|m| {
        per_pod(m.stop_cpu, m)
    });
    row("restart of the agent: CPU for each Pod", &|m| {
        per_pod(m.adopt_cpu, m)
    });
    row("one manifest edited: CPU", &|m| time(m.edit_cpu));
    row("one container exits: CPU", &|m| time(m.restart_cpu));
    row("idle with events, CPU for each relist", &|m| {
        time(m.relist_cpu)
    });
    row("resident", &|m| size(m.resident));
    row("resident, its own (RssAnon)", &|m| size(m.own));
    row("/pods: answer", &|m| size(m.list_bytes as u64));
    row("/pods: peak of the agent above resident", &|m| {
        size(m.list_memory)
    });
    row("podkeeper ps: peak of the agent, likewise", &|m| {
        size(m.ps_agent_memory)
    });
    row("podkeeper ps: peak of the command", &|m| size(m.ps_memory));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The agent and the runtime under it.
struct Bench {
    podkeeper: PathBuf,
    folder: PathBuf,
    pods: usize,
    runtime: Runtime,
    agent: AgentProcess,
    port: u16,
    start_cpu: Duration,
    start: Duration,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    /// Starts an agent with as many manifests, and waits until all their Pods run.
    async fn start(podkeeper: &Path, folder: PathBuf, pods: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("manifests"))?;
        for pod in 0..pods {
            write(&folder, pod, 0)?;
        }
        let runtime = Runtime::start(&folder.join("cri.sock"), Settings::containerd_2_1());
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let begun = Instant::now();
        let hostname = format!("--hostname-override={NODE}");
        let port_flag = format!("--read-only-port={port}");
        let flags = [
            hostname.as_str(),
            &port_flag,
            "--healthz-port=0",
            "--max-pods=10000",
        ];
        let agent = AgentProcess::start(podkeeper, &folder, &runtime.endpoint(), &flags)?;
        let mut bench = Self {
            podkeeper: podkeeper.to_owned(),
            folder,
            pods,
            runtime,
            agent,
            port,
            start_cpu: Duration::ZERO,
            start: Duration::ZERO,
        };
        bench.until(&|state| running(state) == pods).await?;
        bench.start = begun.elapsed();
        bench.settle().await?;
        bench.start_cpu = bench.agent.cpu()?;
        Ok(bench)
    }

    async fn measure(&mut self, changes: usize, idle: Duration) -> anyhow::Result<Measured> {
        let adopt_cpu = self.restart().await?;
        let (resident, own) = (self.agent.memory("VmRSS")?, self.agent.memory("RssAnon")?);
        let relists = self.relists();
        let before = self.agent.cpu()?;
        sleep(idle).await;
        let relists = u32::try_from(self.relists().saturating_sub(relists).max(1))?;
        let idle_cpu = self.agent.cpu()?.saturating_sub(before);
        let relist_cpu = idle_cpu / relists;
        let per_second = idle_cpu.as_secs_f64() / idle.as_secs_f64();
        let edit_cpu = self.edits(changes, per_second).await?;
        let restart_cpu = self.exits(changes, per_second).await?;
        let (before, list) = (self.agent.reset_peak()?, self.get("/pods").await?);
        let list_memory = self.agent.memory("VmHWM")?.saturating_sub(before);
        let before = self.agent.reset_peak()?;
        let ps_memory = self.ps().await?;
        let ps_agent_memory = self.agent.memory("VmHWM")?.saturating_sub(before);
        let stop_cpu = self.stop().await?;
        Ok(Measured {
            pods: self.pods,
            start: self.start,
            start_cpu: self.start_cpu,
            adopt_cpu,
            resident,
            own,
            relist_cpu,
            edit_cpu,
            restart_cpu,
            list_bytes: list.len(),
            list_memory,
            ps_memory,
            ps_agent_memory,
            stop_cpu,
        })
    }

    /// Another agent takes over; gives the CPU until it has nothing more to do.
    async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.agent.restart()?;
        let begun = Instant::now();
        while !self.get("/healthz").await.is_ok_and(|body| body == b"ok") {
            if begun.elapsed() > PATIENCE {
                bail!("the agent does not become healthy");
            }
            sleep(TICK).await;
        }
        self.settle().await?;
        let starts = self.runtime.look(|state| count(state, "StartContainer"));
        anyhow::ensure!(starts == self.pods, "a container was started twice");
        self.agent.cpu()
    }

    /// Removes all manifests, so that nothing is left on the machine either; gives the CPU.
    async fn stop(&self) -> anyhow::Result<Duration> {
        let before = self.agent.cpu()?;
        for pod in 0..self.pods {
            fs::remove_file(manifest(&self.folder, pod))?;
        }
        self.until(&|state| state.sandboxes.is_empty()).await?;
        let begun = Instant::now();
        while fs::read_dir(self.folder.join("root/pods"))?
            .next()
            .is_some()
        {
            if begun.elapsed() > PATIENCE {
                bail!("folders of Pods are left");
            }
            sleep(TICK).await;
        }
        Ok(self.agent.cpu()?.saturating_sub(before))
    }

    /// The CPU of one edit: a new version of a Pod takes over, and the old one is removed.
    async fn edits(&mut self, changes: usize, idle: f64) -> anyhow::Result<Duration> {
        let of = |state: &State, change: usize| {
            let name = format!("{}-{NODE}", name(change));
            let sandboxes = state.sandboxes.iter().filter(|s| s.pod() == name).count();
            let edited = |c: &&runtime::Container| c.config.args == [format!("{}", change + 1)];
            let made = state.containers.iter().filter(edited).count();
            sandboxes == 1 && made == 1
        };
        let (before, begun) = (self.agent.cpu()?, Instant::now());
        for change in 0..changes {
            write(&self.folder, change % self.pods, change + 1)?;
            self.until(&|state| of(state, change % self.pods)).await?;
        }
        self.settle().await?;
        self.per_change(before, begun, changes, idle)
    }

    /// The CPU of one exit: the container is started again.
    async fn exits(&mut self, changes: usize, idle: f64) -> anyhow::Result<Duration> {
        let (before, begun) = (self.agent.cpu()?, Instant::now());
        for change in 0..changes {
            // Those that were not edited, each once, so that there is no back-off.
            let pod = format!("{}-{NODE}", name(self.pods - 1 - change));
            self.runtime.exit(&pod, "c", 1);
            let again = |state: &State| {
                let newest = state.newest(&pod, "c");
                newest.is_some_and(|c| c.attempt() == 1 && c.is_running())
            };
            self.until(&again).await?;
        }
        self.settle().await?;
        self.per_change(before, begun, changes, idle)
    }

    /// The CPU of one change, beyond what idling takes in the same time.
    fn per_change(
        &self,
        before: Duration,
        begun: Instant,
        changes: usize,
        idle: f64,
    ) -> anyhow::Result<Duration> {
        let cpu = self.agent.cpu()?.saturating_sub(before).as_secs_f64();
        let idle = idle * begun.elapsed().as_secs_f64();
        let net = (cpu - idle).max(0.0) / changes as f64;
        Ok(Duration::try_from_secs_f64(net)?)
    }

    async fn until(&self, test: &dyn Fn(&State) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.runtime.look(test) {
            if !self.agent.is_running() {
                bail!("the agent has ended");
            }
            if begun.elapsed() > PATIENCE {
                bail!("timed out: {} containers run", self.runtime.look(running));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits until the agent takes next to no CPU for a second.
    async fn settle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let before = self.agent.cpu()?;
            sleep(Duration::from_secs(1)).await;
            if self.agent.cpu()?.saturating_sub(before) <= 2 * TICK {
                break;
            }
        }
        Ok(())
    }

    fn relists(&self) -> usize {
        let of_all = |call: &&runtime::Call| {
            let request = call.request::<v1::ListContainersRequest>();
            let filter = request.and_then(|request| request.filter.as_ref());
            filter.is_some_and(|filter| filter.label_selector.len() == 1)
        };
        self.runtime
            .look(|state| state.calls.iter().filter(of_all).count())
    }

    /// The body of an answer of the read-only port.
    async fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
        Ok(answer.split_off(end.context("no end of the head")? + 4))
    }

    /// The peak of `podkeeper ps`, in bytes: as often as it can be read while it runs.
    async fn ps(&self) -> anyhow::Result<u64> {
        let mut ps = Command::new(&self.podkeeper)
            .args(["ps", "--run-dir"])
            .arg(self.folder.join("run"))
            .stdout(Stdio::null())
            .spawn()?;
        let mut peak = 0;
        while ps.try_wait()?.is_none() {
            peak = status(ps.id(), "VmHWM").unwrap_or(0).max(peak);
            sleep(Duration::from_micros(500)).await;
        }
        Ok(peak * 1024)
    }
}

fn name(pod: usize) -> String {
    format!("web-{pod:04}")
}

fn manifest(folder: &Path, pod: usize) -> PathBuf {
    folder.join("manifests").join(name(pod) + ".yaml")
}

/// Writes the manifest of a Pod beside, and renames it in.
fn write(folder: &Path, pod: usize, version: usize) -> anyhow::Result<()> {
    let name = name(pod);
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: web, tier: front}}\nspec:\n  \
         terminationGracePeriodSeconds: 5\n  containers:\n  - name: c\n    image: registry.example.com/web:1\n    \
         command: [/bin/server]\n    args: ['{version}']\n    env:\n    - {{name: LEVEL, value: info}}\n    \
         resources: {{requests: {{memory: 1Mi}}}}\n"
    );
    let beside = folder.join("manifest");
    fs::write(&beside, text)?;
    Ok(fs::rename(beside, manifest(folder, pod))?)
}

fn running(state: &State) -> usize {
    state.containers.iter().filter(|c| c.is_running()).count()
}

fn count(state: &State, method: &str) -> usize {
    state
        .calls
        .iter()
        .filter(|call| call.method == method)
        .count()
}
