//! Usage in the schema of the kubelet's `/stats/summary` (`stats/v1alpha1` of Kubernetes).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::disk::{DiskUsage, PodDiskUsage, VolumeUsage};
use super::{ContainerUsage, FsAmounts, FsStats, NodeUsage, PodUsage, Usage, number};
use crate::cri::v1;

/// Returns the summary, without unknown values.
pub(in crate::server::https) fn summary(
    node_name: &str,
    usage: &Usage,
    disks: &DiskUsage,
) -> Value {
    let none = PodDiskUsage::default();
    let pods = usage.pods.iter().map(|of_pod| {
        let disk = disks.pods.get(&of_pod.uid).unwrap_or(&none);
        let mut value = pod(of_pod, disk, disks.layers);
        let ephemeral = usage.node.disk.map(|node| ephemeral(node, of_pod, disk));
        value["ephemeral-storage"] = json!(ephemeral.as_ref().map(fs));
        value
    });
    let pods: Vec<Value> = pods.collect();
    without_nulls(json!({
        "node": node(node_name, &usage.node, disks),
        "pods": pods,
    }))
}
fn node(name: &str, node: &NodeUsage, disks: &DiskUsage) -> Value {
    json!({
        "nodeName": name,
        "startTime": node.started,
        "cpu": node.cpu.as_ref().map(cpu),
        "memory": node.memory.as_ref().map(memory),
        "io": node.io.as_ref().map(io),
        "swap": node.swap.as_ref().map(swap),
        "network": node.network.as_ref().map(network),
        "fs": node.disk.as_ref().map(fs),
        "runtime": disks.images.as_ref().map(|images| json!({
            "imageFs": fs(images),
            "containerFs": disks.layers.as_ref().map(fs),
        })),
        "rlimit": node.process_ids.map(|ids| json!({
            "time": time(node.time),
            "maxpid": ids.max,
            "curproc": ids.taken,
        })),
    })
}

fn pod(pod: &PodUsage, disk: &PodDiskUsage, layers: Option<FsStats>) -> Value {
    let containers = pod.containers.iter();
    let containers = containers.map(|of| container(of, disk.logs.get(&of.name), layers));
    let containers: Vec<Value> = containers.collect();
    let volumes: Vec<Value> = disk.volumes.iter().map(volume).collect();
    json!({
        "podRef": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid},
        "startTime": pod.started,
        "containers": containers,
        "cpu": pod.cpu.as_ref().map(cpu),
        "memory": pod.memory.as_ref().map(memory),
        "io": pod.io.as_ref().map(io),
        "swap": pod.swap.as_ref().map(swap),
        "network": pod.network.as_ref().map(network),
        "volume": Some(volumes).filter(|volumes| !volumes.is_empty()),
        "process_stats": pod.processes.map(|count| json!({"process_count": count})),
    })
}

fn container(container: &ContainerUsage, logs: Option<&FsStats>, layers: Option<FsStats>) -> Value {
    let layer = container.writable_layer.as_ref();
    json!({
        "name": container.name,
        "startTime": container.started,
        "cpu": container.cpu.as_ref().map(cpu),
        "memory": container.memory.as_ref().map(memory),
        "io": container.io.as_ref().map(io),
        "swap": container.swap.as_ref().map(swap),
        "rootfs": layer.map(|layer| fs(&layer_stats(layer, layers.unwrap_or_default()))),
        "logs": logs.map(fs),
    })
}

/// Usage of a container's own layer, on the file system of layers.
fn layer_stats(layer: &v1::FilesystemUsage, layers: FsStats) -> FsStats {
    let of = |amounts: FsAmounts, used: Option<&v1::UInt64Value>| FsAmounts {
        used: number(used),
        ..amounts
    };
    FsStats {
        time: layer.timestamp,
        bytes: of(layers.bytes, layer.used_bytes.as_ref()),
        inodes: of(layers.inodes, layer.inodes_used.as_ref()),
    }
}

/// Local storage of a Pod on the node's file system: layers, logs and volumes that are not in memory (Kubernetes,
/// Local ephemeral storage).
fn ephemeral(node: FsStats, pod: &PodUsage, disk: &PodDiskUsage) -> FsStats {
    let layers = pod.containers.iter().filter_map(|container| {
        let layer = container.writable_layer.as_ref()?;
        Some(layer_stats(layer, FsStats::default()))
    });
    let volumes = disk.volumes.iter().filter(|volume| !volume.is_in_memory);
    let volumes = volumes.map(|volume| volume.stats);
    let all = layers.chain(volumes).chain(disk.logs.values().copied());
    let (mut bytes, mut inodes) = (0_u64, 0_u64);
    for stats in all {
        bytes = bytes.saturating_add(stats.bytes.used.unwrap_or_default());
        inodes = inodes.saturating_add(stats.inodes.used.unwrap_or_default());
    }
    let of = |amounts: FsAmounts, used| FsAmounts {
        used: Some(used),
        ..amounts
    };
    FsStats {
        bytes: of(node.bytes, bytes),
        inodes: of(node.inodes, inodes),
        ..node
    }
}

fn volume(volume: &VolumeUsage) -> Value {
    let mut stats = fs(&volume.stats);
    stats["name"] = json!(volume.name);
    stats
}

fn cpu(cpu: &v1::CpuUsage) -> Value {
    json!({
        "time": time(cpu.timestamp),
        "usageNanoCores": number(cpu.usage_nano_cores.as_ref()),
        "usageCoreNanoSeconds": number(cpu.usage_core_nano_seconds.as_ref()),
        "psi": cpu.psi.as_ref().map(psi),
    })
}

fn memory(memory: &v1::MemoryUsage) -> Value {
    json!({
        "time": time(memory.timestamp),
        "availableBytes": number(memory.available_bytes.as_ref()),
        "usageBytes": number(memory.usage_bytes.as_ref()),
        "workingSetBytes": number(memory.working_set_bytes.as_ref()),
        "rssBytes": number(memory.rss_bytes.as_ref()),
        "pageFaults": number(memory.page_faults.as_ref()),
        "majorPageFaults": number(memory.major_page_faults.as_ref()),
        "psi": memory.psi.as_ref().map(psi),
    })
}

fn io(io: &v1::IoUsage) -> Value {
    json!({"time": time(io.timestamp), "psi": io.psi.as_ref().map(psi)})
}

/// Pressure stall information.
fn psi(psi: &v1::PsiStats) -> Value {
    let data = |data: &v1::PsiData| {
        json!({
            "total": data.total,
            "avg10": data.avg10,
            "avg60": data.avg60,
            "avg300": data.avg300,
        })
    };
    json!({"full": psi.full.as_ref().map(data), "some": psi.some.as_ref().map(data)})
}

fn swap(swap: &v1::SwapUsage) -> Value {
    json!({
        "time": time(swap.timestamp),
        "swapAvailableBytes": number(swap.swap_available_bytes.as_ref()),
        "swapUsageBytes": number(swap.swap_usage_bytes.as_ref()),
    })
}

fn network(network: &v1::NetworkUsage) -> Value {
    let main = network.default_interface.as_ref();
    // A runtime may report the default interface alone.
    let alone = main.filter(|_| network.interfaces.is_empty());
    let all = network.interfaces.iter().chain(alone);
    let all: Vec<Value> = all.map(interface).collect();
    let mut stats = main.map_or(json!({}), interface);
    stats["time"] = json!(time(network.timestamp));
    stats["interfaces"] = json!(all);
    stats
}

fn interface(interface: &v1::NetworkInterfaceUsage) -> Value {
    json!({
        "name": interface.name,
        "rxBytes": number(interface.rx_bytes.as_ref()),
        "rxErrors": number(interface.rx_errors.as_ref()),
        "txBytes": number(interface.tx_bytes.as_ref()),
        "txErrors": number(interface.tx_errors.as_ref()),
    })
}

/// A file system without a size is not known; only what is used of it may be.
fn fs(stats: &FsStats) -> Value {
    let known = |amounts: FsAmounts, amount: u64| (amounts.all > 0).then_some(amount);
    let (bytes, inodes) = (stats.bytes, stats.inodes);
    json!({
        "time": time(stats.time),
        "availableBytes": known(bytes, bytes.available),
        "capacityBytes": known(bytes, bytes.all),
        "usedBytes": bytes.used,
        "inodesFree": known(inodes, inodes.available),
        "inodes": known(inodes, inodes.all),
        "inodesUsed": inodes.used,
    })
}

/// Formats a time in nanoseconds since the epoch as the API has times: whole seconds.
fn time(nanoseconds: i64) -> Option<String> {
    let time = Timestamp::from_second(nanoseconds.div_euclid(1_000_000_000));
    Some(time.ok()?.to_string())
}

/// Removes nulls from all objects.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let known = fields.into_iter().filter(|(_, value)| !value.is_null());
            let known = known.map(|(name, value)| (name, without_nulls(value)));
            Value::Object(known.collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_apis_names_and_only_what_is_known() {
        let time = "2026-01-01T00:00:00Z";
        let expected = json!({
            "node": {
                "nodeName": "n1",
                "startTime": time,
                "cpu": {
                    "time": time,
                    "usageNanoCores": 100_000_000,
                    "usageCoreNanoSeconds": 9_000_000_001_u64,
                },
                "memory": {"time": time, "workingSetBytes": 1 << 30},
            },
            "pods": [{
                "podRef": {"name": "web-n1", "namespace": "ns", "uid": "u"},
                "startTime": time,
                "containers": [{
                    "name": "c",
                    "startTime": time,
                    "cpu": {
                        "time": time,
                        "usageNanoCores": 20_000_000,
                        "usageCoreNanoSeconds": 1_500_000_000,
                    },
                    "memory": {"time": time, "workingSetBytes": 4096},
                }],
                "cpu": {
                    "time": time,
                    "usageNanoCores": 21_000_000,
                    "usageCoreNanoSeconds": 1_600_000_000,
                },
                "memory": {"time": time, "workingSetBytes": 8192},
            }],
        });
        let found = summary("n1", &Usage::example(), &DiskUsage::default());
        assert_eq!(found, expected);
    }

    fn stats(all: u64, used: u64) -> FsStats {
        let amounts = FsAmounts {
            all,
            available: all / 2,
            used: Some(used),
        };
        FsStats {
            time: 0,
            bytes: amounts,
            inodes: amounts,
        }
    }

    #[test]
    fn a_pods_storage_is_its_layers_logs_and_volumes_that_take_disk() {
        let mut usage = Usage::example();
        usage.node.disk = Some(stats(1000, 900));
        usage.pods[0].containers[0].writable_layer = Some(v1::FilesystemUsage {
            used_bytes: Some(v1::UInt64Value { value: 7 }),
            ..v1::FilesystemUsage::default()
        });
        let volume = |name: &str, used, is_in_memory| VolumeUsage {
            name: name.into(),
            stats: stats(1000, used),
            is_in_memory,
        };
        let pod = PodDiskUsage {
            volumes: vec![volume("data", 20, false), volume("memory", 500, true)].into(),
            logs: [("c".to_owned(), stats(1000, 100))].into(),
        };
        let disks = DiskUsage {
            images: Some(stats(2000, 600)),
            layers: Some(stats(4000, 50)),
            pods: [("u".to_owned(), pod)].into(),
        };
        let found = summary("n1", &usage, &disks);
        let pod = &found["pods"][0];
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 127);
        assert_eq!(pod["ephemeral-storage"]["capacityBytes"], 1000);
        assert_eq!(pod["volume"][1]["name"], "memory");
        assert_eq!(pod["volume"][1]["usedBytes"], 500);
        let container = &pod["containers"][0];
        assert_eq!(container["rootfs"]["usedBytes"], 7);
        assert_eq!(container["rootfs"]["capacityBytes"], 4000);
        assert_eq!(container["logs"]["usedBytes"], 100);
        assert_eq!(found["node"]["runtime"]["imageFs"]["usedBytes"], 600);
        assert_eq!(found["node"]["runtime"]["containerFs"]["usedBytes"], 50);
    }

    #[test]
    fn a_network_is_its_first_interface_and_all_of_them() {
        let eth0 = v1::NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: Some(v1::UInt64Value { value: 7 }),
            ..v1::NetworkInterfaceUsage::default()
        };
        for interfaces in [vec![eth0.clone()], vec![]] {
            let found = without_nulls(network(&v1::NetworkUsage {
                timestamp: 0,
                default_interface: Some(eth0.clone()),
                interfaces,
            }));
            let eth0 = json!({"name": "eth0", "rxBytes": 7});
            assert_eq!(
                found,
                json!({"time": "1970-01-01T00:00:00Z", "name": "eth0", "rxBytes": 7, "interfaces": [eth0]})
            );
        }
    }
}
