//! Metrics under the kubelet's names, of what is measured here too, so that boards and alerts for kubelets show
//! this agent. They are made at each scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use super::metrics::AgentMetrics;
use super::page::{MetricsPage, Sample, labels};
use super::state::ServerState;
use crate::host::cgroup;
use crate::manifest::PackedPod;
use crate::mirror::VERSION;
use crate::pod::report::PodSnapshot;
use k8s_openapi::api::core::v1::{ContainerStatus, Volume};

/// A metric: its name, type, the names of its labels and its help text.
type KubeletMetric = (&'static str, &'static str, &'static str, &'static str);

const NODE_NAME: KubeletMetric = (
    "kubelet_node_name",
    "gauge",
    "node",
    "Always 1, with the node's name.",
);
const BUILD: KubeletMetric = (
    "kubernetes_build_info",
    "gauge",
    "build_date,compiler,git_commit,git_tree_state,git_version,go_version,major,minor,platform",
    "Always 1, with the version of Kubernetes whose rules are followed, and the agent's.",
);
const CGROUPS: KubeletMetric = (
    "kubelet_cgroup_version",
    "gauge",
    "",
    "Version of the node's cgroups: 1 or 2.",
);
const RUNNING_PODS: KubeletMetric = (
    "kubelet_running_pods",
    "gauge",
    "",
    "Pods with a container that runs.",
);
const RUNNING_CONTAINERS: KubeletMetric = (
    "kubelet_running_containers",
    "gauge",
    "container_state",
    "Containers, by state: running or exited.",
);
const DESIRED_PODS: KubeletMetric = (
    "kubelet_desired_pods",
    "gauge",
    "static",
    "Pods that the manifests want.",
);
const ACTIVE_PODS: KubeletMetric = (
    "kubelet_active_pods",
    "gauge",
    "static",
    "Pods that have not ended.",
);
const MIRROR_PODS: KubeletMetric = (
    "kubelet_mirror_pods",
    "gauge",
    "",
    "Mirror Pods that the API server has.",
);
const VOLUMES: KubeletMetric = (
    "volume_manager_total_volumes",
    "gauge",
    "plugin_name,state",
    "Volumes of Pods, by plugin: of the desired Pods, and of those that were started.",
);
const LAST_SEEN: KubeletMetric = (
    "kubelet_pleg_last_seen_seconds",
    "gauge",
    "",
    "Time of the supervisor's last heartbeat, in seconds since the epoch.",
);
const STARTED_PODS: KubeletMetric = (
    "kubelet_started_pods_total",
    "counter",
    "",
    "Pods whose containers have all been started.",
);
const START_DURATION: KubeletMetric = (
    "kubelet_pod_start_duration_seconds",
    "histogram",
    "",
    "As podkeeper_pod_start_duration_seconds.",
);
const OPERATIONS: KubeletMetric = (
    "kubelet_runtime_operations_total",
    "counter",
    "operation_type",
    "Calls of the container runtime, by operation.",
);
const OPERATION_ERRORS: KubeletMetric = (
    "kubelet_runtime_operations_errors_total",
    "counter",
    "operation_type",
    "Failed calls of the container runtime, by operation.",
);
const OPERATION_DURATION: KubeletMetric = (
    "kubelet_runtime_operations_duration_seconds",
    "histogram",
    "operation_type",
    "Duration of calls of the container runtime, by operation.",
);

/// Returns the metrics.
pub(super) fn text(metrics: &AgentMetrics, state: &ServerState) -> String {
    let mut page = KubeletPage::default();
    page.node(state);
    page.pods(metrics, state);
    page.runtime(metrics);
    page.0.0
}

#[derive(Default)]
struct KubeletPage(MetricsPage);

impl KubeletPage {
    fn node(&mut self, state: &ServerState) {
        if let Some(context) = &*state.context.borrow() {
            self.add(NODE_NAME, [value(&[("node", &context.node_name)], 1)]);
            let is_unified = cgroup::is_unified(&context.facts.paths.cgroups);
            self.add(CGROUPS, [value(&[], if is_unified { 2 } else { 1 })]);
        }
        let (major, minor) = version_numbers();
        let platform = format!("linux/{}", architecture());
        let build = [
            ("build_date", ""),
            ("compiler", "rustc"),
            ("git_commit", ""),
            ("git_tree_state", ""),
            ("git_version", VERSION),
            ("go_version", ""),
            ("major", major),
            ("minor", minor),
            ("platform", &platform),
        ];
        self.add(BUILD, [value(&build, 1)]);
        if let Some(last) = *state.heartbeat.borrow() {
            let ago = i64::try_from(last.elapsed().as_secs()).unwrap_or(i64::MAX);
            let at = Timestamp::now().as_second().saturating_sub(ago);
            self.add(LAST_SEEN, [value(&[], u64::try_from(at).unwrap_or(0))]);
        }
    }

    fn pods(&mut self, metrics: &AgentMetrics, state: &ServerState) {
        let pods = state.snapshots();
        let counts = PodCounts::of(&pods);
        self.add(RUNNING_PODS, [value(&[], size(counts.running))]);
        self.add(
            RUNNING_CONTAINERS,
            [
                value(
                    &[("container_state", "exited")],
                    size(counts.exited_containers),
                ),
                value(
                    &[("container_state", "running")],
                    size(counts.running_containers),
                ),
            ],
        );
        let by_kind = |count: usize| {
            [
                value(&[("static", "")], 0),
                value(&[("static", "true")], size(count)),
            ]
        };
        self.add(ACTIVE_PODS, by_kind(counts.active));
        let mut desired = BTreeMap::new();
        if let Some(wanted) = &*state.desired.borrow() {
            self.add(DESIRED_PODS, by_kind(wanted.pods.len()));
            count_volumes(wanted.pods.values().map(|pod| &pod.pod), &mut desired);
        }
        let mut actual = BTreeMap::new();
        count_volumes(counts.started.into_iter(), &mut actual);
        self.add(VOLUMES, volumes(&actual, &desired));
        self.add(MIRROR_PODS, [value(&[], metrics.mirror.mirrors())]);
    }

    fn runtime(&mut self, metrics: &AgentMetrics) {
        let starts = collect(&metrics.pods.starts());
        let count = starts.iter().flat_map(MetricFamily::get_metric);
        let count = count.map(|metric| metric.get_histogram().get_sample_count());
        self.add(STARTED_PODS, [value(&[], count.sum())]);
        self.add(START_DURATION, histogram(&starts));
        let [durations, errors] = metrics.calls.collectors();
        let durations = durations.collect();
        let totals = durations.iter().flat_map(MetricFamily::get_metric);
        let totals: Vec<Sample> = totals
            .map(|metric| {
                let operation = operation(metric);
                let count = metric.get_histogram().get_sample_count();
                value(&[("operation_type", &operation)], count)
            })
            .collect();
        self.add(OPERATIONS, totals);
        let mut failed: BTreeMap<String, f64> = BTreeMap::new();
        for metric in errors.collect().iter().flat_map(MetricFamily::get_metric) {
            *failed.entry(operation(metric)).or_default() += metric.get_counter().get_value();
        }
        let failed = failed.iter().map(|(operation, count)| Sample {
            value: count.to_string(),
            ..value(&[("operation_type", operation)], 0)
        });
        self.add(OPERATION_ERRORS, failed);
        self.add(OPERATION_DURATION, histogram(&durations));
    }

    fn add(&mut self, metric: KubeletMetric, samples: impl IntoIterator<Item = Sample>) {
        let (name, kind, _, help) = metric;
        self.0.family(name, kind, help, samples.into_iter());
    }
}

fn collect(collector: &impl Collector) -> Vec<MetricFamily> {
    collector.collect()
}

fn value(with: &[(&str, &str)], value: u64) -> Sample {
    Sample {
        labels: if with.is_empty() {
            String::new()
        } else {
            labels(with)
        },
        value: value.to_string(),
        time: None,
    }
}

fn size(count: usize) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

/// Counts of Pods by their statuses.
#[derive(Default)]
struct PodCounts<'a> {
    running: usize,
    active: usize,
    running_containers: usize,
    exited_containers: usize,
    /// The versions that have started.
    started: Vec<&'a PackedPod>,
}

impl<'a> PodCounts<'a> {
    /// Reads one status after the other, so that no more than one is in memory.
    fn of(pods: &'a [Arc<PodSnapshot>]) -> Self {
        let mut counts = Self::default();
        let add = |count: &mut usize, more: usize| *count = count.saturating_add(more);
        for pod in pods {
            let status = pod.status.decode();
            let inits = status.init_container_statuses.iter().flatten();
            let all = inits.chain(status.container_statuses.iter().flatten());
            let running = all.clone().filter(|status| is_running(status)).count();
            add(&mut counts.running, usize::from(running > 0));
            add(&mut counts.running_containers, running);
            let exited = all.filter(|status| has_exited(status)).count();
            add(&mut counts.exited_containers, exited);
            let phase = status.phase.as_deref().unwrap_or_default();
            let is_over = matches!(phase, "Succeeded" | "Failed");
            add(&mut counts.active, usize::from(!is_over));
            let version = pod.version.as_ref();
            let started = version.filter(|_| status.start_time.is_some());
            counts.started.extend(started);
        }
        counts
    }
}

fn is_running(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    state.is_some_and(|state| state.running.is_some())
}

fn has_exited(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    state.is_some_and(|state| state.terminated.is_some())
}

/// Counts volumes by the names of the plugins that the kubelet has for them.
fn count_volumes<'a>(
    pods: impl Iterator<Item = &'a PackedPod>,
    counts: &mut BTreeMap<&'static str, u64>,
) {
    for pod in pods {
        for plugin in pod.unpack().volumes().iter().filter_map(plugin) {
            let count = counts.entry(plugin).or_default();
            *count = count.saturating_add(1);
        }
    }
}

fn plugin(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.empty_dir.is_some(), "kubernetes.io/empty-dir"),
        (volume.host_path.is_some(), "kubernetes.io/host-path"),
        (volume.config_map.is_some(), "kubernetes.io/configmap"),
        (volume.secret.is_some(), "kubernetes.io/secret"),
        (volume.downward_api.is_some(), "kubernetes.io/downward-api"),
        (volume.projected.is_some(), "kubernetes.io/projected"),
    ];
    let mut kinds = kinds.into_iter();
    kinds.find_map(|(given, name)| given.then_some(name))
}

fn volumes(
    actual: &BTreeMap<&'static str, u64>,
    desired: &BTreeMap<&'static str, u64>,
) -> Vec<Sample> {
    let plugins: BTreeSet<_> = actual.keys().chain(desired.keys()).collect();
    let states = [
        ("actual_state_of_world", actual),
        ("desired_state_of_world", desired),
    ];
    let all = plugins.into_iter().flat_map(|plugin| {
        states.map(|(state, counts)| {
            let count = counts.get(plugin).copied().unwrap_or_default();
            value(&[("plugin_name", plugin), ("state", state)], count)
        })
    });
    all.collect()
}

/// Returns the kubelet's name of the operation that a call's CRI method is: `run_podsandbox`.
fn operation(metric: &prometheus::proto::Metric) -> String {
    let method = metric.get_label().iter().find(|l| l.name() == "method");
    let mut words = String::new();
    for letter in method
        .map(prometheus::proto::LabelPair::value)
        .unwrap_or_default()
        .chars()
    {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words.replace("pod_sandbox", "podsandbox")
}

/// Returns the values of a histogram, or of one for each operation.
fn histogram(families: &[MetricFamily]) -> Vec<Sample> {
    let mut samples = vec![];
    for metric in families.iter().flat_map(MetricFamily::get_metric) {
        let operation = operation(metric);
        let own = ("operation_type", operation.as_str());
        let own: &[_] = if operation.is_empty() { &[] } else { &[own] };
        let all = metric.get_histogram();
        let count = all.get_sample_count();
        let named = |suffix: &str, sample: Sample| Sample {
            labels: format!("{suffix}{}", sample.labels),
            ..sample
        };
        let limit = |limit: &str, count| {
            let with_limit = [&[("le", limit)], own].concat();
            named("_bucket", value(&with_limit, count))
        };
        for bucket in all.get_bucket() {
            let upper = bucket.upper_bound().to_string();
            samples.push(limit(&upper, bucket.cumulative_count()));
        }
        samples.push(limit("+Inf", count));
        samples.push(Sample {
            value: all.get_sample_sum().to_string(),
            ..named("_sum", value(own, 0))
        });
        samples.push(named("_count", value(own, count)));
    }
    samples
}

/// Returns the numbers of the version of Kubernetes.
fn version_numbers() -> (&'static str, &'static str) {
    let mut numbers = VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next(), numbers.next());
    (major.unwrap_or_default(), minor.unwrap_or_default())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [KubeletMetric; 15] = [
        NODE_NAME,
        BUILD,
        CGROUPS,
        RUNNING_PODS,
        RUNNING_CONTAINERS,
        DESIRED_PODS,
        ACTIVE_PODS,
        MIRROR_PODS,
        VOLUMES,
        LAST_SEEN,
        STARTED_PODS,
        START_DURATION,
        OPERATIONS,
        OPERATION_ERRORS,
        OPERATION_DURATION,
    ];
    const BEGIN: &str = "<!-- written from the kubelet's metrics: begin -->\n";
    const END: &str = "<!-- the kubelet's metrics: end -->\n";

    #[test]
    fn the_document_has_the_table_of_the_kubelets_metrics() {
        let rows = ALL.map(|(name, kind, labels, help)| {
            let labels = match labels {
                "" => String::new(),
                labels => format!("{{{labels}}}"),
            };
            format!("| `{name}{labels}` | {kind} | {help} |")
        });
        crate::tests::check_table(
            "docs/metrics.md",
            [BEGIN, END],
            "| metric | type | |",
            rows,
            "the_document_has_the_table_of_the_kubelets_metrics",
        );
    }

    #[test]
    fn operations_have_the_kubelets_names() {
        let calls = crate::measure::histograms("x", "y", "method", &[1.0]);
        for (method, expected) in [
            ("RunPodSandbox", "run_podsandbox"),
            ("ListContainers", "list_containers"),
            ("Version", "version"),
        ] {
            calls.reset();
            calls.with_label_values(&[method]).observe(0.5);
            let families = calls.collect();
            let metric = &families[0].get_metric()[0];
            assert_eq!(operation(metric), expected);
            let samples = histogram(&families);
            let bucket = format!("_bucket{{le=\"1\",operation_type=\"{expected}\"}}");
            assert_eq!(
                (&samples[0].labels, samples[0].value.as_str()),
                (&bucket, "1")
            );
        }
    }
}
