//! Usage in the schema of the kubelet's `/stats/summary` (`stats/v1alpha1` of Kubernetes).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ContainerUsage, FsStats, PodUsage, Usage, number};
use crate::cri::v1;

/// Returns the summary, without unknown values.
pub(in crate::server::https) fn summary(node_name: &str, usage: &Usage) -> Value {
    let node = &usage.node;
    let pods: Vec<Value> = usage.pods.iter().map(pod).collect();
    without_nulls(json!({
        "node": {
            "nodeName": node_name,
            "startTime": node.started,
            "cpu": node.cpu.as_ref().map(cpu),
            "memory": node.memory.as_ref().map(memory),
            "swap": node.swap.as_ref().map(swap),
            "fs": node.disk.as_ref().map(disk),
        },
        "pods": pods,
    }))
}

fn pod(pod: &PodUsage) -> Value {
    let containers: Vec<Value> = pod.containers.iter().map(container).collect();
    json!({
        "podRef": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid},
        "startTime": pod.started,
        "containers": containers,
        "cpu": pod.cpu.as_ref().map(cpu),
        "memory": pod.memory.as_ref().map(memory),
        "network": pod.network.as_ref().map(network),
        "process_stats": pod.processes.map(|count| json!({"process_count": count})),
    })
}

fn container(container: &ContainerUsage) -> Value {
    json!({
        "name": container.name,
        "startTime": container.started,
        "cpu": container.cpu.as_ref().map(cpu),
        "memory": container.memory.as_ref().map(memory),
        "swap": container.swap.as_ref().map(swap),
        "rootfs": container.writable_layer.as_ref().map(|layer| json!({
            "time": time(layer.timestamp),
            "usedBytes": number(layer.used_bytes.as_ref()),
            "inodesUsed": number(layer.inodes_used.as_ref()),
        })),
    })
}

fn cpu(cpu: &v1::CpuUsage) -> Value {
    json!({
        "time": time(cpu.timestamp),
        "usageNanoCores": number(cpu.usage_nano_cores.as_ref()),
        "usageCoreNanoSeconds": number(cpu.usage_core_nano_seconds.as_ref()),
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
    })
}

fn swap(swap: &v1::SwapUsage) -> Value {
    json!({
        "time": time(swap.timestamp),
        "swapAvailableBytes": number(swap.swap_available_bytes.as_ref()),
        "swapUsageBytes": number(swap.swap_usage_bytes.as_ref()),
    })
}

fn network(network: &v1::NetworkUsage) -> Value {
    let all: Vec<Value> = network.interfaces.iter().map(interface).collect();
    let mut stats = network
        .default_interface
        .as_ref()
        .map_or(json!({}), interface);
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

fn disk(disk: &FsStats) -> Value {
    json!({
        "time": time(disk.time),
        "availableBytes": disk.bytes.available,
        "capacityBytes": disk.bytes.all,
        "usedBytes": disk.bytes.used,
        "inodesFree": disk.inodes.available,
        "inodes": disk.inodes.all,
        "inodesUsed": disk.inodes.used,
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
        assert_eq!(summary("n1", &Usage::example()), expected);
    }

    #[test]
    fn a_network_is_its_first_interface_and_all_of_them() {
        let eth0 = v1::NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: Some(v1::UInt64Value { value: 7 }),
            ..v1::NetworkInterfaceUsage::default()
        };
        let found = without_nulls(network(&v1::NetworkUsage {
            timestamp: 0,
            default_interface: Some(eth0.clone()),
            interfaces: vec![eth0],
        }));
        let eth0 = json!({"name": "eth0", "rxBytes": 7});
        assert_eq!(
            found,
            json!({"time": "1970-01-01T00:00:00Z", "name": "eth0", "rxBytes": 7, "interfaces": [eth0]})
        );
    }
}
