//! The node's resources that Pods take, with their sums: admitting a Pod costs the same however many there are.

use std::collections::{BTreeMap, BTreeSet};

use super::{HostPort, PodAllocation};
use crate::manifest::{PodKey, Uid};

/// Allocations of every version of every Pod.
#[derive(Debug, Default)]
pub(super) struct AllocatedResources {
    /// The versions of each Pod that take something: hardly ever more than one.
    by_pod: BTreeMap<PodKey, Vec<(Uid, PodAllocation)>>,
    sums: Sums,
    /// Every host port that is taken, by its number.
    ports: BTreeMap<i32, BTreeSet<(PodKey, Uid, HostPort)>>,
}

/// Sums of requests. No number of requests makes them overflow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) cpu: i128,
    /// The part of the CPU that Pods of the QoS class Burstable request.
    burstable_cpu: i128,
    pub(super) memory: i128,
    pub(super) ephemeral_storage: i128,
    /// By the name of the resource.
    pub(super) huge_pages: BTreeMap<String, i128>,
}

impl Sums {
    fn add(&mut self, of: &PodAllocation) {
        self.change(of, i128::saturating_add);
    }

    fn subtract(&mut self, of: &PodAllocation) {
        self.change(of, i128::saturating_sub);
    }

    fn change(&mut self, of: &PodAllocation, by: fn(i128, i128) -> i128) {
        let requested = &of.requested;
        self.cpu = by(self.cpu, requested.cpu.into());
        if of.burstable {
            self.burstable_cpu = by(self.burstable_cpu, requested.cpu.into());
        }
        self.memory = by(self.memory, requested.memory.into());
        self.ephemeral_storage = by(self.ephemeral_storage, requested.ephemeral_storage.into());
        for (name, bytes) in &requested.huge_pages {
            let sum = self.huge_pages.entry(name.clone()).or_default();
            *sum = by(*sum, (*bytes).into());
        }
        self.huge_pages.retain(|_, bytes| *bytes != 0);
    }
}

impl AllocatedResources {
    /// A version takes this, whatever it took before.
    pub(super) fn insert(&mut self, key: &PodKey, uid: &Uid, allocation: PodAllocation) {
        self.remove(key, uid);
        self.sums.add(&allocation);
        for port in &allocation.ports {
            let of_number = self.ports.entry(port.port).or_default();
            of_number.insert((key.clone(), uid.clone(), port.clone()));
        }
        let versions = self.by_pod.entry(key.clone()).or_default();
        versions.reserve_exact(1);
        versions.push((uid.clone(), allocation));
    }

    /// A version takes nothing any more. False if it took nothing.
    pub(super) fn remove(&mut self, key: &PodKey, uid: &Uid) -> bool {
        let Some(versions) = self.by_pod.get_mut(key) else {
            return false;
        };
        let Some(at) = versions.iter().position(|(taking, _)| taking == uid) else {
            return false;
        };
        let (_, allocation) = versions.swap_remove(at);
        if versions.is_empty() {
            self.by_pod.remove(key);
        }
        self.sums.subtract(&allocation);
        for port in allocation.ports {
            let number = port.port;
            if let Some(of_number) = self.ports.get_mut(&number) {
                of_number.remove(&(key.clone(), uid.clone(), port));
                if of_number.is_empty() {
                    self.ports.remove(&number);
                }
            }
        }
        true
    }

    /// The sums and the number of the Pods other than this one.
    pub(super) fn of_others(&self, key: &PodKey) -> (Sums, usize) {
        let own = self.by_pod.get(key);
        let mut sums = self.sums.clone();
        for (_, allocation) in own.into_iter().flatten() {
            sums.subtract(allocation);
        }
        let pods = self.by_pod.len().saturating_sub(own.iter().count());
        (sums, pods)
    }

    /// The first Pod other than this one that takes a port which clashes with `port`.
    pub(super) fn holder(&self, key: &PodKey, port: &HostPort) -> Option<&PodKey> {
        let of_number = self.ports.get(&port.port).into_iter().flatten();
        let mut others = of_number.filter(|(holder, ..)| holder != key);
        others
            .find(|(.., taken)| taken.clashes(port))
            .map(|(holder, ..)| holder)
    }

    /// The number of versions that take something.
    pub(super) fn versions(&self) -> usize {
        self.by_pod.values().map(Vec::len).sum()
    }

    /// The CPU requests of all burstable Pods, in thousandths.
    pub(super) fn burstable_cpu(&self) -> i64 {
        at_most(self.sums.burstable_cpu)
    }
}

/// A sum as far as a number of the API goes.
pub(super) fn at_most(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::Requested;

    fn key(name: &str) -> PodKey {
        PodKey {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn allocation(amount: i64, port: i32) -> PodAllocation {
        PodAllocation {
            ports: [HostPort {
                port,
                protocol: "TCP".into(),
                address: "0.0.0.0".into(),
            }]
            .into(),
            requested: Requested {
                cpu: amount,
                memory: amount,
                ephemeral_storage: amount,
                huge_pages: [("hugepages-2Mi".to_owned(), amount)].into(),
            },
            burstable: amount % 2 == 0,
        }
    }

    #[test]
    fn nothing_is_left_of_what_was_removed() {
        let mut taken = AllocatedResources::default();
        for version in ["1", "2"] {
            taken.insert(&key("a"), &version.into(), allocation(i64::MAX, 80));
        }
        taken.insert(&key("a"), &"2".into(), allocation(4, 81));
        taken.insert(&key("b"), &"3".into(), allocation(6, 82));
        assert_eq!(taken.burstable_cpu(), 10);
        assert_eq!(taken.of_others(&key("a")).0.memory, 6);
        assert_eq!(taken.of_others(&key("c")).1, 2);
        for (name, version) in [("a", "1"), ("a", "2"), ("b", "3")] {
            assert!(taken.remove(&key(name), &version.into()));
            assert!(!taken.remove(&key(name), &version.into()));
        }
        assert_eq!(taken.sums, Sums::default());
        assert!(taken.by_pod.is_empty() && taken.ports.is_empty());
    }

    #[test]
    fn a_port_that_two_versions_of_a_pod_take_is_free_once_both_are_gone() {
        let mut taken = AllocatedResources::default();
        let wanted = allocation(0, 80).ports.pop_first().unwrap();
        for version in ["1", "2"] {
            taken.insert(&key("a"), &version.into(), allocation(1, 80));
        }
        assert_eq!(taken.holder(&key("a"), &wanted), None, "its own");
        taken.remove(&key("a"), &"1".into());
        assert_eq!(taken.holder(&key("b"), &wanted), Some(&key("a")));
        taken.remove(&key("a"), &"2".into());
        assert_eq!(taken.holder(&key("b"), &wanted), None);
    }
}
