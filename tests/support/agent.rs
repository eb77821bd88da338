//! The agent in this process, over the scriptable runtime: its time and the runtime's are the test's.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use podkeeper::cri::Client;
use podkeeper::cri::HandlerFeatures;
use podkeeper::image::Images;
use podkeeper::manifest::objects::{ObjectSet, attach};
use podkeeper::manifest::{SourceKind, parse};
use podkeeper::node::supervisor::supervise;
use podkeeper::pod::admission::Allocations;
use podkeeper::pod::events::{Event, Events};
use podkeeper::pod::kubelet_pods::KubeletPods;
use podkeeper::pod::limiter::Limiter;
use podkeeper::pod::metrics::Metrics;
use podkeeper::pod::report::{PodReport, PodSnapshot};
use podkeeper::pod::reports::Reports;
use podkeeper::pod::shutdown::{NodeShutdown, ShutdownPeriods};
use podkeeper::pod::state::time::Clock;
use podkeeper::pod::task::{Context, FirstSyncs, PodRequests};
use podkeeper::source::{Desired, DesiredPod, Origin};
use podkeeper::translate::{Identity, NodeFacts, Paths};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::runtime::{Runtime, Settings, State};

/// Timeout of a pull.
pub(crate) const IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

pub(crate) const NODE: &str = "my-node1";
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: i64 = 24 * 3600;
/// How long anything may take, by the test's clock, before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

thread_local! {
    /// When the machine's clock was last set, and to what.
    static WALL: Cell<Option<(Instant, i64)>> = const { Cell::new(None) };
}

/// The machine's time: it goes on with tokio's clock.
fn wall() -> i64 {
    let (at, nanos) = WALL.get().unwrap();
    nanos + i64::try_from(at.elapsed().as_nanos()).unwrap()
}

/// The agent, its runtime and its folders.
pub(crate) struct Agent {
    pub(crate) runtime: Runtime,
    pub(crate) folder: TempDir,
    pub(crate) context: Arc<Context>,
    pub(crate) desired: watch::Sender<Option<Desired>>,
    supervisor: JoinHandle<bool>,
    pub(crate) facts: NodeFacts,
    longest_backoff: Duration,
}

impl Agent {
    pub(crate) fn start(settings: Settings) -> Self {
        let features = HandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: true,
        };
        let facts = NodeFacts {
            runtime: [(String::new(), features)].into(),
            identity: Identity {
                ips: vec!["192.0.2.2".to_owned()].into(),
                ..Identity::default()
            },
            ..NodeFacts::default()
        };
        Self::start_on(settings, facts)
    }

    /// On a node that is like this, with folders of the test's own.
    pub(crate) fn start_on(settings: Settings, facts: NodeFacts) -> Self {
        crate::panics::watch();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("cgroups")).unwrap();
        std::fs::write(at("resolv.conf"), "nameserver 10.255.255.53\n").unwrap();
        let runtime = Runtime::start(&at("cri.sock"), settings);
        WALL.set(Some((Instant::now(), runtime.look(State::now))));
        let facts = NodeFacts {
            runtime_name: "containerd".into(),
            paths: Paths {
                root: at("root"),
                logs: at("logs"),
                container_logs: at("container-logs"),
                cgroups: at("cgroups"),
            },
            identity: Identity {
                name: NODE.into(),
                ..facts.identity
            },
            ..facts
        };
        let longest_backoff = podkeeper::pod::backoff::MAXIMUM;
        let context = context(&runtime, &facts, longest_backoff);
        let desired = watch::channel(Some(Desired::default())).0;
        Self {
            supervisor: supervisor(&context, &desired),
            runtime,
            folder,
            context,
            desired,
            facts,
            longest_backoff,
        }
    }

    /// The agent dies and another one starts, as after `kill -9`.
    pub(crate) async fn die_and_start(&mut self) {
        self.die().await;
        self.start_next();
    }

    /// The agent dies, as by `kill -9`.
    pub(crate) async fn die(&mut self) {
        self.supervisor.abort();
        // It ends by that alone.
        let _ = (&mut self.supervisor).await;
    }

    /// The machine shuts down, and all Pods are to stop within these periods.
    pub(crate) fn shut_down(&self, periods: ShutdownPeriods) {
        self.context.shutdown.request(periods);
    }

    /// Waits until the agent is through with the shutdown of the machine.
    pub(crate) async fn until_shut_down(&mut self) {
        let ended = tokio::time::timeout(PATIENCE, &mut self.supervisor).await;
        let all_stopped = ended.expect("the agent is through").unwrap();
        assert!(all_stopped);
    }

    /// Another agent starts after one that died.
    pub(crate) fn start_next(&mut self) {
        self.context = context(&self.runtime, &self.facts, self.longest_backoff);
        self.supervisor = supervisor(&self.context, &self.desired);
    }

    /// Sets the longest wait of a container that keeps stopping, from the next start of the agent on.
    pub(crate) fn longest_backoff(&mut self, longest: Duration) {
        self.longest_backoff = longest;
    }

    /// The machine's clock is set, the runtime's with it.
    pub(crate) fn set_clock(&self, seconds: i64) {
        self.runtime.change(|state| state.set_clock(seconds));
        WALL.set(Some((Instant::now(), wall() + seconds * 1_000_000_000)));
    }

    /// These manifests are there from now on, and no others.
    pub(crate) fn want(&self, manifests: &[&str]) {
        self.want_with(manifests, &ObjectSet::default());
    }

    /// The same with these objects.
    pub(crate) fn want_with(&self, manifests: &[&str], objects: &ObjectSet) {
        let mut desired = Desired::default();
        for manifest in manifests {
            let pod = parse(manifest.as_bytes(), NODE, SourceKind::File);
            let pod = pod.unwrap_or_else(|e| panic!("{manifest}: {e:?}")).pod;
            let pod = attach(&pod, objects);
            let origin = Origin::File(PathBuf::from("/manifests/pod.yaml"));
            let warnings = vec![];
            let wanted = DesiredPod {
                pod: pod.into(),
                origin,
                warnings,
            };
            Arc::make_mut(&mut desired.pods).insert(wanted.pod.key.clone(), wanted);
        }
        self.desired.send_replace(Some(desired));
    }

    /// All that is told of a Pod.
    pub(crate) fn told(&self, pod: &str) -> Option<Arc<PodSnapshot>> {
        let told = self.context.reports.snapshots();
        let mut told = told.into_iter().filter(|(key, _)| key.name == full(pod));
        told.next().map(|(_, told)| told)
    }

    pub(crate) fn report(&self, pod: &str) -> PodReport {
        self.told(pod).map(|t| t.report.clone()).unwrap_or_default()
    }

    pub(crate) fn status(&self, pod: &str) -> PodStatus {
        self.told(pod)
            .map(|t| t.status.decode())
            .unwrap_or_default()
    }

    /// A container's status, init containers included.
    pub(crate) fn container(&self, pod: &str, name: &str) -> Option<ContainerStatus> {
        let status = self.status(pod);
        let inits = status.init_container_statuses.into_iter().flatten();
        let mut all = inits.chain(status.container_statuses.into_iter().flatten());
        all.find(|status| status.name == name)
    }

    /// Why a container waits.
    pub(crate) fn waits_for(&self, pod: &str, name: &str) -> Option<String> {
        self.container(pod, name)?.state?.waiting?.reason
    }

    /// A Pod's events, oldest first, as `REASON MESSAGE`.
    pub(crate) fn events(&self, pod: &str) -> Vec<Event> {
        let mut events = self.context.events.since(0);
        events.retain(|event| event.name == full(pod));
        events
    }

    /// Waits until what is told of a Pod is so.
    pub(crate) async fn until_told(&self, what: &str, test: impl Fn(&Self) -> bool) {
        let mut changes = self.context.reports.changes();
        let waiting = async {
            while !test(self) {
                changes.changed().await.unwrap();
            }
        };
        let done = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(
            done.is_ok(),
            "timed out waiting until {what}: {:#?}",
            self.short()
        );
    }

    /// What is told of all Pods, in few words.
    fn short(&self) -> Vec<String> {
        let reports = self.context.reports.all().into_iter();
        let short = reports.map(|r| format!("{} {} {} {}", r.name, r.phase, r.reason, r.message));
        short.collect()
    }

    /// Waits until a Pod is ready in all of its containers.
    pub(crate) async fn until_ready(&self, pod: &str) {
        let ready = |agent: &Self| {
            let report = agent.report(pod);
            report.total > 0 && report.ready == report.total && report.phase == "Running"
        };
        self.until_told("it is ready", ready).await;
    }

    /// Waits until nothing is left of any Pod: told, in the runtime, and on disk.
    pub(crate) async fn until_gone(&self) {
        let waiting = async {
            while !self.is_gone() {
                tokio::time::sleep(SECOND / 10).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(done.is_ok(), "something is left: {:#?}", self.short());
    }

    fn is_gone(&self) -> bool {
        let in_runtime = |state: &State| state.sandboxes.len() + state.containers.len();
        let on_disk = ["root/pods", "logs"].map(|folder| {
            let left = std::fs::read_dir(self.folder.path().join(folder));
            left.into_iter().flatten().count()
        });
        self.context.reports.all().is_empty()
            && self.runtime.look(in_runtime) == 0
            && on_disk == [0, 0]
    }

    /// When each instance of a container was started, since the first of these, in seconds.
    pub(crate) fn starts(&self, pod: &str, container: &str) -> Vec<f64> {
        let calls = self.runtime.calls_for(&full(pod)).into_iter();
        let calls = calls.filter(|c| c.method == "StartContainer");
        let of = calls.filter(|c| c.subject.container.as_deref() == Some(container));
        let at: Vec<Instant> = of.map(|c| c.at).collect();
        at.iter().map(|t| (*t - at[0]).as_secs_f64()).collect()
    }

    /// The attempts of the running containers of a Pod, by name.
    pub(crate) fn running(&self, pod: &str) -> Vec<(String, u32)> {
        let mut running: Vec<_> = self.runtime.look(|state| {
            let of = state.containers.iter().filter(|c| c.pod == full(pod));
            let of = of.filter(|c| c.is_running());
            of.map(|c| (c.name().to_owned(), c.attempt())).collect()
        });
        running.sort();
        running
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.supervisor.abort();
        let doubles = self.runtime.look(|state| state.doubles.clone());
        if !std::thread::panicking() {
            assert_eq!(doubles, [""; 0], "two live containers of a name");
            assert_eq!(crate::panics::seen(), [""; 0], "the agent panicked");
        }
    }
}

/// The Pod's full name.
pub(crate) fn full(pod: &str) -> String {
    format!("{pod}-{NODE}")
}

fn context(runtime: &Runtime, facts: &NodeFacts, longest_backoff: Duration) -> Arc<Context> {
    Arc::new(Context {
        client: Client::new(runtime.endpoint().parse().unwrap()),
        owner_label: facts.paths.owner_label(),
        facts: facts.clone(),
        node_name: NODE.into(),
        resolv_conf: Some(facts.paths.root.with_file_name("resolv.conf")),
        images: Images::new(&facts.paths, IMAGE_PULL_TIMEOUT, vec![]),
        kubelet_pods: KubeletPods::new(true),
        metrics: Metrics::default(),
        allocations: Allocations::default(),
        limiter: Limiter::new(Some(4)),
        first_syncs: FirstSyncs::default(),
        clock: Clock::with_wall(wall),
        shutdown: NodeShutdown::default(),
        requests: PodRequests::default(),
        reports: Reports::default(),
        events: Events::default(),
        longest_backoff,
        rollback_after: None,
    })
}

fn supervisor(
    context: &Arc<Context>,
    desired: &watch::Sender<Option<Desired>>,
) -> JoinHandle<bool> {
    let pulse = watch::channel(None).0;
    tokio::spawn(supervise(Arc::clone(context), desired.subscribe(), pulse))
}

/// A manifest of a Pod `p` with this spec, in YAML's flow form without the outer braces.
pub(crate) fn pod(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec}}}}}")
}

/// The same with one container `c`.
pub(crate) fn single(container: &str, spec: &str) -> String {
    let container = format!("{{name: c, image: 'busybox:1.36', {container}}}");
    pod(&format!("containers: [{container}], {spec}"))
}
