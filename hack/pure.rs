//! Costs of the pure parts: manifests to Pods, Pods to CRI requests, the planner, the status and what the API
//! server is sent, each for a small and for a large Pod.
//!
//! Arguments: `list` names the operations; `time` prints the nanoseconds of each, the median of several batches;
//! `count` executes each nine times, warm, in [`counted`], for callgrind to collect. Build it with `--release`;
//! `hack/bench-pure` does all of that.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use k8s_openapi::api::core::v1::PodStatus;
use podkeeper::manifest::{PackedPod, SourceKind, StaticPod, parse};
use podkeeper::mirror::{NodeIdentity, mirror, status_patch};
use podkeeper::pod::backoff::MAXIMUM;
use podkeeper::pod::observe::digest;
use podkeeper::pod::plan::plan;
use podkeeper::pod::report::report;
use podkeeper::pod::state::observed::{Container, Observed, Sandbox, State};
use podkeeper::pod::state::time::MonotonicTime;
use podkeeper::pod::state::{Admission, FirstSeen, Image, PodState, View};
use podkeeper::pod::status::status;
use podkeeper::source::{DesiredPod, Origin};
use podkeeper::translate::{
    Addresses, ContainerInstance, ImageUser, NodeFacts, ResolvConf, SandboxInstance,
    container_config, sandbox_config,
};

const NODE: &str = "my-node1";
/// A time, in nanoseconds since the epoch.
const THEN: i64 = 1_700_000_000_000_000_000;
/// Batches of which the median counts, and how long each takes.
const BATCHES: usize = 11;
const BATCH: Duration = Duration::from_millis(20);
/// Executions that callgrind counts, of which the median counts: tables with random seeds make some more expensive.
const COUNTED: usize = 9;

/// An operation on a Pod of one size.
struct Operation {
    name: String,
    execute: Box<dyn Fn()>,
}

fn main() -> anyhow::Result<()> {
    let mut operations = vec![];
    for (size, containers) in [("small", 1), ("large", 10)] {
        add(&mut operations, size, containers)?;
    }
    match std::env::args().nth(1).as_deref() {
        Some("list") => operations.iter().for_each(|o| println!("{}", o.name)),
        Some("time") => operations
            .iter()
            .for_each(|o| println!("{}", nanoseconds(&o.execute))),
        Some("count") => {
            for operation in &operations {
                (operation.execute)();
                for _ in 0..COUNTED {
                    counted(&operation.execute);
                }
            }
        }
        _ => bail!("expected list, time or count"),
    }
    Ok(())
}

/// Executes an operation where callgrind collects.
#[inline(never)]
fn counted(execute: &dyn Fn()) {
    execute();
}

/// The median time of one execution.
fn nanoseconds(execute: &dyn Fn()) -> u128 {
    let mut times: Vec<u128> = (0..BATCHES).map(|_| batch(execute)).collect();
    times.sort_unstable();
    times[BATCHES / 2]
}

fn batch(execute: &dyn Fn()) -> u128 {
    let (start, mut executed) = (Instant::now(), 0);
    while start.elapsed() < BATCH {
        execute();
        executed += 1;
    }
    start.elapsed().as_nanos() / executed
}

/// A manifest with this many containers; those of a large Pod have probes, variables, resources and volumes.
fn manifest(containers: usize) -> String {
    let mut text =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {app: web}\nspec:\n"
            .to_owned();
    if containers == 1 {
        return text + "  containers:\n  - name: c0\n    image: registry.example.com/web:1.2.3\n";
    }
    text.push_str("  terminationGracePeriodSeconds: 20\n  volumes:\n");
    for index in 0..containers {
        let _ = write!(
            text,
            "  - name: cache{index}\n    emptyDir: {{}}\n  - name: data{index}\n    hostPath: \
             {{path: /srv/data{index}, type: DirectoryOrCreate}}\n"
        );
    }
    text.push_str("  containers:\n");
    for index in 0..containers {
        let _ = write!(
            text,
            "  - name: c{index}
    image: registry.example.com/web{index}:1.2.3
    command: [/bin/server, --port, '80{index}0']
    ports: [{{containerPort: 80{index}0, name: http{index}}}]
    env:
    - {{name: LEVEL, value: info}}
    - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: ADDRESS, value: $(POD).example.com}}
    resources:
      requests: {{cpu: 100m, memory: 64Mi}}
      limits: {{cpu: 500m, memory: 128Mi}}
    volumeMounts:
    - {{name: cache{index}, mountPath: /var/cache}}
    - {{name: data{index}, mountPath: /data, readOnly: true}}
    livenessProbe: {{httpGet: {{path: /live, port: 80{index}0}}, periodSeconds: 10}}
    readinessProbe: {{tcpSocket: {{port: 80{index}0}}, failureThreshold: 2}}
    securityContext: {{runAsUser: 1000, capabilities: {{drop: [ALL]}}, readOnlyRootFilesystem: true}}
"
        );
    }
    text
}

/// A running Pod.
struct Running {
    pod: Arc<StaticPod>,
    desired: DesiredPod,
    observed: Observed,
    state: PodState,
    facts: NodeFacts,
}

impl Running {
    fn new(pod: &Arc<StaticPod>) -> Self {
        let sandbox = Sandbox {
            id: "b6b1d0a5c4f1".into(),
            uid: pod.uid.clone(),
            attempt: 0,
            ready: true,
            created: MonotonicTime(0),
            ips: vec!["10.88.0.7".to_owned()],
        };
        let container = |name: &str| Container {
            id: format!("id-of-{name}").as_str().into(),
            sandbox: sandbox.id.clone(),
            uid: pod.uid.clone(),
            name: name.to_owned(),
            state: State::Running { started_at: THEN },
            image: "registry.example.com/web:1.2.3".to_owned(),
            image_ref: "sha256:0123".to_owned(),
            ..Container::default()
        };
        let containers = pod.spec.containers.iter();
        let containers = containers.map(|c| container(&c.name)).collect();
        let mut state = PodState::default();
        let version = state.version_mut(&pod.uid);
        version.pod = Some(PackedPod::from(pod));
        version.on_disk = true;
        version.admission = Admission::Admitted;
        version.seen = Some(FirstSeen {
            nanos: THEN,
            monotonic: MonotonicTime(0),
        });
        for spec in &pod.spec.containers {
            let image = Image::Ready {
                reference: "sha256:0123".to_owned(),
                user: ImageUser::default(),
                pulled: false,
            };
            version.images.insert(spec.name.clone(), image);
        }
        Self {
            pod: Arc::clone(pod),
            desired: DesiredPod {
                pod: PackedPod::from(pod),
                origin: Origin::File("/etc/podkeeper/manifests/web.yaml".into()),
                warnings: vec![],
            },
            observed: Observed {
                sandboxes: vec![sandbox],
                containers,
            },
            state,
            facts: NodeFacts::default(),
        }
    }

    fn view<'a>(&'a self, observed: &'a Observed) -> View<'a> {
        View {
            wanted: Some(&self.pod),
            observed,
            state: &self.state,
            now: MonotonicTime(5000),
            longest_backoff: MAXIMUM,
        }
    }

    fn status(&self) -> PodStatus {
        status(self.view(&self.observed), &self.facts, &self.pod)
    }
}

/// The operations on a Pod of this size.
fn add(operations: &mut Vec<Operation>, size: &str, containers: usize) -> anyhow::Result<()> {
    let yaml = manifest(containers);
    let accepted = parse(yaml.as_bytes(), NODE, SourceKind::File);
    let pod = accepted
        .map_err(|problems| anyhow::anyhow!("{problems:?}"))?
        .pod;
    let json = pod.document.as_str().to_owned();
    let refused = yaml.replace("    image:", "    imagee:");
    let mut add = |name: &str, execute: Box<dyn Fn()>| {
        let name = format!("{name}\t{size}");
        operations.push(Operation { name, execute });
    };
    for (name, text) in [("YAML", yaml), ("JSON", json), ("refused", refused)] {
        add(
            &format!("manifest, {name}: decode and validate"),
            Box::new(move || drop(parse(black_box(text.as_bytes()), NODE, SourceKind::File))),
        );
    }
    let typed = Arc::clone(&pod);
    let pack = move || drop(black_box(PackedPod::from(&*typed)));
    add("Pod: pack", Box::new(pack));
    let packed = PackedPod::from(&*pod);
    add(
        "Pod: unpack",
        Box::new(move || drop(black_box(packed.unpack()))),
    );
    let running = Arc::new(Running::new(&pod));
    add_of_requests(&mut add, &running);
    add_of_state(&mut add, &running);
    add_of_mirror(&mut add, &running);
    Ok(())
}

type Add<'a> = dyn FnMut(&str, Box<dyn Fn()>) + 'a;

fn add_of_requests(add: &mut Add, running: &Arc<Running>) {
    let of = Arc::clone(running);
    let host = ResolvConf::parse("nameserver 10.255.255.53\n");
    let sandbox = move || {
        let instance = SandboxInstance::default();
        black_box(sandbox_config(&of.facts, &host, &of.pod, &instance));
    };
    add("CRI request: sandbox", Box::new(sandbox));
    let of = Arc::clone(running);
    let instance = ContainerInstance {
        image: "sha256:0123".to_owned(),
        addresses: Addresses {
            pod: vec!["10.88.0.7".to_owned()],
            ..Addresses::default()
        },
        ..ContainerInstance::default()
    };
    let all = move || {
        for spec in &of.pod.spec.containers {
            let config = container_config(&of.facts, &of.pod, spec, &instance);
            drop(black_box(config));
        }
    };
    add("CRI requests: all containers", Box::new(all));
}

fn add_of_state(add: &mut Add, running: &Arc<Running>) {
    let (of, nothing) = (Arc::clone(running), Observed::default());
    let start = move || drop(black_box(plan(of.view(&nothing))));
    add("plan: to be started", Box::new(start));
    let of = Arc::clone(running);
    let steady = move || drop(black_box(plan(of.view(&of.observed))));
    add("plan: running, no step", Box::new(steady));
    let of = Arc::clone(running);
    add("status", Box::new(move || drop(black_box(of.status()))));
    let of = Arc::clone(running);
    let reported = move || {
        let view = of.view(&of.observed);
        drop(black_box(report(
            view,
            &of.facts,
            &of.pod.key,
            Some(&of.desired),
        )));
    };
    add("report (with the status)", Box::new(reported));
    let of = Arc::clone(running);
    let observed = move || drop(black_box(digest(&of.observed)));
    add("digest of what is observed", Box::new(observed));
}

fn add_of_mirror(add: &mut Add, running: &Arc<Running>) {
    let view = running.view(&running.observed);
    let snapshot = report(
        view,
        &running.facts,
        &running.pod.key,
        Some(&running.desired),
    );
    let node = NodeIdentity {
        name: NODE.to_owned(),
        uid: "7d3f".to_owned(),
    };
    let of = snapshot.clone();
    let made = move || drop(black_box(mirror(&of, &node)));
    add("mirror Pod", Box::new(made));
    let of = snapshot.clone();
    let listed = move || drop(black_box(serde_json::to_vec(&of.pod())));
    add("item of /pods, JSON", Box::new(listed));
    let (ours, same, mut theirs) = (running.status(), running.status(), running.status());
    let unchanged = move || drop(black_box(status_patch("7d3f", &same, &same)));
    add("mirror patch: nothing to change", Box::new(unchanged));
    for container in theirs.container_statuses.iter_mut().flatten() {
        container.restart_count += 1;
        container.ready = false;
    }
    let patched = move || drop(black_box(status_patch("7d3f", &ours, &theirs)));
    add("mirror patch: all containers", Box::new(patched));
}
