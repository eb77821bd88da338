//! Chaos with hanging networks, hanging mounts and hostile containers: healthy Pods are not disturbed, and in
//! the end exactly the wanted containers run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use podkeeper::cri::v1::Container;
use podkeeper::translate::labels;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::hangs::host_path;
use super::super::mounts::{Mounted, folder};
use super::super::network::{Held, Kept};
use super::super::node::{BUSYBOX, FOREVER, Node, pod, pod_with};
use super::super::removal::mounts_with;
use super::{Own, containerd, defined, wait_for_exactly};

super::super::on_each_containerd!(no_healthy_pod_notices_what_hangs_fails_or_means_harm);

/// Pods that nobody touches.
const QUIET: [&str; 3] = ["q0", "q1", "q2"];
/// Pods whose containers and sandboxes are killed.
const KILLED: [&str; 4] = ["k0", "k1", "k2", "k3"];
/// One of those, whose updates have a volume that does not answer.
const UPDATED: &str = "k2";
/// One of those, with another container that has such a volume.
const HALF: &str = "k3";
/// Pods whose manifests are edited, removed and put back.
const EDITED: [&str; 3] = ["e0", "e1", "e2"];
/// Pods whose networks hang.
const HELD: [&str; 3] = ["h0", "h1", "h2"];
/// Pods with a volume on a mount that hangs, and the types of those volumes.
const MOUNTING: [(&str, &str); 3] = [("m0", ""), ("m1", "Directory"), ("m2", "DirectoryOrCreate")];
/// A manifest on that mount.
const LINK: &str = "link.yaml";

/// Hostile containers: the Pod's name, the script and more lines of the Pod's spec. `$LOGS` stands for the
/// folder of the node's logs.
const HOSTILE: [(&str, &str, &str); 7] = [
    (
        "x0",
        "truncate -s 1G /etc/hosts; sleep 0.5; exit 1",
        "",
    ),
    (
        "x1",
        "head -c 1M /dev/urandom >/dev/termination-log; sleep 0.5; exit 1",
        "    terminationMessagePolicy: FallbackToLogsOnError\n",
    ),
    (
        "x2",
        "trap 'exit 0' TERM; while :; do yes a flood of words | head -n 20000; sleep 0.2; done",
        "",
    ),
    (
        "x3",
        FOREVER,
        "    lifecycle: {postStart: {exec: {command: [sh, -c, 'sleep 300 &']}}}\n",
    ),
    (
        "x4",
        FOREVER,
        "    livenessProbe: {periodSeconds: 1, failureThreshold: 3, exec: {command: [sh, -c, 'sleep 300 &']}}\n",
    ),
    (
        "x5",
        "trap 'exit 0' TERM; for i in $(seq 50); do sleep 300 & done; sleep 1; exit 1",
        "",
    ),
    (
        "x6",
        "trap 'exit 0' TERM; while :; do for d in /logs/*/c; do
         mkfifo $d/0.log.20200101-000000 $d/0.log.20200101-000002.gz
         ln -s /etc/passwd $d/0.log.20200101-000001; ln -s /etc/passwd $d/0.log.20200101-000003.tmp
         mv $d/0.log $d/away; ln -s /etc/passwd $d/0.log; for n in 1 2 3 4 5; do ln -s /etc/passwd $d/$n.log; done
         done 2>/dev/null; sleep 0.3; done",
        "    volumeMounts: [{name: logs, mountPath: /logs}]\n  volumes: [{name: logs, hostPath: {path: $LOGS}}]\n",
    ),
];

/// How soon a killed container runs again: far less than any call that hangs may take, and enough for an
/// agent and a runtime that start anew on a busy machine.
const SOON: Duration = Duration::from_secs(45);
/// The most memory that the agent may ever have had, in KiB.
const MEMORY: u64 = 200 << 10;

/// A fault of the node or a change of its manifests.
#[derive(Debug, Clone)]
enum Fault {
    /// The agent is killed, and started so many milliseconds later.
    Agent(u64),
    /// The runtime is killed and started.
    Runtime,
    /// The container of one of [`KILLED`] is killed, or what holds its sandbox.
    Kill { pod: usize, sandbox: bool },
    /// The update of [`UPDATED`] comes or is taken back.
    Update,
    /// One of [`EDITED`] gets this version, or is removed.
    Edit(usize, Option<u8>),
    /// The networks of one of [`EDITED`] are not given back, or are again; then it gets this version.
    Keep(usize, u8),
    /// The network of one of [`HELD`] hangs, each ADD or the next one, or does not any more.
    Hold { pod: usize, once: bool },
    /// The manifest of one of [`HELD`] comes in this version, or goes.
    Start(usize, u8),
    /// The manifest of one of [`MOUNTING`] comes or goes.
    Mount(usize),
    /// The mount that hangs goes, and another comes.
    Remount,
    /// A link to that mount in the directory comes or goes.
    Link,
    /// One of [`HOSTILE`] comes or goes.
    Hostile(usize),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => (0..500u64).prop_map(Fault::Agent),
        2 => Just(Fault::Runtime),
        5 => (0..KILLED.len(), proptest::bool::weighted(0.3))
            .prop_map(|(pod, sandbox)| Fault::Kill { pod, sandbox }),
        2 => Just(Fault::Update),
        4 => (0..EDITED.len(), proptest::option::weighted(0.7, 0..3u8))
            .prop_map(|(pod, version)| Fault::Edit(pod, version)),
        2 => (0..EDITED.len(), 0..3u8).prop_map(|(pod, version)| Fault::Keep(pod, version)),
        3 => (0..HELD.len(), any::<bool>()).prop_map(|(pod, once)| Fault::Hold { pod, once }),
        3 => (0..HELD.len(), 0..2u8).prop_map(|(pod, version)| Fault::Start(pod, version)),
        3 => (0..MOUNTING.len()).prop_map(Fault::Mount),
        1 => Just(Fault::Remount),
        1 => Just(Fault::Link),
        4 => (0..HOSTILE.len()).prop_map(Fault::Hostile),
    ]
}

/// The node and the faults in effect.
struct Chaos {
    node: Node,
    /// Where a mount hangs, one that comes and goes and one that stays.
    dead: PathBuf,
    stays_dead: PathBuf,
    mount: Option<Mounted>,
    staying_mount: Option<Mounted>,
    /// Whether the update of [`UPDATED`] is there.
    updated: bool,
    held: BTreeMap<&'static str, Held>,
    kept: BTreeMap<&'static str, Kept>,
    /// Containers that were killed, and when.
    killed: BTreeMap<&'static str, (Container, Instant)>,
    /// The longest time that one was down, as far as was looked.
    slowest: Duration,
    /// The containers of the Pods that nobody touches.
    quiet: BTreeSet<String>,
}

impl Chaos {
    /// Starts the agent and the Pods that are there from the beginning.
    async fn start(mut node: Node) -> Self {
        node.patience = 2 * SOON;
        node.flag("runtime-concurrency", "2");
        node.flag("max-container-restart-period", "1s");
        node.flag("container-log-max-size", "64Ki");
        node.flag("container-log-max-files", "3");
        node.flag("container-log-monitor-interval", "200ms");
        let dead = folder(node.path("dead"));
        let mount = Some(Mounted::hanging(&dead));
        let stays_dead = folder(node.path("stays-dead"));
        let staying_mount = Some(Mounted::hanging(&stays_dead));
        let probed = "    livenessProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: ['true']}}\n";
        node.put("q0.yaml", &pod("q0", FOREVER));
        node.put("q1.yaml", &pod_with("q1", BUSYBOX, FOREVER, probed));
        let on_host = pod_with("q2", BUSYBOX, FOREVER, "  hostNetwork: true\n");
        node.put("q2.yaml", &on_host);
        for name in ["k0", "k1", UPDATED] {
            node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
        }
        let other = format!(
            "  - name: other\n    image: {BUSYBOX}\n    command: [sh, -c, \"{FOREVER}\"]\n{}",
            host_path(&stays_dead, "")
        );
        let half = pod_with(HALF, BUSYBOX, FOREVER, &other);
        node.put(&format!("{HALF}.yaml"), &half);
        node.start_agent();
        for name in KILLED {
            node.wait_running(name).await;
        }
        let mut quiet = BTreeSet::new();
        for name in QUIET {
            quiet.insert(node.wait_running(name).await.id);
        }
        Self {
            node,
            dead,
            stays_dead,
            mount,
            staying_mount,
            updated: false,
            held: BTreeMap::new(),
            kept: BTreeMap::new(),
            killed: BTreeMap::new(),
            slowest: Duration::ZERO,
            quiet,
        }
    }

    /// Writes the manifest of a Pod.
    fn put(&self, name: &str, script: &str, spec: &str) {
        let text = pod_with(name, BUSYBOX, script, spec);
        self.node.put(&format!("{name}.yaml"), &text);
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.node.manifest(&format!("{name}.yaml")).exists()
    }

    /// Writes the manifest of a Pod, or removes the one that is there.
    fn toggle(&self, name: &str, script: &str, spec: &str) {
        if self.is_wanted(name) {
            self.node.remove(&format!("{name}.yaml"));
        } else {
            self.put(name, script, spec);
        }
    }

    /// Carries out one fault.
    async fn inflict(&mut self, own: &Own, fault: &Fault) {
        let versioned = |version: u8| format!("echo {version}; {FOREVER}");
        match *fault {
            Fault::Agent(pause) => {
                self.check_memory();
                self.node.kill_agent();
                tokio::time::sleep(Duration::from_millis(pause)).await;
                self.node.start_agent();
            }
            Fault::Runtime => {
                containerd(&["kill"], &own.0);
                containerd(&["start"], &own.0);
            }
            Fault::Kill { pod, sandbox } => self.kill(KILLED[pod], sandbox).await,
            Fault::Update => {
                self.updated = !self.updated;
                let volume = host_path(&self.stays_dead, "Directory");
                self.put(UPDATED, FOREVER, if self.updated { &volume } else { "" });
            }
            Fault::Edit(index, Some(version)) => self.put(EDITED[index], &versioned(version), ""),
            Fault::Edit(index, None) if self.is_wanted(EDITED[index]) => {
                self.node.remove(&format!("{}.yaml", EDITED[index]));
            }
            Fault::Edit(..) => {}
            Fault::Keep(index, version) => {
                let name = EDITED[index];
                if self.kept.remove(name).is_none() {
                    self.kept.insert(name, Kept::new(&self.node, name));
                }
                self.put(name, &versioned(version), "");
            }
            Fault::Hold { pod, once } => {
                let name = HELD[pod];
                if self.held.remove(name).is_none() {
                    let hold = if once { Held::once } else { Held::new };
                    self.held.insert(name, hold(&self.node, &[name]));
                }
            }
            Fault::Start(index, version) => self.toggle(HELD[index], &versioned(version), ""),
            Fault::Mount(index) => {
                let (name, kind) = MOUNTING[index];
                self.toggle(name, FOREVER, &host_path(&self.dead, kind));
            }
            Fault::Remount => {
                self.mount = None;
                self.mount = Some(Mounted::hanging(&self.dead));
            }
            Fault::Link if self.node.manifest(LINK).is_symlink() => self.node.remove(LINK),
            Fault::Link => symlink(self.dead.join(LINK), self.node.manifest(LINK)).unwrap(),
            Fault::Hostile(index) => {
                let (name, script, spec) = HOSTILE[index];
                let logs = self.node.path("logs").display().to_string();
                self.toggle(name, script, &spec.replace("$LOGS", &logs));
            }
        }
    }

    /// Kills the container or the sandbox of a Pod, unless it is not up again after the last kill.
    async fn kill(&mut self, name: &'static str, sandbox: bool) {
        if self.killed.contains_key(name) {
            return;
        }
        let container = self.node.wait_running(name).await;
        if sandbox {
            self.node.kill_sandbox(&container.pod_sandbox_id).await;
        } else {
            self.node.kill_container(&container.id).await;
        }
        self.killed.insert(name, (container, Instant::now()));
    }

    /// Checks that the Pods nobody touched were left alone, and that killed containers run again in time.
    async fn check(&mut self) {
        let running = self.node.running().await;
        let ids = |pods: &[&str]| {
            let of = running
                .iter()
                .filter(|((pod, name), _)| name == "c" && pods.contains(&pod.as_str()));
            let containers = of.flat_map(|(_, containers)| containers);
            containers.map(|c| c.id.clone()).collect::<BTreeSet<_>>()
        };
        assert_eq!(ids(&QUIET), self.quiet, "a Pod that nobody touched changed");
        let is_back = |name: &str, old: &Container| ids(&[name]).iter().any(|id| *id != old.id);
        self.killed.retain(|name, (old, killed)| {
            let took = killed.elapsed();
            assert!(took < SOON, "{name} was killed and is down for {took:?}");
            let is_back = is_back(name, old);
            if is_back {
                self.slowest = self.slowest.max(took);
            }
            !is_back
        });
    }

    /// Waits until killed containers run again and edited Pods run in their version, while others hang.
    async fn wait_healthy(&mut self) {
        while !self.killed.is_empty() {
            self.check().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for name in EDITED {
            let wanted = self.is_wanted(name).then(|| defined(&self.node, name).0);
            self.node
                .wait_until(&format!("{name} is as wanted"), async || {
                    let found = self.node.running_one(name, "c").await;
                    found.map(|c| c.labels[labels::POD_UID].clone()) == wanted
                })
                .await;
        }
    }

    fn check_memory(&self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.node.agent_id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.unwrap().trim().trim_end_matches(" kB");
        let peak: u64 = peak.parse().unwrap();
        assert!(peak < MEMORY, "the agent took {peak} KiB");
    }

    /// Ends all faults and removes the hostile Pods; returns the names of the Pods that are left.
    fn mend(&mut self) -> Vec<&'static str> {
        self.held.clear();
        self.kept.clear();
        self.mount = None;
        self.staying_mount = None;
        if self.node.manifest(LINK).is_symlink() {
            self.node.remove(LINK);
        }
        for (name, script, spec) in HOSTILE {
            if self.is_wanted(name) {
                self.toggle(name, script, spec);
            }
        }
        let mounting = MOUNTING.map(|(name, _)| name);
        let all = QUIET.iter().chain(&KILLED).chain(&EDITED).chain(&HELD);
        let all = all.chain(&mounting).copied();
        all.filter(|name| self.is_wanted(name)).collect()
    }
}

/// The generator of faults, which gives the same ones for the same `PODKEEPER_TEST_SEED`.
fn runner() -> TestRunner {
    let given = std::env::var("PODKEEPER_TEST_SEED").ok();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let seed = given.map_or(now, |given| given.parse().unwrap());
    println!("PODKEEPER_TEST_SEED={seed}");
    let seed = [seed.to_le_bytes(), [0; 16]].concat();
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    TestRunner::new_with_rng(Config::default(), random)
}

async fn no_healthy_pod_notices_what_hangs_fails_or_means_harm(mut node: Node) {
    let faults = if std::env::var_os("PODKEEPER_TEST_LONG").is_some() {
        300
    } else {
        30
    };
    let own = Own::start(&mut node);
    let mut chaos = Chaos::start(node).await;
    let mut runner = runner();
    let pause = prop_oneof![0..30u64, 0..1000u64];
    let round = (fault(), pause);
    let began = Instant::now();
    for number in 1..=faults {
        let (fault, pause) = round.new_tree(&mut runner).unwrap().current();
        // Shown where it fails.
        println!(
            "{:.1?} fault {number}: {fault:?}, then {pause} ms",
            began.elapsed()
        );
        chaos.inflict(&own, &fault).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        chaos.check().await;
        if number % 20 == 0 {
            chaos.wait_healthy().await;
        }
    }
    println!("{:.1?} all faults are made", began.elapsed());
    println!("down for {:.1?} at most", chaos.slowest);
    for words in [
        "is reserved for",
        "cancelled since another container",
        "did not answer",
        "Started container",
    ] {
        let count = chaos.node.log_lines_with(words);
        println!("{count} lines of the log say {words:?}");
    }
    let wanted = chaos.mend();
    // What failed for long is tried again once a minute.
    chaos.node.patience = 2 * super::super::node::PATIENCE + SOON;
    wait_for_exactly(&chaos.node, wanted.iter().copied()).await;
    chaos.check().await;
    chaos.check_memory();
    println!("{:.1?} all is as wanted", began.elapsed());
    for name in wanted {
        chaos.node.remove(&format!("{name}.yaml"));
    }
    chaos.node.wait_gone().await;
    let pods = chaos.node.path("root/pods").display().to_string();
    assert_eq!(mounts_with(&pods), 0, "mounts are left");
    println!("{:.1?} all is gone", began.elapsed());
    // The runtime goes before the folder it lives in.
    chaos.node.kill_agent();
    drop(own);
}
