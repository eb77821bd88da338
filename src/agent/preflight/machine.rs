//! Checks of the machine: cgroups, ports, disks, limits of inotify, the clock, name servers, manifests.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};

use super::Preflight;
use crate::config::Config;
use crate::host::cgroup;

const CGROUPS: &str = "cgroups";
const DISK: &str = "disk";
const INOTIFY: &str = "inotify";
const CLOCK: &str = "clock";
const DNS: &str = "dns";
const MANIFESTS: &str = "manifests";
const PORTS: &str = "ports";

/// Controllers without which Pods have no limits.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Free bytes of a disk that are little, and too few.
const LITTLE: u64 = 1 << 30;
const TOO_LITTLE: u64 = 64 << 20;
/// Limits of inotify that leave room for other programs.
const INSTANCES: u64 = 128;
const WATCHES: u64 = 8192;
/// Time before which no clock of a node is right, in seconds since 1970: 1 January 2026.
const EARLIEST: u64 = 1_767_225_600;
/// Name servers that a container has at most (`resolv.conf(5)`).
const MAX_NAME_SERVERS: usize = 3;

pub(super) fn checks(config: &Config, agent_runs: bool) -> Vec<Preflight> {
    let mut checks = vec![cgroups(&config.paths.cgroups)];
    if agent_runs {
        let found = format!("the agent on {} has them", config.run_dir.display());
        checks.push(Preflight::ok(PORTS, found));
    } else {
        checks.push(ports(&[config.ports.healthz, config.ports.read_only]));
    }
    for (what, folder) in [
        ("root directory", &config.paths.root),
        ("logs", &config.paths.logs),
    ] {
        checks.push(disk(what, folder));
    }
    checks.push(inotify(Path::new("/proc/sys/fs/inotify")));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    checks.push(clock(now.map_or(0, |now| now.as_secs())));
    checks.push(dns(config.resolv_conf.as_deref()));
    if let Some(directory) = &config.sources.directory {
        checks.push(manifests(&directory.path));
    }
    checks
}

fn cgroups(root: &Path) -> Preflight {
    let is_unified = cgroup::is_unified(root);
    let is_there = |controller: &&str| {
        if is_unified {
            let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            all.split_whitespace().any(|known| known == *controller)
        } else {
            root.join(controller).is_dir()
        }
    };
    let version = if is_unified { "v2" } else { "v1" };
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|controller| !is_there(controller))
        .collect();
    if missing.is_empty() {
        return Preflight::ok(CGROUPS, version);
    }
    Preflight::error(
        CGROUPS,
        format!(
            "{version} at {} lacks {}: Pods have no limits there",
            root.display(),
            missing.join(", ")
        ),
        "boot with cgroup_enable=memory cgroup_memory=1 on the kernel's command line where memory is missing",
    )
}

/// Checks that nobody else listens on the agent's ports.
fn ports(ports: &[Option<SocketAddr>]) -> Preflight {
    let mut free = vec![];
    for port in ports.iter().flatten() {
        match TcpListener::bind(port) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Preflight::error(
                    PORTS,
                    format!("another program listens on {port}"),
                    "end it (ss -ltnp shows which one), or choose another port with --healthz-port \
                     or --read-only-port",
                );
            }
            Err(error) => {
                let found = format!("cannot listen on {port}: {error}");
                return Preflight::error(PORTS, found, "choose an address of this machine");
            }
            Ok(_) => free.push(port.to_string()),
        }
    }
    match free.as_slice() {
        [] => Preflight::ok(PORTS, "none is asked for"),
        free => Preflight::ok(PORTS, format!("free: {}", free.join(", "))),
    }
}

fn disk(what: &str, folder: &Path) -> Preflight {
    let existing = folder.ancestors().find(|path| path.exists());
    let Some(found) = existing.and_then(|path| statvfs(path).ok()) else {
        let found = format!("cannot read the file system of {}", folder.display());
        return Preflight::error(DISK, found, "mount it");
    };
    let place = format!("{what} {}", folder.display());
    space(&place, &found)
}

fn space(place: &str, found: &StatVfs) -> Preflight {
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let mebibytes = free >> 20;
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let found = format!("{place} is read-only");
        return Preflight::error(DISK, found, "mount it writable; dmesg tells why it is not");
    }
    let little = "remove what is not needed: podkeeper removes unused images above \
                  --image-gc-high-threshold";
    if free < TOO_LITTLE {
        return Preflight::error(DISK, format!("{place} has {mebibytes} MiB left"), little);
    }
    if found.f_files > 0 && found.f_favail == 0 {
        return Preflight::error(DISK, format!("{place} has no inodes left"), little);
    }
    if free < LITTLE {
        return Preflight::warning(DISK, format!("{place} has {mebibytes} MiB left"), little);
    }
    Preflight::ok(DISK, format!("{place} has {mebibytes} MiB left"))
}

fn inotify(folder: &Path) -> Preflight {
    let limit = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let limits = [
        ("max_user_instances", INSTANCES),
        ("max_user_watches", WATCHES),
    ];
    for (name, least) in limits {
        match limit(name) {
            Some(found) if found < least => {
                return Preflight::warning(
                    INOTIFY,
                    format!(
                        "fs.inotify.{name} is {found}: manifests may only be read periodically"
                    ),
                    format!("sysctl -w fs.inotify.{name}={least}"),
                );
            }
            Some(_) => {}
            None => {
                let found = format!("fs.inotify.{name} cannot be read");
                return Preflight::warning(INOTIFY, found, "");
            }
        }
    }
    Preflight::ok(INOTIFY, "its limits are high enough")
}

fn clock(now: u64) -> Preflight {
    let seconds = i64::try_from(now).unwrap_or(i64::MAX);
    let shown =
        jiff::Timestamp::from_second(seconds).map_or_else(|_| now.to_string(), |t| t.to_string());
    if now < EARLIEST {
        return Preflight::error(
            CLOCK,
            format!("it is {shown} here: no certificate of a registry or API server is valid yet"),
            "set it, and keep it right with systemd-timesyncd or chrony",
        );
    }
    Preflight::ok(CLOCK, shown)
}

fn dns(resolv_conf: Option<&Path>) -> Preflight {
    let Some(path) = resolv_conf else {
        let found = "there is no resolver configuration: Pods with the host's DNS have none";
        return Preflight::warning(DNS, found, "name one with --resolv-conf");
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let found = format!("{}: {error}", path.display());
            return Preflight::error(DNS, found, "name another one with --resolv-conf");
        }
    };
    name_servers(path, &text)
}

fn name_servers(path: &Path, text: &str) -> Preflight {
    let servers: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("nameserver")?
                .split_whitespace()
                .next()
        })
        .collect();
    let place = path.display();
    let own = |server: &&&str| server.starts_with("127.") || **server == "::1";
    if let Some(server) = servers.iter().find(own) {
        return Preflight::warning(
            DNS,
            format!("{place} names {server}, which no container reaches"),
            "with systemd-resolved, --resolv-conf=/run/systemd/resolve/resolv.conf",
        );
    }
    match servers.len() {
        0 => Preflight::warning(
            DNS,
            format!("{place} names no server"),
            "add a line: nameserver ADDRESS",
        ),
        count if count > MAX_NAME_SERVERS => Preflight::warning(
            DNS,
            format!("{place} names {count} servers, of which containers use {MAX_NAME_SERVERS}"),
            "",
        ),
        _ => Preflight::ok(DNS, format!("{} of {place}", servers.join(", "))),
    }
}

fn manifests(path: &PathBuf) -> Preflight {
    let place = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Preflight::warning(
                MANIFESTS,
                format!("{place} does not exist"),
                format!("install -d -m 700 {place}"),
            );
        }
        Err(error) => return Preflight::error(MANIFESTS, format!("{place}: {error}"), ""),
    };
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    if owner != 0 || mode & 0o022 != 0 {
        let found = format!(
            "{place} is of user {owner} with mode {mode:04o}: who writes there is root on this node"
        );
        let advice = format!("chown root {place} && chmod go-w {place}");
        return Preflight::warning(MANIFESTS, found, advice);
    }
    Preflight::ok(MANIFESTS, place.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::preflight::CheckState;

    #[test]
    fn controllers_that_are_missing_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for controller in ["cpu", "pids"] {
            fs::create_dir(root.join(controller)).unwrap();
        }
        let found = cgroups(root);
        assert_eq!(found.state, CheckState::Error);
        assert!(
            found.message.contains(" lacks memory:"),
            "{}",
            found.message
        );
        fs::write(
            root.join("cgroup.controllers"),
            "cpuset cpu io memory pids\n",
        )
        .unwrap();
        assert_eq!(cgroups(root), Preflight::ok(CGROUPS, "v2"));
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let found = ports(&[Some(address), None]);
        assert_eq!(found.state, CheckState::Error);
        assert_eq!(
            found.message,
            format!("another program listens on {address}")
        );
        drop(taken);
        assert_eq!(ports(&[Some(address)]).state, CheckState::Ok);
        assert_eq!(ports(&[None, None]).state, CheckState::Ok);
    }

    #[test]
    fn a_disk_is_judged_by_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let of = |change: &dyn Fn(&mut StatVfs)| {
            let mut found = statvfs(folder.path()).unwrap();
            (found.f_frsize, found.f_bavail) = (1 << 20, 4096);
            (found.f_files, found.f_favail) = (100, 50);
            change(&mut found);
            let Preflight { state, message, .. } = space("logs /l", &found);
            (state, message)
        };
        let said = |state, message: &str| (state, message.to_owned());
        let expected = said(CheckState::Ok, "logs /l has 4096 MiB left");
        assert_eq!(of(&|_| {}), expected);
        let expected = said(CheckState::Warning, "logs /l has 1023 MiB left");
        assert_eq!(of(&|found| found.f_bavail = 1023), expected);
        let expected = said(CheckState::Error, "logs /l has 63 MiB left");
        assert_eq!(of(&|found| found.f_bavail = 63), expected);
        let expected = said(CheckState::Error, "logs /l has no inodes left");
        assert_eq!(of(&|found| found.f_favail = 0), expected);
        let expected = said(CheckState::Error, "logs /l is read-only");
        assert_eq!(
            of(&|found| found.f_flag |= StatVfsMountFlags::RDONLY),
            expected
        );
        assert_eq!(of(&|found| found.f_bavail = u64::MAX).0, CheckState::Ok);
    }

    #[test]
    fn limits_of_inotify_that_are_low_come_with_a_command() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("max_user_instances", "128\n");
        assert_eq!(inotify(folder.path()).state, CheckState::Warning);
        write("max_user_watches", "100\n");
        let found = inotify(folder.path());
        assert_eq!(found.advice, "sysctl -w fs.inotify.max_user_watches=8192");
        write("max_user_watches", "8192\n");
        assert_eq!(inotify(folder.path()).state, CheckState::Ok);
    }

    #[test]
    fn a_clock_that_was_never_set_is_an_error() {
        assert_eq!(clock(0).state, CheckState::Error);
        assert_eq!(
            clock(EARLIEST),
            Preflight::ok(CLOCK, "2026-01-01T00:00:00Z")
        );
        assert_eq!(clock(u64::MAX).state, CheckState::Ok);
    }

    #[test]
    fn name_servers_are_those_that_containers_can_use() {
        let of = |text: &str| {
            let Preflight { state, message, .. } = name_servers(Path::new("/r"), text);
            (state, message)
        };
        let said = |state, message: &str| (state, message.to_owned());
        let two = "search x\nnameserver 10.0.0.1\n # nameserver 1.1.1.1\nnameserver fd00::1\n";
        assert_eq!(of(two), said(CheckState::Ok, "10.0.0.1, fd00::1 of /r"));
        assert_eq!(
            of("search x"),
            said(CheckState::Warning, "/r names no server")
        );
        let own = "/r names 127.0.0.53, which no container reaches";
        assert_eq!(of("nameserver 127.0.0.53"), said(CheckState::Warning, own));
        let many = "/r names 4 servers, of which containers use 3";
        assert_eq!(
            of(&"nameserver 10.0.0.1\n".repeat(4)),
            said(CheckState::Warning, many)
        );
    }

    #[test]
    fn a_manifest_directory_that_others_write_to_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifests");
        assert_eq!(manifests(&path).state, CheckState::Warning);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let found = manifests(&path);
        assert_eq!(found.state, CheckState::Warning);
        assert!(
            found.message.contains("with mode 0777"),
            "{}",
            found.message
        );
    }
}
