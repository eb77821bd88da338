//! Cgroups that systemd manages: slices, which it creates, limits and removes when asked.

use std::io;
use std::process::{Command, Stdio};

use tracing::debug;

use super::{CPU_PERIOD, CgroupLimits, cpu_weight};

/// Asks systemd to create a slice with these limits and to hold it.
pub(super) fn create_slice(path: &str, unified: bool, limits: &CgroupLimits) -> io::Result<()> {
    let slice = slice_name(path);
    let or_infinity = |value: i64| match value {
        0 => "infinity".to_owned(),
        value => value.to_string(),
    };
    let quota = match limits.cpu_quota {
        0 => String::new(),
        quota => percent(quota),
    };
    let mut properties = vec![
        cpu_property(unified, limits.cpu_shares),
        format!("CPUQuota={quota}"),
        format!("MemoryMax={}", or_infinity(limits.memory)),
    ];
    properties.extend(limits.pids.map(|most| format!("TasksMax={most}")));
    let mut arguments = vec!["set-property", "--runtime", "--", slice];
    arguments.extend(properties.iter().map(String::as_str));
    systemctl(&arguments)?;
    systemctl(&["start", "--", slice])
}

/// Asks systemd to let go of a cgroup, if it is a slice: systemd creates the folder of a slice that it holds
/// again whenever it reads it. Whatever it leaves is for the caller to remove.
pub(super) fn stop_slice(path: &str) {
    let slice = slice_name(path);
    if !is_of_pods(slice) {
        return;
    }
    if let Err(error) = systemctl(&["stop", "--quiet", "--", slice]) {
        debug!(slice, %error, "Failed to stop slice");
    }
}

/// Returns `true` for the slice of all Pods and those in it: no other is ever stopped.
pub(super) fn is_of_pods(slice: &str) -> bool {
    let name = slice.strip_suffix(".slice");
    name.is_some_and(|name| name.split('-').any(|part| part == "kubepods"))
}

/// Returns the name by which systemd knows a slice: the last part of its path.
fn slice_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Writes CPU shares as systemd takes them on the node's hierarchy: it would convert a weight otherwise.
fn cpu_property(unified: bool, shares: i64) -> String {
    if unified {
        format!("CPUWeight={}", cpu_weight(shares))
    } else {
        format!("CPUShares={shares}")
    }
}

/// Writes a quota of each period in percent, with as many digits as systemd takes.
pub(super) fn percent(quota: i64) -> String {
    let hundredths = quota.saturating_mul(10_000).div_euclid(CPU_PERIOD).max(1);
    match hundredths % 100 {
        0 => format!("{}%", hundredths / 100),
        rest => format!("{}.{rest:02}%", hundredths / 100),
    }
}

/// Sets the CPU shares of an existing slice.
pub(super) fn set_shares(path: &str, unified: bool, shares: i64) -> io::Result<()> {
    let cpu = cpu_property(unified, shares);
    systemctl(&["set-property", "--runtime", "--", slice_name(path), &cpu])
}

fn systemctl(arguments: &[&str]) -> io::Result<()> {
    let mut systemctl = Command::new("systemctl");
    let output = systemctl.args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "systemctl {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}
