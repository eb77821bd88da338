//! CPU and memory in use, for `podkeeper top`.

use serde::{Deserialize, Serialize};

use super::{Usage, number};
use crate::cri::v1;
use crate::manifest::PodKey;
use crate::translate::NodeCapacity;

/// CPU and memory that the node and its Pods use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopReport {
    /// The node's name.
    pub node: String,
    /// Usage of the whole node.
    pub in_use: AmountsInUse,
    /// CPUs of the node, in thousandths.
    pub milli_cpus: u64,
    /// Memory of the node, in bytes.
    pub memory: u64,
    /// The Pods, by namespace and name.
    pub pods: Vec<PodInUse>,
}

/// CPU and memory in use; `None` where that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmountsInUse {
    /// CPU time per second, in billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Working set, in bytes.
    pub memory: Option<u64>,
}

/// Usage of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInUse {
    /// Namespace.
    pub namespace: String,
    /// Full name.
    pub name: String,
    /// Usage of all of it.
    pub in_use: AmountsInUse,
    /// Its running containers.
    pub containers: Vec<ContainerInUse>,
}

/// Usage of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInUse {
    /// Its name.
    pub name: String,
    /// Its usage.
    pub in_use: AmountsInUse,
}

/// Returns the report of the selected Pods.
pub(in crate::server) fn top(
    node: &str,
    capacity: &NodeCapacity,
    usage: &Usage,
    is_selected: impl Fn(&PodKey) -> bool,
) -> TopReport {
    let pods = usage.pods.iter().filter(|pod| is_selected(&pod.key));
    let pods = pods.map(|pod| PodInUse {
        namespace: pod.key.namespace.clone(),
        name: pod.key.name.clone(),
        in_use: amounts(pod.cpu.as_ref(), pod.memory.as_ref()),
        containers: (pod.containers.iter())
            .map(|container| ContainerInUse {
                name: container.name.clone(),
                in_use: amounts(container.cpu.as_ref(), container.memory.as_ref()),
            })
            .collect(),
    });
    TopReport {
        node: node.to_owned(),
        in_use: amounts(usage.node.cpu.as_ref(), usage.node.memory.as_ref()),
        milli_cpus: u64::from(capacity.cpus).saturating_mul(1000),
        memory: capacity.memory,
        pods: pods.collect(),
    }
}

fn amounts(cpu: Option<&v1::CpuUsage>, memory: Option<&v1::MemoryUsage>) -> AmountsInUse {
    AmountsInUse {
        nano_cpus: cpu.and_then(|cpu| number(cpu.usage_nano_cores.as_ref())),
        memory: memory.and_then(|memory| number(memory.working_set_bytes.as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_reported_of_the_selected_pods() {
        let usage = Usage::example();
        let capacity = NodeCapacity {
            cpus: 4,
            memory: 1 << 33,
            ..NodeCapacity::default()
        };
        let found = top("n1", &capacity, &usage, |key| key.name == "web-n1");
        assert_eq!((found.milli_cpus, found.memory), (4000, 1 << 33));
        assert_eq!(found.in_use.nano_cpus, Some(100_000_000));
        let [pod] = found.pods.as_slice() else {
            panic!("there is one Pod: {found:?}");
        };
        assert_eq!(pod.in_use.memory, Some(8192));
        assert_eq!(pod.containers[0].in_use.nano_cpus, Some(20_000_000));
        assert_eq!(top("n1", &capacity, &usage, |_| false).pods, []);
    }
}
