//! The benchmark: podkeeper beside the same work done with bare CRI calls, in one run on one
//! containerd. `hack/bench` brings the runtime up and runs this; see there for the arguments.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use podkeeper::cri::{Client, v1};
use podkeeper::host::cgroup;
use podkeeper::manifest::{SourceKind, StaticPod, Uid, parse};
use podkeeper::translate::{
    ContainerInstance, NodeFacts, Paths, ResolvConf, SandboxInstance, container_config, labels,
    pod_cgroup_paths, sandbox_config,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const IMAGE: &str = "localhost/podkeeper/busybox:1";
const NODE: &str = "bench";
const POLL: Duration = Duration::from_millis(1);
/// How long an event is waited for before the runtime is asked.
const EVENT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(120);
/// Concurrencies that the bare calls are tried with.
const CONCURRENCIES: [usize; 3] = [2, 4, 8];

/// What is measured with.
struct Bench {
    client: Client,
    /// Below it: the agent's manifests, root, logs and run folders, and the bare calls' own root.
    work: PathBuf,
    agent: Child,
    pods: usize,
    repeats: usize,
    idle: Duration,
}

/// What the bare calls made of a Pod.
struct Bare {
    uid: String,
    sandbox: String,
    container: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or(format!("missing argument: {what}"));
    let podkeeper = PathBuf::from(next("the podkeeper program")?);
    let endpoint = next("the runtime's endpoint")?;
    let work = PathBuf::from(next("a work folder")?);
    let pods: usize = next("how many Pods")?.parse()?;
    let repeats: usize = next("how many repeats")?.parse()?;
    let idle = Duration::from_secs(next("how many seconds of idling")?.parse()?);

    fs::create_dir_all(work.join("manifests"))?;
    let folder = |name: &str| work.join(name).display().to_string();
    let agent = Command::new(&podkeeper)
        .args([
            "run",
            "--container-runtime-endpoint",
            &endpoint,
            "--hostname-override",
            NODE,
            "--healthz-port=0",
        ])
        .args([
            "--pod-manifest-path",
            &folder("manifests"),
            "--root-dir",
            &folder("root"),
        ])
        .args([
            "--pod-logs-dir",
            &folder("logs"),
            "--run-dir",
            &folder("run"),
            "--container-logs-dir",
            &folder("container-logs"),
            "--image-gc-high-threshold=100",
        ])
        .stdin(Stdio::null())
        .stderr(fs::File::create(work.join("agent.log"))?)
        .spawn()?;
    let mut bench = Bench {
        client: Client::new(endpoint.parse()?),
        work,
        agent,
        pods,
        repeats,
        idle,
    };
    let result = bench.run().await;
    // The Pods go with their manifests, and the runtime with its folder.
    bench.agent.kill()?;
    bench.agent.wait()?;
    result
}

impl Bench {
    async fn run(&mut self) -> Result<()> {
        let request = v1::VersionRequest::default();
        let version = self.client.version(request).await?.runtime_version;
        let cores = std::thread::available_parallelism()?;
        println!(
            "podkeeper {} · containerd {version} · {cores} cores",
            env!("CARGO_PKG_VERSION")
        );
        println!();
        println!(
            "{:<44} {:>10} {:>10} {:>7}",
            "", "podkeeper", "bare CRI", "ratio"
        );
        self.one_pod().await?;
        self.many_pods().await
    }

    /// Start, restart and stop of one Pod, by turns with the bare calls; the median of each.
    async fn one_pod(&mut self) -> Result<()> {
        let mut ours: [Vec<Duration>; 3] = Default::default();
        let mut bare: [Vec<Duration>; 3] = Default::default();
        // The first round warms both up.
        for round in 0..=self.repeats {
            let times = self.one_pod_ours(round).await?;
            let bare_times = self.one_pod_bare(round).await?;
            for i in 0..3 {
                if round > 0 {
                    ours[i].push(times[i]);
                    bare[i].push(bare_times[i]);
                }
            }
        }
        let what = [
            "start: manifest renamed in -> first log line",
            "restart: kill -9 -> first log line",
            "stop: manifest removed -> nothing left",
        ];
        for (i, what) in what.into_iter().enumerate() {
            print_row(what, median(&mut ours[i]), median(&mut bare[i]), "");
        }
        Ok(())
    }

    async fn one_pod_ours(&self, round: usize) -> Result<[Duration; 3]> {
        let name = format!("one{round}");
        let uid = pod(&name)?.uid.clone();
        let began = Instant::now();
        self.put(&name)?;
        self.log_line(&self.work.join("logs"), &name, &uid, 0)
            .await?;
        let start = began.elapsed();

        let container = self.container_of(&uid).await?;
        let process = self.process(&container).await?;
        // The runtime and the agent have come to rest.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        kill(process);
        self.log_line(&self.work.join("logs"), &name, &uid, 1)
            .await?;
        let restart = began.elapsed();

        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        fs::remove_file(self.manifest(&name))?;
        wait("the Pod is gone", || {
            !self.work.join("root/pods").join(uid.as_str()).exists()
        })
        .await?;
        Ok([start, restart, began.elapsed()])
    }

    async fn one_pod_bare(&self, round: usize) -> Result<[Duration; 3]> {
        let name = format!("bare{round}");
        let pod = pod(&name)?;
        let logs = self.work.join("bare/logs");
        let began = Instant::now();
        let bare = self.run_bare(&pod).await?;
        self.log_line(&logs, &name, &pod.uid, 0).await?;
        let start = began.elapsed();

        let process = self.process(&bare.container).await?;
        let (sender, mut events) = tokio::sync::mpsc::channel(1024);
        let listening = tokio::spawn(listen(self.client.clone(), sender));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        kill(process);
        self.wait_exit(&bare.container, &mut events).await?;
        listening.abort();
        let second = self.run_bare_container(&pod, &bare.sandbox, 1).await?;
        self.log_line(&logs, &name, &pod.uid, 1).await?;
        let restart = began.elapsed();

        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        let bare = Bare {
            container: second,
            ..bare
        };
        self.stop_bare(&bare).await?;
        Ok([start, restart, began.elapsed()])
    }

    /// Waits until the runtime knows of a container's end: until an event says so, and where none
    /// comes, by asking.
    async fn wait_exit(
        &self,
        id: &str,
        events: &mut tokio::sync::mpsc::Receiver<String>,
    ) -> Result<()> {
        loop {
            let pause = match tokio::time::timeout(EVENT, events.recv()).await {
                Ok(Some(changed)) if changed == id => return Ok(()),
                Ok(Some(_)) => continue,
                Err(_) => Duration::ZERO,
                // This runtime has no events.
                Ok(None) => POLL,
            };
            let request = v1::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            let status = self
                .client
                .container_status(request)
                .await?
                .status
                .unwrap_or_default();
            if status.state() == v1::ContainerState::ContainerExited {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Many Pods from an empty directory and back, and what that cost the agent.
    async fn many_pods(&self) -> Result<()> {
        let names: Vec<String> = (0..self.pods).map(|i| format!("many{i}")).collect();
        let mut uids = vec![];
        for name in &names {
            uids.push(pod(name)?.uid.clone());
        }
        let cpu_before = self.cpu()?;
        let began = Instant::now();
        for name in &names {
            self.put(name)?;
        }
        for (name, uid) in names.iter().zip(&uids) {
            self.log_line(&self.work.join("logs"), name, uid, 0).await?;
        }
        let start = began.elapsed();
        let cpu_start = self.cpu()? - cpu_before;

        tokio::time::sleep(Duration::from_secs(2)).await;
        let (resident, own) = (self.memory("VmRSS:")?, self.memory("RssAnon:")?);
        let cpu_before = self.cpu()?;
        tokio::time::sleep(self.idle).await;
        let idle = (self.cpu()? - cpu_before) / self.idle.as_secs_f64() * 100.0;

        let cpu_before = self.cpu()?;
        let began = Instant::now();
        for name in &names {
            fs::remove_file(self.manifest(name))?;
        }
        let gone = |uid: &Uid| !self.work.join("root/pods").join(uid.as_str()).exists();
        wait("the Pods are gone", || uids.iter().all(gone)).await?;
        let stop = began.elapsed();
        let cpu_stop = self.cpu()? - cpu_before;

        let mut best: Option<(Duration, Duration, usize)> = None;
        for at_a_time in CONCURRENCIES {
            let (start, stop) = self.many_bare(at_a_time).await?;
            if best.is_none_or(|(s, e, _)| start + stop < s + e) {
                best = Some((start, stop, at_a_time));
            }
        }
        let (bare_start, bare_stop, at_a_time) = best.ok_or("no concurrency was tried")?;
        let note = format!("(bare: {at_a_time} at a time)");
        let pods = self.pods;
        print_row(
            &format!("{pods} Pods from an empty directory"),
            start,
            bare_start,
            &note,
        );
        print_row(&format!("{pods} Pods and back"), stop, bare_stop, &note);
        println!();
        println!(
            "the agent's CPU: {cpu_start:.2} s for {pods} starts, {cpu_stop:.2} s for {pods} stops"
        );
        println!(
            "with {pods} Pods: {:.1} MB resident, of that {:.1} MB its own",
            resident / 1024.0,
            own / 1024.0
        );
        println!(
            "idle with {pods} Pods: {idle:.2} % of a core over {} s",
            self.idle.as_secs()
        );
        Ok(())
    }

    async fn many_bare(&self, at_a_time: usize) -> Result<(Duration, Duration)> {
        let limiter = Arc::new(Semaphore::new(at_a_time));
        let began = Instant::now();
        let mut starts = JoinSet::new();
        for i in 0..self.pods {
            let pod = pod(&format!("bare{at_a_time}-{i}"))?;
            let (limiter, bench) = (Arc::clone(&limiter), self.bare());
            starts.spawn(async move {
                let _permit = limiter.acquire().await?;
                let bare = bench.run(&pod).await?;
                Result::Ok((pod, bare))
            });
        }
        let mut running = vec![];
        while let Some(started) = starts.join_next().await {
            running.push(started??);
        }
        for (pod, _) in &running {
            let name = pod.key.name.trim_end_matches(&format!("-{NODE}"));
            self.log_line(&self.work.join("bare/logs"), name, &pod.uid, 0)
                .await?;
        }
        let start = began.elapsed();

        let began = Instant::now();
        let mut stops = JoinSet::new();
        for (_, bare) in running {
            let (limiter, bench) = (Arc::clone(&limiter), self.bare());
            stops.spawn(async move {
                let _permit = limiter.acquire().await?;
                bench.stop(&bare).await
            });
        }
        while let Some(stopped) = stops.join_next().await {
            stopped??;
        }
        Ok((start, began.elapsed()))
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.work.join("manifests").join(format!("{name}.yaml"))
    }

    fn put(&self, name: &str) -> Result<()> {
        let temporary = self.work.join("incoming.yaml");
        fs::write(&temporary, manifest(name))?;
        Ok(fs::rename(temporary, self.manifest(name))?)
    }

    async fn log_line(&self, logs: &Path, name: &str, uid: &str, attempt: u32) -> Result<()> {
        let log = logs.join(format!("default_{name}-{NODE}_{uid}/c/{attempt}.log"));
        let has_line = || fs::metadata(&log).is_ok_and(|m| m.len() > 0);
        wait("the container's first log line", has_line).await
    }

    async fn container_of(&self, uid: &str) -> Result<String> {
        let request = v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter {
                label_selector: HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]),
                ..v1::ContainerFilter::default()
            }),
        };
        let mut containers = self.client.list_containers(request).await?.containers;
        Ok(containers.pop().ok_or("the container is not there")?.id)
    }

    /// A container's main process. Its first words may come before the runtime tells of it.
    async fn process(&self, id: &str) -> Result<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let request = v1::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: true,
            };
            let answer = self.client.container_status(request).await?;
            let info = answer.info.get("info").map_or("{}", String::as_str);
            let info: serde_json::Value = serde_json::from_str(info)?;
            if let Some(process) = info["pid"].as_i64().filter(|pid| *pid > 0) {
                return Ok(process.try_into()?);
            }
            tokio::time::sleep(POLL).await;
        }
        Err("the runtime tells of no process".into())
    }

    /// CPU seconds that the agent used so far.
    fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.agent.id()))?;
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u32>);
        let ticks = ticks.sum::<std::result::Result<u32, _>>()?;
        // Linux counts a hundred ticks to a second for programs, whatever the kernel's own clock.
        Ok(f64::from(ticks) / 100.0)
    }

    /// One of the agent's memory figures, in KiB.
    fn memory(&self, what: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.agent.id()))?;
        let line = status
            .lines()
            .find(|l| l.starts_with(what))
            .ok_or("no such figure")?;
        Ok(line
            .split_whitespace()
            .nth(1)
            .ok_or("no such figure")?
            .parse()?)
    }

    fn bare(&self) -> BareCalls {
        BareCalls {
            client: self.client.clone(),
            facts: NodeFacts {
                paths: Paths {
                    root: self.work.join("bare"),
                    logs: self.work.join("bare/logs"),
                    ..Paths::default()
                },
                ..NodeFacts::default()
            },
        }
    }

    async fn run_bare(&self, pod: &StaticPod) -> Result<Bare> {
        self.bare().run(pod).await
    }

    async fn run_bare_container(
        &self,
        pod: &StaticPod,
        sandbox: &str,
        attempt: u32,
    ) -> Result<String> {
        self.bare().run_container(pod, sandbox, attempt).await
    }

    async fn stop_bare(&self, bare: &Bare) -> Result<()> {
        self.bare().stop(bare).await
    }
}

/// The same work without an agent: the calls, and the few files that the containers mount.
struct BareCalls {
    client: Client,
    facts: NodeFacts,
}

impl BareCalls {
    fn sandbox_config(&self, pod: &StaticPod) -> v1::PodSandboxConfig {
        let (host, instance) = (ResolvConf::default(), SandboxInstance::default());
        sandbox_config(&self.facts, &host, pod, &instance)
    }

    async fn run(&self, pod: &StaticPod) -> Result<Bare> {
        fs::create_dir_all(self.facts.paths.pod(&pod.uid))?;
        fs::write(
            self.facts.paths.hosts_file(&pod.uid),
            "127.0.0.1 localhost\n",
        )?;
        let request = v1::RunPodSandboxRequest {
            config: Some(self.sandbox_config(pod)),
            runtime_handler: String::new(),
        };
        let sandbox = self.client.run_pod_sandbox(request).await?.pod_sandbox_id;
        let container = self.run_container(pod, &sandbox, 0).await?;
        Ok(Bare {
            uid: pod.uid.to_string(),
            sandbox,
            container,
        })
    }

    async fn run_container(&self, pod: &StaticPod, sandbox: &str, attempt: u32) -> Result<String> {
        let image = v1::ImageSpec {
            image: IMAGE.to_owned(),
            ..v1::ImageSpec::default()
        };
        let request = v1::ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        let image = self
            .client
            .image_status(request)
            .await?
            .image
            .ok_or("the image is not there")?;
        let spec = &pod.containers()[0];
        let instance = ContainerInstance {
            attempt,
            image: image.id,
            ..ContainerInstance::default()
        };
        let paths = &self.facts.paths;
        fs::create_dir_all(paths.pod_logs(&pod.key, &pod.uid).join("c"))?;
        fs::create_dir_all(paths.container(&pod.uid, "c"))?;
        fs::write(paths.termination_log(&pod.uid, "c", attempt), "")?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container_config(&self.facts, pod, spec, &instance)?),
            sandbox_config: Some(self.sandbox_config(pod)),
        };
        let container_id = self.client.create_container(request).await?.container_id;
        let request = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        self.client.start_container(request).await?;
        Ok(container_id)
    }

    async fn stop(&self, bare: &Bare) -> Result<()> {
        self.client.stop_container(&bare.container, 30).await?;
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: bare.sandbox.clone(),
        };
        self.client.stop_pod_sandbox(request).await?;
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: bare.sandbox.clone(),
        };
        self.client.remove_pod_sandbox(request).await?;
        // Nobody else removes the Pod's own cgroup.
        for path in pod_cgroup_paths(self.facts.cgroup_driver, &bare.uid) {
            cgroup::remove(&self.facts.paths.cgroups, &path)?;
        }
        Ok(())
    }
}

/// Passes on the ids of containers that the runtime tells the end of.
async fn listen(client: Client, sender: tokio::sync::mpsc::Sender<String>) {
    let stopped = v1::ContainerEventType::ContainerStoppedEvent;
    let Ok(mut events) = client.container_events().await else {
        return;
    };
    while let Ok(Some(event)) = events.message().await {
        if event.container_event_type() == stopped && sender.send(event.container_id).await.is_err()
        {
            return;
        }
    }
}

fn manifest(name: &str) -> String {
    // It says a word at once, and ends at once when told to.
    let script = "trap 'exit 0' TERM; echo up; sleep 1000000 & wait";
    format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\"}}, \
         \"spec\": {{\"containers\": [{{\"name\": \"c\", \"image\": \"{IMAGE}\", \
         \"command\": [\"sh\", \"-c\", \"{script}\"]}}]}}}}"
    )
}

fn pod(name: &str) -> Result<Arc<StaticPod>> {
    let accepted = parse(manifest(name).as_bytes(), NODE, SourceKind::File);
    Ok(accepted.map_err(|problems| format!("{problems:?}"))?.pod)
}

async fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            return Err(format!("waited in vain for: {what}").into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn kill(process: i32) {
    if let Some(process) = rustix::process::Pid::from_raw(process) {
        // That it has ended by itself shows in what is waited for next.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn print_row(what: &str, ours: Duration, bare: Duration, note: &str) {
    let time = |t: Duration| match t.as_secs_f64() {
        s if s < 2.0 => format!("{:.0} ms", s * 1000.0),
        s => format!("{s:.1} s"),
    };
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    println!(
        "{what:<44} {:>10} {:>10} {ratio:>7.2} {note}",
        time(ours),
        time(bare)
    );
}
