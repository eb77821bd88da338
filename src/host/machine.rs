//! Facts of the machine: memory, CPUs, disk, huge pages, process ids, addresses.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Returns the ID of this boot as the kernel prints it, with a newline; empty where it is unknown.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Returns true if a time, in seconds since 1970, is of an earlier boot. One of the future is too: it was taken from a
/// clock that was ahead, or before this one was set back.
#[must_use]
pub fn is_of_earlier_boot(time: i64) -> bool {
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    let uptime = clock_gettime(ClockId::Boottime).tv_sec;
    is_earlier(time, uptime, now)
}

fn is_earlier(time: i64, uptime: i64, now: i64) -> bool {
    !(now.saturating_sub(uptime)..=now).contains(&time)
}

/// Returns the machine's memory in bytes; 0 where it is unknown.
#[must_use]
pub fn memory_capacity() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    total_memory(&text).unwrap_or(0)
}

fn total_memory(meminfo: &str) -> Option<u64> {
    meminfo_bytes(meminfo, "MemTotal")
}

/// Returns a value of `/proc/meminfo`, in bytes.
#[must_use]
pub fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Process ids of the machine. Each thread takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessIds {
    /// Ids that can be taken at a time: the lower of `kernel.pid_max` and `kernel.threads-max`.
    pub max: u64,
    /// Ids that are taken.
    pub taken: u64,
}

/// Returns the process ids of the machine, if the kernel reports them.
#[must_use]
pub fn process_ids() -> Option<ProcessIds> {
    let limit = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let limits = [limit("pid_max"), limit("threads-max")];
    let max = limits.into_iter().flatten().min()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let taken = tasks(&load)?;
    Some(ProcessIds { max, taken })
}

/// Returns the number of tasks that `/proc/loadavg` has, as in `0.20 0.18 0.12 1/80 11206` (`proc_loadavg(5)`).
fn tasks(loadavg: &str) -> Option<u64> {
    let (_runnable, all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// Returns the number of CPUs that are online, however many of them the agent itself may use.
#[must_use]
pub fn cpus() -> u32 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    count(online.trim()).unwrap_or(1)
}

/// Counts the numbers in a list such as `0-3,5`.
fn count(list: &str) -> Option<u32> {
    let mut numbers = 0_u32;
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        numbers = numbers.checked_add(to.checked_sub(from)?.checked_add(1)?)?;
    }
    Some(numbers)
}

/// Returns the size in bytes of the file system that a folder is on; 0 where it is unknown.
#[must_use]
pub fn disk_capacity(folder: &Path) -> u64 {
    match rustix::fs::statvfs(folder) {
        Ok(disk) => disk.f_blocks.saturating_mul(disk.f_frsize),
        Err(_) => 0,
    }
}

/// Returns the number of huge pages that the kernel has reserved, by their size in KiB.
#[must_use]
pub fn huge_pages() -> BTreeMap<u64, u64> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return BTreeMap::new();
    };
    let pages = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kibibytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let pages = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        Some((kibibytes.parse().ok()?, pages.trim().parse().ok()?))
    };
    entries.flatten().filter_map(pages).collect()
}

/// Returns `true` if `AppArmor` is enabled.
#[must_use]
pub fn has_apparmor() -> bool {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with('Y'))
}

/// Returns `true` if `SELinux` is enabled.
#[must_use]
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Returns the addresses from which the machine would reach others, IPv4 first. Nothing is sent for that.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    // Addresses for documentation: they lead wherever the default route does.
    let ways = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let own = |(from, to): (&str, &str)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified() && !address.is_loopback()).then_some(address)
    };
    ways.into_iter().filter_map(own).collect()
}

/// Returns the same addresses, IPv6 first.
#[must_use]
pub fn addresses_ipv6_first() -> Vec<IpAddr> {
    addresses().into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_of_this_boot_is_of_an_earlier_one() {
        for (time, earlier) in [(99, true), (100, false), (200, false), (201, true)] {
            assert_eq!(is_earlier(time, 100, 200), earlier, "{time}");
        }
        assert!(is_of_earlier_boot(0));
    }

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let text = "MemFree: 1 kB\nMemTotal:       24684084 kB\n";
        assert_eq!(total_memory(text), Some(24_684_084 << 10));
        assert_eq!(total_memory("MemTotal: lots\n"), None);
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        assert_eq!(tasks("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(tasks("0.20 0.18 0.12"), None);
        assert_eq!(count("0-3,5"), Some(5));
        assert_eq!(count("0"), Some(1));
        assert_eq!(count(""), None);
    }
}
