//! Cgroups that systemd manages: slices, which it creates, limits and removes when asked.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use tracing::debug;

use super::{CPU_PERIOD, CgroupLimits, cpu_weight};

/// Folder of drop-ins until the next boot, there where systemd is the init.
const DROP_INS: &str = "/run/systemd/system";
/// Folder of the limits that slices were given (`systemctl set-property --runtime`), which outlive the slice: each version
/// of each Pod would leave one until the next boot.
const RUNTIME_PROPERTIES: &str = "/run/systemd/system.control";
/// Name of ours.
const DROP_IN: &str = "50-podkeeper.conf";
/// Its content. systemd stops slices at the beginning of a shutdown (`systemd.slice(5)`, "Default Dependencies"), and
/// with a slice the scopes in it, that is the containers, whoever is about to stop them in order.
const NO_STOP: &str = "# Written by podkeeper, which stops the containers in this slice before the machine shuts down.\n\
                       [Unit]\nDefaultDependencies=no\n";

/// Has systemd leave a slice and all below it alone when the machine shuts down.
pub(super) fn keep_until_shutdown(path: &str) -> io::Result<()> {
    let folder = Path::new(DROP_INS);
    if !folder.is_dir() || !write_drop_ins(folder, path)? {
        return Ok(());
    }
    // Slices that are loaded from now on have it, and those that a kubelet made had it before.
    let (slice, below) = (slice_name(path), below(path));
    let property = "--property=DefaultDependencies";
    let loaded = systemctl(&["show", property, "--", slice, &format!("{below}*.slice")])?;
    if loaded.lines().any(|line| line.ends_with("=yes")) {
        systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

/// Writes the drop-ins for a slice, those that it is in, and all below it; returns `true` unless all were there.
fn write_drop_ins(folder: &Path, path: &str) -> io::Result<bool> {
    let slices = path.split('/').filter(|slice| !slice.is_empty());
    let below = format!("{}.slice", below(path));
    let mut is_new = false;
    for slice in slices.chain([below.as_str()]) {
        let folder = folder.join(format!("{slice}.d"));
        let file = folder.join(DROP_IN);
        if fs::read_to_string(&file).is_ok_and(|text| text == NO_STOP) {
            continue;
        }
        fs::create_dir_all(&folder)?;
        fs::write(file, NO_STOP)?;
        is_new = true;
    }
    Ok(is_new)
}

/// The beginning of the names of the slices below one, which is a name of drop-ins for all of them too.
fn below(path: &str) -> String {
    let slice = slice_name(path);
    format!("{}-", slice.strip_suffix(".slice").unwrap_or(slice))
}

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
    systemctl(&["start", "--", slice]).map(drop)
}

/// Asks systemd to let go of a cgroup, if it is a slice: systemd creates the folder of a slice that it holds
/// again whenever it reads it. Whatever it leaves is for the caller to remove.
///
/// # Errors
/// systemd holds it still, or does not answer.
pub(super) fn stop_slice(path: &str) -> io::Result<()> {
    let slice = slice_name(path);
    if !is_of_pods(slice) {
        return Ok(());
    }
    if let Err(error) = systemctl(&["stop", "--quiet", "--", slice]) {
        // It fails for one that is not loaded, too.
        let state = systemctl(&["show", "--property=ActiveState", "--value", "--", slice]);
        if !state.is_ok_and(|state| ["inactive", "failed"].contains(&state.trim())) {
            return Err(error);
        }
    }
    // A slice that is not loaded any more needs no reload to forget them.
    let limits = Path::new(RUNTIME_PROPERTIES).join(format!("{slice}.d"));
    match fs::remove_dir_all(&limits) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            debug!(slice, %error, "Failed to remove the limits of a slice");
        }
        _ => {}
    }
    Ok(())
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
    systemctl(&["set-property", "--runtime", "--", slice_name(path), &cpu]).map(drop)
}

/// Returns what systemctl prints.
fn systemctl(arguments: &[&str]) -> io::Result<String> {
    let mut systemctl = Command::new("systemctl");
    let output = systemctl.args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "systemctl {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_pods_and_those_around_them_are_left_alone_at_a_shutdown() {
        let folder = tempfile::tempdir().unwrap();
        let path = "/kubelet.slice/kubelet-kubepods.slice";
        assert!(write_drop_ins(folder.path(), path).unwrap());
        assert!(!write_drop_ins(folder.path(), path).unwrap(), "once a boot");
        let entries = fs::read_dir(folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert_eq!(
            names,
            [
                "kubelet-kubepods-.slice.d",
                "kubelet-kubepods.slice.d",
                "kubelet.slice.d"
            ]
        );
        let file = folder
            .path()
            .join("kubelet-kubepods-.slice.d")
            .join(DROP_IN);
        let text = fs::read_to_string(file).unwrap();
        assert!(
            text.ends_with("\n[Unit]\nDefaultDependencies=no\n"),
            "{text}"
        );
    }
}
