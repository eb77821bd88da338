//! Usage under the names and labels of cAdvisor, which the kubelet serves at `/metrics/cadvisor`: the runtime's
//! figures, and those of the kernel that the runtime does not report.
//!
//! There is an entry for the machine (its cgroup is `/`), for each Pod, for each running container and for each
//! sandbox, which has the Pod's network.

mod names;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use super::cgroup::{CgroupFigures, CgroupReader, IoFigures, device};
use super::network::{self, InterfaceCounters};
use super::{ContainerUsage, FsStats, NodeUsage, PodUsage, Usage};
use crate::cri::v1;
use crate::host::blocking::blocking;
use crate::host::machine;
use crate::pod::task::Context;
use crate::server::page::{self, MetricsPage, Sample, milliseconds, seconds};
use crate::translate::pod_cgroup_paths;
use names::{DEVICES, DISKS, FAULTS, INTERFACES, MACHINE, METRICS, Unit};

/// Figures of a Pod's cgroups and network.
#[derive(Debug, Clone, Default)]
struct PodFigures {
    /// Its cgroup, and what is in it by the runtime's id.
    whole: Option<CgroupEntry>,
    inner: HashMap<String, CgroupEntry>,
    /// Empty on the host's network, whose interfaces are the machine's.
    interfaces: Vec<InterfaceCounters>,
}

#[derive(Debug, Clone, Default)]
struct CgroupEntry {
    path: String,
    figures: CgroupFigures,
}

/// An entry of the page.
#[derive(Default)]
struct CadvisorEntry<'a> {
    container: &'a str,
    image: &'a str,
    /// The runtime's id.
    name: &'a str,
    pod: Option<&'a PodUsage>,
    cgroup: Option<&'a CgroupEntry>,
    /// In nanoseconds since the epoch.
    time: i64,
    /// In seconds since the epoch.
    started: Option<i64>,
    cpu: Option<&'a v1::CpuUsage>,
    memory: Option<&'a v1::MemoryUsage>,
    io: Option<&'a v1::IoUsage>,
    swap: Option<&'a v1::SwapUsage>,
    interfaces: &'a [InterfaceCounters],
    /// With its device.
    disk: Option<(&'a str, FsStats)>,
}

/// Returns the page; `usage` is `None` if the measurement failed, which one of its metrics reports.
pub(in crate::server::https) async fn cadvisor_metrics(
    context: &Arc<Context>,
    usage: Option<Arc<Usage>>,
) -> String {
    let context = Arc::clone(context);
    blocking(move || {
        let mut page = MetricsPage::default();
        if let Some(usage) = &usage {
            let reader = CgroupReader::new(&context.facts.paths.cgroups);
            let figures: Vec<PodFigures> = usage
                .pods
                .iter()
                .map(|pod| figures(&reader, &context, pod))
                .collect();
            let root = device_of(&context.facts.paths.root);
            machine(&mut page, &context);
            entries(&mut page, usage, &figures, &root);
        }
        page.error("container_scrape_error", usage.is_none());
        page.0
    })
    .await
}

/// Reads the figures of a Pod's cgroups and network.
fn figures(reader: &CgroupReader, context: &Context, pod: &PodUsage) -> PodFigures {
    let paths = pod_cgroup_paths(
        context.facts.cgroup_driver,
        &context.facts.cgroup_root,
        &pod.uid,
    );
    let Some(path) = reader.existing(paths) else {
        return PodFigures::default();
    };
    let entry = |path: String| CgroupEntry {
        figures: reader.read(&path),
        path,
    };
    let ids = pod.containers.iter().map(|container| &container.id);
    let ids = ids.chain([&pod.sandbox]).filter(|id| !id.is_empty());
    let inner = ids.filter_map(|id| Some((id.clone(), entry(reader.inner(&path, id)?))));
    let inner: HashMap<String, CgroupEntry> = inner.collect();
    let is_on_host = context.reports.get(&pod.key).is_none_or(|reported| {
        let version = reported.version.as_ref();
        version.is_none_or(|version| version.unpack().is_on_host_network())
    });
    let mut members = inner.iter().filter(|_| !is_on_host);
    let interfaces = members.find_map(|(id, entry)| network_of(reader, &entry.path, id));
    PodFigures {
        whole: Some(entry(path)),
        inner,
        interfaces: interfaces.unwrap_or_default(),
    }
}

/// Returns the interfaces of the network that the processes of a cgroup are in, which has this id in its name.
fn network_of(reader: &CgroupReader, path: &str, id: &str) -> Option<Vec<InterfaceCounters>> {
    let process = reader.process(path)?;
    let interfaces = network::interfaces(&process);
    // The process may have ended meanwhile, and another have its number.
    let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    cgroups.contains(id).then_some(interfaces)
}

/// Returns the device that a folder is on.
fn device_of(folder: &std::path::Path) -> String {
    let found = rustix::fs::stat(folder).map(|found| found.st_dev);
    let id = found.unwrap_or_default();
    device(&format!(
        "{}:{}",
        rustix::fs::major(id),
        rustix::fs::minor(id)
    ))
}

/// Adds the metrics of the machine's size.
fn machine(page: &mut MetricsPage, context: &Context) {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let labels = page::labels(&[
        ("boot_id", machine::boot_id().trim()),
        ("machine_id", &read("/etc/machine-id")),
        (
            "system_uuid",
            &read("/sys/class/dmi/id/product_uuid").to_lowercase(),
        ),
    ]);
    let meminfo = read("/proc/meminfo");
    let capacity = &context.facts.capacity;
    let values = [
        Some(capacity.cpus.into()),
        Some(capacity.memory),
        machine::meminfo_bytes(&meminfo, "SwapTotal"),
    ];
    for ((name, help), value) in MACHINE.iter().zip(values) {
        let sample = value.map(|value| Sample {
            labels: labels.clone(),
            value: value.to_string(),
            time: None,
        });
        page.family(name, "gauge", help, sample.into_iter());
    }
    page.error("machine_scrape_error", false);
}

/// Adds all entries of all metrics.
fn entries(page: &mut MetricsPage, usage: &Usage, figures: &[PodFigures], root_device: &str) {
    let root = CgroupEntry {
        path: "/".to_owned(),
        ..CgroupEntry::default()
    };
    let mut all = vec![of_node(&usage.node, &root, root_device)];
    for (pod, figures) in usage.pods.iter().zip(figures) {
        let of_pod = of_pod(pod, figures).into_iter();
        let containers = pod.containers.iter();
        let containers = containers.map(|container| of_container(pod, container, figures));
        all.extend(of_pod.chain(containers).map(|entry| CadvisorEntry {
            // The runtime may not report one.
            time: if entry.time > 0 {
                entry.time
            } else {
                usage.node.time
            },
            ..entry
        }));
    }
    for metric in &METRICS {
        let samples = all.iter().filter_map(|entry| {
            let value = (metric.value)(entry)?;
            let time = Some(milliseconds(entry.time)).filter(|_| metric.has_time);
            let label = metric.label.map(|label| [label]);
            let label = label.as_ref().map_or(&[][..], |label| &label[..]);
            Some(entry.sample(label, metric.unit.format(value), time))
        });
        page.family(metric.name, metric.kind, metric.help, samples);
    }
    faults(page, &all);
    for (name, help, value) in &INTERFACES {
        let samples = all.iter().flat_map(|entry| {
            entry.interfaces.iter().map(|interface| {
                let label = ("interface", interface.name.as_str());
                entry.changing(&[label], value(interface).to_string())
            })
        });
        page.family(name, "counter", help, samples);
    }
    for (name, help, value) in &DEVICES {
        let samples = all.iter().flat_map(|entry| {
            let devices = entry.cgroup.into_iter().flat_map(|c| &c.figures.io);
            devices.map(|(device, io): (&String, &IoFigures)| {
                entry.changing(&[("device", device)], value(io).to_string())
            })
        });
        page.family(name, "counter", help, samples);
    }
    for (name, help, value) in &DISKS {
        let samples = all.iter().filter_map(|entry| {
            let (device, stats) = entry.disk.as_ref()?;
            let value = value(stats)?.to_string();
            Some(entry.changing(&[("device", device)], value))
        });
        page.family(name, "gauge", help, samples);
    }
}

/// Adds the page faults, of both kinds.
fn faults(page: &mut MetricsPage, all: &[CadvisorEntry<'_>]) {
    let (name, help) = FAULTS;
    let samples = all.iter().flat_map(|entry| {
        let memory = entry.memory;
        let kinds = [
            ("pgfault", memory.and_then(|m| m.page_faults)),
            ("pgmajfault", memory.and_then(|m| m.major_page_faults)),
        ];
        kinds.into_iter().filter_map(|(kind, count)| {
            let labels = [("failure_type", kind), ("scope", "hierarchy")];
            Some(entry.changing(&labels, count?.value.to_string()))
        })
    });
    page.family(name, "counter", help, samples);
}

fn of_node<'a>(node: &'a NodeUsage, root: &'a CgroupEntry, device: &'a str) -> CadvisorEntry<'a> {
    CadvisorEntry {
        cgroup: Some(root),
        time: node.time,
        started: node.started.as_ref().map(|time| time.0.as_second()),
        cpu: node.cpu.as_ref(),
        memory: node.memory.as_ref(),
        io: node.io.as_ref(),
        swap: node.swap.as_ref(),
        interfaces: &node.interfaces,
        disk: node.disk.map(|disk| (device, disk)),
        ..CadvisorEntry::default()
    }
}

/// Returns the entries of a Pod and of its sandbox.
fn of_pod<'a>(pod: &'a PodUsage, figures: &'a PodFigures) -> [CadvisorEntry<'a>; 2] {
    let time = pod.cpu.as_ref().map(|cpu| cpu.timestamp);
    let whole = CadvisorEntry {
        pod: Some(pod),
        cgroup: figures.whole.as_ref(),
        time: time.unwrap_or_default(),
        started: pod.started.as_ref().map(|time| time.0.as_second()),
        cpu: pod.cpu.as_ref(),
        memory: pod.memory.as_ref(),
        io: pod.io.as_ref(),
        swap: pod.swap.as_ref(),
        ..CadvisorEntry::default()
    };
    let sandbox = CadvisorEntry {
        name: &pod.sandbox,
        pod: Some(pod),
        cgroup: figures.inner.get(&pod.sandbox),
        time: time.unwrap_or_default(),
        interfaces: &figures.interfaces,
        ..CadvisorEntry::default()
    };
    [whole, sandbox]
}

fn of_container<'a>(
    pod: &'a PodUsage,
    container: &'a ContainerUsage,
    figures: &'a PodFigures,
) -> CadvisorEntry<'a> {
    let time = container.cpu.as_ref().map(|cpu| cpu.timestamp);
    CadvisorEntry {
        container: &container.name,
        image: &container.image,
        name: &container.id,
        pod: Some(pod),
        cgroup: figures.inner.get(&container.id),
        time: time.unwrap_or_default(),
        started: container.started.as_ref().map(|time| time.0.as_second()),
        cpu: container.cpu.as_ref(),
        memory: container.memory.as_ref(),
        io: container.io.as_ref(),
        swap: container.swap.as_ref(),
        ..CadvisorEntry::default()
    }
}

impl CadvisorEntry<'_> {
    fn figures(&self) -> Option<&CgroupFigures> {
        Some(&self.cgroup?.figures)
    }

    /// Returns a value that changes.
    fn changing(&self, more: &[(&str, &str)], value: String) -> Sample {
        self.sample(more, value, Some(milliseconds(self.time)))
    }

    /// Returns a value with the labels that all have, and more.
    fn sample(&self, more: &[(&str, &str)], value: String, time: Option<i64>) -> Sample {
        let key = self.pod.map(|pod| &pod.key);
        let path = self.cgroup.map_or("", |cgroup| cgroup.path.as_str());
        let mut labels = vec![
            ("container", self.container),
            ("id", path),
            ("image", self.image),
            ("name", self.name),
            ("namespace", key.map_or("", |key| key.namespace.as_str())),
            ("pod", key.map_or("", |key| key.name.as_str())),
        ];
        labels.extend(more);
        labels.sort_unstable();
        Sample {
            labels: page::labels(&labels),
            value,
            time,
        }
    }
}

impl Unit {
    fn format(self, value: u64) -> String {
        match self {
            Self::Number => value.to_string(),
            Self::Nanoseconds => seconds(value),
            Self::Microseconds => seconds(value.saturating_mul(1000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::https::stats::cgroup::{CpuFigures, MemoryFigures};
    use crate::server::https::stats::network::DirectionCounters;

    fn figures() -> PodFigures {
        let container = CgroupEntry {
            path: "/kubepods/podu/abc".into(),
            figures: CgroupFigures {
                cpu: CpuFigures {
                    periods: Some(7),
                    quota: Some(20_000),
                    ..CpuFigures::default()
                },
                memory: MemoryFigures {
                    cache: Some(4096),
                    ..MemoryFigures::default()
                },
                io: [("/dev/sda".to_owned(), IoFigures::default())].into(),
                ..CgroupFigures::default()
            },
        };
        let received = DirectionCounters {
            bytes: 5,
            ..DirectionCounters::default()
        };
        PodFigures {
            whole: None,
            inner: [("abc".to_owned(), container)].into(),
            interfaces: vec![InterfaceCounters {
                name: "eth0".into(),
                received,
                ..InterfaceCounters::default()
            }],
        }
    }

    #[test]
    fn every_entry_has_cadvisors_labels_and_only_what_is_known() {
        let mut usage = Usage::example();
        usage.pods[0].containers[0].id = "abc".into();
        usage.pods[0].containers[0].image = "app:1".into();
        usage.pods[0].sandbox = "sand".into();
        let mut page = MetricsPage::default();
        entries(&mut page, &usage, &[figures()], "/dev/vda");
        let has = |line: &str| page.0.lines().any(|l| l.starts_with(line));
        let own = "id=\"/kubepods/podu/abc\",image=\"app:1\"";
        let rest = "name=\"abc\",namespace=\"ns\",pod=\"web-n1\"";
        for line in [
            format!("container_cpu_usage_seconds_total{{container=\"c\",cpu=\"total\",{own},{rest}}} 1.500000000 "),
            "container_cpu_usage_seconds_total{container=\"\",cpu=\"total\",id=\"/\",image=\"\",name=\"\",".to_owned(),
            format!("container_cpu_cfs_periods_total{{container=\"c\",{own},{rest}}} 7 "),
            format!("container_memory_cache{{container=\"c\",{own},{rest}}} 4096 "),
            format!("container_spec_cpu_quota{{container=\"c\",{own},{rest}}} 20000"),
            format!("container_fs_reads_total{{container=\"c\",device=\"/dev/sda\",{own},{rest}}} 0 "),
            "container_network_receive_bytes_total{container=\"\",id=\"\",image=\"\",interface=\"eth0\",name=\"sand\",\
             namespace=\"ns\",pod=\"web-n1\"} 5 "
                .to_owned(),
        ] {
            assert!(has(&line), "{line}\n{}", page.0);
        }
        assert!(!has("container_cpu_user_seconds_total"), "{}", page.0);
        let heads = page.0.lines().filter(|line| line.starts_with("# TYPE"));
        let mut names: Vec<&str> = heads.filter_map(|line| line.split(' ').nth(2)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "each metric stands once");
    }
}
