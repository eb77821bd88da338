//! Network interfaces, from the kernel (`proc_pid_net(5)`, `/proc/net/dev`).

use std::fs;

use crate::cri::v1;

/// Beginnings of the names of interfaces that are none of the machine's: its own loopback, and the near ends of
/// Pods' (cAdvisor leaves these out too).
const IGNORED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];
/// Interfaces that are shown at most: who owns a network makes as many as he likes.
const MAX_INTERFACES: usize = 32;

/// Counters of an interface since it is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct InterfaceCounters {
    pub(super) name: String,
    pub(super) received: DirectionCounters,
    pub(super) transmitted: DirectionCounters,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DirectionCounters {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// Returns the interfaces of the network that a process is in; `self` is the agent's own, the machine's.
pub(super) fn interfaces(process: &str) -> Vec<InterfaceCounters> {
    let table = fs::read_to_string(format!("/proc/{process}/net/dev"));
    parse(&table.unwrap_or_default())
}

fn parse(table: &str) -> Vec<InterfaceCounters> {
    let interface = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let name = name.trim();
        if IGNORED.iter().any(|prefix| name.starts_with(prefix)) {
            return None;
        }
        let numbers = numbers.split_whitespace().map(|n| n.parse().ok());
        let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
        let direction = |first: usize| {
            let [bytes, packets, errors, dropped] = *numbers.get(first..)?.first_chunk::<4>()?;
            Some(DirectionCounters {
                bytes,
                packets,
                errors,
                dropped,
            })
        };
        Some(InterfaceCounters {
            name: name.to_owned(),
            received: direction(0)?,
            transmitted: direction(8)?,
        })
    };
    // Two lines of headings have no numbers.
    let all = table.lines().filter_map(interface);
    all.take(MAX_INTERFACES).collect()
}

/// Returns the usage of the machine's network at a time in nanoseconds since the epoch.
pub(super) fn usage(interfaces: &[InterfaceCounters], time: i64) -> Option<v1::NetworkUsage> {
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let main = default_interface(&routes);
    let interfaces: Vec<_> = interfaces.iter().map(interface_usage).collect();
    let default_interface = interfaces.iter().find(|i| Some(i.name.as_str()) == main);
    let default_interface = default_interface.cloned();
    (!interfaces.is_empty()).then_some(v1::NetworkUsage {
        timestamp: time,
        default_interface,
        interfaces,
    })
}

fn interface_usage(interface: &InterfaceCounters) -> v1::NetworkInterfaceUsage {
    let some = |value| Some(v1::UInt64Value { value });
    v1::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: some(interface.received.bytes),
        rx_errors: some(interface.received.errors),
        tx_bytes: some(interface.transmitted.bytes),
        tx_errors: some(interface.transmitted.errors),
    }
}

/// Returns the interface of the default route in the kernel's table: that of a line whose destination and mask are
/// zero.
fn default_interface(routes: &str) -> Option<&str> {
    let mut lines = routes.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut fields| {
        let (name, destination) = (fields.next()?, fields.next()?);
        let mask = fields.nth(5)?;
        (destination == "00000000" && mask == "00000000").then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
veth12:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
";

    #[test]
    fn the_kernels_counters_are_read_without_those_of_pods() {
        let found = parse(TABLE);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "eth0");
        let received = DirectionCounters {
            bytes: 1000,
            packets: 10,
            errors: 1,
            dropped: 2,
        };
        assert_eq!(found[0].received, received);
        assert_eq!(found[0].transmitted.dropped, 4);
        let many: Vec<String> = (0..1000)
            .map(|n| format!("e{n}: {}", "1 ".repeat(16)))
            .collect();
        assert_eq!(parse(&many.join("\n")).len(), MAX_INTERFACES);
        assert_eq!(parse("eth0: 1 2 3\neth1: x\n\n"), []);
    }

    #[test]
    fn the_default_interface_is_that_of_the_default_route() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      br0\t0000580A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                      eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_interface(routes), Some("eth0"));
        assert_eq!(default_interface("eth0\t00000000\n"), None);
    }
}
