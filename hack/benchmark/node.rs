//! A node of the benchmark: a containerd and an agent in namespaces of their own, and what they use.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podkeeper::cri::{Client, v1};

use crate::results::Who;

/// Name of each node.
pub(crate) const NAME: &str = "bench";
/// Address of each node in its network namespace (`hack/isolate`).
const ADDRESS: &str = "172.31.255.10";

/// Programs that nodes are made of.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) podkeeper: PathBuf,
    pub(crate) kubelet: Option<PathBuf>,
    /// Version of containerd, as `hack/containerd` names it.
    pub(crate) containerd: String,
    /// Nodes have an API server too.
    pub(crate) api_server: bool,
    /// Folder with a folder for each node.
    pub(crate) work: PathBuf,
}

/// A running node. It ends when it is dropped, with everything that runs on it.
pub(crate) struct Node {
    pub(crate) who: Who,
    pub(crate) dir: PathBuf,
    /// Its cgroup, as seen from here.
    pub(crate) group: String,
    pub(crate) client: Client,
    machine: Child,
    /// Its cgroup in the hierarchy that accounts CPU time.
    accounting: PathBuf,
}

impl Node {
    /// Starts containerd and the agent, if it has one.
    pub(crate) async fn start(programs: &Programs, who: Who) -> Result<Self> {
        let dir = programs.work.join(who.name());
        let group = format!("podkeeper-bench-{}-{}", std::process::id(), who.name());
        for folder in ["manifests", "logs"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let endpoint = format!("unix://{}/containerd/run/containerd.sock", dir.display());
        let mut agent = match who {
            Who::Podkeeper => podkeeper_command(&programs.podkeeper, &dir, &endpoint),
            Who::Kubelet => {
                let kubelet = programs.kubelet.as_ref().context("there is no kubelet")?;
                kubelet_command(kubelet, &dir, &endpoint)?
            }
            Who::Bare => vec![],
        };
        let mut options = vec![];
        if programs.api_server {
            options = vec!["--api", NAME];
            let kubeconfig = dir.join(format!("apiserver/{NAME}.kubeconfig"));
            agent.push(format!("--kubeconfig={}", kubeconfig.display()));
        }
        let hack = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack");
        let mut machine = Command::new(hack.join("isolate"))
            .arg(&group)
            .arg(hack.join("benchmark/node"))
            .args([&dir.display().to_string(), &programs.containerd])
            .args(options)
            .args(agent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = machine.stdout.take().context("the node has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let node = Self {
            who,
            dir,
            accounting: hierarchy("cpuacct").join(&group),
            group,
            client: Client::new(endpoint.parse().map_err(anyhow::Error::msg)?),
            machine,
        };
        ensure!(line == "ready\n", "the node did not start");
        if who != Who::Bare {
            crate::observer::wait("the agent to start", || node.agent().is_ok()).await?;
        }
        Ok(node)
    }

    /// Version of containerd, as it reports it.
    pub(crate) async fn runtime_version(&self) -> Result<String> {
        let request = v1::VersionRequest::default();
        Ok(self.client.version(request).await?.runtime_version)
    }

    /// Renames a manifest into the agent's directory.
    pub(crate) fn put(&self, name: &str, manifest: &str) -> Result<()> {
        let temporary = self.dir.join("incoming.yaml");
        fs::write(&temporary, manifest)?;
        Ok(fs::rename(temporary, self.manifest(name))?)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.manifest(name))?)
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.dir.join("manifests").join(format!("{name}.yaml"))
    }

    /// CPU time used so far, in seconds: of the agent; of containerd; of its shims, runc and the network plugins.
    pub(crate) fn cpu(&self) -> Result<[f64; 3]> {
        let agent = match self.who {
            Who::Bare => 0.0,
            _ => group_cpu(&self.accounting.join("agent"))?,
        };
        let all = group_cpu(&self.accounting.join("containerd"))?;
        let process = self.containerd()?;
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks = fields.skip(11).take(2).map(str::parse::<u32>);
        // Linux counts a hundred ticks to a second for programs, whatever the kernel's own clock.
        let own = f64::from(ticks.sum::<Result<u32, _>>()?) / 100.0;
        Ok([agent, own, (all - own).max(0.0)])
    }

    /// Process of the agent.
    fn agent(&self) -> Result<u32> {
        let processes = fs::read_to_string(self.accounting.join("agent/cgroup.procs"))?;
        let first = processes.lines().next();
        Ok(first.context("the agent has ended")?.parse()?)
    }

    /// Process of containerd: the one of its cgroup that carries its name alone.
    fn containerd(&self) -> Result<u32> {
        let processes = fs::read_to_string(self.accounting.join("containerd/cgroup.procs"))?;
        let is_containerd = |process: &&str| {
            fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|n| n == "containerd\n")
        };
        let found = processes.lines().find(is_containerd);
        Ok(found.context("containerd has ended")?.parse()?)
    }

    /// One of the agent's memory figures, in MiB: `VmRSS`, `RssAnon`.
    pub(crate) fn memory(&self, what: &str) -> Result<f64> {
        let kibibytes = figure(&format!("/proc/{}/status", self.agent()?), what)?;
        Ok(kibibytes / 1024.0)
    }

    /// Requests that the agent sent to the API server so far.
    pub(crate) fn requests(&self) -> Result<usize> {
        let log = fs::read_to_string(self.dir.join("apiserver/audit.log"))?;
        Ok(log.lines().count())
    }

    /// Bytes that the agent had written to disk so far.
    pub(crate) fn written(&self) -> Result<f64> {
        figure(&format!("/proc/{}/io", self.agent()?), "write_bytes")
    }

    /// Voluntary context switches of each of the agent's threads so far.
    pub(crate) fn switches(&self) -> Result<HashMap<u32, f64>> {
        let mut switches = HashMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.agent()?))?.flatten() {
            let status = thread.path().join("status").display().to_string();
            // A thread may have ended meanwhile.
            if let Ok(count) = figure(&status, "voluntary_ctxt_switches") {
                let id = thread.file_name().to_string_lossy().parse()?;
                switches.insert(id, count);
            }
        }
        Ok(switches)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.machine.stdin.take());
        // Whatever is left of it is in the work folder, which goes in the end.
        let _ = self.machine.wait();
        let _ = fs::copy(self.dir.join("agent.log"), self.dir.with_extension("log"));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Pauses for as long as an agent needs to come to rest.
pub(crate) async fn rest(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Mount point of the hierarchy with this controller of cgroup v1, or of cgroup v2.
pub(crate) fn hierarchy(controller: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup" && options.split(',').any(|o| o == controller)).then(|| place.into())
    });
    found.unwrap_or_else(|| "/sys/fs/cgroup".into())
}

/// CPU time of a cgroup, in seconds.
fn group_cpu(group: &Path) -> Result<f64> {
    if let Ok(nanoseconds) = fs::read_to_string(group.join("cpuacct.usage")) {
        return Ok(nanoseconds.trim().parse::<f64>()? / 1e9);
    }
    let path = group.join("cpu.stat").display().to_string();
    Ok(figure(&path, "usage_usec")? / 1e6)
}

/// A number of a file that has a name and a number in each line.
fn figure(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let mut lines = text.lines().map(str::split_whitespace);
    let value = lines.find_map(|mut words| {
        (words.next()?.trim_end_matches(':') == name).then(|| words.next())?
    });
    let value = value.with_context(|| format!("{path} has no {name}"))?;
    Ok(value.parse()?)
}

fn podkeeper_command(program: &Path, dir: &Path, endpoint: &str) -> Vec<String> {
    let folder = |name: &str| dir.join(name).display().to_string();
    vec![
        program.display().to_string(),
        "run".to_owned(),
        format!("--container-runtime-endpoint={endpoint}"),
        format!("--hostname-override={NAME}"),
        format!("--node-ip={ADDRESS}"),
        format!("--pod-manifest-path={}", folder("manifests")),
        format!("--root-dir={}", folder("root")),
        format!("--pod-logs-dir={}", folder("logs")),
        "--max-pods=300".to_owned(),
        "--image-gc-high-threshold=100".to_owned(),
    ]
}

fn kubelet_command(program: &Path, dir: &Path, endpoint: &str) -> Result<Vec<String>> {
    let folder = |name: &str| dir.join(name).display().to_string();
    let never = serde_json::json!({
        "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
        "imagefs.available": "0%", "imagefs.inodesFree": "0%",
    });
    let configuration = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "staticPodPath": folder("manifests"),
        "podLogsDir": folder("logs"),
        "containerRuntimeEndpoint": endpoint,
        "cgroupDriver": "cgroupfs",
        "failSwapOn": false,
        // Kubernetes 1.35 and later do not start on cgroup v1 otherwise.
        "failCgroupV1": false,
        "maxPods": 300,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": never,
        // Lowering the score takes a right of its own.
        "oomScoreAdj": 0,
        // There is no API server that would authenticate anybody.
        "authentication": {"webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
    });
    let file = dir.join("kubelet.json");
    fs::write(&file, serde_json::to_vec_pretty(&configuration)?)?;
    Ok(vec![
        program.display().to_string(),
        format!("--config={}", file.display()),
        format!("--hostname-override={NAME}"),
        format!("--node-ip={ADDRESS}"),
        format!("--root-dir={}", folder("root")),
    ])
}
