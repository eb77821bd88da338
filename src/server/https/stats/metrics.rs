//! Usage in Prometheus' text format: the metrics of the kubelet's `/metrics/resource`, each with the time of
//! its measurement.

use super::{ContainerUsage, NodeUsage, PodUsage, Usage, number};
use crate::cri::v1;
use crate::server::page::{self, MetricsPage, Sample, milliseconds, seconds};

/// Returns the page; `usage` is `None` if the measurement failed, which the last of its metrics reports.
pub(in crate::server::https) fn metrics(usage: Option<&Usage>) -> String {
    let mut page = MetricsPage::default();
    if let Some(usage) = usage {
        page.usage(usage);
    }
    page.error("resource_scrape_error", usage.is_none());
    page.0
}

impl MetricsPage {
    /// Adds all families, in the order of the kubelet's page.
    fn usage(&mut self, usage: &Usage) {
        self.containers(&usage.pods);
        self.node(&usage.node);
        self.pods(&usage.pods);
    }

    fn containers(&mut self, pods: &[PodUsage]) {
        let containers = || {
            let all = pods.iter();
            all.flat_map(|pod| pod.containers.iter().map(|c| (labels(pod, c), c)))
        };
        self.family(
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            containers().filter_map(|(labels, c)| cpu(labels, c.cpu.as_ref())),
        );
        self.family(
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
            containers().filter_map(|(labels, c)| memory(labels, c.memory.as_ref())),
        );
        self.family(
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
            containers().filter_map(|(labels, c)| start(labels, c)),
        );
        self.family(
            "container_swap_limit_bytes",
            "gauge",
            "Current amount of the container swap limit in bytes. Reported only on non-windows systems",
            containers().filter_map(|(labels, c)| swap_limit(labels, c.swap.as_ref())),
        );
        self.family(
            "container_swap_usage_bytes",
            "gauge",
            "Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            containers().filter_map(|(labels, c)| swap(labels, c.swap.as_ref())),
        );
    }

    fn node(&mut self, node: &NodeUsage) {
        self.family(
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            cpu(String::new(), node.cpu.as_ref()).into_iter(),
        );
        self.family(
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
            memory(String::new(), node.memory.as_ref()).into_iter(),
        );
        self.family(
            "node_swap_usage_bytes",
            "gauge",
            "Current swap usage of the node in bytes. Reported only on non-windows systems",
            swap(String::new(), node.swap.as_ref()).into_iter(),
        );
    }

    fn pods(&mut self, pods: &[PodUsage]) {
        let pods = || pods.iter().map(|pod| (pod_labels(pod), pod));
        self.family(
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            pods().filter_map(|(labels, pod)| cpu(labels, pod.cpu.as_ref())),
        );
        self.family(
            "pod_memory_working_set_bytes",
            "gauge",
            "Current working set of the pod in bytes",
            pods().filter_map(|(labels, pod)| memory(labels, pod.memory.as_ref())),
        );
        self.family(
            "pod_swap_usage_bytes",
            "gauge",
            "Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            pods().filter_map(|(labels, pod)| swap(labels, pod.swap.as_ref())),
        );
    }
}

fn labels(pod: &PodUsage, container: &ContainerUsage) -> String {
    page::labels(&[
        ("container", &container.name),
        ("namespace", &pod.key.namespace),
        ("pod", &pod.key.name),
    ])
}

fn pod_labels(pod: &PodUsage) -> String {
    page::labels(&[("namespace", &pod.key.namespace), ("pod", &pod.key.name)])
}

fn cpu(labels: String, cpu: Option<&v1::CpuUsage>) -> Option<Sample> {
    let cpu = cpu?;
    let nanoseconds = number(cpu.usage_core_nano_seconds.as_ref())?;
    Some(Sample {
        labels,
        value: seconds(nanoseconds),
        time: Some(milliseconds(cpu.timestamp)),
    })
}

fn memory(labels: String, memory: Option<&v1::MemoryUsage>) -> Option<Sample> {
    let memory = memory?;
    Some(Sample {
        labels,
        value: number(memory.working_set_bytes.as_ref())?.to_string(),
        time: Some(milliseconds(memory.timestamp)),
    })
}

fn swap(labels: String, swap: Option<&v1::SwapUsage>) -> Option<Sample> {
    let swap = swap?;
    Some(Sample {
        labels,
        value: number(swap.swap_usage_bytes.as_ref())?.to_string(),
        time: Some(milliseconds(swap.timestamp)),
    })
}

/// Used and available values.
fn swap_limit(labels: String, swap: Option<&v1::SwapUsage>) -> Option<Sample> {
    let swap = swap?;
    let used = number(swap.swap_usage_bytes.as_ref()).unwrap_or_default();
    let available = number(swap.swap_available_bytes.as_ref())?;
    Some(Sample {
        labels,
        value: used.saturating_add(available).to_string(),
        time: Some(milliseconds(swap.timestamp)),
    })
}

/// A value that does not change has no time of its own.
fn start(labels: String, container: &ContainerUsage) -> Option<Sample> {
    let started = container.started.as_ref()?;
    Some(Sample {
        labels,
        value: started.0.as_second().to_string(),
        time: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_stands_with_its_names_and_its_time() {
        let mut usage = Usage::example();
        let some = |value| Some(v1::UInt64Value { value });
        usage.pods[0].containers[0].swap = Some(v1::SwapUsage {
            timestamp: 1_767_225_600_250_000_000,
            swap_usage_bytes: some(7),
            swap_available_bytes: some(3),
        });
        usage.pods[0].swap = usage.pods[0].containers[0].swap;
        let page = metrics(Some(&usage));
        let values: Vec<&str> = page.lines().filter(|l| !l.starts_with('#')).collect();
        let container = "{container=\"c\",namespace=\"ns\",pod=\"web-n1\"}";
        let pod = "{namespace=\"ns\",pod=\"web-n1\"}";
        let time = 1_767_225_600_250_u64;
        assert_eq!(
            values,
            [
                format!("container_cpu_usage_seconds_total{container} 1.500000000 {time}"),
                format!("container_memory_working_set_bytes{container} 4096 {time}"),
                format!("container_start_time_seconds{container} 1767225600"),
                format!("container_swap_limit_bytes{container} 10 {time}"),
                format!("container_swap_usage_bytes{container} 7 {time}"),
                format!("node_cpu_usage_seconds_total 9.000000001 {time}"),
                format!("node_memory_working_set_bytes 1073741824 {time}"),
                format!("pod_cpu_usage_seconds_total{pod} 1.600000000 {time}"),
                format!("pod_memory_working_set_bytes{pod} 8192 {time}"),
                format!("pod_swap_usage_bytes{pod} 7 {time}"),
                "resource_scrape_error 0".to_owned(),
            ]
        );
        let kinds = page.lines().filter(|l| l.starts_with("# TYPE")).count();
        assert_eq!(kinds, values.len(), "{page}");
        let failed = metrics(None);
        let values: Vec<&str> = failed.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(values, ["resource_scrape_error 1"]);
    }
}
