//! Observation of Pods from outside: by files and processes alone, without a call to the runtime.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::node::{NAME, Node, hierarchy};

/// Pause between two looks where one Pod is waited for, and where many are.
const POLL: Duration = Duration::from_millis(1);
const POLL_MANY: Duration = Duration::from_millis(5);
/// A Pod that has not gone by then is looked for less often, so that this disturbs no other measurement.
const SOON: Duration = Duration::from_millis(1500);
const POLL_LATER: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(400);

/// Directories of Pods' logs on a node, by the Pods' names in their manifests.
pub(crate) struct Logs {
    root: PathBuf,
    found: HashMap<String, PathBuf>,
}

impl Logs {
    pub(crate) fn new(node: &Node) -> Self {
        Self {
            root: node.dir.join("logs"),
            found: HashMap::new(),
        }
    }

    /// Waits for the first line of a container's log.
    pub(crate) async fn line(&mut self, pod: &str, attempt: u32) -> Result<()> {
        self.line_with(pod, attempt, POLL).await
    }

    /// Waits until each of these Pods has its first line.
    pub(crate) async fn lines(&mut self, pods: &[String]) -> Result<()> {
        for pod in pods {
            self.line_with(pod, 0, POLL_MANY).await?;
        }
        Ok(())
    }

    async fn line_with(&mut self, pod: &str, attempt: u32, poll: Duration) -> Result<()> {
        let file = format!("c/{attempt}.log");
        let what = format!("the first line in {file} of {pod}");
        let has_line = || {
            let folder = self.folder(pod);
            folder.is_some_and(|f| fs::metadata(f.join(&file)).is_ok_and(|m| m.len() > 0))
        };
        wait_with(&what, poll, has_line).await
    }

    /// The log directory of a Pod, `NAMESPACE_NAME_UID`, once it is there.
    fn folder(&mut self, pod: &str) -> Option<&Path> {
        if !self.found.contains_key(pod) {
            for entry in fs::read_dir(&self.root).ok()?.flatten() {
                let name = entry.file_name();
                let full_name = name.to_str()?.split('_').nth(1)?;
                let short = full_name.trim_end_matches(&format!("-{NAME}")).to_owned();
                self.found.insert(short, entry.path());
            }
        }
        self.found.get(pod).map(PathBuf::as_path)
    }

    /// The footprint of a running Pod, whose log directory was found before.
    pub(crate) fn footprint(&self, node: &Node, pod: &str) -> Result<Footprint> {
        let logs = self.found.get(pod).context("the Pod has no logs")?;
        let name = logs.file_name().unwrap_or_default().to_string_lossy();
        let uid = name.rsplit('_').next().unwrap_or_default();
        let pod_group = hierarchy("pids")
            .join(&node.group)
            .join(format!("kubepods/besteffort/pod{uid}"));
        let mut footprint = Footprint {
            main: 0,
            processes: vec![],
            paths: vec![
                pod_group.clone(),
                node.dir.join("root/pods").join(uid),
                logs.clone(),
            ],
        };
        for group in fs::read_dir(&pod_group)?.flatten() {
            if !group.file_type()?.is_dir() {
                continue;
            }
            let sandbox =
                Path::new("root/io.containerd.grpc.v1.cri/sandboxes").join(group.file_name());
            let sandbox = node.dir.join("containerd").join(sandbox);
            if sandbox.exists() {
                footprint.paths.push(sandbox);
            }
            let processes = fs::read_to_string(group.path().join("cgroup.procs"))?;
            for process in processes.lines().map(str::parse) {
                let process = process?;
                footprint.processes.push(process);
                if is_main(process) {
                    footprint.main = process;
                }
            }
        }
        if footprint.main == 0 || footprint.paths.len() != 4 {
            bail!("found {footprint:?} of {pod}, expected a sandbox and a container");
        }
        Ok(footprint)
    }
}

/// Processes and paths that a running Pod consists of.
#[derive(Debug, Clone)]
pub(crate) struct Footprint {
    /// First process of the container.
    pub(crate) main: i32,
    /// All processes, that of the sandbox too.
    processes: Vec<i32>,
    /// The Pod's cgroup, its folder of the agent, its logs, and the sandbox's folder of containerd.
    paths: Vec<PathBuf>,
}

impl Footprint {
    /// Returns `true` if no process is left.
    fn has_ended(&self) -> bool {
        let is_there = |process: &i32| Path::new("/proc").join(process.to_string()).exists();
        !self.processes.iter().any(is_there)
    }

    /// Returns `true` if nothing is left.
    fn is_gone(&self) -> bool {
        self.has_ended() && !self.paths.iter().any(|p| p.exists())
    }

    /// Waits until no process is left, and gives the time from `began`.
    pub(crate) async fn ended(&self, began: Instant) -> Result<f64> {
        wait_with("the Pod's processes to end", POLL, || self.has_ended()).await?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Waits until nothing is left, and gives the time from `began`.
    pub(crate) async fn gone(self, began: Instant) -> Result<f64> {
        while began.elapsed() < SOON && !self.is_gone() {
            tokio::time::sleep(POLL).await;
        }
        wait_with("the Pod to be removed", POLL_LATER, || self.is_gone()).await?;
        Ok(began.elapsed().as_secs_f64())
    }
}

/// Waits until no process is left of many Pods, then until nothing is, and gives the times from `began`.
pub(crate) async fn all_gone(pods: &[Footprint], began: Instant) -> Result<[f64; 2]> {
    for pod in pods {
        wait_with("the Pods' processes to end", POLL_MANY, || pod.has_ended()).await?;
    }
    let ended = began.elapsed().as_secs_f64();
    for pod in pods {
        wait_with("the Pods to be removed", POLL_MANY, || pod.is_gone()).await?;
    }
    Ok([ended, began.elapsed().as_secs_f64()])
}

/// Waits for a condition.
pub(crate) async fn wait(what: &str, done: impl FnMut() -> bool) -> Result<()> {
    wait_with(what, POLL_MANY, done).await
}

async fn wait_with(what: &str, poll: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            bail!("timed out waiting for {what}");
        }
        tokio::time::sleep(poll).await;
    }
    Ok(())
}

/// Returns `true` for the first process of a container that is no sandbox.
fn is_main(process: i32) -> bool {
    let read =
        |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let status = read("status");
    // Its number in the innermost PID namespace comes last.
    let number = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
    let is_first = number.is_some_and(|n| n.split_whitespace().last() == Some("1"));
    is_first && read("comm") != "pause\n"
}
